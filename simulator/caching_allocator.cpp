// Problem: predict, integer for integer, what PyTorch's allocator reserves. It is history-dependent, so nothing but its algorithm will do.
// Terms: a segment is one cudaMalloc, a chain of blocks without gaps; a block is in use, waiting for events, or free. A pool holds the free
// blocks of one stream and one kind: small (blocks to 1 MiB, segments of 2 MiB) or large.
// Method, per request: (1) finish the frees whose events are over, (2) round, (3) best fit in the pool: smallest block, then lowest address,
// (4) else a new segment, (5) else empty the caches and try once more, (6) cut what is left over off the block, if it is worth it. A free
// merges the block with its free neighbours. An expandable range replaces segments by one long virtual range a pool, mapped page by page.
// Cost: O(log free blocks) an event; emptying the cache is linear in the free blocks.
#include "simulator/caching_allocator.h"

#include <algorithm>
#include <vector>
#include <bit>
#include <cassert>
#include <compare>
#include <deque>
#include <map>

#include <fmt/format.h>

#include "planner/core/error.h"

namespace zeroplan {
namespace {

constexpr std::int64_t kMiB = 1 << 20;
constexpr std::int64_t kMinBlock = 512;               // kMinBlockSize
constexpr std::int64_t kLargestSmall = kMiB;          // kSmallSize
constexpr std::int64_t kSmallSegment = 2 * kMiB;      // kSmallBuffer
constexpr std::int64_t kLeastOwnSegment = 10 * kMiB;  // kMinLargeAlloc: from here on a request has a segment of its own size
constexpr std::int64_t kSegmentUnit = 2 * kMiB;       // kRoundLarge
constexpr std::int64_t kTooLarge = 1'152'921'504'606'846'976;  // PyTorch's "1EB"

/// Device addresses: what cudaMalloc and cuMemAddressReserve hand out, in whole driver pages of 2 MiB. 0 is never one.
class AddressSpace {
 public:
  std::int64_t take(std::int64_t size) {
    size = round_up(size, kSegmentUnit);
    for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
      if (hole->second < size) continue;
      const auto [begin, length] = *hole;
      holes_.erase(hole);
      if (length > size) holes_.emplace(begin + size, length - size);
      return begin;
    }
    const std::int64_t begin = end_;
    end_ = (Bytes{end_} + Bytes{size}).value();
    return begin;
  }

  void give_back(std::int64_t begin, std::int64_t size) {
    size = round_up(size, kSegmentUnit);
    auto next = holes_.lower_bound(begin);
    if (next != holes_.end() && next->first == begin + size) {
      size += next->second;
      next = holes_.erase(next);
    }
    if (next != holes_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == begin) {
        begin = before->first;
        size += before->second;
        holes_.erase(before);
      }
    }
    if (begin + size == end_) end_ = begin;
    else holes_.emplace(begin, size);
  }

 private:
  std::map<std::int64_t, std::int64_t> holes_;  // begin → length; never touching each other or end_
  std::int64_t end_ = kSegmentUnit;
};

struct Pool;

struct Block {
  std::int64_t address = 0, size = 0, requested = 0;
  Block* prev = nullptr;  // neighbours in the same segment
  Block* next = nullptr;
  Pool* pool = nullptr;
  std::uint64_t stream_uses = 0;  // a bit a stream, of record_stream
  std::int64_t age_base = 0;      // lookups in the large pools when it became free
  std::int64_t range_begin = 0;   // of its expandable range; pages are counted from here
  std::uint32_t index = 0;
  std::uint32_t events = 0;       // not yet over
  bool allocated = false;
  bool mapped = true;             // false: addresses of an expandable range without memory behind them

  bool is_split() const { return prev != nullptr || next != nullptr; }
  bool is_free() const { return !allocated && events == 0; }
};

struct FreeBlock {
  std::int64_t size = 0, address = 0;
  Block* block = nullptr;
  bool operator<(const FreeBlock& other) const { return size != other.size ? size < other.size : address < other.address; }
};

