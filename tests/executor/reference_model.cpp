#include "tests/executor/reference_model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <stdexcept>

namespace zeroplan::testing {
namespace {

using at::Tensor;

struct Leaf {
  std::string name;
  UnitKind unit;
  std::int64_t block, offset_elems;
  Tensor value;
};

// Cuts the flat buffers into the tensors of a Hugging Face checkpoint.
class Leaves {
 public:
  Leaves(const Model& model, const FlatUnits& units, at::ScalarType type) : model_(model), units_(units), type_(type) {}

  /// Rows [first, first + rows) of a parameter as a leaf of its own; vectors are one row in the flat buffer and come as [columns].
  Tensor operator()(const std::string& name, UnitKind unit, std::int64_t block, ParameterId id, std::int64_t first = 0, std::int64_t rows = -1) {
    const Parameter p = parameter(unit, id);
    const bool vector = p.rows == 1;
    if (rows < 0) rows = vector ? p.columns : p.rows;
    const std::int64_t width = vector ? 1 : p.columns, offset_elems = p.offset_elems + first * width;
    const std::vector<float>& flat = units_.of(unit, block);
    Tensor value = at::empty({rows * width}, at::kFloat);
    std::copy_n(flat.begin() + offset_elems, rows * width, value.data_ptr<float>());
    value = (vector ? value : value.view({rows, width})).to(type_).set_requires_grad(true);
    leaves_.push_back({name, unit, block, offset_elems, value});
    return value;
  }

  const std::vector<Leaf>& all() const { return leaves_; }

 private:
  Parameter parameter(UnitKind unit, ParameterId id) const {
    for (const Parameter& p : unit_parameters(model_, unit))
      if (p.id == id) return p;
    throw std::logic_error(fmt::format("the model has no {}", name_of(id)));
  }

