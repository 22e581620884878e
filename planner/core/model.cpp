// Models: what their units hold and how many parameters that is; Hugging Face config.json files and model_zoo.json objects, read and written.
// Every count comes from module_parameters(), the one list of tensors. For a dense model that is, in short,
//   V·E (+ positions) + L·[H·(h + 2k)·D + h·D·H + (3 or 2)·H·F + norms·H (+ biases, + 2·D)] + H (+ V·E untied)
// and a block of experts has H·X + X·3·H·Fm (+ 3·H·Fm·S shared) in the place of the MLP; latent attention is spelled out in add_latent_attention().
// A family is a prototype Model (the traits and the defaults of its configuration class), the spelling of its config.json and the order of its modules.
#include "planner/core/model.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
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

// ---- families ----

namespace {

/// What a block registers, piece by piece. norm_1 and norm_2 are the first and second norm where they stand between the halves; norms: all of them at the end.
enum class Piece : std::uint8_t { none, qkv_split, kvq_split, qkv_fused, attention_out, qk_norms, mlp, mlp_down_first, mlp_fused, norm_1, norm_2, norms };
using BlockOrder = std::array<Piece, 6>;

constexpr BlockOrder kLlamaOrder{Piece::qkv_split, Piece::attention_out, Piece::qk_norms, Piece::mlp, Piece::norms};
constexpr BlockOrder kTorchtitanOrder{Piece::qkv_split, Piece::attention_out, Piece::qk_norms, Piece::mlp_down_first, Piece::norms};
constexpr BlockOrder kOldLlamaOrder = kTorchtitanOrder;  // gate, down, up: transformers of early 2023, copied into remote code
constexpr BlockOrder kInternlm2Order{Piece::qkv_fused, Piece::attention_out, Piece::mlp, Piece::norms};
constexpr BlockOrder kBaichuanOrder{Piece::qkv_fused, Piece::attention_out, Piece::mlp_down_first, Piece::norms};
constexpr BlockOrder kPhi3Order{Piece::attention_out, Piece::qkv_fused, Piece::mlp_fused, Piece::norms};
constexpr BlockOrder kGlmOrder{Piece::qkv_split, Piece::attention_out, Piece::mlp_fused, Piece::norms};
constexpr BlockOrder kChatglmOrder{Piece::norm_1, Piece::qkv_fused, Piece::attention_out, Piece::norm_2, Piece::mlp_fused};
constexpr BlockOrder kGpt2Order{Piece::norm_1, Piece::qkv_fused, Piece::attention_out, Piece::norm_2, Piece::mlp};
constexpr BlockOrder kNeoxOrder{Piece::norms, Piece::qkv_fused, Piece::attention_out, Piece::mlp};
constexpr BlockOrder kOptOrder{Piece::kvq_split, Piece::attention_out, Piece::norm_1, Piece::mlp, Piece::norm_2};
constexpr BlockOrder kFalconOrder{Piece::qkv_fused, Piece::attention_out, Piece::mlp, Piece::norms};

/// Keys of a config.json; alternatives with '|', the first one is named when none is there. Empty: the family has no such key.
struct Spelling {
  std::string_view hidden = "hidden_size";
  std::string_view layers = "num_hidden_layers";
  std::string_view heads = "num_attention_heads";
  std::string_view kv_heads = "num_key_value_heads";
  std::string_view ffn = "intermediate_size";
  std::string_view vocab = "vocab_size";
  std::string_view max_position = "max_position_embeddings";
  std::string_view eps = "rms_norm_eps";
};

struct Family {
  std::string_view model_type;
  std::string_view architectures;  ///< class names with '|'
  std::string_view zoo_names;      ///< families of model_zoo.json that are this one, with '|'
  BlockOrder order;
  Spelling spelling;
  Model defaults;                  ///< head_dim 0: hidden_size / num_attention_heads; intermediate_size 0: must be said; num_kv_heads is not used
  std::int64_t default_ffn_ratio = 0;  ///< intermediate_size where the key is absent, in hidden sizes; 0: it must be there
};

template <class Change>
Model with(Change change) {
  Model model;
  model.norm_eps = 1e-6;
  change(model);
  return model;
}

/// A layer-norm GPT with biases everywhere.
Model gpt(MlpKind mlp, PositionKind position, bool tied) {
  return with([&](Model& m) {
    m.norm = NormKind::layernorm;
    m.mlp = mlp;
    m.position = position;
    m.norm_eps = 1e-5;
    m.qkv_bias = m.attn_out_bias = m.mlp_bias = true;
    m.tie_embeddings = tied;
  });
}

Model gemma(std::int64_t norms_per_layer, std::int64_t max_position) {
  return with([&](Model& m) {
    m.norm = NormKind::rmsnorm_plus_one;
    m.mlp = MlpKind::geglu_tanh;
    m.head_dim = 256;
    m.tie_embeddings = true;
    m.norms_per_layer = norms_per_layer;
    m.max_position = max_position;
  });
}

/// Defaults of transformers 5.24's configuration classes; of remote code where a family has none there.
std::vector<Family> make_families() {
  const Spelling llama;
  const auto rms = [](std::int64_t max_position, auto... changes) {
    return with([&](Model& m) {
      m.max_position = max_position;
      (changes(m), ...);
    });
  };
  const auto qkv_biased = [](Model& m) { m.qkv_bias = true; };
  const auto grouped = [](Model& m) { m.qkv_layout = QkvLayout::grouped; };
  const auto qk_normed = [](Model& m) { m.qk_norm = true; };
  const auto wide_heads = [](Model& m) { m.head_dim = 128; };

  std::vector<Family> all;
  all.push_back({"llama", "LlamaForCausalLM", "llama|yi", kLlamaOrder, llama, rms(2048)});
  all.push_back({"internlm2", "InternLM2ForCausalLM", "internlm2", kInternlm2Order, llama, rms(2048, grouped)});
  all.push_back({"internlm3", "InternLM3ForCausalLM", "internlm3", kLlamaOrder, llama, rms(32768)});
  all.push_back({"qwen2", "Qwen2ForCausalLM", "qwen2", kLlamaOrder, llama, rms(32768, qkv_biased)});
  all.push_back({"qwen3", "Qwen3ForCausalLM", "qwen3", kLlamaOrder, llama, rms(32768, qk_normed, wide_heads)});
  all.push_back({"mistral", "MistralForCausalLM", "mistral", kLlamaOrder, llama, rms(131072)});
  all.push_back({"internlm", "InternLMForCausalLM", "internlm|internlm1", kOldLlamaOrder, llama, rms(2048, qkv_biased, [](Model& m) { m.attn_out_bias = true; })});
  all.push_back({"gemma", "GemmaForCausalLM", "gemma", kLlamaOrder, llama, gemma(2, 8192)});
  Model gemma2 = gemma(4, 8192);
  gemma2.sliding_window = 4096;
  gemma2.full_attention_every = 2;
  gemma2.attn_logit_softcapping = 50.0;
  gemma2.final_logit_softcapping = 30.0;
  all.push_back({"gemma2", "Gemma2ForCausalLM", "gemma2", kLlamaOrder, llama, gemma2});
  Model gemma3 = gemma(4, 131072);
  gemma3.qk_norm = true;
  gemma3.sliding_window = 4096;
  gemma3.full_attention_every = 6;
  gemma3.rope_theta = 1e6;
  gemma3.rope_local_theta = 10000.0;
  all.push_back({"gemma3_text", "Gemma3ForCausalLM", "gemma3|gemma3_text", kLlamaOrder, llama, gemma3});
  all.push_back({"phi3", "Phi3ForCausalLM", "phi3", kPhi3Order, llama, rms(4096, [](Model& m) { m.norm_eps = 1e-5; })});
  all.push_back({"olmo2", "Olmo2ForCausalLM", "olmo2", kLlamaOrder, llama, rms(2048, [](Model& m) {
                   m.norm_eps = 1e-5;
                   m.qk_norm_full = m.post_norm = true;
                 })});
  all.push_back({"baichuan", "BaichuanForCausalLM|BaiChuanForCausalLM", "baichuan", kBaichuanOrder,
                 {.kv_heads = "", .max_position = "max_position_embeddings|model_max_length"}, rms(4096)});
  const auto half_rope = [](Model& m) { m.partial_rotary_factor = 0.5; };
  all.push_back({"chatglm", "ChatGLMModel|ChatGLMForConditionalGeneration", "chatglm", kChatglmOrder,
                 {.layers = "num_layers|num_hidden_layers", .kv_heads = "", .ffn = "ffn_hidden_size|intermediate_size", .vocab = "padded_vocab_size|vocab_size",
                  .max_position = "seq_length|max_position_embeddings", .eps = "layernorm_epsilon"},
                 rms(2048, half_rope, [](Model& m) { m.norm_eps = 1e-5; })});
  all.push_back({"glm", "GlmForCausalLM", "glm", kGlmOrder, llama, rms(131072, half_rope, qkv_biased, wide_heads, [](Model& m) { m.norm_eps = 1.5625e-7; })});

  Model gpt2 = gpt(MlpKind::gelu, PositionKind::learned, true);
  gpt2.max_position = 1024;
  all.push_back({"gpt2", "GPT2LMHeadModel", "gpt2", kGpt2Order,
                 {.hidden = "n_embd|hidden_size", .layers = "n_layer|num_hidden_layers", .heads = "n_head|num_attention_heads", .kv_heads = "", .ffn = "n_inner",
                  .max_position = "n_positions|max_position_embeddings", .eps = "layer_norm_epsilon"}, gpt2, 4});
  Model neox = gpt(MlpKind::gelu, PositionKind::rope, false);
  neox.partial_rotary_factor = 0.25;
  neox.parallel_residual = true;
  neox.qkv_layout = QkvLayout::grouped;
  all.push_back({"gpt_neox", "GPTNeoXForCausalLM", "gpt_neox", kNeoxOrder, {.kv_heads = "", .eps = "layer_norm_eps"}, neox});
  Model opt = gpt(MlpKind::relu, PositionKind::learned, true);
  opt.position_offset_rows = 2;
  all.push_back({"opt", "OPTForCausalLM", "opt", kOptOrder, {.kv_heads = "", .ffn = "ffn_dim", .eps = ""}, opt});
  Model bloom = gpt(MlpKind::gelu, PositionKind::alibi, true);
  bloom.embedding_norm = true;
  bloom.qkv_layout = QkvLayout::grouped;
  all.push_back({"bloom", "BloomForCausalLM", "bloom", kGpt2Order,
                 {.hidden = "hidden_size|n_embed", .layers = "n_layer|num_hidden_layers", .heads = "n_head|num_attention_heads", .kv_heads = "", .ffn = "",
                  .max_position = "seq_length", .eps = "layer_norm_epsilon"}, bloom, 4});
  Model falcon = gpt(MlpKind::gelu, PositionKind::rope, true);
  falcon.qkv_bias = falcon.attn_out_bias = falcon.mlp_bias = false;
  falcon.parallel_residual = true;
  falcon.norms_per_layer = 1;
  falcon.qkv_layout = QkvLayout::grouped;
  all.push_back({"falcon", "FalconForCausalLM|RWForCausalLM", "falcon", kFalconOrder,
                 {.layers = "num_hidden_layers|n_layer", .heads = "num_attention_heads|n_head", .kv_heads = "", .ffn = "ffn_hidden_size", .eps = "layer_norm_epsilon"}, falcon, 4});
  // The zoo's objects without a family are GPTs of llm-foundry's MPT with learned positions and biases; transformers' MptConfig says otherwise itself.
  all.push_back({"mpt", "MptForCausalLM|MPTForCausalLM", "mpt", kGpt2Order,
                 {.hidden = "d_model|hidden_size", .layers = "n_layers|num_hidden_layers", .heads = "n_heads|num_attention_heads", .kv_heads = "", .ffn = "",
                  .max_position = "max_seq_len", .eps = "layer_norm_epsilon"}, gpt(MlpKind::gelu, PositionKind::learned, true), 4});

  Model mixtral = rms(131072, [](Model& m) { m.norm_eps = 1e-5, m.rope_theta = 1e6, m.num_experts = 8, m.experts_per_token = 2; });
  all.push_back({"mixtral", "MixtralForCausalLM", "mixtral", kLlamaOrder, llama, mixtral});
  all.push_back({"qwen3_moe", "Qwen3MoeForCausalLM", "qwen3_moe", kLlamaOrder, llama, rms(32768, qk_normed, [](Model& m) {
                   m.num_experts = 128, m.experts_per_token = 8, m.moe_intermediate_size = 768;
                 })});
  const auto latent = [](Model& m) { m.q_lora_rank = 1536, m.kv_lora_rank = 512, m.qk_nope_head_dim = 128, m.qk_rope_head_dim = 64, m.v_head_dim = 128; };
  all.push_back({"deepseek_v2", "DeepseekV2ForCausalLM", "deepseek|deepseek_v2", kLlamaOrder, {.kv_heads = ""}, rms(2048, latent, [](Model& m) {
                   m.num_experts = 64, m.experts_per_token = 6, m.num_shared_experts = 2, m.moe_intermediate_size = 1407;
                 })});
  all.push_back({"deepseek_v3", "DeepseekV3ForCausalLM", "deepseek_v3", kLlamaOrder, {.kv_heads = ""}, rms(4096, latent, [](Model& m) {
                   m.num_experts = 256, m.experts_per_token = 8, m.num_shared_experts = 1, m.moe_intermediate_size = 2048, m.first_k_dense = 3, m.router_bias = true;
                 })});
  return all;
}

const std::vector<Family>& families() {
  static const std::vector<Family> all = make_families();
  return all;
}

/// Whether `names`, separated by '|', hold `name`.
bool lists(std::string_view names, std::string_view name) {
  while (!names.empty()) {
    const std::size_t bar = std::min(names.find('|'), names.size());
    if (names.substr(0, bar) == name) return true;
    names.remove_prefix(std::min(bar + 1, names.size()));
  }
  return false;
}

const Family* find_family(std::string_view name) {
  for (const Family& family : families())
    if (family.model_type == name || lists(family.architectures, name)) return &family;
  return nullptr;
}

const Family* find_zoo_family(std::string_view name) {
  for (const Family& family : families())
    if (lists(family.zoo_names, name)) return &family;
  return nullptr;
}

std::string supported() {
  std::string names;
  for (const Family& family : families())
    if (family.defaults.num_experts == 0) names += (names.empty() ? "" : ", ") + std::string(family.model_type);
  return fmt::format("Modelled: {} (dense)", names);
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

// ---- config.json ----

namespace {

constexpr IntegerRange kSize{1, kLargestSize};

/// The first of `names` (separated by '|') that the file has; the first name if it has none.
std::string_view pick(const JsonFields& config, std::string_view names) {
  const std::string_view first = names.substr(0, names.find('|'));
  while (!names.empty()) {
    const std::size_t bar = std::min(names.find('|'), names.size());
    if (config.has(names.substr(0, bar))) return names.substr(0, bar);
    names.remove_prefix(std::min(bar + 1, names.size()));
  }
  return first;
}

/// architectures[0], or empty if the file names none.
std::string first_architecture(const JsonFields& config) {
  if (!config.has("architectures")) return "";
  const nlohmann::json& list = config.at("architectures");
  if (!list.is_array()) config.fail("architectures", fmt::format("must be a list of names, got {}", describe(list)), "");
  if (list.empty()) return "";
  if (!list[0].is_string()) config.fail("architectures", fmt::format("must be a list of names, got {} in it", describe(list[0])), "");
  return list[0].get<std::string>();
}

const Family& read_family(const JsonFields& config) {
  const std::string architecture = first_architecture(config);
  const bool has_type = config.has("model_type");
  if (!has_type && architecture.empty()) config.fail("model_type", "is missing", supported());
  const std::string asked = has_type ? config.text("model_type") : architecture;
  const std::string_view key = has_type ? "model_type" : "architectures";
  const Family* family = find_family(asked);
  if (family == nullptr) config.fail(key, fmt::format("{} is not modelled", asked), supported());
  // InternLM3 files of transformers name Llama's class, whose layout they share.
  const bool llama_class = family->model_type == "internlm3" && architecture == "LlamaForCausalLM";
  if (!architecture.empty() && !lists(family->architectures, architecture) && !llama_class)
    config.fail("architectures", fmt::format("{} is not modelled for model_type {}", architecture, family->model_type),
                fmt::format("Expected {}. {}", family->architectures, supported()));
  return *family;
}

/// Refuses what a family's implementation does not have: other sizes or operators than those counted here.
void refuse_unmodelled(const JsonFields& config, const Family& family) {
  if (family.defaults.num_experts == 0)
    for (const std::string_view key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
      std::int64_t experts = 0;
      if (config.has(key) && !(read_integer(config.at(key), experts) && (experts == 0 || experts == 1)))
        config.fail(key, fmt::format("{} means a mixture of experts, which is not part of {}", describe(config.at(key)), family.model_type), supported());
    }
  if (family.defaults.kv_lora_rank == 0)
    for (const std::string_view key : {"kv_lora_rank", "q_lora_rank"})
      if (config.has(key)) config.fail(key, fmt::format("means multi-head latent attention, which is not part of {}", family.model_type), supported());
  if (config.has("quantization_config"))
    config.fail("quantization_config", "quantised weights cannot be trained in full", "Use the config.json of the model that is not quantised");
}

/// Activation names of transformers that are this MLP.
bool is_activation_of(MlpKind mlp, std::string_view name) {
  switch (mlp) {
    case MlpKind::swiglu: return name == "silu" || name == "swish";
    case MlpKind::geglu_tanh: return name == "gelu_pytorch_tanh" || name == "gelu";  // gemma's first files say gelu and mean the other
    case MlpKind::gelu: return name == "gelu" || name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh";
    case MlpKind::relu: return name == "relu";
  }
  return false;
}

void check_activation(const JsonFields& config, MlpKind mlp) {
  const std::string_view key = pick(config, "hidden_activation|hidden_act|activation_function|activation");
  if (!config.has(key) || is_activation_of(mlp, config.text(key))) return;
  config.fail(key, fmt::format("{} is not modelled", describe(config.at(key))),
              mlp == MlpKind::swiglu ? "Modelled: silu" : mlp == MlpKind::relu ? "Modelled: relu" : "Modelled: gelu, gelu_new, gelu_pytorch_tanh");
}

/// A flag that only some families have; true elsewhere is refused, since it would be silently ignored.
bool read_flag_of(const JsonFields& config, const Family& family, std::string_view key, std::string_view owners, bool absent) {
  if (lists(owners, family.model_type)) return config.boolean_or(key, absent);
  if (config.boolean_or(key, false)) config.fail(key, fmt::format("{}=true is not part of {}", key, family.model_type), "");
  return absent;
}

void read_biases(const JsonFields& config, const Family& family, Model& model) {
  model.qkv_bias = read_flag_of(config, family, "qkv_bias", "qwen2|internlm3", model.qkv_bias);
  // Of q, k, v and o; glm's o_proj and qwen2's have none whatever it says.
  if (family.model_type == "glm") {
    model.qkv_bias = config.boolean_or("attention_bias", model.qkv_bias);
  } else if (family.model_type != "qwen2") {
    const bool both = read_flag_of(config, family, "attention_bias", "llama|qwen3|gemma|gemma2|gemma3_text|olmo2|gpt_neox|qwen3_moe|deepseek_v2|deepseek_v3", false);
    if (config.has("attention_bias")) model.qkv_bias = model.attn_out_bias = both;
  }
  if (family.defaults.kv_lora_rank > 0 && model.qkv_bias) config.fail("attention_bias", "biases in latent attention are not modelled", "");
  model.mlp_bias = read_flag_of(config, family, "mlp_bias", "llama|deepseek_v2", model.mlp_bias);
  // The key "bias" means other layers in each family that has it.
  const bool bias = read_flag_of(config, family, "bias", "internlm|internlm2|internlm3|falcon", family.model_type == "internlm");
  if (family.model_type == "internlm" || family.model_type == "internlm2") model.qkv_bias = model.attn_out_bias = bias;
  if (family.model_type == "internlm3") model.attn_out_bias = model.mlp_bias = bias;
  if (family.model_type == "falcon") model.qkv_bias = model.attn_out_bias = model.mlp_bias = bias;
}

bool has_partial_rope(std::string_view model_type) { return lists("phi3|gpt_neox|glm|chatglm", model_type); }

void read_partial_rope(const JsonFields& fields, const Family& family, Model& model) {
  if (!fields.has("partial_rotary_factor")) return;
  const double part = fields.number("partial_rotary_factor", {0, 1, true});
  if (part != 1.0 && !has_partial_rope(family.model_type))
    fields.fail("partial_rotary_factor", fmt::format("rotary embeddings on a part of each head are not part of {}", family.model_type), "");
  model.partial_rotary_factor = part;
}

constexpr NumberRange kTheta{1, 1e15};

/// transformers v5 of gemma3: {"full_attention": {...}, "sliding_attention": {...}}.
void read_rope_of_layers(const JsonFields& fields, const Family& family, Model& model) {
  for (const std::string_view layers : {"full_attention", "sliding_attention"}) {
    if (!fields.has(layers)) continue;
    if (family.model_type != "gemma3_text") fields.fail(layers, fmt::format("rotary embeddings that differ between layers are not part of {}", family.model_type), "");
    const JsonFields of = fields.object(layers);
    if (layers == "sliding_attention") {
      model.rope_local_theta = of.number_or("rope_theta", *model.rope_local_theta, kTheta);
    } else {
      model.rope_theta = of.number_or("rope_theta", model.rope_theta, kTheta);
      if (of.has("rope_type")) model.rope_scaling = of.text("rope_type") == "default" ? "" : of.text("rope_type");
    }
  }
}

/// transformers v4 has rope_theta and rope_scaling {type or rope_type}, v5 has both in rope_parameters.
void read_rope(const JsonFields& config, const Family& family, Model& model) {
  const std::string_view theta = pick(config, "rope_theta|rotary_emb_base");
  model.rope_theta = config.number_or(theta, model.rope_theta, kTheta);
  read_partial_rope(config, family, model);
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key)) continue;
    const JsonFields fields = config.object(key);
    if (fields.has("full_attention") || fields.has("sliding_attention")) {
      read_rope_of_layers(fields, family, model);
      continue;
    }
    read_partial_rope(fields, family, model);
    model.rope_theta = fields.number_or("rope_theta", model.rope_theta, kTheta);
    const std::string_view type = fields.has("rope_type") ? "rope_type" : "type";
    if (!fields.has(type) && !fields.has("rope_theta")) fields.fail("rope_type", "is missing", "Name the rule: default, linear, dynamic, yarn, llama3, ...");
    if (fields.has(type)) model.rope_scaling = fields.text(type) == "default" ? "" : fields.text(type);
  }
}

