#include "planner/layout/layout.h"

#include <algorithm>
#include <cassert>
#include <map>
#include <numeric>

namespace zeroplan {
namespace {

/// Below this the first order is taken as it is.
constexpr double kGoodEnough = 1.0005;

// Greedy placement in a given order. Placed lives are kept sorted by address, so that one pass finds the lowest gap that fits.
class Placement {
 public:
  explicit Placement(const std::vector<Life>& lives) : lives_(lives), offset_(lives.size(), -1) { placed_.reserve(lives.size()); }

  void place(std::size_t index) {
    const Life& life = lives_[index];
    std::int64_t cursor = 0;
    for (const Placed& other : placed_) {
      if (other.death < life.birth || other.birth > life.death) continue;
      if (other.offset - cursor >= life.bytes) break;
      cursor = std::max(cursor, round_up(other.end, kAddressAlignment));
    }
    offset_[index] = cursor;
    const Placed placed{cursor, cursor + life.bytes, life.birth, life.death};
    placed_.insert(std::upper_bound(placed_.begin(), placed_.end(), placed, [](const Placed& a, const Placed& b) { return a.offset < b.offset; }), placed);
    end_ = std::max(end_, placed.end);
  }
  std::int64_t end() const { return end_; }
  std::vector<std::int64_t>&& offsets() && { return std::move(offset_); }

 private:
  struct Placed {
    std::int64_t offset, end;
    std::size_t birth, death;
  };
  const std::vector<Life>& lives_;
  std::vector<std::int64_t> offset_;
  std::vector<Placed> placed_;
  std::int64_t end_ = 0;
};

std::int64_t max_live_of(const std::vector<Life>& lives, std::size_t instructions) {
  std::vector<std::int64_t> change(instructions + 1, 0);
  for (const Life& life : lives) {
    change[life.birth] += life.bytes;
    change[std::min(life.death + 1, instructions)] -= life.bytes;
  }
  std::int64_t live = 0, peak = 0;
  for (std::size_t i = 0; i < instructions; ++i) peak = std::max(peak, live += change[i]);
  return peak;
}

using Order = bool (*)(const Life&, const Life&);
bool by_size(const Life& a, const Life& b) { return a.bytes != b.bytes ? a.bytes > b.bytes : a.birth < b.birth; }
bool by_duration(const Life& a, const Life& b) {
  const std::size_t la = a.death - a.birth, lb = b.death - b.birth;
  return la != lb ? la > lb : by_size(a, b);
}
bool by_birth(const Life& a, const Life& b) { return a.birth != b.birth ? a.birth < b.birth : by_size(a, b); }
bool by_area(const Life& a, const Life& b) {
  const double aa = static_cast<double>(a.bytes) * static_cast<double>(a.death - a.birth + 1), bb = static_cast<double>(b.bytes) * static_cast<double>(b.death - b.birth + 1);
  return aa != bb ? aa > bb : by_size(a, b);
}

}  // namespace

std::vector<Life> lives_of(const Program& program, const LinearProgram& linear) {
  std::vector<Life> lives, scratch;
  std::map<std::pair<StorageId, std::int32_t>, std::size_t> open;
  const std::size_t last = linear.instructions.size() - 1;
  for (std::size_t at = 0; at < linear.instructions.size(); ++at) {
    const UnrolledInstruction& u = linear.instructions[at];
    const Fragment& fragment = *program.fragments[u.fragment];
    const Instruction& i = fragment.instructions[u.instruction];
    const auto instance = [&](InstanceRef ref) { return program.storages[ref.storage].per_block ? u.block + ref.delta : 0; };
    for (std::size_t b = i.births_begin; b < i.births_end; ++b) {
      const InstanceRef ref = fragment.births[b];
      const bool fresh = open.emplace(std::pair{ref.storage, instance(ref)}, lives.size()).second;
      assert(fresh && "a storage instance is born while it is alive");
      (void)fresh;
      lives.push_back({at, last, program.storages[ref.storage].bytes.value(), ref.storage, instance(ref), true, false});
    }
    if (i.scratch_bytes.value() > 0) scratch.push_back({at, at, i.scratch_bytes.value(), 0, 0, false, true});
    for (std::size_t d = i.deaths_begin; d < i.deaths_end; ++d) {
      const InstanceRef ref = fragment.deaths[d];
      const auto it = open.find({ref.storage, instance(ref)});
      assert(it != open.end() && "a storage instance dies that is not alive");
      lives[it->second].death = at;
      lives[it->second].persistent = false;
      open.erase(it);
    }
  }
  for (const auto& [key, index] : open) {
    assert(lives[index].birth < linear.step_begin && "what a step bears dies in it");
    lives[index].birth = 0;
  }
  lives.insert(lives.end(), scratch.begin(), scratch.end());
  return lives;
}

Layout lay_out(const Program& program, const LinearProgram& linear) {
  const std::vector<Life> lives = lives_of(program, linear);
  const std::size_t births = static_cast<std::size_t>(std::count_if(lives.begin(), lives.end(), [](const Life& l) { return !l.scratch; }));
  Layout out;
  out.max_live = Bytes(max_live_of(lives, linear.instructions.size()));

  std::vector<std::int64_t> offsets;
  std::int64_t best = 0;
  for (Order order : {Order(by_size), Order(by_area), Order(by_duration), Order(by_birth)}) {
    std::vector<std::size_t> sequence(lives.size());
    std::iota(sequence.begin(), sequence.end(), 0u);
    std::stable_sort(sequence.begin(), sequence.end(), [&](std::size_t a, std::size_t b) {
      return lives[a].persistent != lives[b].persistent ? lives[a].persistent : order(lives[a], lives[b]);
    });
    Placement placement(lives);
    for (std::size_t index : sequence) placement.place(index);
    if (offsets.empty() || placement.end() < best) {
      best = placement.end();
      offsets = std::move(placement).offsets();
    }
    if (static_cast<double>(best) <= kGoodEnough * static_cast<double>(out.max_live.value())) break;
  }
  out.arena_bytes = Bytes(round_up(best, kMemoryLineBytes));
  for (std::size_t i = 0; i < births; ++i)
    if (lives[i].persistent) out.persistent_bytes = std::max(out.persistent_bytes, Bytes(offsets[i] + lives[i].bytes));

  out.birth_offset.assign(offsets.begin(), offsets.begin() + static_cast<std::ptrdiff_t>(births));
  out.scratch_offset.assign(linear.instructions.size(), -1);
  for (std::size_t i = births; i < lives.size(); ++i) out.scratch_offset[lives[i].birth] = offsets[i];
  std::size_t next = 0;
  for (const UnrolledInstruction& u : linear.instructions) {
    out.first_birth.push_back(next);
    const Instruction& i = program.fragments[u.fragment]->instructions[u.instruction];
    next += static_cast<std::size_t>(i.births_end - i.births_begin);
  }
  return out;
}

}  // namespace zeroplan
