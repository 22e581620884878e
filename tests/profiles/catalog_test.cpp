#include <catch2/catch.hpp>

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/plan.h"
#include "profiles/catalog.h"

using namespace zeroplan;
using Catch::Contains;
using nlohmann::json;
namespace fs = std::filesystem;

TEST_CASE("every model of the catalogue has exactly its published number of parameters", "[published]") {
  const json file = read_json_file(ZEROPLAN_TEST_DATA "/parameter_counts.json");
  const json& counts = file["models"];
  CHECK(counts.size() == model_names().size());
  int published = 0;
  for (const json& entry : counts) {
    const auto name = entry["name"].get<std::string>();
    INFO(name);
    const Model model = catalogue_model(name);
    CHECK(model.name == name);
    CHECK(parameter_elems(model) == entry["parameters"]);
    const bool head_twice = entry.value("published_counts_tied_head_twice", false);
    if (!entry["published"].is_null()) {
      ++published;
      CHECK(parameter_elems(model) + (head_twice ? model.vocab_size * model.hidden_size : 0) == entry["published"]);
    }
    if (model.num_experts == 0)
      CHECK(parameter_elems(model) == unit_parameter_elems(model, UnitKind::embedding) + model.num_layers * unit_parameter_elems(model, UnitKind::block) +
                                          unit_parameter_elems(model, UnitKind::head) + model.vision_params + model.projector_params);
  }
  CHECK(published == 102);
}

TEST_CASE("a token meets its experts' share of the parameters", "[published]") {
  const json file = read_json_file(ZEROPLAN_TEST_DATA "/parameter_counts.json");
  int checked = 0;
  for (const json& entry : file["models"]) {
    if (!entry.contains("active")) continue;
    const Model model = catalogue_model(entry["name"].get<std::string>());
    INFO(model.name);
    // Published active counts hold the embedding table and the norms too.
    const std::int64_t idle = (model.num_layers - model.first_k_dense) * (model.num_experts - model.experts_per_token) * 3 * model.hidden_size * model.moe_intermediate_size;
    CHECK(parameter_elems(model) - idle == entry["active"]);
    CHECK(matmul_parameter_elems(model) < entry["active"]);
    CHECK(static_cast<double>(matmul_parameter_elems(model)) > 0.8 * entry["active"].get<double>());
    ++checked;
  }
  CHECK(checked == 7);
}

TEST_CASE("every model of the catalogue survives a round trip and says where it is from", "[unit]") {
  for (const std::string_view name : model_names()) {
    INFO(name);
    const Model model = catalogue_model(name);
    CHECK(model_from_config(config_from_model(model), "x.json") == model);
    CHECK_FALSE(json::parse(*model_config_text(name))["_source"].get<std::string>().empty());
  }
}

TEST_CASE("models of the catalogue keep what their families need", "[unit]") {
  CHECK(catalogue_model("internlm2-20b").qkv_layout == QkvLayout::grouped);
  CHECK(catalogue_model("internlm2_5-7b").rope_scaling == "dynamic");
  CHECK(catalogue_model("llama-3.1-8b").rope_scaling == "llama3");
  CHECK(catalogue_model("llama-3.2-1b").tie_embeddings);
  CHECK(catalogue_model("qwen2.5-7b").qkv_bias);
  CHECK(catalogue_model("qwen3-0.6b").qk_norm);
  CHECK(catalogue_model("mistral-7b-v0.1").sliding_window == 4096);
  CHECK(catalogue_model("mistral-7b-v0.3").sliding_window == std::nullopt);
  CHECK(catalogue_model("kjv-10m").vocab_size == 256);
  CHECK(catalogue_model("llama-2-7b").norm_eps == 1e-5);
}

