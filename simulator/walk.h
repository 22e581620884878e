// Walks a Program: unrolls the tree, keeps one clock a stream, counts live bytes. Slower than price's fold and independent of it; sees every event.
// Streams run in order; an instruction starts when its stream is free and its waits are over. Integer nanoseconds: two walks are identical.
// Leaves out PyTorch's caching allocator (other engines; comes with them).
#pragma once

#include <array>

#include "planner/core/trace.h"
#include "planner/ops/op_table.h"

namespace zeroplan {

struct WalkOptions {
  bool record_events = true;  ///< false: only peak, place and time
  int steps = 1;
};

struct WalkResult {
  Trace trace;  ///< init, then the steps
  Bytes between_steps;
  std::array<std::int64_t, kCategoryCount> by_category_at_peak{};
  std::array<Bytes, 4> phase_peak{};
  std::size_t instruction_count = 0;
  bool balanced = false;  ///< what a step is born dies in it
};

WalkResult walk(const Program& program, const WalkOptions& options = {});

}  // namespace zeroplan
