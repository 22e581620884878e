// A Program in the order in which layout and executor go through it: init, then one step, with loops over micro batches kept as loops. Every
// iteration of such a loop is the same in memory (what its body bears dies in it), so one set of addresses serves all of them.
#pragma once

#include <vector>

#include "planner/core/program.h"

namespace zeroplan {

struct LinearProgram {
  struct Loop {
    std::size_t begin = 0, end = 0;  ///< instructions [begin, end) run `count` times
    std::int64_t count = 1;
  };
  std::vector<UnrolledInstruction> instructions;
  std::size_t step_begin = 0;  ///< instructions before it are init
  std::vector<Loop> loops;     ///< ordered, disjoint, inside the step
};

LinearProgram linearize(const Program& program);

}  // namespace zeroplan
