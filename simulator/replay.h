// Replays what an emulated engine asked of memory (planner/engines/eager/recorder.h) through the model of PyTorch's caching allocator: from requested bytes
// to allocated, active and reserved, phase by phase, and to the moment of an out-of-memory error.
// Leaves out that frees of blocks which another stream still uses wait for its event: they complete at once.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "planner/core/units.h"
#include "planner/engines/eager/recorder.h"
#include "simulator/caching_allocator.h"

namespace zeroplan {

struct ReplayOptions {
  AllocatorOptions allocator;
  /// cuBLAS workspaces, one for the forward thread and one for autograd's: taken from the allocator at the first forward and the first backward, never given back.
  Bytes cublas_workspace_bytes;
};

/// Peaks of one phase (or the whole run): PyTorch's counters of these names.
struct AllocatorPeaks {
  std::string phase;
  Bytes requested, allocated, active, reserved;
};

struct ReplayFailure {
  OutOfMemory error;
  std::string phase;
  std::string op;
  eager::StorageTag tag;  ///< of the storage that was asked for
};

struct Replay {
  std::vector<AllocatorPeaks> phases;  ///< in the order of their first begin; "steady.*" of the last step
  AllocatorPeaks steady;               ///< of the last step
  AllocatorPeaks whole;                ///< from the start on
  Bytes between_steps_allocated;       ///< at the end of the last step
  std::int64_t retries = 0;            ///< times the cache was emptied to serve a request
  std::optional<ReplayFailure> failure;  ///< the replay ends there
};

/// Hears the allocator's counters after each of the recorder's events, in their order; not of the event that fails, nor of any after it.
using OnReplayed = std::function<void(const AllocatorCounters&)>;

/// `recorder` must have recorded events.
Replay replay(const eager::Recorder& recorder, const ReplayOptions& options, const OnReplayed& on_event = {});

}  // namespace zeroplan
