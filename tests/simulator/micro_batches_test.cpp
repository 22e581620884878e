// Equal micro batches and settled steps that are emulated once give the answer of those that are emulated one by one.
#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "planner/core/error.h"
#include "profiles/catalog.h"
#include "simulator/emulated_run.h"
#include "simulator/prediction.h"
#include "simulator/timeline.h"

using namespace zeroplan;

namespace {

Question small(const char* model, Engine engine, std::int64_t stage, std::int64_t accumulate) {
  Question q = default_question(catalogue_model(model), cluster_from_name(engine == Engine::single ? "1xa100-80g" : "8xa100-80g"));
  q.job.model.num_layers = 3;
  q.plan.recomputed_blocks = 3;
  q.job.seq = 512;
  q.plan.stage = stage;
  choose_engine(q, engine);
  q.plan.stage = stage;
  q.plan.accumulate = accumulate;
  return q;
}

/// Random keys; those that an engine does not take are left out.
Question vary(Question q, std::mt19937_64& random) {
  using nlohmann::json;
  const std::vector<std::pair<const char*, std::vector<json>>> keys{
      {"checkpoint", {"none", "full", "blocks-1"}}, {"micro_batch", {1, 2, 3}}, {"optimizer_kernel", {"fused", "foreach", "for-loop"}}, {"expandable_segments", {true}}, {"compute_dtype", {"bf16", "fp16", "fp32"}},
      {"gradient_dtype", {"fp32", "bf16"}}, {"reduce_dtype", {"fp32", "bf16"}}, {"parameters_dtype", {"fp32", "bf16"}}, {"offload_optimizer", {"cpu"}}, {"offload_parameters", {"cpu"}}, {"offload_activations", {"cpu"}},
      {"overlap_comm", {true, false}}, {"tool", {"xtuner", "hf-trainer", "torchtitan"}}, {"loss", {"chunked", "fused"}}, {"train", {"lora-8"}}, {"attention", {"eager", "efficient"}},
      {"reshard", {"always", "never"}}, {"shard_group", {2}}, {"zero_init", {true, false}}, {"optimizer", {"adafactor", "lion", "sgd", "adamw-8bit"}}, {"checkpoint_reentrant", {true, false}}, {"compile", {true}},
      {"deepspeed", {json{{"reduce_bucket_size", 500'000}}, json{{"contiguous_gradients", false}}, json{{"round_robin_gradients", true}}, json{{"stage3_prefetch_bucket_size", 0}},
                     json{{"stage3_max_live_parameters", 1'000'000}}, json{{"reduce_scatter", false}}, json{{"stage3_param_persistence_threshold", 0}}}},
      {"deepspeed_top", {json{{"data_types", {{"grad_accum_dtype", "fp32"}}}}}}};
  for (const auto& [key, values] : keys) {
    if (random() % 3 != 0) continue;
    Question changed = q;
    try {
      set_key(changed, key, values[random() % values.size()], "");
      check_question(changed);
      (void)emulation_gaps(changed);
      q = changed;
    } catch (const std::exception&) {  // not for this engine
    }
  }
  return q;
}

void check_equal(const PhaseMeasures& a, const PhaseMeasures& b) {
  CHECK(a.phase == b.phase);
  CHECK(a.requested == b.requested);
  CHECK(a.allocated == b.allocated);
  CHECK(a.active == b.active);
  CHECK(a.reserved == b.reserved);
  CHECK(a.host_requested == b.host_requested);
}

void check_equal(const Prediction& a, const Prediction& b) {
  REQUIRE(a.phases.size() == b.phases.size());
  for (std::size_t i = 0; i < a.phases.size(); ++i) check_equal(a.phases[i], b.phases[i]);
  check_equal(a.steady, b.steady);
  check_equal(a.whole, b.whole);
  CHECK(a.after_init_requested == b.after_init_requested);
  CHECK(a.between_steps_requested == b.between_steps_requested);
  CHECK(a.between_steps_allocated == b.between_steps_allocated);
  CHECK(a.by_category == b.by_category);
  CHECK(a.peak.phase == b.peak.phase);
  CHECK(a.peak.instruction == b.peak.instruction);
  CHECK(a.peak.unit == b.peak.unit);
  CHECK(a.must_fit == b.must_fit);
  CHECK(a.verdict == b.verdict);
  CHECK(a.cache_emptied == b.cache_emptied);
  CHECK(a.failure.has_value() == b.failure.has_value());
  CHECK(a.host_bytes == b.host_bytes);
  CHECK(a.pinned_bytes == b.pinned_bytes);
  CHECK(a.cost->step_s == b.cost->step_s);
  CHECK(a.cost->traffic == b.cost->traffic);
}

std::string words(const Question& q) { return plan_to_json(q).dump(); }

const std::vector<std::pair<Engine, std::int64_t>> kEngines{{Engine::deepspeed, 1}, {Engine::deepspeed, 2}, {Engine::deepspeed, 3}, {Engine::fsdp1, 3},
                                                            {Engine::fsdp1, 2},     {Engine::fsdp2, 3},     {Engine::fsdp2, 2},     {Engine::ddp, 0},       {Engine::single, 0}};

}  // namespace

TEST_CASE("equal micro batches emulated once answer as if each was emulated", "[property]") {
  std::mt19937_64 random(11);
  int folded = 0, asked = 0;
  for (int round = 0; round < 160; ++round) {
    const auto [engine, stage] = kEngines[static_cast<std::size_t>(round) % kEngines.size()];
    const char* const models[] = {"llama-2-7b", "internlm2-1.8b", "qwen2-0.5b", "gpt2"};
    Question q;
    try {
      q = vary(small(models[random() % 4], engine, stage, 1 + static_cast<std::int64_t>(random() % 12)), random);
      if (random() % 2 == 0) q.cluster.device.capacity_bytes = Bytes(static_cast<std::int64_t>(4 + random() % 12) << 30);  // retries and failures
      INFO(words(q));
      check_equal(predict(q), predict(q, {.every_micro_batch = true, .every_step = true}));
      const std::size_t repeats = timeline_of(q).repeats.size();
      asked += q.plan.accumulate > 5;
      folded += repeats > 0;
    } catch (const UsageError&) {  // a model that the engine does not run
    }
  }
  CHECK(folded >= asked * 9 / 10);
  CHECK(asked > 40);
}

TEST_CASE("a step of many micro batches takes as long as if each was run", "[property]") {
  for (const auto& [engine, stage] : kEngines) {
    INFO(name_of(engine) << " " << stage);
    const Question q = small("llama-2-7b", engine, stage, 60);
    const Prediction folded = predict(q), one_by_one = predict(q, {.every_micro_batch = true, .every_step = true});
    CHECK(folded.cost->step_s == Approx(one_by_one.cost->step_s).epsilon(1e-6));
    CHECK(folded.cost->traffic == one_by_one.cost->traffic);
    CHECK(folded.whole.reserved == one_by_one.whole.reserved);
  }
}

TEST_CASE("a step that has settled stands for the next: the same answer as if both were emulated", "[property]") {
  std::mt19937_64 random(12);
  int settled = 0, asked = 0;
  for (int round = 0; round < 270; ++round) {
    const auto [engine, stage] = kEngines[static_cast<std::size_t>(round) % kEngines.size()];
    const char* const models[] = {"llama-2-7b", "internlm2-1.8b", "qwen2.5-0.5b", "gpt2", "opt-1.3b", "falcon-7b"};
    Question q = vary(small(models[random() % std::size(models)], engine, stage, 1 + static_cast<std::int64_t>(random() % 3)), random);
    if (random() % 2 == 0) q.cluster.device.capacity_bytes = Bytes(static_cast<std::int64_t>(4 + random() % 12) << 30);
    INFO(words(q));
    try {
      settled += EmulatedRun(q, {}).recorder.settled_step().has_value();
      ++asked;
    } catch (const UsageError&) {  // a model that the engine does not run
      continue;
    }
    check_equal(predict(q), predict(q, {.every_step = true}));
  }
  CHECK(asked > 150);
  CHECK(settled >= asked * 9 / 10);
}

TEST_CASE("samples that are not packed ask for as much at the most and take as long, and leave an allocator with blocks of more sizes", "[property]") {
  int keeps_more = 0, asked = 0;
  for (const auto& [engine, stage] : kEngines)
    for (const std::int64_t accumulate : {1, 5, 40}) {
      INFO(name_of(engine) << " " << stage << " accumulate " << accumulate);
      const Question packed = small("qwen2.5-0.5b", engine, stage, accumulate);
      Question unpacked = packed;
      unpacked.job.packed = false;
      const Prediction of_packed = predict(packed), of_unpacked = predict(unpacked), one_by_one = predict(unpacked, {.every_micro_batch = true, .every_step = true});
      REQUIRE(of_unpacked.phases.size() == one_by_one.phases.size());
      for (std::size_t i = 0; i < of_unpacked.phases.size(); ++i) check_equal(of_unpacked.phases[i], one_by_one.phases[i]);
      CHECK(of_unpacked.steady.requested == of_packed.steady.requested);
      CHECK(of_unpacked.whole.requested == of_packed.whole.requested);
      CHECK(of_unpacked.between_steps_requested == of_packed.between_steps_requested);
      CHECK(of_unpacked.cost->step_s == Approx(of_packed.cost->step_s).epsilon(1e-9));
      CHECK(of_unpacked.cost->traffic == of_packed.cost->traffic);
      if (accumulate == 1) CHECK(of_unpacked.phase("first.forward")->requested < of_packed.phase("first.forward")->requested);
      keeps_more += of_unpacked.steady.reserved > of_packed.steady.reserved;
      ++asked;
    }
  CHECK(keeps_more > asked / 2);
}
