#include "gui/models/step_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "simulator/walk.h"

namespace zeroplan::gui {
namespace {

// The Program with every run of equal micro batches cut to one: linearize's order (the same condition).
Program collapsed(const Program& program) {
  Program out = program;
  for (std::size_t at = 0; at < out.step.size(); at += out.step[at].size)
    if (out.step[at].kind == Node::Kind::repeat && out.step[at].size > 2) out.step[at].count = 1;
  return out;
}

std::vector<StreamLane> lanes_from(std::array<std::vector<LaneWork>, kLaneCount> work) {
  std::vector<StreamLane> out;
  for (std::size_t i = 0; i < work.size(); ++i)
    if (!work[i].empty() || static_cast<Lane>(i) == Lane::compute) out.push_back(lane_from(static_cast<Lane>(i), std::move(work[i])));
  return out;
}

class Builder {
 public:
  Builder(const Program& program, const LinearProgram& linear, std::optional<SimTime> step) : program_(program), linear_(linear), step_(step) {
    std::int64_t most = 2;
    for (const UnrolledInstruction& i : linear.instructions) most = std::max<std::int64_t>(most, i.block + 2);
    instances_ = static_cast<std::size_t>(most) + 2;
    open_.assign(program.storages.size() * instances_, kNone);
  }

  StepPicture build() {
    const WalkResult walked = walk(collapsed(program_));
    out_.instructions.reserve(linear_.instructions.size());
    out_.memory.reserve(walked.trace.events.size());
    for (const TraceEvent& event : walked.trace.events) add(event);
    out_.duration = std::max(walked.trace.duration, clock_);
    finish_lives();
    for (const LinearProgram::Loop& loop : linear_.loops)
      if (loop.count > 1)
        out_.repeats.push_back({{place(loop.begin), place(loop.end)}, loop.count, static_cast<std::uint32_t>(loop.begin), static_cast<std::uint32_t>(loop.end), SimTime()});
    if (step_ && out_.repeats.size() == 1) out_.repeats.front().more = std::max(SimTime(), *step_ - out_.duration);
    add_lanes();
    out_.memory.finish(out_.duration);
    out_.peak_event = out_.memory.highest(0, out_.memory.size());
    if (!out_.phases.empty()) out_.phases.back().time.end = out_.duration;
    return std::move(out_);
  }

 private:
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  bool in_init(const TraceEvent& event) const { return event.index < linear_.step_begin; }

  // The compute clock: how far compute has come when this instruction is issued.
  SimTime issue_time(const TraceEvent& event) {
    if (!in_init(event) && event.stream == Stream::compute) clock_ = std::max(clock_, event.start);
    return clock_;
  }

  std::size_t change(Category category, std::int64_t bytes) {
    out_.memory.add(clock_, category, bytes);
    return out_.memory.size() - 1;
  }

  void add(const TraceEvent& event) {
    switch (event.kind) {
      case TraceEvent::Kind::birth: return birth(event);
      case TraceEvent::Kind::scratch: return scratch(event);
      case TraceEvent::Kind::run: return run(event);
      case TraceEvent::Kind::death: return death(event);
    }
  }

  std::size_t& slot(const TraceEvent& event) { return open_[event.storage * instances_ + static_cast<std::size_t>(event.instance + 1)]; }

  void birth(const TraceEvent& event) {
    issue_time(event);
    const std::size_t at = change(program_.storages[event.storage].category, event.bytes);
    slot(event) = out_.lives.size();
    out_.lives.push_back({event.storage, event.instance, event.index, 0, at, kNone, event.bytes});
  }

  void death(const TraceEvent& event) {
    LifeSpan& life = out_.lives[slot(event)];
    life.last_event = change(program_.storages[event.storage].category, -event.bytes);
    life.dies = event.index;
    slot(event) = kNone;
  }

  void scratch(const TraceEvent& event) {
    issue_time(event);
    scratch_.push_back({std::nullopt, 0, event.index, event.index, change(Category::scratch, event.bytes), kNone, event.bytes});
  }

  void run(const TraceEvent& event) {
    const SimTime begin = issue_time(event);
    out_.instructions.push_back({event.fragment, event.instruction, event.block, event.stream, in_init(event) ? TimeSpan{} : TimeSpan{event.start, event.end}, {begin, begin}});
    if (!in_init(event) && event.stream == Stream::compute) {
      if (event.start > computed_) out_.exposed.push_back({computed_, event.start});
      computed_ = clock_ = std::max(clock_, event.end);
      out_.instructions.back().place.end = clock_;
      phase(program_.fragments[event.fragment]->phase, begin);
    }
    if (!scratch_.empty() && scratch_.back().last_event == kNone) scratch_.back().last_event = change(Category::scratch, -scratch_.back().bytes);
  }

  SimTime place(std::size_t instruction) const { return instruction < out_.instructions.size() ? out_.instructions[instruction].place.begin : out_.duration; }