/// layer_types (v5): nullopt if absent, else whether every layer slides. A mixture is refused.
std::optional<bool> read_uniform_layer_types(const JsonFields& config) {
  if (!config.has("layer_types")) return std::nullopt;
  const nlohmann::json& types = config.at("layer_types");
  if (!types.is_array() || types.empty()) config.fail("layer_types", fmt::format("must be a list of names, got {}", describe(types)), "");
  for (const nlohmann::json& type : types)
    if (type != types[0]) config.fail("layer_types", "layers of different kinds are not modelled", "");
  if (types[0] == "full_attention") return false;
  if (types[0] == "sliding_attention") return true;
  config.fail("layer_types", fmt::format("{} is not modelled", describe(types[0])), "Modelled: full_attention, sliding_attention");
}

/// Gemma: every N-th layer sees everything. layer_types (v5) must be such a pattern.
std::int64_t read_full_attention_every(const JsonFields& config, std::int64_t absent) {
  const std::string_view key = pick(config, "sliding_window_pattern|_sliding_window_pattern");
  const std::int64_t every = config.integer_or(key, absent, {0, kMostLayers});
  if (!config.has("layer_types")) return every;
  const nlohmann::json& types = config.at("layer_types");
  if (!types.is_array()) config.fail("layer_types", fmt::format("must be a list of names, got {}", describe(types)), "");
  std::int64_t found = 0;  // 1-based place of the first layer that sees everything
  for (std::size_t i = 0; i < types.size() && found == 0; ++i)
    if (types[i] == "full_attention") found = static_cast<std::int64_t>(i) + 1;
  for (std::size_t i = 0; i < types.size(); ++i) {
    const bool full = found > 0 && (static_cast<std::int64_t>(i) + 1) % found == 0;
    if (types[i] != (full ? "full_attention" : "sliding_attention")) config.fail("layer_types", "is no pattern of every N-th layer seeing everything", "");
  }
  return found > 0 ? found : every;
}

