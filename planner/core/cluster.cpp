// Clusters and device profiles: names, JSON and what NCCL takes.
#include "planner/core/cluster.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/readers.h"

namespace zeroplan {

namespace {

constexpr std::int64_t kMostNodes = 1 << 16;
constexpr std::int64_t kMostGpusPerNode = 1 << 10;
constexpr std::int64_t kLargestMemoryBytes = std::int64_t{1} << 50;  // 1 PiB
constexpr NumberRange kRate{0, 1e21, true};
constexpr NumberRange kRateOrZero{0, 1e21};
constexpr NumberRange kLatency{0, 10};

}  // namespace

Bytes nccl_bytes(const DeviceProfile& device, std::int64_t ranks, std::int64_t communicators) {
  constexpr Bytes kPerChannelAndConnection(12LL << 20);
  constexpr std::int64_t kConnectionsOfRing = 2;
  if (device.kind == DeviceKind::cpu || ranks <= 1) return Bytes(0);
  return kPerChannelAndConnection * kConnectionsOfRing * device.nccl_channels * communicators;
}

namespace {

/// Takes "8x" off the front: a count of 1 to 999,999. nullopt (and text untouched) if the text does not start so.
std::optional<std::int64_t> take_count(std::string_view& text) {
  constexpr std::size_t kMostDigits = 6;
  std::size_t digits = 0;
  std::int64_t count = 0;
  while (digits < text.size() && digits <= kMostDigits && std::isdigit(static_cast<unsigned char>(text[digits]))) count = count * 10 + (text[digits++] - '0');
  if (digits == 0 || digits > kMostDigits || digits == text.size() || count == 0) return std::nullopt;
  if (text[digits] != 'x' && text[digits] != 'X') return std::nullopt;
  text.remove_prefix(digits + 1);
  return count;
}

bool is_device_name(std::string_view text) {
  return !text.empty() && std::isalpha(static_cast<unsigned char>(text[0])) &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_'; });
}

}  // namespace

std::optional<ClusterName> parse_cluster_name(const std::string& text) {
  std::string_view rest = text;
  ClusterName name;
  if (const auto first = take_count(rest)) {
    name.gpus_per_node = *first;
    if (const auto second = take_count(rest)) {
      name.nodes = *first;
      name.gpus_per_node = *second;
    }
  }
  if (!is_device_name(rest) || name.nodes > kMostNodes || name.gpus_per_node > kMostGpusPerNode) return std::nullopt;
  name.device = rest;
  return name;
}

namespace {

DeviceKind read_kind(const JsonFields& fields) {
  const std::string kind = fields.text("kind");
  if (kind == "cpu") return DeviceKind::cpu;
  if (kind == "cuda") return DeviceKind::cuda;
  fields.fail("kind", fmt::format("must be \"cpu\" or \"cuda\", got {}", describe(fields.at("kind"))), "");
}

/// A number without a source is a rumour: "source" is a text, or an object from key to text.
void check_source(const JsonFields& fields) {
  const nlohmann::json& source = fields.at("source");
  const auto is_text = [](const nlohmann::json& value) { return value.is_string() && !value.get_ref<const std::string&>().empty(); };
  const bool good = is_text(source) || (source.is_object() && !source.empty() && std::all_of(source.begin(), source.end(), is_text));
  if (!good) fields.fail("source", fmt::format("must be a text or an object of texts, got {}", describe(source)), "Say where the numbers are from");
}

/// Keys that a profile may leave out.
struct OptionalRate {
  const char* key;
  std::optional<double> DeviceProfile::*value;
};
constexpr OptionalRate kOptionalRates[] = {{"attention_flops_per_s", &DeviceProfile::attention_flops_per_s},
                                           {"cudnn_attention_flops_per_s", &DeviceProfile::cudnn_attention_flops_per_s},
                                           {"host_link_bytes_per_s", &DeviceProfile::host_link_bytes_per_s},
                                           {"matmul_fp16_flops_per_s", &DeviceProfile::matmul_fp16_flops_per_s},
                                           {"matmul_tf32_flops_per_s", &DeviceProfile::matmul_tf32_flops_per_s},
                                           {"matmul_fp8_flops_per_s", &DeviceProfile::matmul_fp8_flops_per_s},
                                           {"network_bytes_per_s", &DeviceProfile::network_bytes_per_s}};

DeviceProfile read_device(const JsonFields& fields) {
  fields.refuse_unknown({"name", "kind", "source", "capacity_bytes", "context_bytes", "libraries_bytes", "matmul_bf16_flops_per_s", "matmul_fp32_flops_per_s",
                         "peak_bf16_flops_per_s", "memory_bytes_per_s", "launch_s", "link_bytes_per_s", "link_latency_s", "link_step_s", "nccl_channels", "multiprocessors",
                         "attention_flops_per_s", "cudnn_attention_flops_per_s", "host_link_bytes_per_s", "matmul_fp16_flops_per_s", "matmul_tf32_flops_per_s",
                         "matmul_fp8_flops_per_s", "network_bytes_per_s"});
  check_source(fields);
  const IntegerRange outside{0, kLargestMemoryBytes};
  DeviceProfile device;
  device.name = fields.text("name");
  device.kind = read_kind(fields);
  device.capacity_bytes = Bytes(fields.integer("capacity_bytes", {1, kLargestMemoryBytes}));
  device.context_bytes = Bytes(fields.integer("context_bytes", outside));
  device.libraries_bytes = Bytes(fields.integer("libraries_bytes", outside));
  device.matmul_bf16_flops_per_s = fields.number("matmul_bf16_flops_per_s", kRate);
  device.matmul_fp32_flops_per_s = fields.number("matmul_fp32_flops_per_s", kRate);
  device.peak_bf16_flops_per_s = fields.number("peak_bf16_flops_per_s", kRate);
  device.memory_bytes_per_s = fields.number("memory_bytes_per_s", kRate);
  device.launch_s = fields.number("launch_s", kLatency);
  device.link_bytes_per_s = fields.number("link_bytes_per_s", kRate);
  device.link_latency_s = fields.number("link_latency_s", kLatency);
  device.link_step_s = fields.number_or("link_step_s", kNvlinkStepS, kLatency);
  device.nccl_channels = fields.integer("nccl_channels", {0, 1024});
  for (const OptionalRate& rate : kOptionalRates)
    if (fields.has(rate.key)) device.*rate.value = fields.number(rate.key, kRate);
  if (fields.has("multiprocessors")) device.multiprocessors = fields.integer("multiprocessors", {1, 1 << 16});
  if (device.context_bytes + device.libraries_bytes >= device.capacity_bytes)
    fields.fail("capacity_bytes", "is not more than context_bytes + libraries_bytes: nothing is left to use", "");
  return device;
}

}  // namespace

DeviceProfile device_from_json(const nlohmann::json& json, const std::string& file) { return read_device(JsonFields(json, file, "")); }

nlohmann::json device_to_json(const DeviceProfile& device) {
  nlohmann::json json{{"name", device.name},
                      {"kind", device.kind == DeviceKind::cpu ? "cpu" : "cuda"},
                      {"source", fmt::format("profile {} as it was when this was written", device.name)},
                      {"capacity_bytes", device.capacity_bytes.value()},
                      {"context_bytes", device.context_bytes.value()},
                      {"libraries_bytes", device.libraries_bytes.value()},
                      {"matmul_bf16_flops_per_s", device.matmul_bf16_flops_per_s},
                      {"matmul_fp32_flops_per_s", device.matmul_fp32_flops_per_s},
                      {"peak_bf16_flops_per_s", device.peak_bf16_flops_per_s},
                      {"memory_bytes_per_s", device.memory_bytes_per_s},
                      {"launch_s", device.launch_s},
                      {"link_bytes_per_s", device.link_bytes_per_s},
                      {"link_latency_s", device.link_latency_s},
                      {"link_step_s", device.link_step_s},
                      {"nccl_channels", device.nccl_channels}};
  for (const OptionalRate& rate : kOptionalRates)
    if (device.*rate.value) json[rate.key] = *(device.*rate.value);
  if (device.multiprocessors) json["multiprocessors"] = *device.multiprocessors;
  return json;
}

Cluster cluster_from_json(const nlohmann::json& json, const std::string& file) { return read_cluster(JsonFields(json, file, "")); }

Cluster read_cluster(const JsonFields& fields) {
  fields.refuse_unknown({"name", "source", "nodes", "gpus_per_node", "device", "network_bytes_per_s", "network_latency_s", "host_bytes", "link"});
  Cluster cluster;
  cluster.nodes = fields.integer("nodes", {1, kMostNodes});
  cluster.gpus_per_node = fields.integer("gpus_per_node", {1, kMostGpusPerNode});
  cluster.device = read_device(fields.object("device"));
  cluster.name = fields.has("name") ? fields.text("name") : std::filesystem::path(fields.file()).stem().string();
  cluster.network_bytes_per_s = fields.number_or("network_bytes_per_s", 0, kRateOrZero);
  cluster.network_latency_s = fields.number_or("network_latency_s", 0, kLatency);
  if (cluster.nodes > 1 && cluster.network_bytes_per_s == 0)
    fields.fail("network_bytes_per_s", "must be above 0 with more than one node", "Give the bus bandwidth a GPU between nodes, in bytes per second");
  if (fields.has("host_bytes")) cluster.host_bytes = Bytes(fields.integer("host_bytes", {1, kLargestMemoryBytes}));
  if (fields.has("link")) {
    const std::string link = fields.text("link");
    if (link != "nvlink" && link != "pcie") fields.fail("link", fmt::format("must be \"nvlink\" or \"pcie\", got {}", describe(fields.at("link"))), "");
    cluster.link = link == "pcie" ? NodeLink::pcie : NodeLink::nvlink;
  }
  return cluster;
}

nlohmann::json cluster_to_json(const Cluster& cluster) {
  nlohmann::json json{{"name", cluster.name},
                      {"nodes", cluster.nodes},
                      {"gpus_per_node", cluster.gpus_per_node},
                      {"device", device_to_json(cluster.device)},
                      {"network_bytes_per_s", cluster.network_bytes_per_s},
                      {"network_latency_s", cluster.network_latency_s},
                      {"host_bytes", nullptr}};
  if (cluster.host_bytes) json["host_bytes"] = cluster.host_bytes->value();
  if (cluster.link != NodeLink::unsaid) json["link"] = cluster.link == NodeLink::pcie ? "pcie" : "nvlink";
  return json;
}

}  // namespace zeroplan
