// The zeroplan engine: compiles a Plan to the Program that our own executor runs. Program = fragments (zeroplan_fragments.h) in the order of a
// schedule: visits of units, forward then backward, for each micro batch, then the optimizer step.
#pragma once

#include <memory>

#include "planner/core/program.h"

namespace zeroplan {

/// Compiles questions, remembering fragments: a search that changes one knob at a time builds only what the knob touches. Not thread-safe:
/// one Compiler a thread.
class Compiler {
 public:
  Compiler();
  ~Compiler();
  Compiler(Compiler&&) noexcept;
  Compiler& operator=(Compiler&&) noexcept;

  /// The Program of `rank`. The question has passed check_question.
  Program compile(const Question& question, std::int64_t rank = 0);

 private:
  struct Cache;
  std::unique_ptr<Cache> cache_;
};

/// The same without a memory.
Program compile(const Question& question, std::int64_t rank = 0);

}  // namespace zeroplan
