#include "planner/engines/zeroplan_storages.h"

#include <algorithm>

namespace zeroplan::ours {
namespace {

std::int64_t times(std::int64_t a, std::int64_t b) { return checked_multiply(a, b); }

struct Row {
  std::string_view name, why;
  Category category;
  UnitKind unit;
  bool per_block;
  std::int64_t bytes;
};

constexpr std::string_view kUnitNames[3][7] = {
    {"embedding.parameters", "embedding.gathered", "embedding.gradients", "embedding.gradient_shard", "embedding.master", "embedding.moment1", "embedding.moment2"},
    {"block.parameters", "block.gathered", "block.gradients", "block.gradient_shard", "block.master", "block.moment1", "block.moment2"},
    {"head.parameters", "head.gathered", "head.gradients", "head.gradient_shard", "head.master", "head.moment1", "head.moment2"}};

void add_unit_storages(std::vector<Storage>& out, const Question& question) {
  const Job& job = question.job;
  const int stage = static_cast<int>(question.plan.stage);
  const std::int64_t ranks = question.cluster.world_size();
  const std::int64_t b = size_of(job.compute_dtype), g = size_of(job.gradient_dtype);
  const std::string_view why[7] = {stage == 3 ? "own shard of the parameters, between uses" : "parameters, whole on every rank",
                                   "gathered whole for the unit's compute, released after it",
                                   stage >= 2 ? "the unit's whole gradient, until it is reduced" : "whole gradients, accumulated over micro batches",
                                   "own shard of the summed gradient, until the step",
                                   "fp32 master copy that the optimizer updates", "AdamW first moment", "AdamW second moment"};
  const Category category[7] = {Category::parameters, Category::gathered_parameters, Category::gradients, Category::gradients,
                                Category::optimizer, Category::optimizer, Category::optimizer};
  for (int family = 0; family < 7; ++family)
    for (UnitKind kind : {UnitKind::embedding, UnitKind::block, UnitKind::head}) {
      const std::int64_t full = padded_unit_elems(job.model, kind, ranks), shard = full / ranks;
      const std::int64_t states = stage == 0 ? full : shard;
      const std::int64_t bytes[7] = {times(stage == 3 ? shard : full, b), stage == 3 ? times(full, b) : 0, times(full, g), stage >= 2 ? times(shard, g) : 0,
                                     job.has_master() ? times(states, 4) : 0, times(states, 4), times(states, 4)};
      out.push_back({kUnitNames[static_cast<int>(kind)][family], why[family], category[family], kind, MemoryKind::device, kind == UnitKind::block, Bytes(bytes[family])});
    }
}

}  // namespace

std::vector<Storage> storages_of(const Question& question) {
  const Job& job = question.job;
  const Model& m = job.model;
  const std::int64_t T = question.tokens_per_micro_batch(), b = size_of(job.compute_dtype);
  const std::int64_t H = m.hidden_size, Q = m.query_dim(), QKV = m.qkv_dim(), F = m.intermediate_size;
  const std::int64_t chunk = std::min(question.plan.loss_chunk_tokens, T);
  const std::int64_t qk = m.qk_norm ? Q + m.kv_dim() : 0, qk_heads = m.qk_norm ? m.num_heads + m.num_kv_heads : 0;
  const auto bT = [&](std::int64_t width) { return times(times(b, T), width); };
  const auto fp32T = [&](std::int64_t width) { return times(times(4, T), width); };

  std::vector<Storage> out;
  out.reserve(kCount);
  const auto add = [&](const Row& row) { out.push_back({row.name, row.why, row.category, row.unit, MemoryKind::device, row.per_block, Bytes(row.bytes)}); };
  using enum Category;
  using enum UnitKind;
  add({"tokens", "input of the embedding, and of its backward", activations, embedding, false, fp32T(1)});
  add({"targets", "what the loss compares with", activations, head, false, fp32T(1)});
  add({"rope_table", "cosines and sines of every position", activations, block, false, times(times(job.seq, m.head_dim), 4)});
  add({"scalars", "loss, squared gradient norm and clip coefficient", communication_buffers, head, false, kScalarCount * 8});
  add_unit_storages(out, question);
  add({"block.x", "block input: the checkpoint that everything else can be recomputed from", activations, block, true, bT(H)});
  add({"block.attention_rstd", "1/rms of the attention norm, saved for its backward", activations, block, true, fp32T(1)});
  add({"block.qkv", m.qk_norm ? "queries, keys and values before q/k norm, saved for its backward" : "queries, keys (after rope) and values, saved for attention's backward",
       activations, block, true, bT(QKV)});
  add({"block.qk", "normed and rotated queries and keys, for attention", activations, block, true, bT(qk)});
  add({"block.qk_rstd", "1/rms of every query and key head, saved for q/k norm's backward", activations, block, true, fp32T(qk_heads)});
  add({"block.attention_out", "attention output, saved for its backward and the output projection's", activations, block, true, bT(Q)});
  add({"block.lse", "log-sum-exp of attention, saved for its backward", activations, block, true, fp32T(m.num_heads)});
  add({"block.residual", "x + attention, saved for the ffn norm's backward", activations, block, true, bT(H)});
  add({"block.ffn_rstd", "1/rms of the ffn norm, saved for its backward", activations, block, true, fp32T(1)});
  add({"block.gate_up", "gate and up, saved for swiglu's backward; becomes their gradient", activations, block, true, bT(2 * F)});
  add({"block.attention_normed", "normed input of the qkv projection", activations, block, false, bT(H)});
  add({"block.ffn_normed", "normed input of the ffn", activations, block, false, bT(H)});
  add({"block.act", "silu(gate)·up, input of the down projection", activations, block, false, bT(F)});
  add({"block.attention_normed_again", "normed input again, for the qkv weight's gradient", activations, block, false, bT(H)});
  add({"block.ffn_normed_again", "normed input again, for the gate and up weights' gradient", activations, block, false, bT(H)});
  add({"block.ffn_gradient", "gradient of silu(gate)·up; becomes silu(gate)·up for the down weight's gradient", activations, block, false, bT(F)});
  add({"block.normed_gradient", "gradient of a normed input", activations, block, false, bT(H)});
  add({"block.attention_out_gradient", "gradient of attention's output", activations, block, false, bT(Q)});
  add({"block.qkv_gradient", "gradient of queries, keys and values", activations, block, false, bT(QKV)});
  add({"gradient_stream", "the gradient that flows back through the residual stream; in the head first its normed input", activations, head, false, bT(H)});
  add({"head.rstd", "1/rms of the final norm", activations, head, false, fp32T(1)});
  add({"head.logits", "logits of one chunk of tokens; become their own gradient", logits_and_loss, head, false, times(times(b, chunk), m.vocab_size)});
  add({"head.losses", "loss of every token", logits_and_loss, head, false, fp32T(1)});
  return out;
}

}  // namespace zeroplan::ours
