// Addresses. Every birth and every scratch of a linear Program gets an offset in one arena; two that are alive at the same time never overlap.
// Persistent storages (born in init) lie at the bottom. The rest is placed greedily, largest first, each at the lowest gap that is free
// during its whole life; where that leaves more than kGoodEnough of waste, other orders are tried (longest or oldest first; what lives at the peak first,
// which then lies without a gap) and the best is taken.
// Cost: O(n²) in the number of lives, some thousands: milliseconds.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/layout/linear.h"

namespace zeroplan {

/// Offsets are multiples of this: a cache line, and enough for vector loads on CPU and GPU.
inline constexpr std::int64_t kAddressAlignment = 256;
/// The arena ends at a whole line, and "written" is observed in lines: scratch is taken in lines of which the last may be used in part.
inline constexpr std::int64_t kMemoryLineBytes = 64;

struct Layout {
  Bytes arena_bytes;       ///< end of the highest storage, whole lines
  Bytes max_live;          ///< what the Program needs at its peak; arena_bytes ≥ this
  Bytes persistent_bytes;  ///< [0, persistent_bytes) never changes owner
  std::vector<std::int64_t> birth_offset;    ///< by birth, in linear issue order
  std::vector<std::int64_t> scratch_offset;  ///< by linear instruction; −1 where it has no scratch
  std::vector<std::size_t> first_birth;      ///< by linear instruction: index of its first birth in birth_offset

  double waste_ratio() const { return static_cast<double>(arena_bytes.value()) / static_cast<double>(max_live.value()); }
};

Layout lay_out(const Program& program, const LinearProgram& linear);

/// One life as layout and checker see it: [birth, death] in linear instructions, both included.
struct Life {
  std::size_t birth = 0, death = 0;
  std::int64_t bytes = 0;
  StorageId storage = 0;
  std::int32_t instance = 0;
  bool persistent = false;
  bool scratch = false;
};

/// All lives, births first (in the order of birth_offset), then scratch. What is alive at the end of init is persistent; what else a step bears
/// must die in it (asserted).
std::vector<Life> lives_of(const Program& program, const LinearProgram& linear);

}  // namespace zeroplan