  void add_lanes() {
    std::array<std::vector<LaneWork>, kLaneCount> work;
    for (std::uint32_t i = 0; i < out_.instructions.size(); ++i)
      if (const InstructionSpan& at = out_.instructions[i]; at.clock.end > at.clock.begin) work[static_cast<std::size_t>(lane_of(at.stream))].push_back({at.clock, i});
    out_.lanes = lanes_from(std::move(work));
  }

  void phase(Phase phase, SimTime begin) {
    if (!out_.phases.empty() && out_.phases.back().phase == phase) {
      out_.phases.back().time.end = clock_;
      return;
    }
    if (!out_.phases.empty()) out_.phases.back().time.end = begin;
    out_.phases.push_back({phase, {out_.phases.empty() ? SimTime() : begin, clock_}});
  }

  void finish_lives() {
    for (LifeSpan& life : out_.lives) {
      if (life.last_event != kNone) continue;
      life.last_event = out_.memory.size();
      life.dies = static_cast<std::uint32_t>(out_.instructions.size());
    }
    out_.birth_count = out_.lives.size();
    out_.lives.insert(out_.lives.end(), scratch_.begin(), scratch_.end());
  }

  const Program& program_;
  const LinearProgram& linear_;
  std::optional<SimTime> step_;
  std::size_t instances_ = 0;
  std::vector<std::size_t> open_;  // by storage and instance (instances start at −1): index of the living one
  std::vector<LifeSpan> scratch_;
  SimTime clock_, computed_;
  StepPicture out_;
};

// A Timeline's times with the rounds that are not drawn taken out.
class DrawnTime {
 public:
  explicit DrawnTime(const Timeline& timeline) {
    SimTime computed;
    std::size_t next = 0;
    for (const TimelineRepeat& repeat : timeline.repeats) {
      for (; next < timeline.work.size() && timeline.work[next].instant < repeat.begin; ++next)
        if (moves_compute(timeline.work[next])) computed = std::max(computed, timeline.work[next].end);
      if (repeat.count < 2) continue;
      const SimTime round(repeat.more.value() / (repeat.count - 1));
      cuts_.push_back({repeat.end, computed + round + SimTime(repeat.more.value() / 2), repeat.more});
    }
  }

  static bool moves_compute(const TimelineWork& work) { return work.stream == Stream::compute && work.kind != TimelineWork::Kind::host; }

  SimTime of(SimTime time, std::size_t instant) const {
    return cut(time, [&](const Cut& one) { return instant >= one.end; });
  }
  /// Of what belongs to no instant: the clock lists the first round only, so what stands in the second half of the rounds' time comes after them.
  SimTime of(SimTime time) const {
    return cut(time, [&](const Cut& one) { return time >= one.after; });
  }

