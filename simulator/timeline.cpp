#include "simulator/timeline.h"

#include <algorithm>
#include <cmath>
#include <future>
#include <limits>
#include <map>
#include <string_view>
#include <unordered_map>

#include <fmt/format.h>

#include "planner/engines/zeroplan.h"
#include "planner/search/answer.h"
#include "simulator/emulated_run.h"
#include "simulator/replay.h"
#include "simulator/walk.h"

namespace zeroplan {
namespace {

using eager::MemoryEvent;

constexpr std::uint32_t kStillAlive = std::numeric_limits<std::uint32_t>::max();

/// Grows a Timeline from births and deaths in issue order.
class Builder {
 public:
  explicit Builder(Timeline& timeline) : out_(timeline) {}

  /// The next birth or death belongs to this instruction.
  void at(std::string_view name, std::string unit, std::string_view phase, Stream stream) {
    if (!out_.instants.empty() && !started_) return set(out_.instants.back(), name, std::move(unit), phase, stream);
    out_.instants.emplace_back();
    set(out_.instants.back(), name, std::move(unit), phase, stream);
    shrinking_ = started_ = false;
    note();
  }

  std::size_t birth(TimelineTensor tensor) {
    if (shrinking_) {  // grows again: a new instant of the same instruction
      TimelineInstant again = out_.instants.back();
      again.taken.reset();
      out_.instants.push_back(std::move(again));
      shrinking_ = false;
    }
    started_ = true;
    live_ += tensor.bytes.value();
    tensor.birth = here();
    tensor.death = kStillAlive;
    out_.tensors.push_back(std::move(tensor));
    note();
    return out_.tensors.size() - 1;
  }

  void death(std::size_t tensor) {
    started_ = shrinking_ = true;
    live_ -= out_.tensors[tensor].bytes.value();
    out_.tensors[tensor].death = here();
  }

  /// What is taken from the device at this moment of the instant.
  void taken(Bytes bytes) {
    if (out_.instants.empty()) return;
    std::optional<Bytes>& most = out_.instants.back().taken;
    most = std::max(most.value_or(bytes), bytes);
  }
  void timed(SimTime start, SimTime end) {
    out_.instants.back().start = start;
    out_.instants.back().end = end;
  }
  /// The index of the instant that comes next.
  std::size_t next() const { return out_.instants.size() - (started_ || out_.instants.empty() ? 0 : 1); }
  std::uint32_t here() const { return out_.instants.empty() ? 0 : static_cast<std::uint32_t>(out_.instants.size() - 1); }
  /// The first instant at which something is there that comes now and is no tensor: where tensors have already died at this one, the next.
  std::uint32_t first_seen() const { return here() + (shrinking_ ? 1 : 0); }

  void finish() {
    for (TimelineTensor& tensor : out_.tensors)
      if (tensor.death == kStillAlive) tensor.death = static_cast<std::uint32_t>(out_.instants.size());
  }

 private:
  static void set(TimelineInstant& instant, std::string_view name, std::string unit, std::string_view phase, Stream stream) {
    instant.name = name;
    instant.unit = std::move(unit);
    instant.phase = phase;
    instant.stream = stream;
    instant.taken.reset();
    instant.start.reset();
    instant.end.reset();
  }
  void note() {
    if (!out_.instants.empty()) out_.instants.back().live = Bytes(live_);
  }

