#include "gui/models/workbench.h"

#include <chrono>

namespace zeroplan::gui {
namespace {

constexpr std::size_t kMostFixes = 8;

class Stopwatch {
 public:
  double lap_ms() {
    const auto now = std::chrono::steady_clock::now();
    const double ms = std::chrono::duration<double, std::milli>(now - last_).count();
    last_ = now;
    return ms;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace

void apply_arena(Answer& answer, Bytes arena, bool laid_out) {
  answer.arena = arena;
  answer.laid_out = laid_out;
  answer.spare = answer.usable - arena;
  const double uncertain = kOutsideUncertaintyRatio * static_cast<double>(answer.outside.total().value());
  answer.band_ratio = arena.value() > 0 ? uncertain / static_cast<double>(arena.value()) : 0;
  if (answer.spare < Bytes()) answer.verdict = Verdict::does_not_fit;
  else answer.verdict = static_cast<double>(answer.spare.value()) < uncertain ? Verdict::tight : Verdict::fits;
}

Prediction prediction_of(const Answer& answer) {
  Prediction out;
  out.question = answer.question;
  out.by_category = answer.estimate.memory.by_category;
  out.whole.requested = out.steady.requested = answer.estimate.memory.peak_live;
  out.must_fit = answer.arena;
  out.outside = answer.outside;
  out.capacity = answer.capacity;
  out.usable = answer.usable;
  out.spare = answer.spare;
  out.band_ratio = answer.band_ratio;
  out.verdict = answer.verdict;
  out.cost = StepCost{answer.step_s(), answer.tokens_per_s_per_gpu(), answer.mfu_ratio(), answer.estimate.traffic};
  return out;
}

std::shared_ptr<const Answered> Workbench::compute(const Asked& asked, Addresses addresses) {
  auto out = std::make_shared<Answered>();
  out->asked = asked;
  check_question(asked.question);
  if (asked.question.plan.engine == Engine::zeroplan) {
    compile(*out, addresses);
    return out;
  }
  cost_ = {};
  Stopwatch watch;
  PredictionAndTimeline made = predict_with_timeline(asked.question);
  out->prediction = std::move(made.prediction);
  out->timeline = std::move(made.timeline);
  cost_.compile_ms = watch.lap_ms();
  out->picture = picture_of(*out->timeline);
  cost_.walk_ms = watch.lap_ms();
  return out;
}

void Workbench::compile(Answered& out, Addresses addresses) {
  const Question& question = out.asked.question;
  Stopwatch watch;
  Compiled& ours = out.ours.emplace();
  ours.program = compiler_.compile(question);
  ours.linear = linearize(ours.program);
  cost_.compile_ms = watch.lap_ms();
  ours.answer = answer(question, compiler_, pricer_, false);
  cost_.price_ms = watch.lap_ms();
  if (addresses == Addresses::lay_out) {
    ours.layout = lay_out(ours.program, ours.linear);
    apply_arena(ours.answer, ours.layout->arena_bytes, true);
  }
  out.prediction = prediction_of(ours.answer);
  cost_.layout_ms = watch.lap_ms();
  out.picture = picture_of(ours.program, ours.linear, ours.answer.estimate.step_time);
  cost_.walk_ms = watch.lap_ms();
}

std::vector<Remedy> Workbench::fixes(const Answered& from) {
  std::vector<Remedy> out;
  for (const Fix& fix : ranked_fixes(from.ours->answer, compiler_, pricer_, kMostFixes)) out.push_back({fix.change, prediction_of(fix.answer), fix.changes_numerics});
  return out;
}

std::vector<Remedy> fixes_of_emulated(const Prediction& from, std::stop_token stop) {
  Predictor predictor;
  return ranked_remedies(from, predictor, kMostFixes, std::move(stop));
}

void History::push(Asked asked, bool same_gesture) {
  if (asked == now()) return;
  entries_.resize(at_ + 1);
  if (same_gesture && at_ > 0) {
    entries_[at_] = std::move(asked);
    return;
  }
  entries_.push_back(std::move(asked));
  ++at_;
}

}  // namespace zeroplan::gui
