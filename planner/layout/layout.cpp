#include "planner/layout/layout.h"

#include <algorithm>
#include <cassert>
#include <initializer_list>
#include <map>
#include <numeric>

namespace zeroplan {
namespace {

/// Below this the first order is taken as it is.
constexpr double kGoodEnough = 1.0005;
/// Above this it is worth trying harder.
constexpr double kTolerable = 1.005;
constexpr int kGreasings = 30;

// Greedy placement in a given order. Placed lives are kept sorted by address, so that one pass finds the lowest gap that fits.
class Placement {
 public:
  explicit Placement(const std::vector<Life>& lives) : lives_(lives), offset_(lives.size(), -1) { placed_.reserve(lives.size()); }

  void place(std::size_t index) {
    const Life& life = lives_[index];
    std::int64_t cursor = 0;
    for (const Box& other : placed_) {
      if (other.death < life.birth || other.birth > life.death) continue;
      if (other.offset - cursor >= life.bytes) break;
      cursor = std::max(cursor, round_up(other.end, kAddressAlignment));
    }
    offset_[index] = cursor;
    const Box box{cursor, cursor + life.bytes, life.birth, life.death};
    placed_.insert(std::upper_bound(placed_.begin(), placed_.end(), box, [](const Box& a, const Box& b) { return a.offset < b.offset; }), box);
    end_ = std::max(end_, box.end);
  }
  std::int64_t end() const { return end_; }
  std::vector<std::int64_t>&& offsets() && { return std::move(offset_); }

 private:
  struct Box {
    std::int64_t offset, end;
    std::size_t birth, death;
  };
  const std::vector<Life>& lives_;
  std::vector<std::int64_t> offset_;
  std::vector<Box> placed_;
  std::int64_t end_ = 0;
};

struct Peak {
  std::int64_t bytes = 0;
  std::size_t at = 0;  ///< instruction
};
Peak peak_of(const std::vector<Life>& lives, std::size_t instructions) {
  std::vector<std::int64_t> change(instructions + 1, 0);
  for (const Life& life : lives) {
    change[life.birth] += life.bytes;
    change[std::min(life.death + 1, instructions)] -= life.bytes;
  }
  std::int64_t live = 0;
  Peak peak;
  for (std::size_t i = 0; i < instructions; ++i)
    if ((live += change[i]) > peak.bytes) peak = {live, i};
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

struct Placed {
  std::int64_t end = 0;  ///< of the highest life
  std::vector<std::int64_t> offsets;
};

// One greedy pass: persistent lives first, then by rank (higher first), then in the given order.
Placed place_in_order(const std::vector<Life>& lives, const std::vector<int>& rank, Order order) {
  std::vector<std::size_t> sequence(lives.size());
  std::iota(sequence.begin(), sequence.end(), 0u);
  std::stable_sort(sequence.begin(), sequence.end(), [&](std::size_t a, std::size_t b) {
    if (lives[a].persistent != lives[b].persistent) return lives[a].persistent;
    return rank[a] != rank[b] ? rank[a] > rank[b] : order(lives[a], lives[b]);
  });
  Placement placement(lives);
  for (std::size_t index : sequence) placement.place(index);
  return {placement.end(), std::move(placement).offsets()};
}

// Tries the orders, with and without what lives at the peak in front. Where all leave too much, squeaky wheels are greased: what came to lie above
// the live maximum goes further to the front, and again (Joslin and Clements, JAIR 1999).
Placed place_all(const std::vector<Life>& lives, Peak peak) {
  Placed best;
  const auto good = [&](double ratio) { return static_cast<double>(best.end) <= ratio * static_cast<double>(peak.bytes); };
  const auto keep_better = [&](Placed placed) {
    if (best.offsets.empty() || placed.end < best.end) best = std::move(placed);
  };
  const std::vector<int> level(lives.size(), 0);
  std::vector<int> peak_first(lives.size(), 0);
  for (std::size_t i = 0; i < lives.size(); ++i) peak_first[i] = lives[i].birth <= peak.at && peak.at <= lives[i].death;
  for (Order order : {Order(by_size), Order(by_duration), Order(by_birth), Order(by_area)})
    for (const std::vector<int>* rank : std::initializer_list<const std::vector<int>*>{&level, &peak_first}) {
      keep_better(place_in_order(lives, *rank, order));
      if (good(kGoodEnough)) return best;
    }
  for (Order order : {Order(by_size), Order(by_duration)}) {
    std::vector<int> rank = peak_first;
    for (int round = 0; round < kGreasings && !good(kTolerable); ++round) {
      Placed placed = place_in_order(lives, rank, order);
      for (std::size_t i = 0; i < lives.size(); ++i) rank[i] += placed.offsets[i] + lives[i].bytes > peak.bytes;
      keep_better(std::move(placed));
    }
  }
  return best;
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
  const Peak peak = peak_of(lives, linear.instructions.size());
  out.max_live = Bytes(peak.bytes);

  const auto [best, offsets] = place_all(lives, peak);
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
