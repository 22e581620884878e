// Models from Hugging Face config.json files, and what their units hold.
// Parameter count of a Llama-like model: V·H·(1 or 2) + L·[H·(h + 2k)·D (+ biases) + h·D·H + 3·H·F + 2·H (+ 2·D)] + H.
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

// ---- units ----

namespace {

/// Appends parameters at aligned offsets.
class FlatBuffer {
 public:
  void add(ParameterId id, std::int64_t rows, std::int64_t columns) {
    const std::int64_t offset_elems = parameters_.empty() ? 0 : round_up(end_elems_, kParameterAlignment);
    if (__builtin_add_overflow(offset_elems, checked_multiply(rows, columns), &end_elems_)) detail::overflow();
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

/// Sums that refuse to wrap.
std::int64_t checked_sum(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  if (__builtin_add_overflow(a, b, &out)) detail::overflow();
  return out;
}

}  // namespace

std::vector<Parameter> unit_parameters(const Model& model, UnitKind kind) {
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

std::int64_t unit_parameter_elems(const Model& model, UnitKind kind) {
  std::int64_t elems = 0;
  for (const Parameter& parameter : unit_parameters(model, kind)) elems = checked_sum(elems, parameter.elems());
  return elems;
}

std::int64_t unit_flat_elems(const Model& model, UnitKind kind) {
  const Parameter last = unit_parameters(model, kind).back();
  return last.offset_elems + last.elems();
}

std::int64_t parameter_elems(const Model& model) {
  const std::int64_t blocks = checked_multiply(model.num_layers, unit_parameter_elems(model, UnitKind::block));
  return checked_sum(checked_sum(unit_parameter_elems(model, UnitKind::embedding), blocks), unit_parameter_elems(model, UnitKind::head));
}

namespace {

bool is_matrix(ParameterId id) {
  return id == ParameterId::qkv || id == ParameterId::attention_out || id == ParameterId::gate_up || id == ParameterId::down;
}

}  // namespace

std::int64_t matmul_parameter_elems(const Model& model) {
  std::int64_t block = 0;
  for (const Parameter& parameter : unit_parameters(model, UnitKind::block))
    if (is_matrix(parameter.id)) block = checked_sum(block, parameter.elems());
  return checked_sum(checked_multiply(model.num_layers, block), checked_multiply(model.vocab_size, model.hidden_size));
}

// ---- checks ----

namespace {

std::optional<SizeProblem> find_size_out_of_range(const Model& model) {
  struct Size {
    std::string_view key;
    std::int64_t value;
    std::int64_t most;
  };
  const std::array<Size, 8> sizes{{{"hidden_size", model.hidden_size, kLargestSize},
                                   {"num_hidden_layers", model.num_layers, kMostLayers},
                                   {"vocab_size", model.vocab_size, kLargestSize},
                                   {"intermediate_size", model.intermediate_size, kLargestSize},
                                   {"num_attention_heads", model.num_heads, kLargestSize},
                                   {"num_key_value_heads", model.num_kv_heads, kLargestSize},
                                   {"head_dim", model.head_dim, kLargestSize},
                                   {"max_position_embeddings", model.max_position, kLargestSize}}};
  for (const Size& size : sizes)
    if (size.value < 1 || size.value > size.most)
      return SizeProblem{size.key, fmt::format("must be a whole number from 1 to {}, got {}", size.most, size.value)};
  return std::nullopt;
}

}  // namespace

std::optional<SizeProblem> find_size_problem(const Model& model) {
  if (auto problem = find_size_out_of_range(model)) return problem;
  if (model.num_heads % model.num_kv_heads != 0)
    return SizeProblem{"num_key_value_heads", fmt::format("{} does not divide num_attention_heads {}", model.num_kv_heads, model.num_heads)};
  if (model.head_dim % 2 != 0)
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

/// What a model_type implies where its config.json is silent (defaults of transformers 5.23; InternLM2: its own configuration file).
struct Family {
  std::string_view model_type;
  std::string_view architecture;
  bool qkv_bias;
  bool qk_norm;
  QkvLayout qkv_layout;
  std::int64_t max_position;
  std::optional<std::int64_t> head_dim;  ///< else hidden_size / num_attention_heads
};

constexpr std::array<Family, 6> kFamilies{{
    {"llama", "LlamaForCausalLM", false, false, QkvLayout::contiguous, 2048, std::nullopt},
    {"internlm2", "InternLM2ForCausalLM", false, false, QkvLayout::grouped, 2048, std::nullopt},
    {"internlm3", "InternLM3ForCausalLM", false, false, QkvLayout::contiguous, 32768, std::nullopt},
    {"qwen2", "Qwen2ForCausalLM", true, false, QkvLayout::contiguous, 32768, std::nullopt},
    {"qwen3", "Qwen3ForCausalLM", false, true, QkvLayout::contiguous, 32768, 128},
    {"mistral", "MistralForCausalLM", false, false, QkvLayout::contiguous, 131072, std::nullopt},
}};

constexpr std::string_view kSupported = "Modelled: llama, internlm2, internlm3, qwen2, qwen3, mistral (dense)";
constexpr double kDefaultNormEps = 1e-6;  // of every family in transformers
constexpr double kDefaultRopeTheta = 10000.0;

const Family* find_family(std::string_view name) {
  for (const Family& family : kFamilies)
    if (family.model_type == name || family.architecture == name) return &family;
  return nullptr;
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
  if (!has_type && architecture.empty()) config.fail("model_type", "is missing", std::string(kSupported));
  const std::string asked = has_type ? config.text("model_type") : architecture;
  const std::string_view key = has_type ? "model_type" : "architectures";
  const Family* family = find_family(asked);
  if (family == nullptr) config.fail(key, fmt::format("{} is not modelled", asked), std::string(kSupported));
  // InternLM3 files of transformers name Llama's class, whose layout they share.
  const bool llama_class = family->model_type == "internlm3" && architecture == "LlamaForCausalLM";
  if (!architecture.empty() && architecture != family->architecture && !llama_class)
    config.fail("architectures", fmt::format("{} is not modelled for model_type {}", architecture, family->model_type),
                fmt::format("Expected {}. {}", family->architecture, kSupported));
  return *family;
}

/// Refuses what would add parameters or operators that no Program of ours has.
void refuse_unmodelled(const JsonFields& config, const Family& family) {
  for (const std::string_view key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    std::int64_t experts = 0;
    if (config.has(key) && !(read_integer(config.at(key), experts) && (experts == 0 || experts == 1)))
      config.fail(key, fmt::format("{} means a mixture of experts, which is not modelled", describe(config.at(key))), std::string(kSupported));
  }
  for (const std::string_view key : {"kv_lora_rank", "q_lora_rank"})
    if (config.has(key)) config.fail(key, "means multi-head latent attention, which is not modelled", std::string(kSupported));
  if (config.has("quantization_config"))
    config.fail("quantization_config", "quantised weights cannot be trained in full", "Use the config.json of the model that is not quantised");
  if (config.boolean_or("mlp_bias", false)) config.fail("mlp_bias", "mlp_bias=true adds biases to gate, up and down, which are not modelled", "");
  if (config.boolean_or("bias", false)) config.fail("bias", "bias=true adds a bias to the attention output, which is not modelled", "");
  // Qwen2 has no such key: its projections are fixed in code.
  if (family.model_type != "qwen2" && config.boolean_or("attention_bias", false))
    config.fail("attention_bias", "attention_bias=true adds a bias to o_proj, which is not modelled", "");
  if (config.has("hidden_act") && config.text("hidden_act") != "silu" && config.text("hidden_act") != "swish")
    config.fail("hidden_act", fmt::format("{} is not modelled", describe(config.at("hidden_act"))), "Modelled: silu");
}

bool read_qkv_bias(const JsonFields& config, const Family& family) {
  const bool bias = config.boolean_or("qkv_bias", family.qkv_bias);
  const bool may_have_bias = family.model_type == "qwen2" || family.model_type == "internlm3";
  if (bias && !may_have_bias) config.fail("qkv_bias", fmt::format("qkv_bias=true is not part of {}", family.model_type), "");
  return bias;
}

struct Rope {
  double theta = kDefaultRopeTheta;
  std::string scaling;
};

void refuse_partial_rope(const JsonFields& fields) {
  if (fields.number_or("partial_rotary_factor", 1.0, {0, 1, true}) != 1.0)
    fields.fail("partial_rotary_factor", "rotary embeddings on a part of each head are not modelled", "");
}

/// transformers v4 has rope_theta and rope_scaling {type or rope_type}, v5 has both in rope_parameters.
Rope read_rope(const JsonFields& config) {
  constexpr NumberRange kTheta{1, 1e15};
  Rope rope{config.number_or("rope_theta", kDefaultRopeTheta, kTheta), ""};
  refuse_partial_rope(config);
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key)) continue;
    const JsonFields fields = config.object(key);
    for (const std::string_view per_layer : {"full_attention", "sliding_attention"})
      if (fields.has(per_layer)) fields.fail(per_layer, "rotary embeddings that differ between layers are not modelled", "");
    refuse_partial_rope(fields);
    rope.theta = fields.number_or("rope_theta", rope.theta, kTheta);
    const std::string_view type = fields.has("rope_type") ? "rope_type" : "type";
    if (!fields.has(type) && !fields.has("rope_theta")) fields.fail("rope_type", "is missing", "Name the rule: default, linear, dynamic, yarn, llama3, ...");
    if (fields.has(type)) rope.scaling = fields.text(type) == "default" ? "" : fields.text(type);
  }
  return rope;
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

std::optional<std::int64_t> read_sliding_window(const JsonFields& config, const Family& family, std::int64_t num_layers) {
  const bool is_qwen = family.model_type == "qwen2" || family.model_type == "qwen3";
  if (!is_qwen && family.model_type != "mistral") return std::nullopt;
  if (!config.has("sliding_window")) return std::nullopt;
  const std::int64_t window = config.integer("sliding_window", {1, kLargestSize});
  if (is_qwen && !config.boolean_or("use_sliding_window", false)) return std::nullopt;
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

std::int64_t read_head_dim(const JsonFields& config, const Family& family, const Model& model) {
  if (config.has("head_dim")) return config.integer("head_dim", {1, kLargestSize});
  if (family.head_dim) return *family.head_dim;
  if (model.hidden_size % model.num_heads != 0)
    config.fail("num_attention_heads", fmt::format("{} does not divide hidden_size {}", model.num_heads, model.hidden_size), "Set head_dim");
  return model.hidden_size / model.num_heads;
}

}  // namespace

Model model_from_config(const nlohmann::json& config, const std::string& file) { return read_model(JsonFields(config, file, "")); }

Model read_model(const JsonFields& config) {
  const Family& family = read_family(config);
  refuse_unmodelled(config, family);
  constexpr IntegerRange kSize{1, kLargestSize};
  Model model;
  model.model_type = family.model_type;
  model.name = read_name(config);
  model.hidden_size = config.integer("hidden_size", kSize);
  model.num_layers = config.integer("num_hidden_layers", {1, kMostLayers});
  model.vocab_size = config.integer("vocab_size", kSize);
  model.intermediate_size = config.integer("intermediate_size", kSize);
  model.num_heads = config.integer("num_attention_heads", kSize);
  model.num_kv_heads = config.integer_or("num_key_value_heads", model.num_heads, kSize);
  model.head_dim = read_head_dim(config, family, model);
  model.tie_embeddings = config.boolean_or("tie_word_embeddings", false);
  model.qkv_bias = read_qkv_bias(config, family);
  model.qk_norm = family.qk_norm;
  model.qkv_layout = family.qkv_layout;
  model.norm_eps = config.number_or("rms_norm_eps", kDefaultNormEps, {0, 1});
  const Rope rope = read_rope(config);
  model.rope_theta = rope.theta;
  model.rope_scaling = rope.scaling;
  model.max_position = config.integer_or("max_position_embeddings", family.max_position, kSize);
  model.sliding_window = read_sliding_window(config, family, model.num_layers);
  if (const auto problem = find_size_problem(model)) config.fail(problem->key, problem->problem, "");
  return model;
}

nlohmann::json config_from_model(const Model& model) {
  const Family* family = find_family(model.model_type);
  nlohmann::json config{{"_name", model.name},
                        {"model_type", model.model_type},
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
  if (family != nullptr) config["architectures"] = {family->architecture};
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

}  // namespace zeroplan