/// Sorted, in runs of at most kMost blocks, none of them empty: blocks come and go all the time, of lists of up to thousands.
class FreeList {
 public:
  struct iterator {
    const FreeList* list = nullptr;
    std::size_t run = 0, place = 0;
    const FreeBlock& operator*() const { return list->runs_[run][place]; }
    const FreeBlock* operator->() const { return &**this; }
    iterator& operator++() {
      if (++place == list->runs_[run].size()) ++run, place = 0;
      return *this;
    }
    friend bool operator==(const iterator& a, const iterator& b) { return a.run == b.run && a.place == b.place; }
  };
  iterator begin() const { return {this, 0, 0}; }
  iterator end() const { return {this, runs_.size(), 0}; }
  bool empty() const { return runs_.empty(); }
  const FreeBlock& back() const { return runs_.back().back(); }

  iterator lower_bound(const FreeBlock& block) const {
    const std::size_t run = run_of(block);
    return run == runs_.size() ? end() : iterator{this, run, place_in(runs_[run], block)};
  }
  void insert(const FreeBlock& block) {
    if (runs_.empty()) {
      runs_.push_back({block});
      return;
    }
    const std::size_t run = std::min(run_of(block), runs_.size() - 1);
    Run& blocks = runs_[run];
    blocks.insert(blocks.begin() + static_cast<std::ptrdiff_t>(place_in(blocks, block)), block);
    if (blocks.size() > kMost) {
      Run upper(blocks.begin() + kMost / 2, blocks.end());
      blocks.resize(kMost / 2);
      runs_.insert(runs_.begin() + static_cast<std::ptrdiff_t>(run) + 1, std::move(upper));
    }
  }
  void erase(const FreeBlock& block) { erase(lower_bound(block)); }
  /// The one after it.
  iterator erase(iterator at) {
    Run& blocks = runs_[at.run];
    blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(at.place));
    if (blocks.empty()) runs_.erase(runs_.begin() + static_cast<std::ptrdiff_t>(at.run));
    else if (at.place == blocks.size()) ++at.run, at.place = 0;
    return at;
  }

 private:
  using Run = std::vector<FreeBlock>;
  static constexpr std::size_t kMost = 64;
  /// The first whose last block is not before this one.
  std::size_t run_of(const FreeBlock& block) const {
    return static_cast<std::size_t>(std::find_if(runs_.begin(), runs_.end(), [&](const Run& run) { return !(run.back() < block); }) - runs_.begin());
  }
  static std::size_t place_in(const Run& run, const FreeBlock& block) { return static_cast<std::size_t>(std::lower_bound(run.begin(), run.end(), block) - run.begin()); }

  std::vector<Run> runs_;
};

struct Pool {
  StreamId stream{};
  bool small = false;
  FreeList free;
  std::map<std::int64_t, Block*> unmapped;  // by address
};

struct Stream {
  Pool small, large;
  std::deque<Block*> pending;  // one entry an event that is not over or not yet noticed
  std::int64_t noticed = 0;    // events taken off `pending`
  std::int64_t over = 0;       // events that the caller says are over
};

// The size that best fit sees in an expandable range: what the block could grow to. Ranges that can still grow are thus used last.
std::int64_t growable_size(const Block& block) { return block.size + (block.next && !block.next->mapped ? block.next->size : 0); }

BlockView view(const Block& block) {
  const auto state = block.allocated  ? BlockView::State::active_allocated
                     : block.events > 0 ? BlockView::State::active_pending_free
                                        : BlockView::State::inactive;
  return {state, Bytes{block.address}, Bytes{block.size}, Bytes{block.requested}};
}

void raise(ByteGauge& gauge, std::int64_t by) {
  gauge.current += Bytes{by};
  gauge.peak = std::max(gauge.peak, gauge.current);
}

void refuse(bool wrong, const char* problem) {
  if (wrong) throw UsageError(std::string("caching allocator: ") + problem);
}

