// QuestionRow: one job of a file of questions with its answers (format: docs of questions_open.json; the same keys as set_key's and plan.json's), as validation
// reads them. What is measured stays JSON: every measure is optional. Leaves out the comparison.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "planner/core/plan.h"

namespace zeroplan {

struct QuestionRow {
  std::string id;
  Question question;
  nlohmann::json measured;           ///< object of numbers, and objects of phases
  std::vector<std::string> assumed;  ///< keys of the question that the source does not state
  std::string trust;                 ///< A, B or C
  nlohmann::json detail;             ///< an oracle's live set at each phase's peak by creation site; null if there is none

  /// A device of no known capacity: nothing can be said of fitting. Its other figures are those of an A100.
  bool has_unknown_device() const;
};

/// Name of the device of rows whose gpu is "unknown"; its capacity stands for none.
inline constexpr std::string_view kUnknownDevice = "unknown";

/// How names become models, devices and a tool's defaults: profiles/catalog.h has the catalogue's. `preset` sets what the named preset sets at that stage, and
/// nothing where it does not know the name: the row's own keys win in any case.
struct RowNames {
  std::function<Model(const std::string&)> model;
  std::function<DeviceProfile(const std::string&)> device;
  std::function<void(Question&, const std::string& name, std::int64_t stage)> preset;
};

/// Between GPUs of a node where a row says pcie and the device's profile has NVLink: PCIe 4.0 x16 without peer-to-peer copies.
inline constexpr double kPcieBytesPerS = 20e9;

/// Reads a JSON array of rows. Throws InputError with the row's pointer for an unknown key, a missing one or a value that is not accepted. `network`: the cluster's
/// network figures (bytes a second, latency in seconds) where a row has more than one node.
struct RowNetwork {
  double bytes_per_s = 0;
  double latency_s = 0;
};
std::vector<QuestionRow> rows_from_json(const nlohmann::json& json, const std::string& file, const RowNames& names, RowNetwork network);

}  // namespace zeroplan
