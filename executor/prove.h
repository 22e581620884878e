// The executed rungs of the ladder of proof, on one rank (all ranks of a job call it together). A Program and its layout are run three times: plainly, with
// everything that an instruction does not declare poisoned around it, and in a random topological order; memory is looked at from outside the plan
// (bytes of the arena that no longer hold the poison laid before, allocations of libtorch, growth of the process).
// Leaves out what needs no run: fold = walk and races are checked here too, because a proof that skips them proves less, but they cost nothing.
#pragma once

#include <string>
#include <vector>

#include "executor/collectives.h"
#include "planner/layout/layout.h"

namespace zeroplan {

struct Check {
  std::string name;    ///< "undeclared memory"
  bool passed = false;
  std::string detail;  ///< what was compared, with figures; the first difference where it failed
};

/// The bits that equal plans must share.
struct RunBits {
  std::vector<double> losses, gradient_norms;
  std::uint64_t parameters_hash = 0;  ///< of this rank's parameters between steps
  friend bool operator==(const RunBits&, const RunBits&) = default;
};

struct ProofReport {
  std::vector<Check> checks;
  RunBits bits;
  Bytes planned_peak, arena;
  Bytes process_growth;  ///< of the process after the first step, beyond the arena
  bool passed() const;
};

struct ProofOptions {
  int steps = 2;
  std::uint64_t seed = 1;
  bool random_order = true;
};

/// Never throws for a failed proof: that is a check with its difference. Throws RunError if another rank ended.
ProofReport prove_rank(const Program& program, const LinearProgram& linear, const Layout& layout, Collectives& collectives, const ProofOptions& options = {});

/// Hash of this rank's parameters over all units, in order (FNV-1a over 8-byte words).
class Interpreter;
std::uint64_t parameters_hash(const Interpreter& interpreter);

}  // namespace zeroplan