  const Model& model_;
  const FlatUnits& units_;
  at::ScalarType type_;
  std::vector<Leaf> leaves_;
};

struct Attention {
  Tensor q, k, v, wqkv;  ///< either q, k, v or wqkv
  Tensor q_bias, k_bias, v_bias, q_norm, k_norm, o;
};

struct Block {
  Tensor input_norm, ffn_norm, gate, up, down;
  Attention attention;
};

Block make_block(const Model& m, Leaves& leaves, std::int64_t i) {
  using enum ParameterId;
  const auto leaf = [&](std::string_view name, ParameterId id, std::int64_t first = 0, std::int64_t rows = -1) {
    return leaves(fmt::format("model.layers.{}.{}", i, name), UnitKind::block, i, id, first, rows);
  };
  const std::int64_t Q = m.query_dim(), KV = m.kv_dim(), F = m.intermediate_size;
  Block b;
  b.input_norm = leaf("input_layernorm.weight", attention_norm);
  if (m.model_type == "internlm2") {
    b.attention.wqkv = leaf("attention.wqkv.weight", qkv);
  } else {
    b.attention.q = leaf("self_attn.q_proj.weight", qkv, 0, Q);
    b.attention.k = leaf("self_attn.k_proj.weight", qkv, Q, KV);
    b.attention.v = leaf("self_attn.v_proj.weight", qkv, Q + KV, KV);
  }
  if (m.qkv_bias) {
    b.attention.q_bias = leaf("self_attn.q_proj.bias", qkv_bias, 0, Q);
    b.attention.k_bias = leaf("self_attn.k_proj.bias", qkv_bias, Q, KV);
    b.attention.v_bias = leaf("self_attn.v_proj.bias", qkv_bias, Q + KV, KV);
  }
  if (m.qk_norm) {
    b.attention.q_norm = leaf("self_attn.q_norm.weight", query_norm);
    b.attention.k_norm = leaf("self_attn.k_norm.weight", key_norm);
  }
  b.attention.o = leaf("self_attn.o_proj.weight", attention_out);
  b.ffn_norm = leaf("post_attention_layernorm.weight", ffn_norm);
  b.gate = leaf("mlp.gate_proj.weight", gate_up, 0, F);
  b.up = leaf("mlp.up_proj.weight", gate_up, F, F);
  b.down = leaf("mlp.down_proj.weight", down);
  return b;
}

Tensor normed_by(const Tensor& x, const Tensor& weight, double eps) { return x * at::rsqrt(x.pow(2).mean(-1, true) + eps) * weight; }

Tensor affine(const Tensor& x, const Tensor& weight, const Tensor& bias = {}) {
  const Tensor out = at::matmul(x, weight.t());
  return bias.defined() ? out + bias : out;
}

// x: [B, heads, S, D].
Tensor rotate(const Tensor& x, double theta) {
  const std::int64_t S = x.size(2), D = x.size(3);
  const auto fp64 = at::TensorOptions().dtype(at::kDouble);
  const Tensor inverse = at::pow(at::scalar_tensor(theta, fp64), at::arange(0, D, 2, fp64) / -static_cast<double>(D));
  const Tensor half = at::outer(at::arange(S, fp64), inverse);
  const Tensor angle = at::cat({half, half}, -1);
  const Tensor rotated = at::cat({-x.slice(-1, D / 2), x.slice(-1, 0, D / 2)}, -1);
  return x * angle.cos().to(x.scalar_type()) + rotated * angle.sin().to(x.scalar_type());
}

struct Heads {
  Tensor q, k, v;  ///< [B, heads, S, D]
};

Heads project(const Model& m, const Attention& a, const Tensor& x) {
  const std::int64_t B = x.size(0), S = x.size(1), D = m.head_dim, group = m.num_heads / m.num_kv_heads;
  const auto split = [&](const Tensor& y, std::int64_t heads) { return y.reshape({B, S, heads, D}).transpose(1, 2); };
  if (!a.wqkv.defined())
    return {split(affine(x, a.q, a.q_bias), m.num_heads), split(affine(x, a.k, a.k_bias), m.num_kv_heads), split(affine(x, a.v, a.v_bias), m.num_kv_heads)};
  const Tensor y = affine(x, a.wqkv).view({B, S, m.num_kv_heads, group + 2, D});  // modeling_internlm2: "b q (h gs d) -> b q h gs d"
  return {split(y.slice(3, 0, group), m.num_heads), split(y.select(3, group), m.num_kv_heads), split(y.select(3, group + 1), m.num_kv_heads)};
}

Tensor attend(const Model& m, const Attention& a, const Tensor& x) {
  const std::int64_t B = x.size(0), S = x.size(1);
  auto [q, k, v] = project(m, a, x);
  if (m.qk_norm) {
    q = normed_by(q, a.q_norm, m.norm_eps);
    k = normed_by(k, a.k_norm, m.norm_eps);
  }
  q = rotate(q, m.rope_theta);
  k = rotate(k, m.rope_theta).repeat_interleave(m.num_heads / m.num_kv_heads, 1);
  v = v.repeat_interleave(m.num_heads / m.num_kv_heads, 1);
  const Tensor future = at::ones({S, S}, at::kBool).triu(1);
  const Tensor scores = (at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(m.head_dim))).masked_fill(future, -INFINITY);
  const Tensor mixed = at::matmul(at::softmax(scores, -1), v).transpose(1, 2).reshape({B, S, m.query_dim()});
  return affine(mixed, a.o);
}

Tensor run_block(const Model& m, const Block& b, const Tensor& x) {
  const Tensor residual = x + attend(m, b.attention, normed_by(x, b.input_norm, m.norm_eps));
  const Tensor normed = normed_by(residual, b.ffn_norm, m.norm_eps);
  return residual + affine(at::silu(affine(normed, b.gate)) * affine(normed, b.up), b.down);
}

struct Whole {
  Tensor embed, norm, head;
  std::vector<Block> blocks;
};

Whole make_model(const Model& m, Leaves& leaves) {
  Whole w;
  w.embed = leaves("model.embed_tokens.weight", UnitKind::embedding, 0, ParameterId::token_embedding);
  for (std::int64_t i = 0; i < m.num_layers; ++i) w.blocks.push_back(make_block(m, leaves, i));
  w.norm = leaves("model.norm.weight", UnitKind::head, 0, ParameterId::final_norm);
  w.head = m.tie_embeddings ? w.embed : leaves("lm_head.weight", UnitKind::head, 0, ParameterId::head_weight);
  return w;
}

Tensor indices(const std::vector<std::int32_t>& values) { return at::tensor(values, at::kInt).to(at::kLong); }

Tensor loss_of(const Model& m, const Whole& w, const ReferenceBatch& batch) {
  Tensor x = at::embedding(w.embed, indices(batch.tokens).view({batch.sequences, batch.seq}));
  for (const Block& block : w.blocks) x = run_block(m, block, x);
  const Tensor logits = affine(normed_by(x, w.norm, m.norm_eps), w.head);
  return at::cross_entropy_loss(logits.view({-1, m.vocab_size}), indices(batch.targets));
}

std::vector<double> values_of(const Tensor& tensor) {
  const Tensor flat = tensor.to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

}  // namespace

std::vector<float>& FlatUnits::of(UnitKind unit, std::int64_t block) {
  switch (unit) {
    case UnitKind::embedding: return embedding;
    case UnitKind::block: return blocks.at(static_cast<std::size_t>(block));
    case UnitKind::head: return head;
  }
  throw std::logic_error("no such unit");
}

FlatUnits zeroed_units(const Model& model) {
  const auto zeros = [&](UnitKind unit) { return std::vector<float>(static_cast<std::size_t>(unit_flat_elems(model, unit))); };
  return {zeros(UnitKind::embedding), std::vector(static_cast<std::size_t>(model.num_layers), zeros(UnitKind::block)), zeros(UnitKind::head)};
}

ReferenceResult reference_step(const Model& model, const FlatUnits& parameters, const std::vector<ReferenceBatch>& batches, ReferencePrecision precision) {
  Leaves leaves(model, parameters, precision == ReferencePrecision::fp64 ? at::kDouble : at::kFloat);
  const Whole whole = make_model(model, leaves);
  Tensor loss;
  for (const ReferenceBatch& batch : batches) {
    const Tensor part = loss_of(model, whole, batch) / static_cast<double>(batches.size());
    loss = loss.defined() ? loss + part : part;
  }
  loss.backward();
  ReferenceResult result{loss.item().toDouble(), {}};
  for (const Leaf& leaf : leaves.all()) result.gradients.push_back({leaf.name, leaf.unit, leaf.block, leaf.offset_elems, values_of(leaf.value.grad())});
  return result;
}

}  // namespace zeroplan::testing