void check(const AllocatorOptions& options) {
  refuse(options.large_segment_bytes.value() <= kLeastOwnSegment, "large_segment_bytes must be above 10 MiB");
  refuse(options.expandable_segments && options.large_segment_bytes.value() % kSegmentUnit != 0,
         "large_segment_bytes must be a multiple of 2 MiB with expandable_segments: it is the page");
  refuse(options.max_split_bytes && *options.max_split_bytes < options.large_segment_bytes, "max_split_bytes must be at least large_segment_bytes");
  refuse(options.max_non_split_rounding_bytes && *options.max_non_split_rounding_bytes < options.large_segment_bytes,
         "max_non_split_rounding_bytes must be at least large_segment_bytes");
  refuse(options.garbage_collection_threshold < 0 || options.garbage_collection_threshold >= 1, "garbage_collection_threshold must be from 0 to below 1");
  refuse(options.device_bytes.value() <= 0, "device_bytes must be positive");
  for (const std::int64_t divisions : options.roundup_power2_divisions)
    refuse(divisions < 0 || (divisions & (divisions - 1)) != 0, "roundup_power2_divisions must be 0 or powers of 2");
}

// PyTorch's format_size.
std::string pytorch_size(Bytes bytes) {
  const auto value = static_cast<double>(bytes.value());
  if (bytes.value() <= 1024) return fmt::format("{} bytes", bytes.value());
  if (bytes.value() <= kMiB) return fmt::format("{:.2f} KiB", value / 1024);
  if (bytes.value() <= 1024 * kMiB) return fmt::format("{:.2f} MiB", value / 1048576);
  return fmt::format("{:.2f} GiB", value / 1073741824);
}

}  // namespace

class CachingAllocator::State {
 public:
  explicit State(const AllocatorOptions& options) : options_(options), collects_garbage_(options.limit_bytes && options.garbage_collection_threshold > 0) {
    check(options);
    if (options.max_split_bytes) max_split_ = options.max_split_bytes->value();
    max_rounding_ = options.max_non_split_rounding_bytes.value_or(options.large_segment_bytes).value();
  }

  std::variant<BlockId, OutOfMemory> allocate(std::int64_t request, StreamId stream);
  void free(Block& block);
  void record_stream(Block& block, StreamId stream);
  void complete_events(StreamId stream, std::int64_t count);
  void empty_cache();
  std::vector<SegmentView> snapshot() const;

  Block& block(BlockId id) { return blocks_[static_cast<std::uint32_t>(id)]; }
  const Stream* find_stream(StreamId id) const { return static_cast<std::size_t>(id) < streams_.size() ? &streams_[static_cast<std::size_t>(id)] : nullptr; }

  AllocatorCounters counters;

 private:
  // Sizes.
  std::int64_t round_request(std::int64_t request) const;
  std::int64_t segment_size(std::int64_t size) const;
  std::int64_t page_size(const Pool& pool) const { return pool.small ? kSmallSegment : options_.large_segment_bytes.value(); }
  std::int64_t range_size(const Pool& pool) const { return round_up(options_.device_bytes.value() + options_.device_bytes.value() / 8, page_size(pool)); }
  bool worth_splitting(const Block& block, std::int64_t size) const;

  // Blocks.
  Stream& stream_of(StreamId id);
  Block& new_block(Pool& pool, std::int64_t address, std::int64_t size);
  void forget(Block& block) { spare_blocks_.push_back(block.index); }
  void insert_free(Block& block);
  void erase_free(Block& block) { block.pool->free.erase({block.size, block.address, &block}); }
  void insert_after(Block& block, Block& added);
  std::int64_t absorb(Block& block, Block* neighbour);

  // A request.
  Block* find_free(Pool& pool, std::int64_t size);
  Block* grow(Pool& pool, std::int64_t size);
  Block* find_or_grow(Pool& pool, std::int64_t size);
  BlockId hand_out(Block& found, std::int64_t size, std::int64_t request);
  OutOfMemory refusal(std::int64_t request, std::int64_t size);

  // The way back.
  void notice_events();
  void complete_free(Block& block);
  void release_segment(Block& block);
  bool release_oversize(Pool& pool, std::int64_t size);
  void release_free(Pool& pool);
  void collect_garbage();

