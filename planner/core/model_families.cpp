#include "planner/core/model_families.h"

#include <algorithm>

#include <fmt/format.h>

namespace zeroplan {

namespace {

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

}  // namespace

const std::vector<Family>& families() {
  static const std::vector<Family> all = make_families();
  return all;
}

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

std::string supported_families() {
  std::string names;
  for (const Family& family : families())
    if (family.defaults.num_experts == 0) names += (names.empty() ? "" : ", ") + std::string(family.model_type);
  return fmt::format("Modelled: {} (dense)", names);
}

}  // namespace zeroplan
