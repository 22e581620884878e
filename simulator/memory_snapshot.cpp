// Reading. A snapshot is dicts in lists in dicts; the decoder never keeps them. A dict is known by a key that only its sort has (an entry has "action", a frame
// "filename", a segment "blocks", a block "state"), becomes one struct when it is filled, and waits in a Pending until the list around it is filled, which takes it.
// Picklers write depth first, so what a list takes is always the last that was made; anything else is refused or, in parts that are not read, dropped.
// Frames are shared in the file and interned here, and so are whole stacks: a million entries have some thousand different ones.
#include "simulator/memory_snapshot.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <iterator>

#include <fmt/format.h>

#include "planner/core/descriptor.h"
#include "planner/core/error.h"

namespace zeroplan {
namespace {

using Kind = PickleValue::Kind;

constexpr std::int64_t kMostOfANumber = std::int64_t{1} << 59;
constexpr std::int64_t kMostBytesInAll = std::int64_t{1} << 62;
constexpr std::int64_t kMostDevices = 4096;
constexpr std::size_t kPicklerBatch = 1000;  ///< a list that is filled with so many at once may be filled further
constexpr std::size_t kMostFramesOfAStack = 65536;
const char* const kRemedy = "Make the snapshot again with torch.cuda.memory._dump_snapshot";

/// Words of the format. They are interned first, so that an id is its place here.
enum class Word : std::uint32_t {
  unknown, action, addr, device_free, size, time_us, stream, frames, category, filename, line, name, device, address, total_size, segment_type, is_expandable,
  segment_pool_id, blocks, requested_size, state, history, real_size, segments, device_traces, allocator_settings, alloc_conf, cuda_alloc_conf, max_split_size,
  garbage_collection_threshold, expandable_segments, small, active_allocated, active_pending_free, active_awaiting_free, inactive, alloc, free_requested,
  free_completed, segment_alloc, segment_free, segment_map, segment_unmap, snapshot, oom, user_defined, count
};
constexpr std::array<const char*, static_cast<std::size_t>(Word::count)> kWords{
    "unknown", "action", "addr", "device_free", "size", "time_us", "stream", "frames", "category", "filename", "line", "name", "device", "address", "total_size",
    "segment_type", "is_expandable", "segment_pool_id", "blocks", "requested_size", "state", "history", "real_size", "segments", "device_traces",
    "allocator_settings", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "max_split_size", "garbage_collection_threshold", "expandable_segments", "small",
    "active_allocated", "active_pending_free", "active_awaiting_free", "inactive", "alloc", "free_requested", "free_completed", "segment_alloc", "segment_free",
    "segment_map", "segment_unmap", "snapshot", "oom", "user_defined"};

/// What an object of the pickle became. Its number is sort + 16 × index.
enum class Sort : std::uint64_t { ignored, entry, frame, block, segment, history, stack, long_stack, trace, traces, block_list, segment_list, pair, settings, root };
constexpr std::uint64_t object_of(Sort sort, std::uint64_t index = 0) { return index << 4 | static_cast<std::uint64_t>(sort); }
constexpr Sort sort_of(std::uint64_t object) { return static_cast<Sort>(object & 15); }
constexpr std::uint64_t index_of(std::uint64_t object) { return object >> 4; }
bool is_sort(PickleValue value, Sort sort) { return value.is(Kind::object) && sort_of(value.object()) == sort; }

Word word_of(PickleValue value) {
  const auto id = static_cast<std::uint32_t>(value.text());
  return value.is(Kind::text) && id < static_cast<std::uint32_t>(Word::count) ? static_cast<Word>(id) : Word::count;
}

/// Room for more, by how far the reader is in the file: doubling would take twice the memory of a large trace.
template <class T>
void make_room(std::vector<T>& items, std::size_t more, const PickleReader& reader) {
  constexpr std::size_t kFew = 4096;
  if (items.size() + more <= items.capacity() || items.size() < kFew) return;
  const double whole = static_cast<double>(reader.total_bytes()) / static_cast<double>(std::max<std::int64_t>(reader.done_bytes(), 1));
  items.reserve(std::max(items.size() + items.size() / 4, static_cast<std::size_t>(static_cast<double>(items.size()) * whole * 1.02)) + more);
}

/// Things made and not yet taken by what holds them. Serial numbers are never used again.
template <class T>
class Pending {
 public:
  std::uint64_t add(T item, const PickleReader& reader) {
    make_room(items_, 1, reader);
    items_.push_back(std::move(item));
    return next_++;
  }
  /// nullptr if it was taken already.
  T* find(std::uint64_t serial) { return serial < next_ && next_ - serial <= items_.size() ? &items_[items_.size() - (next_ - serial)] : nullptr; }

