// PlanSession: the one plan that the whole window shows, its history and its ghost. Every change is answered at once, verdict, picture and addresses together,
// and announced by one signal. Fixes of emulated engines are sought beside the window's thread. Leaves out widgets.
#pragma once

#include <QElapsedTimer>
#include <QObject>
#include <QThreadPool>
#include <QTimer>

#include "gui/models/workbench.h"

namespace zeroplan::gui {

class PlanSession : public QObject {
  Q_OBJECT

 public:
  explicit PlanSession(Asked first, QObject* parent = nullptr);

  const Answered& now() const { return *now_; }
  std::shared_ptr<const Answered> shared_now() const { return now_; }
  /// The plan before the last gesture; null at the start.
  std::shared_ptr<const Answered> ghost() const { return ghost_; }
  const std::vector<Remedy>& fixes() const { return fixes_; }
  bool can_undo() const { return history_.can_undo(); }
  bool can_redo() const { return history_.can_redo(); }
  const Cost& last_cost() const { return workbench_.last_cost(); }

  /// A number for a new gesture. What is changed under one number is one undo step.
  int new_gesture() { return ++gestures_; }

  /// False, and refused() with a sentence, if the question cannot be compiled: the plan stays.
  bool ask(const Asked& asked, int gesture);
  bool change(std::string_view key, const std::string& value, int gesture);
  bool choose_engine(Engine engine, int gesture);
  void undo();
  void redo();
  void apply_fix(std::size_t index);
  /// A fix's picture, to be shown beside the plan's. Null where it cannot be compiled.
  std::shared_ptr<const Answered> preview(std::size_t index);
  /// At the end of a drag: what was left out while it went on.
  void settle();

 signals:
  void answered();
  void fixes_ready();
  void refused(const QString& sentence);

 private:
  std::shared_ptr<const Answered> compute(const Asked& asked, Addresses addresses);
  void show(std::shared_ptr<const Answered> answer, std::shared_ptr<const Answered> ghost);
  void find_fixes();
  void take_fixes(const std::shared_ptr<const Answered>& of, std::vector<Remedy> fixes);

  Workbench workbench_;
  History history_;
  std::shared_ptr<const Answered> now_, ghost_;
  std::vector<Remedy> fixes_;
  QTimer fixes_timer_;
  int gestures_ = 0, last_gesture_ = 0;
  double layout_ms_ = 0;  ///< the last layout's: above what a frame allows, it waits for the end of a drag
  QThreadPool seekers_;   ///< last: waits for what still runs, which posts to this object
};

}  // namespace zeroplan::gui
