#include "simulator/replay.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <utility>

namespace zeroplan {
namespace {

using eager::MemoryEvent;
using eager::Place;

void raise(AllocatorPeaks& to, const AllocatorPeaks& from) {
  to.requested = std::max(to.requested, from.requested);
  to.allocated = std::max(to.allocated, from.allocated);
  to.active = std::max(to.active, from.active);
  to.reserved = std::max(to.reserved, from.reserved);
}

class Replayer {
 public:
  Replayer(const eager::Recorder& recorder, const ReplayOptions& options, const OnReplayed& on_event)
      : recorder_(recorder), options_(options), on_event_(on_event), allocator_(options.allocator), blocks_(recorder.tags().size()) {
    for (const eager::WaitingFree& free : options.waiting) waiting_.push_back({free.freed, static_cast<StreamId>(free.stream), 0});
    std::sort(waiting_.begin(), waiting_.end(), [](const Waiting& a, const Waiting& b) { return std::pair(a.freed, a.stream) < std::pair(b.freed, b.stream); });
  }

  Replay run() {
    std::size_t done = 0;
    if (const std::optional<eager::SettledStep>& step = recorder_.settled_step()) {
      follow_with_repeats(0, step->end_event);
      for (const auto& [old, left] : step->handed_on) blocks_[old] = std::exchange(blocks_[left], {});
      follow_with_repeats(step->begin_event, step->end_event);
      done = step->end_event;
    }
    follow_with_repeats(done, recorder_.events().size());
    end_phase();
    replay_.between_steps_allocated = allocator_.counters().allocated.current;
    replay_.retries = allocator_.counters().retries + more_retries_;
    for (const AllocatorPeaks& phase : replay_.phases)
      if (phase.phase.starts_with("steady")) raise(replay_.steady, phase);
    replay_.steady.phase = "steady";
    replay_.whole.phase = "whole";
    return std::move(replay_);
  }

 private:
  struct Held {
    BlockId block{};
    bool held = false;
    unsigned used_on = 0;  ///< a bit a stream, but for its own
  };
  /// A WaitingFree, and the number of its event on its stream.
  struct Waiting {
    std::size_t freed = 0;
    StreamId stream{};
    std::int64_t number = 0;
  };

  void follow_with_repeats(std::size_t begin, std::size_t end) {
    for (const eager::RepeatedStretch& stretch : recorder_.repeated()) {
      if (stretch.begin_event < begin || stretch.end_event > end) continue;
      follow(begin, stretch.end_event);
      follow_again(stretch);
      begin = stretch.end_event;
    }
    follow(begin, end);
  }

  void follow(std::size_t begin, std::size_t end) {
    auto back = std::lower_bound(options_.waiting.begin(), options_.waiting.end(), begin, [](const eager::WaitingFree& w, std::size_t event) { return w.back < event; });
    for (std::size_t i = begin; i < end && !replay_.failure && recorder_.events()[i].kind != MemoryEvent::Kind::end; ++i) {
      taken_.reset();
      for (; back != options_.waiting.end() && back->back <= i; ++back) come_back(*back);
      event_ = i;
      follow(recorder_.events()[i]);
      if (replay_.failure) replay_.failure->event = i;
      if (on_event_ && !replay_.failure) on_event_({i, taken_, allocator_});
    }
  }

  /// The rounds after the first. Storages that one handed on to the next have their indices where the next looks for them.
  void follow_again(const eager::RepeatedStretch& stretch) {
    constexpr std::size_t kMostStates = 64;  // an allocator that has come to none of them again is left as it is
    std::vector<State> seen{state(stretch)};
    std::vector<std::int64_t> retries{allocator_.counters().retries};
    std::int64_t left = std::min(stretch.count, options_.most_rounds) - 1;
    while (left > 0 && !replay_.failure && seen.size() <= kMostStates) {
      follow_round(stretch);
      --left;
      State now = state(stretch);
      const auto before = static_cast<std::size_t>(std::find(seen.begin(), seen.end(), now) - seen.begin());
      if (before < seen.size()) {
        // From here on the same rounds come again and again; what is left of the last time is followed.
        const auto period = static_cast<std::int64_t>(seen.size() - before);
        more_retries_ += left / period * (allocator_.counters().retries - retries[before]);
        for (left %= period; left > 0 && !replay_.failure; --left) follow_round(stretch);
        return;
      }
      seen.push_back(std::move(now));
      retries.push_back(allocator_.counters().retries);
    }
  }

  void follow_round(const eager::RepeatedStretch& stretch) {
    for (eager::StorageIndex storage = stretch.begin_storage; storage < stretch.end_storage; ++storage)
      if (Held& held = blocks_[storage]; held.held) blocks_[storage - stretch.storages()] = std::exchange(held, {});
    follow(stretch.begin_event, stretch.end_event);
  }

  /// All that what follows depends on: blocks, free or not, and whose are those that the stretch hands on.
  struct State {
    std::vector<SegmentView> segments;
    std::vector<std::optional<Bytes>> handed_on;
    friend bool operator==(const State&, const State&) = default;
  };
  State state(const eager::RepeatedStretch& stretch) const {
    State out{allocator_.snapshot(), {}};
    for (eager::StorageIndex storage = stretch.begin_storage; storage < stretch.end_storage; ++storage)
      out.handed_on.push_back(blocks_[storage].held ? std::optional(allocator_.address(blocks_[storage].block)) : std::nullopt);
    return out;
  }