TEST_CASE("traits of the other families come with their names", "[unit]") {
  CHECK(catalogue_model("gemma-2-9b").final_logit_softcapping == 30.0);
  CHECK(catalogue_model("gemma-3-27b-text").full_attention_every == 6);
  CHECK(catalogue_model("opt-350m").word_embed_proj_dim == 512);
  CHECK(catalogue_model("falcon-7b").num_kv_heads == 1);
  CHECK(catalogue_model("falcon-180b").num_kv_heads == 8);
  CHECK(catalogue_model("phi-4-mini").partial_rotary_factor == 0.75);
  CHECK(catalogue_model("glm-4-9b").rope_theta == 5e6);
  CHECK(catalogue_model("baichuan2-13b").position == PositionKind::alibi);
  CHECK(catalogue_model("baichuan2-7b").position == PositionKind::rope);
  CHECK(catalogue_model("internlm-7b-v1").attn_out_bias);
  CHECK(catalogue_model("olmo2-7b").qk_norm_full);
  CHECK(catalogue_model("deepseek-v2-lite").q_lora_rank == 0);
  CHECK(catalogue_model("internvl2-8b").projector_params == 33570816);
}

TEST_CASE("every device of the catalogue reads, and each of its numbers has a source", "[unit]") {
  CHECK(device_names().size() == 15);
  for (const std::string_view name : device_names()) {
    INFO(name);
    const DeviceProfile device = catalogue_device(name);
    CHECK(device.name == name);
    CHECK(device.matmul_bf16_flops_per_s <= device.peak_bf16_flops_per_s);
    CHECK((device.kind == DeviceKind::cpu) == (device.nccl_channels == 0));
    const json profile = json::parse(*device_text(name));
    for (const auto& [key, value] : profile.items())
      if (value.is_number()) CHECK_FALSE(profile["source"].value(key, "").empty());
  }
}

TEST_CASE("a GPU has less memory than its name says", "[unit]") {
  for (const std::string_view name : device_names()) {
    const auto dash = name.rfind('-');
    if (dash == std::string_view::npos) continue;
    const double nominal_gib = std::stod(std::string(name.substr(dash + 1)));
    const double capacity_gib = gib(catalogue_device(name).capacity_bytes);
    INFO(name);
    CHECK(capacity_gib < nominal_gib);
    CHECK(capacity_gib > 0.97 * nominal_gib);
  }
}

TEST_CASE("a cluster is made from its name, whatever the case", "[unit]") {
  const Cluster cluster = cluster_from_name("2x8xA100-80G");
  CHECK(cluster.world_size() == 16);
  CHECK(cluster.device.name == "a100-80g");
  CHECK(cluster.name == "2x8xA100-80G");
  CHECK(cluster.network_bytes_per_s == cluster.device.network_bytes_per_s);
  CHECK(cluster_from_name("2x8xrtx4090-24g").network_bytes_per_s == kDefaultNetworkBytesPerS);  // a device without usual ports
  CHECK(cluster_from_name("2xcpu").device.kind == DeviceKind::cpu);
  CHECK(cluster_from_json(cluster_to_json(cluster), "x.json") == cluster);
}

TEST_CASE("a wrong cluster name is a UsageError with the nearest device", "[unit]") {
  CHECK_THROWS_AS(cluster_from_name("8xa100-80"), UsageError);
  CHECK_THROWS_WITH(cluster_from_name("8xa100-80"), Contains("a100-80g"));
  CHECK_THROWS_WITH(cluster_from_name("8xh100"), Contains("h100-80g") && Contains("h100-96g"));
  CHECK_THROWS_WITH(cluster_from_name("8xquantum"), Contains("Known: a100-40g"));
  CHECK_THROWS_WITH(cluster_from_name("eight a100"), Contains("NxDEVICE"));
  CHECK_THROWS_AS(cluster_from_name(""), UsageError);
}

TEST_CASE("names are matched without case and suggestions are near", "[unit]") {
  CHECK(catalogue_model("InternLM2-20B").name == "internlm2-20b");
  CHECK(model_config_text("nothing") == std::nullopt);
  CHECK(device_text("H100-80G"));
  CHECK(nearest_name(model_names(), "lama-2-7b") == "llama-2-7b");
  CHECK(nearest_name(model_names(), "@@@@@@@@@@@@") == std::nullopt);
  CHECK_THROWS_WITH(catalogue_model("internlm2-20"), Contains("internlm2-20b"));
  const auto names = model_names();
  CHECK(std::is_sorted(names.begin(), names.end()));
}

