// Models: what their units hold and how many parameters that is.
// Every count comes from module_parameters(), the one list of tensors. For a dense model that is, in short,
//   V·E (+ positions) + L·[H·(h + 2k)·D + h·D·H + (3 or 2)·H·F + norms·H (+ biases, + 2·D)] + H (+ V·E untied)
// and a block of experts has H·X + X·3·H·Fm (+ 3·H·Fm·S shared) in the place of the MLP; latent attention is spelled out in add_latent_attention().
#include "planner/core/model.h"

#include <algorithm>

#include <fmt/format.h>

#include "planner/core/error.h"
#include "planner/core/model_families.h"
#include "planner/core/readers.h"
#include "planner/core/units.h"

namespace zeroplan {

namespace {

/// Sums that refuse to wrap.
std::int64_t checked_sum(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  if (__builtin_add_overflow(a, b, &out)) detail::overflow();
  return out;
}

}  // namespace

// ---- units of our own engine ----

std::optional<ModelProblem> find_zeroplan_problem(const Model& model) {
  const auto lacks = [](std::string_view key, const auto& value) { return ModelProblem{key, fmt::format("{}={} is not modelled by the zeroplan engine", key, value)}; };
  if (model.num_experts > 0) return ModelProblem{"num_experts", "a mixture of experts is not modelled"};
  if (model.kv_lora_rank > 0) return ModelProblem{"kv_lora_rank", "multi-head latent attention is not modelled"};
  if (model.vision_params > 0 || model.projector_params > 0) return ModelProblem{"vision", "a vision tower is not modelled; ask for its language model"};
  if (model.norm != NormKind::rmsnorm) return lacks("norm", name_of(model.norm));
  if (model.mlp != MlpKind::swiglu) return lacks("mlp", name_of(model.mlp));
  if (model.position != PositionKind::rope) return lacks("position", name_of(model.position));
  if (model.partial_rotary_factor != 1) return lacks("partial_rotary_factor", model.partial_rotary_factor);
  if (model.attn_out_bias) return lacks("attn_out_bias", true);
  if (model.mlp_bias) return lacks("mlp_bias", true);
  if (model.qk_norm_full) return lacks("qk_norm_full", true);
  if (model.parallel_residual) return lacks("parallel_residual", true);
  if (model.norms_per_layer != 2) return lacks("norms_per_layer", model.norms_per_layer);
  if (model.post_norm) return lacks("post_norm", true);
  if (!model.final_norm) return lacks("final_norm", false);
  if (model.embedding_norm) return lacks("embedding_norm", true);
  if (model.word_embed_proj_dim) return lacks("word_embed_proj_dim", *model.word_embed_proj_dim);
  if (model.full_attention_every > 0) return lacks("full_attention_every", model.full_attention_every);
  if (model.rope_local_theta) return lacks("rope_local_theta", *model.rope_local_theta);
  if (model.attn_logit_softcapping) return lacks("attn_logit_softcapping", *model.attn_logit_softcapping);
  if (model.final_logit_softcapping) return lacks("final_logit_softcapping", *model.final_logit_softcapping);
  return std::nullopt;
}

namespace {

/// Appends parameters at aligned offsets.
class FlatBuffer {
 public:
  void add(ParameterId id, std::int64_t rows, std::int64_t columns) {
    const std::int64_t offset_elems = parameters_.empty() ? 0 : round_up(end_elems_, kParameterAlignment);
    end_elems_ = checked_sum(offset_elems, checked_multiply(rows, columns));
    parameters_.push_back({id, rows, columns, offset_elems});
  }
  std::vector<Parameter> take() { return std::move(parameters_); }

