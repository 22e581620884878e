// PlanSession: the one plan that the whole window shows, its history and its ghost. A change is answered beside the window's thread, verdict, picture and addresses
// together, and announced by one signal: as a rule before change() returns, else later, while the plan before it stays and a hand goes on. Leaves out widgets.
#pragma once

#include <QObject>
#include <QTimer>
#include <mutex>

#include "gui/models/workbench.h"
#include "gui/views/jobs.h"

namespace zeroplan::gui {

class PlanSession : public QObject {
  Q_OBJECT

 public:
  explicit PlanSession(Asked first, QObject* parent = nullptr);

  const Answered& now() const { return *now_; }
  std::shared_ptr<const Answered> shared_now() const { return now_; }
  /// What was asked last: knobs show it, and changes are changes of it, while its answer is not there yet.
  const Asked& wanted() const { return wanted_ ? *wanted_ : history_.now(); }
  bool is_answering() const { return wanted_.has_value(); }
  /// The plan before the last gesture; null at the start.
  std::shared_ptr<const Answered> ghost() const { return ghost_; }
  const std::vector<Remedy>& fixes() const { return fixes_; }
  bool can_undo() const { return history_.can_undo(); }
  bool can_redo() const { return history_.can_redo(); }
  /// What goes on beside the window's thread, for whoever has such work.
  Jobs& jobs() { return jobs_; }
  /// What an answer and the search of fixes are called where jobs are shown.
  void set_titles(const QString& answer, const QString& search);
  /// How long the window waits for an answer before it goes on without.
  void set_patience(std::chrono::milliseconds longest) { patience_ = longest; }
  /// Of the last answer.
  const Cost& last_cost() const { return cost_; }

  /// A number for a new gesture. What is changed under one number is one undo step.
  int new_gesture() { return ++gestures_; }

  /// False, and refused() with a sentence, if the question cannot be compiled: the plan stays. True: answered, or it will be.
  bool ask(const Asked& asked, int gesture);
  bool change(std::string_view key, const std::string& value, int gesture);
  bool choose_engine(Engine engine, int gesture);
  /// While an answer is awaited: takes that question back.
  void undo();
  void redo();
  void apply_fix(std::size_t index);
  /// Two plans at once, the first as the one before the second; `then` gets the first's answer, or null where there is none. Nothing changes if one cannot be compiled.
  void restore(const std::optional<Asked>& before, const Asked& asked, std::function<void(std::shared_ptr<const Answered> before)> then);
  /// Seeks a fix's picture, to be shown beside the plan's; nullopt, or what is no fix: none.
  void preview(std::optional<std::size_t> index);
  /// At the end of a drag: what was left out while it went on.
  void settle();

 signals:
  void answered();
  void fixes_ready();
  void previewed(std::shared_ptr<const zeroplan::gui::Answered> fix);  ///< null: none
  void refused(const QString& sentence);
  void kept();  ///< a question was refused or taken back: knobs return

 private:
  struct Request {
    Asked asked;
    Addresses addresses = Addresses::lay_out;
    std::optional<Asked> ghost = {};  ///< answered as well
    Addresses ghost_addresses = Addresses::leave_out;
  };
  struct Made {
    std::shared_ptr<const Answered> answer, ghost;
    Cost cost;
  };
  bool make(const QString& lane, Request request, std::function<void(const Made&)> take);
  bool answer(Request request, std::function<void(const Made&)> take);
  void show(std::shared_ptr<const Answered> answer, std::shared_ptr<const Answered> ghost);
  void find_fixes();
  void take_fixes(const std::shared_ptr<const Answered>& of, std::vector<Remedy> fixes);
  void follow_jobs();

  std::shared_ptr<Workbench> workbench_;  ///< null while a job has it
  Workbench seeker_;                      ///< of the job that seeks fixes
  std::mutex seeking_;
  History history_;
  std::optional<Asked> wanted_;  ///< while its answer is not there
  std::shared_ptr<const Answered> now_, ghost_;
  std::vector<Remedy> fixes_;
  QTimer fixes_timer_;
  int gestures_ = 0, last_gesture_ = 0;
  double layout_ms_ = 0;  ///< the last layout's: above what a frame allows, it waits for the end of a drag
  bool settles_later_ = false;
  std::chrono::milliseconds patience_{60};
  Cost cost_;
  QString answer_title_, search_title_;
  Jobs jobs_;  ///< last: waits for what still runs
};

}  // namespace zeroplan::gui
