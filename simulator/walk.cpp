#include "simulator/walk.h"

#include <algorithm>

namespace zeroplan {
namespace {

class Walker {
 public:
  Walker(const Program& program, const WalkOptions& options)
      : program_(program), options_(options), context_(op_context(program.question)), events_(static_cast<std::size_t>(program.event_registers)) {
    durations_.resize(program.fragments.size());
  }

  WalkResult walk() {
    walk_tree(program_.init);
    clock_.fill(SimTime());  // init is not part of a step's time
    std::fill(events_.begin(), events_.end(), SimTime());
    const std::int64_t persistent = live_;
    result_.between_steps = Bytes(persistent);
    for (int step = 0; step < options_.steps; ++step) walk_tree(program_.step);
    result_.balanced = live_ == persistent;
    result_.trace.peak_live = Bytes(peak_);
    result_.trace.duration = *std::max_element(clock_.begin(), clock_.end());
    return std::move(result_);
  }

 private:
  void walk_tree(const std::vector<Node>& nodes) {
    for_each_instruction(program_, nodes, [&](const Fragment& fragment, std::uint16_t index, std::size_t at, std::int32_t block, std::int64_t, bool last) {
      step(fragment, index, at, block);
      if (last && fragment.rotates_events) std::rotate(events_.begin(), events_.begin() + 1, events_.end());
    });
  }

  SimTime duration(const Fragment& fragment, std::uint16_t index, std::size_t at) {
    std::vector<SimTime>& known = durations_[index];
    if (known.empty())
      for (const Instruction& i : fragment.instructions) known.push_back(duration_of(i, fragment.operands_of(i), context_, program_.question.cluster));
    return known[at];
  }

  void step(const Fragment& fragment, std::uint16_t index, std::size_t at, std::int32_t block) {
    const Instruction& instruction = fragment.instructions[at];
    SimTime& tail = clock_[static_cast<std::size_t>(instruction.stream)];
    SimTime start = tail;
    for (std::size_t w = instruction.waits_begin; w < instruction.waits_end; ++w) {
      const Wait& wait = fragment.waits[w];
      start = std::max(start, wait.kind == Wait::Kind::tail ? clock_[static_cast<std::size_t>(wait.stream)] : events_[wait.event]);
    }
    const SimTime end = start + duration(fragment, index, at);
    TraceEvent event;
    event.stream = instruction.stream;
    event.fragment = index;
    event.instruction = static_cast<std::uint16_t>(at);
    event.block = block;
    event.index = static_cast<std::uint32_t>(result_.instruction_count++);

    for (std::size_t b = instruction.births_begin; b < instruction.births_end; ++b) change(event, TraceEvent::Kind::birth, fragment.births[b], block, start);
    const std::int64_t here = live_ + instruction.scratch_bytes.value();
    if (instruction.scratch_bytes.value() != 0) {
      event.kind = TraceEvent::Kind::scratch;
      event.bytes = instruction.scratch_bytes.value();
      event.live_bytes = here;
      event.start = start;
      event.end = end;
      record(event);
    }
    if (here > peak_) {
      peak_ = here;
      result_.trace.peak_index = event.index;
      result_.by_category_at_peak = by_category_;
      result_.by_category_at_peak[static_cast<std::size_t>(Category::scratch)] += instruction.scratch_bytes.value();
    }
    Bytes& phase = result_.phase_peak[static_cast<std::size_t>(fragment.phase)];
    phase = std::max(phase, Bytes(here));
    event.kind = TraceEvent::Kind::run;
    event.bytes = 0;
    event.live_bytes = here;
    event.start = start;
    event.end = end;
    record(event);
    for (std::size_t d = instruction.deaths_begin; d < instruction.deaths_end; ++d) change(event, TraceEvent::Kind::death, fragment.deaths[d], block, end);
    tail = end;
    if (instruction.record != kNoEvent) events_[instruction.record] = end;
  }

  void change(TraceEvent event, TraceEvent::Kind kind, InstanceRef instance, std::int32_t block, SimTime when) {
    const Storage& storage = program_.storages[instance.storage];
    const std::int64_t sign = kind == TraceEvent::Kind::birth ? 1 : -1;
    live_ += sign * storage.bytes.value();
    by_category_[static_cast<std::size_t>(storage.category)] += sign * storage.bytes.value();
    event.kind = kind;
    event.storage = instance.storage;
    event.instance = storage.per_block ? block + instance.delta : 0;
    event.bytes = storage.bytes.value();
    event.live_bytes = live_;
    event.start = event.end = when;
    record(event);
  }

  void record(const TraceEvent& event) {
    if (options_.record_events) result_.trace.events.push_back(event);
  }

  const Program& program_;
  const WalkOptions& options_;
  const OpContext context_;
  std::vector<std::vector<SimTime>> durations_;
  std::array<SimTime, kStreamCount> clock_{};
  std::vector<SimTime> events_;
  std::int64_t live_ = 0, peak_ = 0;
  std::array<std::int64_t, kCategoryCount> by_category_{};
  WalkResult result_;
};

}  // namespace

WalkResult walk(const Program& program, const WalkOptions& options) { return Walker(program, options).walk(); }

}  // namespace zeroplan