  // Expandable ranges.
  Block* grow_range(Pool& pool, std::int64_t size);
  Block& lowest_room(Pool& pool, std::int64_t size);
  bool map(Block& block, std::int64_t size);
  void unmap_free_pages(Block& block);

  bool driver_has(std::int64_t size) const { return !options_.capacity_bytes || counters.reserved.current + Bytes{size} <= *options_.capacity_bytes; }

  AllocatorOptions options_;
  bool collects_garbage_;
  std::optional<std::int64_t> max_split_;
  std::int64_t max_rounding_ = 0;
  AddressSpace addresses_;
  std::deque<Stream> streams_;  // by StreamId; a deque, because blocks point to pools
  std::deque<Block> blocks_;    // by BlockId; a deque, because blocks point to each other
  std::vector<std::uint32_t> spare_blocks_;
  std::int64_t large_lookups_ = 0;  // the clock of garbage collection
  bool news_of_events_ = false;
};

// --- Sizes

std::int64_t CachingAllocator::State::round_request(std::int64_t request) const {
  if (request < kMinBlock) return kMinBlock;
  const int log2 = std::bit_width(static_cast<std::uint64_t>(request)) - 1;
  const std::int64_t divisions = options_.roundup_power2_divisions[static_cast<std::size_t>(std::clamp(log2 - 20, 0, 15))];
  if (divisions <= 1 || request <= kMinBlock * divisions) return round_up(request, kMinBlock);
  return round_up(request, (std::int64_t{1} << log2) / divisions);
}

std::int64_t CachingAllocator::State::segment_size(std::int64_t size) const {
  if (size <= kLargestSmall) return kSmallSegment;
  if (size < kLeastOwnSegment) return options_.large_segment_bytes.value();
  return round_up(size, kSegmentUnit);
}

// A large block keeps up to 1 MiB of slack rather than leave a crumb in the large pool.
bool CachingAllocator::State::worth_splitting(const Block& block, std::int64_t size) const {
  const std::int64_t left = block.size - size;
  if (block.pool->small || options_.expandable_segments) return left >= kMinBlock;
  return (!max_split_ || size < *max_split_) && left > kLargestSmall;
}

// --- Blocks

Stream& CachingAllocator::State::stream_of(StreamId id) {
  const auto index = static_cast<std::size_t>(id);
  assert(index < kMostAllocatorStreams);
  while (streams_.size() <= index) {
    Stream& added = streams_.emplace_back();
    const auto added_id = static_cast<StreamId>(streams_.size() - 1);
    added.small.stream = added.large.stream = added_id;
    added.small.small = true;
  }
  return streams_[index];
}

Block& CachingAllocator::State::new_block(Pool& pool, std::int64_t address, std::int64_t size) {
  std::uint32_t index = static_cast<std::uint32_t>(blocks_.size());
  if (spare_blocks_.empty()) {
    blocks_.emplace_back();
  } else {
    index = spare_blocks_.back();
    spare_blocks_.pop_back();
  }
  Block& block = blocks_[index];
  block = Block{.address = address, .size = size, .pool = &pool, .index = index};
  return block;
}

void CachingAllocator::State::insert_free(Block& block) {
  block.age_base = large_lookups_;
  block.pool->free.insert({block.size, block.address, &block});
}

void CachingAllocator::State::insert_after(Block& block, Block& added) {
  added.prev = &block;
  added.next = block.next;
  if (added.next) added.next->prev = &added;
  block.next = &added;
}

// Merges a free neighbour of the same kind into the block; the bytes gained. The block itself must be in no list.
std::int64_t CachingAllocator::State::absorb(Block& block, Block* neighbour) {
  if (!neighbour || !neighbour->is_free() || neighbour->mapped != block.mapped) return 0;
  if (neighbour->mapped) erase_free(*neighbour);
  else block.pool->unmapped.erase(neighbour->address);
  if (block.prev == neighbour) {
    block.address = neighbour->address;
    block.prev = neighbour->prev;
    if (block.prev) block.prev->next = &block;
  } else {
    block.next = neighbour->next;
    if (block.next) block.next->prev = &block;
  }
  block.size += neighbour->size;
  forget(*neighbour);
  return neighbour->size;
}

