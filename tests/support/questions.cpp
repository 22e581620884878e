#include "tests/support/questions.h"

#include <initializer_list>

#include "profiles/catalog.h"

namespace zeroplan::testing {
namespace {

std::int64_t between(std::mt19937_64& random, std::int64_t low, std::int64_t high) { return std::uniform_int_distribution<std::int64_t>(low, high)(random); }
bool coin(std::mt19937_64& random) { return between(random, 0, 1) == 1; }
std::int64_t one_of(std::mt19937_64& random, std::initializer_list<std::int64_t> values) { return *(values.begin() + between(random, 0, static_cast<std::int64_t>(values.size()) - 1)); }

Model random_model(std::mt19937_64& random) {
  Model m;
  m.name = "random";
  m.model_type = "llama";
  m.num_kv_heads = between(random, 1, 4);
  m.num_heads = m.num_kv_heads * between(random, 1, 4);
  m.head_dim = 2 * between(random, 1, 40);
  m.hidden_size = between(random, 1, 600);
  m.num_layers = between(random, 1, 12);
  m.vocab_size = between(random, 2, 5000);
  m.intermediate_size = between(random, 1, 900);
  m.tie_embeddings = coin(random);
  m.qkv_bias = coin(random);
  m.qk_norm = coin(random);
  m.qkv_layout = coin(random) ? QkvLayout::grouped : QkvLayout::contiguous;
  m.max_position = 1 << 20;
  return m;
}

}  // namespace

Question origin_question(std::int64_t stage) {
  Question question = default_question(catalogue_model("internlm2-20b"), cluster_from_name("8xa100-80g"));
  question.plan.stage = stage;
  return question;
}

Question random_question(std::mt19937_64& random) {
  Question q;
  q.job.model = random_model(random);
  q.job.seq = between(random, 1, 400);
  q.job.compute_dtype = coin(random) ? Dtype::bf16 : Dtype::fp32;
  q.job.gradient_dtype = q.job.compute_dtype == Dtype::bf16 && coin(random) ? Dtype::bf16 : Dtype::fp32;
  q.cluster.name = "random";
  q.cluster.device = catalogue_device(coin(random) ? "cpu" : "h100-80g");
  q.cluster.gpus_per_node = between(random, 1, 9);
  q.cluster.nodes = one_of(random, {1, 1, 2, 3});
  q.cluster.network_bytes_per_s = 4e10;
  q.cluster.network_latency_s = 1e-5;
  Plan& p = q.plan;
  p.stage = between(random, 0, 3);
  p.micro_batch = between(random, 1, 3);
  p.accumulate = one_of(random, {1, 1, 2, 3, 7});
  p.recomputed_blocks = between(random, 0, q.job.model.num_layers);
  p.keep.bits = static_cast<std::uint8_t>(one_of(random, {0, 0, between(random, 0, KeepSet::all().bits)}));
  p.prefetch_units = between(random, 0, 4);
  p.overlap_comm = coin(random);
  p.loss_chunk_tokens = between(random, 1, 500);
  check_question(q);
  return q;
}

}  // namespace zeroplan::testing
