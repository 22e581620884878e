#include "gui/views/plan_session.h"

#include <utility>

namespace zeroplan::gui {
namespace {

constexpr double kLayoutInADragMs = 25;
constexpr int kFixesAfterMs = 60, kEmulatedFixesAfterMs = 250;  // the second takes every core: not between two moves of a hand
constexpr const char *kAnswerLane = "answer", *kPreviewLane = "preview", *kFixesLane = "fixes";

}  // namespace

PlanSession::PlanSession(Asked first, QObject* parent) : QObject(parent), workbench_(std::make_shared<Workbench>()), history_(first) {
  now_ = workbench_->compute(first, Addresses::lay_out);
  cost_ = workbench_->last_cost();
  layout_ms_ = cost_.layout_ms;
  fixes_timer_.setSingleShot(true);
  connect(&fixes_timer_, &QTimer::timeout, this, &PlanSession::find_fixes);
  connect(&jobs_, &Jobs::changed, this, &PlanSession::follow_jobs);
  fixes_timer_.start(kFixesAfterMs);
}

void PlanSession::set_titles(const QString& answer, const QString& search) {
  answer_title_ = answer;
  search_title_ = search;
}

// One job at a time works on a Workbench: where a cancelled one still holds it, the next begins with a cold one. False: refused.
bool PlanSession::make(const QString& lane, Request request, std::function<void(const Made&)> take) {
  auto is_refused = std::make_shared<bool>(false);
  auto bench = workbench_ ? std::exchange(workbench_, nullptr) : std::make_shared<Workbench>();
  const auto work = [this, bench, request = std::move(request), take = std::move(take)](Jobs::Job&) -> Jobs::Found {
    Made made{bench->compute(request.asked, request.addresses), nullptr, bench->last_cost()};
    if (request.ghost) made.ghost = bench->compute(*request.ghost, request.ghost_addresses);
    return [this, bench, made = std::move(made), take] {
      workbench_ = bench;
      take(made);
    };
  };
  const auto failed = [this, lane, bench, is_refused](const QString& sentence) {
    workbench_ = bench;
    *is_refused = true;
    if (lane != kAnswerLane) return emit previewed(nullptr);
    wanted_.reset();
    emit refused(sentence);
    emit kept();
  };
  jobs_.start(lane, answer_title_, work, failed);
  jobs_.finish_within(lane, patience_);
  return !*is_refused;
}

bool PlanSession::answer(Request request, std::function<void(const Made&)> take) {
  wanted_.reset();  // an answer that is still awaited is replaced
  jobs_.cancel(kPreviewLane);
  const Asked asked = request.asked;
  const bool is_taken = make(kAnswerLane, std::move(request), [this, take = std::move(take)](const Made& made) {
    wanted_.reset();
    cost_ = made.cost;
    take(made);
    if (std::exchange(settles_later_, false)) settle();
  });
  if (jobs_.is_busy(kAnswerLane)) wanted_ = asked;
  return is_taken;
}

bool PlanSession::ask(const Asked& asked, int gesture) {
  if (asked == wanted()) return true;
  const bool dragging = gesture == last_gesture_ && layout_ms_ > kLayoutInADragMs;
  return answer({asked, dragging ? Addresses::leave_out : Addresses::lay_out}, [this, asked, gesture, dragging](const Made& made) {
    const bool same_gesture = gesture == last_gesture_;
    if (!dragging) layout_ms_ = made.cost.layout_ms;
    if (!(asked == history_.now())) history_.push(asked, same_gesture);
    last_gesture_ = gesture;
    show(made.answer, same_gesture ? ghost_ : now_);
  });
}

bool PlanSession::change(std::string_view key, const std::string& value, int gesture) {
  try {
    return ask(with_key(wanted(), key, value), gesture);
  } catch (const std::runtime_error& error) {
    emit refused(QString::fromUtf8(error.what()));
    return false;
  }
}

bool PlanSession::choose_engine(Engine engine, int gesture) {
  try {
    return engine == wanted().question.plan.engine || ask(with_engine(wanted(), engine), gesture);
  } catch (const std::runtime_error& error) {
    emit refused(QString::fromUtf8(error.what()));
    return false;
  }
}

void PlanSession::settle() {
  if (is_answering()) {
    settles_later_ = true;
    return;
  }
  if (now_->ours && !now_->ours->layout) answer({now_->asked}, [this](const Made& made) { show(made.answer, ghost_); });
}

void PlanSession::undo() {
  if (is_answering()) return jobs_.cancel(kAnswerLane);
  if (!can_undo()) return;
  History history = history_;
  Request request{history.undo()};
  if (const Asked* before = history.before()) request.ghost = *before;
  answer(std::move(request), [this, history](const Made& made) {
    history_ = history;
    last_gesture_ = 0;
    show(made.answer, made.ghost);
  });
}

void PlanSession::redo() {
  if (is_answering() || !can_redo()) return;
  History history = history_;
  Request request{history.redo()};
  answer(std::move(request), [this, history](const Made& made) {
    history_ = history;
    last_gesture_ = 0;
    show(made.answer, now_);
  });
}

void PlanSession::apply_fix(std::size_t index) {
  if (index >= fixes_.size()) return;
  Asked asked = now_->asked;
  asked.question = fixes_[index].prediction.question;
  ask(asked, new_gesture());
}

void PlanSession::restore(const std::optional<Asked>& before, const Asked& asked, std::function<void(std::shared_ptr<const Answered> before)> then) {
  answer({asked, Addresses::lay_out, before, Addresses::lay_out}, [this, before, asked, then = std::move(then)](const Made& made) {
    for (const Asked& next : {before.value_or(asked), asked})
      if (!(next == history_.now())) history_.push(next, false);
    last_gesture_ = 0;
    show(made.answer, made.ghost ? made.ghost : now_);
    then(made.ghost);
  });
}

void PlanSession::preview(std::optional<std::size_t> index) {
  if (!index || *index >= fixes_.size()) {
    jobs_.cancel(kPreviewLane);
    return emit previewed(nullptr);
  }
  Asked asked = now_->asked;
  asked.question = fixes_[*index].prediction.question;
  make(kPreviewLane, {asked, Addresses::leave_out}, [this](const Made& made) { emit previewed(made.answer); });
}

void PlanSession::show(std::shared_ptr<const Answered> answer, std::shared_ptr<const Answered> ghost) {
  now_ = std::move(answer);
  ghost_ = std::move(ghost);
  fixes_.clear();
  jobs_.cancel(kFixesLane);
  emit answered();
  fixes_timer_.start(now_->ours ? kFixesAfterMs : kEmulatedFixesAfterMs);
}

void PlanSession::find_fixes() {
  jobs_.start(kFixesLane, search_title_, [this, of = now_](Jobs::Job& job) -> Jobs::Found {
    std::vector<Remedy> found;
    if (of->ours) {
      const std::scoped_lock one_at_a_time(seeking_);
      if (!job.is_stopped()) found = seeker_.fixes(*of);
    } else {
      found = fixes_of_emulated(of->prediction, job.token());
    }
    return [this, of, found = std::move(found)] { take_fixes(of, found); };
  });
}

// What was found for a plan that is no longer shown is dropped.
void PlanSession::take_fixes(const std::shared_ptr<const Answered>& of, std::vector<Remedy> fixes) {
  if (of != now_) return;
  fixes_ = std::move(fixes);
  emit fixes_ready();
}

// A cancelled answer takes its question back.
void PlanSession::follow_jobs() {
  if (!is_answering() || jobs_.is_busy(kAnswerLane)) return;
  wanted_.reset();
  settles_later_ = false;
  emit kept();
}

}  // namespace zeroplan::gui