TEST_CASE("a model is loaded by name, from a file or from a folder", "[unit]") {
  const fs::path folder = fs::temp_directory_path() / ("zeroplan_catalog_" + std::to_string(::getpid()));
  fs::create_directories(folder / "model");
  const Model yi = catalogue_model("yi-6b");
  write_file_atomically((folder / "model" / "config.json").string(), config_from_model(yi).dump());
  CHECK(load_model("yi-6b") == yi);
  CHECK(load_model((folder / "model").string()) == yi);
  CHECK(load_model((folder / "model" / "config.json").string()) == yi);
  CHECK_THROWS_AS(load_model(folder.string()), InputError);  // a folder without config.json
  CHECK_THROWS_AS(load_model("yi-6"), UsageError);
  CHECK_THROWS_WITH(load_model("yi-6"), Contains("yi-6b"));
  CHECK_THROWS_AS(load_model(""), UsageError);
  fs::remove_all(folder);
}

// ---- presets ----

namespace {

Question origin() { return default_question(catalogue_model("internlm2-20b"), cluster_from_name("8xa100-80g")); }

Question preset(const char* name) {
  Question question = origin();
  apply_preset(question, name);
  return question;
}

}  // namespace

TEST_CASE("every preset can be asked, keeps its name and says where it is from", "[unit]") {
  CHECK(preset_names().size() == 16);
  for (const std::string_view name : preset_names()) {
    INFO(name);
    Question question = origin();
    apply_preset(question, name);
    CHECK_NOTHROW(check_question(question));
    CHECK(question.plan.preset == name);
    CHECK(question.plan.engine != Engine::zeroplan);
    CHECK_FALSE(question.plan.tool.empty());
    CHECK(plan_from_json(plan_to_json(question), "p.json") == question);
    CHECK_FALSE(json::parse(*preset_text(name))["_source"].get<std::string>().empty());
  }
  Question question = origin();
  CHECK_THROWS_WITH(apply_preset(question, "xtuner-zero4"), Contains("xtuner-zero3"));
}

TEST_CASE("zero2 of four tools is four sizes of bucket", "[unit]") {
  CHECK(preset("xtuner-zero2").plan.deepspeed.reduce_bucket_size == 500'000'000);
  CHECK(preset("xtuner-zero2").plan.deepspeed.overlaps(2));
  CHECK(preset("llamafactory-z2").plan.deepspeed.reduce_bucket_size == 500'000'000);
  CHECK_FALSE(preset("llamafactory-z2").plan.deepspeed.overlaps(2));
  CHECK(preset("llamafactory-z2").plan.deepspeed.round_robin_gradients);
  CHECK(preset("swift-zero2").plan.deepspeed.allgather_bucket_size == 200'000'000);
  CHECK(preset("hf-auto-zero2").plan.deepspeed.reduce_bucket_size == 6144 * 6144);
}

TEST_CASE("auto of Hugging Face follows the model's hidden size", "[unit]") {
  const DeepSpeedOptions options = preset("hf-auto-zero3").plan.deepspeed;
  CHECK(options.reduce_bucket_size == 37748736);
  CHECK(options.stage3_prefetch_bucket_size == 33973862);  // 0.9 · 6144², rounded down
  CHECK(options.stage3_param_persistence_threshold == 61440);
  CHECK(preset("xtuner-zero3").plan.deepspeed.stage3_prefetch_bucket_size == 50'000'000);
}

TEST_CASE("presets of XTuner are its five files", "[unit]") {
  for (const auto& [name, stage] : {std::pair{"xtuner-zero1", 1}, {"xtuner-zero2", 2}, {"xtuner-zero2-offload", 2}, {"xtuner-zero3", 3}, {"xtuner-zero3-offload", 3}}) {
    INFO(name);
    const Question question = preset(name);
    CHECK(question.plan.stage == stage);
    CHECK((question.plan.offload_optimizer == Offload::cpu) == (std::string(name).find("offload") != std::string::npos));
    CHECK((question.plan.offload_parameters == Offload::cpu) == (std::string(name) == "xtuner-zero3-offload"));
    CHECK(question.plan.deepspeed.overlap_comm == true);
    CHECK(question.plan.recomputed_blocks == 48);
  }
}
