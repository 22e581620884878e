// Families of models that are known: the order of their modules, the spelling of their config.json, the defaults of their configuration class. One list for counts (model.cpp), for
// config.json files (model_config.cpp) and for objects of model_zoo.json (model_zoo.cpp).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "planner/core/model.h"

namespace zeroplan {

/// What a block registers, piece by piece. norm_1 and norm_2 are the first and second norm where they stand between the halves; norms: all of them at the end.
enum class Piece : std::uint8_t { none, qkv_split, kvq_split, qkv_fused, attention_out, qk_norms, mlp, mlp_down_first, mlp_fused, norm_1, norm_2, norms };
using BlockOrder = std::array<Piece, 6>;

/// Of a model whose family is not known.
constexpr BlockOrder kLlamaOrder{Piece::qkv_split, Piece::attention_out, Piece::qk_norms, Piece::mlp, Piece::norms};
/// torchtitan registers down before up in every model.
constexpr BlockOrder kTorchtitanOrder{Piece::qkv_split, Piece::attention_out, Piece::qk_norms, Piece::mlp_down_first, Piece::norms};

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

const std::vector<Family>& families();

/// Whether `names`, separated by '|', hold `name`.
bool lists(std::string_view names, std::string_view name);

/// By model_type or class name; null if there is none.
const Family* find_family(std::string_view name);
/// By a name of model_zoo.json; null if there is none.
const Family* find_zoo_family(std::string_view name);

/// "Modelled: llama, ... (dense)".
std::string supported_families();

}  // namespace zeroplan
