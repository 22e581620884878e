// StreamLanes: what runs when, a lane a stream of the device, on the picture's clock. A lane answers how busy each pixel column is, so that ten thousand kernels cost no more to draw
// than the columns they fall into, and what runs at an instant. Asynchronous collectives run beside the kernels of the stream that issued them and share its lane.
// Leaves out memory (step_picture.h) and pixels.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "planner/core/program.h"

namespace zeroplan::gui {

struct TimeSpan {
  SimTime begin, end;
  friend bool operator==(const TimeSpan&, const TimeSpan&) = default;
};

/// copies: both directions between host and device. host: what the host does itself while streams may wait for it.
enum class Lane : std::uint8_t { compute, gather, reduce, copies, host };
inline constexpr int kLaneCount = 5;
std::string_view name_of(Lane lane);
Lane lane_of(Stream stream);

struct LaneWork {
  TimeSpan time;
  std::uint32_t index = 0;  ///< instruction of a Program, or in Timeline::work
};

struct StreamLane {
  Lane lane = Lane::compute;
  std::vector<LaneWork> work;      ///< by begin
  std::vector<TimeSpan> busy;      ///< the same, joined where they touch: ascending, disjoint
  std::vector<SimTime> latest_end;  ///< by work: of it and all before it
};

StreamLane lane_from(Lane lane, std::vector<LaneWork> work);

/// Of the works that run at `time` the one that began last; null: idle.
const LaneWork* work_at(const StreamLane& lane, SimTime time);

/// How much of each of `width` equal stretches of [from, to) is covered: 0 to 1. `spans` ascend and are disjoint. from < to, width > 0.
/// Cost: the spans in sight and the columns.
std::vector<float> covered_ratios(std::span<const TimeSpan> spans, SimTime from, SimTime to, int width);

}  // namespace zeroplan::gui
