#include <catch2/catch.hpp>

#include <cmath>

#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/model.h"
#include "planner/core/readers.h"
#include "planner/core/units.h"

using namespace zeroplan;
using Catch::Contains;
using nlohmann::json;

namespace {

json llama(json changes = json::object()) {
  json config = json::parse(R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
    "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2})");
  config.update(changes);
  return config;
}

Model model_of(const json& config) { return model_from_config(config, "folder/config.json"); }

std::vector<ParameterId> ids(const std::vector<Parameter>& parameters) {
  std::vector<ParameterId> out;
  for (const Parameter& parameter : parameters) out.push_back(parameter.id);
  return out;
}

}  // namespace

TEST_CASE("a block's parameters come in flat order with their shapes", "[unit]") {
  Model model = model_of(llama());
  const auto block = unit_parameters(model, UnitKind::block);
  CHECK(ids(block) == std::vector{ParameterId::attention_norm, ParameterId::qkv, ParameterId::attention_out, ParameterId::ffn_norm, ParameterId::gate_up,
                                  ParameterId::down});
  CHECK(block[1].rows == (4 + 2 * 2) * 16);
  CHECK(block[1].columns == 64);
  CHECK(block[4].rows == 2 * 96);
  CHECK(block[5].rows == 64);
  CHECK(block[5].columns == 96);
  model.qkv_bias = model.qk_norm = true;
  CHECK(ids(unit_parameters(model, UnitKind::block)) ==
        std::vector{ParameterId::attention_norm, ParameterId::qkv, ParameterId::qkv_bias, ParameterId::query_norm, ParameterId::key_norm,
                    ParameterId::attention_out, ParameterId::ffn_norm, ParameterId::gate_up, ParameterId::down});
}

TEST_CASE("parameters start at aligned offsets, do not overlap and the flat length ends with the last", "[unit]") {
  Model model = model_of(llama({{"hidden_size", 9 * 6}, {"num_attention_heads", 9}, {"num_key_value_heads", 3}, {"intermediate_size", 35}}));
  model.qkv_bias = model.qk_norm = true;
  for (const UnitKind kind : {UnitKind::embedding, UnitKind::block, UnitKind::head}) {
    std::int64_t end = 0;
    for (const Parameter& parameter : unit_parameters(model, kind)) {
      CHECK(parameter.offset_elems % kParameterAlignment == 0);
      CHECK(parameter.offset_elems >= end);
      CHECK(parameter.offset_elems < end + kParameterAlignment);
      end = parameter.offset_elems + parameter.elems();
    }
    CHECK(unit_flat_elems(model, kind) == end);
  }
  CHECK(unit_flat_elems(model, UnitKind::block) > unit_parameter_elems(model, UnitKind::block));  // the norms of 54 leave gaps
}

TEST_CASE("a tied head holds its norm only and the model counts it once", "[unit]") {
  const Model untied = model_of(llama());
  const Model tied = model_of(llama({{"tie_word_embeddings", true}}));
  CHECK(ids(unit_parameters(untied, UnitKind::head)) == std::vector{ParameterId::final_norm, ParameterId::head_weight});
  CHECK(ids(unit_parameters(tied, UnitKind::head)) == std::vector{ParameterId::final_norm});
  CHECK(parameter_elems(untied) - parameter_elems(tied) == 100 * 64);
  CHECK(matmul_parameter_elems(untied) == matmul_parameter_elems(tied));
}

TEST_CASE("matmul parameters are the weights that a token is multiplied with", "[unit]") {
  Model model = model_of(llama());
  const std::int64_t expected = 2 * (64 * 128 + 64 * 64 + 3 * 64 * 96) + 100 * 64;
  CHECK(matmul_parameter_elems(model) == expected);
  model.qkv_bias = model.qk_norm = true;
  CHECK(matmul_parameter_elems(model) == expected);
}

TEST_CASE("what a llama config leaves out has transformers' defaults", "[unit]") {
  json config = llama();
  config.erase("num_key_value_heads");
  const Model model = model_of(config);
  CHECK(model.num_kv_heads == 4);
  CHECK(model.head_dim == 16);
  CHECK_FALSE(model.tie_embeddings);
  CHECK(model.norm_eps == 1e-6);
  CHECK(model.rope_theta == 10000.0);
  CHECK(model.max_position == 2048);
  CHECK(model.rope_scaling.empty());
  CHECK(model.name == "folder");
  CHECK(model_of(llama({{"num_key_value_heads", nullptr}})).num_kv_heads == 4);
}

