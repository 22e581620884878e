// A question compiled, laid out and bound to an arena of its own, as zeroplan-run does it (executor/run.cpp), for tests that look inside a run.
#pragma once

#include <stdexcept>

#include "executor/interpreter.h"
#include "executor/process_memory.h"
#include "planner/engines/zeroplan.h"

namespace zeroplan::testing {

class SmallRun {
 public:
  /// Throws std::runtime_error if the machine refuses the arena.
  SmallRun(const Question& question, Collectives& collectives, Batches& batches, std::uint64_t seed = 1)
      : program_(compile(question, collectives.rank())),
        linear_(linearize(program_)),
        layout_(lay_out(program_, linear_)),
        arena_(taken(layout_.arena_bytes)),
        interpreter(program_, linear_, layout_, arena_.data(), collectives, batches, seed) {}

 private:
  static Arena taken(Bytes bytes) {
    std::optional<Arena> arena = Arena::try_make(bytes);
    if (!arena) throw std::runtime_error("the machine refuses the arena");
    return std::move(*arena);
  }

  Program program_;
  LinearProgram linear_;
  Layout layout_;
  Arena arena_;

 public:
  Interpreter interpreter;
};

}  // namespace zeroplan::testing