 private:
  std::vector<Parameter> parameters_;
  std::int64_t end_elems_ = 0;
};

std::vector<Parameter> block_parameters(const Model& model) {
  FlatBuffer flat;
  flat.add(ParameterId::attention_norm, 1, model.hidden_size);
  flat.add(ParameterId::qkv, model.qkv_dim(), model.hidden_size);
  if (model.qkv_bias) flat.add(ParameterId::qkv_bias, 1, model.qkv_dim());
  if (model.qk_norm) {
    flat.add(ParameterId::query_norm, 1, model.head_dim);
    flat.add(ParameterId::key_norm, 1, model.head_dim);
  }
  flat.add(ParameterId::attention_out, model.hidden_size, model.query_dim());
  flat.add(ParameterId::ffn_norm, 1, model.hidden_size);
  flat.add(ParameterId::gate_up, checked_multiply(2, model.intermediate_size), model.hidden_size);
  flat.add(ParameterId::down, model.hidden_size, model.intermediate_size);
  return flat.take();
}

}  // namespace

std::vector<Parameter> unit_parameters(const Model& model, UnitKind kind) {
  if (const auto problem = find_zeroplan_problem(model)) throw UsageError(fmt::format("model {}: {}: {}", model.name, problem->key, problem->problem));
  FlatBuffer flat;
  switch (kind) {
    case UnitKind::embedding: flat.add(ParameterId::token_embedding, model.vocab_size, model.hidden_size); break;
    case UnitKind::block: return block_parameters(model);
    case UnitKind::head:
      flat.add(ParameterId::final_norm, 1, model.hidden_size);
      if (!model.tie_embeddings) flat.add(ParameterId::head_weight, model.vocab_size, model.hidden_size);
      break;
  }
  return flat.take();
}

std::int64_t unit_flat_elems(const Model& model, UnitKind kind) {
  const Parameter last = unit_parameters(model, kind).back();
  return last.offset_elems + last.elems();
}

// ---- modules ----

namespace {

class ModuleList {
 public:
  explicit ModuleList(const Model& model) : model_(model) {}

  void tensor(ModuleId id, std::int64_t rows, std::int64_t columns, bool is_bias = false) {
    (void)checked_multiply(rows, columns);
    parameters_.push_back({id, is_bias, rows, columns});
  }
  void linear(ModuleId id, std::int64_t out, std::int64_t in, bool bias) {
    tensor(id, out, in);
    if (bias) tensor(id, 1, out, true);
  }
  void norm(ModuleId id) {
    tensor(id, 1, model_.hidden_size);
    if (model_.norm == NormKind::layernorm && model_.norm_bias) tensor(id, 1, model_.hidden_size, true);
  }
  std::vector<ModuleParameter> take() { return std::move(parameters_); }