TEST_CASE("families differ in biases, norms and the layout of qkv", "[unit]") {
  const auto family = [](const char* type, json changes = json::object()) {
    json config = llama(changes);
    config["model_type"] = type;
    config.erase("architectures");
    return model_of(config);
  };
  CHECK(family("internlm2").qkv_layout == QkvLayout::grouped);
  CHECK_FALSE(family("internlm2").qkv_bias);
  CHECK(family("internlm3").qkv_layout == QkvLayout::contiguous);
  CHECK(family("internlm3", {{"qkv_bias", true}}).qkv_bias);
  CHECK(family("qwen2").qkv_bias);
  CHECK_FALSE(family("qwen2").qk_norm);
  CHECK(family("qwen3").qk_norm);
  CHECK(family("qwen3").head_dim == 128);
  CHECK(family("qwen3", {{"head_dim", 32}}).head_dim == 32);
  CHECK_FALSE(family("qwen3").qkv_bias);
  CHECK(family("mistral", {{"sliding_window", 4096}}).sliding_window == 4096);
  CHECK(family("mistral", {{"sliding_window", nullptr}}).sliding_window == std::nullopt);
  CHECK(family("llama", {{"sliding_window", 4096}}).sliding_window == std::nullopt);
}

TEST_CASE("an architecture alone is enough to know the family", "[unit]") {
  json config = llama({{"architectures", {"InternLM2ForCausalLM"}}});
  config.erase("model_type");
  CHECK(model_of(config).model_type == "internlm2");
  CHECK(model_of(llama({{"model_type", "internlm3"}, {"architectures", {"LlamaForCausalLM"}}})).model_type == "internlm3");
}

TEST_CASE("spellings of transformers v4 and v5 read to the same model", "[unit]") {
  const json v4 = llama({{"torch_dtype", "bfloat16"}, {"rope_theta", 500000.0}, {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}});
  const json v5 = llama({{"dtype", "bfloat16"}, {"rope_parameters", {{"rope_theta", 500000.0}, {"rope_type", "llama3"}, {"factor", 8.0}}}});
  CHECK(model_of(v4) == model_of(v5));
  CHECK(model_of(v5).rope_theta == 500000.0);
  CHECK(model_of(v5).rope_scaling == "llama3");
  CHECK(model_of(llama({{"rope_parameters", {{"rope_theta", 1e6}, {"rope_type", "default"}}}})).rope_scaling.empty());
  CHECK(model_of(llama({{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}})).rope_scaling == "dynamic");
}

TEST_CASE("Qwen's sliding window counts only where it is used by every layer", "[unit]") {
  const auto qwen = [](const json& changes) {
    json config = llama({{"model_type", "qwen2"}, {"architectures", {"Qwen2ForCausalLM"}}, {"sliding_window", 128}});
    config.update(changes);
    return model_of(config);
  };
  CHECK(qwen({{"use_sliding_window", false}}).sliding_window == std::nullopt);
  CHECK(qwen(json::object()).sliding_window == std::nullopt);
  CHECK(qwen({{"use_sliding_window", true}, {"max_window_layers", 0}}).sliding_window == 128);
  CHECK(qwen({{"use_sliding_window", true}, {"max_window_layers", 2}}).sliding_window == std::nullopt);
  CHECK_THROWS_WITH(qwen({{"use_sliding_window", true}, {"max_window_layers", 1}}), Contains("/max_window_layers"));
  CHECK_THROWS_WITH(qwen({{"use_sliding_window", true}, {"layer_types", {"full_attention", "sliding_attention"}}}), Contains("/layer_types"));
  CHECK(qwen({{"use_sliding_window", true}, {"layer_types", {"sliding_attention", "sliding_attention"}}}).sliding_window == 128);
}

TEST_CASE("a model's name comes from _name, the hub's name or the file", "[unit]") {
  CHECK(model_of(llama({{"_name", "mine"}, {"_name_or_path", "meta-llama/Llama-2-7b-hf"}})).name == "mine");
  CHECK(model_of(llama({{"_name_or_path", "meta-llama/Llama-2-7b-hf"}})).name == "Llama-2-7b-hf");
  CHECK(model_of(llama({{"_name_or_path", ""}})).name == "folder");
  CHECK(model_from_config(llama(), "tiny.json").name == "tiny");
  CHECK(model_from_config(llama(), "config.json").name == "config");
}