 private:
  struct Cut {
    std::size_t end = 0;
    SimTime after, more;
  };
  template <class IsBehind>
  SimTime cut(SimTime time, IsBehind is_behind) const {
    for (const Cut& one : cuts_)
      if (is_behind(one)) time = time - one.more;
    return std::max(time, SimTime());
  }
  std::vector<Cut> cuts_;
};

bool has_times(const Timeline& timeline) {
  return timeline.step && std::all_of(timeline.instants.begin(), timeline.instants.end(), [](const TimelineInstant& instant) { return instant.start.has_value(); });
}

void place_in_issue_order(StepPicture& out) {
  out.has_clock = false;
  for (std::size_t i = 0; i < out.instructions.size(); ++i) {
    const auto tick = [](std::size_t instant) { return SimTime(kInstant.value() * static_cast<std::int64_t>(instant)); };
    out.instructions[i].place = {tick(i), tick(i + 1)};
  }
  out.duration = out.instructions.empty() ? SimTime() : out.instructions.back().place.end;
}

// An instant stands where the compute stream has come to when it begins, and lasts until that stream has done what was issued in it.
void place_on_the_clock(StepPicture& out, const Timeline& timeline) {
  const DrawnTime drawn(timeline);
  SimTime now;
  std::size_t next = 0;
  for (std::size_t i = 0; i < timeline.instants.size(); ++i) {
    const TimelineInstant& instant = timeline.instants[i];
    InstructionSpan& span = out.instructions[i];
    span.clock = {drawn.of(*instant.start, i), drawn.of(*instant.end, i)};
    if (instant.stream == Stream::compute) now = std::max(now, span.clock.begin);
    span.place.begin = now;
    for (; next < timeline.work.size() && timeline.work[next].instant <= i; ++next)
      if (const TimelineWork& work = timeline.work[next]; DrawnTime::moves_compute(work)) now = std::max(now, drawn.of(work.end, work.instant));
    span.place.end = now;
  }
  out.duration = std::max(now, drawn.of(*timeline.step, timeline.instants.size()));
  std::array<std::vector<LaneWork>, kLaneCount> work;
  for (std::uint32_t i = 0; i < timeline.work.size(); ++i) {
    const TimelineWork& one = timeline.work[i];
    if (one.end <= one.start) continue;  // less than a nanosecond
    const Lane lane = one.kind == TimelineWork::Kind::host ? Lane::host : one.kind == TimelineWork::Kind::copy ? Lane::copies : lane_of(one.stream);
    const SimTime begin = drawn.of(one.start, one.instant);
    work[static_cast<std::size_t>(lane)].push_back({{begin, begin + (one.end - one.start)}, i});
  }
  out.lanes = lanes_from(std::move(work));
  for (const TimelineSpan& span : timeline.exposed) {
    const SimTime start = drawn.of(span.start), begin = std::max(start, out.exposed.empty() ? SimTime() : out.exposed.back().end), end = start + (span.end - span.start);
    if (end > begin) out.exposed.push_back({begin, end});
  }
}

std::vector<PhaseSpan> phases_of(const Timeline& timeline, const std::vector<InstructionSpan>& instants) {
  std::vector<PhaseSpan> out;
  std::size_t last = 0;
  for (std::size_t i = 0; i < timeline.instants.size(); ++i) {
    const std::optional<Phase> phase = phase_of(timeline.instants[i].phase);
    if (!phase) continue;
    if (!out.empty() && out.back().phase == *phase && last + 1 == i) out.back().time.end = instants[i].place.end;
    else out.push_back({*phase, instants[i].place});
    last = i;
  }
  return out;
}

}  // namespace

StepPicture picture_of(const Program& program, const LinearProgram& linear, std::optional<SimTime> step) { return Builder(program, linear, step).build(); }

StepPicture picture_of(const Timeline& timeline) {
  StepPicture out;
  const std::size_t instants = timeline.instants.size();
  for (const TimelineInstant& instant : timeline.instants) out.instructions.push_back({.stream = instant.stream, .clock = {}, .place = {}});
  if (has_times(timeline)) place_on_the_clock(out, timeline);
  else place_in_issue_order(out);
  out.phases = phases_of(timeline, out.instructions);
  for (const TimelineRepeat& repeat : timeline.repeats)
    out.repeats.push_back({{out.instructions[repeat.begin].place.begin, out.instructions[repeat.end - 1].place.end}, repeat.count, static_cast<std::uint32_t>(repeat.begin),
                           static_cast<std::uint32_t>(repeat.end), out.has_clock ? repeat.more : SimTime()});
  out.memory.reserve(2 * timeline.tensors.size());
  std::vector<std::vector<std::uint32_t>> deaths(instants);
  std::uint32_t next = 0;  // tensors come in the order of their births
  for (std::uint32_t i = 0; i < instants; ++i) {
    for (; next < timeline.tensors.size() && timeline.tensors[next].birth == i; ++next) {
      const TimelineTensor& tensor = timeline.tensors[next];
      out.memory.add(out.instructions[i].place.begin, tensor.category, tensor.bytes.value());
      if (tensor.death < instants) deaths[tensor.death].push_back(next);
      out.lives.push_back({std::nullopt, 0, i, tensor.death, out.memory.size() - 1, 0, tensor.bytes.value(), next});
    }
    for (const std::uint32_t dead : deaths[i]) {
      out.memory.add(out.instructions[i].place.end, timeline.tensors[dead].category, -timeline.tensors[dead].bytes.value());
      out.lives[dead].last_event = out.memory.size() - 1;
    }
  }
  for (LifeSpan& life : out.lives)
    if (life.dies >= instants) life.last_event = out.memory.size();
  out.birth_count = out.lives.size();
  out.memory.finish(out.duration);
  out.peak_event = out.memory.highest(0, out.memory.size());
  return out;
}

SimTime step_time(const StepPicture& picture, SimTime drawn) {
  SimTime out = drawn;
  for (const RepeatSpan& repeat : picture.repeats)
    if (drawn > repeat.time.end) out = out + repeat.more;
  return out;
}

std::int64_t rounds_of(const StepPicture& picture, std::uint32_t instruction) {
  for (const RepeatSpan& repeat : picture.repeats)
    if (repeat.begin <= instruction && instruction < repeat.end) return repeat.count;
  return 1;
}

std::optional<Phase> phase_of(std::string_view name) {
  for (const Phase phase : {Phase::init, Phase::forward, Phase::backward, Phase::step})
    if (name.ends_with(name_of(phase))) return phase;
  return std::nullopt;
}

std::vector<std::size_t> alive_at(const StepPicture& picture, std::size_t event) {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < picture.lives.size(); ++i)
    if (picture.lives[i].first_event <= event && event < picture.lives[i].last_event) out.push_back(i);
  std::stable_sort(out.begin(), out.end(), [&](std::size_t a, std::size_t b) { return picture.lives[a].bytes > picture.lives[b].bytes; });
  return out;
}

std::string unit_name(UnitKind unit, std::int64_t block) {
  return unit == UnitKind::block ? fmt::format("block {}", block) : std::string(name_of(unit));
}

std::uint32_t instruction_at(const StepPicture& picture, std::size_t event) {
  std::uint32_t out = 0;
  for (const LifeSpan& life : picture.lives) {
    if (life.first_event <= event) out = std::max(out, life.born);
    if (life.last_event <= event && life.dies < picture.instructions.size()) out = std::max(out, life.dies);
  }
  return out;
}

}  // namespace zeroplan::gui