  Timeline& out_;
  std::int64_t live_ = 0;
  bool shrinking_ = false;
  bool started_ = true;
};

// ---- emulated engines ----

/// Engines' buffers that say less by their names than people need.
const std::map<std::string_view, std::string_view>& reasons() {
  static const std::map<std::string_view, std::string_view> all{
      {"IPG bucket", "gradients wait here until reduce_bucket_size elements are there, then travel together"},
      {"ipg_bucket buffer", "gradients wait here until reduce_bucket_size elements are there; kept for the whole run"},
      {"grads_in_partition", "reduced gradients of this rank's partition, made anew in every backward"},
      {"grad_partitions_flat_buffer", "this rank's gradients, kept for the whole run"},
      {"flat buffer of the parameters", "all parameters in one tensor, whole on every rank below stage 3"},
      {"lp_param_buffer", "this rank's partitions of the parameters"},
      {"fp32 partition", "master copy of this rank's partition, which the optimizer updates"},
      {"fp32_partitioned_groups_flat", "master copy of this rank's partitions, which the optimizer updates"},
      {"flat gradient partition", "the partition's gradients joined for the step"},
      {"fp32 gradient partition", "the partition's gradients in fp32, as the optimizer wants them"},
      {"_prepare_fp32_grad_for_sub_group flatten", "a sub-group's gradients joined for the step"},
      {"AdamW exp_avg", "first moment of this rank's share"},
      {"AdamW exp_avg_sq", "second moment of this rank's share"},
      {"AdamW sqrt", "temporary of foreach AdamW: as large as its parameters; fused AdamW has none"},
      {"AllGatherCoalescedHandle cat", "a gathered parameter, copied out of the buffer that several were gathered into"},
      {"_all_gather_dtype flat buffer", "several parameters gathered together, until each was copied out"},
      {"_all_gather_sequential", "a parameter gathered by itself"},
      {"reduce_scatter_coalesced flat", "the bucket's gradients once more, joined rank by rank"},
      {"FSDP sharded parameter", "this rank's rows of a parameter, which the optimizer updates"},
      {"FSDP unsharded parameter", "a whole parameter while its block computes"},
      {"FSDP all-gather output", "a group's parameters as they arrive, until they are copied out"},
      {"FSDP reduce-scatter input", "a group's gradients in the dtype of reduction"},
      {"FSDP reduce-scatter output", "this rank's share of a group's gradients"},
      {"FSDP sharded gradients", "this rank's gradients, until zero_grad"},
      {"_log_softmax", "log-probabilities in fp32, kept for the loss's backward"},
      {"_log_softmax_backward_data", "gradient of the logits in fp32"},
      {"nll_loss_backward", "gradient of the log-probabilities in fp32"},
      {"flash_attention", "attention's output, kept for its backward"}};
  return all;
}

/// build() is all of Detail::tensors; the device and the clock may be found meanwhile, and come to it afterwards.
class EmulatedTimeline {
 public:
  EmulatedTimeline(Timeline& out, const eager::Recorder& recorder, Span span)
      : out_(out), recorder_(recorder), span_(span), builder_(out), seen_(recorder.events().size()), made_(recorder.tags().size(), kNone), size_(recorder.tags().size(), 0),
        taken_by_(recorder.tags().size(), kNone) {
    for (const MemoryEvent& event : recorder.events()) steps_ += event.kind == MemoryEvent::Kind::forget;
  }

  void build() {
    const std::size_t events = recorder_.events().size() / static_cast<std::size_t>(span_ == Span::whole ? 1 : std::max(steps_, 1));
    out_.instants.reserve(events / 2);
    out_.tensors.reserve(events / 2);
    for (std::size_t i = 0; i < recorder_.events().size(); ++i) {
      const MemoryEvent& event = recorder_.events()[i];
      note_repeats(i);
      if (event.kind == MemoryEvent::Kind::end) break;
      if (event.kind == MemoryEvent::Kind::forget && ++step_ == first_step()) enter();
      if (step_ > last_step()) break;
      if (event.kind == MemoryEvent::Kind::phase) phase_ = recorder_.phases()[event.storage].name;
      if (event.kind < MemoryEvent::Kind::phase) follow(event, i);
      seen_[i] = {inside() && !out_.instants.empty(), builder_.here(), builder_.first_seen()};
      followed_ = i + 1;
    }
    builder_.finish();
    for (TimelineTensor& tensor : out_.tensors) tensor.why = why(tensor);
  }

