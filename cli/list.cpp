#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "planner/core/error.h"
#include "planner/core/format.h"
#include "profiles/catalog.h"

namespace zeroplan::cli {
namespace {

using nlohmann::json;

json models() {
  json out = json::array();
  for (std::string_view name : model_names()) {
    const Model m = catalogue_model(name);
    out.push_back({{"name", name}, {"type", m.model_type}, {"parameters", parameter_elems(m)}, {"layers", m.num_layers}, {"hidden_size", m.hidden_size}});
  }
  return out;
}
json gpus() {
  json out = json::array();
  for (std::string_view name : device_names()) {
    const DeviceProfile d = catalogue_device(name);
    out.push_back({{"name", name}, {"capacity_bytes", d.capacity_bytes.value()}, {"matmul_bf16_flops_per_s", d.matmul_bf16_flops_per_s}, {"memory_bytes_per_s", d.memory_bytes_per_s}});
  }
  return out;
}
json presets() {
  json out = json::array();
  for (std::string_view name : preset_names()) {
    Question question = default_question(catalogue_model("llama-3-8b"), cluster_from_name("8xa100-80g"));
    apply_preset(question, name);
    out.push_back({{"name", name}, {"engine", name_of(question.plan.engine)}, {"stage", question.plan.stage}, {"tool", question.plan.tool}});
  }
  return out;
}
json knobs() {
  json out = json::array();
  for (const QuestionKey& key : question_keys()) out.push_back({{"name", key.name}, {"values", key.values}, {"help", key.help}});
  return out;
}

}  // namespace

int list(const std::string& what, bool as_json) {
  const json rows = what == "models" ? models() : what == "gpus" ? gpus() : what == "presets" ? presets() : what == "knobs" ? knobs() : json();
  if (rows.is_null()) throw UsageError(fmt::format("list {}: there are models, gpus, presets and knobs", what));
  if (as_json) {
    fmt::print("{}\n", rows.dump(2));
    return 0;
  }
  for (const json& row : rows) {
    if (what == "models") fmt::print("{:<20} {:<10} {:>9} parameters, {} layers of {}\n", row["name"].get<std::string>(), row["type"].get<std::string>(), format_count(row["parameters"].get<double>()), row["layers"].get<std::int64_t>(), row["hidden_size"].get<std::int64_t>());
    else if (what == "gpus") fmt::print("{:<16} {:>10}  {:>8.4g} TFLOP/s bf16 matmul achieved, {}\n", row["name"].get<std::string>(), format_gib(Bytes(row["capacity_bytes"].get<std::int64_t>())), row["matmul_bf16_flops_per_s"].get<double>() / 1e12, format_bandwidth(row["memory_bytes_per_s"].get<double>()));
    else if (what == "presets") fmt::print("{:<24} {:<10} stage {}  {}\n", row["name"].get<std::string>(), row["engine"].get<std::string>(), row["stage"].get<int>(), row["tool"].get<std::string>());
    else fmt::print("{:<22} {:<34} {}\n", row["name"].get<std::string>(), row["values"].get<std::string>(), row["help"].get<std::string>());
  }
  return 0;
}

int show(const std::string& name) {
  if (const auto text = model_config_text(name)) fmt::print("{}\n", *text);
  else if (const auto profile = device_text(name)) fmt::print("{}\n", *profile);
  else {
    std::vector<std::string_view> all = model_names();
    for (std::string_view device : device_names()) all.push_back(device);
    const auto nearest = nearest_name(all, name);
    throw UsageError(fmt::format("show {}: no model or device of that name{}", name, nearest ? fmt::format("; did you mean {}?", *nearest) : ""));
  }
  return 0;
}

}  // namespace zeroplan::cli
