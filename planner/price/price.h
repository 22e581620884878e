// Price of a Program without unrolling it: peak memory, where it is and what lives there, communication volume, step time. Memory is folded by
// the algebra (net, peak): one after the other (n1+n2, max(p1, n1+p2)), k times (k·n, p + max(0, (k−1)·n)). Time is a max-plus recurrence on the tails of the
// streams and the event registers; a loop stops iterating once an iteration only adds a constant to every component it touches, from where
// the rest is exact by linearity. The simulator's walk unrolls the same Program; a property test holds them equal to the byte and nanosecond.
#pragma once

#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

#include "planner/core/program.h"
#include "planner/ops/op_table.h"

namespace zeroplan {

/// An instant of the Program: while this instruction runs.
struct Place {
  bool in_init = false;
  std::uint16_t fragment = 0;
  std::uint16_t instruction = 0;
  std::int64_t block = 0;        ///< of the leaf
  std::int64_t micro_batch = 0;
  friend bool operator==(const Place&, const Place&) = default;
};

struct MemoryEstimate {
  Bytes peak_live;
  Place peak;
  std::array<std::int64_t, kCategoryCount> by_category{};  ///< at the peak; sums to peak_live
  Bytes between_steps;                                      ///< what persists
  std::array<Bytes, 4> phase_peak{};                        ///< by Phase
};

/// Exact: folds the tree. Never fails.
MemoryEstimate fold_memory(const Program& program);

/// Payload bytes of one step by collective.
Traffic fold_traffic(const Program& program);

struct Estimate {
  MemoryEstimate memory;
  Traffic traffic;
  SimTime step_time;
  double step_flops = 0;         ///< executed by this rank, recomputation included
  double model_flops = 0;        ///< 6·N·tokens + 6·L·h·D·S·tokens (causal half), N = matmul parameters: MFU's numerator
};

/// Prices Programs, remembering what it derived from fragments it has seen. Not thread-safe: one Pricer a thread.
class Pricer {
 public:
  Estimate price(const Program& program);

 private:
  /// The state of the recurrence: one slot a stream (its tail), then one an event register. Slots are numbers below kMaxState.
  struct TimeStep {
    SimTime duration;
    std::uint8_t stream = 0;  ///< slots from here on
    std::uint8_t record = kNoEvent;
    std::uint8_t wait_count = 0;
    std::array<std::uint8_t, 3> waits{};
  };
  struct Timed {
    std::shared_ptr<const Fragment> fragment;  // keeps the key alive
    std::vector<TimeStep> steps;
    std::uint32_t reads = 0, writes = 0;  // bit masks over the slots, without the rotation of events, which depends on the Program
    double flops = 0;
  };
  static constexpr int kMaxState = kStreamCount + 16;
  using State = std::array<std::int64_t, kMaxState>;

  const Timed& timed(const Program& program, std::uint16_t fragment);
  void run(const Program& program, std::size_t at, State& state, std::uint32_t& reads, std::uint32_t& writes, double& flops);

  std::unordered_map<const Fragment*, Timed> timed_;
  Cluster cluster_;
  std::vector<const Timed*> by_fragment_;  // of the Program being priced
};

/// The same without a memory.
Estimate price(const Program& program);

/// FLOPs a token of a forward and backward pass without recomputation (see Estimate::model_flops).
double model_flops_per_token(const Model& model, std::int64_t seq);

}  // namespace zeroplan
