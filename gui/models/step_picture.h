// StepPicture: one training step of a Program as the window draws it. Memory keeps its issue order, mapped monotonically to the compute stream's clock: an
// instruction of another stream stands at the instant where compute had come to. The stack's maximum is therefore the fold's peak, to the byte.
// Micro batches that are equal (the middle ones of a long accumulation) are walked and drawn once and say how often they run.
// Another engine's picture is of its Timeline, mapped in the same way where all its instants have times; a part of its run that is more than one step has no clock: it is drawn in issue
// order, one tick an instant, without lanes.
// Leaves out addresses (memory_map.h) and pixels.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gui/models/stacked_series.h"
#include "gui/models/stream_lanes.h"
#include "planner/layout/linear.h"
#include "simulator/timeline.h"

namespace zeroplan::gui {

/// An instruction in linear order (planner/layout/linear.h; init comes first and takes no time), or an instant of a Timeline, which has no fragment and whose clock is its lane's.
struct InstructionSpan {
  std::uint16_t fragment = 0;
  std::uint16_t instruction = 0;
  std::int32_t block = 0;
  Stream stream = Stream::compute;
  TimeSpan clock;  ///< on its own stream
  TimeSpan place;  ///< where it is drawn: births at its begin, deaths at its end
};

/// One life of a storage instance, or the scratch of one instruction.
struct LifeSpan {
  std::optional<StorageId> storage;  ///< none: scratch, or a tensor
  std::int32_t instance = 0;
  std::uint32_t born = 0, dies = 0;  ///< linear instructions; dies = instructions.size(): persists
  std::size_t first_event = 0;       ///< alive after events [first_event, last_event)
  std::size_t last_event = 0;
  std::int64_t bytes = 0;
  std::optional<std::uint32_t> tensor = {};  ///< of a Timeline
};

struct PhaseSpan {
  Phase phase = Phase::forward;
  TimeSpan time;
};

/// Instructions [begin, end), drawn once, that stand for `count` equal micro batches.
struct RepeatSpan {
  TimeSpan time;
  std::int64_t count = 1;
  std::uint32_t begin = 0, end = 0;
  SimTime more;  ///< what the rounds that are not drawn take; 0: not known
};

struct StepPicture {
  StackedSeries memory;
  std::vector<InstructionSpan> instructions;
  std::vector<LifeSpan> lives;  ///< births in linear issue order (the order of Layout::birth_offset), then scratch
  std::size_t birth_count = 0;
  std::vector<PhaseSpan> phases;
  std::vector<RepeatSpan> repeats;
  std::vector<StreamLane> lanes;  ///< that have work, and compute; none without a clock
  std::vector<TimeSpan> exposed;  ///< compute waits for another stream, or for a blocking collective or copy of its own; ascending, disjoint
  std::size_t peak_event = 0;
  SimTime duration;  ///< of what is drawn: with repeats, less than the step's
  bool has_clock = true;  ///< false: times are issue order, kInstant an instant
};

inline constexpr SimTime kInstant{1000};  ///< room for a zoom

/// `step`: how long the step takes with all its micro batches, where that is known.
StepPicture picture_of(const Program& program, const LinearProgram& linear, std::optional<SimTime> step = std::nullopt);
/// Lives are the timeline's tensors in its order. At an instant tensors are born first; what dies there is gone when the next begins.
StepPicture picture_of(const Timeline& timeline);

/// When the step has come to what is drawn at `drawn`: rounds that are not drawn included.
SimTime step_time(const StepPicture& picture, SimTime drawn);
/// How often an instruction runs where it is drawn: 1, or the count of the micro batches that it stands for.
std::int64_t rounds_of(const StepPicture& picture, std::uint32_t instruction);

/// The phase of a Timeline's instant ("steady.backward"); nothing before the span and while a model is loaded.
std::optional<Phase> phase_of(std::string_view name);

/// Indices into `lives` of what is alive after an event, largest first.
std::vector<std::size_t> alive_at(const StepPicture& picture, std::size_t event);

/// "block 17", "head".
std::string unit_name(UnitKind unit, std::int64_t block);
/// The last instruction issued when `event` happened.
std::uint32_t instruction_at(const StepPicture& picture, std::size_t event);

}  // namespace zeroplan::gui
