// Valid but enormous jobs: each engine answers in seconds, or refuses with a sentence.
#include <catch2/catch.hpp>

#include "planner/core/error.h"
#include "profiles/catalog.h"
#include "simulator/prediction.h"
#include "simulator/predictor.h"
#include "simulator/timeline.h"

using namespace zeroplan;

namespace {

Question asked_of(Engine engine, const Model& model, const std::string& cluster) {
  Question question = default_question(model, cluster_from_name(cluster));
  question.plan.stage = engine == Engine::ddp || engine == Engine::single ? 0 : 3;
  choose_engine(question, engine);
  return question;
}

constexpr Engine kSharded[] = {Engine::zeroplan, Engine::deepspeed, Engine::fsdp2, Engine::fsdp1};

/// A prediction whose figures are figures. That it takes no time worth mentioning is ctest's timeout to say: a loop over a million things would not end within it.
Prediction answered(const Question& question) {
  check_question(question);
  Prediction p = predict(question);
  CHECK(p.must_fit > Bytes());
  CHECK(p.whole.requested > Bytes());
  REQUIRE(p.cost);
  CHECK(p.cost->step_s > 0);
  CHECK(p.cost->traffic.all_gather_bytes >= 0);
  CHECK(p.cost->traffic.reduce_scatter_bytes >= 0);
  CHECK(p.cost->traffic.all_reduce_bytes >= 0);
  return p;
}

}  // namespace

TEST_CASE("10^15 parameters on 8 GPUs do not fit, at 16 bytes of states each", "[enormous]") {
  Model model = catalogue_model("llama-3-8b");
  model.hidden_size = 1 << 20;
  model.num_heads = model.num_kv_heads = 8192;
  model.head_dim = 128;
  model.intermediate_size = 1 << 22;
  model.num_layers = 56;
  REQUIRE(parameter_elems(model) > 950'000'000'000'000);
  for (const Engine engine : kSharded) {
    INFO(name_of(engine));
    const Prediction p = answered(asked_of(engine, model, "8xa100-80g"));
    CHECK(p.verdict == Verdict::does_not_fit);
    CHECK(static_cast<double>(p.must_fit.value()) > 11.0 * 950e12 / 8);
  }
}

TEST_CASE("a sequence of 10^7 tokens is answered, with attention written out too", "[enormous]") {
  for (const Engine engine : kSharded) {
    INFO(name_of(engine));
    Question question = asked_of(engine, catalogue_model("llama-3-8b"), "8xa100-80g");
    question.job.seq = 10'000'000;
    CHECK(answered(question).verdict == Verdict::does_not_fit);
  }
  Question eager = asked_of(Engine::single, catalogue_model("llama-3-8b"), "1xa100-80g");
  eager.job.seq = 10'000'000;
  eager.plan.attention = AttentionKernel::eager;
  CHECK(answered(eager).whole.requested.value() > 32 * std::int64_t{2} * 10'000'000 * 10'000'000);  // one tensor of scores
}

TEST_CASE("10^5 GPUs are answered", "[enormous]") {
  for (const Engine engine : {Engine::zeroplan, Engine::deepspeed, Engine::fsdp2, Engine::fsdp1, Engine::ddp}) {
    INFO(name_of(engine));
    (void)answered(asked_of(engine, catalogue_model("llama-3-8b"), "12500x8xa100-80g"));
  }
  Question two = asked_of(Engine::deepspeed, catalogue_model("llama-3-8b"), "12500x8xa100-80g");
  two.plan.stage = 2;
  choose_engine(two, Engine::deepspeed);
  (void)answered(two);
}

TEST_CASE("10^6 micro batches a step are answered, and take 10^6 times what one more takes", "[enormous]") {
  for (const Engine engine : {Engine::zeroplan, Engine::deepspeed, Engine::fsdp2, Engine::fsdp1, Engine::ddp}) {
    INFO(name_of(engine));
    Question question = asked_of(engine, catalogue_model("smollm2-135m"), "8xa100-80g");
    question.plan.accumulate = 1'000'000;
    const Prediction p = answered(question);
    question.plan.accumulate = 500'000;
    CHECK(p.cost->step_s == Approx(2 * answered(question).cost->step_s).epsilon(1e-4));
  }
}

TEST_CASE("as many layers as a model may have are answered, and one more is refused", "[enormous]") {
  Model model = catalogue_model("smollm2-135m");
  model.num_layers = 1024;
  for (const Engine engine : kSharded) {
    INFO(name_of(engine));
    (void)answered(asked_of(engine, model, "8xa100-80g"));
  }
  model.num_layers = 1025;
  CHECK_THROWS_WITH(check_question(asked_of(Engine::zeroplan, model, "8xa100-80g")), Catch::Contains("num_hidden_layers"));
}

TEST_CASE("sizes and times beyond int64 are refused with what to lower, also where several questions are predicted at once", "[enormous]") {
  std::vector<Question> questions;
  Question scores = asked_of(Engine::single, catalogue_model("gpt2"), "1xa100-80g");
  scores.plan.attention = AttentionKernel::eager;
  scores.job.seq = 1 << 24;
  scores.plan.micro_batch = 4096;
  questions.push_back(scores);
  Question years = asked_of(Engine::zeroplan, catalogue_model("llama-3-8b"), "8xa100-80g");
  years.job.seq = 1 << 24;
  years.plan.micro_batch = 1024;
  years.plan.accumulate = 1 << 20;
  questions.push_back(years);
  Predictor predictor;
  predictor.prepare(questions);  // on threads of its own
  for (const Question& question : questions) {
    check_question(question);
    CHECK_THROWS_AS(predictor(question), UsageError);
    CHECK_THROWS_WITH(predict(question), Catch::Contains("Lower micro_batch, seq or accumulate"));
    CHECK_THROWS_WITH(predict_with_timeline(question), Catch::Contains("Lower micro_batch, seq or accumulate"));
  }
}

TEST_CASE("the FLOPs of a step may be more than an int64 holds", "[enormous]") {
  Question question = asked_of(Engine::deepspeed, catalogue_model("llama-3-8b"), "8xa100-80g");
  question.job.model.num_layers = question.plan.recomputed_blocks = 4;
  question.job.seq = 1 << 24;
  question.plan.micro_batch = 8;
  const Prediction p = answered(question);
  const double flops = static_cast<double>(question.tokens_per_micro_batch()) * model_flops_per_token(question.job.model, question.job.seq);
  CHECK(flops > 9.3e18);
  CHECK(p.cost->step_s > flops / question.cluster.device.peak_bf16_flops_per_s);
  CHECK(p.cost->mfu_ratio > 0.1);
  CHECK(p.cost->mfu_ratio < 1);
}
