// Fifteen defects that were found in other estimators by running or reading them, each as a question that must be answered right here.
// Letters: P parameters, N ranks.
#include <catch2/catch.hpp>

#include "planner/core/error.h"
#include "profiles/catalog.h"
#include "simulator/prediction.h"

using namespace zeroplan;

namespace {

Question deepspeed(const char* model, const char* cluster, std::int64_t stage) {
  Question q = default_question(catalogue_model(model), cluster_from_name(cluster));
  q.plan.stage = stage;
  choose_engine(q, Engine::deepspeed);
  return q;
}

double between_steps_per_parameter(const Question& q) {
  return static_cast<double>(predict(q).between_steps_requested.value()) / static_cast<double>(parameter_elems(q.job.model));
}

Bytes peak(const Question& q) { return predict(q).whole.requested; }

}  // namespace

TEST_CASE("peers 1: ZeRO-2 keeps 2P bytes whole and 12P/N sharded, as today's code does and not as an old documentation page says", "[peers]") {
  CHECK(between_steps_per_parameter(deepspeed("llama-2-7b", "8xa100-80g", 2)) == Approx(2 + 12.0 / 8).epsilon(1e-4));
}

TEST_CASE("peers 2: ZeRO-3 counts the reduce bucket, prefetched and live parameters, and activations", "[peers]") {
  const Question base = deepspeed("llama-2-7b", "8xa100-80g", 3);
  Question changed = base;
  changed.plan.deepspeed.reduce_bucket_size /= 10;
  CHECK(peak(changed) < peak(base));
  changed = base;
  changed.plan.deepspeed.stage3_prefetch_bucket_size = 0;
  changed.plan.deepspeed.stage3_max_live_parameters = changed.plan.deepspeed.stage3_max_reuse_distance = 0;
  const auto in_forward = [](const Question& q) { return predict(q).phase("steady.forward")->requested; };
  CHECK(in_forward(changed) < in_forward(base));
  changed = base;
  changed.plan.micro_batch = 4;
  CHECK(peak(changed) > peak(base));
}

TEST_CASE("peers 3: fp16 and bf16 have the same states, fp32 has no separate master", "[peers]") {
  Question bf16 = deepspeed("llama-2-7b", "8xa100-80g", 2), fp16 = bf16;
  set_key(fp16, "compute_dtype", "fp16", "test");
  CHECK(between_steps_per_parameter(fp16) == Approx(between_steps_per_parameter(bf16)).epsilon(1e-6));
}

TEST_CASE("peers 4: mixed precision on one GPU takes weights, master copy, moments and gradients together, not the largest of them", "[peers]") {
  const Question q = deepspeed("qwen2.5-1.5b", "1xa100-80g", 2);
  const Prediction p = predict(q);
  const double parameters = static_cast<double>(parameter_elems(q.job.model));
  CHECK(static_cast<double>(p.between_steps_requested.value()) / parameters == Approx(14).epsilon(1e-3));
  CHECK(static_cast<double>(p.whole.requested.value()) / parameters > 20);  // gradients in two dtypes in the optimizer step
}

TEST_CASE("peers 5: shards are divided by the ranks that share them, not by all GPUs", "[peers]") {
  Question q = default_question(catalogue_model("llama-2-7b"), cluster_from_name("8xa100-80g"));
  choose_engine(q, Engine::fsdp2);
  const Bytes whole = predict(q).between_steps_requested;
  q.plan.shard_group = 4;
  const Bytes half = predict(q).between_steps_requested;
  CHECK(static_cast<double>(half.value()) / static_cast<double>(whole.value()) == Approx(2).epsilon(1e-3));
}

TEST_CASE("peers 6: key/value heads and the gated MLP are read from the config", "[peers]") {
  CHECK(parameter_elems(catalogue_model("qwen2.5-72b")) == 72706203648);
  CHECK(parameter_elems(catalogue_model("llama-3.1-8b")) == 8030261248);
}

TEST_CASE("peers 7: a head that is not tied is counted", "[peers]") { CHECK(parameter_elems(catalogue_model("internlm2-20b")) == 19861149696); }

TEST_CASE("peers 8: no micro batch is recommended that does not fit: ZeRO-1 of a 20B model needs more than the GPU at 1", "[peers]") {
  const Prediction p = predict(deepspeed("internlm2-20b", "8xa100-80g", 1));
  CHECK(p.verdict == Verdict::does_not_fit);
  CHECK(p.question.plan.micro_batch == 1);
}