// --- A request

std::variant<BlockId, OutOfMemory> CachingAllocator::State::allocate(std::int64_t request, StreamId stream_id) {
  assert(request > 0);
  if (request >= kTooLarge) detail::overflow();
  notice_events();
  const std::int64_t size = round_request(request);
  Stream& stream = stream_of(stream_id);
  Block* found = find_or_grow(size <= kLargestSmall ? stream.small : stream.large, size);
  if (!found) return refusal(request, size);
  return hand_out(*found, size, request);
}

Block* CachingAllocator::State::find_or_grow(Pool& pool, std::int64_t size) {
  if (Block* found = find_free(pool, size)) return found;
  if (collects_garbage_) collect_garbage();
  if (Block* grown = grow(pool, size)) return grown;
  if (max_split_ && release_oversize(pool, size))
    if (Block* grown = grow(pool, size)) return grown;
  empty_cache();
  ++counters.retries;
  return grow(pool, size);
}

Block* CachingAllocator::State::find_free(Pool& pool, std::int64_t size) {
  if (collects_garbage_ && !pool.small) ++large_lookups_;
  auto at = pool.free.lower_bound({size, 0, nullptr});
  if (at == pool.free.end()) return nullptr;
  if (options_.expandable_segments)
    for (auto next = at; ++next != pool.free.end() && growable_size(*next->block) < growable_size(*at->block);) at = next;
  Block* const block = at->block;
  if (max_split_ && size < *max_split_ && block->size >= *max_split_) return nullptr;
  if (max_split_ && size >= *max_split_ && block->size >= size + max_rounding_) return nullptr;
  pool.free.erase(at);
  return block;
}

// The limit is compared with the segment's size even where an expandable range would map less.
Block* CachingAllocator::State::grow(Pool& pool, std::int64_t size) {
  const std::int64_t segment = segment_size(size);
  if (options_.limit_bytes && counters.reserved.current + Bytes{segment} > *options_.limit_bytes) return nullptr;
  if (options_.expandable_segments) return grow_range(pool, size);
  if (!driver_has(segment)) return nullptr;
  raise(counters.reserved, segment);
  ++counters.segments;
  return &new_block(pool, addresses_.take(segment), segment);
}

BlockId CachingAllocator::State::hand_out(Block& found, std::int64_t size, std::int64_t request) {
  const bool counts_as_split = found.is_split() && !options_.expandable_segments;
  if (counts_as_split) counters.inactive_split -= Bytes{found.size};
  if (worth_splitting(found, size)) {
    Block& rest = new_block(*found.pool, found.address + size, found.size - size);
    rest.range_begin = found.range_begin;
    insert_after(found, rest);
    found.size = size;
    insert_free(rest);
    if (!options_.expandable_segments) counters.inactive_split += Bytes{rest.size};
  }
  found.allocated = true;
  found.requested = request;
  raise(counters.requested, request);
  raise(counters.allocated, found.size);
  raise(counters.active, found.size);
  return static_cast<BlockId>(found.index);
}

OutOfMemory CachingAllocator::State::refusal(std::int64_t request, std::int64_t size) {
  ++counters.ooms;
  const Bytes reserved = counters.reserved.current, allocated = counters.allocated.current;
  return {.requested_bytes = Bytes{request},
          .segment_bytes = Bytes{segment_size(size)},
          .device_bytes = options_.device_bytes,
          .free_bytes = std::max(Bytes{0}, options_.capacity_bytes.value_or(options_.device_bytes) - reserved),
          .limit_bytes = options_.limit_bytes,
          .allocated_bytes = allocated,
          .unallocated_bytes = reserved - allocated};
}

// --- The way back

void CachingAllocator::State::record_stream(Block& block, StreamId stream) {
  assert(block.allocated);
  stream_of(stream);
  if (stream != block.pool->stream) block.stream_uses |= std::uint64_t{1} << static_cast<std::uint32_t>(stream);
}