  void follow(const MemoryEvent& event) {
    switch (event.kind) {
      case MemoryEvent::Kind::phase: return begin_phase(recorder_.phases()[event.storage].name);
      case MemoryEvent::Kind::forget: return forget_steady();
      case MemoryEvent::Kind::empty_cache: return allocator_.empty_cache();
      case MemoryEvent::Kind::birth: return take(event.storage, event.bytes, event.op);
      case MemoryEvent::Kind::death: return give_back(event.storage);
      case MemoryEvent::Kind::resize:
        give_back(event.storage);
        return take(event.storage, event.bytes, event.op);
      case MemoryEvent::Kind::use: return use(event.storage, static_cast<Stream>(event.bytes));
      case MemoryEvent::Kind::end: return;
    }
  }

  void take(eager::StorageIndex storage, std::int64_t bytes, std::uint32_t op) {
    const eager::StorageTag& tag = recorder_.tags()[storage];
    if (tag.place != Place::device || bytes == 0) return;
    auto outcome = allocator_.allocate(Bytes(bytes), static_cast<StreamId>(tag.stream));
    if (const auto* error = std::get_if<OutOfMemory>(&outcome)) {
      replay_.failure = ReplayFailure{*error, phase_, op == 0 ? "" : recorder_.ops()[op - 1].name, tag, 0};
      return;
    }
    blocks_[storage] = {std::get<BlockId>(outcome), true, 0};
    taken_ = std::get<BlockId>(outcome);
  }

  void use(eager::StorageIndex storage, Stream stream) {
    Held& held = blocks_[storage];
    if (options_.waiting.empty() || !held.held) return;
    allocator_.record_stream(held.block, static_cast<StreamId>(stream));
    held.used_on |= 1U << static_cast<unsigned>(stream);
  }

  /// The events that a free records on the streams that use its block are over at once, but for those that wait.
  void give_back(eager::StorageIndex storage) {
    Held& held = blocks_[storage];
    if (!held.held) return;
    allocator_.free(held.block);
    for (unsigned streams = std::exchange(held, {}).used_on; streams != 0; streams &= streams - 1) {
      const auto stream = static_cast<StreamId>(std::countr_zero(streams));
      const std::int64_t number = allocator_.events_recorded(stream);
      if (Waiting* waits = waiting_at(event_, stream)) waits->number = number;
      else allocator_.complete_events(stream, number);
    }
  }

  void come_back(const eager::WaitingFree& free) {
    const auto stream = static_cast<StreamId>(free.stream);
    allocator_.complete_events(stream, waiting_at(free.freed, stream)->number);
  }

  Waiting* waiting_at(std::size_t freed, StreamId stream) {
    const std::pair at(freed, stream);
    const auto found = std::lower_bound(waiting_.begin(), waiting_.end(), at, [](const Waiting& w, const auto& key) { return std::pair(w.freed, w.stream) < key; });
    return found != waiting_.end() && std::pair(found->freed, found->stream) == at ? &*found : nullptr;
  }

  void begin_phase(const std::string& name) {
    end_phase();
    phase_ = name;
    if (name == "first.forward" || name == "first.backward") take_workspace(name);
  }

  /// A step begins: "steady" is the last one only.
  void forget_steady() {
    end_phase();
    phase_.clear();
    std::erase_if(replay_.phases, [](const AllocatorPeaks& p) { return p.phase.starts_with("steady"); });
  }

  void take_workspace(const std::string& name) {
    bool& taken = name == "first.forward" ? forward_workspace_ : backward_workspace_;
    if (taken || options_.cublas_workspace_bytes == Bytes()) return;
    taken = true;
    const auto outcome = allocator_.allocate(options_.cublas_workspace_bytes, StreamId{static_cast<std::uint32_t>(Stream::compute)});
    if (const auto* block = std::get_if<BlockId>(&outcome)) taken_ = *block;
  }

  void end_phase() {
    if (phase_.empty()) return;
    const AllocatorCounters& c = allocator_.counters();
    const AllocatorPeaks peaks{phase_, c.requested.peak, c.allocated.peak, c.active.peak, c.reserved.peak};
    auto at = std::find_if(replay_.phases.begin(), replay_.phases.end(), [&](const AllocatorPeaks& p) { return p.phase == phase_; });
    if (at == replay_.phases.end()) replay_.phases.push_back(peaks);
    else raise(*at, peaks);
    raise(replay_.whole, peaks);
    allocator_.reset_peaks();
  }

  const eager::Recorder& recorder_;
  const ReplayOptions& options_;
  const OnReplayed& on_event_;
  CachingAllocator allocator_;
  std::vector<Held> blocks_;
  std::vector<Waiting> waiting_;   ///< by freed and stream
  std::size_t event_ = 0;          ///< that is followed
  std::optional<BlockId> taken_;   ///< by the event that is followed
  std::int64_t more_retries_ = 0;  ///< of rounds that were not followed
  std::string phase_;
  bool forward_workspace_ = false, backward_workspace_ = false;
  Replay replay_;
};

}  // namespace

Replay replay(const eager::Recorder& recorder, const ReplayOptions& options, const OnReplayed& on_event) {
  assert(recorder.records_events());
  return Replayer(recorder, options, on_event).run();
}

}  // namespace zeroplan