TEST_CASE("peers 9: full recomputation leaves the blocks' inputs, and without it the FFN's width counts", "[peers]") {
  Question recomputed = deepspeed("llama-2-7b", "8xa100-80g", 3), kept = recomputed;
  kept.plan.recomputed_blocks = 0;
  CHECK(peak(recomputed) < peak(kept));
  Question wide = kept;
  wide.job.model.intermediate_size *= 2;
  // Gate, up, their product and silu of every layer, 2 bytes each.
  const std::int64_t least = 4 * 2 * kept.job.model.intermediate_size * kept.job.seq * kept.job.model.num_layers;
  CHECK((peak(wide) - peak(kept)).value() > least);
}

TEST_CASE("peers 10: what a model has beside a dense decoder is not priced as one: every engine refuses it by name", "[peers]") {
  const std::pair<const char*, const char*> models[] = {{"mixtral-8x7b", "mixtures of experts"},  {"qwen3-30b-a3b", "mixtures of experts"}, {"deepseek-v3", "mixtures of experts"},
                                                        {"qwen2-vl-7b", "vision towers"},        {"llava-1.5-7b", "vision towers"},        {"internvl2-8b", "vision towers"}};
  for (const auto& [model, trait] : models)
    for (const Engine engine : {Engine::zeroplan, Engine::deepspeed, Engine::fsdp2, Engine::fsdp1, Engine::ddp}) {
      INFO(model << " " << name_of(engine));
      Question q = default_question(catalogue_model(model), cluster_from_name("8xa100-80g"));
      const auto ask = [&] {
        choose_engine(q, engine);
        check_question(q);
        (void)predict(q);
      };
      if (engine == Engine::zeroplan) CHECK_THROWS_AS(ask(), UsageError);
      else CHECK_THROWS_WITH(ask(), Catch::Contains(trait));
    }
  Question latent = default_question(catalogue_model("deepseek-v2-lite"), cluster_from_name("8xa100-80g"));
  latent.job.model.num_experts = latent.job.model.num_shared_experts = latent.job.model.first_k_dense = 0;
  choose_engine(latent, Engine::deepspeed);
  CHECK_THROWS_WITH(predict(latent), Catch::Contains("latent attention"));
  // They are counted all the same: all experts, and those that a token meets.
  const Model mixtral = catalogue_model("mixtral-8x7b");
  CHECK(parameter_elems(mixtral) == 46'702'792'704);
  CHECK(matmul_parameter_elems(mixtral) < parameter_elems(mixtral) / 3);
}

TEST_CASE("peers 11: gathered parameters are part of ZeRO-3's peak, and logits are counted in fp32 as often as they exist", "[peers]") {
  Question q = deepspeed("llama-3.1-8b", "8xa100-80g", 3);
  q.plan.micro_batch = 2;
  const Prediction p = predict(q);
  CHECK(p.by_category[static_cast<std::size_t>(Category::gathered_parameters)] > 0);
  const std::int64_t fp32_logits = 4 * p.question.tokens_per_micro_batch() * p.question.job.model.vocab_size;
  const auto times = std::count_if(p.alive.begin(), p.alive.end(), [&](const AlivePart& a) { return a.bytes.value() >= fp32_logits && a.category == Category::activations; });
  CHECK(times >= 2);
}

TEST_CASE("peers 12: stages 1 and 2 are answered with and without recomputation, and a chunked loss shortens the tokens, not the vocabulary", "[peers]") {
  for (const std::int64_t stage : {1, 2})
    for (const bool recomputes : {false, true}) {
      Question q = deepspeed("llama-2-7b", "8xa100-80g", stage);
      q.plan.recomputed_blocks = recomputes ? q.job.model.num_layers : 0;
      CHECK(peak(q) > Bytes());
    }
  Question ours = default_question(catalogue_model("llama-3.1-8b"), cluster_from_name("8xa100-80g"));
  ours.plan.loss_chunk_tokens = 2048;
  const Bytes large = peak(ours);
  ours.plan.loss_chunk_tokens = 256;
  CHECK(peak(ours) < large);
}

TEST_CASE("peers 13: embedding and head take memory, and so does the gate of the MLP", "[peers]") {
  Question q = deepspeed("llama-2-7b", "8xa100-80g", 3), more = q;
  more.job.model.vocab_size *= 2;
  const std::int64_t rows = q.job.model.vocab_size * q.job.model.hidden_size;
  CHECK((predict(more).between_steps_requested - predict(q).between_steps_requested).value() >= 2 * rows * 16 / 8);
}

TEST_CASE("peers 14: grouped queries make the model smaller, and checkpointing the step", "[peers]") {
  Model grouped = catalogue_model("internlm2-20b"), full = grouped;
  full.num_kv_heads = full.num_heads;
  CHECK(parameter_elems(full) - parameter_elems(grouped) == 48 * 2 * (48 - 8) * 128 * std::int64_t{6144});
}
