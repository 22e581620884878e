#include "tests/fuzz/targets.h"

#include <array>
#include <stdexcept>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "gui/models/command_line.h"
#include "gui/models/run_log.h"
#include "planner/core/error.h"
#include "planner/core/json_fields.h"
#include "planner/core/readers.h"
#include "planner/export/export.h"
#include "profiles/catalog.h"
#include "simulator/memory_snapshot.h"
#include "simulator/oom_text.h"
#include "simulator/prediction.h"

namespace zeroplan::fuzz {
namespace {

using nlohmann::json;

constexpr const char* kFile = "fuzzed";

void require(bool holds, const char* promise) {
  if (!holds) throw std::logic_error(promise);
}

/// Runs `what`; false if it was refused as bad input is.
template <class Do>
bool accepts(Do&& what) {
  try {
    what();
    return true;
  } catch (const InputError&) {
  } catch (const UsageError&) {
  } catch (const OverflowError&) {
  }
  return false;
}

// ---- questions that were accepted ----

/// Few enough layers and chunks that a prediction takes milliseconds. Sizes and micro batches may be anything.
bool is_quick(const Question& q) {
  const std::int64_t chunks = q.plan.loss_chunks.value_or(1) + q.tokens_per_micro_batch() / std::max<std::int64_t>(q.plan.loss_chunk_tokens, 1);
  return q.job.model.num_layers <= 4 && chunks <= 256;
}

void check_prediction(const Prediction& p) {
  require(p.must_fit >= Bytes() && p.whole.requested >= Bytes() && p.between_steps_requested >= Bytes(), "bytes are never negative");
  require(p.whole.requested >= p.steady.requested, "the whole run's peak is at least a step's");
  require(p.steady.requested >= p.between_steps_requested, "a step's peak is at least what stays");
  std::int64_t alive = 0;
  for (const std::int64_t bytes : p.by_category) {
    require(bytes >= 0, "no category is negative");
    alive += bytes;
  }
  require(p.question.plan.engine == Engine::zeroplan || Bytes(alive) == p.whole.requested, "categories sum to the peak");
  require(!p.cost || (p.cost->step_s >= 0 && p.cost->mfu_ratio >= 0), "time and rate are numbers");
}

void check_question_goes_on(const Question& question) {
  check_question(question);
  require(plan_from_json(plan_to_json(question), kFile) == question, "a plan survives being written and read");
  for (const ExportTarget target : {ExportTarget::deepspeed, ExportTarget::accelerate, ExportTarget::xtuner})
    accepts([&] { (void)export_to(target, question); });
  if (is_quick(question)) accepts([&] { check_prediction(predict(question)); });
}

Question small_question(std::int64_t stage) {
  Question question = default_question(catalogue_model("smollm2-135m"), cluster_from_name("8xa100-80g"));
  question.job.model.num_layers = question.plan.recomputed_blocks = 2;
  question.job.seq = 64;
  question.plan.stage = stage;
  choose_engine(question, Engine::deepspeed);
  return question;
}

// ---- targets ----

void config(std::string_view bytes) {
  accepts([&] {
    const Model model = model_from_config(parse_json(bytes, kFile), kFile);
    require(model_from_config(config_from_model(model), kFile) == model, "a model survives being written as a config.json");
    require(model_from_zoo_object(zoo_object_from_model(model), kFile).num_layers == model.num_layers, "a model survives being written as an object of the zoo");
    require(parameter_elems(model) > 0 && parameter_elems(model) <= kMostParameters, "parameters are counted");
    require(matmul_parameter_elems(model) <= parameter_elems(model) + model.vocab_size * model.hidden_size, "a token meets no more than there are");
    for (const Engine engine : {Engine::zeroplan, Engine::deepspeed, Engine::fsdp2})
      accepts([&] {
        Question question = default_question(model, cluster_from_name("8xa100-80g"));
        question.job.seq = std::min<std::int64_t>(question.job.seq, 256);
        choose_engine(question, engine);
        check_question_goes_on(question);
      });
  });
}

void deepspeed(std::string_view bytes) {
  for (const std::int64_t stage : {1, 3})
    accepts([&] {
      Question question = small_question(stage);
      (void)apply_deepspeed_text(question, bytes, kFile);
      check_question_goes_on(question);
    });
}

void oom(std::string_view bytes) {
  static const Timeline timeline = timeline_of(small_question(3));
  const auto message = read_oom(bytes);
  if (!message) return;
  for (const auto& size : {message->tried, message->capacity, message->free, message->allocated, message->reserved_unallocated, message->reserved})
    require(!size || (size->bytes >= 0 && size->halfwidth >= 0), "a printed size is a size");
  for (const std::size_t tensor : tried_tensors(timeline, *message->tried)) require(tensor < timeline.tensors.size(), "tensors are the timeline's");
}

void device(std::string_view bytes) {
  const auto ask = [](const Cluster& cluster) {
    Question question = small_question(3);
    question.cluster = cluster;
    check_question_goes_on(question);
    Question ours = default_question(question.job.model, cluster);
    ours.job.seq = 64;
    check_question_goes_on(ours);
  };
  accepts([&] {
    const json parsed = parse_json(bytes, kFile);
    accepts([&] {
      const DeviceProfile profile = device_from_json(parsed, kFile);
      require(device_from_json(device_to_json(profile), kFile) == profile, "a device survives being written");
      Cluster cluster = cluster_from_name("8xa100-80g");
      cluster.device = profile;
      ask(cluster);
    });
    accepts([&] {
      const Cluster cluster = cluster_from_json(parsed, kFile);
      require(cluster_from_json(cluster_to_json(cluster), kFile) == cluster, "a cluster survives being written");
      ask(cluster);
    });
  });
}

void plan(std::string_view bytes) {
  accepts([&] { check_question_goes_on(plan_from_json(parse_json(bytes, kFile), kFile)); });
}

void rows(std::string_view bytes) {
  accepts([&] {
    for (const QuestionRow& row : rows_from_json(parse_json(bytes, kFile), kFile)) check_question_goes_on(row.question);
  });
}

void words(std::string_view bytes) {
  const auto parsed = gui::parse_command_line(bytes);
  if (const auto* error = std::get_if<gui::LineError>(&parsed)) {
    require(error->begin <= error->end && error->end <= bytes.size() && !error->message.empty(), "an error is a place of the text and a sentence");
    return;
  }
  const auto& asked = std::get<gui::Asked>(parsed);
  const auto again = gui::parse_command_line(gui::print_command_line(asked));
  require(std::holds_alternative<gui::Asked>(again) && std::get<gui::Asked>(again) == asked, "a question survives being printed as a command line");
  check_question_goes_on(asked.question);
}

void snapshot(std::string_view bytes) {
  const auto read = [](std::string_view text) { return *read_memory_snapshot(std::span(reinterpret_cast<const unsigned char*>(text.data()), text.size()), kFile); };
  accepts([&] {
    const MemorySnapshot first = read(bytes);
    std::string written;
    write_memory_snapshot(first, [&](std::string_view part) { written += part; });
    const MemorySnapshot second = read(written);
    require(second.segments.size() == first.segments.size() && second.device_traces.size() >= first.device_traces.size(), "a snapshot survives being written");
    for (int d = 0; d < std::min(first.device_count(), 8); ++d) {
      const LiveTimeline live = timeline_of(first, d);
      require(live.peak_bytes >= live.start_bytes && live.peak_bytes >= live.end_bytes, "the peak is the highest");
    }
  });
}

void run_log(std::string_view bytes) {
  gui::RunLog whole, pieces;
  whole.add(bytes);
  pieces.add(bytes.substr(0, bytes.size() / 3));
  pieces.add(bytes.substr(bytes.size() / 3));
  require(whole.steps().size() == pieces.steps().size() && whole.failure() == pieces.failure() && whole.last_line() == pieces.last_line(), "pieces make the same log");
  require(whole.equal_steps() <= whole.steps().size(), "equal steps are steps");
}

constexpr std::array kTargets{Target{"config", "profiles/models", config},       Target{"deepspeed", "", deepspeed}, Target{"oom", "", oom},
                              Target{"device", "profiles/gpus", device},         Target{"plan", "", plan},           Target{"rows", "", rows},
                              Target{"words", "", words},                        Target{"snapshot", "tests/data/memory_snapshots", snapshot},
                              Target{"run_log", "", run_log}};

}  // namespace

std::span<const Target> targets() { return kTargets; }

}  // namespace zeroplan::fuzz
