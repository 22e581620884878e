#include "gui/views/plan_session.h"

namespace zeroplan::gui {
namespace {

constexpr double kLayoutInADragMs = 25;
constexpr int kFixesAfterMs = 60, kEmulatedFixesAfterMs = 250;  // the second takes every core: not between two moves of a hand

}  // namespace

PlanSession::PlanSession(Asked first, QObject* parent) : QObject(parent), history_(first) {
  now_ = workbench_.compute(first, Addresses::lay_out);
  layout_ms_ = workbench_.last_cost().layout_ms;
  fixes_timer_.setSingleShot(true);
  seekers_.setMaxThreadCount(1);
  connect(&fixes_timer_, &QTimer::timeout, this, &PlanSession::find_fixes);
  fixes_timer_.start(kFixesAfterMs);
}

std::shared_ptr<const Answered> PlanSession::compute(const Asked& asked, Addresses addresses) {
  try {
    return workbench_.compute(asked, addresses);
  } catch (const std::runtime_error& error) {
    emit refused(QString::fromUtf8(error.what()));
    return nullptr;
  }
}

bool PlanSession::ask(const Asked& asked, int gesture) {
  const bool same_gesture = gesture == last_gesture_;
  if (asked == history_.now()) return true;
  const bool dragging = same_gesture && layout_ms_ > kLayoutInADragMs;
  std::shared_ptr<const Answered> next = compute(asked, dragging ? Addresses::leave_out : Addresses::lay_out);
  if (!next) return false;
  if (!dragging) layout_ms_ = workbench_.last_cost().layout_ms;
  history_.push(asked, same_gesture);
  last_gesture_ = gesture;
  show(std::move(next), same_gesture ? ghost_ : now_);
  return true;
}

bool PlanSession::change(std::string_view key, const std::string& value, int gesture) {
  try {
    return ask(with_key(history_.now(), key, value), gesture);
  } catch (const std::runtime_error& error) {
    emit refused(QString::fromUtf8(error.what()));
    return false;
  }
}

bool PlanSession::choose_engine(Engine engine, int gesture) {
  try {
    return engine == now_->asked.question.plan.engine || ask(with_engine(history_.now(), engine), gesture);
  } catch (const std::runtime_error& error) {
    emit refused(QString::fromUtf8(error.what()));
    return false;
  }
}

void PlanSession::settle() {
  if (now_->ours && !now_->ours->layout)
    if (auto whole = compute(now_->asked, Addresses::lay_out)) show(std::move(whole), ghost_);
}

void PlanSession::undo() {
  if (!can_undo()) return;
  const Asked asked = history_.undo();
  last_gesture_ = 0;
  const Asked* before = history_.before();
  if (auto answer = compute(asked, Addresses::lay_out)) show(std::move(answer), before != nullptr ? compute(*before, Addresses::leave_out) : nullptr);
}

void PlanSession::redo() {
  if (!can_redo()) return;
  const Asked asked = history_.redo();
  last_gesture_ = 0;
  if (auto answer = compute(asked, Addresses::lay_out)) show(std::move(answer), now_);
}

void PlanSession::apply_fix(std::size_t index) {
  if (index >= fixes_.size()) return;
  Asked asked = now_->asked;
  asked.question = fixes_[index].prediction.question;
  ask(asked, new_gesture());
}

std::shared_ptr<const Answered> PlanSession::preview(std::size_t index) {
  if (index >= fixes_.size()) return nullptr;
  Asked asked = now_->asked;
  asked.question = fixes_[index].prediction.question;
  return compute(asked, Addresses::leave_out);
}

void PlanSession::show(std::shared_ptr<const Answered> answer, std::shared_ptr<const Answered> ghost) {
  now_ = std::move(answer);
  ghost_ = std::move(ghost);
  fixes_.clear();
  emit answered();
  fixes_timer_.start(now_->ours ? kFixesAfterMs : kEmulatedFixesAfterMs);
}

void PlanSession::find_fixes() {
  if (now_->ours) return take_fixes(now_, workbench_.fixes(*now_));
  seekers_.clear();
  seekers_.start([this, of = now_] {
    std::vector<Remedy> found = fixes_of_emulated(of->prediction);
    QMetaObject::invokeMethod(this, [this, of, found = std::move(found)] { take_fixes(of, found); }, Qt::QueuedConnection);
  });
}

// What was found for a plan that is no longer shown is dropped.
void PlanSession::take_fixes(const std::shared_ptr<const Answered>& of, std::vector<Remedy> fixes) {
  if (of != now_) return;
  fixes_ = std::move(fixes);
  emit fixes_ready();
}

}  // namespace zeroplan::gui
