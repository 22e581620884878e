// Objects of model_zoo.json, read and written: shapes by trait, for every model that is known, also those whose config.json says no more than their name.
#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/model_families.h"
#include "planner/core/readers.h"

namespace zeroplan {

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

void read_norm_and_mlp(const JsonFields& fields, Model& model) {
  read_choice(fields, "norm", 3, model.norm);
  read_choice(fields, "mlp", 4, model.mlp);
}

/// Without a family: Llama, or an mpt-like GPT where there are layer norms and no gated MLP.
const Family& read_zoo_family(const JsonFields& fields) {
  if (!fields.has("family")) {
    Model traits;
    traits.mlp = MlpKind::gelu;
    read_norm_and_mlp(fields, traits);
    return *find_family(traits.norm == NormKind::layernorm && !traits.has_gate() ? "mpt" : "llama");
  }
  const std::string name = fields.text("family");
  const Family* family = find_zoo_family(name);
  if (family == nullptr) fields.fail("family", fmt::format("{} is not modelled", name), supported_families());
  if (name == "deepseek" && fields.boolean_or("router_bias", false)) return *find_family("deepseek_v3");
  return *family;
}

void read_zoo_rope(const JsonFields& fields, Model& model) {
  model.rope_theta = fields.number_or("rope_theta", model.rope_theta, kRopeThetaRange) * fields.number_or("rope_ratio", 1, {0, 1e9, true});
  if (fields.has("rope_local_theta")) model.rope_local_theta = fields.number("rope_local_theta", kRopeThetaRange);
  model.partial_rotary_factor = fields.number_or("partial_rotary_factor", model.partial_rotary_factor, {0, 1, true});
  if (!fields.has("rope_scaling")) return;
  if (fields.at("rope_scaling").is_string()) {
    model.rope_scaling = fields.text("rope_scaling");
    return;
  }
  const JsonFields scaling = fields.object("rope_scaling");
  const std::string_view type = key_present(scaling, "rope_type|type");
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
  read_norm_and_mlp(fields, model);
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
  if (fields.has("word_embed_proj_dim")) model.word_embed_proj_dim = fields.integer("word_embed_proj_dim", kSizeRange);
  model.norm_eps = fields.number_or("norm_eps", model.norm_eps, {0, 1});
  if (fields.has("sliding_window")) model.sliding_window = fields.integer("sliding_window", kSizeRange);
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
  model.hidden_size = fields.integer("hidden_size", kSizeRange);
  model.num_layers = fields.integer("num_layers", {1, kMostLayers});
  model.vocab_size = fields.integer("vocab_size", kSizeRange);
  model.intermediate_size = fields.integer("intermediate_size", kSizeRange);
  model.num_heads = fields.integer("num_heads", kSizeRange);
  model.num_kv_heads = fields.integer_or("num_kv_heads", model.num_heads, kSizeRange);
  model.head_dim = read_head_dim(fields, model);
  model.max_position = fields.integer_or("max_position", model.max_position, kSizeRange);
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
