// Step time of an emulated run: the steady step's activities (work.h) put on the clocks of the host, of each stream and of the links, with the rates of a Cluster.
//
// Method. The host issues one activity after the other; each costs it kIssueS. A kernel starts when it was issued and its stream is free, and takes
// launch + max(FLOPs / rate, bytes / memory rate), as planner/ops/op_table.cpp says it. Collectives of one communicator run one at a time in the order of issue, whatever their
// streams (NCCL serialises them): (n − 1)/n of the payload over the bus bandwidth, twice for an all-reduce. Copies run on one engine for each direction.
// An event carries a stream's clock to a stream that waits for it; synchronize carries it to the host. So communication overlaps exactly where the engine lets it.
// Cost: linear in the activities.
//
// While collectives run beside kernels, NCCL's channels hold a multiprocessor each: kernels go on with the rest.
//
// Leaves out: wave quantisation of small products, clocks that fall under load, data loading, logging,
// Python code of hooks (a large part of a step of DeepSpeed with small models), stragglers.
#pragma once

#include <array>
#include <string_view>

#include "planner/core/cluster.h"
#include "planner/engines/eager/recorder.h"

namespace zeroplan::eager {

/// The host's cost of one eager op from Python to the launch, assumed: 5 to 10 µs are usual for PyTorch on current servers.
inline constexpr double kIssueS = 8e-6;
/// Parameters a second that DeepSpeedCPUAdam updates on all cores of a node: 11.6e9 in 8.2 s (deepspeedai/DeepSpeed#735); 72.7e9 on four nodes in about
/// 10 s, so 1.9e9 (deepspeedai/DeepSpeed#6834). The ranks of a node share it.
inline constexpr double kHostUpdateElemsPerS = 1.41e9;
/// Memory traffic that this is: fp32 parameter, gradient and two moments read, all but the gradient written. Other kernels on the host are taken at the same rate.
inline constexpr double kHostUpdateBytesPerElem = 28;
inline constexpr double kHostBytesPerS = kHostUpdateElemsPerS * kHostUpdateBytesPerElem;
/// NCCL starts at most so many channels for a collective inside a node (NCCL 2.28.9 src/include/nccl_tuner.h and init.cc: 32 with NVLink SHARP, 24 before).
inline constexpr std::int64_t kMostChannels = 32;
/// Of a profile that does not say: attention's rate as a part of the products' (173 of 271 TFLOP/s on an A100), and PCIe 4.0 x16.
inline constexpr double kAttentionOfMatmulRatio = 0.64;
inline constexpr double kHostLinkBytesPerS = 24.8e9;

struct StepTime {
  double step_s = 0;
  double compute_s = 0;                ///< kernels of the compute stream
  double exposed_communication_s = 0;  ///< the compute stream (or the host for it) waits for collectives and copies
  double communication_s = 0;          ///< collectives on the wire, hidden or not
  double copy_s = 0;                   ///< between host and device, hidden or not
  double host_s = 0;                   ///< work of the host but issuing: optimizer updates
  WorkTotals work;

  /// The compute stream waits for the host: to issue kernels, or to update parameters.
  double waiting_for_host_s() const;
};

/// Of the phases whose name starts with `prefix`. Needs Recorder::record_activities (or record_events).
StepTime step_time(const Recorder& recorder, const Cluster& cluster, std::string_view prefix = "steady");

/// From sums alone, for runs without activities: everything that is on another stream is taken as hidden behind compute, what is left over as exposed. Never more than step_time,
/// but for groups that cross nodes in part: all collectives are taken as the whole cluster's.
StepTime step_time_from_totals(const Recorder& recorder, const Cluster& cluster, std::string_view prefix = "steady");

/// Seconds of one collective: latency and wire bytes over the bus bandwidth. Neighbours in a node use its links; a ring through several nodes uses as many network ports as
/// it has ranks in each, up to the links' rate.
double collective_s(const Collective& collective, const Cluster& cluster);

/// What is quoted of a run. Model FLOPs a token: planner/price/price.h, model_flops_per_token (6·N + 6·L·hD·S, causal half).
struct StepRates {
  double tokens_per_s_per_gpu = 0;
  double mfu_ratio = 0;  ///< model FLOPs against the data sheet
  double hfu_ratio = 0;  ///< executed FLOPs, recomputation included, against the data sheet
};
StepRates rates_of(const StepTime& time, const DeviceProfile& device, double tokens_per_step_per_gpu, double model_flops_per_token);

}  // namespace zeroplan::eager
