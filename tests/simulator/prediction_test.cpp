#include "simulator/prediction.h"

#include <catch2/catch.hpp>

#include <random>

#include "planner/engines/eager/recorder.h"
#include "profiles/catalog.h"

using namespace zeroplan;

namespace {

template <typename T>
T pick(std::mt19937_64& random, std::initializer_list<T> values) { return *(values.begin() + static_cast<std::ptrdiff_t>(random() % values.size())); }

/// A small model of one of several families, with settings drawn at random of DeepSpeed to begin with.
Question drawn(std::mt19937_64& random) {
  Model model = catalogue_model(pick<const char*>(random, {"llama-3-8b", "qwen2.5-7b", "gemma-2-2b", "gpt2-xl", "internlm2-20b", "gpt-neox-20b"}));
  model.num_layers = pick<std::int64_t>(random, {2, 3, 5});
  Question q = default_question(model, cluster_from_name(pick<const char*>(random, {"8xa100-80g", "2x8xh100-80g", "3x4xa100-40g"})));
  choose_engine(q, Engine::deepspeed);
  q.job.seq = pick<std::int64_t>(random, {64, 192, 512});
  q.plan.micro_batch = pick<std::int64_t>(random, {1, 3});
  q.plan.accumulate = pick<std::int64_t>(random, {1, 2, 3});
  q.plan.recomputed_blocks = pick<std::int64_t>(random, {0, model.num_layers});
  q.plan.optimizer_kernel = pick(random, {OptimizerKernel::fused, OptimizerKernel::foreach, OptimizerKernel::for_loop});
  return q;
}

Question at(Question q, Engine engine, std::int64_t stage) {
  q.plan.stage = stage;
  choose_engine(q, engine);
  q.plan.deepspeed.reduce_bucket_size = 1000;
  q.plan.deepspeed.stage3_param_persistence_threshold = 0;
  return q;
}

/// Whether every birth has its death but for what is left at the end, and nothing is.
bool is_balanced(const Question& q) {
  eager::Recorder recorder(true);
  emulate(q, recorder);
  return recorder.alive_bytes(eager::Place::device) == 0 && recorder.alive_bytes(eager::Place::host) == 0;
}

}  // namespace

/// States, on eight ranks and more. What stage 3 keeps besides for the whole run may outweigh what it shards: a reduce bucket, a buffer for gradients, small parameters.
TEST_CASE("what persists under DeepSpeed never grows with the stage", "[property]") {
  std::mt19937_64 random(11);
  for (int i = 0; i < 60; ++i) {
    const Question q = drawn(random);
    INFO(plan_to_json(q).dump());
    const Bytes one = predict(at(q, Engine::deepspeed, 1)).between_steps_requested, two = predict(at(q, Engine::deepspeed, 2)).between_steps_requested,
                three = predict(at(q, Engine::deepspeed, 3)).between_steps_requested;
    CHECK(two <= one);
    CHECK(three <= two);
  }
}

TEST_CASE("the same question has the same answer, and every run gives back what it took", "[property]") {
  std::mt19937_64 random(13);
  for (int i = 0; i < 40; ++i) {
    const Question drawn_question = drawn(random);
    for (const Question& q : {at(drawn_question, Engine::deepspeed, 2), at(drawn_question, Engine::deepspeed, 3), at(drawn_question, Engine::fsdp2, 3), at(drawn_question, Engine::ddp, 0)}) {
      INFO(plan_to_json(q).dump());
      const Prediction once = predict(q), again = predict(q);
      CHECK(once.whole.requested == again.whole.requested);
      CHECK(once.whole.reserved == again.whole.reserved);
      CHECK(once.must_fit == again.must_fit);
      CHECK(once.cost->step_s == again.cost->step_s);
      CHECK(is_balanced(q));
    }
  }
}

TEST_CASE("measures are ordered: requested, allocated, active, reserved", "[property]") {
  std::mt19937_64 random(17);
  for (int i = 0; i < 60; ++i) {
    const Question drawn_question = drawn(random);
    const Prediction p = predict(at(drawn_question, i % 2 ? Engine::fsdp2 : Engine::deepspeed, 3));
    INFO(plan_to_json(p.question).dump());
    CHECK(p.whole.requested <= p.whole.allocated);
    CHECK(p.whole.allocated <= p.whole.active);
    CHECK(p.whole.active <= p.whole.reserved);
    CHECK(p.between_steps_requested <= p.whole.requested);
  }
}