  void add_device(const DeviceTrace& trace) {
    out_.endless = trace.failure.has_value();
    for (std::size_t i = 0; i < out_.tensors.size(); ++i)
      if (const DeviceTrace::Block* block = block_of(trace, asked_by_[i])) {
        out_.tensors[i].address = block->address;
        out_.tensors[i].block_bytes = block->size;
      }
    for (std::size_t i = 0; i < followed_; ++i) note_device(trace, i);
    for (std::vector<TimelineStretch>* stretches : {&out_.segments, &out_.workspaces})
      settle(*stretches);
  }

  /// Every op's times are those of what it runs on its own stream; an op that runs nothing stands where the compute stream has come to.
  void add_times(const eager::StepClock& clock) {
    out_.step = time_of(clock.step_s);
    for (std::size_t i = 0; i < repeated_.size(); ++i)
      if (repeated_[i]->end_activity > 0) out_.repeats[i].more = time_of(clock.more_rounds_s[static_cast<std::size_t>(repeated_[i] - recorder_.repeated().data())]);
    for (std::size_t i = 0; i < recorder_.activities().size(); ++i) add_work(i, recorder_.activities()[i], clock.activities[i]);
    for (std::size_t i = 0; i < kStreamCount; ++i) set_op_time(static_cast<Stream>(i));
    for (const eager::ClockSpan& span : clock.exposed) out_.exposed.push_back({time_of(span.start_s), time_of(span.end_s)});
    SimTime now;
    std::size_t next = 0;
    for (std::uint32_t i = 0; i < out_.instants.size(); ++i) {
      TimelineInstant& instant = out_.instants[i];
      if (step_of_[i] != last_step()) continue;
      for (const TimelineRepeat& repeat : out_.repeats)
        if (repeat.end == i) now += repeat.more;
      if (!instant.start) instant.start = instant.end = now;
      for (; next < out_.work.size() && out_.work[next].instant <= i; ++next)
        if (out_.work[next].stream == Stream::compute) now = std::max(now, out_.work[next].end);
    }
  }

 private:
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

  /// forget is recorded where a step begins: 1 is the first step.
  int first_step() const { return span_ == Span::whole || span_ == Span::init ? 0 : span_ == Span::first ? 1 : steps_; }
  int last_step() const { return span_ == Span::init ? 0 : span_ == Span::first ? 1 : steps_; }
  bool inside() const { return step_ >= first_step(); }

  const DeviceTrace::Block* block_of(const DeviceTrace& trace, std::size_t event) const {
    if (span_ == Span::steady && trace.handed_on.contains(event)) return &trace.handed_on.at(event);
    return trace.blocks[event] ? &*trace.blocks[event] : nullptr;
  }

  /// Instants of a stretch that begins or ends before this event.
  void note_repeats(std::size_t event) {
    if (!inside()) return;
    for (const eager::RepeatedStretch& stretch : recorder_.repeated()) {
      if (stretch.begin_event == event) {
        out_.repeats.push_back({builder_.next(), builder_.next(), stretch.count, {}});
        repeated_.push_back(&stretch);
      }
      if (stretch.end_event == event) out_.repeats.back().end = builder_.next();
    }
  }

  /// What no instant sees is left out.
  void settle(std::vector<TimelineStretch>& stretches) const {
    const auto instants = static_cast<std::uint32_t>(out_.instants.size());
    for (TimelineStretch& stretch : stretches) stretch.death = std::min(stretch.death, instants);
    std::erase_if(stretches, [&](const TimelineStretch& stretch) { return stretch.birth > stretch.death || stretch.birth >= instants; });
  }

  void note_device(const DeviceTrace& trace, std::size_t event) {
    const Seen& seen = seen_[event];
    const std::uint32_t from = seen.shown ? seen.from : 0;
    if (recorder_.events()[event].kind == MemoryEvent::Kind::phase && trace.blocks[event]) out_.workspaces.push_back({trace.blocks[event]->address, trace.blocks[event]->size, Stream::compute, from, kStillAlive});
    if (next_segments_ < trace.segments.size() && trace.segments[next_segments_].first == event) note_segments(trace.segments[next_segments_++].second, from);
    if (!seen.shown) return;
    std::optional<Bytes>& most = out_.instants[seen.instant].taken;
    most = std::max(most.value_or(trace.reserved[event]), trace.reserved[event]);
    if (trace.failure && trace.failure->event == event) out_.failure = TimelineFailure{seen.instant, trace.failure->error.segment_bytes, text(trace.failure->error)};
  }

