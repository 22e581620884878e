#include "gui/models/workbench.h"

#include <chrono>

namespace zeroplan::gui {
namespace {

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

std::shared_ptr<const Answered> Workbench::compute(const Asked& asked, Addresses addresses) {
  auto out = std::make_shared<Answered>();
  out->asked = asked;
  Stopwatch watch;
  check_question(asked.question);
  require_zeroplan_engine(asked.question);
  out->program = compiler_.compile(asked.question);
  out->linear = linearize(out->program);
  cost_.compile_ms = watch.lap_ms();
  out->answer = answer(asked.question, compiler_, pricer_, false);
  cost_.price_ms = watch.lap_ms();
  if (addresses == Addresses::lay_out) {
    out->layout = lay_out(out->program, out->linear);
    apply_arena(out->answer, out->layout->arena_bytes, true);
  }
  cost_.layout_ms = watch.lap_ms();
  out->picture = picture_of(out->program, out->linear);
  cost_.walk_ms = watch.lap_ms();
  return out;
}

std::vector<Fix> Workbench::fixes(const Answered& from) { return ranked_fixes(from.answer, compiler_, pricer_, 8); }

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
