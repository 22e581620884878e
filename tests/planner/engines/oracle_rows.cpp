#include "tests/planner/engines/oracle_rows.h"

#include <catch2/catch.hpp>

#include "profiles/catalog.h"

namespace zeroplan {
namespace {

using nlohmann::json;

constexpr double kGib = 1073741824.0;

/// What the oracle decides by itself.
json filled_in(const json& row, const std::string& engine) {
  const json defaults = {{"gpu", "unknown"}, {"nodes", 1}, {"engine", engine}, {"tool", "transformers"}, {"train", "full"}, {"compute_dtype", row.value("parameters_dtype", "bf16")},
                         {"gpus_per_node", row.value("shard_group", 1)}};
  json out = row;
  for (const auto& [key, value] : defaults.items())
    if (!out.contains(key)) out[key] = value;
  if (engine == "deepspeed" && !out.contains("stage")) out["stage"] = 3;
  if (engine == "deepspeed") out["parameters_dtype"] = row["parameters_dtype"];
  out.erase("steps");
  out.erase("gpu_gib");
  out["model"].erase("name");
  if (out["train"].is_object()) out["train"]["base_dtype"] = out["parameters_dtype"];  // the oracle's base and adapters have the dtype of the parameters
  return out;
}

std::string engine_of(const std::string& name) { return name.starts_with("deepspeed") ? "deepspeed" : name == "families" ? "single" : name; }

}  // namespace

std::vector<OracleRow> oracle_rows(const std::string& name) {
  const std::string file = ZEROPLAN_TEST_DATA "/engine_oracle_" + name + ".json";
  std::vector<OracleRow> out;
  const json list = read_json_file(file)["rows"];
  for (const json& row : list) {
    const json& asked = row["question"];
    const json whole = {{"id", row["id"]}, {"question", filled_in(asked, engine_of(name))}, {"measured", json::object()}};
    OracleRow read{row["id"], rows_from_json(json::array({whole}), file)[0].question, asked.value("steps", 3), row["measured"]};
    if (asked.contains("gpu_gib")) read.question.cluster.device.capacity_bytes = Bytes(static_cast<std::int64_t>(asked["gpu_gib"].get<double>() * kGib));
    out.push_back(std::move(read));
  }
  return out;
}

void check_equal(const eager::PhasePeaks& peaks, const json& measured) {
  if (measured.contains("after_init_requested_bytes")) CHECK(peaks.after_init_bytes == measured["after_init_requested_bytes"]);
  CHECK(peaks.between_steps_bytes == measured["between_steps_requested_bytes"]);
  for (const auto& [phase, bytes] : measured["phases_requested_bytes"].items()) {
    INFO(phase);
    CHECK(peaks.peak_bytes(phase) == bytes);
  }
  if (!measured.contains("phases_host_requested_bytes")) return;
  CHECK(peaks.between_steps_host_bytes == measured["between_steps_host_requested_bytes"]);
  for (const auto& [phase, bytes] : measured["phases_host_requested_bytes"].items()) {
    INFO(phase << " on the host");
    CHECK(peaks.peak_bytes(phase, eager::Place::host) == bytes);
  }
}

}  // namespace zeroplan
