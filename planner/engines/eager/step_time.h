// Step time of an emulated run: the steady step's activities (work.h) put on the clocks of the host, of each stream and of the links, with the rates of a Cluster.
//
// Method. The host issues one activity after the other; each costs it kIssueS, or kBackwardIssueS. A kernel starts when it was issued and its stream is free, and takes
// launch + max(FLOPs / rate, bytes / memory rate), at planner/ops/rates.h's rates. Collectives of one communicator run one at a time in the order of issue, whatever their
// streams (NCCL serialises them). Copies run on one engine for each direction.
// An event carries a stream's clock to a stream that waits for it; synchronize carries it to the host. So communication overlaps exactly where the engine lets it.
// What runs beside the compute stream slows it: a collective by the multiprocessors of NCCL's channels, kernels of another stream by all of the device, since each of two
// kernels would fill it alone. A kernel that was issued first and runs at that time is slowed as well, but not what waits for an event that was recorded in between.
// The host runs ahead of the device by what the launch queue takes, unless it synchronizes.
// Cost: linear in the activities; those of a repeated micro batch count as often as it runs.
//
// Leaves out: data loading, logging, stragglers, retries of the allocator, what a collective costs in memory bandwidth, the exchange of a sequence's pieces, and Python of
// engines but for ZeRO-3's.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "planner/core/cluster.h"
#include "planner/engines/eager/recorder.h"

