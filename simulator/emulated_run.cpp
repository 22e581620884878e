#include "simulator/emulated_run.h"

#include <algorithm>

namespace zeroplan {
namespace {

class Tracer {
 public:
  Tracer(const EmulatedRun& run, DeviceTrace& out, bool with_segments) : run_(run), out_(out), with_segments_(with_segments), taken_at_(run.recorder.tags().size()) {
    out_ = {};
    out_.reserved.assign(run.recorder.events().size(), Bytes());
    out_.blocks.resize(run.recorder.events().size());
  }

  void hear(const ReplayedEvent& heard) {
    const eager::MemoryEvent& event = run_.recorder.events()[heard.event];
    if (event.kind == eager::MemoryEvent::Kind::forget && heard.event < last_event_) begin_settled_step_again(heard.event);
    const Bytes reserved = heard.allocator.counters().reserved.current;
    out_.reserved[heard.event] = std::max(out_.reserved[heard.event], reserved);
    if (heard.block) {
      out_.blocks[heard.event] = {heard.allocator.address(*heard.block), heard.allocator.size_bytes(*heard.block)};
      if (event.kind != eager::MemoryEvent::Kind::phase) taken_at_[event.storage] = heard.event;
    }
    const bool again = heard.event < last_event_;  // the next round of a repeated stretch or step takes the place of the one before it
    last_event_ = heard.event;
    if (!with_segments_) return;
    const std::int64_t retries = heard.allocator.counters().retries;
    while (again && !out_.segments.empty() && out_.segments.back().first >= heard.event) out_.segments.pop_back();
    if (!again && reserved == last_reserved_ && retries == last_retries_) return;
    last_reserved_ = reserved;
    last_retries_ = retries;
    out_.segments.emplace_back(heard.event, heard.allocator.snapshot());
    for (SegmentView& segment : out_.segments.back().second) segment.blocks.clear();
  }

 private:
  /// Only its second round counts, and what the first handed on lies where that left it.
  void begin_settled_step_again(std::size_t event) {
    std::fill(out_.reserved.begin() + static_cast<std::ptrdiff_t>(event), out_.reserved.end(), Bytes());
    for (const auto& [old, left] : run_.recorder.settled_step()->handed_on)
      if (taken_at_[old] && taken_at_[left]) out_.handed_on[*taken_at_[old]] = *out_.blocks[*taken_at_[left]];
  }

  const EmulatedRun& run_;
  DeviceTrace& out_;
  bool with_segments_;
  std::vector<std::optional<std::size_t>> taken_at_;  ///< by storage: the event that took its block
  std::size_t last_event_ = 0;
  Bytes last_reserved_;
  std::int64_t last_retries_ = 0;
};

}  // namespace

EmulatedRun::EmulatedRun(const Question& asked, const PredictOptions& how) : question(asked), gaps(emulation_gaps(asked)), options(how), recorder(true) {
  if (!options.every_micro_batch) recorder.fold_micro_batches();
  if (!options.every_step) recorder.fold_steps();
  peaks = emulate(question, recorder, options.device);
}

Replay replay(const EmulatedRun& run, const ReplayOptions& options, DeviceTrace* trace, bool with_segments) {
  if (trace == nullptr) return replay(run.recorder, options);
  Tracer tracer(run, *trace, with_segments);
  return replay(run.recorder, options, [&](const ReplayedEvent& heard) { tracer.hear(heard); });
}

DeviceTrace trace_device(const EmulatedRun& run, bool with_segments) {
  DeviceTrace out;
  Replay own = replay(run, own_device(run.question), &out, with_segments);
  if (!own.failure) return out;
  replay(run, endless_device(run.question), &out, with_segments);
  out.failure = std::move(own.failure);
  return out;
}

}  // namespace zeroplan
