// Answer: what a question's plan costs and whether it fits, as values that cli and gui render. Leaves out words and colours.
#pragma once

#include <string>
#include <vector>

#include "planner/engines/zeroplan.h"
#include "planner/price/price.h"

namespace zeroplan {

enum class Verdict : std::uint8_t { fits, tight, does_not_fit };
std::string_view name_of(Verdict verdict);

/// Memory of one GPU that is not ours to plan.
struct Outside {
  Bytes context, nccl, libraries;
  Bytes total() const { return context + nccl + libraries; }
};

/// Our executor uses one communicator for gathers and one for reductions, so that they run beside each other.
inline constexpr std::int64_t kCommunicators = 2;
Outside outside_of(const Cluster& cluster);

/// The arena is exact by construction. What can be wrong is what lies outside it: context, NCCL and library memory differ by driver and version, by
/// about this part of their sum. band_ratio is that, over the peak.
inline constexpr double kOutsideUncertaintyRatio = 0.25;

struct Answer {
  Question question;
  Estimate estimate;
  Bytes arena;    ///< what must fit: laid out, or the live maximum where `laid_out` is false (fixes)
  bool laid_out = false;
  Outside outside;
  Bytes capacity, usable, spare;  ///< usable = capacity − outside; spare = usable − arena, negative: excess
  double band_ratio = 0;
  Verdict verdict = Verdict::does_not_fit;

  double step_s() const { return seconds(estimate.step_time); }
  double tokens_per_s_per_gpu() const;
  /// 6·N + 6·L·h·D·S a token (N = matmul parameters, causal attention), over the data sheet's bf16 rate.
  double mfu_ratio() const;
};

/// Compiles and prices with the given memories. `with_layout` false skips addresses (a search's inner loop).
Answer answer(const Question& question, Compiler& compiler, Pricer& pricer, bool with_layout);

/// One change of the plan that was tried, with what it leads to.
struct Fix {
  std::vector<std::pair<std::string, std::string>> change;  ///< key, value as set_key takes them
  Answer answer;
  bool changes_numerics = false;  ///< other sums or roundings than the question's plan
};

/// Changes that make a plan fit which does not, or make it faster where it fits: single keys first, then pairs. Those that fit come first, by step time.
/// Keeps the global batch. At most `most`.
std::vector<Fix> ranked_fixes(const Answer& from, Compiler& compiler, Pricer& pricer, std::size_t most = 5);

}  // namespace zeroplan