std::optional<std::int64_t> read_sliding_window(const JsonFields& config, const Family& family, std::int64_t num_layers) {
  const bool is_qwen = lists("qwen2|qwen3|qwen3_moe", family.model_type);
  if (!is_qwen && !lists("mistral|mixtral|phi3|gemma2|gemma3_text", family.model_type)) return std::nullopt;
  if (!config.has("sliding_window")) return family.defaults.sliding_window;
  const std::int64_t window = config.integer("sliding_window", {1, kLargestSize});
  if (is_qwen && !config.boolean_or("use_sliding_window", false)) return std::nullopt;
  if (family.defaults.full_attention_every > 0) return window;
  if (const auto all_slide = read_uniform_layer_types(config)) return *all_slide ? std::optional(window) : std::nullopt;
  if (!is_qwen) return window;
  // Qwen: layers from max_window_layers on slide, the first ones see everything (28 is transformers' default).
  const std::int64_t full_layers = config.integer_or("max_window_layers", 28, {0, kLargestSize});
  if (full_layers >= num_layers) return std::nullopt;
  if (full_layers > 0) config.fail("max_window_layers", "sliding windows in a part of the layers are not modelled", "");
  return window;
}

std::string last_part(const std::string& path) { return std::filesystem::path(path).filename().string(); }

