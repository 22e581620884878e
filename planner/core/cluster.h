// Cluster: nodes × GPUs with what a plan needs to know of each: memory capacity, what lives outside our arena, rates and links.
// Numbers come from profiles/ (each with a source) or from the user's own JSON file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "planner/core/dtype.h"
#include "planner/core/units.h"

namespace zeroplan {

/// One kind of GPU (or CPU rank). Rates are what is achieved, not what a data sheet says.
struct DeviceProfile {
  std::string name;  ///< "a100-80g"
  DeviceKind kind = DeviceKind::cuda;
  Bytes capacity_bytes;   ///< memory a process can see: cudaMemGetInfo's total
  Bytes context_bytes;    ///< CUDA context
  Bytes libraries_bytes;  ///< cuBLAS workspaces and the like, outside the arena
  double matmul_bf16_flops_per_s = 0;  ///< in a long run, of a large product that fills its waves (planner/ops/rates.h)
  double matmul_fp32_flops_per_s = 0;
  double peak_bf16_flops_per_s = 0;  ///< data sheet, dense: the denominator of MFU
  double memory_bytes_per_s = 0;     ///< reads plus writes of a streaming kernel
  double launch_s = 0;               ///< fixed cost of one kernel
  double link_bytes_per_s = 0;       ///< bus bandwidth of a collective inside a node (nccl-tests' busbw)
  double link_latency_s = 0;         ///< of a collective
  double link_step_s = 0;            ///< of each step of a ring between neighbours
  std::int64_t nccl_channels = 0;  ///< 0 on CPU: no NCCL buffers
  std::optional<double> attention_flops_per_s;    ///< of FlashAttention-2, causal, forward and backward together, at 4096 tokens
  std::optional<double> cudnn_attention_flops_per_s;  ///< likewise of cuDNN's kernel, where it is faster
  std::optional<double> matmul_fp16_flops_per_s;  ///< where it is not bf16's
  std::optional<double> matmul_tf32_flops_per_s;  ///< of fp32 operands that are rounded for tensor cores
  std::optional<double> matmul_fp8_flops_per_s;
  std::optional<std::int64_t> multiprocessors;    ///< SMs: products run in whole waves of them, and NCCL's channels take some
  std::optional<double> network_bytes_per_s;      ///< port between nodes that servers with this device usually have, a GPU
  std::optional<double> host_link_bytes_per_s;    ///< between this device and pinned host memory, one direction

  friend bool operator==(const DeviceProfile&, const DeviceProfile&) = default;
};

/// What joins the GPUs of a node, where it is said.
enum class NodeLink : std::uint8_t { unsaid, nvlink, pcie };

/// A ring's step over NVLink in NCCL's own model (Simple protocol, NVIDIA/nccl src/graph/tuning.cc, hwLatencies); where a profile does not say it.
inline constexpr double kNvlinkStepS = 3.4e-6;

struct Cluster {
  std::string name;  ///< as asked: "2x8xa100-80g"
  std::int64_t nodes = 1;
  std::int64_t gpus_per_node = 1;
  DeviceProfile device;
  double network_bytes_per_s = 0;  ///< of a GPU's port between nodes
  double network_latency_s = 0;    ///< of one step of a ring between nodes
  std::optional<Bytes> host_bytes;  ///< host memory of a node; unknown unless said
  NodeLink link = NodeLink::unsaid;  ///< the device profile's link_bytes_per_s is the rate in any case

  std::int64_t world_size() const { return nodes * gpus_per_node; }
  friend bool operator==(const Cluster&, const Cluster&) = default;
};

/// Bytes that NCCL holds on one GPU for `communicators` communicators of `ranks` ranks: about 12 MiB per channel and connection,
/// a ring having one in and one out (2 connections). 0 for one rank or a CPU.
/// Source: NCCL 2.28.9 src/init.cc, src/include/device.h (LL, LL128 and Simple buffers); 4×A100: 544–688 MB measured, NVIDIA/nccl#964.
Bytes nccl_bytes(const DeviceProfile& device, std::int64_t ranks, std::int64_t communicators);

/// Splits "8xa100-80g", "2x8xh100-80g", "a100-80g" or "2xcpu" into counts and a profile name. nullopt if it is not of that form.
struct ClusterName {
  std::int64_t nodes = 1;
  std::int64_t gpus_per_node = 1;
  std::string device;
};
std::optional<ClusterName> parse_cluster_name(const std::string& text);

/// A profile file of profiles/gpus/. Throws InputError (file, key, remedy).
DeviceProfile device_from_json(const nlohmann::json& json, const std::string& file);
nlohmann::json device_to_json(const DeviceProfile& device);

/// A cluster file: {"nodes", "gpus_per_node", "device": {…profile…}, "network_bytes_per_s", "network_latency_s", "host_bytes", "link"}.
Cluster cluster_from_json(const nlohmann::json& json, const std::string& file);
nlohmann::json cluster_to_json(const Cluster& cluster);

}  // namespace zeroplan
