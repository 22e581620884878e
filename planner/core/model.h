// Model: an architecture read from a Hugging Face config.json, as the sizes that everything else is computed from.
// Dense Llama-like decoders only (llama, internlm2, internlm3, qwen2, qwen3, mistral); any other architecture is refused by name.
// A model is three kinds of unit: the embedding, L equal blocks and the head. A unit's parameters lie in one flat buffer
// in the order of unit_parameters(), each parameter starting at a multiple of kParameterAlignment elements.
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
/// value (InternLM2's wqkv, modeling_internlm2: "b q (h gs d)", gs = 2 + h/k).
enum class QkvLayout : std::uint8_t { contiguous, grouped };

struct Model {
  std::string name;
  std::string model_type;  ///< llama, internlm2, internlm3, qwen2, qwen3, mistral
  std::int64_t hidden_size = 0;
  std::int64_t num_layers = 0;
  std::int64_t vocab_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  bool tie_embeddings = false;
  bool qkv_bias = false;
  bool qk_norm = false;  ///< RMS norm over each query and key head before rope (qwen3)
  QkvLayout qkv_layout = QkvLayout::contiguous;
  double norm_eps = 1e-5;
  double rope_theta = 10000.0;
  std::int64_t max_position = 2048;
  std::optional<std::int64_t> sliding_window;
  std::string rope_scaling;  ///< name of the scaling rule, empty if none; only its absence can be run, memory does not depend on it

  std::int64_t query_dim() const { return num_heads * head_dim; }
  std::int64_t kv_dim() const { return num_kv_heads * head_dim; }
  std::int64_t qkv_dim() const { return query_dim() + 2 * kv_dim(); }

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

/// The parameters of one unit in flat order. gate_up is [2F, H] (gate rows first); qkv is [(h + 2k)·D, H] in qkv_layout's row order.
std::vector<Parameter> unit_parameters(const Model& model, UnitKind kind);

/// Parameters of one unit without alignment gaps (what is published), and the length of its flat buffer without shard padding.
std::int64_t unit_parameter_elems(const Model& model, UnitKind kind);
std::int64_t unit_flat_elems(const Model& model, UnitKind kind);

/// Unique parameters of the whole model (a tied head is counted once), as Hugging Face counts them.
std::int64_t parameter_elems(const Model& model);

/// Matrix multiplications' parameters per token: all but the embedding look-up and the norms. For FLOPs (6 × this × tokens).
std::int64_t matmul_parameter_elems(const Model& model);

/// Reads a Hugging Face config.json (transformers v4 and v5 spellings). `file` names the source in errors.
/// Throws InputError with the JSON key and a remedy: missing or unusable sizes, or an architecture that is not modelled.
Model model_from_config(const nlohmann::json& config, const std::string& file);

/// The model as a config.json that model_from_config reads back to an equal Model.
nlohmann::json config_from_model(const Model& model);

}  // namespace zeroplan