  /// Moves the last `count`, of which `first` must be the first, to the end of `to`; drops the others. False if they are not the last.
  bool take(std::uint64_t first, std::size_t count, std::vector<T>& to, const PickleReader& reader) {
    if (count > items_.size() || next_ - count != first) return false;
    if (to.empty() && count == items_.size()) {
      to.swap(items_);
    } else {
      make_room(to, count, reader);
      to.insert(to.end(), std::make_move_iterator(items_.end() - static_cast<std::ptrdiff_t>(count)), std::make_move_iterator(items_.end()));
    }
    items_.clear();
    return true;
  }

 private:
  std::vector<T> items_;
  std::uint64_t next_ = 0;
};

class SnapshotDecoder final : public PickleSink {
 public:
  SnapshotDecoder(std::span<const unsigned char> bytes, const std::string& name) : reader_(bytes, name, snapshot_.strings), name_(name) {
    for (std::size_t i = 0; i < kWords.size(); ++i) {
      [[maybe_unused]] const StringId id = snapshot_.strings.intern(kWords[i]);
      assert(static_cast<std::size_t>(id) == i);
    }
  }

  std::optional<MemorySnapshot> decode(const OnReadProgress& on_progress) {
    const std::optional<PickleValue> value = reader_.read(*this, on_progress);
    if (!value) return std::nullopt;
    if (is_sort(*value, Sort::segment_list)) {
      snapshot_.segments = take_list(*value, Sort::segment_list, segment_lists_, "segments");
    } else if (!is_sort(*value, Sort::root) && !value->is(Kind::empty_list)) {
      throw InputError(name_, "", "is a pickle, and no memory snapshot", kRemedy);
    }
    return std::move(snapshot_);
  }

  std::uint64_t dict_items(std::optional<std::uint64_t> filled, std::span<const PickleValue> items) override {
    if (filled && sort_of(*filled) == Sort::ignored) return *filled;
    if (filled) reader_.refuse("a dict is filled in several steps, which no snapshot does", kRemedy);
    for (std::size_t i = 0; i < items.size(); i += 2) {
      switch (word_of(items[i])) {
        case Word::action: return entry(items);
        case Word::filename: return frame(items);
        case Word::state: return block(items);
        case Word::blocks: return segment(items);
        case Word::real_size: return history(items);
        case Word::expandable_segments: case Word::cuda_alloc_conf: case Word::alloc_conf: return settings(items);
        case Word::segments: case Word::device_traces: return root(items);
        default: break;
      }
    }
    return object_of(Sort::ignored);
  }

  std::uint64_t list_items(std::optional<std::uint64_t> filled, std::span<const PickleValue> items) override {
    switch (filled ? sort_of(*filled) : list_sort(items)) {
      case Sort::trace: return extend(filled, items, {Sort::trace, Sort::entry, "trace entries"}, traces_, entries_);
      case Sort::block_list: return extend(filled, items, {Sort::block_list, Sort::block, "blocks"}, block_lists_, blocks_);
      case Sort::segment_list: return extend(filled, items, {Sort::segment_list, Sort::segment, "segments"}, segment_lists_, segments_);
      case Sort::traces: return extend_traces(filled, items);
      case Sort::stack: return stack(filled, items);
      case Sort::long_stack: return long_stack(*filled, items);
      case Sort::history: return filled ? *filled : items.front().object();
      case Sort::ignored: return object_of(Sort::ignored);
      default: reader_.refuse("a dict is filled as a list", kRemedy);
    }
  }

  std::uint64_t tuple(std::span<const PickleValue> items) override {
    constexpr std::int64_t kMost = std::int64_t{1} << 27;
    if (items.size() != 2) return object_of(Sort::ignored);
    const std::optional<std::int64_t> a = reader_.integer(items[0]), b = reader_.integer(items[1]);
    if (!a || !b || *a < 0 || *b < 0 || *a >= kMost || *b >= kMost) return object_of(Sort::ignored);
    return object_of(Sort::pair, static_cast<std::uint64_t>(*a << 27 | *b));
  }

