#include "executor/interpreter.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <map>

#include "planner/engines/zeroplan_storages.h"
#include "planner/ops/op_table.h"

namespace zeroplan {

bool StepResult::finite() const { return std::isfinite(loss) && std::isfinite(gradient_norm); }

Interpreter::Interpreter(const Program& program, const LinearProgram& linear, const Layout& layout, void* arena, Collectives& collectives, Batches& batches,
                         std::uint64_t seed)
    : program_(program), linear_(linear), layout_(layout), arena_(static_cast<char*>(arena)), collectives_(collectives), batches_(batches), seed_(seed) {
  for (UnitKind unit : {UnitKind::embedding, UnitKind::block, UnitKind::head})
    parameters_[static_cast<std::size_t>(unit)] = unit_parameters(program.question.job.model, unit);
  prepare();
}

// Goes through the Program once and turns (storage, instance, offset) into pointers.
void Interpreter::prepare() {
  std::map<std::pair<StorageId, std::int32_t>, std::int64_t> address;
  prepared_.reserve(linear_.instructions.size());
  for (std::size_t at = 0; at < linear_.instructions.size(); ++at) {
    const UnrolledInstruction& u = linear_.instructions[at];
    const Fragment& fragment = *program_.fragments[u.fragment];
    const Instruction& instruction = fragment.instructions[u.instruction];
    const auto key = [&](InstanceRef ref) { return std::pair{ref.storage, program_.storages[ref.storage].per_block ? u.block + ref.delta : 0}; };
    std::size_t birth = layout_.first_birth[at];
    for (std::size_t b = instruction.births_begin; b < instruction.births_end; ++b) address[key(fragment.births[b])] = layout_.birth_offset[birth++];

    Prepared prepared{&fragment, &instruction, u.fragment, u.block, static_cast<std::uint32_t>(bound_.size()), 0, nullptr};
    for (const Operand& o : fragment.operands_of(instruction)) {
      assert(o.row_stride == o.columns && "kernels and proofs rely on operands that are contiguous");
      char* data = arena_ + address.at(key(o.instance)) + o.offset_bytes + u.counter * o.offset_step_bytes;
      bound_.push_back({data, o.rows, o.columns, o.row_stride, o.dtype, o.access});
      if (o.instance.storage == ours::kScalars) scalars_offset_ = address.at(key(o.instance));
    }
    prepared.count = static_cast<std::uint32_t>(bound_.size()) - prepared.first;
    if (layout_.scratch_offset[at] >= 0) prepared.scratch = arena_ + layout_.scratch_offset[at];
    prepared_.push_back(prepared);
  }
}

void Interpreter::run_init() {
  step_ = 0;
  run_range(0, linear_.step_begin);
}

StepResult Interpreter::run_step(std::int64_t step, double learning_rate) {
  step_ = step;
  learning_rate_ = learning_rate;
  micro_batch_ = 0;
  if (random_order && dependencies_.empty()) dependencies_ = dependencies();
  const auto segment = [&](std::size_t begin, std::size_t end) { random_order ? run_in_random_order(begin, end) : run_range(begin, end); };
  std::size_t at = linear_.step_begin;
  for (const LinearProgram::Loop& loop : linear_.loops) {
    segment(at, loop.begin);
    for (std::int64_t k = 0; k < loop.count; ++k) segment(loop.begin, loop.end);
    at = loop.end;
  }
  segment(at, linear_.instructions.size());
  const Question& q = program_.question;
  const double tokens = static_cast<double>(q.tokens_per_micro_batch()) * static_cast<double>(q.plan.accumulate) * static_cast<double>(q.cluster.world_size());
  const auto* scalars = reinterpret_cast<const double*>((result_memory ? result_memory : arena_) + scalars_offset_);
  return {scalars[ours::kLossSum] / tokens, std::sqrt(scalars[ours::kNormSquared])};
}

void Interpreter::run_range(std::size_t begin, std::size_t end) {
  for (std::size_t at = begin; at < end; ++at) {
    account(at);
    run_one(at);
  }
}

void Interpreter::run_one(std::size_t at) {
  const Prepared& prepared = prepared_[at];
  if (progress) progress(step_, static_cast<std::int64_t>(at), name_of(prepared.instruction->op));
  if (observer) observer->before(at);
  Dispatch{*this}(prepared);
  if (observer) observer->after(at);
}

// What was born, used as scratch and died, as this run did it.
void Interpreter::account(std::size_t at) {
  if (!trace) return;
  const Prepared& prepared = prepared_[at];
  const Fragment& fragment = *prepared.fragment;
  const Instruction& instruction = *prepared.instruction;
  TraceEvent event;
  event.stream = instruction.stream;
  event.fragment = prepared.fragment_index;
  event.instruction = static_cast<std::uint16_t>(&instruction - fragment.instructions.data());
  event.block = prepared.block;
  event.index = issued_++;
  const auto change = [&](TraceEvent::Kind kind, InstanceRef ref) {
    const Storage& storage = program_.storages[ref.storage];
    live_bytes_ += (kind == TraceEvent::Kind::birth ? 1 : -1) * storage.bytes.value();
    event.kind = kind;
    event.storage = ref.storage;
    event.instance = storage.per_block ? prepared.block + ref.delta : 0;
    event.bytes = storage.bytes.value();
    event.live_bytes = live_bytes_;
    trace->events.push_back(event);
  };
  for (std::size_t b = instruction.births_begin; b < instruction.births_end; ++b) change(TraceEvent::Kind::birth, fragment.births[b]);
  const Bytes here = Bytes(live_bytes_) + instruction.scratch_bytes;
  if (here > trace->peak_live) {
    trace->peak_live = here;
    trace->peak_index = event.index;
  }
  if (prepared.scratch) {
    event.kind = TraceEvent::Kind::scratch;
    event.storage = 0;
    event.instance = 0;
    event.bytes = instruction.scratch_bytes.value();
    event.live_bytes = here.value();
    trace->events.push_back(event);
  }
  for (std::size_t d = instruction.deaths_begin; d < instruction.deaths_end; ++d) change(TraceEvent::Kind::death, fragment.deaths[d]);
}

// The instructions that each must come after, besides those before it on its own stream: its waits, resolved.
std::vector<std::vector<std::uint32_t>> Interpreter::dependencies() const {
  constexpr std::uint32_t none = 0xffffffff;
  std::vector<std::vector<std::uint32_t>> out(prepared_.size());
  std::array<std::uint32_t, kStreamCount> tail;
  tail.fill(none);
  std::vector<std::uint32_t> events(static_cast<std::size_t>(program_.event_registers), none);
  for (std::uint32_t at = 0; at < prepared_.size(); ++at) {
    const Fragment& fragment = *prepared_[at].fragment;
    const Instruction& instruction = *prepared_[at].instruction;
    for (std::size_t w = instruction.waits_begin; w < instruction.waits_end; ++w) {
      const Wait& wait = fragment.waits[w];
      const std::uint32_t on = wait.kind == Wait::Kind::tail ? tail[static_cast<std::size_t>(wait.stream)] : events[wait.event];
      if (on != none) out[at].push_back(on);
    }
    tail[static_cast<std::size_t>(instruction.stream)] = at;
    if (instruction.record != kNoEvent) events[instruction.record] = at;
    if (linear_.instructions[at].last_of_fragment && fragment.rotates_events && !events.empty()) std::rotate(events.begin(), events.begin() + 1, events.end());
  }
  return out;
}

// Each stream is a queue in issue order; any stream whose next instruction has its waits fulfilled may go on. Waits reach back into earlier segments only
// to what has run.
void Interpreter::run_in_random_order(std::size_t begin, std::size_t end) {
  std::array<std::vector<std::size_t>, kStreamCount> queue;
  for (std::size_t at = end; at-- > begin;) queue[static_cast<std::size_t>(prepared_[at].instruction->stream)].push_back(at);
  std::vector<bool> done(end - begin, false);
  const auto ready = [&](std::size_t at) {
    for (std::uint32_t on : dependencies_[at])
      if (on >= begin && on < end && !done[on - begin]) return false;
    return true;
  };
  for (std::size_t left = end - begin; left > 0; --left) {
    std::array<std::size_t, kStreamCount> choices{};
    std::size_t count = 0;
    for (std::size_t s = 0; s < kStreamCount; ++s)
      if (!queue[s].empty() && ready(queue[s].back())) choices[count++] = s;
    assert(count > 0 && "waits form a cycle");
    auto& chosen = queue[choices[(*random_order)() % count]];
    const std::size_t at = chosen.back();
    chosen.pop_back();
    run_one(at);
    done[at - begin] = true;
  }
}

std::pair<const void*, std::int64_t> Interpreter::parameters_of(UnitKind unit, std::int64_t block) const {
  const StorageId id = ours::of(ours::kParameters, unit);
  for (std::size_t at = 0; at < linear_.step_begin; ++at) {
    const Prepared& p = prepared_[at];
    std::size_t birth = layout_.first_birth[at];
    for (std::size_t b = p.instruction->births_begin; b < p.instruction->births_end; ++b, ++birth)
      if (p.fragment->births[b].storage == id && (!program_.storages[id].per_block || p.block + p.fragment->births[b].delta == block))
        return {birth_address(birth), program_.storages[id].bytes.value()};
  }
  return {nullptr, 0};
}

}  // namespace zeroplan
