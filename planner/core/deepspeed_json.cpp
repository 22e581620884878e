// DeepSpeed JSON files. The form first (trailing commas out, duplicate keys refused), then the top level key by key; zero_optimization is set_deepspeed_keys's.
#include "planner/core/deepspeed_json.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/json_fields.h"
#include "planner/core/nearest.h"
#include "planner/core/readers.h"

namespace zeroplan {

namespace {

using nlohmann::json;

// ---- form ----

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/// The text with every comma before a closing bracket replaced by a space (places stay), and how many there were.
struct Uncommaed {
  std::string text;
  std::int64_t commas = 0;
};
Uncommaed without_trailing_commas(std::string_view text) {
  Uncommaed out{std::string(text), 0};
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') ++i;
    else if (c == '"') in_string = !in_string;
    if (in_string || c != ',') continue;
    std::size_t next = i + 1;
    while (next < text.size() && is_space(text[next])) ++next;
    if (next == text.size() || (text[next] != '}' && text[next] != ']')) continue;
    out.text[i] = ' ';
    ++out.commas;
  }
  return out;
}

/// Parses and refuses a key that stands twice in one object, as DeepSpeed does.
json parse_once(const std::string& text, const std::string& file) {
  if (const auto place = find_too_deep(text)) throw InputError(file, *place, "nests too deep", "Is it a DeepSpeed JSON file?");
  std::vector<std::set<std::string>> open;
  const auto see = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) open.emplace_back();
    if (event == json::parse_event_t::object_end) open.pop_back();
    if (event == json::parse_event_t::key && !open.back().insert(value.get<std::string>()).second)
      throw InputError(file, value.get<std::string>(), "stands twice in one object: DeepSpeed refuses it", "");
    return true;
  };
  try {
    return json::parse(text, see);
  } catch (const json::exception& error) {
    throw InputError(file, "", fmt::format("is no JSON: {}", error.what()), "");
  }
}

// ---- top level ----

constexpr std::array<std::string_view, 3> kBatchKeys{"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"};

/// Keys of set_deepspeed_keys that may stand at the top of a file.
constexpr std::array<std::string_view, 9> kSettings{"zero_optimization", "bf16", "bfloat16", "fp16", "data_types", "communication_data_type", "seq_parallel_communication_data_type",
                                                    "gradient_clipping", "torch_autocast"};

/// Read by DeepSpeed; neither memory nor time depends on them (or a note says so).
constexpr std::array<std::string_view, 34> kHarmless{
    "steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "prescale_gradients", "gradient_predivide_factor", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer", "dataloader_drop_last", "disable_allgather", "scheduler", "tensorboard", "wandb", "comet", "csv_monitor", "flops_profiler", "comms_logger", "checkpoint",
    "aio", "log_level", "elasticity", "autotuning", "curriculum_learning", "data_efficiency", "monitor_config", "timers", "use_node_local_storage", "nebula", "graph_harvesting",
    "disable_python_gc", "managed_gradient_accumulation", "gradient_allreduce_op", "use_data_before_expert_parallelism", "vocabulary_size"};

class TopReader {
 public:
  TopReader(Question& question, const JsonFields& top, std::vector<DeepSpeedNote>& notes) : question_(question), top_(top), notes_(notes) {}

  void read() {
    refuse_both_precisions();
    read_settings();
    read_optimizer();
    read_checkpointing();
    read_batches();
    for (const auto& [key, value] : top_.raw().items()) read_rest(key, value);
  }

 private:
  void note(DeepSpeedNoteCode code, std::string_view key, std::string text) { notes_.push_back({code, top_.pointer_to(key), std::move(text)}); }
  bool is_xtuner() const { return question_.plan.tool == "xtuner"; }
  bool fills_auto() const { return is_xtuner() || tool_resolves_auto(question_.plan.tool); }

  static bool is_on(const JsonFields& top, std::string_view key) {
    if (!top.has(key)) return false;
    const JsonFields section = top.object(key);
    return section.has("enabled") && section.at("enabled") == true;
  }

  void refuse_both_precisions() const {
    if (is_on(top_, "fp16") && (is_on(top_, "bf16") || is_on(top_, "bfloat16"))) top_.fail("fp16", "is enabled beside bf16: DeepSpeed refuses it", "Keep one");
  }