void CachingAllocator::State::free(Block& block) {
  assert(block.allocated);
  block.allocated = false;
  counters.allocated.current -= Bytes{block.size};
  if (block.stream_uses == 0) return complete_free(block);
  block.events = static_cast<std::uint32_t>(std::popcount(block.stream_uses));
  for (std::uint64_t uses = block.stream_uses; uses != 0; uses &= uses - 1)
    streams_[static_cast<std::size_t>(std::countr_zero(uses))].pending.push_back(&block);
  block.stream_uses = 0;
}

void CachingAllocator::State::complete_events(StreamId id, std::int64_t count) {
  Stream& stream = stream_of(id);
  assert(count <= stream.noticed + static_cast<std::int64_t>(stream.pending.size()));
  stream.over = std::max(stream.over, count);
  news_of_events_ = true;
}

void CachingAllocator::State::notice_events() {
  if (!news_of_events_) return;
  news_of_events_ = false;
  for (Stream& stream : streams_) {
    while (stream.noticed < stream.over) {
      Block& block = *stream.pending.front();
      stream.pending.pop_front();
      ++stream.noticed;
      if (--block.events == 0) complete_free(block);
    }
  }
}

void CachingAllocator::State::complete_free(Block& block) {
  counters.active.current -= Bytes{block.size};
  counters.requested.current -= Bytes{block.requested};
  block.requested = 0;
  Bytes split;
  split -= Bytes{absorb(block, block.prev)};
  split -= Bytes{absorb(block, block.next)};
  if (block.is_split()) split += Bytes{block.size};
  if (!options_.expandable_segments) counters.inactive_split += split;
  insert_free(block);
}

// The block is one whole segment and no longer in its pool's list.
void CachingAllocator::State::release_segment(Block& block) {
  addresses_.give_back(block.address, block.size);
  counters.reserved.current -= Bytes{block.size};
  --counters.segments;
  forget(block);
}

void CachingAllocator::State::empty_cache() {
  ++counters.synchronizations;
  for (Stream& stream : streams_) stream.over = stream.noticed + static_cast<std::int64_t>(stream.pending.size());
  news_of_events_ = true;
  notice_events();
  for (Stream& stream : streams_) {
    release_free(stream.large);
    release_free(stream.small);
  }
}

void CachingAllocator::State::release_free(Pool& pool) {
  if (options_.expandable_segments) {
    std::vector<Block*> free;  // unmapping changes the list
    for (const FreeBlock& entry : pool.free) free.push_back(entry.block);
    for (Block* block : free) unmap_free_pages(*block);
    return;
  }
  for (auto at = pool.free.begin(); at != pool.free.end();) {
    if (at->block->is_split()) {
      ++at;
      continue;
    }
    release_segment(*at->block);
    at = pool.free.erase(at);
  }
}

// Blocks of max_split_bytes and more are whole segments. Releases the smallest that alone makes room for the request, else the largest
// ones until together they do; true if enough was released. Expandable ranges have none.
bool CachingAllocator::State::release_oversize(Pool& pool, std::int64_t size) {
  if (options_.expandable_segments) return false;
  const std::int64_t wanted = std::max(size, *max_split_);
  auto at = pool.free.lower_bound({wanted, 0, nullptr});
  if (at != pool.free.end()) {
    release_segment(*at->block);
    pool.free.erase(at);
    return true;
  }
  std::int64_t released = 0;
  while (released < wanted && !pool.free.empty() && pool.free.back().size >= *max_split_) {
    const FreeBlock largest = pool.free.back();
    released += largest.size;
    release_segment(*largest.block);
    pool.free.erase(largest);
  }
  return released >= wanted;
}

