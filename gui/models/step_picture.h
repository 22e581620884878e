// StepPicture: one training step of a Program as the window draws it. Memory keeps its issue order, mapped monotonically to the compute stream's clock: an
// instruction of another stream stands at the instant where compute had come to. The stack's maximum is therefore the fold's peak, to the byte.
// Micro batches that are equal (the middle ones of a long accumulation) are walked and drawn once and say how often they run.
// Another engine's picture is of its Timeline: the same issue order with no clock behind it, one tick an instant.
// Leaves out addresses (memory_map.h) and pixels.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gui/models/stacked_series.h"
#include "planner/layout/linear.h"
#include "simulator/timeline.h"

namespace zeroplan::gui {

struct TimeSpan {
  SimTime begin, end;
  friend bool operator==(const TimeSpan&, const TimeSpan&) = default;
};

/// An instruction in linear order (planner/layout/linear.h; init comes first and takes no time), or an instant of a Timeline, which has no fragment and no clock.
struct InstructionSpan {
  std::uint16_t fragment = 0;
  std::uint16_t instruction = 0;
  std::int32_t block = 0;
  Stream stream = Stream::compute;
  TimeSpan clock;  ///< on its own stream
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

/// A stretch that stands for `count` equal micro batches.
struct RepeatSpan {
  TimeSpan time;
  std::int64_t count = 1;
};

struct StepPicture {
  StackedSeries memory;
  std::vector<InstructionSpan> instructions;
  std::vector<LifeSpan> lives;  ///< births in linear issue order (the order of Layout::birth_offset), then scratch
  std::size_t birth_count = 0;
  std::vector<PhaseSpan> phases;
  std::vector<RepeatSpan> repeats;
  std::vector<TimeSpan> exposed;  ///< compute waits for another stream
  std::size_t peak_event = 0;
  SimTime duration;  ///< of what is drawn: with repeats, less than the step's
  bool has_clock = true;  ///< false: times are issue order, kInstant an instant
};

inline constexpr SimTime kInstant{1000};  ///< room for a zoom

StepPicture picture_of(const Program& program, const LinearProgram& linear);
/// Lives are the timeline's tensors in its order. At an instant tensors are born first; what dies there is gone when the next begins.
StepPicture picture_of(const Timeline& timeline);

/// The phase of a Timeline's instant ("steady.backward"); nothing before the span and while a model is loaded.
std::optional<Phase> phase_of(std::string_view name);

/// Indices into `lives` of what is alive after an event, largest first.
std::vector<std::size_t> alive_at(const StepPicture& picture, std::size_t event);

/// "block 17", "head".
std::string unit_name(UnitKind unit, std::int64_t block);
/// The last instruction issued when `event` happened.
std::uint32_t instruction_at(const StepPicture& picture, std::size_t event);

}  // namespace zeroplan::gui