TEST_CASE("what is not modelled is refused by name", "[unit]") {
  struct Refusal {
    json changes;
    std::string names;
  };
  const Refusal refusals[] = {
      {{{"model_type", "mamba"}, {"architectures", {"MambaForCausalLM"}}}, "mamba is not modelled. Modelled: llama, internlm2"},
      {{{"model_type", "llava"}}, "llava is not modelled"},
      {{{"model_type", "mixtral"}}, "LlamaForCausalLM is not modelled for model_type mixtral"},
      {{{"architectures", {"LlamaForSequenceClassification"}}}, "LlamaForSequenceClassification is not modelled"},
      {{{"architectures", {"InternLM2ForCausalLM"}}}, "/architectures"},
      {{{"model_type", "mistral"}, {"architectures", nullptr}, {"attention_bias", true}}, "attention_bias=true is not part of mistral"},
      {{{"model_type", "qwen3"}, {"architectures", nullptr}, {"mlp_bias", true}}, "mlp_bias=true is not part of qwen3"},
      {{{"bias", true}}, "bias=true is not part of llama"},
      {{{"qkv_bias", true}}, "qkv_bias=true is not part of llama"},
      {{{"num_local_experts", 8}}, "/num_local_experts: 8 means a mixture of experts"},
      {{{"n_routed_experts", 256}}, "mixture of experts"},
      {{{"num_experts", "many"}}, "mixture of experts"},
      {{{"kv_lora_rank", 512}}, "latent attention"},
      {{{"quantization_config", {{"bits", 4}}}}, "quantised"},
      {{{"hidden_act", "gelu"}}, "\"gelu\" is not modelled"},
      {{{"partial_rotary_factor", 0.5}}, "/partial_rotary_factor"},
      {{{"rope_parameters", {{"rope_theta", 1e4}, {"partial_rotary_factor", 0.25}}}}, "/rope_parameters/partial_rotary_factor"},
      {{{"rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}}}, "/rope_parameters/full_attention"},
  };
  for (const Refusal& refusal : refusals) {
    INFO(refusal.changes.dump());
    CHECK_THROWS_AS(model_of(llama(refusal.changes)), InputError);
    CHECK_THROWS_WITH(model_of(llama(refusal.changes)), Contains(refusal.names));
  }
  json neither = llama();
  neither.erase("model_type");
  neither.erase("architectures");
  CHECK_THROWS_WITH(model_of(neither), Contains("/model_type: is missing"));
}

TEST_CASE("any hostile value of any size is an InputError that names the key", "[unit]") {
  const json hostile[] = {0,     -1,    4096.5, 4096.0, 1e300, std::uint64_t{1} << 63, std::int64_t{1} << 62, (std::int64_t{1} << 31) + 1, "4096", "", true, json::array(),
                          json::array({64}), json::object(), std::nan("")};
  for (const char* key : {"hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
                          "max_position_embeddings"})
    for (const json& value : hostile) {
      INFO(key << " = " << describe(value));
      CHECK_THROWS_AS(model_of(llama({{key, value}})), InputError);
      CHECK_THROWS_WITH(model_of(llama({{key, value}})), Contains(std::string("/") + key));
    }
}

TEST_CASE("missing and null sizes are named", "[unit]") {
  for (const char* key : {"hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "num_attention_heads"}) {
    json config = llama();
    config.erase(key);
    CHECK_THROWS_WITH(model_of(config), Contains(std::string("/") + key + ": is missing"));
    CHECK_THROWS_WITH(model_of(llama({{key, nullptr}})), Contains(key) && Contains("null"));
  }
}

TEST_CASE("sizes that do not go together are refused", "[unit]") {
  CHECK_THROWS_WITH(model_of(llama({{"num_key_value_heads", 3}})), Contains("3 does not divide num_attention_heads 4"));
  CHECK_THROWS_WITH(model_of(llama({{"hidden_size", 66}})), Contains("4 does not divide hidden_size 66"));
  CHECK_THROWS_WITH(model_of(llama({{"head_dim", 15}})), Contains("15 is odd"));
  const std::int64_t most = std::int64_t{1} << 31;
  CHECK_THROWS_WITH(model_of(llama({{"num_attention_heads", most}, {"num_key_value_heads", most}, {"head_dim", most}})), Contains("/num_attention_heads"));
  CHECK_THROWS_WITH(model_of(llama({{"hidden_size", most}, {"intermediate_size", most}})), Contains("too many parameters"));
  CHECK_THROWS_WITH(model_of(llama({{"hidden_size", 1 << 20}, {"intermediate_size", 1 << 30}})), Contains("parameters, more than 1000000000000000"));
}

TEST_CASE("other hostile values are InputErrors", "[unit]") {
  const json hostile[] = {{{"rms_norm_eps", -1}},     {{"rms_norm_eps", "1e-5"}}, {{"rope_theta", 0}},          {{"rope_theta", std::nan("")}},
                          {{"rope_theta", "10000"}},  {{"rope_scaling", 3}},      {{"rope_scaling", {{"factor", 2}}}}, {{"tie_word_embeddings", 1}},
                          {{"model_type", 3}},        {{"model_type", ""}},       {{"architectures", "Llama"}}, {{"architectures", {1}}},
                          {{"_name", 5}},             {{"hidden_act", 1}}};
  for (const json& changes : hostile) {
    INFO(changes.dump());
    CHECK_THROWS_AS(model_of(llama(changes)), InputError);
  }
  for (const json& whole : {json(), json(3), json("text"), json::array(), json::array({llama()})}) CHECK_THROWS_AS(model_of(whole), InputError);
}

TEST_CASE("a model survives being written as a config.json", "[property]") {
  const json configs[] = {
      llama({{"_name", "a"}, {"rope_theta", 12345.678}, {"rms_norm_eps", 1e-5}, {"tie_word_embeddings", true}}),
      llama({{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}, {"max_position_embeddings", 131072}}),
      llama({{"model_type", "internlm2"}, {"architectures", {"InternLM2ForCausalLM"}}, {"bias", false}}),
      llama({{"model_type", "internlm3"}, {"architectures", {"InternLM3ForCausalLM"}}, {"qkv_bias", true}}),
      llama({{"model_type", "qwen2"}, {"architectures", {"Qwen2ForCausalLM"}}}),
      llama({{"model_type", "qwen2"}, {"architectures", nullptr}, {"qkv_bias", false}}),
      llama({{"model_type", "qwen3"}, {"architectures", nullptr}, {"head_dim", 32}, {"sliding_window", 64}, {"use_sliding_window", true}, {"max_window_layers", 0}}),
      llama({{"model_type", "mistral"}, {"architectures", nullptr}, {"sliding_window", 4096}}),
      llama({{"model_type", "mistral"}, {"architectures", nullptr}}),
  };
  for (const json& config : configs) {
    const Model model = model_of(config);
    CHECK(model_from_config(config_from_model(model), "elsewhere.json") == model);
    CHECK(model_from_config(json::parse(config_from_model(model).dump()), "elsewhere.json") == model);
  }
}

TEST_CASE("a model made in code with absurd sizes overflows into an error and never into a number", "[unit]") {
  Model model = model_of(llama());
  model.hidden_size = model.intermediate_size = std::int64_t{1} << 40;
  CHECK_THROWS_AS(parameter_elems(model), OverflowError);
  CHECK(find_size_problem(model));
  model = Model{};
  CHECK(find_size_problem(model)->key == "hidden_size");
}

// ---- families ----

namespace {

/// "q_proj[128,64] q_proj.bias ..." without shapes, as named_parameters() lists a unit.
std::string order_of(const Model& model, UnitKind kind = UnitKind::block, ModuleOrder order = ModuleOrder::own) {
  std::string names;
  for (const ModuleParameter& p : module_parameters(model, kind, order)) names += (names.empty() ? "" : " ") + std::string(name_of(p.module)) + (p.is_bias ? ".bias" : "");
  return names;
}

Model read(const char* text) { return model_of(json::parse(text)); }

}  // namespace

TEST_CASE("blocks list their tensors as transformers registers them", "[unit]") {
  // named_parameters() of transformers 5.24 models on the meta device.
  const std::string norms = " input_layernorm post_attention_layernorm";
  const std::string mlp = " gate_proj up_proj down_proj";
  CHECK(order_of(model_of(llama())) == "q_proj k_proj v_proj o_proj" + mlp + norms);
  CHECK(order_of(model_of(llama({{"attention_bias", true}}))) == "q_proj q_proj.bias k_proj k_proj.bias v_proj v_proj.bias o_proj o_proj.bias" + mlp + norms);
  CHECK(order_of(model_of(llama({{"model_type", "qwen3"}, {"architectures", nullptr}}))) == "q_proj k_proj v_proj o_proj q_norm k_norm" + mlp + norms);
  CHECK(order_of(read(R"({"model_type": "gemma2", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2})")) ==
        "q_proj k_proj v_proj o_proj" + mlp + norms + " pre_feedforward_layernorm post_feedforward_layernorm");
  CHECK(order_of(read(R"({"model_type": "phi3", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "intermediate_size": 96, "num_attention_heads": 4})")) ==
        "o_proj qkv_proj gate_up_proj down_proj" + norms);
  CHECK(order_of(read(R"({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100})")) ==
        "input_layernorm input_layernorm.bias qkv_proj qkv_proj.bias o_proj o_proj.bias post_attention_layernorm post_attention_layernorm.bias up_proj up_proj.bias down_proj "
        "down_proj.bias");
  CHECK(order_of(read(R"({"model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "intermediate_size": 96, "num_attention_heads": 4})")) ==
        "input_layernorm input_layernorm.bias post_attention_layernorm post_attention_layernorm.bias qkv_proj qkv_proj.bias o_proj o_proj.bias up_proj up_proj.bias down_proj "
        "down_proj.bias");
  CHECK(order_of(read(R"({"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "ffn_dim": 96, "num_attention_heads": 4})")) ==
        "k_proj k_proj.bias v_proj v_proj.bias q_proj q_proj.bias o_proj o_proj.bias input_layernorm input_layernorm.bias up_proj up_proj.bias down_proj down_proj.bias "
        "post_attention_layernorm post_attention_layernorm.bias");
  CHECK(order_of(read(R"({"model_type": "falcon", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "num_attention_heads": 4})")) ==
        "qkv_proj o_proj up_proj down_proj input_layernorm input_layernorm.bias");
  CHECK(order_of(read(R"({"model_type": "mpt", "d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 100})")) ==
        "input_layernorm qkv_proj o_proj post_attention_layernorm up_proj down_proj");
  CHECK(order_of(read(R"({"model_type": "glm", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2})")) ==
        "q_proj q_proj.bias k_proj k_proj.bias v_proj v_proj.bias o_proj gate_up_proj down_proj" + norms);
  CHECK(order_of(read(R"({"model_type": "olmo2", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2})")) ==
        "q_proj k_proj v_proj o_proj q_norm k_norm" + mlp + " post_attention_layernorm post_feedforward_layernorm");
}

TEST_CASE("one shape has its tensors in the order of whoever implements it", "[unit]") {
  const Model model = model_of(llama({{"model_type", "internlm2"}, {"architectures", nullptr}}));
  CHECK(order_of(model) == "qkv_proj o_proj gate_proj up_proj down_proj input_layernorm post_attention_layernorm");
  CHECK(order_of(model, UnitKind::block, ModuleOrder::llama) == "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj input_layernorm post_attention_layernorm");
  CHECK(order_of(model, UnitKind::block, ModuleOrder::torchtitan) == "q_proj k_proj v_proj o_proj gate_proj down_proj up_proj input_layernorm post_attention_layernorm");
  CHECK(order_of(read(R"({"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "ffn_dim": 96, "num_attention_heads": 4, "word_embed_proj_dim": 32,
    "do_layer_norm_before": false})"),
                 UnitKind::embedding) == "embed_tokens embed_positions project_in");
}

TEST_CASE("our own flat buffers hold what the modules hold", "[property]") {
  Model model = model_of(llama());
  model.qkv_bias = model.qk_norm = true;
  for (const UnitKind kind : {UnitKind::embedding, UnitKind::block, UnitKind::head}) {
    std::int64_t elems = 0;
    for (const Parameter& parameter : unit_parameters(model, kind)) elems += parameter.elems();
    CHECK(unit_parameter_elems(model, kind) == elems);
  }
}

TEST_CASE("defaults of the other families are transformers'", "[unit]") {
  const Model gpt2 = read(R"({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100})");
  CHECK(gpt2.intermediate_size == 256);
  CHECK(gpt2.tie_embeddings);
  CHECK(gpt2.position == PositionKind::learned);
  CHECK(gpt2.max_position == 1024);
  const Model neox = read(R"({"model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "intermediate_size": 96, "num_attention_heads": 4,
    "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}})");
  CHECK(neox.partial_rotary_factor == 0.5);
  CHECK(neox.parallel_residual);
  CHECK_FALSE(neox.tie_embeddings);
  const Model falcon = read(R"({"model_type": "falcon", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "num_attention_heads": 4, "new_decoder_architecture": true, "num_kv_heads": 2})");
  CHECK(falcon.num_kv_heads == 2);
  CHECK(falcon.norms_per_layer == 2);
  CHECK_FALSE(falcon.qkv_bias);
  const Model mpt = read(R"({"model_type": "mpt", "d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 100, "attn_config": {"alibi": false}})");
  CHECK(mpt.position == PositionKind::learned);
  CHECK_FALSE(mpt.norm_bias);
  const Model opt = read(R"({"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "ffn_dim": 96, "num_attention_heads": 4})");
  CHECK(opt.position_offset_rows == 2);
  CHECK(opt.mlp == MlpKind::relu);
  const Model bloom = read(R"({"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100})");
  CHECK(bloom.embedding_norm);
  CHECK(bloom.position == PositionKind::alibi);
}

