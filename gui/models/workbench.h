// Workbench: from a question to everything that the Plan screen shows, in one go, so that verdict and picture are always of the same plan. Our own engine is compiled,
// with compiler and pricer kept warm: a moved knob rebuilds only what it touches. Others are emulated (simulator/prediction.h, timeline.h).
// Not thread-safe: one Workbench a thread. Leaves out widgets and words.
#pragma once

#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "gui/models/command_line.h"
#include "gui/models/step_picture.h"
#include "planner/layout/layout.h"
#include "planner/search/answer.h"
#include "simulator/remedies.h"
#include "simulator/timeline.h"

namespace zeroplan::gui {

/// What only our own engine has.
struct Compiled {
  Answer answer;
  Program program;
  LinearProgram linear;
  std::optional<Layout> layout;  ///< absent while a hand is on a slider
};

/// Everything about one plan. Shared between views; never changes once made.
struct Answered {
  Asked asked;
  Prediction prediction;           ///< of ours: from `answer`; phases and `alive` are left empty
  StepPicture picture;
  std::optional<Compiled> ours;
  std::optional<Timeline> timeline;  ///< of every other engine

  double step_s() const { return prediction.cost ? prediction.cost->step_s : 0; }
  const Layout* layout() const { return ours && ours->layout ? &*ours->layout : nullptr; }
};

/// Milliseconds of each stage of one recomputation. Of an emulated engine compile is the prediction with its timeline and walk the picture.
struct Cost {
  double compile_ms = 0, price_ms = 0, layout_ms = 0, walk_ms = 0;
  double total_ms() const { return compile_ms + price_ms + layout_ms + walk_ms; }
};

enum class Addresses : std::uint8_t { lay_out, leave_out };

class Workbench {
 public:
  /// Throws UsageError, InputError or OverflowError for a question that cannot be compiled or emulated.
  std::shared_ptr<const Answered> compute(const Asked& asked, Addresses addresses);
  /// Of our own engine.
  std::vector<Remedy> fixes(const Answered& from);
  const Cost& last_cost() const { return cost_; }

 private:
  void compile(Answered& out, Addresses addresses);

  Compiler compiler_;
  Pricer pricer_;
  Cost cost_;
};

/// Changes of an emulated engine's settings. Takes many predictions: not for the thread that draws. None once `stop` is requested.
std::vector<Remedy> fixes_of_emulated(const Prediction& from, std::stop_token stop = {});

/// The same answer with its addresses: verdict, spare and band follow the arena.
void apply_arena(Answer& answer, Bytes arena, bool laid_out);
/// In the form that every engine's answer has.
Prediction prediction_of(const Answer& answer);

/// Undo and redo. One gesture (a drag, an edit, a fix) is one entry; before() is the plan that the ghost shows.
class History {
 public:
  explicit History(Asked first) : entries_{std::move(first)} {}
  const Asked& now() const { return entries_[at_]; }
  /// `same_gesture`: replaces the newest entry, which a push of this gesture has made.
  void push(Asked asked, bool same_gesture);
  bool can_undo() const { return at_ > 0; }
  bool can_redo() const { return at_ + 1 < entries_.size(); }
  const Asked& undo() { return entries_[--at_]; }
  const Asked& redo() { return entries_[++at_]; }
  const Asked* before() const { return at_ > 0 ? &entries_[at_ - 1] : nullptr; }

 private:
  std::vector<Asked> entries_;
  std::size_t at_ = 0;
};

}  // namespace zeroplan::gui