/// "_name", else the last part of _name_or_path, else the file's stem (of a config.json: its folder).
std::string read_name(const JsonFields& config) {
  if (config.has("_name")) return config.text("_name");
  if (config.has("_name_or_path") && config.at("_name_or_path").is_string())
    if (const std::string name = last_part(config.at("_name_or_path").get<std::string>()); !name.empty() && name != "." && name != "..") return name;
  const std::filesystem::path path(config.file());
  if (path.stem() == "config" && path.has_parent_path() && !path.parent_path().filename().empty()) return path.parent_path().filename().string();
  return path.stem().string();
}

std::int64_t read_head_dim(const JsonFields& config, const Model& model) {
  const std::string_view key = pick(config, "head_dim|kv_channels");
  if (config.has(key)) return config.integer(key, kSize);
  if (model.head_dim > 0) return model.head_dim;  // the family's
  if (model.hidden_size % model.num_heads != 0)
    config.fail("num_attention_heads", fmt::format("{} does not divide hidden_size {}", model.num_heads, model.hidden_size), "Set head_dim");
  return model.hidden_size / model.num_heads;
}

std::int64_t read_ffn(const JsonFields& config, const Family& family, const Model& model) {
  const std::string_view key = pick(config, family.spelling.ffn);
  if (family.default_ffn_ratio > 0 && !config.has(key)) return checked_multiply(family.default_ffn_ratio, model.hidden_size);
  return config.integer(key, kSize);
}