// Releases whole free large segments that are older than the mean, until what is reserved is down to the threshold.
void CachingAllocator::State::collect_garbage() {
  const auto threshold = static_cast<std::int64_t>(options_.garbage_collection_threshold * static_cast<double>(options_.limit_bytes->value()));
  const std::int64_t target = counters.reserved.current.value() - threshold;
  if (target <= 0 || options_.expandable_segments) return;
  std::int64_t total_age = 0, count = 0, released = 0;
  for (const Stream& stream : streams_)
    for (const FreeBlock& entry : stream.large.free)
      if (!entry.block->is_split()) total_age += large_lookups_ - entry.block->age_base, ++count;
  bool released_any = true;
  while (released < target && released_any && count > 0) {
    const double least_age = static_cast<double>(total_age) / static_cast<double>(count);
    released_any = false;
    for (Stream& stream : streams_) {
      for (auto at = stream.large.free.begin(); at != stream.large.free.end();) {
        Block& block = *at->block;
        const std::int64_t age = large_lookups_ - block.age_base;
        if (block.is_split() || static_cast<double>(age) < least_age) {
          ++at;
          continue;
        }
        released_any = true;
        released += block.size;
        total_age -= age;
        --count;
        release_segment(block);
        at = stream.large.free.erase(at);
      }
    }
  }
}

// --- Expandable ranges: every address of a range is in a block; unmapped blocks begin and end at pages.

Block* CachingAllocator::State::grow_range(Pool& pool, std::int64_t size) {
  if (size > range_size(pool)) return nullptr;
  Block* room = &lowest_room(pool, size);
  if (!room->mapped && !map(*room, std::min(room->size, size))) return nullptr;
  while (room->size < size) {  // free, unmapped, …: each turn maps the next part and merges
    Block* const next = room->next;
    if (!map(*next, std::min(size - room->size, next->size))) return nullptr;
    room = next;
  }
  erase_free(*room);
  return room;
}

// The first block of the lowest run of free and unmapped blocks that holds `size`; a new range if there is none.
Block& CachingAllocator::State::lowest_room(Pool& pool, std::int64_t size) {
  for (const auto& [address, unmapped] : pool.unmapped) {
    Block* const first = unmapped->prev && unmapped->prev->is_free() ? unmapped->prev : unmapped;
    std::int64_t room = 0;
    for (const Block* at = first; at && at->is_free() && room < size; at = at->next) room += at->size;
    if (room >= size) return *first;
  }
  const std::int64_t length = range_size(pool);
  Block& range = new_block(pool, addresses_.take(length), length);
  range.range_begin = range.address;
  range.mapped = false;
  pool.unmapped.emplace(range.address, &range);
  return range;
}

// Maps the first `size` bytes of an unmapped block, rounded up to pages, and merges them with free neighbours. False, changing nothing, if
// the driver has no memory for all of them.
bool CachingAllocator::State::map(Block& block, std::int64_t size) {
  const std::int64_t mapped = round_up(size, page_size(*block.pool));
  if (!driver_has(mapped)) return false;
  block.pool->unmapped.erase(block.address);
  block.mapped = true;
  if (mapped < block.size) {
    Block& rest = new_block(*block.pool, block.address + mapped, block.size - mapped);
    rest.range_begin = block.range_begin;
    rest.mapped = false;
    insert_after(block, rest);
    block.size = mapped;
    block.pool->unmapped.emplace(rest.address, &rest);
  }
  absorb(block, block.prev);
  absorb(block, block.next);
  insert_free(block);
  raise(counters.reserved, mapped);
  return true;
}

// Unmaps the pages that lie wholly inside a free block; the rest before and after stays free. A range without a mapped page is given back.
void CachingAllocator::State::unmap_free_pages(Block& block) {
  const std::int64_t page = page_size(*block.pool), end = block.address + block.size;
  const std::int64_t first = block.range_begin + round_up(block.address - block.range_begin, page);
  const std::int64_t last = block.range_begin + (end - block.range_begin) / page * page;
  if (first >= last) return;
  erase_free(block);
  if (first > block.address) {
    Block& before = new_block(*block.pool, block.address, first - block.address);
    before.range_begin = block.range_begin;
    before.prev = block.prev;
    if (before.prev) before.prev->next = &before;
    before.next = &block;
    block.prev = &before;
    insert_free(before);
  }
  if (end > last) {
    Block& after = new_block(*block.pool, last, end - last);
    after.range_begin = block.range_begin;
    insert_after(block, after);
    insert_free(after);
  }
  block.address = first;
  block.size = last - first;
  block.mapped = false;
  counters.reserved.current -= Bytes{block.size};
  absorb(block, block.prev);
  absorb(block, block.next);
  if (block.is_split()) {
    block.pool->unmapped.emplace(block.address, &block);
  } else {
    addresses_.give_back(block.address, block.size);
    forget(block);
  }
}

