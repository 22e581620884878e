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
  for (const json& entry : counts) {
    const auto name = entry["name"].get<std::string>();
    INFO(name);
    const Model model = catalogue_model(name);
    CHECK(model.name == name);
    CHECK(parameter_elems(model) == entry["parameters"]);
    if (!entry["published"].is_null()) CHECK(parameter_elems(model) == entry["published"]);
    CHECK(parameter_elems(model) == unit_parameter_elems(model, UnitKind::embedding) + model.num_layers * unit_parameter_elems(model, UnitKind::block) +
                                        unit_parameter_elems(model, UnitKind::head));
  }
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
  CHECK(cluster.network_bytes_per_s == kDefaultNetworkBytesPerS);
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