// What only one family's file says. Each gets a model whose common sizes are read.

void read_falcon(const JsonFields& config, Model& model) {
  const bool grouped = config.boolean_or("new_decoder_architecture", false);
  model.parallel_residual = grouped || config.boolean_or("parallel_attn", true);
  if (grouped) model.num_kv_heads = config.integer_or(pick(config, "num_kv_heads|n_head_kv"), model.num_heads, kSize);
  else model.num_kv_heads = config.boolean_or("multi_query", true) ? 1 : model.num_heads;
  model.norms_per_layer = config.integer_or("num_ln_in_parallel_attn", grouped || !model.parallel_residual ? 2 : 1, {1, 2});
  if (config.boolean_or("alibi", false)) model.position = PositionKind::alibi;
}

void read_mpt(const JsonFields& config, Model& model) {
  const bool bias = !config.boolean_or("no_bias", true);
  model.qkv_bias = model.attn_out_bias = model.mlp_bias = model.norm_bias = bias;
  model.intermediate_size = checked_multiply(config.integer_or("expansion_ratio", 4, {1, 1 << 10}), model.hidden_size);
  bool alibi = true;
  if (config.has("attn_config")) {
    const JsonFields attention = config.object("attn_config");
    alibi = attention.boolean_or("alibi", alibi);
    model.num_kv_heads = attention.integer_or("kv_n_heads", model.num_heads, kSize);
    if (attention.boolean_or("qk_ln", false)) attention.fail("qk_ln", "layer norms on queries and keys are not modelled", "");
  }
  const bool learned = !alibi && config.boolean_or("learned_pos_emb", true);
  model.position = learned ? PositionKind::learned : PositionKind::alibi;  // alibi has no table: so has a model without positions
}

void read_opt(const JsonFields& config, Model& model) {
  model.post_norm = !config.boolean_or("do_layer_norm_before", true);
  model.final_norm = !model.post_norm && !config.boolean_or("_remove_final_layer_norm", false);
  model.qkv_bias = model.attn_out_bias = model.mlp_bias = config.boolean_or("enable_bias", true);
  if (!config.boolean_or("layer_norm_elementwise_affine", true)) config.fail("layer_norm_elementwise_affine", "norms without weights are not modelled", "");
  const std::int64_t width = config.integer_or("word_embed_proj_dim", model.hidden_size, kSize);
  if (width != model.hidden_size) model.word_embed_proj_dim = width;
}

void read_chatglm(const JsonFields& config, Model& model) {
  const bool all = config.boolean_or("add_bias_linear", false);
  model.qkv_bias = all || config.boolean_or("add_qkv_bias", false);
  model.attn_out_bias = model.mlp_bias = all;
  if (config.boolean_or("multi_query_attention", false)) model.num_kv_heads = config.integer_or("multi_query_group_num", 1, kSize);
  if (!config.boolean_or("rmsnorm", true)) model.norm = NormKind::layernorm;
  model.final_norm = config.boolean_or("post_layer_norm", true);
  model.rope_theta *= config.number_or("rope_ratio", 1, {0, 1e9, true});
}

/// Baichuan's 13B has no rotary embeddings and no max_position_embeddings; its code, not its file, says alibi.
void read_baichuan(const JsonFields& config, Model& model) {
  if (!config.has("max_position_embeddings") && config.has("model_max_length")) model.position = PositionKind::alibi;
}

void read_gemma2(const JsonFields& config, Model& model) {
  constexpr NumberRange kCap{0, 1e9, true};
  model.full_attention_every = read_full_attention_every(config, model.full_attention_every);
  const auto cap = [&](std::string_view key, std::optional<double>& value) {
    if (config.has(key)) value = config.number(key, kCap);
  };
  cap("attn_logit_softcapping", model.attn_logit_softcapping);
  cap("final_logit_softcapping", model.final_logit_softcapping);
  if (model.model_type == "gemma3_text") model.rope_local_theta = config.number_or("rope_local_base_freq", *model.rope_local_theta, kTheta);
}

void read_experts(const JsonFields& config, Model& model) {
  constexpr IntegerRange kExperts{1, 1 << 20};
  model.num_experts = config.integer_or(pick(config, "num_experts|num_local_experts|n_routed_experts"), model.num_experts, kExperts);
  model.experts_per_token = config.integer_or("num_experts_per_tok", model.experts_per_token, kExperts);
  const std::int64_t width = model.moe_intermediate_size > 0 ? model.moe_intermediate_size : model.intermediate_size;
  model.moe_intermediate_size = config.integer_or("moe_intermediate_size", width, kSize);
  model.num_shared_experts = config.integer_or("n_shared_experts", model.num_shared_experts, {0, 1 << 20});
  model.first_k_dense = config.integer_or("first_k_dense_replace", model.first_k_dense, {0, kMostLayers});
  if (config.integer_or(pick(config, "decoder_sparse_step|moe_layer_freq"), 1, {1, kMostLayers}) != 1)
    config.fail(pick(config, "decoder_sparse_step|moe_layer_freq"), "blocks with and without experts in turn are not modelled", "");
  if (config.has("mlp_only_layers") && config.at("mlp_only_layers") != nlohmann::json::array())
    config.fail("mlp_only_layers", "blocks without experts in the middle are not modelled", "");
}

