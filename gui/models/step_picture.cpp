#include "gui/models/step_picture.h"

#include <fmt/format.h>

#include <algorithm>

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

class Builder {
 public:
  Builder(const Program& program, const LinearProgram& linear) : program_(program), linear_(linear) {
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
      if (loop.count > 1) out_.repeats.push_back({{place_[loop.begin], loop.end < place_.size() ? place_[loop.end] : out_.duration}, loop.count});
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
    out_.instructions.push_back({event.fragment, event.instruction, event.block, event.stream, in_init(event) ? TimeSpan{} : TimeSpan{event.start, event.end}});
    place_.push_back(begin);
    if (!in_init(event) && event.stream == Stream::compute) {
      if (event.start > computed_) out_.exposed.push_back({computed_, event.start});
      computed_ = clock_ = std::max(clock_, event.end);
      phase(program_.fragments[event.fragment]->phase, begin);
    }
    if (!scratch_.empty() && scratch_.back().last_event == kNone) scratch_.back().last_event = change(Category::scratch, -scratch_.back().bytes);
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
  std::size_t instances_ = 0;
  std::vector<std::size_t> open_;  // by storage and instance (instances start at −1): index of the living one
  std::vector<SimTime> place_;     // by linear instruction: where it is drawn
  std::vector<LifeSpan> scratch_;
  SimTime clock_, computed_;
  StepPicture out_;
};

SimTime instant_begin(std::size_t instant) { return SimTime(kInstant.value() * static_cast<std::int64_t>(instant)); }

std::vector<PhaseSpan> phases_of(const Timeline& timeline) {
  std::vector<PhaseSpan> out;
  for (std::size_t i = 0; i < timeline.instants.size(); ++i) {
    const std::optional<Phase> phase = phase_of(timeline.instants[i].phase);
    if (!phase) continue;
    const bool goes_on = !out.empty() && out.back().phase == *phase && out.back().time.end == instant_begin(i);
    if (goes_on) out.back().time.end = instant_begin(i + 1);
    else out.push_back({*phase, {instant_begin(i), instant_begin(i + 1)}});
  }
  return out;
}

}  // namespace

StepPicture picture_of(const Program& program, const LinearProgram& linear) { return Builder(program, linear).build(); }

StepPicture picture_of(const Timeline& timeline) {
  StepPicture out;
  const std::size_t instants = timeline.instants.size();
  out.has_clock = false;
  out.duration = instant_begin(instants);
  out.phases = phases_of(timeline);
  out.memory.reserve(2 * timeline.tensors.size());
  for (const TimelineInstant& instant : timeline.instants) out.instructions.push_back({.stream = instant.stream, .clock = {}});
  std::vector<std::vector<std::uint32_t>> deaths(instants);
  std::uint32_t next = 0;  // tensors come in the order of their births
  for (std::uint32_t i = 0; i < instants; ++i) {
    for (; next < timeline.tensors.size() && timeline.tensors[next].birth == i; ++next) {
      const TimelineTensor& tensor = timeline.tensors[next];
      out.memory.add(instant_begin(i), tensor.category, tensor.bytes.value());
      if (tensor.death < instants) deaths[tensor.death].push_back(next);
      out.lives.push_back({std::nullopt, 0, i, tensor.death, out.memory.size() - 1, 0, tensor.bytes.value(), next});
    }
    for (const std::uint32_t dead : deaths[i]) {
      out.memory.add(instant_begin(i + 1), timeline.tensors[dead].category, -timeline.tensors[dead].bytes.value());
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