namespace zeroplan::eager {

/// The host's cost of one eager kernel and the views around it: from Python, and from autograd's engine in C++. Measured on one core of an AMD EPYC server: a bf16 Llama of
/// transformers 5.24 on torch 2.11 with tensors so small that nothing else counts takes 10.4 µs a kernel in forward and 7.4 in backward.
inline constexpr double kIssueS = 10.4e-6;
inline constexpr double kBackwardIssueS = 7.4e-6;
/// Python of DeepSpeed ZeRO-3, beside the kernels that it issues, measured in the same way (docs/measurements/2026-11-25-zero3-host.md): its hooks around one module, forward or backward
/// (133 and 108 µs); one gather of a module's parameters; reducing and partitioning one bucket.
inline constexpr double kModuleHooksS = 120e-6;
inline constexpr double kFetchS = 50e-6;
inline constexpr double kReductionS = 400e-6;
/// Parameters a second that DeepSpeedCPUAdam updates on all cores of a node: 11.6e9 in 8.2 s (deepspeedai/DeepSpeed#735); 72.7e9 on four nodes in about
/// 10 s, so 1.9e9 (deepspeedai/DeepSpeed#6834). The ranks of a node share it.
inline constexpr double kHostUpdateElemsPerS = 1.41e9;
/// Memory traffic that this is: fp32 parameter, gradient and two moments read, all but the gradient written. Other kernels on the host are taken at the same rate.
inline constexpr double kHostUpdateBytesPerElem = 28;
inline constexpr double kHostBytesPerS = kHostUpdateElemsPerS * kHostUpdateBytesPerElem;
/// PCIe 4.0 x16, of a profile that does not say.
inline constexpr double kHostLinkBytesPerS = 24.8e9;
/// Kernels, and events recorded and waited for, that a stream takes before the host must wait to issue another: CUDA's launch queue,
/// measured at about 1,000 (stackoverflow.com/questions/53970187).
inline constexpr std::size_t kLaunchQueueEntries = 1024;
/// Channels, and so multiprocessors, that NCCL takes at most for a collective (MAXCHANNELS up to 2.24, NVIDIA/nccl src/include/device.h).
inline constexpr std::int64_t kMostNcclChannels = 32;

/// What the activities do not say of a run's kernels.
struct StepConditions {
  /// flash_1: also its Triton version. cudnn: where a profile knows it faster than FlashAttention-2.
  enum class Attention : std::uint8_t { flash_2, flash_1, efficient, cudnn } attention = Attention::flash_2;
  bool fp16 = false;      ///< the 16-bit dtype is fp16
  bool tf32 = false;      ///< fp32 products on tensor cores
  bool fp8 = false;       ///< 16-bit products are of fp8 operands
  bool compiled = false;  ///< the blocks by torch.compile
  std::int64_t sequence_parallel = 1;  ///< ranks that a sequence is cut to where attention's exchange is not among the activities; their attention is that of a rank's own piece
};
/// Against FlashAttention-2, at 4096 tokens, causal, head dimension 128, forward and backward on an A100: 76 and 87 (xformers) of 173 TFLOP/s; on an H100 126 of 294
/// (Dao-AILab/flash-attention README, assets/flash2_*_fwd_bwd_benchmark.png). FlashAttention-1's kernels pad a head's dimension to a power of two, the others to 32.
inline constexpr double kFlash1Ratio = 0.44;
inline constexpr double kEfficientAttentionRatio = 0.5;
/// Of the bytes of the smaller of two neighbours that torch.compile fuses, what one wrote for the other to read: all of a kernel with one input, two thirds of one with two.
inline constexpr double kHandedOnRatio = 5.0 / 6;
/// Bytes moved for each element of an fp8 product's operands, which are scaled anew each time: read in 16 bits for the largest, read again and written in 8
/// (pytorch/ao, torchao/float8, dynamic tensorwise scaling).
inline constexpr double kFp8CastBytesPerElem = 5;

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

/// Seconds since the step began.
struct ClockSpan {
  double start_s = 0, end_s = 0;
};
/// When everything ran. Of a repeated stretch its first round is meant; what follows it stands at its own time, after all rounds.
struct StepClock {
  std::vector<ClockSpan> activities;  ///< by their index in Recorder::activities(); of a wait: how long it holds up; empty spans for what takes no time
  double step_s = 0;
  std::vector<ClockSpan> exposed;     ///< the compute stream waits for collectives and copies
  std::vector<double> more_rounds_s;  ///< by Recorder::repeated(): how much later the compute stream is after all rounds than after the first
};

/// Of the phases whose name starts with `prefix`. Needs Recorder::record_activities (or record_events). `clock`: not null for the times of single activities.
StepTime step_time(const Recorder& recorder, const Cluster& cluster, const StepConditions& conditions = {}, std::string_view prefix = "steady", StepClock* clock = nullptr);

/// A freed storage that work on another stream still uses: an allocator has it back when that is over and the host, which runs ahead of the device, has come as far.
struct WaitingFree {
  Stream stream;            ///< that uses it
  std::size_t freed = 0;    ///< Recorder::events(): its death, or a resize
  std::size_t back = 0;     ///< the first event that it is back before; not after the micro batch, at whose end the host looks at the loss
};

/// All that do wait, by `back`. Only steps whose activities are kept are looked at; in others nothing waits. Needs record_events.
std::vector<WaitingFree> waiting_frees(const Recorder& recorder, const Cluster& cluster, const StepConditions& conditions);

/// From sums alone, for runs without activities: everything that is on another stream is taken as hidden behind compute, what is left over as exposed. Never more than step_time,
/// but for groups that cross nodes in part: all collectives are taken as the whole cluster's.
StepTime step_time_from_totals(const Recorder& recorder, const Cluster& cluster, std::string_view prefix = "steady");

/// What is quoted of a run. Model FLOPs a token: planner/price/price.h, model_flops_per_token (6·N + 6·L·hD·S, causal half).
struct StepRates {
  double tokens_per_s_per_gpu = 0;
  double mfu_ratio = 0;  ///< model FLOPs against the data sheet
  double hfu_ratio = 0;  ///< executed FLOPs, recomputation included, against the data sheet
};
StepRates rates_of(const StepTime& time, const DeviceProfile& device, double tokens_per_step_per_gpu, double model_flops_per_token);

}  // namespace zeroplan::eager
