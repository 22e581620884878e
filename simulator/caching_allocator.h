// A model of PyTorch's CUDA caching allocator (2.6 to 2.11 and later): which segments a sequence of allocations makes cudaMalloc give,
// hence memory_reserved, fragmentation and out-of-memory, for engines that allocate through it (DeepSpeed, FSDP2).
// A request is rounded to a block; blocks are cut from segments; a freed block is kept for its own stream. Addresses are integers that
// stand for device pointers: cudaMalloc is taken to return the lowest address where the segment fits, so freed addresses are used again.
// Leaves out graph captures and their private pools, memory pools, IPC, and time: the caller says which events have completed.
// Source: c10/cuda/CUDACachingAllocator.cpp (DeviceCachingAllocator), c10/core/AllocatorConfig.h.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "planner/core/units.h"

namespace zeroplan {

/// A CUDA stream of one device: 0, 1, … below kMostAllocatorStreams. Streams never share free blocks.
enum class StreamId : std::uint32_t {};
inline constexpr std::uint32_t kMostAllocatorStreams = 64;

/// One allocation, from allocate() to free(). Ids are used again afterwards.
enum class BlockId : std::uint32_t {};

/// PYTORCH_CUDA_ALLOC_CONF and the device. The defaults are PyTorch's.
struct AllocatorOptions {
  bool expandable_segments = false;
  std::optional<Bytes> capacity_bytes = std::nullopt;  ///< what the driver can give to segments: device memory less all that lives outside; none: no end
  std::optional<Bytes> limit_bytes = std::nullopt;     ///< set_per_process_memory_fraction: checked before the driver is asked
  Bytes device_bytes{std::int64_t{1} << 40};  ///< the GPU's total: an expandable range is 9/8 of it; the OOM text names it
  Bytes large_segment_bytes{20 << 20};        ///< large_segment_size_mb: above 10 MiB; with expandable segments the page, a multiple of 2 MiB
  std::optional<Bytes> max_split_bytes = std::nullopt;       ///< max_split_size_mb: at least large_segment_bytes; none: every block may be split
  std::optional<Bytes> max_non_split_rounding_bytes = std::nullopt;  ///< max_non_split_rounding_mb: at least large_segment_bytes, which is the default
  /// [i]: requests of [2^i, 2^(i+1)) MiB; smaller ones use [0], larger ones [15]. 0 or 1: off; else a power of 2.
  std::array<std::int64_t, 16> roundup_power2_divisions{};
  double garbage_collection_threshold = 0;  ///< of limit_bytes, without which it does nothing; 0: off; below 1
};

/// A counter and the most it was since the start or reset_peaks().
struct ByteGauge {
  Bytes current, peak;
  friend bool operator==(const ByteGauge&, const ByteGauge&) = default;
};

/// PyTorch's statistics of the same names (StatType::AGGREGATE).
struct AllocatorCounters {
  ByteGauge requested;    ///< requests as made, until the free completes; independent of history, the others are not
  ByteGauge allocated;    ///< blocks, until the free is asked for: memory_allocated
  ByteGauge active;       ///< blocks, until the free completes
  ByteGauge reserved;     ///< segments or mapped pages: memory_reserved
  Bytes inactive_split;   ///< free parts of segments that are partly in use; expandable segments are left out
  std::int64_t segments = 0;   ///< living cudaMallocs; expandable segments are not counted
  std::int64_t retries = 0;    ///< num_alloc_retries: the cache was emptied to serve a request
  std::int64_t ooms = 0;
  std::int64_t synchronizations = 0;  ///< num_sync_all_streams: the host waited for every event
  friend bool operator==(const AllocatorCounters&, const AllocatorCounters&) = default;
};

/// A request that cannot be served: an expected no. The allocator stays usable, its cache emptied and its events completed.
struct OutOfMemory {
  Bytes requested_bytes;
  Bytes segment_bytes;  ///< what was asked of the driver, and what the text calls "Tried to allocate"
  Bytes device_bytes;
  Bytes free_bytes;     ///< of the capacity
  std::optional<Bytes> limit_bytes;
  Bytes allocated_bytes;
  Bytes unallocated_bytes;  ///< reserved but not allocated: what fragmentation holds
};

/// The sentence that torch.OutOfMemoryError shows, up to the advice at its end.
std::string text(const OutOfMemory& failure);

struct BlockView {
  enum class State : std::uint8_t { active_allocated, active_pending_free, inactive } state = State::inactive;
  Bytes address, size_bytes;
  Bytes requested_bytes;  ///< 0 if inactive
  friend bool operator==(const BlockView&, const BlockView&) = default;
};

/// A cudaMalloc, or a run of mapped pages of an expandable range.
struct SegmentView {
  Bytes address, size_bytes;
  StreamId stream{};
  bool small_pool = false;
  bool expandable = false;
  std::vector<BlockView> blocks;  ///< ascending, without gaps
  friend bool operator==(const SegmentView&, const SegmentView&) = default;
};

class CachingAllocator {
 public:
  /// Throws UsageError for options that PyTorch refuses.
  explicit CachingAllocator(const AllocatorOptions& options = {});
  ~CachingAllocator();
  CachingAllocator(CachingAllocator&&) noexcept;
  CachingAllocator& operator=(CachingAllocator&&) noexcept;

  /// request > 0: PyTorch does not ask for empty tensors. First completes the frees whose events are known to be over. Throws
  /// OverflowError for a request of 1 EB or more, as PyTorch refuses it before it looks.
  std::variant<BlockId, OutOfMemory> allocate(Bytes request, StreamId stream);

  /// If the block was used on other streams, an event is recorded on each of them now and the block stays active until all are over.
  void free(BlockId block);

  /// Tensor.record_stream. On the block's own stream it does nothing.
  void record_stream(BlockId block, StreamId stream);

  /// Events that frees have recorded on a stream since the start. Their order is the stream's, so "over" is a count.
  std::int64_t events_recorded(StreamId stream) const;
  /// The first `count` events of the stream are over; the next allocate() notices. Never takes back.
  void complete_events(StreamId stream, std::int64_t count);

  /// Waits for all events and gives every wholly free segment or page back to the driver.
  void empty_cache();
  void reset_peaks();

  const AllocatorCounters& counters() const;
  Bytes address(BlockId block) const;
  Bytes size_bytes(BlockId block) const;  ///< of the block, slack included

  /// All segments by address: for the memory map and memory_viz.
  std::vector<SegmentView> snapshot() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

/// What CachingHostAllocator takes for a pinned buffer: the next power of two (a 5 GiB buffer takes 8 GiB). request > 0.
/// Source: ATen/core/CachingHostAllocator.h.
Bytes pinned_bytes(Bytes request);

}  // namespace zeroplan