TEST_CASE("gemma 3 of transformers v4 and v5 is one model", "[unit]") {
  const char* v4 = R"({"_name": "g", "model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 6, "vocab_size": 100, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "sliding_window": 512, "sliding_window_pattern": 6, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})";
  const char* v5 = R"({"_name": "g", "model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 6, "vocab_size": 100, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "sliding_window": 512, "_sliding_window_pattern": 6, "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
    "sliding_attention", "full_attention"], "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}, "full_attention": {"rope_type": "linear", "factor": 8.0,
    "rope_theta": 1000000.0}}})";
  CHECK(read(v4) == read(v5));
  CHECK(read(v5).full_attention_every == 6);
}

TEST_CASE("our own engine refuses by name what it has no kernel for", "[unit]") {
  CHECK_FALSE(find_zeroplan_problem(model_of(llama())));
  CHECK(find_zeroplan_problem(model_of(llama({{"attention_bias", true}})))->key == "attn_out_bias");
  CHECK(find_zeroplan_problem(model_of(llama({{"mlp_bias", true}})))->key == "mlp_bias");
  const Model gpt2 = read(R"({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100})");
  CHECK(find_zeroplan_problem(gpt2)->key == "norm");
  CHECK_THROWS_AS(unit_parameters(gpt2, UnitKind::block), UsageError);
  CHECK_THROWS_WITH(unit_parameters(gpt2, UnitKind::block), Contains("norm=layernorm is not modelled by the zeroplan engine"));
  Model mixture = model_of(llama());
  mixture.num_experts = 8;
  CHECK(find_zeroplan_problem(mixture)->key == "num_experts");
}

