#include <algorithm>
#include <cassert>
#include <limits>

#include "planner/price/price.h"

namespace zeroplan {
namespace {

constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::min() / 4;  // an event not recorded yet: no wait

constexpr std::uint8_t slot_of(Stream stream) { return static_cast<std::uint8_t>(stream); }
constexpr std::uint8_t slot_of_event(int event) { return static_cast<std::uint8_t>(kStreamCount + event); }
constexpr std::uint8_t slot_of(const Wait& wait) { return wait.kind == Wait::Kind::tail ? slot_of(wait.stream) : slot_of_event(wait.event); }
constexpr std::uint32_t mask_of(int slot) { return 1u << slot; }
constexpr std::uint32_t mask_of_events(int count) { return (mask_of(count) - 1) << kStreamCount; }

}  // namespace

// Runs of instructions on one stream with no waits or records between them are one step: nobody can see between them.
const Pricer::Timed& Pricer::timed(const Program& program, std::uint16_t index) {
  const auto& fragment = program.fragments[index];
  auto [it, fresh] = timed_.try_emplace(fragment.get());
  Timed& timed = it->second;
  if (!fresh) return timed;
  timed.fragment = fragment;
  const OpContext context = op_context(program.question);
  for (const Instruction& instruction : fragment->instructions) {
    const auto operands = fragment->operands_of(instruction);
    const SimTime duration = duration_of(instruction, operands, context, program.question.cluster);
    timed.flops += work_of(instruction.op, operands, context).flops;
    const bool waits = instruction.waits_end > instruction.waits_begin;
    if (!timed.steps.empty() && timed.steps.back().stream == slot_of(instruction.stream) && timed.steps.back().record == kNoEvent && !waits) {
      timed.steps.back().duration += duration;
    } else {
      timed.steps.push_back({.duration = duration, .stream = slot_of(instruction.stream)});
    }
    TimeStep& step = timed.steps.back();
    timed.writes |= mask_of(step.stream);
    for (std::size_t w = instruction.waits_begin; w < instruction.waits_end; ++w) {
      assert(step.wait_count < step.waits.size());
      step.waits[step.wait_count++] = slot_of(fragment->waits[w]);
      timed.reads |= mask_of(slot_of(fragment->waits[w]));
    }
    if (instruction.record == kNoEvent) continue;
    step.record = slot_of_event(instruction.record);
    timed.writes |= mask_of(step.record);
  }
  return timed;
}

void Pricer::run(const Program& program, std::size_t at, State& state, std::uint32_t& reads, std::uint32_t& writes, double& flops) {
  const Node& node = program.step[at];
  if (node.kind == Node::Kind::leaf) {
    const Timed& fragment = *by_fragment_[node.fragment];
    for (const TimeStep& step : fragment.steps) {
      std::int64_t start = state[step.stream];
      for (int w = 0; w < step.wait_count; ++w) start = std::max(start, state[step.waits[w]]);
      const std::int64_t end = start + step.duration.value();
      state[step.stream] = end;
      if (step.record != kNoEvent) state[step.record] = end;
    }
    reads |= fragment.reads;
    writes |= fragment.writes;
    if (fragment.fragment->rotates_events) {
      for (int e = 0; e + 1 < program.event_registers; ++e) state[slot_of_event(e)] = state[slot_of_event(e + 1)];
      reads |= mask_of_events(program.event_registers);
      writes |= mask_of_events(program.event_registers);
    }
    flops += fragment.flops;
    return;
  }
  const std::int64_t times = node.kind == Node::Kind::repeat ? node.count : 1;
  double body_flops = 0;
  for (std::int64_t k = 0; k < times; ++k) {
    const State before = state;
    std::uint32_t body_reads = 0, body_writes = 0;
    body_flops = 0;
    for (std::size_t child = at + 1; child < at + node.size; child += program.step[child].size) run(program, child, state, body_reads, body_writes, body_flops);
    reads |= body_reads;
    writes |= body_writes;
    if (k + 1 == times || (body_reads & ~body_writes) != 0) continue;
    // Steady: every component the body touches moved by the same amount, so every further iteration moves it by that amount.
    std::int64_t moved = kNever;
    bool steady = true;
    for (int slot = 0; slot < kMaxState && steady; ++slot) {
      if (!(body_writes & mask_of(slot)) || (state[slot] <= kNever / 2 && before[slot] <= kNever / 2)) continue;
      if (moved == kNever) moved = state[slot] - before[slot];
      steady = state[slot] - before[slot] == moved;
    }
    if (!steady || moved == kNever) continue;
    for (int slot = 0; slot < kMaxState; ++slot)
      if ((body_writes & mask_of(slot)) && state[slot] > kNever / 2) state[slot] += checked_multiply(moved, times - 1 - k);
    break;
  }
  flops += body_flops * static_cast<double>(times);
}

Estimate Pricer::price(const Program& program) {
  if (!(cluster_ == program.question.cluster)) {
    timed_.clear();
    cluster_ = program.question.cluster;
  }
  by_fragment_.clear();
  for (std::uint16_t i = 0; i < program.fragments.size(); ++i) by_fragment_.push_back(&timed(program, i));

  Estimate out;
  out.memory = fold_memory(program);
  out.traffic = fold_traffic(program);
  State state;
  state.fill(kNever);
  for (int stream = 0; stream < kStreamCount; ++stream) state[stream] = 0;
  std::uint32_t reads = 0, writes = 0;
  for (std::size_t at = 0; at < program.step.size(); at += program.step[at].size) run(program, at, state, reads, writes, out.step_flops);
  out.step_time = SimTime(*std::max_element(state.begin(), state.begin() + kStreamCount));
  const Question& q = program.question;
  out.model_flops = model_flops_per_token(q.job.model, q.job.seq) * static_cast<double>(q.tokens_per_micro_batch()) * static_cast<double>(q.plan.accumulate);
  return out;
}

}  // namespace zeroplan
