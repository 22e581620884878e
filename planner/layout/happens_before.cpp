#include "planner/layout/happens_before.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <vector>

namespace zeroplan {
namespace {

/// Per stream: how many of its instructions are known to be complete.
using Clock = std::array<std::int64_t, kStreamCount>;
void join(Clock& into, const Clock& other) {
  for (int s = 0; s < kStreamCount; ++s) into[s] = std::max(into[s], other[s]);
}

class Checker {
 public:
  Checker(const Program& program, const LinearProgram& linear, const Layout& layout)
      : program_(program), linear_(linear), layout_(layout), events_(static_cast<std::size_t>(program.event_registers)) {}

  std::optional<std::string> check() {
    go(0, linear_.step_begin);
    for (int step = 0; step < 2 && !race_; ++step) {
      std::size_t at = linear_.step_begin;
      for (const LinearProgram::Loop& loop : linear_.loops) {
        go(at, loop.begin);
        go(loop.begin, loop.end);
        go(loop.begin, loop.end);
        at = loop.end;
      }
      go(at, linear_.instructions.size());
    }
    return race_;
  }

 private:
  struct Use {
    std::int64_t order = 0;  ///< position on its stream, from 1; 0: none
    std::size_t at = 0;      ///< linear instruction, for the message
  };
  struct Region {
    std::int64_t offset = 0, end = 0;
    StorageId storage = 0;
    std::array<Use, kStreamCount> last{};
    Use last_write;
    Stream last_write_stream = Stream::compute;
  };
  using Key = std::pair<StorageId, std::int32_t>;

  void go(std::size_t from, std::size_t to) {
    for (std::size_t at = from; at < to && !race_; ++at) step(at);
  }

  void step(std::size_t at) {
    const UnrolledInstruction& u = linear_.instructions[at];
    const Fragment& fragment = *program_.fragments[u.fragment];
    const Instruction& i = fragment.instructions[u.instruction];
    const auto s = static_cast<std::size_t>(i.stream);
    Clock& clock = known_[s];  // what is complete when the next instruction of this stream starts
    for (std::size_t w = i.waits_begin; w < i.waits_end; ++w) {
      const Wait& wait = fragment.waits[w];
      join(clock, wait.kind == Wait::Kind::tail ? after_[static_cast<std::size_t>(wait.stream)] : events_[wait.event]);
    }
    const Use use{++issued_[s], at};
    const auto key_of = [&](InstanceRef ref) { return Key{ref.storage, program_.storages[ref.storage].per_block ? u.block + ref.delta : 0}; };

    std::size_t birth = layout_.first_birth[at];
    for (std::size_t b = i.births_begin; b < i.births_end; ++b, ++birth) {
      const Key key = key_of(fragment.births[b]);
      const std::int64_t offset = layout_.birth_offset[birth];
      Region region{offset, offset + program_.storages[key.first].bytes.value(), key.first, {}, {}, i.stream};
      take_addresses(region, clock, at);
      alive_[key] = region;
      touch(alive_[key], true, use, i.stream, clock, at);
    }
    for (const Operand& operand : fragment.operands_of(i)) {
      const auto it = alive_.find(key_of(operand.instance));
      if (it == alive_.end()) return fail(at, fmt::format("uses {} which is not alive", program_.storages[operand.instance.storage].name));
      touch(it->second, operand.access != Access::read, use, i.stream, clock, at);
    }
    if (layout_.scratch_offset[at] >= 0) {
      Region region{layout_.scratch_offset[at], layout_.scratch_offset[at] + i.scratch_bytes.value(), kScratchStorage, {}, {}, i.stream};
      take_addresses(region, clock, at);
      region.last[s] = use;
      retire(region);
    }
    after_[s] = clock;
    after_[s][s] = use.order;
    clock[s] = use.order;
    if (i.record != kNoEvent) events_[i.record] = after_[s];
    for (std::size_t d = i.deaths_begin; d < i.deaths_end; ++d) {
      const auto it = alive_.find(key_of(fragment.deaths[d]));
      if (it == alive_.end()) return fail(at, fmt::format("ends {} which is not alive", program_.storages[fragment.deaths[d].storage].name));
      retire(it->second);
      alive_.erase(it);
    }
    if (u.last_of_fragment && fragment.rotates_events && !events_.empty()) std::rotate(events_.begin(), events_.begin() + 1, events_.end());
  }

  void touch(Region& region, bool writes, Use use, Stream stream, const Clock& clock, std::size_t at) {
    const auto s = static_cast<std::size_t>(stream);
    for (std::size_t t = 0; t < kStreamCount; ++t) {
      if (t == s) continue;
      const bool conflicts = writes ? region.last[t].order > clock[t]
                                    : region.last_write.order > 0 && static_cast<std::size_t>(region.last_write_stream) == t && region.last_write.order > clock[t];
      if (conflicts) return fail(at, fmt::format("{} {} without waiting for {}", writes ? "writes" : "reads", name_of_storage(region), describe(region.last[t].at)));
    }
    region.last[s] = use;
    if (writes) {
      region.last_write = use;
      region.last_write_stream = stream;
    }
  }

  void take_addresses(const Region& region, const Clock& clock, std::size_t at) {
    // Alive regions must not overlap at all; dead ones must be known to be done with.
    for (const auto& [key, other] : alive_)
      if (other.offset < region.end && region.offset < other.end)
        return fail(at, fmt::format("puts {} at addresses of {} which is alive", name_of_storage(region), name_of_storage(other)));
    auto it = dead_.lower_bound(region.offset);
    if (it != dead_.begin() && std::prev(it)->second.end > region.offset) --it;
    while (it != dead_.end() && it->second.offset < region.end) {
      const Region old = it->second;
      for (std::size_t t = 0; t < kStreamCount; ++t)
        if (old.last[t].order > clock[t])
          return fail(at, fmt::format("puts {} at addresses of {} without waiting for its last use in {}", name_of_storage(region), name_of_storage(old), describe(old.last[t].at)));
      it = dead_.erase(it);
      // What sticks out on either side stays as it was.
      Region part = old;
      if (old.offset < region.offset) { part.end = region.offset; dead_[part.offset] = part; }
      part = old;
      if (old.end > region.end) { part.offset = region.end; dead_[part.offset] = part; }
    }
  }

  void retire(const Region& region) { if (region.end > region.offset) dead_[region.offset] = region; }

  std::string describe(std::size_t at) const {
    const UnrolledInstruction& u = linear_.instructions[at];
    const Fragment& fragment = *program_.fragments[u.fragment];
    return fmt::format("{}[{}] instruction {} ({} stream)", fragment.name, u.block, u.instruction, name_of(fragment.instructions[u.instruction].stream));
  }
  std::string_view name_of_storage(const Region& region) const { return region.storage == kScratchStorage ? std::string_view("scratch") : program_.storages[region.storage].name; }
  void fail(std::size_t at, const std::string& what) { if (!race_) race_ = describe(at) + " " + what; }

  static constexpr StorageId kScratchStorage = 0xffff;
  const Program& program_;
  const LinearProgram& linear_;
  const Layout& layout_;
  std::array<Clock, kStreamCount> known_{}, after_{};
  std::array<std::int64_t, kStreamCount> issued_{};
  std::vector<Clock> events_;
  std::map<Key, Region> alive_;
  std::map<std::int64_t, Region> dead_;  // by offset, disjoint
  std::optional<std::string> race_;
};

}  // namespace

std::optional<std::string> find_race(const Program& program, const LinearProgram& linear, const Layout& layout) { return Checker(program, linear, layout).check(); }

}  // namespace zeroplan
