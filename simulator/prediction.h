// Prediction: one answer for every engine, in PyTorch's measures. Our own engine's comes from its compiled and laid-out Program (planner/search/answer.h); another's from its
// emulated run, replayed through the model of PyTorch's caching allocator. Values only: cli and gui find the words.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "planner/engines/emulation.h"
#include "planner/engines/saving.h"
#include "planner/search/answer.h"
#include "simulator/replay.h"

namespace zeroplan {

/// Peaks of one phase: init, first.forward … steady.step.
struct PhaseMeasures {
  std::string phase;
  Bytes requested = {}, allocated = {}, active = {}, reserved = {};
  Bytes host_requested = {};  ///< of this rank
};

/// Bytes at the peak by what made them.
struct AlivePart {
  std::string site;
  Category category = Category::activations;
  Bytes bytes;
};

/// The instant of the peak of requested bytes over all phases.
struct PeakInstant {
  std::string phase, instruction, unit;
  std::int64_t rank = 0;
};

/// What PyTorch counts where the host runs as far ahead of the device as the engine lets it: blocks that other streams still use are then kept from their next owner. Where memory is
/// short the allocator waits for them, so a job needs no more for it.
struct HostAhead {
  AllocatorPeaks steady, whole;
};

/// Time and traffic of one optimizer step on this rank.
struct StepCost {
  double step_s = 0;
  double tokens_per_s_per_gpu = 0;
  double mfu_ratio = 0;  ///< model FLOPs (price.h) over the data sheet's bf16 rate
  Traffic traffic;
};

struct Prediction {
  Question question;
  std::vector<EmulationGap> gaps;  ///< what of the question was passed over; empty for our engine
  EmulatedDevice device = EmulatedDevice::gpu;

  // Requested bytes, phase by phase.
  std::vector<PhaseMeasures> phases;
  PhaseMeasures steady;  ///< highest of the last step
  PhaseMeasures whole;   ///< highest of load, init and all steps
  Bytes after_init_requested, between_steps_requested, between_steps_allocated;

  PeakInstant peak;
  std::vector<AlivePart> alive;                        ///< at the peak, largest first
  std::array<std::int64_t, kCategoryCount> by_category{};  ///< of `alive`

  // Against the device. What must fit: our arena; or what the allocator reserves, within the device if it can; or, where it cannot, the least with which it would run.
  Bytes must_fit;
  Outside outside;
  Bytes capacity, usable, spare;
  double band_ratio = 0;
  Verdict verdict = Verdict::does_not_fit;
  std::int64_t cache_emptied = 0;          ///< times the allocator had to give its cache back to stay within `usable`
  std::optional<ReplayFailure> failure;    ///< where it runs out of memory

  std::optional<StepCost> cost;

  // A node's host memory.
  Bytes host_bytes;    ///< all ranks of a node
  Bytes pinned_bytes;  ///< of them, page-locked, as PyTorch rounds them
  std::optional<Saving> saving;  ///< on top of them, and of what lives between steps, on rank 0
  Bytes host_bytes_at_most() const { return host_bytes + (saving ? saving->host_bytes : Bytes()); }
  bool host_fits() const { return !question.cluster.host_bytes || host_bytes_at_most() <= *question.cluster.host_bytes; }

  std::optional<HostAhead> ahead;  ///< if it was asked for, the engine's streams share memory, and it runs

  Bytes steady_active() const { return ahead ? ahead->steady.active : steady.active; }
  Bytes steady_reserved() const { return ahead ? ahead->steady.reserved : steady.reserved; }
  /// nvidia-smi's.
  Bytes device_used() const { return (ahead ? std::max(ahead->whole.reserved, must_fit) : must_fit) + outside.total(); }
  const PhaseMeasures* phase(const std::string& name) const;
};

/// The allocator of an emulated question's run: on a device without end; on the question's device, where it gets what is usable.
ReplayOptions endless_device(const Question& question);
ReplayOptions own_device(const Question& question);

struct PredictOptions {
  EmulatedDevice device = EmulatedDevice::gpu;
  bool against_capacity = true;  ///< false: the device's capacity is unknown; no verdict is made
  bool host_ahead = false;         ///< finds Prediction::ahead
  bool every_micro_batch = false;  ///< emulates equal micro batches one by one: the same answer, later
  bool every_step = false;         ///< emulates the third step though the second asks for the same: likewise
};

/// Memory of one GPU outside the allocator of an emulated engine: context and NCCL. cuBLAS takes its workspaces from the allocator there.
Outside outside_of_emulated(const Question& question);

/// Throws UsageError for a model that the question's engine cannot run or be emulated with.
Prediction predict(const Question& question, const PredictOptions& options = {});

}  // namespace zeroplan