void read_latent_attention(const JsonFields& config, bool q_lora_rank_said, Model& model) {
  model.q_lora_rank = config.has("q_lora_rank") ? config.integer("q_lora_rank", kSize) : q_lora_rank_said ? 0 : model.q_lora_rank;
  model.kv_lora_rank = config.integer_or("kv_lora_rank", model.kv_lora_rank, kSize);
  model.qk_nope_head_dim = config.integer_or("qk_nope_head_dim", model.qk_nope_head_dim, kSize);
  model.qk_rope_head_dim = config.integer_or("qk_rope_head_dim", model.qk_rope_head_dim, kSize);
  model.v_head_dim = config.integer_or("v_head_dim", model.v_head_dim, kSize);
  model.head_dim = model.qk_nope_head_dim + model.qk_rope_head_dim;  // the file's head_dim is the rotary part
}

void read_own_keys(const JsonFields& config, const Family& family, const nlohmann::json& raw, Model& model) {
  if (family.model_type == "falcon") read_falcon(config, model);
  if (family.model_type == "mpt") read_mpt(config, model);
  if (family.model_type == "opt") read_opt(config, model);
  if (family.model_type == "chatglm") read_chatglm(config, model);
  if (family.model_type == "baichuan") read_baichuan(config, model);
  if (family.model_type == "gemma2" || family.model_type == "gemma3_text") read_gemma2(config, model);
  if (family.model_type == "gpt_neox") {
    model.parallel_residual = config.boolean_or("use_parallel_residual", true);
    model.partial_rotary_factor = config.number_or("rotary_pct", model.partial_rotary_factor, {0, 1, true});
  }
  if (family.defaults.num_experts > 0) read_experts(config, model);
  if (family.defaults.kv_lora_rank > 0) read_latent_attention(config, raw.contains("q_lora_rank"), model);
}

}  // namespace

Model model_from_config(const nlohmann::json& config, const std::string& file) { return read_model(JsonFields(config, file, "")); }

Model read_model(const JsonFields& config) {
  if (config.has("_architecture")) {
    Model model = read_zoo_object(config.object("_architecture"));
    if (config.has("_name")) model.name = config.text("_name");
    return model;
  }
  const Family& family = read_family(config);
  refuse_unmodelled(config, family);
  const Spelling& keys = family.spelling;
  Model model = family.defaults;
  model.model_type = family.model_type;
  model.name = read_name(config);
  model.hidden_size = config.integer(pick(config, keys.hidden), kSize);
  model.num_layers = config.integer(pick(config, keys.layers), {1, kMostLayers});
  model.vocab_size = config.integer(pick(config, keys.vocab), kSize);
  model.intermediate_size = read_ffn(config, family, model);
  model.num_heads = config.integer(pick(config, keys.heads), kSize);
  model.num_kv_heads = keys.kv_heads.empty() ? model.num_heads : config.integer_or(keys.kv_heads, model.num_heads, kSize);
  model.head_dim = family.defaults.kv_lora_rank > 0 ? 2 : read_head_dim(config, model);
  model.tie_embeddings = config.boolean_or("tie_word_embeddings", model.tie_embeddings);
  read_biases(config, family, model);
  check_activation(config, model.mlp);
  if (!keys.eps.empty()) model.norm_eps = config.number_or(keys.eps, model.norm_eps, {0, 1});
  read_rope(config, family, model);
  model.max_position = config.integer_or(pick(config, keys.max_position), model.max_position, kSize);
  model.sliding_window = read_sliding_window(config, family, model.num_layers);
  read_own_keys(config, family, config.raw(), model);
  model.vision_params = config.integer_or("_vision_params", 0, {0, kMostParameters});
  model.projector_params = config.integer_or("_projector_params", 0, {0, kMostParameters});
  if (const auto problem = find_size_problem(model)) config.fail(problem->key, problem->problem, "");
  return model;
}

namespace {

/// Whether the config.json that write_plain_config makes reads back to this model: one of the Llama-like families with nothing but its own traits.
bool is_plain(const Model& model, const Family* family) {
  constexpr std::string_view kPlainFamilies = "llama|internlm2|internlm3|qwen2|qwen3|mistral";
  if (family == nullptr || !lists(kPlainFamilies, model.model_type)) return false;
  if (model.qk_norm != family->defaults.qk_norm || model.qkv_layout != family->defaults.qkv_layout) return false;
  if (model.qkv_bias && !lists("qwen2|internlm3", model.model_type)) return false;
  if (model.sliding_window && !lists("qwen2|qwen3|mistral", model.model_type)) return false;
  Model rest;  // Llama's traits
  rest.name = model.name, rest.model_type = model.model_type, rest.hidden_size = model.hidden_size, rest.num_layers = model.num_layers;
  rest.vocab_size = model.vocab_size, rest.intermediate_size = model.intermediate_size, rest.num_heads = model.num_heads, rest.num_kv_heads = model.num_kv_heads;
  rest.head_dim = model.head_dim, rest.tie_embeddings = model.tie_embeddings, rest.qkv_bias = model.qkv_bias, rest.qk_norm = model.qk_norm;
  rest.qkv_layout = model.qkv_layout, rest.norm_eps = model.norm_eps, rest.rope_theta = model.rope_theta, rest.max_position = model.max_position;
  rest.sliding_window = model.sliding_window, rest.rope_scaling = model.rope_scaling;
  return rest == model;
}

nlohmann::json write_plain_config(const Model& model, const Family& family) {
  nlohmann::json config{{"_name", model.name},
                        {"model_type", model.model_type},
                        {"architectures", {family.architectures}},
                        {"hidden_size", model.hidden_size},
                        {"num_hidden_layers", model.num_layers},
                        {"vocab_size", model.vocab_size},
                        {"intermediate_size", model.intermediate_size},
                        {"num_attention_heads", model.num_heads},
                        {"num_key_value_heads", model.num_kv_heads},
                        {"head_dim", model.head_dim},
                        {"tie_word_embeddings", model.tie_embeddings},
                        {"hidden_act", "silu"},
                        {"rms_norm_eps", model.norm_eps},
                        {"rope_theta", model.rope_theta},
                        {"max_position_embeddings", model.max_position}};
  if (!model.rope_scaling.empty()) config["rope_scaling"] = {{"rope_type", model.rope_scaling}};
  if (model.model_type == "internlm2" || model.model_type == "internlm3") config["bias"] = false;
  if (model.model_type == "llama" || model.model_type == "qwen3") config["attention_bias"] = false;
  if (model.model_type == "qwen2" || model.model_type == "internlm3") config["qkv_bias"] = model.qkv_bias;
  if (model.sliding_window) config["sliding_window"] = *model.sliding_window;
  if (model.sliding_window && model.model_type != "mistral") {
    config["use_sliding_window"] = true;
    config["max_window_layers"] = 0;
  }
  return config;
}

}  // namespace

