#include "gui/models/stream_lanes.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace zeroplan::gui {

std::string_view name_of(Lane lane) {
  switch (lane) {
    case Lane::compute: return "compute";
    case Lane::gather: return "gather";
    case Lane::reduce: return "reduce";
    case Lane::copies: return "copies";
    case Lane::host: return "host";
  }
  return "";
}

Lane lane_of(Stream stream) {
  switch (stream) {
    case Stream::compute: return Lane::compute;
    case Stream::gather: return Lane::gather;
    case Stream::reduce: return Lane::reduce;
    case Stream::h2d:
    case Stream::d2h: return Lane::copies;
  }
  return Lane::compute;
}

StreamLane lane_from(Lane lane, std::vector<LaneWork> work) {
  StreamLane out{.lane = lane, .work = std::move(work), .busy = {}, .latest_end = {}};
  std::stable_sort(out.work.begin(), out.work.end(), [](const LaneWork& a, const LaneWork& b) { return a.time.begin < b.time.begin; });
  out.latest_end.reserve(out.work.size());
  for (const LaneWork& one : out.work) {
    if (!out.busy.empty() && one.time.begin <= out.busy.back().end) out.busy.back().end = std::max(out.busy.back().end, one.time.end);
    else out.busy.push_back(one.time);
    out.latest_end.push_back(out.busy.back().end);
  }
  return out;
}

const LaneWork* work_at(const StreamLane& lane, SimTime time) {
  auto at = std::upper_bound(lane.work.begin(), lane.work.end(), time, [](SimTime t, const LaneWork& one) { return t < one.time.begin; });
  while (at != lane.work.begin()) {
    --at;
    if (time < at->time.end) return &*at;
    if (lane.latest_end[static_cast<std::size_t>(at - lane.work.begin())] <= time) return nullptr;
  }
  return nullptr;
}

std::vector<float> covered_ratios(std::span<const TimeSpan> spans, SimTime from, SimTime to, int width) {
  assert(from < to && width > 0);
  std::vector<float> out(static_cast<std::size_t>(width), 0.0f);
  const double columns_a_ns = width / static_cast<double>((to - from).value());
  auto at = std::partition_point(spans.begin(), spans.end(), [&](const TimeSpan& span) { return span.end <= from; });
  for (; at != spans.end() && at->begin < to; ++at) {
    const double begin = static_cast<double>((std::max(at->begin, from) - from).value()) * columns_a_ns, end = static_cast<double>((std::min(at->end, to) - from).value()) * columns_a_ns;
    for (auto column = static_cast<std::size_t>(begin); column < out.size() && static_cast<double>(column) < end; ++column) {
      const auto left = static_cast<double>(column);
      out[column] += static_cast<float>(std::min(end, left + 1) - std::max(begin, left));
    }
  }
  return out;
}

}  // namespace zeroplan::gui