  /// In a fixed order, zero_optimization first: dtypes after it see its switches.
  void read_settings() {
    for (const std::string_view key : kSettings) {
      if (!top_.has(key)) continue;
      if (key == "gradient_clipping" && is_xtuner()) {
        if (top_.at(key) != "auto") note(DeepSpeedNoteCode::overwritten, key, "XTuner writes clip_grad.max_norm over it");
        continue;
      }
      if (key == "gradient_clipping" && top_.at(key) == "auto" && !fills_auto()) top_.fail(key, "\"auto\" is filled in by a tool, DeepSpeed alone fails on it in the first step", "Give a number, or set tool");
      const json one{{std::string(key), top_.at(key)}};
      set_deepspeed_keys(question_, one, top_.file(), "", false, notes_);
    }
  }

  void read_optimizer() {
    if (!top_.has("optimizer")) return;
    const JsonFields optimizer = top_.object("optimizer");
    if (!optimizer.has("type")) return;
    std::string type = optimizer.text("type");
    std::transform(type.begin(), type.end(), type.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (type == "adamw" || type == "adam") {
      question_.job.optimizer = type == "adamw" ? Optimizer::adamw : Optimizer::adam;
      // DeepSpeed's own Adam: FusedAdam on the device, DeepSpeedCPUAdam with the optimizer offloaded.
      question_.plan.optimizer_kernel = question_.plan.offload_optimizer == Offload::none ? OptimizerKernel::fused : OptimizerKernel::cpu;
    } else if (type == "sgd" || type == "lion" || type == "muon") {
      question_.job.optimizer = type == "sgd" ? Optimizer::sgd : type == "lion" ? Optimizer::lion : Optimizer::muon;
    } else {
      optimizer.fail("type", fmt::format("{} is not modelled", describe(optimizer.at("type"))), "Modelled: AdamW, Adam, SGD, Lion, Muon");
    }
    if (optimizer.has("params")) read_optimizer_parameters(optimizer.object("params"));
  }

  void read_optimizer_parameters(const JsonFields& params) {
    constexpr std::array<std::string_view, 9> kKnown{"lr", "betas", "eps", "weight_decay", "torch_adam", "adam_w_mode", "bias_correction", "amsgrad", "momentum"};
    for (const auto& [key, unused] : params.raw().items())
      if (std::find(kKnown.begin(), kKnown.end(), key) == kKnown.end())
        notes_.push_back({DeepSpeedNoteCode::unknown_key, params.pointer_to(key), "is no parameter of the optimizer: DeepSpeed accepts it in silence"});
  }

  void read_checkpointing() {
    if (!top_.has("activation_checkpointing")) return;
    const JsonFields section = top_.object("activation_checkpointing");
    constexpr std::array<std::string_view, 6> kKnown{"partition_activations", "cpu_checkpointing",  "contiguous_memory_optimization", "number_checkpoints",
                                                     "synchronize_checkpoint_boundary", "profile"};
    for (const auto& [key, value] : section.raw().items()) {
      const bool known = std::find(kKnown.begin(), kKnown.end(), key) != kKnown.end();
      if (!known) notes_.push_back({DeepSpeedNoteCode::unknown_key, section.pointer_to(key), "is not known: DeepSpeed accepts it in silence"});
      else if (value == true)
        notes_.push_back({DeepSpeedNoteCode::no_effect, section.pointer_to(key), "works on DeepSpeed's own checkpoint function only; models of transformers do not call it"});
    }
  }

  /// A batch key's number; nullopt where it is absent or a tool fills it in.
  std::optional<std::int64_t> batch(std::string_view key) {
    if (!top_.has(key)) return std::nullopt;
    if (top_.at(key) == "auto") {
      if (!fills_auto()) top_.fail(key, "\"auto\" is filled in by a tool, DeepSpeed refuses it", "Give a number, or set tool");
      return std::nullopt;
    }
    const std::int64_t value = top_.integer(key, {1, std::int64_t{1} << 40});
    if (!is_xtuner()) return value;
    note(DeepSpeedNoteCode::overwritten, key, "XTuner writes the configuration's own value over it");
    return std::nullopt;
  }

  void read_batches() {
    const std::int64_t ranks = std::max<std::int64_t>(1, question_.cluster.world_size() / question_.job.sequence_parallel);
    std::optional<std::int64_t> total = batch(kBatchKeys[0]), micro = batch(kBatchKeys[1]), accumulate = batch(kBatchKeys[2]);
    const bool any_key = top_.has(kBatchKeys[0]) || top_.has(kBatchKeys[1]);
    if (!any_key && !fills_auto()) top_.fail(kBatchKeys[1], "is missing, and train_batch_size too: DeepSpeed refuses it", "Give one of them");
    if (fills_auto()) {  // what the tool fills in is the question's
      if (!micro) micro = question_.plan.micro_batch;
      if (!accumulate) accumulate = question_.plan.accumulate;
    }
    if (!micro && !accumulate && total) accumulate = 1;
    if (!micro && total) micro = divided(*total, ranks * accumulate.value_or(1));
    if (!micro) micro = question_.plan.micro_batch;
    if (!accumulate) accumulate = total ? divided(*total, checked_multiply(*micro, ranks)) : 1;
    if (total && checked_multiply(checked_multiply(*micro, *accumulate), ranks) != *total)
      top_.fail(kBatchKeys[0], fmt::format("{} is not micro batch {} × accumulation {} × {} ranks: DeepSpeed refuses it", *total, *micro, *accumulate, ranks), "");
    question_.plan.micro_batch = *micro;
    question_.plan.accumulate = *accumulate;
  }

  std::int64_t divided(std::int64_t total, std::int64_t by) const {
    if (total % by != 0 || total < by) top_.fail(kBatchKeys[0], fmt::format("{} is not a multiple of {}: DeepSpeed refuses it", total, by), "");
    return total / by;
  }

  void read_rest(const std::string& key, const json& value) {
    const auto is_one_of = [&](const auto& keys) { return std::find(keys.begin(), keys.end(), key) != keys.end(); };
    if (is_one_of(kBatchKeys) || is_one_of(kSettings) || is_one_of(kHarmless) || key == "optimizer" || key == "activation_checkpointing") return;
    if (key == "compile") {
      question_.plan.deepspeed.deepcompile = value.is_object() && value.value("deepcompile", json(false)) == true;
      return;
    }
    if (key == "sequence_parallel_size") {
      question_.job.sequence_parallel = top_.integer(key, {1, 1 << 20});
      return;
    }
    constexpr std::array<std::string_view, 7> kOther{"tensor_parallel", "pipeline", "hybrid_engine", "compression_training", "sparse_attention", "expert_parallel", "amp"};
    if (is_one_of(kOther)) return note(DeepSpeedNoteCode::not_modelled, key, "is not modelled; the answer is without it");
    std::vector<std::string_view> known(kBatchKeys.begin(), kBatchKeys.end());
    known.insert(known.end(), kSettings.begin(), kSettings.end());
    known.insert(known.end(), kHarmless.begin(), kHarmless.end());
    const std::string near = did_you_mean(known, key);
    note(DeepSpeedNoteCode::unknown_key, key, fmt::format("is not known: DeepSpeed accepts it in silence and does nothing{}{}", near.empty() ? "" : ". ", near));
  }

  Question& question_;
  const JsonFields& top_;
  std::vector<DeepSpeedNote>& notes_;
};

}  // namespace

std::vector<DeepSpeedNote> apply_deepspeed_json(Question& question, const json& file_json, const std::string& file) {
  const JsonFields top(file_json, file, "");
  Question changed = question;  // a refusal leaves the question as it was
  set_engine(changed, Engine::deepspeed);
  changed.plan.stage = 0;  // DeepSpeed's default where zero_optimization does not say
  std::vector<DeepSpeedNote> notes;
  TopReader(changed, top, notes).read();
  question = std::move(changed);
  return notes;
}

std::vector<DeepSpeedNote> apply_deepspeed_text(Question& question, std::string_view text, const std::string& file) {
  const Uncommaed clean = without_trailing_commas(text);
  std::vector<DeepSpeedNote> notes = apply_deepspeed_json(question, parse_once(clean.text, file), file);
  if (clean.commas > 0) notes.push_back({DeepSpeedNoteCode::trailing_comma, "", fmt::format("{} trailing comma{}: no JSON, but DeepSpeed accepts it", clean.commas, clean.commas == 1 ? "" : "s")});
  return notes;
}

}  // namespace zeroplan