// ---- objects of the zoo ----

TEST_CASE("an object of the zoo is read strictly and survives being written", "[unit]") {
  const json gpt = json::parse(R"({"hidden_size": 64, "num_layers": 2, "vocab_size": 100, "intermediate_size": 256, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "tie_embeddings": true,
    "position": "learned", "max_position": 128, "norm": "layernorm", "norm_eps": 1e-5, "mlp": "gelu", "qkv_bias": true, "attn_out_bias": true, "mlp_bias": true})");
  const Model model = model_from_zoo_object(gpt, "z.json");
  CHECK(model.model_type == "mpt");
  // V·H + P·H + L·(4·H² + 4·H + 2·H·4H + 5·H + 4·H) + 2·H
  CHECK(parameter_elems(model) == 100 * 64 + 128 * 64 + 2 * (4 * 64 * 64 + 4 * 64 + 8 * 64 * 64 + 5 * 64 + 4 * 64) + 2 * 64);
  CHECK(model_from_zoo_object(zoo_object_from_model(model), "z.json") == model);
  CHECK(model_from_config(config_from_model(model), "c.json") == model);
  json gated = gpt;  // an MLP with a gate is a Llama's, whatever its norm
  gated["mlp"] = "geglu-tanh";
  CHECK(model_from_zoo_object(gated, "z.json").model_type == "llama");
  const auto problem = [&](const char* key, json value) {
    json changed = gpt;
    changed[key] = std::move(value);
    try {
      model_from_zoo_object(changed, "z.json");
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(problem("num_head", 4), Contains("/num_head: is not a known key. Did you mean num_heads?"));
  CHECK_THAT(problem("norm", "batchnorm"), Contains("/norm") && Contains("rmsnorm(1+w)"));
  CHECK_THAT(problem("family", "mamba"), Contains("mamba is not modelled"));
  CHECK_THAT(problem("num_layers", 0), Contains("/num_layers"));
  CHECK_THAT(problem("num_kv_heads", 3), Contains("/num_kv_heads"));
  CHECK_THAT(problem("num_experts", -1), Contains("/num_experts"));
  CHECK_THAT(problem("vocab_size", std::uint64_t{1} << 63), Contains("/vocab_size"));
  CHECK(problem("position", "learned (+2 offset rows)").empty());
}
