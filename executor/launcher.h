// Starts the ranks of one job as processes of this machine and watches them: a rank that dies, throws or gets stuck ends the whole job within
// two seconds and is named with the step and instruction it was at. Ranks share a ShmWorld and send bytes back to the parent.
// Leaves out what a rank does, other machines, and who started us. Call it before any call of torch: it forks, so the process must have one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "executor/shm_collectives.h"

namespace zeroplan {

struct ProgressRecord;

/// Where a rank is, in memory that the parent reads.
class Progress {
 public:
  explicit Progress(ProgressRecord& record) : record_(record) {}

  /// Call it before each instruction and before anything else that may take long (about 30 ns). `op` is cut to 31 characters.
  void at(std::int64_t step, std::int64_t instruction, std::string_view op);

 private:
  ProgressRecord& record_;
};

/// What the body of a rank is given. It lives in the rank's process.
struct RankContext {
  std::int64_t rank = 0;
  std::int64_t world = 1;
  Collectives& collectives;
  Progress& progress;
  int to_parent = 0;  ///< write end of this rank's pipe; use send()

  /// Appends to LaunchResult::messages[rank]. Any size: the parent reads while it watches. Throws RunError if the parent does not read any more.
  void send(std::string_view bytes) const;
};

struct LaunchOptions {
  std::int64_t world = 1;
  /// A rank that neither makes progress nor waits in a collective for this long is stuck; absent: never.
  std::optional<double> stuck_after_s = 60.0;
};

/// How the job ended. rank, step, instruction and op name the rank to blame and its last progress; absent for a job that ended well
/// and, but for rank, for a rank that had not reported any.
struct LaunchResult {
  int exit_code = 0;
  std::string message;  ///< a sentence for people; empty if the job ended well
  std::optional<std::int64_t> rank, step, instruction;
  std::string op;
  std::vector<std::string> messages;  ///< by rank, also of a failed job
};

/// Runs body in `world` processes and returns when all have ended. A rank's exit code is what body returns; an exception becomes 5 (RunError),
/// 3 (InputError, OverflowError), 2 (UsageError), 4 (EnvironmentError, bad_alloc) or 70 (any other), with its text in `message`. The first rank that
/// ends with a code other than 0 decides; a rank killed by a signal, stuck, or gone while others wait for it is code 5.
/// Throws EnvironmentError if processes cannot be started, std::invalid_argument for a world out of range.
LaunchResult launch(const LaunchOptions& options, const std::function<int(RankContext&)>& body);

}  // namespace zeroplan
