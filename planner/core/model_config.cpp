// Hugging Face config.json files, read and written: v4 and v5 spellings, every family's own keys, and what is not modelled refused by name.
#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/model_families.h"
#include "planner/core/readers.h"

namespace zeroplan {

std::string_view key_present(const JsonFields& config, std::string_view names) {
  const std::string_view first = names.substr(0, names.find('|'));
  while (!names.empty()) {
    const std::size_t bar = std::min(names.find('|'), names.size());
    if (config.has(names.substr(0, bar))) return names.substr(0, bar);
    names.remove_prefix(std::min(bar + 1, names.size()));
  }
  return first;
}

std::int64_t read_head_dim(const JsonFields& config, const Model& model) {
  const std::string_view key = key_present(config, "head_dim|kv_channels");
  if (config.has(key)) return config.integer(key, kSizeRange);
  if (model.head_dim > 0) return model.head_dim;  // the family's
  if (model.hidden_size % model.num_heads != 0)
    config.fail("num_attention_heads", fmt::format("{} does not divide hidden_size {}", model.num_heads, model.hidden_size), "Set head_dim");
  return model.hidden_size / model.num_heads;
}

namespace {

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
  if (!has_type && architecture.empty()) config.fail("model_type", "is missing", supported_families());
  const std::string asked = has_type ? config.text("model_type") : architecture;
  const std::string_view key = has_type ? "model_type" : "architectures";
  const Family* family = find_family(asked);
  if (family == nullptr) config.fail(key, fmt::format("{} is not modelled", asked), supported_families());
  // InternLM3 files of transformers name Llama's class, whose layout they share.
  const bool llama_class = family->model_type == "internlm3" && architecture == "LlamaForCausalLM";
  if (!architecture.empty() && !lists(family->architectures, architecture) && !llama_class)
    config.fail("architectures", fmt::format("{} is not modelled for model_type {}", architecture, family->model_type),
                fmt::format("Expected {}. {}", family->architectures, supported_families()));
  return *family;
}

/// Refuses what a family's implementation does not have: other sizes or operators than those counted here.
void refuse_unmodelled(const JsonFields& config, const Family& family) {
  if (family.defaults.num_experts == 0)
    for (const std::string_view key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
      std::int64_t experts = 0;
      if (config.has(key) && !(read_integer(config.at(key), experts) && (experts == 0 || experts == 1)))
        config.fail(key, fmt::format("{} means a mixture of experts, which is not part of {}", describe(config.at(key)), family.model_type), supported_families());
    }
  if (family.defaults.kv_lora_rank == 0)
    for (const std::string_view key : {"kv_lora_rank", "q_lora_rank"})
      if (config.has(key)) config.fail(key, fmt::format("means multi-head latent attention, which is not part of {}", family.model_type), supported_families());
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
  const std::string_view key = key_present(config, "hidden_activation|hidden_act|activation_function|activation");
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

/// transformers v5 of gemma3: {"full_attention": {...}, "sliding_attention": {...}}.
void read_rope_of_layers(const JsonFields& fields, const Family& family, Model& model) {
  for (const std::string_view layers : {"full_attention", "sliding_attention"}) {
    if (!fields.has(layers)) continue;
    if (family.model_type != "gemma3_text") fields.fail(layers, fmt::format("rotary embeddings that differ between layers are not part of {}", family.model_type), "");
    const JsonFields of = fields.object(layers);
    if (layers == "sliding_attention") {
      model.rope_local_theta = of.number_or("rope_theta", *model.rope_local_theta, kRopeThetaRange);
    } else {
      model.rope_theta = of.number_or("rope_theta", model.rope_theta, kRopeThetaRange);
      if (of.has("rope_type")) model.rope_scaling = of.text("rope_type") == "default" ? "" : of.text("rope_type");
    }
  }
}

/// transformers v4 has rope_theta and rope_scaling {type or rope_type}, v5 has both in rope_parameters.
void read_rope(const JsonFields& config, const Family& family, Model& model) {
  const std::string_view theta = key_present(config, "rope_theta|rotary_emb_base");
  model.rope_theta = config.number_or(theta, model.rope_theta, kRopeThetaRange);
  read_partial_rope(config, family, model);
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key)) continue;
    const JsonFields fields = config.object(key);
    if (fields.has("full_attention") || fields.has("sliding_attention")) {
      read_rope_of_layers(fields, family, model);
      continue;
    }
    read_partial_rope(fields, family, model);
    model.rope_theta = fields.number_or("rope_theta", model.rope_theta, kRopeThetaRange);
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
  const std::string_view key = key_present(config, "sliding_window_pattern|_sliding_window_pattern");
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

std::int64_t read_ffn(const JsonFields& config, const Family& family, const Model& model) {
  const std::string_view key = key_present(config, family.spelling.ffn);
  if (family.default_ffn_ratio > 0 && !config.has(key)) return checked_multiply(family.default_ffn_ratio, model.hidden_size);
  return config.integer(key, kSizeRange);
}

// What only one family's file says. Each gets a model whose common sizes are read.

void read_falcon(const JsonFields& config, Model& model) {
  const bool grouped = config.boolean_or("new_decoder_architecture", false);
  model.parallel_residual = grouped || config.boolean_or("parallel_attn", true);
  if (grouped) model.num_kv_heads = config.integer_or(key_present(config, "num_kv_heads|n_head_kv"), model.num_heads, kSizeRange);
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
    model.num_kv_heads = attention.integer_or("kv_n_heads", model.num_heads, kSizeRange);
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
  const std::int64_t width = config.integer_or("word_embed_proj_dim", model.hidden_size, kSizeRange);
  if (width != model.hidden_size) model.word_embed_proj_dim = width;
}

void read_chatglm(const JsonFields& config, Model& model) {
  const bool all = config.boolean_or("add_bias_linear", false);
  model.qkv_bias = all || config.boolean_or("add_qkv_bias", false);
  model.attn_out_bias = model.mlp_bias = all;
  if (config.boolean_or("multi_query_attention", false)) model.num_kv_heads = config.integer_or("multi_query_group_num", 1, kSizeRange);
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
  if (model.model_type == "gemma3_text") model.rope_local_theta = config.number_or("rope_local_base_freq", *model.rope_local_theta, kRopeThetaRange);
}

void read_experts(const JsonFields& config, Model& model) {
  constexpr IntegerRange kExperts{1, 1 << 20};
  model.num_experts = config.integer_or(key_present(config, "num_experts|num_local_experts|n_routed_experts"), model.num_experts, kExperts);
  model.experts_per_token = config.integer_or("num_experts_per_tok", model.experts_per_token, kExperts);
  const std::int64_t width = model.moe_intermediate_size > 0 ? model.moe_intermediate_size : model.intermediate_size;
  model.moe_intermediate_size = config.integer_or("moe_intermediate_size", width, kSizeRange);
  model.num_shared_experts = config.integer_or("n_shared_experts", model.num_shared_experts, {0, 1 << 20});
  model.first_k_dense = config.integer_or("first_k_dense_replace", model.first_k_dense, {0, kMostLayers});
  if (config.integer_or(key_present(config, "decoder_sparse_step|moe_layer_freq"), 1, {1, kMostLayers}) != 1)
    config.fail(key_present(config, "decoder_sparse_step|moe_layer_freq"), "blocks with and without experts in turn are not modelled", "");
  if (config.has("mlp_only_layers") && config.at("mlp_only_layers") != nlohmann::json::array())
    config.fail("mlp_only_layers", "blocks without experts in the middle are not modelled", "");
}

void read_latent_attention(const JsonFields& config, bool q_lora_rank_said, Model& model) {
  model.q_lora_rank = config.has("q_lora_rank") ? config.integer("q_lora_rank", kSizeRange) : q_lora_rank_said ? 0 : model.q_lora_rank;
  model.kv_lora_rank = config.integer_or("kv_lora_rank", model.kv_lora_rank, kSizeRange);
  model.qk_nope_head_dim = config.integer_or("qk_nope_head_dim", model.qk_nope_head_dim, kSizeRange);
  model.qk_rope_head_dim = config.integer_or("qk_rope_head_dim", model.qk_rope_head_dim, kSizeRange);
  model.v_head_dim = config.integer_or("v_head_dim", model.v_head_dim, kSizeRange);
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
  model.hidden_size = config.integer(key_present(config, keys.hidden), kSizeRange);
  model.num_layers = config.integer(key_present(config, keys.layers), {1, kMostLayers});
  model.vocab_size = config.integer(key_present(config, keys.vocab), kSizeRange);
  model.intermediate_size = read_ffn(config, family, model);
  model.num_heads = config.integer(key_present(config, keys.heads), kSizeRange);
  model.num_kv_heads = keys.kv_heads.empty() ? model.num_heads : config.integer_or(keys.kv_heads, model.num_heads, kSizeRange);
  model.head_dim = family.defaults.kv_lora_rank > 0 ? 2 : read_head_dim(config, model);
  model.tie_embeddings = config.boolean_or("tie_word_embeddings", model.tie_embeddings);
  read_biases(config, family, model);
  check_activation(config, model.mlp);
  if (!keys.eps.empty()) model.norm_eps = config.number_or(keys.eps, model.norm_eps, {0, 1});
  read_rope(config, family, model);
  model.max_position = config.integer_or(key_present(config, keys.max_position), model.max_position, kSizeRange);
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

}  // namespace zeroplan
