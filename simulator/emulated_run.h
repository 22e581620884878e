// EmulatedRun: a question's engine, emulated once, and what its prediction and its timeline both read: the recorder and what the replayed allocator did on the device.
// Inside simulator/ only.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "planner/core/error.h"
#include "planner/engines/emulation.h"
#include "simulator/prediction.h"
#include "simulator/replay.h"
#include "simulator/timeline.h"

namespace zeroplan {

/// What the allocator takes from the device, event by event of the recorder, on the question's own device; where that is too small, on one without end.
struct DeviceTrace {
  struct Block {
    Bytes address, size;
  };
  std::vector<Bytes> reserved;               ///< after each event; of a repeated stretch the most of all rounds, of a settled step those of its second
  std::vector<std::optional<Block>> blocks;  ///< that the event took; of a repeated stretch those of the last round that was followed
  std::map<std::size_t, Block> handed_on;    ///< what the second round of a settled step found lay here, by the event that took it before the step
  std::vector<std::pair<std::size_t, std::vector<SegmentView>>> segments;  ///< whenever they have changed, after which event, ascending; of a repeated stretch those of the last round; if they were asked for
  std::optional<ReplayFailure> failure;      ///< on the question's own device
};

struct EmulatedRun {
  /// Throws UsageError for what cannot be emulated.
  EmulatedRun(const Question& asked, const PredictOptions& options);

  Question question;
  std::vector<EmulationGap> gaps;
  PredictOptions options;
  eager::Recorder recorder;
  eager::PhasePeaks peaks;
};

/// What `make` makes for the question; where bytes or times are more than an int64 holds, UsageError with what to lower.
template <class Make>
auto within_int64(const Question& question, const Make& make) {
  try {
    return make();
  } catch (const OverflowError& error) {
    throw UsageError(fmt::format("micro_batch={} × seq={}, accumulate={} on model {}: {}. Lower micro_batch, seq or accumulate", question.plan.micro_batch, question.job.seq, question.plan.accumulate,
                                 question.job.model.name, error.what()));
  }
}

Replay replay(const EmulatedRun& run, const ReplayOptions& options, DeviceTrace* trace, bool with_segments = false);

/// Not null: what the replays that it makes, and the clock of its step, have found besides.
Prediction predict(const EmulatedRun& run, DeviceTrace* trace, eager::StepClock* clock);
DeviceTrace trace_device(const EmulatedRun& run, bool with_segments);

}  // namespace zeroplan
