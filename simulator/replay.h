// Replays what an emulated engine asked of memory (planner/engines/eager/recorder.h) through the model of PyTorch's caching allocator: from requested bytes
// to allocated, active and reserved, phase by phase, and to the moment of an out-of-memory error.
// A repeated micro batch goes through the allocator as often as it runs, until the allocator comes out of one as it came out of the one before: the rest is the same again.
// A settled step goes through it twice: its allocator comes to rest a step later than the engine does.
// Frees of blocks that another stream still uses come back when the caller says (eager::waiting_frees); the block is active until then.
#pragma once

#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "planner/core/units.h"
#include "planner/engines/eager/recorder.h"
#include "planner/engines/eager/step_time.h"
#include "simulator/caching_allocator.h"

namespace zeroplan {

struct ReplayOptions {
  AllocatorOptions allocator;
  /// cuBLAS workspaces, one for the forward thread and one for autograd's: taken from the allocator at the first forward and the first backward, never given back.
  Bytes cublas_workspace_bytes;
  /// By `back`; none: no free waits.
  std::span<const eager::WaitingFree> waiting = {};
  /// Rounds of a repeated micro batch that are followed at most, for what need not be exact.
  std::int64_t most_rounds = std::numeric_limits<std::int64_t>::max();
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
  std::size_t event = 0;  ///< in Recorder::events()
};

struct Replay {
  std::vector<AllocatorPeaks> phases;  ///< in the order of their first begin; "steady.*" of the last step
  AllocatorPeaks steady;               ///< of the last step
  AllocatorPeaks whole;                ///< from the start on
  Bytes between_steps_allocated;       ///< at the end of the last step
  std::int64_t retries = 0;            ///< times the cache was emptied to serve a request
  std::optional<ReplayFailure> failure;  ///< the replay ends there
};

/// What the allocator did with one of the recorder's events.
struct ReplayedEvent {
  std::size_t event = 0;                ///< in Recorder::events(); those of a repeated stretch or step come several times
  std::optional<BlockId> block;         ///< that was taken
  const CachingAllocator& allocator;
};
/// Hears of each event after it; not of the event that fails, nor of any after it.
using OnReplayed = std::function<void(const ReplayedEvent&)>;

/// `recorder` must have recorded events.
Replay replay(const eager::Recorder& recorder, const ReplayOptions& options, const OnReplayed& on_event = {});

}  // namespace zeroplan