  /// A segment is there from the instant that first sees it until the one before it is gone, so that every block of an instant lies in one segment.
  void note_segments(const std::vector<SegmentView>& now, std::uint32_t from) {
    std::map<std::pair<Bytes, Bytes>, std::size_t> gone;
    gone.swap(segments_);
    for (const SegmentView& segment : now) {
      const std::pair key(segment.address, segment.size_bytes);
      const auto known = gone.find(key);
      const bool stays = known != gone.end() && out_.segments[known->second].stream == static_cast<Stream>(segment.stream);
      segments_[key] = stays ? known->second : out_.segments.size();
      if (stays) gone.erase(known);
      else out_.segments.push_back({segment.address, segment.size_bytes, static_cast<Stream>(segment.stream), from, kStillAlive});
    }
    for (const auto& [key, index] : gone) {
      TimelineStretch& segment = out_.segments[index];
      if (from <= segment.birth) segment.birth = 1, segment.death = 0;
      else segment.death = from - 1;
    }
  }

  static SimTime time_of(double s) {
    if (s * 1e9 >= 9.2e18) detail::overflow();
    return SimTime(std::llround(s * 1e9));
  }

  /// What is issued in a repeated stretch belongs to it, also where its last op is still the one that memory outside it is asked for by.
  std::size_t within_repeat(std::size_t index, std::size_t instant) const {
    for (std::size_t i = 0; i < repeated_.size(); ++i) {
      if (repeated_[i]->end_activity == 0) continue;
      instant = index < repeated_[i]->begin_activity ? std::min(instant, out_.repeats[i].begin - 1) : std::max(instant, out_.repeats[i].begin);
      instant = index < repeated_[i]->end_activity ? std::min(instant, out_.repeats[i].end - 1) : std::max(instant, out_.repeats[i].end);
    }
    return instant;
  }

  void add_work(std::size_t index, const eager::Activity& activity, const eager::ClockSpan& span) {
    using Kind = eager::Activity::Kind;
    const bool waits = activity.kind == Kind::record || activity.kind == Kind::wait || activity.kind == Kind::synchronize;
    if (waits || span.end_s <= span.start_s || ops_.empty()) return;
    while (begun_ < ops_.size() && ops_[begun_] <= activity.op) ++begun_;  // activities are in the order of their ops
    const std::size_t instant = within_repeat(index, begun_ - std::min<std::size_t>(begun_, 1));
    const TimelineWork work{.kind = activity.kind == Kind::kernel ? TimelineWork::Kind::kernel
                                    : activity.kind == Kind::collective ? TimelineWork::Kind::collective
                                    : activity.kind == Kind::copy_to_device || activity.kind == Kind::copy_to_host ? TimelineWork::Kind::copy
                                                                                                                   : TimelineWork::Kind::host,
                            .name = activity.op == 0 ? "" : recorder_.ops()[activity.op - 1].name, .stream = activity.stream, .instant = static_cast<std::uint32_t>(instant),
                            .start = time_of(span.start_s), .end = time_of(span.end_s)};
    out_.work.push_back(work);
    OpTime& time = op_times_[static_cast<std::size_t>(activity.stream)];
    const OpTime now{.op = activity.op, .instant = instant, .first = within_repeat(index, 0), .start = work.start, .end = work.end};
    if (time.op == now.op && time.instant == now.instant && time.first == now.first) {
      time.start = std::min(time.start, now.start);
      time.end = std::max(time.end, now.end);
    } else {
      set_op_time(activity.stream);
      time = now;
    }
  }

  /// To all instants of the op on its stream.
  void set_op_time(Stream stream) {
    const OpTime& time = op_times_[static_cast<std::size_t>(stream)];
    if (!time.op) return;
    for (std::size_t next = time.instant + 1; next > time.first && ops_[next - 1] == *time.op && out_.instants[next - 1].stream == stream; --next) {
      TimelineInstant& of = out_.instants[next - 1];
      of.start = std::min(of.start.value_or(time.start), time.start);
      of.end = std::max(of.end.value_or(time.end), time.end);
    }
  }