// --- Views

std::vector<SegmentView> CachingAllocator::State::snapshot() const {
  std::vector<bool> spare(blocks_.size(), false);
  for (const std::uint32_t index : spare_blocks_) spare[index] = true;
  std::vector<SegmentView> segments;
  for (const Block& head : blocks_) {
    if (spare[head.index] || !head.mapped || (head.prev && head.prev->mapped)) continue;
    SegmentView& segment = segments.emplace_back();
    segment.address = Bytes{head.address};
    segment.stream = head.pool->stream;
    segment.small_pool = head.pool->small;
    segment.expandable = options_.expandable_segments;
    for (const Block* block = &head; block && block->mapped; block = block->next) {
      segment.blocks.push_back(view(*block));
      segment.size_bytes += Bytes{block->size};
    }
  }
  std::sort(segments.begin(), segments.end(), [](const SegmentView& a, const SegmentView& b) { return a.address < b.address; });
  return segments;
}

CachingAllocator::CachingAllocator(const AllocatorOptions& options) : state_(std::make_unique<State>(options)) {}
CachingAllocator::~CachingAllocator() = default;
CachingAllocator::CachingAllocator(CachingAllocator&&) noexcept = default;
CachingAllocator& CachingAllocator::operator=(CachingAllocator&&) noexcept = default;

std::variant<BlockId, OutOfMemory> CachingAllocator::allocate(Bytes request, StreamId stream) { return state_->allocate(request.value(), stream); }
void CachingAllocator::free(BlockId block) { state_->free(state_->block(block)); }
void CachingAllocator::record_stream(BlockId block, StreamId stream) { state_->record_stream(state_->block(block), stream); }
void CachingAllocator::complete_events(StreamId stream, std::int64_t count) { state_->complete_events(stream, count); }
void CachingAllocator::empty_cache() { state_->empty_cache(); }
std::vector<SegmentView> CachingAllocator::snapshot() const { return state_->snapshot(); }
const AllocatorCounters& CachingAllocator::counters() const { return state_->counters; }
Bytes CachingAllocator::address(BlockId block) const { return Bytes{state_->block(block).address}; }
Bytes CachingAllocator::size_bytes(BlockId block) const { return Bytes{state_->block(block).size}; }

std::int64_t CachingAllocator::events_recorded(StreamId id) const {
  const Stream* stream = state_->find_stream(id);
  return stream ? stream->noticed + static_cast<std::int64_t>(stream->pending.size()) : 0;
}

void CachingAllocator::reset_peaks() {
  for (ByteGauge* gauge : {&state_->counters.requested, &state_->counters.allocated, &state_->counters.active, &state_->counters.reserved})
    gauge->peak = gauge->current;
}

std::string text(const OutOfMemory& failure) {
  return fmt::format("CUDA out of memory. Tried to allocate {}. GPU 0 has a total capacity of {} of which {} is free. {}Of the allocated memory {} is "
                     "allocated by PyTorch, and {} is reserved by PyTorch but unallocated.",
                     pytorch_size(failure.segment_bytes), pytorch_size(failure.device_bytes), pytorch_size(failure.free_bytes),
                     failure.limit_bytes ? pytorch_size(*failure.limit_bytes) + " allowed; " : "", pytorch_size(failure.allocated_bytes),
                     pytorch_size(failure.unallocated_bytes));
}

Bytes pinned_bytes(Bytes request) {
  assert(request.value() > 0);
  if (request.value() > std::int64_t{1} << 62) detail::overflow();
  return Bytes{static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(request.value())))};
}

}  // namespace zeroplan