 private:
  struct History {
    std::int64_t real_bytes = 0;
    StackId stack = kEmptyStack;
  };
  struct ListShape {
    Sort list, item;
    const char* items;
  };

  // ---- values ----

  /// A count, size, time or address: from 0 to 2^59.
  std::int64_t whole(PickleValue value, const char* key) const {
    const std::optional<std::int64_t> number = reader_.integer(value);
    if (!number || *number < 0 || *number > kMostOfANumber) reader_.refuse(fmt::format("\"{}\" is no integer from 0 to 2^59", key), kRemedy);
    return *number;
  }

  /// Sizes of all things together stay in int64, so that sums of them need no checks.
  std::int64_t bytes(PickleValue value, const char* key) {
    const std::int64_t number = whole(value, key);
    if (number > kMostBytesInAll - bytes_in_all_) reader_.refuse("the sizes add up to more than 2^62 bytes", kRemedy);
    bytes_in_all_ += number;
    return number;
  }

  std::int64_t any_integer(PickleValue value, const char* key) const {
    const std::optional<std::int64_t> number = reader_.integer(value);
    if (!number) reader_.refuse(fmt::format("\"{}\" is no integer", key), kRemedy);
    return *number;
  }

  StringId text(PickleValue value, const char* key) const {
    if (!value.is(Kind::text)) reader_.refuse(fmt::format("\"{}\" is no text", key), kRemedy);
    return value.text();
  }

  StackId stack_of(PickleValue value) {
    if (value.is(Kind::empty_list) || value.is(Kind::none)) return kEmptyStack;
    if (is_sort(value, Sort::stack)) return StackId{static_cast<std::uint32_t>(index_of(value.object()))};
    if (is_sort(value, Sort::long_stack)) return snapshot_.stacks.intern_stack(long_stacks_[index_of(value.object())]);
    reader_.refuse("\"frames\" is no list of frames", kRemedy);
  }

  TraceAction action_of(PickleValue value) const {
    const Word word = word_of(value);
    constexpr auto kFirst = static_cast<std::uint32_t>(Word::alloc);
    if (word >= Word::alloc && word <= Word::user_defined) return static_cast<TraceAction>(static_cast<std::uint32_t>(word) - kFirst);
    text(value, "action");
    return TraceAction::other;
  }

  SnapshotBlock::State state_of(PickleValue value) const {
    switch (word_of(value)) {
      case Word::active_allocated: return SnapshotBlock::State::active_allocated;
      case Word::active_pending_free: case Word::active_awaiting_free: return SnapshotBlock::State::active_pending_free;
      case Word::inactive: return SnapshotBlock::State::inactive;
      default: reader_.refuse("\"state\" of a block is not active_allocated, active_pending_free or inactive", kRemedy);
    }
  }

  std::array<std::int64_t, 2> pool_of(PickleValue value) const {
    if (!is_sort(value, Sort::pair)) return {};
    const auto packed = static_cast<std::int64_t>(index_of(value.object()));
    return {packed >> 27, packed & ((std::int64_t{1} << 27) - 1)};
  }

  /// What is pending as the list `value`.
  template <class T>
  std::vector<T> take_list(PickleValue value, Sort sort, Pending<std::vector<T>>& lists, const char* key) {
    if (value.is(Kind::empty_list) || value.is(Kind::none)) return {};
    std::vector<T>* const list = is_sort(value, sort) ? lists.find(index_of(value.object())) : nullptr;
    if (!list) reader_.refuse(fmt::format("\"{}\" is not the list that belongs there", key), kRemedy);
    std::vector<T> taken = std::move(*list);
    std::vector<std::vector<T>> dropped;
    lists.take(index_of(value.object()), 1, dropped, reader_);
    return taken;
  }

  // ---- dicts ----

  std::uint64_t entry(std::span<const PickleValue> items) {
    SnapshotEntry made;
    bool has_address = false, has_size = false;
    for (std::size_t i = 0; i < items.size(); i += 2) {
      const PickleValue value = items[i + 1];
      switch (word_of(items[i])) {
        case Word::action: made.action = action_of(value); break;
        case Word::addr: case Word::device_free: made.address = whole(value, "addr"), has_address = true; break;
        case Word::size: made.size_bytes = bytes(value, "size"), has_size = true; break;
        case Word::time_us: made.time_us = whole(value, "time_us"); break;
        case Word::stream: made.stream = any_integer(value, "stream"); break;
        case Word::frames: made.stack = stack_of(value); break;
        case Word::category: made.category = text(value, "category"); break;
        default: break;
      }
    }
    if (made.action < TraceAction::snapshot && !(has_address && has_size)) reader_.refuse("a trace entry has no addr or no size", kRemedy);
    return object_of(Sort::entry, entries_.add(made, reader_));
  }