  /// What is alive when the span begins was born before it.
  void enter() {
    builder_.at("what is there before", "", "before", Stream::compute);
    note_instants(0);
    for (std::size_t storage = 0; storage < size_.size(); ++storage)
      if (size_[storage] > 0) make(storage);
  }

  void note_instants(std::uint32_t op) {
    ops_.resize(out_.instants.size(), op);
    step_of_.resize(out_.instants.size(), step_);
    if (ops_.empty()) return;
    ops_.back() = op;
    step_of_.back() = step_;
  }

  void make(std::size_t storage) {
    const eager::StorageTag& tag = recorder_.tags()[storage];
    if (tag.place != eager::Place::device || size_[storage] == 0) return;
    TimelineTensor tensor{.name = tag.site, .category = tag.category, .unit = eager::unit_name(tag.where), .stream = tag.stream, .bytes = Bytes(size_[storage]), .birth = 0, .death = 0, .why = known_reason(tag.site)};
    made_[storage] = builder_.birth(std::move(tensor));
    asked_by_.push_back(taken_by_[storage]);
  }

  void unmake(std::size_t storage) {
    if (made_[storage] == kNone) return;
    builder_.death(made_[storage]);
    made_[storage] = kNone;
  }

  void follow(const MemoryEvent& event, std::size_t index) {
    if (inside()) name_instant(event.op);
    if (event.kind != MemoryEvent::Kind::birth && inside()) unmake(event.storage);
    if (event.kind != MemoryEvent::Kind::death) taken_by_[event.storage] = index;
    size_[event.storage] = event.kind == MemoryEvent::Kind::death ? 0 : event.bytes;
    if (event.kind != MemoryEvent::Kind::death && inside()) make(event.storage);
    if (inside()) note_instants(event.op);
  }

  void name_instant(std::uint32_t op) {
    if (op == op_ && phase_ == named_phase_) return;
    op_ = op;
    named_phase_ = phase_;
    if (op == 0) return builder_.at("load", "", phase_, Stream::compute);
    const eager::OpEvent& running = recorder_.ops()[op - 1];
    builder_.at(running.name, eager::unit_name(running.where), phase_, running.stream);
  }

  bool in_phase(std::uint32_t instant, std::string_view end) const { return instant < out_.instants.size() && std::string_view(out_.instants[instant].phase).ends_with(end); }

  /// Of a site that needs one; empty: of none. Sites are literals, so that each is looked up once.
  std::string_view known_reason(const char* site) {
    const auto [at, is_new] = reasons_.try_emplace(site);
    if (!is_new) return at->second;
    if (const auto known = reasons().find(site); known != reasons().end()) at->second = known->second;
    return at->second;
  }

  std::string_view why(const TimelineTensor& tensor) const {
    if (!tensor.why.empty()) return tensor.why;
    switch (tensor.category) {
      case Category::parameters: return "parameters";
      case Category::gradients: return "a gradient";
      case Category::optimizer: return "optimizer state";
      case Category::gathered_parameters: return "gathered parameters";
      case Category::communication_buffers: return "buffer of a collective";
      default: break;
    }
    if (in_phase(tensor.birth, "forward") && in_phase(tensor.death, "backward")) return "saved by autograd for backward";
    if (in_phase(tensor.birth, "backward") && in_phase(tensor.death, "backward")) return "gradient or temporary of backward";
    return "temporary";
  }

