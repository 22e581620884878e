// Model: an architecture read from a Hugging Face config.json, as the sizes that everything else is computed from.
// Decoders of the dense families (llama, internlm, internlm2, internlm3, qwen2, qwen3, mistral, gemma 1 to 3, phi3, gpt2, gpt_neox, opt, bloom, falcon, mpt,
// chatglm, glm, baichuan, olmo2); mixtures of experts, latent attention and vision towers are here for counting only. What an engine cannot run it refuses by name.
// A model is three kinds of unit: the embedding, L blocks and the head. For our own engine a unit's parameters lie in one flat buffer in the order of
// unit_parameters(), each parameter starting at a multiple of kParameterAlignment elements; for other engines module_parameters() lists them as PyTorch does.
// Letters: H hidden, L layers, V vocabulary, h heads, k key/value heads, D head dim, F feed-forward width.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace zeroplan {

/// How the rows of the fused qkv weight are ordered. Same bytes, different columns of the activation.
/// contiguous: all query heads, all key heads, all value heads. grouped: per key/value head its h/k query heads, its key, its
/// value (InternLM2's wqkv, modeling_internlm2: "b q (h gs d)", gs = 2 + h/k; with h = k also GPT-NeoX and BLOOM; Falcon).
enum class QkvLayout : std::uint8_t { contiguous, grouped };

enum class NormKind : std::uint8_t { rmsnorm, rmsnorm_plus_one, layernorm };  ///< rmsnorm_plus_one scales by 1 + weight (gemma)
enum class MlpKind : std::uint8_t { swiglu, geglu_tanh, gelu, relu };          ///< the first two have a gate: three matrices
enum class PositionKind : std::uint8_t { rope, learned, alibi };

std::string_view name_of(NormKind norm);  ///< as in model_zoo.json: "rmsnorm", "rmsnorm(1+w)", "layernorm"
std::string_view name_of(MlpKind mlp);
std::string_view name_of(PositionKind position);

struct Model {
  std::string name;
  std::string model_type;  ///< of transformers: llama, internlm2, qwen2, gpt2, gemma3_text, ...
  std::int64_t hidden_size = 0;
  std::int64_t num_layers = 0;
  std::int64_t vocab_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  bool tie_embeddings = false;
  bool qkv_bias = false;
  bool qk_norm = false;  ///< RMS norm over each query and key head before rope (qwen3, gemma3)
  QkvLayout qkv_layout = QkvLayout::contiguous;
  double norm_eps = 1e-5;
  double rope_theta = 10000.0;
  std::int64_t max_position = 2048;
  std::optional<std::int64_t> sliding_window;
  std::string rope_scaling;  ///< name of the scaling rule, empty if none; only its absence can be run, memory does not depend on it

  // What blocks unlike Llama's have. The defaults are Llama's.
  NormKind norm = NormKind::rmsnorm;
  MlpKind mlp = MlpKind::swiglu;
  PositionKind position = PositionKind::rope;
  std::int64_t position_offset_rows = 0;  ///< rows of a learned position table beyond max_position (opt: 2)
  bool attn_out_bias = false;
  bool mlp_bias = false;
  bool norm_bias = true;             ///< of layer norms; RMS norms have none
  bool qk_norm_full = false;         ///< RMS norm over the whole query and key projections (olmo2)
  bool parallel_residual = false;    ///< attention and MLP read the same stream and are added together (gpt_neox, falcon)
  std::int64_t norms_per_layer = 2;  ///< 1: shared by both halves (falcon-7b); 4: before and after each half (gemma2, gemma3)
  bool post_norm = false;            ///< norms come after the halves and not before (olmo2, opt-350m)
  bool final_norm = true;
  bool embedding_norm = false;       ///< a layer norm after the embedding (bloom)
  std::optional<std::int64_t> word_embed_proj_dim;  ///< width of the embedding where it is not H: projected in and out (opt-350m)
  double partial_rotary_factor = 1;
  std::optional<double> rope_local_theta;   ///< of the sliding layers (gemma3)
  std::int64_t full_attention_every = 0;    ///< with sliding_window: every so many-th layer sees everything; 0: all layers slide
  std::optional<double> attn_logit_softcapping;
  std::optional<double> final_logit_softcapping;  ///< tanh over the logits: more temporaries of V a token

  // Mixture of experts (num_experts 0: none) and multi-head latent attention (kv_lora_rank 0: none).
  std::int64_t num_experts = 0;
  std::int64_t experts_per_token = 0;
  std::int64_t num_shared_experts = 0;
  std::int64_t moe_intermediate_size = 0;
  std::int64_t first_k_dense = 0;  ///< so many blocks at the front have an ordinary MLP of intermediate_size
  bool router_bias = false;
  std::int64_t q_lora_rank = 0;    ///< 0: queries are projected at once
  std::int64_t kv_lora_rank = 0;
  std::int64_t qk_nope_head_dim = 0;
  std::int64_t qk_rope_head_dim = 0;
  std::int64_t v_head_dim = 0;

  // A vision tower and its projector, as counts only.
  std::int64_t vision_params = 0;
  std::int64_t projector_params = 0;

  std::int64_t query_dim() const { return num_heads * head_dim; }
  std::int64_t kv_dim() const { return num_kv_heads * head_dim; }
  std::int64_t qkv_dim() const { return query_dim() + 2 * kv_dim(); }
  std::int64_t embedding_dim() const { return word_embed_proj_dim.value_or(hidden_size); }
  bool has_gate() const { return mlp == MlpKind::swiglu || mlp == MlpKind::geglu_tanh; }

  friend bool operator==(const Model&, const Model&) = default;
};

