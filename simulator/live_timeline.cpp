// Births and deaths of blocks from a snapshot's trace and segments.
// The trace is a ring buffer: it holds the last N actions up to now, and now is what the segments say. Going forward, an alloc opens a block at its address and a
// free_completed closes it. What is closed without having been opened lived before the first entry; so did what the segments hold as active and no entry opened.
// While history is switched off actions are missing inside the trace, too. Then a second alloc finds its address open, a second free finds it closed, or the segments
// lack an open block or hold one where the trace ends with a free: births and deaths are put at the first entry (or the end) that shows them, and counted.
#include <algorithm>
#include <unordered_map>
#include <utility>

#include "simulator/memory_snapshot.h"

namespace zeroplan {
namespace {

class TimelineBuilder {
 public:
  TimelineBuilder(const MemorySnapshot& snapshot, int device)
      : snapshot_(snapshot), device_(device), trace_(snapshot.trace_of(device)), end_(static_cast<std::uint32_t>(trace_.size())) {}

  LiveTimeline build() {
    out_.blocks.reserve(trace_.size() / 2);
    for (std::uint32_t i = 0; i < end_; ++i) {
      if (trace_[i].action == TraceAction::alloc) allocate(i);
      if (trace_[i].action == TraceAction::free_completed) free(i);
    }
    reconcile();
    put_oldest_first();
    add_up();
    return std::move(out_);
  }

 private:
  /// The last block at an address.
  struct Address {
    std::uint32_t block = 0;
    bool is_open = false;
  };
  struct Change {
    std::uint32_t entry, block;
    bool is_birth;
  };

  std::uint32_t open(const LiveBlock& block) {
    const auto index = static_cast<std::uint32_t>(out_.blocks.size());
    out_.blocks.push_back(block);
    if (block.birth_entry) changes_.push_back({*block.birth_entry, index, true});
    return index;
  }

  void close(std::uint32_t block, std::uint32_t entry) {
    out_.blocks[block].death_entry = entry;
    changes_.push_back({entry, block, false});
  }

  void allocate(std::uint32_t i) {
    const SnapshotEntry& entry = trace_[i];
    Address& at = addresses_[entry.address];
    if (at.is_open) {
      close(at.block, i);
      ++out_.unrecorded_deaths;
    }
    at = {open({entry.address, Bytes(entry.size_bytes), entry.stream, entry.stack, entry.category, i, std::nullopt}), true};
  }

  void free(std::uint32_t i) {
    const SnapshotEntry& entry = trace_[i];
    const auto [at, is_new] = addresses_.try_emplace(entry.address);
    if (!at->second.is_open) {
      LiveBlock unseen{entry.address, Bytes(entry.size_bytes), entry.stream, kEmptyStack, entry.category, std::nullopt, std::nullopt};
      if (!is_new) {
        unseen.birth_entry = i;
        ++out_.unrecorded_births;
      }
      at->second.block = open(unseen);
    }
    close(at->second.block, i);
    at->second.is_open = false;
  }

  /// Makes what is alive at the end what the segments hold.
  void reconcile() {
    bool has_segments = false;
    for (const SnapshotSegment& segment : snapshot_.segments) {
      if (segment.device != device_) continue;
      has_segments = true;
      for (const SnapshotBlock& block : segment.blocks)
        if (block.is_active()) confirm(block, segment.stream);
    }
    if (!has_segments) return;
    std::vector<std::uint32_t> gone;
    for (const auto& [address, at] : addresses_)
      if (at.is_open) gone.push_back(at.block);
    std::sort(gone.begin(), gone.end());
    for (const std::uint32_t block : gone) close(block, end_);
    out_.unrecorded_deaths += static_cast<std::int64_t>(gone.size());
  }

  /// An active block of the segments: opened by the trace with that size, or alive from the start, or born while history was off.
  void confirm(const SnapshotBlock& block, std::int64_t stream) {
    LiveBlock alive{block.address, Bytes(block.requested_bytes), stream, block.stack, kUnknownCategory, std::nullopt, std::nullopt};
    if (const auto at = addresses_.find(block.address); at != addresses_.end()) {
      const bool was_open = std::exchange(at->second.is_open, false);
      if (was_open && out_.blocks[at->second.block].size_bytes == alive.size_bytes) return;
      if (was_open) {
        close(at->second.block, end_);
        ++out_.unrecorded_deaths;
      }
      alive.birth_entry = end_;
      ++out_.unrecorded_births;
    }
    open(alive);
  }

  /// Blocks of the start go to the front, by address; changes follow their blocks.
  void put_oldest_first() {
    std::vector<std::uint32_t> order(out_.blocks.size());
    for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
    const auto is_start = [&](std::uint32_t i) { return !out_.blocks[i].birth_entry; };
    const auto middle = std::stable_partition(order.begin(), order.end(), is_start);
    std::stable_sort(order.begin(), middle, [&](std::uint32_t a, std::uint32_t b) { return out_.blocks[a].address < out_.blocks[b].address; });
    std::vector<std::uint32_t> place(order.size());
    std::vector<LiveBlock> blocks(order.size());
    for (std::uint32_t i = 0; i < order.size(); ++i) {
      place[order[i]] = i;
      blocks[i] = out_.blocks[order[i]];
    }
    out_.blocks = std::move(blocks);
    for (Change& change : changes_) change.block = place[change.block];
  }

  void add_up() {
    for (const LiveBlock& block : out_.blocks)
      if (!block.birth_entry) out_.start_bytes += block.size_bytes;
    out_.peak_bytes = out_.end_bytes = out_.start_bytes;
    out_.steps.reserve(changes_.size());
    for (const Change& change : changes_) {
      const Bytes size = out_.blocks[change.block].size_bytes;
      out_.end_bytes = change.is_birth ? out_.end_bytes + size : out_.end_bytes - size;
      out_.steps.push_back({change.entry, change.block, change.is_birth, out_.end_bytes});
      if (out_.end_bytes > out_.peak_bytes) {
        out_.peak_bytes = out_.end_bytes;
        out_.peak_step = static_cast<std::uint32_t>(out_.steps.size() - 1);
      }
    }
  }

  const MemorySnapshot& snapshot_;
  int device_;
  std::span<const SnapshotEntry> trace_;
  std::uint32_t end_;
  std::unordered_map<std::int64_t, Address> addresses_;  ///< those that the trace saw
  std::vector<Change> changes_;
  LiveTimeline out_;
};

}  // namespace

LiveTimeline timeline_of(const MemorySnapshot& snapshot, int device) { return TimelineBuilder(snapshot, device).build(); }

}  // namespace zeroplan