  Timeline& out_;
  const eager::Recorder& recorder_;
  Span span_;
  Builder builder_;
  struct Seen {
    bool shown = false;
    std::uint32_t instant = 0, from = 0;  ///< what has come and is no tensor is seen from the second on
  };
  std::vector<Seen> seen_;  ///< by event
  /// From the first work of an op on a stream to the last; an op may have many works and many instants.
  struct OpTime {
    std::optional<std::uint32_t> op = {};
    std::size_t instant = 0, first = 0;
    SimTime start = {}, end = {};
  };
  std::array<OpTime, kStreamCount> op_times_{};  ///< of each stream's latest
  std::size_t followed_ = 0;
  std::vector<std::size_t> asked_by_;  ///< by tensor: the event that gave it its size
  std::vector<std::size_t> made_;      ///< by storage: its tensor
  std::vector<std::int64_t> size_;     ///< by storage
  std::vector<std::size_t> taken_by_;  ///< by storage: the event that gave it its size
  std::unordered_map<const char*, std::string_view> reasons_;
  std::size_t next_segments_ = 0;
  std::map<std::pair<Bytes, Bytes>, std::size_t> segments_;  ///< that are there, by address and size
  std::vector<const eager::RepeatedStretch*> repeated_;  ///< by Timeline::repeats
  std::vector<std::uint32_t> ops_;     ///< by instant
  std::size_t begun_ = 0;              ///< instants, when the latest work was issued
  std::vector<int> step_of_;           ///< by instant
  int steps_ = 0, step_ = 0;
  std::uint32_t op_ = std::numeric_limits<std::uint32_t>::max();
  std::string phase_, named_phase_;
};

// ---- our own engine ----

class CompiledTimeline {
 public:
  CompiledTimeline(Timeline& out, const Program& program) : out_(out), program_(program), builder_(out) {}

  void build(Span span) {
    const bool shows_init = span == Span::whole || span == Span::init;
    if (!shows_init) builder_.at("what is there before", "", "before", Stream::compute);
    follow(program_.init, shows_init, "");
    if (span != Span::init) follow(program_.step, true, span == Span::first ? "first." : "steady.");
    builder_.finish();
  }

  /// The same with the clock of each instruction of the step, and the arena that is there from the start.
  void build(Span span, Bytes arena) {
    for (const TraceEvent& event : walk(program_).trace.events)
      if (event.kind == TraceEvent::Kind::run) clock_.emplace_back(event.start, event.end);
    build(span);
    for (TimelineInstant& instant : out_.instants) instant.taken = arena;
  }

 private:
  void follow(const std::vector<Node>& nodes, bool shown, const char* step) {
    for_each_instruction(program_, nodes, [&](const Fragment& fragment, std::uint16_t, std::size_t index, std::int32_t block, std::int64_t, bool) {
      const Instruction& instruction = fragment.instructions[index];
      const std::string phase = fragment.phase == Phase::init ? "init" : step + std::string(name_of(fragment.phase));
      if (shown) builder_.at(fmt::format("{} {}", fragment.name, name_of(instruction.op)), eager::unit_name({fragment.unit, block}), phase, instruction.stream);
      if (shown && index_ < clock_.size() && fragment.phase != Phase::init) builder_.timed(clock_[index_].first, clock_[index_].second);
      ++index_;
      for (std::size_t b = instruction.births_begin; b < instruction.births_end; ++b) birth(fragment.births[b], block);
      if (instruction.scratch_bytes > Bytes() && shown) {
        const std::size_t scratch = builder_.birth({.name = fmt::format("scratch of {}", name_of(instruction.op)), .category = Category::scratch, .unit = eager::unit_name({fragment.unit, block}), .stream = instruction.stream,
                                                    .bytes = instruction.scratch_bytes, .birth = 0, .death = 0, .why = "while the kernel runs"});
        builder_.death(scratch);
      }
      for (std::size_t d = instruction.deaths_begin; d < instruction.deaths_end; ++d) death(fragment.deaths[d], block);
    });
  }

  static std::pair<StorageId, std::int64_t> key(const Storage& storage, InstanceRef ref, std::int32_t block) { return {ref.storage, storage.per_block ? block + ref.delta : 0}; }

  void birth(InstanceRef ref, std::int32_t block) {
    const Storage& storage = program_.storages[ref.storage];
    const auto at = key(storage, ref, block);
    alive_[at] = builder_.birth({.name = std::string(storage.name), .category = storage.category, .unit = eager::unit_name({storage.per_block ? UnitKind::block : storage.unit, static_cast<std::int32_t>(at.second)}),
                                 .stream = Stream::compute, .bytes = storage.bytes, .birth = 0, .death = 0, .why = storage.why});
  }

