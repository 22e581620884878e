#include "planner/engines/eager/work.h"

#include <numeric>

#include "planner/core/units.h"

namespace zeroplan::eager {

namespace {
template <class Number, std::size_t n>
void add_each(std::array<Number, n>& sums, const std::array<Number, n>& values) {
  for (std::size_t i = 0; i < n; ++i) sums[i] += values[i];
}
void repeat_one(double& sum, double before, std::int64_t times) { sum += static_cast<double>(times) * (sum - before); }
void repeat_one(std::int64_t& sum, std::int64_t before, std::int64_t times) { sum = (Bytes(sum) + Bytes(sum - before) * times).value(); }
template <class Number, std::size_t n>
void repeat_each(std::array<Number, n>& sums, const std::array<Number, n>& before, std::int64_t times) {
  for (std::size_t i = 0; i < n; ++i) repeat_one(sums[i], before[i], times);
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
    case Activity::Kind::host_fetch:
    case Activity::Kind::host_reduction:
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

void WorkTotals::repeat(const WorkTotals& before, std::int64_t times) {
  const auto again = [&](std::int64_t& sum, std::int64_t old) { repeat_one(sum, old, times); };
  repeat_each(flops, before.flops, times);
  repeat_each(moved_bytes, before.moved_bytes, times);
  again(kernels, before.kernels);
  repeat_each(payload_bytes, before.payload_bytes, times);
  again(collectives, before.collectives);
  again(wire_bytes, before.wire_bytes);
  again(copied_to_device_bytes, before.copied_to_device_bytes);
  again(copied_to_host_bytes, before.copied_to_host_bytes);
  again(host_moved_bytes, before.host_moved_bytes);
  again(host_updated_elems, before.host_updated_elems);
}

double WorkTotals::all_flops() const { return std::accumulate(flops.begin(), flops.end(), 0.0); }

}  // namespace zeroplan::eager
