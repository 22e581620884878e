// One training run of a plan on CPU ranks of this machine: takes the memory first, then reads data, then steps. Writes JSON Lines (docs: README).
// Leaves out checkpoints and devices other than CPU.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "planner/core/plan.h"

namespace zeroplan {

struct RunOptions {
  std::string data;                ///< token file; empty: synthetic tokens
  std::int64_t steps = 100;
  std::uint64_t seed = 1;
  std::int64_t warmup_steps = 0;   ///< learning rate rises linearly
  bool cosine = false;             ///< then falls to a tenth along a cosine, else stays
  std::optional<Bytes> limit;      ///< per rank: refuse to start above it
  double stuck_after_s = 60;
  int threads = 0;                 ///< a rank's; 0: cores / ranks, at least 1
  bool all_ranks = false;          ///< step lines of every rank
};

/// Runs and returns the exit code: 0, 1 (memory refused: need, limit and the nearest plan that fits are in the error line), 5 (a rank failed).
/// `line` gets every JSON line. Throws InputError for data before the first step. Call it before any torch call.
int run_job(const Question& question, const RunOptions& options, const std::function<void(const std::string&)>& line);

/// The executed rungs on a pool of ranks; lines {"event": "proof", "rank", "check", "passed", "detail"}. Returns 0 or 1, or 5 if a rank failed.
int prove_job(const Question& question, int steps, double stuck_after_s, const std::function<void(const std::string&)>& line);

}  // namespace zeroplan