  void death(InstanceRef ref, std::int32_t block) {
    const auto found = alive_.find(key(program_.storages[ref.storage], ref, block));
    if (found == alive_.end()) return;
    builder_.death(found->second);
    alive_.erase(found);
  }

  Timeline& out_;
  const Program& program_;
  Builder builder_;
  std::vector<std::pair<SimTime, SimTime>> clock_;  ///< by instruction in issue order
  std::size_t index_ = 0;
  std::map<std::pair<StorageId, std::int64_t>, std::size_t> alive_;
};

}  // namespace

std::size_t Timeline::peak(const std::string& phase) const {
  std::size_t best = 0;
  bool found = false;
  for (std::size_t i = 0; i < instants.size(); ++i) {
    if (!instants[i].phase.starts_with(phase)) continue;
    if (!found || instants[i].live > instants[best].live) best = i;
    found = true;
  }
  return best;
}

std::vector<std::size_t> Timeline::live_at(std::size_t instant) const {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (tensors[i].birth <= instant && instant <= tensors[i].death) out.push_back(i);
  std::stable_sort(out.begin(), out.end(), [&](std::size_t a, std::size_t b) { return tensors[a].bytes > tensors[b].bytes; });
  return out;
}

std::array<std::int64_t, kCategoryCount> Timeline::by_category(std::size_t instant) const {
  std::array<std::int64_t, kCategoryCount> out{};
  for (const std::size_t i : live_at(instant)) out[static_cast<std::size_t>(tensors[i].category)] += tensors[i].bytes.value();
  return out;
}

namespace {

/// Of the step whose times the span's instants have: the first for Span::first, else the last.
eager::StepClock clock_of(const EmulatedRun& run, Span span) {
  eager::StepClock out;
  eager::step_time(run.recorder, run.question.cluster, step_conditions(run.question), span == Span::first ? "first" : "steady", &out);
  return out;
}

Timeline empty_timeline(const EmulatedRun& run) {
  Timeline out;
  out.question = run.question;
  out.capacity = run.question.cluster.device.capacity_bytes;
  out.usable = out.capacity - outside_of_emulated(run.question).total();
  return out;
}

/// The steady step where it comes up to the peak of the whole run.
Span span_of(bool steady_comes_up, std::string_view phase_of_peak) { return steady_comes_up ? Span::steady : phase_of_peak.starts_with("first") ? Span::first : Span::whole; }

/// span_of_peak() before there is a Prediction.
Span span_of_peak(const std::vector<eager::PhasePeak>& phases) {
  std::int64_t whole = 0, steady = 0;
  std::string_view of_peak;
  for (const eager::PhasePeak& phase : phases) {
    const std::int64_t bytes = phase.bytes[static_cast<std::size_t>(eager::Place::device)];
    if (bytes > whole) whole = bytes, of_peak = phase.name;
    if (phase.name.starts_with("steady")) steady = std::max(steady, bytes);
  }
  return span_of(steady == whole, of_peak);
}

}  // namespace

std::string size_formula(Bytes bytes, const Question& question) {
  const Model& m = question.job.model;
  const std::int64_t T = question.tokens_per_micro_batch() / question.job.sequence_parallel, ranks = question.shard_group();
  const std::int64_t parameters = parameter_elems(m);
  struct Product {
    const char* letters;
    std::int64_t elems;
  };
  const Product products[] = {{"Ψ", parameters}, {"Ψ/n", (parameters + ranks - 1) / ranks}, {"T·V", T * m.vocab_size}, {"T·F", T * m.intermediate_size}, {"T·H", T * m.hidden_size},
                              {"T·h·D", T * m.query_dim()}, {"T·k·D", T * m.kv_dim()}, {"T·h", T * m.num_heads}, {"T", T}, {"V·H", m.vocab_size * m.hidden_size}, {"V·H/n", m.vocab_size * m.hidden_size / ranks},
                              {"H·F", m.hidden_size * m.intermediate_size}, {"H·h·D", m.hidden_size * m.query_dim()}, {"H·k·D", m.hidden_size * m.kv_dim()}, {"H", m.hidden_size},
                              {"bucket", question.plan.deepspeed.reduce_bucket_size}};
  for (const Product& product : products)
    for (const std::int64_t size : {2, 4, 1, 8})
      if (bytes.value() == size * product.elems) return fmt::format("{}·{}", size, product.letters);
  constexpr double kPadding = 1e-3;
  for (const Product& product : products)
    for (const std::int64_t size : {2, 4}) {
      const double ratio = static_cast<double>(bytes.value()) / (static_cast<double>(size) * static_cast<double>(product.elems));
      if (product.elems > 1'000'000 && ratio > 1 - kPadding && ratio < 1 + kPadding) return fmt::format("≈ {}·{}", size, product.letters);
    }
  return "";
}

std::string instant_line(const Timeline& t, std::size_t instant) {
  if (instant >= t.instants.size()) return "stays";
  const TimelineInstant& i = t.instants[instant];
  return i.phase == "before" ? "before this step" : fmt::format("{}: {}{}{}", i.phase, i.name, i.unit.empty() ? "" : " ", i.unit);
}

namespace {

Timeline any_timeline(const Question& question, Span span, EmulatedDevice device, Detail detail) {
  Timeline out;
  out.question = question;
  out.capacity = question.cluster.device.capacity_bytes;
  if (question.plan.engine == Engine::zeroplan) {
    out.usable = out.capacity - outside_of(question.cluster).total();
    Compiler compiler;
    Pricer pricer;
    const Program program = compiler.compile(question);
    CompiledTimeline timeline(out, program);
    if (detail == Detail::device) timeline.build(span, answer(question, compiler, pricer, true).arena);
    else timeline.build(span);
    return out;
  }
  const EmulatedRun run(question, {.device = device, .every_step = span == Span::whole});
  out = empty_timeline(run);
  EmulatedTimeline timeline(out, run.recorder, span);
  timeline.build();
  if (detail == Detail::tensors) return out;
  timeline.add_device(trace_device(run, detail == Detail::addresses));
  if (span != Span::init) timeline.add_times(clock_of(run, span));
  return out;
}

PredictionAndTimeline emulated_with_timeline(const Question& question, std::optional<Span> asked_span) {
  const EmulatedRun run(question, {.every_step = asked_span == Span::whole});
  const Span span = asked_span.value_or(span_of_peak(run.peaks.phases));
  if (span == Span::whole && !asked_span) return emulated_with_timeline(question, span);  // shows every step
  Timeline out = empty_timeline(run);
  EmulatedTimeline timeline(out, run.recorder, span);
  std::future<void> built = std::async(std::launch::async, [&] { timeline.build(); });
  DeviceTrace trace;
  eager::StepClock clock;
  Prediction prediction = predict(run, &trace, &clock);
  built.get();
  timeline.add_device(trace);
  if (span == Span::first) clock = clock_of(run, span);
  if (span != Span::init) timeline.add_times(clock);
  return {std::move(prediction), std::move(out)};
}

}  // namespace

Span span_of_peak(const Prediction& prediction) { return span_of(prediction.steady.requested == prediction.whole.requested, prediction.peak.phase); }

Timeline timeline_of(const Question& question, Span span, EmulatedDevice device, Detail detail) {
  return within_int64(question, [&] { return any_timeline(question, span, device, detail); });
}

PredictionAndTimeline predict_with_timeline(const Question& question, std::optional<Span> span) {
  if (question.plan.engine != Engine::zeroplan) return within_int64(question, [&] { return emulated_with_timeline(question, span); });
  Prediction prediction = predict(question);
  Timeline timeline = timeline_of(question, span.value_or(span_of_peak(prediction)), EmulatedDevice::gpu, Detail::device);
  return {std::move(prediction), std::move(timeline)};
}

}  // namespace zeroplan