nlohmann::json config_from_model(const Model& model) {
  const Family* family = find_family(model.model_type);
  if (is_plain(model, family)) return write_plain_config(model, *family);
  return {{"_name", model.name}, {"model_type", model.model_type}, {"_architecture", zoo_object_from_model(model)}};
}

// ---- objects of model_zoo.json ----

namespace {

/// The one of `count` choices whose name is the key's value.
template <class Choice>
void read_choice(const JsonFields& fields, std::string_view key, int count, Choice& out) {
  if (!fields.has(key)) return;
  const std::string text = fields.text(key);
  std::string names;
  for (int i = 0; i < count; ++i) {
    if (name_of(static_cast<Choice>(i)) == text) {
      out = static_cast<Choice>(i);
      return;
    }
    names += (names.empty() ? "" : ", ") + std::string(name_of(static_cast<Choice>(i)));
  }
  fields.fail(key, fmt::format("{} is not modelled", describe(fields.at(key))), fmt::format("Modelled: {}", names));
}

/// "learned (+2 offset rows)" is the zoo's word for OPT's table.
void read_position(const JsonFields& fields, Model& model) {
  constexpr std::string_view kOptTable = "learned (+2 offset rows)";
  if (fields.has("position") && fields.at("position") == kOptTable) {
    model.position = PositionKind::learned;
    model.position_offset_rows = 2;
    return;
  }
  if (fields.has("position")) model.position_offset_rows = 0;
  read_choice(fields, "position", 3, model.position);
  model.position_offset_rows = fields.integer_or("position_offset_rows", model.position_offset_rows, {0, 1 << 20});
}

/// Without a family: Llama, or with layer norms an mpt-like GPT.
const Family& read_zoo_family(const JsonFields& fields) {
  if (!fields.has("family")) return *find_family(fields.has("norm") && fields.at("norm") == "layernorm" ? "mpt" : "llama");
  const std::string name = fields.text("family");
  const Family* family = find_zoo_family(name);
  if (family == nullptr) fields.fail("family", fmt::format("{} is not modelled", name), supported());
  if (name == "deepseek" && fields.boolean_or("router_bias", false)) return *find_family("deepseek_v3");
  return *family;
}

void read_zoo_rope(const JsonFields& fields, Model& model) {
  model.rope_theta = fields.number_or("rope_theta", model.rope_theta, kTheta) * fields.number_or("rope_ratio", 1, {0, 1e9, true});
  if (fields.has("rope_local_theta")) model.rope_local_theta = fields.number("rope_local_theta", kTheta);
  model.partial_rotary_factor = fields.number_or("partial_rotary_factor", model.partial_rotary_factor, {0, 1, true});
  if (!fields.has("rope_scaling")) return;
  if (fields.at("rope_scaling").is_string()) {
    model.rope_scaling = fields.text("rope_scaling");
    return;
  }
  const JsonFields scaling = fields.object("rope_scaling");
  const std::string_view type = pick(scaling, "rope_type|type");
  if (scaling.has(type)) model.rope_scaling = scaling.text(type) == "default" ? "" : scaling.text(type);
  else model.rope_scaling = scaling.has("low_freq_factor") ? "llama3" : "linear";
}

void read_zoo_experts(const JsonFields& fields, const nlohmann::json& raw, Model& model) {
  constexpr IntegerRange kCount{0, 1 << 20};
  constexpr IntegerRange kWidth{0, kLargestSize};
  model.num_experts = fields.integer_or("num_experts", model.num_experts, kCount);
  model.experts_per_token = fields.integer_or("experts_per_token", model.experts_per_token, kCount);
  model.num_shared_experts = fields.integer_or("num_shared_experts", model.num_shared_experts, kCount);
  model.moe_intermediate_size = fields.integer_or("moe_intermediate_size", model.moe_intermediate_size, kWidth);
  model.first_k_dense = fields.integer_or("first_k_dense", model.first_k_dense, {0, kMostLayers});
  model.router_bias = fields.boolean_or("router_bias", model.router_bias);
  model.q_lora_rank = fields.integer_or("q_lora_rank", raw.contains("q_lora_rank") ? 0 : model.q_lora_rank, kWidth);
  model.kv_lora_rank = fields.integer_or("kv_lora_rank", model.kv_lora_rank, kWidth);
  model.qk_nope_head_dim = fields.integer_or("qk_nope_head_dim", model.qk_nope_head_dim, kWidth);
  model.qk_rope_head_dim = fields.integer_or("qk_rope_head_dim", model.qk_rope_head_dim, kWidth);
  model.v_head_dim = fields.integer_or("v_head_dim", model.v_head_dim, kWidth);
}

void read_zoo_traits(const JsonFields& fields, Model& model) {
  read_choice(fields, "norm", 3, model.norm);
  read_choice(fields, "mlp", 4, model.mlp);
  read_position(fields, model);
  if (fields.has("qkv_layout")) model.qkv_layout = fields.text("qkv_layout") == "grouped" ? QkvLayout::grouped : QkvLayout::contiguous;
  model.tie_embeddings = fields.boolean_or("tie_embeddings", model.tie_embeddings);
  model.qkv_bias = fields.boolean_or("qkv_bias", model.qkv_bias);
  model.attn_out_bias = fields.boolean_or("attn_out_bias", model.attn_out_bias);
  model.mlp_bias = fields.boolean_or("mlp_bias", model.mlp_bias);
  model.norm_bias = fields.boolean_or("norm_bias", model.norm_bias);
  model.qk_norm = fields.boolean_or("qk_norm", model.qk_norm);
  model.qk_norm_full = fields.boolean_or("qk_norm_full", model.qk_norm_full);
  model.parallel_residual = fields.boolean_or("parallel_residual", model.parallel_residual);
  model.norms_per_layer = fields.integer_or("norms_per_layer", model.norms_per_layer, {1, 4});
  model.final_norm = fields.boolean_or("final_norm", model.final_norm);
  // A GPT without a final norm is OPT-350m's kind: its norms come after the halves.
  model.post_norm = fields.boolean_or("post_norm", model.post_norm || (model.model_type == "opt" && !model.final_norm));
  model.embedding_norm = fields.boolean_or("embedding_norm", model.embedding_norm);
  if (fields.has("word_embed_proj_dim")) model.word_embed_proj_dim = fields.integer("word_embed_proj_dim", kSize);
  model.norm_eps = fields.number_or("norm_eps", model.norm_eps, {0, 1});
  if (fields.has("sliding_window")) model.sliding_window = fields.integer("sliding_window", kSize);
  model.full_attention_every = fields.integer_or("full_attention_every", model.full_attention_every, {0, kMostLayers});
  constexpr NumberRange kCap{0, 1e9, true};
  if (fields.has("attn_logit_softcapping")) model.attn_logit_softcapping = fields.number("attn_logit_softcapping", kCap);
  if (fields.has("final_logit_softcapping")) model.final_logit_softcapping = fields.number("final_logit_softcapping", kCap);
}

void read_zoo_vision(const JsonFields& fields, Model& model) {
  constexpr IntegerRange kCount{0, kMostParameters};
  if (fields.has("vision")) model.vision_params = fields.object("vision").integer("params", kCount);
  model.projector_params = fields.integer_or("projector_params", 0, kCount);
}

/// SizeProblem's keys are those of config.json.
std::string_view zoo_key(std::string_view key) {
  if (key == "num_hidden_layers") return "num_layers";
  if (key == "num_attention_heads") return "num_heads";
  if (key == "num_key_value_heads") return "num_kv_heads";
  if (key == "max_position_embeddings") return "max_position";
  return key;
}

}  // namespace

