#include "planner/engines/fragment_builder.h"

#include <algorithm>
#include <cassert>

namespace zeroplan {

FragmentBuilder::FragmentBuilder(std::string_view name, Phase phase, UnitKind unit, SharedList<Storage> storages, const OpContext& context)
    : fragment_(std::make_shared<Fragment>()), storages_(std::move(storages)), context_(context) {
  fragment_->name = name;
  fragment_->phase = phase;
  fragment_->unit = unit;
  fragment_->instructions.reserve(32);
  fragment_->operands.reserve(128);
  lives_.reserve(32);
}

void FragmentBuilder::lives(InstanceRef instance, Lifetime lifetime) {
  for (Life& life : lives_)
    if (life.instance == instance) {
      life.lifetime = lifetime;
      return;
    }
  lives_.push_back({instance, lifetime});
}

void FragmentBuilder::touch(InstanceRef instance, int at) {
  for (Life& life : lives_)
    if (life.instance == instance) {
      if (life.first < 0) life.first = at;
      life.last = at;
      return;
    }
}

void FragmentBuilder::wait(Stream stream, Wait wait) { pending_waits_.emplace_back(stream, wait); }

void FragmentBuilder::die_at_next(InstanceRef instance) {
  extra_deaths_.emplace_back(static_cast<int>(fragment_->instructions.size()), instance);
}

void FragmentBuilder::born_at_next(InstanceRef instance) {
  extra_births_.emplace_back(static_cast<int>(fragment_->instructions.size()), instance);
}

void FragmentBuilder::emit(Op op, std::initializer_list<Operand> operands, EmitOptions options) {
  Fragment& fragment = *fragment_;
  const int at = static_cast<int>(fragment.instructions.size());
  Instruction instruction;
  instruction.op = op;
  instruction.stream = options.stream;
  instruction.unit = fragment.unit;
  instruction.accumulate = options.accumulate;
  instruction.record = options.record;
  instruction.operands_begin = static_cast<std::uint16_t>(fragment.operands.size());
  for (const Operand& operand : operands) {
    if (operand.rows == 0) continue;  // an absent optional operand (a bias)
    fragment.operands.push_back(operand);
    touch(operand.instance, at);
  }
  instruction.operands_end = static_cast<std::uint16_t>(fragment.operands.size());
  instruction.waits_begin = static_cast<std::uint16_t>(fragment.waits.size());
  std::erase_if(pending_waits_, [&](const auto& pending) {
    if (pending.first != options.stream) return false;
    fragment.waits.push_back(pending.second);
    return true;
  });
  instruction.waits_end = static_cast<std::uint16_t>(fragment.waits.size());
  instruction.scratch_bytes = scratch_bytes(op, fragment.operands_of(instruction), context_);
  fragment.instructions.push_back(instruction);
}

std::shared_ptr<const Fragment> FragmentBuilder::finish(bool rotates_events) {
  assert(pending_waits_.empty() && "a wait was asked for on a stream that got no instruction");
  Fragment& fragment = *fragment_;
  fragment.rotates_events = rotates_events;
  for (int at = 0; at < static_cast<int>(fragment.instructions.size()); ++at) {
    Instruction& instruction = fragment.instructions[static_cast<std::size_t>(at)];
    instruction.births_begin = static_cast<std::uint16_t>(fragment.births.size());
    for (const Life& life : lives_)
      if (life.first == at && (life.lifetime == Lifetime::local || life.lifetime == Lifetime::born_here)) fragment.births.push_back(life.instance);
    for (const auto& [when, instance] : extra_births_)
      if (when == at) fragment.births.push_back(instance);
    instruction.births_end = static_cast<std::uint16_t>(fragment.births.size());
    instruction.deaths_begin = static_cast<std::uint16_t>(fragment.deaths.size());
    for (const Life& life : lives_)
      if (life.last == at && (life.lifetime == Lifetime::local || life.lifetime == Lifetime::dies_here)) fragment.deaths.push_back(life.instance);
    for (const auto& [when, instance] : extra_deaths_)
      if (when == at) fragment.deaths.push_back(instance);
    instruction.deaths_end = static_cast<std::uint16_t>(fragment.deaths.size());
  }
  sum_up();
  return fragment_;
}

// The memory and traffic of the fragment seen from outside: what price folds.
void FragmentBuilder::sum_up() {
  Fragment& fragment = *fragment_;
  FragmentMemory& memory = fragment.memory;
  Bytes live;
  std::int64_t by_category[kCategoryCount] = {};
  bool first = true;
  for (std::size_t at = 0; at < fragment.instructions.size(); ++at) {
    Instruction& instruction = fragment.instructions[at];
    for (std::size_t b = instruction.births_begin; b < instruction.births_end; ++b) {
      const Storage& storage = storages_[fragment.births[b].storage];
      instruction.born_bytes += storage.bytes;
      by_category[static_cast<int>(storage.category)] += storage.bytes.value();
    }
    live += instruction.born_bytes;
    const Bytes here = live + instruction.scratch_bytes;
    if (first || here > memory.peak) {
      memory.peak = here;
      memory.peak_instruction = static_cast<std::uint16_t>(at);
      std::copy(std::begin(by_category), std::end(by_category), std::begin(memory.peak_by_category));
      memory.peak_by_category[static_cast<int>(Category::scratch)] += instruction.scratch_bytes.value();
      first = false;
    }
    for (std::size_t d = instruction.deaths_begin; d < instruction.deaths_end; ++d) {
      const Storage& storage = storages_[fragment.deaths[d].storage];
      instruction.dead_bytes += storage.bytes;
      by_category[static_cast<int>(storage.category)] -= storage.bytes.value();
    }
    live -= instruction.dead_bytes;
    if (is_collective(instruction.op)) add_traffic(fragment.traffic, instruction.op, fragment.operands_of(instruction));
  }
  memory.net = live;
  std::copy(std::begin(by_category), std::end(by_category), std::begin(memory.net_by_category));
}

}  // namespace zeroplan
