// Emulation: the question's engine as it really runs, on eager PyTorch at shape level (engines/eager). Here a Question becomes the job of one of
// the emulated engines; what that engine then asks of memory is heard by a Recorder. The zeroplan engine is not emulated: it is compiled (engines/zeroplan.h).
// Leaves out what an allocator makes of the requests (simulator/replay.h) and time.
#pragma once

#include <string>
#include <vector>

#include "planner/core/plan.h"
#include "planner/engines/eager/recorder.h"
#include "planner/engines/eager/step_time.h"
#include "planner/engines/eager/training_loop.h"

namespace zeroplan {

/// Whose kernels and autograd the run has. oracle: fake tensors on a simulated device, which is what engines' own code was run on to be compared with.
enum class EmulatedDevice : std::uint8_t { gpu, oracle };

/// A key of the question that the emulation does not follow, and what it takes instead.
struct EmulationGap {
  std::string key;
  std::string taken;  ///< a clause for people: "as bf16"
};

/// Every gap of the question; empty if it is followed in all. Throws UsageError for a model that no engine is emulated with (by name).
std::vector<EmulationGap> emulation_gaps(const Question& question);

/// Whether blocks are recomputed by torch.utils.checkpoint's re-entrant way: as the plan says, else by its tool. Some hand no choice on, and its default was re-entrant until transformers 5.
bool checkpoints_reentrant(const Plan& plan);

/// What decides the rates of the run's kernels and is not in its activities: the attention kernel and, by tool and torch, its generation; dtypes; torch.compile.
eager::StepConditions step_conditions(const Question& question);

/// `steps` optimizer steps (three by default) of the question's engine on rank 0, reported to `recorder`: the first, one in which buffers and traces settle, and the steady one.
/// Gaps are passed over. Throws UsageError as emulation_gaps does.
eager::PhasePeaks emulate(const Question& question, eager::Recorder& recorder, EmulatedDevice device = EmulatedDevice::gpu, int steps = 3);

}  // namespace zeroplan
