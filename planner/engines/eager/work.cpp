#include "planner/engines/eager/work.h"

#include <numeric>

namespace zeroplan::eager {

namespace {
template <class Number, std::size_t n>
void add_each(std::array<Number, n>& sums, const std::array<Number, n>& values) {
  for (std::size_t i = 0; i < n; ++i) sums[i] += values[i];
}
}  // namespace

void WorkTotals::add(const Activity& activity) {
  switch (activity.kind) {
    case Activity::Kind::kernel:
      flops[static_cast<std::size_t>(activity.arithmetic)] += activity.count;
      moved_bytes[static_cast<std::size_t>(activity.arithmetic)] += activity.bytes;
      ++kernels;
      break;
    case Activity::Kind::collective:
      payload_bytes[static_cast<std::size_t>(activity.collective)] += activity.bytes;
      ++collectives;
      wire_bytes += activity.as_collective().wire_bytes();
      break;
    case Activity::Kind::copy_to_device: copied_to_device_bytes += activity.bytes; break;
    case Activity::Kind::copy_to_host: copied_to_host_bytes += activity.bytes; break;
    case Activity::Kind::host_kernel: host_moved_bytes += activity.bytes; break;
    case Activity::Kind::host_update: host_updated_elems += static_cast<std::int64_t>(activity.count); break;
    case Activity::Kind::host_hooks:
    case Activity::Kind::record:
    case Activity::Kind::wait:
    case Activity::Kind::synchronize: break;
  }
}

WorkTotals& WorkTotals::operator+=(const WorkTotals& other) {
  add_each(flops, other.flops);
  add_each(moved_bytes, other.moved_bytes);
  kernels += other.kernels;
  add_each(payload_bytes, other.payload_bytes);
  collectives += other.collectives;
  wire_bytes += other.wire_bytes;
  copied_to_device_bytes += other.copied_to_device_bytes;
  copied_to_host_bytes += other.copied_to_host_bytes;
  host_moved_bytes += other.host_moved_bytes;
  host_updated_elems += other.host_updated_elems;
  return *this;
}

double WorkTotals::all_flops() const { return std::accumulate(flops.begin(), flops.end(), 0.0); }

}  // namespace zeroplan::eager