  std::uint64_t frame(std::span<const PickleValue> items) {
    Frame made{snapshot_.strings.intern(""), {}, 0};
    for (std::size_t i = 0; i < items.size(); i += 2) {
      const PickleValue value = items[i + 1];
      switch (word_of(items[i])) {
        case Word::filename: made.file = text(value, "filename"); break;
        case Word::name: made.function = text(value, "name"); break;
        case Word::line: made.line = any_integer(value, "line"); break;
        default: break;
      }
    }
    return object_of(Sort::frame, static_cast<std::uint64_t>(snapshot_.stacks.intern_frame(made)));
  }

  std::uint64_t history(std::span<const PickleValue> items) {
    History made;
    for (std::size_t i = 0; i < items.size(); i += 2) {
      if (word_of(items[i]) == Word::real_size) made.real_bytes = bytes(items[i + 1], "real_size");
      if (word_of(items[i]) == Word::frames) made.stack = stack_of(items[i + 1]);
    }
    histories_.push_back(made);
    return object_of(Sort::history, histories_.size() - 1);
  }

  std::uint64_t block(std::span<const PickleValue> items) {
    SnapshotBlock made;
    std::optional<std::int64_t> requested;
    History history;
    for (std::size_t i = 0; i < items.size(); i += 2) {
      const PickleValue value = items[i + 1];
      switch (word_of(items[i])) {
        case Word::size: made.size_bytes = bytes(value, "size"); break;
        case Word::requested_size: requested = bytes(value, "requested_size"); break;
        case Word::state: made.state = state_of(value); break;
        case Word::frames: made.stack = stack_of(value); break;
        case Word::history:
          if (is_sort(value, Sort::history)) history = histories_[index_of(value.object())];
          break;
        default: break;
      }
    }
    if (made.stack == kEmptyStack) made.stack = history.stack;
    made.requested_bytes = requested.value_or(history.real_bytes > 0 ? history.real_bytes : made.size_bytes);
    return object_of(Sort::block, blocks_.add(made, reader_));
  }

  std::uint64_t segment(std::span<const PickleValue> items) {
    SnapshotSegment made;
    for (std::size_t i = 0; i < items.size(); i += 2) {
      const PickleValue value = items[i + 1];
      switch (word_of(items[i])) {
        case Word::device: made.device = static_cast<int>(whole(value, "device")); break;
        case Word::address: made.address = whole(value, "address"); break;
        case Word::total_size: made.total_bytes = bytes(value, "total_size"); break;
        case Word::stream: made.stream = any_integer(value, "stream"); break;
        case Word::segment_type: made.is_large = word_of(value) != Word::small; break;
        case Word::is_expandable: made.is_expandable = any_integer(value, "is_expandable") != 0; break;
        case Word::segment_pool_id: made.pool_id = pool_of(value); break;
        case Word::frames: made.stack = stack_of(value); break;
        case Word::blocks: made.blocks = take_list(value, Sort::block_list, block_lists_, "blocks"); break;
        default: break;
      }
    }
    if (made.device >= kMostDevices) reader_.refuse(fmt::format("\"device\" is {}", made.device), kRemedy);
    // A block's own address is not read: old snapshots lack it, and PyTorch makes it by the same sum.
    std::int64_t address = made.address;
    for (SnapshotBlock& made_block : made.blocks) {
      made_block.address = address;
      address += made_block.size_bytes;
    }
    return object_of(Sort::segment, segments_.add(std::move(made), reader_));
  }

  std::uint64_t settings(std::span<const PickleValue> items) {
    SnapshotSettings made;
    for (std::size_t i = 0; i < items.size(); i += 2) {
      const PickleValue value = items[i + 1];
      switch (word_of(items[i])) {
        case Word::alloc_conf: case Word::cuda_alloc_conf:
          if (value.is(Kind::text) && made.alloc_conf.empty()) made.alloc_conf = snapshot_.strings[value.text()];
          break;
        case Word::max_split_size:
          if (const auto number = reader_.integer(value); number && *number >= 0) made.max_split_bytes = *number;
          break;
        case Word::garbage_collection_threshold: made.garbage_collection_threshold = reader_.real(value).value_or(0); break;
        case Word::expandable_segments: made.expandable_segments = reader_.integer(value).value_or(0) != 0; break;
        default: break;
      }
    }
    settings_ = std::move(made);
    return object_of(Sort::settings);
  }