enum class UnitKind : std::uint8_t { embedding, block, head };

constexpr std::string_view name_of(UnitKind kind) {
  switch (kind) {
    case UnitKind::embedding: return "embedding";
    case UnitKind::block: return "block";
    case UnitKind::head: return "head";
  }
  return "";
}

// ---- our own engine's flat buffers ----

enum class ParameterId : std::uint8_t {
  token_embedding,  ///< [V, H]; in the head too when tied
  attention_norm, qkv, qkv_bias, query_norm, key_norm, attention_out, ffn_norm, gate_up, down,  // block
  final_norm, head_weight,                                                                       // head
};

std::string_view name_of(ParameterId id);

/// One parameter inside its unit's flat buffer: a row-major [rows, columns] matrix at `offset_elems`.
struct Parameter {
  ParameterId id;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t offset_elems = 0;

  std::int64_t elems() const { return rows * columns; }
};

inline constexpr std::int64_t kParameterAlignment = 16;

/// Why our own engine cannot run the model: the zoo's name of the first trait that it has no kernel for, and a sentence; nullopt if it can.
/// It runs Llama's block: RMS norm, gated SiLU, rotary embeddings over the whole head, biases on q, k, v only, norms on query and key heads.
struct ModelProblem {
  std::string_view key;
  std::string problem;
};
std::optional<ModelProblem> find_zeroplan_problem(const Model& model);

/// The parameters of one unit in flat order. gate_up is [2F, H] (gate rows first); qkv is [(h + 2k)·D, H] in qkv_layout's row order.
/// Throws UsageError for a model that our own engine cannot run.
std::vector<Parameter> unit_parameters(const Model& model, UnitKind kind);

/// Length of the unit's flat buffer without shard padding.
std::int64_t unit_flat_elems(const Model& model, UnitKind kind);

// ---- modules as PyTorch registers them ----

/// The parameter tensors of all families under one set of names (transformers' own where Llama has it, as in q_proj).
enum class ModuleId : std::uint8_t {
  token_embedding, position_embedding, project_in, embedding_norm,                                                    // embedding
  query, key, value, qkv, attention_out, query_norm, key_norm,                                                        // attention
  query_down, query_down_norm, query_up, key_value_down, key_value_down_norm, key_value_up,                           // latent attention
  gate, up, gate_up, down, router, router_correction, experts_gate_up, experts_down, shared_gate, shared_up, shared_down,  // MLP
  input_norm, post_attention_norm, pre_ffn_norm, post_ffn_norm,                                                       // norms of a block
  final_norm, project_out, head,                                                                                      // head
};
inline constexpr int kModuleIdCount = static_cast<int>(ModuleId::head) + 1;

std::string_view name_of(ModuleId id);  ///< "q_proj", "qkv_proj", "input_layernorm", ...

struct ModuleParameter {
  ModuleId module;
  bool is_bias = false;
  std::int64_t rows = 0;     ///< 1 for norms and biases; experts' matrices are stacked
  std::int64_t columns = 0;

  std::int64_t elems() const { return rows * columns; }
  bool is_matrix() const;    ///< multiplied with activations: no embedding table, norm or bias
  friend bool operator==(const ModuleParameter&, const ModuleParameter&) = default;
};

/// Whose implementation registers the parameters. own: the model's own code (transformers, or the remote code of internlm, internlm2, chatglm and baichuan).
/// llama: transformers' Llama, into which models of Llama's shape can be loaded (internlm2 with split qkv). torchtitan: its Llama (w1, w2, w3 = gate, down, up).
enum class ModuleOrder : std::uint8_t { own, llama, torchtitan };

/// The parameters of one unit in the order of named_parameters(): what DeepSpeed flattens and FSDP shards. A tied head has no weight of its own.
/// A block of a mixture of experts is a sparse one (first_k_dense blocks differ, see parameter_elems). OPT registers what our head unit holds before its blocks.
/// Source: transformers 5.24 modeling files; modeling_internlm2, modeling_chatglm and modeling_baichuan of the hub; torchtitan 0.2.2 models/llama3.
std::vector<ModuleParameter> module_parameters(const Model& model, UnitKind kind, ModuleOrder order = ModuleOrder::own);

/// Parameters of one unit without alignment gaps (what is published).
std::int64_t unit_parameter_elems(const Model& model, UnitKind kind);

/// Unique parameters of the whole model (a tied head is counted once), as Hugging Face counts them; experts, vision tower and projector included.
std::int64_t parameter_elems(const Model& model);

/// Matrix multiplications' parameters per token: all but the embedding look-up and the norms; of experts those that one token meets. For FLOPs (6 × this × tokens).
std::int64_t matmul_parameter_elems(const Model& model);

// ---- JSON ----

/// Reads a Hugging Face config.json (transformers v4 and v5 spellings). `file` names the source in errors.
/// Throws InputError with the JSON key and a remedy: missing or unusable sizes, or an architecture that is not modelled.
Model model_from_config(const nlohmann::json& config, const std::string& file);

/// The model as a config.json that model_from_config reads back to an equal Model; traits that no config.json of the family can say are under "_architecture".
nlohmann::json config_from_model(const Model& model);

/// An object with the keys of model_zoo.json (hidden_size, num_layers, vocab_size, intermediate_size, num_heads, ...; optional: family, name and traits).
/// Without family it is Llama with RMS norms and an mpt-like GPT with layer norms. Unknown keys and unusable sizes are InputErrors.
Model model_from_zoo_object(const nlohmann::json& object, const std::string& file);
nlohmann::json zoo_object_from_model(const Model& model);

}  // namespace zeroplan