 private:
  const Model& model_;
  std::vector<ModuleParameter> parameters_;
};

/// DeepSeek's attention: queries and keys/values through low ranks, rotary parts apart (modeling_deepseek_v3.py).
void add_latent_attention(const Model& m, ModuleList& list) {
  const std::int64_t query_dim = checked_multiply(m.num_heads, m.qk_nope_head_dim + m.qk_rope_head_dim);
  if (m.q_lora_rank > 0) {
    list.tensor(ModuleId::query_down, m.q_lora_rank, m.hidden_size);
    list.tensor(ModuleId::query_down_norm, 1, m.q_lora_rank);
    list.tensor(ModuleId::query_up, query_dim, m.q_lora_rank);
  } else {
    list.tensor(ModuleId::query, query_dim, m.hidden_size);
  }
  list.tensor(ModuleId::key_value_down, m.kv_lora_rank + m.qk_rope_head_dim, m.hidden_size);
  list.tensor(ModuleId::key_value_down_norm, 1, m.kv_lora_rank);
  list.tensor(ModuleId::key_value_up, checked_multiply(m.num_heads, m.qk_nope_head_dim + m.v_head_dim), m.kv_lora_rank);
}

void add_mlp(const Model& m, Piece piece, std::int64_t width, ModuleList& list) {
  const bool fused = piece == Piece::mlp_fused && m.has_gate();
  const std::int64_t H = m.hidden_size;
  if (fused) list.linear(ModuleId::gate_up, checked_multiply(2, width), H, m.mlp_bias);
  if (!fused && m.has_gate()) list.linear(ModuleId::gate, width, H, m.mlp_bias);
  if (piece == Piece::mlp_down_first) list.linear(ModuleId::down, H, width, m.mlp_bias);
  if (!fused) list.linear(ModuleId::up, width, H, m.mlp_bias);
  if (piece != Piece::mlp_down_first) list.linear(ModuleId::down, H, width, m.mlp_bias);
}

/// Router and experts, whose matrices transformers 5 stacks into one tensor each.
void add_experts(const Model& m, ModuleList& list) {
  const std::int64_t H = m.hidden_size, width = m.moe_intermediate_size;
  list.tensor(ModuleId::router, m.num_experts, H);
  if (m.router_bias) list.tensor(ModuleId::router_correction, 1, m.num_experts, true);
  list.tensor(ModuleId::experts_gate_up, checked_multiply(m.num_experts, checked_multiply(2, width)), H);
  list.tensor(ModuleId::experts_down, checked_multiply(m.num_experts, width), H);
  if (m.num_shared_experts == 0) return;
  const std::int64_t shared = checked_multiply(m.num_shared_experts, width);
  list.tensor(ModuleId::shared_gate, shared, H);
  list.tensor(ModuleId::shared_up, shared, H);
  list.tensor(ModuleId::shared_down, H, shared);
}

void add_norms(const Model& m, ModuleList& list) {
  if (m.post_norm) {  // olmo2's names: post_attention_layernorm, post_feedforward_layernorm
    list.norm(ModuleId::post_attention_norm);
    list.norm(ModuleId::post_ffn_norm);
    return;
  }
  constexpr std::array<ModuleId, 4> kNorms{ModuleId::input_norm, ModuleId::post_attention_norm, ModuleId::pre_ffn_norm, ModuleId::post_ffn_norm};
  for (std::size_t i = 0; i < kNorms.size() && static_cast<std::int64_t>(i) < m.norms_per_layer; ++i) list.norm(kNorms[i]);
}

void add_qk_norms(const Model& m, ModuleList& list) {
  if (!m.qk_norm && !m.qk_norm_full) return;
  list.tensor(ModuleId::query_norm, 1, m.qk_norm_full ? m.query_dim() : m.head_dim);
  list.tensor(ModuleId::key_norm, 1, m.qk_norm_full ? m.kv_dim() : m.head_dim);
}

void add_piece(const Model& m, Piece piece, bool dense, ModuleList& list) {
  const std::int64_t H = m.hidden_size;
  switch (piece) {
    case Piece::none: return;
    case Piece::qkv_split:
    case Piece::kvq_split:
      if (m.kv_lora_rank > 0) return add_latent_attention(m, list);
      if (piece == Piece::qkv_split) list.linear(ModuleId::query, m.query_dim(), H, m.qkv_bias);
      list.linear(ModuleId::key, m.kv_dim(), H, m.qkv_bias);
      list.linear(ModuleId::value, m.kv_dim(), H, m.qkv_bias);
      if (piece == Piece::kvq_split) list.linear(ModuleId::query, m.query_dim(), H, m.qkv_bias);
      return;
    case Piece::qkv_fused: return list.linear(ModuleId::qkv, m.qkv_dim(), H, m.qkv_bias);
    case Piece::attention_out:
      return list.linear(ModuleId::attention_out, H, m.kv_lora_rank > 0 ? checked_multiply(m.num_heads, m.v_head_dim) : m.query_dim(), m.attn_out_bias);
    case Piece::qk_norms: return add_qk_norms(m, list);
    case Piece::mlp:
    case Piece::mlp_down_first:
    case Piece::mlp_fused:
      if (m.num_experts > 0 && !dense) return add_experts(m, list);
      return add_mlp(m, piece, m.intermediate_size, list);
    case Piece::norm_1: return list.norm(ModuleId::input_norm);
    case Piece::norm_2: return list.norm(ModuleId::post_attention_norm);
    case Piece::norms: return add_norms(m, list);
  }
}

BlockOrder order_of(const Model& model, ModuleOrder order) {
  if (order == ModuleOrder::llama) return kLlamaOrder;
  if (order == ModuleOrder::torchtitan) return kTorchtitanOrder;
  const Family* family = find_family(model.model_type);
  return family == nullptr ? kLlamaOrder : family->order;
}

/// `dense`: one of the first_k_dense blocks of a mixture of experts.
std::vector<ModuleParameter> block_modules(const Model& model, ModuleOrder order, bool dense) {
  ModuleList list(model);
  const BlockOrder pieces = order_of(model, order);
  for (const Piece piece : pieces) add_piece(model, piece, dense, list);
  // An order without a place for norms on queries and keys (fused projections) has them last.
  if (std::find(pieces.begin(), pieces.end(), Piece::qk_norms) == pieces.end()) add_qk_norms(model, list);
  return list.take();
}

std::int64_t sum_of(const std::vector<ModuleParameter>& parameters) {
  std::int64_t elems = 0;
  for (const ModuleParameter& parameter : parameters) elems = checked_sum(elems, parameter.elems());
  return elems;
}

bool is_expert(ModuleId id) { return id == ModuleId::experts_gate_up || id == ModuleId::experts_down; }

std::int64_t matmul_elems(const Model& model, const std::vector<ModuleParameter>& parameters) {
  std::int64_t elems = 0;
  for (const ModuleParameter& p : parameters) {
    if (!p.is_matrix()) continue;
    elems = checked_sum(elems, is_expert(p.module) ? checked_multiply(p.elems() / model.num_experts, model.experts_per_token) : p.elems());
  }
  return elems;
}

}  // namespace

bool ModuleParameter::is_matrix() const {
  switch (module) {
    case ModuleId::token_embedding:
    case ModuleId::position_embedding:
    case ModuleId::embedding_norm:
    case ModuleId::query_norm:
    case ModuleId::key_norm:
    case ModuleId::query_down_norm:
    case ModuleId::key_value_down_norm:
    case ModuleId::router_correction:
    case ModuleId::input_norm:
    case ModuleId::post_attention_norm:
    case ModuleId::pre_ffn_norm:
    case ModuleId::post_ffn_norm:
    case ModuleId::final_norm: return false;
    default: return !is_bias;
  }
}

std::vector<ModuleParameter> module_parameters(const Model& model, UnitKind kind, ModuleOrder order) {
  ModuleList list(model);
  switch (kind) {
    case UnitKind::embedding:
      list.tensor(ModuleId::token_embedding, model.vocab_size, model.embedding_dim());
      if (model.position == PositionKind::learned) list.tensor(ModuleId::position_embedding, checked_sum(model.max_position, model.position_offset_rows), model.hidden_size);
      if (model.word_embed_proj_dim) list.tensor(ModuleId::project_in, model.hidden_size, *model.word_embed_proj_dim);
      if (model.embedding_norm) list.norm(ModuleId::embedding_norm);
      break;
    case UnitKind::block: return block_modules(model, order, false);
    case UnitKind::head:
      if (model.final_norm) list.norm(ModuleId::final_norm);
      if (model.word_embed_proj_dim) list.tensor(ModuleId::project_out, *model.word_embed_proj_dim, model.hidden_size);
      if (!model.tie_embeddings) list.tensor(ModuleId::head, model.vocab_size, model.embedding_dim());
      break;
  }
  return list.take();
}

std::int64_t unit_parameter_elems(const Model& model, UnitKind kind) { return sum_of(module_parameters(model, kind)); }

std::int64_t parameter_elems(const Model& model) {
  const std::int64_t front = model.num_experts > 0 ? checked_multiply(model.first_k_dense, sum_of(block_modules(model, ModuleOrder::own, true))) : 0;
  const std::int64_t rest = checked_multiply(model.num_experts > 0 ? model.num_layers - model.first_k_dense : model.num_layers, unit_parameter_elems(model, UnitKind::block));
  std::int64_t elems = checked_sum(front, rest);
  elems = checked_sum(elems, unit_parameter_elems(model, UnitKind::embedding));
  elems = checked_sum(elems, unit_parameter_elems(model, UnitKind::head));
  return checked_sum(elems, checked_sum(model.vision_params, model.projector_params));
}

std::int64_t matmul_parameter_elems(const Model& model) {
  std::int64_t elems = checked_multiply(model.num_experts > 0 ? model.num_layers - model.first_k_dense : model.num_layers,
                                        matmul_elems(model, block_modules(model, ModuleOrder::own, false)));
  if (model.num_experts > 0) elems = checked_sum(elems, checked_multiply(model.first_k_dense, matmul_elems(model, block_modules(model, ModuleOrder::own, true))));
  if (model.word_embed_proj_dim) elems = checked_sum(elems, checked_multiply(2, checked_multiply(model.hidden_size, *model.word_embed_proj_dim)));
  return checked_sum(elems, checked_multiply(model.vocab_size, model.embedding_dim()));
}

// ---- checks ----

namespace {

std::optional<SizeProblem> find_size_out_of_range(const Model& model) {
  struct Size {
    std::string_view key;
    std::int64_t value;
    std::int64_t most;
    std::int64_t least = 1;
  };
  const std::array<Size, 19> sizes{{{"hidden_size", model.hidden_size, kLargestSize},
                                    {"num_hidden_layers", model.num_layers, kMostLayers},
                                    {"vocab_size", model.vocab_size, kLargestSize},
                                    {"intermediate_size", model.intermediate_size, kLargestSize},
                                    {"num_attention_heads", model.num_heads, kLargestSize},
                                    {"num_key_value_heads", model.num_kv_heads, kLargestSize},
                                    {"head_dim", model.head_dim, kLargestSize},
                                    {"max_position_embeddings", model.max_position, kLargestSize},
                                    {"norms_per_layer", model.norms_per_layer, 4},
                                    {"word_embed_proj_dim", model.word_embed_proj_dim.value_or(1), kLargestSize},
                                    {"num_experts", model.num_experts, 1 << 20, 0},
                                    {"experts_per_token", model.experts_per_token, model.num_experts, 0},
                                    {"num_shared_experts", model.num_shared_experts, 1 << 20, 0},
                                    {"first_k_dense", model.first_k_dense, model.num_layers, 0},
                                    {"q_lora_rank", model.q_lora_rank, kLargestSize, 0},
                                    {"kv_lora_rank", model.kv_lora_rank, kLargestSize, 0},
                                    {"position_offset_rows", model.position_offset_rows, 1 << 20, 0},
                                    {"vision", model.vision_params, kMostParameters, 0},
                                    {"projector_params", model.projector_params, kMostParameters, 0}}};
  for (const Size& size : sizes)
    if (size.value < size.least || size.value > size.most)
      return SizeProblem{size.key, fmt::format("must be a whole number from {} to {}, got {}", size.least, size.most, size.value)};
  return std::nullopt;
}

std::optional<SizeProblem> find_expert_problem(const Model& model) {
  const auto positive = [](std::string_view key, std::int64_t value) -> std::optional<SizeProblem> {
    if (value >= 1 && value <= kLargestSize) return std::nullopt;
    return SizeProblem{key, fmt::format("must be a whole number from 1 to {}, got {}", kLargestSize, value)};
  };
  if (model.num_experts > 0)
    for (const auto& [key, value] : {std::pair{"moe_intermediate_size", model.moe_intermediate_size}, {"experts_per_token", model.experts_per_token}})
      if (auto problem = positive(key, value)) return problem;
  if (model.kv_lora_rank > 0)
    for (const auto& [key, value] : {std::pair{"qk_nope_head_dim", model.qk_nope_head_dim}, {"qk_rope_head_dim", model.qk_rope_head_dim}, {"v_head_dim", model.v_head_dim}})
      if (auto problem = positive(key, value)) return problem;
  return std::nullopt;
}

}  // namespace

std::optional<SizeProblem> find_size_problem(const Model& model) {
  if (auto problem = find_size_out_of_range(model)) return problem;
  if (auto problem = find_expert_problem(model)) return problem;
  if (model.num_heads % model.num_kv_heads != 0)
    return SizeProblem{"num_key_value_heads", fmt::format("{} does not divide num_attention_heads {}", model.num_kv_heads, model.num_heads)};
  if (model.position == PositionKind::rope && model.head_dim % 2 != 0)
    return SizeProblem{"head_dim", fmt::format("{} is odd: rotary embeddings turn pairs of values", model.head_dim)};
  if (model.num_heads > kLargestSize / model.head_dim)
    return SizeProblem{"num_attention_heads", fmt::format("num_attention_heads × head_dim = {} × {} exceeds {}", model.num_heads, model.head_dim, kLargestSize)};
  try {
    if (parameter_elems(model) > kMostParameters)
      return SizeProblem{"hidden_size", fmt::format("the sizes make {} parameters, more than {}", parameter_elems(model), kMostParameters)};
  } catch (const OverflowError& error) {
    return SizeProblem{"hidden_size", fmt::format("the sizes make too many parameters: {}", error.what())};
  }
  return std::nullopt;
}

}  // namespace zeroplan
