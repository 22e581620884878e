// Reads from outside how much of a poisoned arena a run has overwritten, and compares it with what the layout allows: the union of all planned
// storages and scratch. Bytes that no storage owns (alignment, holes, the guard behind the arena) must still be poison.
#pragma once

#include <utility>
#include <vector>

#include "planner/layout/layout.h"

namespace zeroplan {

class ArenaMeter {
 public:
  ArenaMeter(const Program& program, const LinearProgram& linear, const Layout& layout);

  struct Reading {
    Bytes touched;     ///< overwritten bytes of storages
    Bytes outside;     ///< overwritten bytes that no storage owns
    Bytes high_water;  ///< end of the highest overwritten line (kMemoryLineBytes)
  };
  /// Whole arena (and guard). Scratch lines may be used in part, so scratch is allowed to be touched but not counted.
  Reading read(const void* arena, Bytes bytes) const;
  /// Only what must never change: cheap, for every step of a run.
  Bytes outside(const void* arena, Bytes bytes) const;

  /// Bytes of all storages' addresses, each counted once: what a step overwrites if it does all that is planned.
  Bytes planned() const { return planned_; }

 private:
  std::vector<std::pair<std::int64_t, std::int64_t>> storages_, owned_;  ///< disjoint [begin, end), ordered; owned: with scratch
  Bytes planned_;
};

}  // namespace zeroplan