  std::uint64_t root(std::span<const PickleValue> items) {
    for (std::size_t i = 0; i < items.size(); i += 2) {
      const PickleValue value = items[i + 1];
      switch (word_of(items[i])) {
        case Word::segments: snapshot_.segments = take_list(value, Sort::segment_list, segment_lists_, "segments"); break;
        case Word::device_traces: snapshot_.device_traces = take_list(value, Sort::traces, trace_lists_, "device_traces"); break;
        case Word::allocator_settings:
          if (is_sort(value, Sort::settings)) snapshot_.settings = settings_;
          break;
        default: break;
      }
    }
    return object_of(Sort::root);
  }

  // ---- lists ----

  static Sort list_sort(std::span<const PickleValue> items) {
    const auto telling = std::find_if(items.begin(), items.end(), [](PickleValue item) { return !item.is(Kind::empty_list); });
    if (telling == items.end()) return Sort::traces;
    if (!telling->is(Kind::object)) return Sort::ignored;
    switch (sort_of(telling->object())) {
      case Sort::entry: return Sort::trace;
      case Sort::block: return Sort::block_list;
      case Sort::segment: return Sort::segment_list;
      case Sort::frame: return Sort::stack;
      case Sort::history: return Sort::history;
      case Sort::trace: return Sort::traces;
      default: return Sort::ignored;
    }
  }

  template <class T>
  std::uint64_t extend(std::optional<std::uint64_t> filled, std::span<const PickleValue> items, const ListShape& shape, Pending<std::vector<T>>& lists,
                       Pending<T>& from) {
    const std::uint64_t serial = filled ? index_of(*filled) : lists.add({}, reader_);
    std::vector<T>* const list = lists.find(serial);
    bool good = list != nullptr && items.front().is(Kind::object);
    const std::uint64_t first = good ? index_of(items.front().object()) : 0;
    for (std::size_t i = 0; i < items.size() && good; ++i) good = items[i].is(Kind::object) && items[i].object() == object_of(shape.item, first + i);
    if (!good || !from.take(first, items.size(), *list, reader_))
      reader_.refuse(fmt::format("a list of {} holds something else or one of them twice", shape.items), kRemedy);
    return object_of(shape.list, serial);
  }

  /// device_traces: traces and, for devices without history, empty lists.
  std::uint64_t extend_traces(std::optional<std::uint64_t> filled, std::span<const PickleValue> items) {
    const std::uint64_t serial = filled ? index_of(*filled) : trace_lists_.add({}, reader_);
    std::vector<std::vector<SnapshotEntry>>* const list = trace_lists_.find(serial);
    if (!list || list->size() + items.size() > kMostDevices) reader_.refuse("\"device_traces\" has too many devices or is used twice", kRemedy);
    for (const PickleValue item : items) {
      list->emplace_back();
      if (item.is(Kind::empty_list)) continue;
      std::vector<SnapshotEntry>* const trace = is_sort(item, Sort::trace) ? traces_.find(index_of(item.object())) : nullptr;
      if (!trace || trace->empty()) reader_.refuse("\"device_traces\" holds something that is no trace or one of them twice", kRemedy);
      list->back().swap(*trace);
    }
    return object_of(Sort::traces, serial);
  }

  const std::vector<FrameId>& frame_ids(std::span<const PickleValue> items) {
    frame_ids_.resize(items.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (!is_sort(items[i], Sort::frame)) reader_.refuse("a list of frames holds something else", kRemedy);
      frame_ids_[i] = FrameId{static_cast<std::uint32_t>(index_of(items[i].object()))};
    }
    return frame_ids_;
  }

  std::uint64_t stack(std::optional<std::uint64_t> filled, std::span<const PickleValue> items) {
    if (filled) reader_.refuse("a list of frames is filled in steps that no pickler makes", kRemedy);
    const std::vector<FrameId>& ids = frame_ids(items);
    if (ids.size() != kPicklerBatch) return object_of(Sort::stack, static_cast<std::uint64_t>(snapshot_.stacks.intern_stack(ids)));
    long_stacks_.push_back(ids);
    return object_of(Sort::long_stack, long_stacks_.size() - 1);
  }

