#include <algorithm>
#include <map>
#include <numeric>

#include <fmt/format.h>

#include "simulator/timeline_files.h"

namespace zeroplan {
namespace {

constexpr std::int64_t kBase = std::int64_t{1} << 40;
constexpr std::int64_t kGrain = 512;  // of PyTorch's blocks

/// Hands out the lowest gap that is large enough.
class LowestGap {
 public:
  std::int64_t take(std::int64_t bytes) {
    for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap) {
      const auto [address, size] = *gap;
      if (size < bytes) continue;
      gaps_.erase(gap);
      if (size > bytes) gaps_[address + bytes] = size - bytes;
      return address;
    }
    return std::exchange(end_, end_ + bytes);
  }

  void give_back(std::int64_t address, std::int64_t bytes) {
    auto next = gaps_.lower_bound(address);
    if (next != gaps_.end() && next->first == address + bytes) {
      bytes += next->second;
      next = gaps_.erase(next);
    }
    if (next != gaps_.begin())
      if (const auto before = std::prev(next); before->first + before->second == address) {
        before->second += bytes;
        return;
      }
    gaps_[address] = bytes;
  }

  std::int64_t end() const { return end_; }

 private:
  std::map<std::int64_t, std::int64_t> gaps_;  // size by address
  std::int64_t end_ = kBase;
};

class SnapshotBuilder {
 public:
  explicit SnapshotBuilder(const Timeline& timeline) : t_(timeline), address_(timeline.tensors.size(), 0), stacks_(timeline.tensors.size(), kEmptyStack) { out_.device_traces.resize(1); }

  MemorySnapshot build() {
    for (std::size_t i = 0; i < t_.tensors.size(); ++i)
      if (t_.tensors[i].death < t_.instants.size()) by_death_.push_back(i);
    std::stable_sort(by_death_.begin(), by_death_.end(), [&](std::size_t a, std::size_t b) { return t_.tensors[a].death < t_.tensors[b].death; });
    for (std::size_t i = 0; i < t_.tensors.size(); ++i) {  // in the order of birth
      free_before(t_.tensors[i].birth);
      stacks_[i] = stack_of(t_.tensors[i]);
      address_[i] = gap_.take(block_bytes(i));
      entry(TraceAction::alloc, i, t_.tensors[i].birth);
    }
    free_before(t_.instants.size());
    add_segment();
    return std::move(out_);
  }

 private:
  std::int64_t block_bytes(std::size_t tensor) const { return round_up(std::max<std::int64_t>(t_.tensors[tensor].bytes.value(), 1), kGrain); }

  FrameId frame(const std::string& function, const std::string& file) { return out_.stacks.intern_frame({out_.strings.intern(function), out_.strings.intern(file), 0}); }

  StackId stack_of(const TimelineTensor& tensor) {
    const std::array<FrameId, 3> frames{frame(tensor.name, tensor.unit), frame(instant_line(t_, tensor.birth), "born"), frame(std::string(tensor.why), "why")};
    return out_.stacks.intern_stack(frames);
  }

  void entry(TraceAction action, std::size_t tensor, std::size_t instant) {
    const std::optional<SimTime> start = t_.instants[instant].start;
    out_.device_traces[0].push_back({.address = address_[tensor], .size_bytes = t_.tensors[tensor].bytes.value(), .time_us = start ? start->value() / 1000 : static_cast<std::int64_t>(instant),
                                     .stream = static_cast<std::int64_t>(t_.tensors[tensor].stream), .stack = stacks_[tensor], .category = out_.strings.intern(name_of(t_.tensors[tensor].category)), .action = action});
  }

  void free_before(std::size_t instant) {
    for (; freed_ < by_death_.size() && t_.tensors[by_death_[freed_]].death < instant; ++freed_) {
      const std::size_t tensor = by_death_[freed_];
      for (const TraceAction action : {TraceAction::free_requested, TraceAction::free_completed}) entry(action, tensor, t_.tensors[tensor].death);
      gap_.give_back(address_[tensor], block_bytes(tensor));
    }
  }

  /// What is still alive at the end lies in it; the rest of it is free.
  void add_segment() {
    std::map<std::int64_t, std::size_t> alive;
    for (std::size_t i = 0; i < t_.tensors.size(); ++i)
      if (t_.tensors[i].death >= t_.instants.size()) alive[address_[i]] = i;
    SnapshotSegment segment{.address = kBase, .total_bytes = gap_.end() - kBase};
    std::int64_t at = kBase;
    const auto free_until = [&](std::int64_t address) {
      if (address > at) segment.blocks.push_back({.address = at, .size_bytes = address - at, .requested_bytes = 0});
    };
    for (const auto& [address, tensor] : alive) {
      free_until(address);
      segment.blocks.push_back({.address = address, .size_bytes = block_bytes(tensor), .requested_bytes = t_.tensors[tensor].bytes.value(), .stack = stacks_[tensor], .state = SnapshotBlock::State::active_allocated});
      at = address + block_bytes(tensor);
    }
    free_until(gap_.end());
    if (segment.total_bytes > 0) out_.segments.push_back(std::move(segment));
  }

  const Timeline& t_;
  LowestGap gap_;
  std::vector<std::int64_t> address_;  // by tensor
  std::vector<StackId> stacks_;        // by tensor
  std::vector<std::size_t> by_death_;
  std::size_t freed_ = 0;
  MemorySnapshot out_;
};

}  // namespace

MemorySnapshot snapshot_of(const Timeline& timeline) { return SnapshotBuilder(timeline).build(); }

std::string timeline_snapshot(const Timeline& timeline) {
  std::string out;
  write_memory_snapshot(snapshot_of(timeline), [&](std::string_view part) { out += part; });
  return out;
}

}  // namespace zeroplan
