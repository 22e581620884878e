#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "planner/search/answer.h"

namespace zeroplan {
namespace {

constexpr double kLayoutMargin = 0.01;  // the most that a layout costs (tests/planner/layout)

using Change = std::vector<std::pair<std::string, std::string>>;

std::string checkpoint_name(std::int64_t blocks, std::int64_t layers) {
  if (blocks == 0) return "none";
  return blocks == layers ? "full" : fmt::format("blocks-{}", blocks);
}

// One try: nothing if the change is none, or makes an invalid question.
class Tries {
 public:
  Tries(const Answer& from, Compiler& compiler, Pricer& pricer) : from_(from), compiler_(compiler), pricer_(pricer) {}

  void attempt(const Change& change, bool changes_numerics = false) {
    Question question = from_.question;
    for (const auto& [key, value] : change) set_key(question, key, value, "fix");
    if (question == from_.question) return;
    fixes_.push_back({change, answer(question, compiler_, pricer_, false), changes_numerics});
  }

  // The fewest recomputed blocks that fit, if any mix does: memory falls with every block, so bisect.
  void attempt_checkpoint(Change change) {
    const std::int64_t layers = from_.question.job.model.num_layers;
    const auto fits = [&](std::int64_t blocks) {
      Question question = from_.question;
      for (const auto& [key, value] : change) set_key(question, key, value, "fix");
      question.plan.recomputed_blocks = blocks;
      // Addresses are not made for every try: they may cost kLayoutMargin over the live maximum.
      const Answer tried = answer(question, compiler_, pricer_, false);
      const Bytes margin(static_cast<std::int64_t>(kLayoutMargin * static_cast<double>(tried.arena.value())));
      return tried.verdict == Verdict::fits && tried.spare >= margin;
    };
    std::int64_t low = 0, high = layers;
    if (!fits(high)) low = high;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if (fits(middle)) high = middle;
      else low = middle + 1;
    }
    change.emplace_back("checkpoint", checkpoint_name(low, layers));
    attempt(change);
  }

  std::vector<Fix> take() && { return std::move(fixes_); }

 private:
  const Answer& from_;
  Compiler& compiler_;
  Pricer& pricer_;
  std::vector<Fix> fixes_;
};

bool same_result(const Fix& a, const Fix& b) { return a.answer.question == b.answer.question; }

}  // namespace

std::vector<Fix> ranked_fixes(const Answer& from, Compiler& compiler, Pricer& pricer, std::size_t most) {
  const Plan& plan = from.question.plan;
  Tries tries(from, compiler, pricer);
  tries.attempt_checkpoint({});
  const std::int64_t tokens = from.question.tokens_per_micro_batch();
  for (std::int64_t stage = plan.stage + 1; stage <= 3; ++stage) {
    tries.attempt({{"stage", std::to_string(stage)}});
    tries.attempt_checkpoint({{"stage", std::to_string(stage)}});
  }
  if (plan.micro_batch % 2 == 0) {
    const Change halved{{"micro_batch", std::to_string(plan.micro_batch / 2)}, {"accumulate", std::to_string(plan.accumulate * 2)}};
    tries.attempt(halved, true);
    tries.attempt_checkpoint(halved);
  }
  const std::int64_t chunk = std::min(plan.loss_chunk_tokens, tokens);
  if (chunk > 256) tries.attempt({{"loss_chunk_tokens", "256"}}, true);
  if (plan.overlap_comm) tries.attempt({{"overlap_comm", "false"}});
  if (plan.stage == 3 && plan.prefetch_units > 0) {
    tries.attempt({{"prefetch_units", "0"}});
    tries.attempt({{"prefetch_units", "0"}, {"overlap_comm", "false"}, {"checkpoint", "full"}});
  }
  if (from.question.job.gradient_dtype == Dtype::fp32 && from.question.job.compute_dtype == Dtype::bf16) tries.attempt({{"gradient_dtype", "bf16"}}, true);

  std::vector<Fix> fixes = std::move(tries).take();
  const bool want_speed = from.verdict != Verdict::does_not_fit;
  std::erase_if(fixes, [&](const Fix& fix) {
    if (want_speed) return fix.answer.verdict == Verdict::does_not_fit || fix.answer.step_s() >= 0.99 * from.step_s();
    return fix.answer.estimate.memory.peak_live >= from.estimate.memory.peak_live;
  });
  std::stable_sort(fixes.begin(), fixes.end(), [](const Fix& a, const Fix& b) {
    const bool fa = a.answer.verdict != Verdict::does_not_fit, fb = b.answer.verdict != Verdict::does_not_fit;
    if (fa != fb) return fa;
    return fa ? a.answer.step_s() < b.answer.step_s() : a.answer.arena < b.answer.arena;
  });
  // Only what is shown gets addresses; one that no longer fits with them has no place among those that do.
  std::vector<Fix> out;
  for (Fix& fix : fixes) {
    if (out.size() == most) break;
    if (std::any_of(out.begin(), out.end(), [&](const Fix& other) { return same_result(other, fix); })) continue;
    const bool fitted = fix.answer.verdict != Verdict::does_not_fit;
    if (from.laid_out) fix.answer = answer(fix.answer.question, compiler, pricer, true);
    if (fitted && fix.answer.verdict == Verdict::does_not_fit) continue;
    if (!want_speed && fix.answer.arena >= from.arena) continue;
    out.push_back(std::move(fix));
  }
  return out;
}

}  // namespace zeroplan