  std::uint64_t long_stack(std::uint64_t filled, std::span<const PickleValue> items) {
    std::vector<FrameId>& whole_stack = long_stacks_[index_of(filled)];
    const std::vector<FrameId>& ids = frame_ids(items);
    whole_stack.insert(whole_stack.end(), ids.begin(), ids.end());
    if (whole_stack.size() > kMostFramesOfAStack) reader_.refuse(fmt::format("a stack has more than {} frames", kMostFramesOfAStack), kRemedy);
    return filled;
  }

  MemorySnapshot snapshot_;
  PickleReader reader_;
  std::string name_;
  Pending<SnapshotEntry> entries_;
  Pending<std::vector<SnapshotEntry>> traces_;
  Pending<std::vector<std::vector<SnapshotEntry>>> trace_lists_;
  Pending<SnapshotBlock> blocks_;
  Pending<std::vector<SnapshotBlock>> block_lists_;
  Pending<SnapshotSegment> segments_;
  Pending<std::vector<SnapshotSegment>> segment_lists_;
  std::vector<History> histories_;
  std::vector<std::vector<FrameId>> long_stacks_;
  std::vector<FrameId> frame_ids_;
  std::optional<SnapshotSettings> settings_;
  std::int64_t bytes_in_all_ = 0;
};

/// A file mapped read-only.
class MappedFile {
 public:
  explicit MappedFile(const std::string& file) {
    const auto fail = [&](const std::string& problem) { throw InputError(file, "", problem, "Name a file that torch.cuda.memory._dump_snapshot wrote"); };
    const Descriptor in(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat about {};
    if (!in.is_open() || ::fstat(in.get(), &about) != 0) fail(fmt::format("cannot be read: {}", std::strerror(errno)));
    if (!S_ISREG(about.st_mode)) fail("is not a file");
    if (about.st_size == 0) fail("the file is empty");
    bytes_ = static_cast<std::size_t>(about.st_size);
    void* const mapping = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, in.get(), 0);
    if (mapping == MAP_FAILED) fail(fmt::format("cannot be mapped: {}", std::strerror(errno)));
    mapping_ = static_cast<unsigned char*>(mapping);
    ::madvise(mapping_, bytes_, MADV_SEQUENTIAL);
  }
  ~MappedFile() { ::munmap(mapping_, bytes_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const unsigned char> bytes() const { return {mapping_, bytes_}; }

  /// Pages wholly before `offset` leave this process; they come back from the file if they are touched.
  void release_before(std::size_t offset) {
    constexpr std::size_t kAlign = std::size_t{1} << 16;  // at least the largest page in use
    const std::size_t end = offset / kAlign * kAlign;
    if (end > released_) ::madvise(mapping_ + released_, end - released_, MADV_DONTNEED);
    released_ = std::max(released_, end);
  }

 private:
  unsigned char* mapping_ = nullptr;
  std::size_t bytes_ = 0, released_ = 0;
};

}  // namespace

std::span<const SnapshotEntry> MemorySnapshot::trace_of(int device) const {
  if (device < 0 || static_cast<std::size_t>(device) >= device_traces.size()) return {};
  return device_traces[static_cast<std::size_t>(device)];
}

int MemorySnapshot::device_count() const {
  int count = 0;
  for (const SnapshotSegment& segment : segments) count = std::max(count, segment.device + 1);
  for (std::size_t i = 0; i < device_traces.size(); ++i)
    if (!device_traces[i].empty()) count = std::max(count, static_cast<int>(i) + 1);
  return count;
}

std::optional<MemorySnapshot> read_memory_snapshot(std::span<const unsigned char> bytes, const std::string& name, const OnReadProgress& on_progress) {
  return SnapshotDecoder(bytes, name).decode(on_progress);
}

std::optional<MemorySnapshot> read_memory_snapshot(const std::string& file, const OnReadProgress& on_progress) {
  MappedFile mapped(file);
  return read_memory_snapshot(mapped.bytes(), file, [&](const ReadProgress& progress) {
    mapped.release_before(static_cast<std::size_t>(progress.done_bytes));
    return !on_progress || on_progress(progress);
  });
}

}  // namespace zeroplan