Model model_from_zoo_object(const nlohmann::json& object, const std::string& file) { return read_zoo_object(JsonFields(object, file, "")); }

Model read_zoo_object(const JsonFields& fields) {
  fields.refuse_unknown({"name", "family", "hidden_size", "num_layers", "vocab_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim", "tie_embeddings", "norm", "mlp",
                         "norm_eps", "rope_theta", "max_position", "qkv_bias", "attn_out_bias", "mlp_bias", "position", "qk_norm", "qk_norm_full", "rope_scaling",
                         "norms_per_layer", "partial_rotary_factor", "parallel_residual", "sliding_window", "word_embed_proj_dim", "final_norm", "rope_ratio", "rope_local_theta",
                         "num_experts", "experts_per_token", "num_shared_experts", "moe_intermediate_size", "first_k_dense", "router_bias", "mtp_layers", "q_lora_rank", "kv_lora_rank",
                         "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "vision", "projector_params",
                         // what the zoo does not say
                         "qkv_layout", "norm_bias", "post_norm", "embedding_norm", "position_offset_rows", "full_attention_every", "attn_logit_softcapping", "final_logit_softcapping",
                         // what the zoo says to people
                         "hf_id", "kind", "notes", "weight_layout", "mlp_layout", "language_model", "params_computed", "params_active_computed", "params_published",
                         "published_convention", "agrees", "published_source", "config_source"});
  const Family& family = read_zoo_family(fields);
  Model model = family.defaults;
  model.model_type = family.model_type;
  model.name = fields.has("name") ? fields.text("name") : "custom";
  model.hidden_size = fields.integer("hidden_size", kSize);
  model.num_layers = fields.integer("num_layers", {1, kMostLayers});
  model.vocab_size = fields.integer("vocab_size", kSize);
  model.intermediate_size = fields.integer("intermediate_size", kSize);
  model.num_heads = fields.integer("num_heads", kSize);
  model.num_kv_heads = fields.integer_or("num_kv_heads", model.num_heads, kSize);
  model.head_dim = read_head_dim(fields, model);
  model.max_position = fields.integer_or("max_position", model.max_position, kSize);
  read_zoo_traits(fields, model);
  read_zoo_rope(fields, model);
  read_zoo_experts(fields, fields.raw(), model);
  read_zoo_vision(fields, model);
  if (const auto problem = find_size_problem(model)) fields.fail(zoo_key(problem->key), problem->problem, "");
  return model;
}

nlohmann::json zoo_object_from_model(const Model& m) {
  const auto or_null = [](const auto& value) { return value ? nlohmann::json(*value) : nlohmann::json(nullptr); };
  nlohmann::json object{{"name", m.name}, {"family", m.model_type}, {"hidden_size", m.hidden_size}, {"num_layers", m.num_layers}, {"vocab_size", m.vocab_size},
                        {"intermediate_size", m.intermediate_size}, {"num_heads", m.num_heads}, {"num_kv_heads", m.num_kv_heads}, {"head_dim", m.head_dim},
                        {"tie_embeddings", m.tie_embeddings}, {"norm", name_of(m.norm)}, {"mlp", name_of(m.mlp)}, {"norm_eps", m.norm_eps}, {"position", name_of(m.position)},
                        {"position_offset_rows", m.position_offset_rows}, {"max_position", m.max_position}, {"rope_theta", m.rope_theta}, {"rope_local_theta", or_null(m.rope_local_theta)},
                        {"rope_scaling", m.rope_scaling.empty() ? nlohmann::json(nullptr) : nlohmann::json(m.rope_scaling)}, {"partial_rotary_factor", m.partial_rotary_factor},
                        {"qkv_bias", m.qkv_bias}, {"attn_out_bias", m.attn_out_bias}, {"mlp_bias", m.mlp_bias}, {"norm_bias", m.norm_bias}, {"qk_norm", m.qk_norm},
                        {"qk_norm_full", m.qk_norm_full}, {"qkv_layout", m.qkv_layout == QkvLayout::grouped ? "grouped" : "contiguous"}, {"parallel_residual", m.parallel_residual},
                        {"norms_per_layer", m.norms_per_layer}, {"post_norm", m.post_norm}, {"final_norm", m.final_norm}, {"embedding_norm", m.embedding_norm},
                        {"word_embed_proj_dim", or_null(m.word_embed_proj_dim)}, {"sliding_window", or_null(m.sliding_window)}, {"full_attention_every", m.full_attention_every},
                        {"attn_logit_softcapping", or_null(m.attn_logit_softcapping)}, {"final_logit_softcapping", or_null(m.final_logit_softcapping)}};
  if (m.num_experts > 0)
    object.update({{"num_experts", m.num_experts}, {"experts_per_token", m.experts_per_token}, {"num_shared_experts", m.num_shared_experts},
                   {"moe_intermediate_size", m.moe_intermediate_size}, {"first_k_dense", m.first_k_dense}, {"router_bias", m.router_bias}});
  if (m.kv_lora_rank > 0)
    object.update({{"q_lora_rank", m.q_lora_rank}, {"kv_lora_rank", m.kv_lora_rank}, {"qk_nope_head_dim", m.qk_nope_head_dim}, {"qk_rope_head_dim", m.qk_rope_head_dim},
                   {"v_head_dim", m.v_head_dim}});
  if (m.vision_params > 0) object["vision"] = {{"params", m.vision_params}};
  if (m.projector_params > 0) object["projector_params"] = m.projector_params;
  return object;
}

}  // namespace zeroplan
