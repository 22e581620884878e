// Rows of question files. Model and cluster are read first, then every other key in the table's order through set_key, so that a row, a plan and a command line
// mean the same by the same key.
#include "planner/core/question_row.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include <fmt/format.h>

#include "planner/core/error.h"
#include "planner/core/nearest.h"
#include "planner/core/readers.h"

namespace zeroplan {

namespace {

using nlohmann::json;

constexpr IntegerRange kNodes{1, 1 << 16};
constexpr IntegerRange kGpus{1, 1 << 10};

/// A name's lookup throws UsageError; in a file it is the file's mistake.
template <class Lookup>
auto look_up(const JsonFields& question, std::string_view key, const Lookup& lookup) {
  try {
    return lookup(question.text(key));
  } catch (const UsageError& error) {
    question.fail(key, error.what(), "");
  }
}

Model read_row_model(const JsonFields& question, const RowNames& names) {
  if (question.at("model").is_object()) return read_zoo_object(question.object("model"));
  return look_up(question, "model", names.model);
}

/// An A100's figures with no capacity of its own.
DeviceProfile unknown_device(const RowNames& names) {
  DeviceProfile device = names.device("a100-80g");
  device.name = kUnknownDevice;
  return device;
}

Cluster read_row_cluster(const JsonFields& question, const RowNames& names, RowNetwork network) {
  Cluster cluster;
  cluster.nodes = question.integer("nodes", kNodes);
  cluster.gpus_per_node = question.integer("gpus_per_node", kGpus);
  cluster.device = question.at("gpu") == kUnknownDevice ? unknown_device(names) : look_up(question, "gpu", names.device);
  cluster.name = fmt::format("{}x{}x{}", cluster.nodes, cluster.gpus_per_node, cluster.device.name);
  cluster.network_bytes_per_s = cluster.device.network_bytes_per_s.value_or(network.bytes_per_s);
  cluster.network_latency_s = network.latency_s;
  if (!question.has("link")) return cluster;
  const std::string link = question.text("link");
  if (link != "nvlink" && link != "pcie") question.fail("link", fmt::format("must be \"nvlink\", \"pcie\" or null, got {}", describe(question.at("link"))), "");
  cluster.link = link == "pcie" ? NodeLink::pcie : NodeLink::nvlink;
  if (cluster.link == NodeLink::pcie) cluster.device.link_bytes_per_s = std::min(cluster.device.link_bytes_per_s, kPcieBytesPerS);
  return cluster;
}

constexpr std::array<std::string_view, 5> kNotOfThePlan{"model", "gpu", "gpus_per_node", "nodes", "link"};

void refuse_unknown_keys(const JsonFields& question) {
  std::vector<std::string_view> known(kNotOfThePlan.begin(), kNotOfThePlan.end());
  for (const QuestionKey& key : question_keys()) known.push_back(key.name);
  for (const auto& [key, unused] : question.raw().items())
    if (std::find(known.begin(), known.end(), key) == known.end()) question.fail(key, "is not a known key", did_you_mean(known, key));
}

Question read_row_question(const JsonFields& fields, const RowNames& names, RowNetwork network) {
  refuse_unknown_keys(fields);
  Question question = default_question(read_row_model(fields, names), read_row_cluster(fields, names, network));
  if (fields.has("preset")) names.preset(question, fields.text("preset"), fields.integer("stage", {0, 3}));
  question.plan.engine_version.clear();  // a preset knows today's version, a row the one that ran
  for (const QuestionKey& key : question_keys()) {
    if (!fields.has(key.name)) continue;
    const std::string place = fields.pointer_to(key.name);
    try {
      set_key(question, key.name, fields.at(key.name), fields.file());
    } catch (const InputError& error) {
      // set_key's place is the key alone; in a file of hundreds of rows the row must be named.
      throw InputError(fields.file(), place, error.what(), "");
    }
  }
  try {
    check_question(question);
  } catch (const UsageError& error) {
    throw InputError(fields.file(), fields.pointer_to(""), error.what(), "");
  }
  return question;
}

std::vector<std::string> read_assumed(const JsonFields& row) {
  std::vector<std::string> assumed;
  if (!row.has("assumed")) return assumed;
  const json& list = row.at("assumed");
  if (!list.is_array()) row.fail("assumed", fmt::format("must be a list of names, got {}", describe(list)), "");
  for (const json& name : list) {
    if (!name.is_string()) row.fail("assumed", fmt::format("must be a list of names, got {} in it", describe(name)), "");
    assumed.push_back(name.get<std::string>());
  }
  return assumed;
}

json read_measured(const JsonFields& row) {
  const JsonFields measured = row.object("measured");
  measured.refuse_unknown({"allocated_bytes", "active_bytes", "reserved_bytes", "device_used_bytes", "unnamed_bytes", "static_bytes", "host_bytes", "memory_halfwidth_bytes", "gb_ambiguous",
                           "fits", "tried_bytes", "tokens_per_s_per_gpu", "step_s", "model_tflops_per_gpu", "mfu_ratio", "requested_bytes", "peak_phase", "phases_requested_bytes",
                           "between_steps_requested_bytes", "after_init_requested_bytes", "phases_host_requested_bytes", "between_steps_host_requested_bytes"});
  constexpr std::array<std::string_view, 7> kPhases{"init", "first.forward", "first.backward", "first.step", "steady.forward", "steady.backward", "steady.step"};
  for (const std::string_view key : {"phases_requested_bytes", "phases_host_requested_bytes"}) {
    if (!measured.has(key)) continue;
    const JsonFields phases = measured.object(key);
    for (const auto& [phase, bytes] : phases.raw().items())
      if (std::find(kPhases.begin(), kPhases.end(), phase) == kPhases.end()) phases.fail(phase, "is not a known phase", did_you_mean({kPhases.begin(), kPhases.end()}, phase));
      else phases.integer(phase, {0, INT64_MAX});
  }
  for (const auto& [key, value] : measured.raw().items())
    if (key.ends_with("_bytes") && !value.is_object() && !value.is_null()) measured.number(key, {0, 9e18});
  return measured.raw();
}

QuestionRow read_row(const JsonFields& row, const RowNames& names, RowNetwork network) {
  row.refuse_unknown({"id", "source", "trust", "question", "assumed", "measured", "note", "detail", "detail_host"});
  QuestionRow out;
  out.id = row.text("id");
  out.question = read_row_question(row.object("question"), names, network);
  if (row.has("measured")) out.measured = read_measured(row);
  out.assumed = read_assumed(row);
  if (row.has("trust")) out.trust = row.text("trust");
  if (row.has("detail")) out.detail = row.at("detail");
  return out;
}

}  // namespace

bool QuestionRow::has_unknown_device() const { return question.cluster.device.name == kUnknownDevice; }

std::vector<QuestionRow> rows_from_json(const json& list, const std::string& file, const RowNames& names, RowNetwork network) {
  if (!list.is_array()) throw InputError(file, "", fmt::format("must be a list of rows, got {}", describe(list)), "");
  std::vector<QuestionRow> rows;
  for (std::size_t i = 0; i < list.size(); ++i) rows.push_back(read_row(JsonFields(list[i], file, fmt::format("/{}", i)), names, network));
  return rows;
}

}  // namespace zeroplan
