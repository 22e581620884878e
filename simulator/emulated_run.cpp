#include "simulator/emulated_run.h"

#include <algorithm>

namespace zeroplan {
namespace {

class Tracer {
 public:
  Tracer(const EmulatedRun& run, DeviceTrace& out, bool with_segments) : out_(out), with_segments_(with_segments) {
    out_ = {};
    out_.reserved.assign(run.recorder.events().size(), Bytes());
    out_.blocks.resize(run.recorder.events().size());
  }

  void hear(const ReplayedEvent& heard) {
    const Bytes reserved = heard.allocator.counters().reserved.current;
    out_.reserved[heard.event] = std::max(out_.reserved[heard.event], reserved);
    if (heard.block) out_.blocks[heard.event] = {heard.allocator.address(*heard.block), heard.allocator.size_bytes(*heard.block)};
    if (!with_segments_) return;
    const std::int64_t retries = heard.allocator.counters().retries;
    const bool again = heard.event < last_event_;  // the next round of a repeated stretch takes the place of the one before it
    last_event_ = heard.event;
    while (again && !out_.segments.empty() && out_.segments.back().first >= heard.event) out_.segments.pop_back();
    if (!again && reserved == last_reserved_ && retries == last_retries_) return;
    last_reserved_ = reserved;
    last_retries_ = retries;
    out_.segments.emplace_back(heard.event, heard.allocator.snapshot());
    for (SegmentView& segment : out_.segments.back().second) segment.blocks.clear();
  }

 private:
  DeviceTrace& out_;
  bool with_segments_;
  std::size_t last_event_ = 0;
  Bytes last_reserved_;
  std::int64_t last_retries_ = 0;
};

}  // namespace

EmulatedRun::EmulatedRun(const Question& asked, const PredictOptions& how) : question(asked), gaps(emulation_gaps(asked)), options(how), recorder(true) {
  if (!options.every_micro_batch) recorder.fold_equal_micro_batches();
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
