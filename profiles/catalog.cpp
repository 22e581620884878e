#include "profiles/catalog.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <span>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/nearest.h"
#include "planner/core/plan.h"
#include "profiles/embedded.h"

namespace zeroplan {

namespace {

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

const EmbeddedFile* find(std::span<const EmbeddedFile> files, std::string_view name) {
  for (const EmbeddedFile& file : files)
    if (equal_ignoring_case(file.name, name)) return &file;
  return nullptr;
}

std::vector<std::string_view> sorted_names(std::span<const EmbeddedFile> files) {
  std::vector<std::string_view> names;
  for (const EmbeddedFile& file : files) names.push_back(file.name);
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string_view> text_of(const EmbeddedFile* file) {
  if (file == nullptr) return std::nullopt;
  return file->text;
}

std::string all_of(const std::vector<std::string_view>& names) { return fmt::format("Known: {}", fmt::join(names, ", ")); }

std::string suggestion(const std::vector<std::string_view>& names, std::string_view asked) {
  const std::string near = did_you_mean(names, asked, 4);
  return near.empty() ? all_of(names) : near;
}

Model read_embedded(const EmbeddedFile& file) {
  return model_from_config(nlohmann::json::parse(file.text), fmt::format("profiles/models/{}.json", file.name));
}

}  // namespace

std::vector<std::string_view> model_names() { return sorted_names(embedded_models()); }
std::vector<std::string_view> device_names() { return sorted_names(embedded_devices()); }
std::vector<std::string_view> preset_names() { return sorted_names(embedded_presets()); }

std::optional<std::string_view> model_config_text(std::string_view name) { return text_of(find(embedded_models(), name)); }
std::optional<std::string_view> device_text(std::string_view name) { return text_of(find(embedded_devices(), name)); }
std::optional<std::string_view> preset_text(std::string_view name) { return text_of(find(embedded_presets(), name)); }

std::optional<std::string_view> nearest_name(const std::vector<std::string_view>& names, std::string_view asked) {
  const std::vector<std::string_view> near = nearest_names(names, asked, 1);
  if (near.empty()) return std::nullopt;
  return near.front();
}

Model catalogue_model(std::string_view name) {
  if (const EmbeddedFile* file = find(embedded_models(), name)) return read_embedded(*file);
  throw UsageError(fmt::format("{}: no model of that name. {}", name, suggestion(model_names(), name)));
}

DeviceProfile catalogue_device(std::string_view name) {
  const EmbeddedFile* file = find(embedded_devices(), name);
  if (file == nullptr) throw UsageError(fmt::format("{}: no device of that name. {}", name, suggestion(device_names(), name)));
  return device_from_json(nlohmann::json::parse(file->text), fmt::format("profiles/gpus/{}.json", file->name));
}

Cluster cluster_from_name(const std::string& text) {
  const std::optional<ClusterName> name = parse_cluster_name(text);
  if (!name)
    throw UsageError(fmt::format("{}: is not a cluster. Accepted: DEVICE, NxDEVICE or NODESxNxDEVICE, such as 8xa100-80g or 2x8xh100-80g. {}", text,
                                 all_of(device_names())));
  Cluster cluster;
  cluster.device = catalogue_device(name->device);
  cluster.name = text;
  cluster.nodes = name->nodes;
  cluster.gpus_per_node = name->gpus_per_node;
  cluster.network_bytes_per_s = cluster.device.kind == DeviceKind::cpu ? kDefaultCpuNetworkBytesPerS : cluster.device.network_bytes_per_s.value_or(kDefaultNetworkBytesPerS);
  cluster.network_latency_s = kDefaultNetworkLatencyS;
  return cluster;
}

Model load_model(const std::string& argument) {
  if (const EmbeddedFile* file = find(embedded_models(), argument)) return read_embedded(*file);
  std::filesystem::path path(argument);
  std::error_code none;
  if (!std::filesystem::exists(path, none))
    throw UsageError(fmt::format("{}: is neither a known model nor a file. {}", argument, suggestion(model_names(), argument)));
  if (std::filesystem::is_directory(path, none)) path /= "config.json";
  return model_from_config(read_json_file(path.string()), path.string());
}

std::vector<DeepSpeedNote> apply_preset(Question& question, std::string_view name) {
  const EmbeddedFile* preset = find(embedded_presets(), name);
  if (preset == nullptr) throw UsageError(fmt::format("{}: no preset of that name. {}", name, suggestion(preset_names(), name)));
  const std::string file = fmt::format("profiles/presets/{}.json", preset->name);
  const nlohmann::json json = nlohmann::json::parse(preset->text);
  const nlohmann::json& keys = json.at("question");
  // Engine and tool decide how the DeepSpeed JSON is read; every other key of the preset stands above it.
  set_key(question, "engine", keys.at("engine"), file);
  set_key(question, "tool", keys.at("tool"), file);
  std::vector<DeepSpeedNote> notes;
  if (json.contains("deepspeed")) notes = apply_deepspeed_json(question, json.at("deepspeed"), file);
  for (const QuestionKey& key : question_keys())
    if (keys.contains(key.name)) set_key(question, key.name, keys.at(std::string(key.name)), file);
  question.plan.preset = preset->name;
  return notes;
}

void choose_engine(Question& question, Engine engine, bool offload_optimizer) {
  const std::int64_t stage = question.plan.stage;
  if (engine == Engine::deepspeed) {
    if (stage == 0) throw UsageError("stage=0: DeepSpeed without ZeRO is plain data parallelism. Ask with --engine ddp, or for stage 1 to 3");
    apply_preset(question, fmt::format("xtuner-zero{}{}", stage, offload_optimizer && stage >= 2 ? "-offload" : ""));
  } else if (engine == Engine::fsdp2) {
    if (stage < 2) throw UsageError(fmt::format("stage={}: FSDP2 shards parameters and gradients. Ask for stage 3, or 2 (parameters stay whole after forward)", stage));
    apply_preset(question, "accelerate-fsdp2");
    question.plan.stage = stage;
    if (stage == 2) question.plan.reshard = Reshard::never;
  } else {
    set_engine(question, engine);
  }
}

namespace {

/// Rows name presets of tools that have one for each stage without the stage: "hf-auto".
void apply_row_preset(Question& question, const std::string& name, std::int64_t stage) {
  for (const std::string& asked : {name, fmt::format("{}-zero{}", name, stage)})
    if (find(embedded_presets(), asked) != nullptr) {
      apply_preset(question, asked);
      return;
    }
}

}  // namespace

std::vector<QuestionRow> rows_from_json(const nlohmann::json& json, const std::string& file) {
  const RowNames names{[](const std::string& name) { return catalogue_model(name); }, [](const std::string& name) { return catalogue_device(name); }, apply_row_preset};
  return rows_from_json(json, file, names, {kDefaultNetworkBytesPerS, kDefaultNetworkLatencyS});
}

}  // namespace zeroplan
