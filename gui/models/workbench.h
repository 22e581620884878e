// Workbench: from a question to everything that the Plan screen shows, in one go, so that verdict and picture are always of the same plan. Keeps compiler and
// pricer warm: a moved knob rebuilds only what it touches. Not thread-safe: one Workbench a thread. Leaves out widgets and words.
#pragma once

#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "gui/models/command_line.h"
#include "gui/models/step_picture.h"
#include "planner/layout/layout.h"
#include "planner/search/answer.h"

namespace zeroplan::gui {

/// Everything about one plan. Shared between views; never changes once made.
struct Answered {
  Asked asked;
  Answer answer;
  Program program;
  LinearProgram linear;
  StepPicture picture;
  std::optional<Layout> layout;  ///< absent while a hand is on a slider
};

/// Milliseconds of each stage of one recomputation.
struct Cost {
  double compile_ms = 0, price_ms = 0, layout_ms = 0, walk_ms = 0;
  double total_ms() const { return compile_ms + price_ms + layout_ms + walk_ms; }
};

enum class Addresses : std::uint8_t { lay_out, leave_out };

class Workbench {
 public:
  /// Throws UsageError, InputError or OverflowError for a question that cannot be compiled.
  std::shared_ptr<const Answered> compute(const Asked& asked, Addresses addresses);
  std::vector<Fix> fixes(const Answered& from);
  const Cost& last_cost() const { return cost_; }

 private:
  Compiler compiler_;
  Pricer pricer_;
  Cost cost_;
};

/// The same answer with its addresses: verdict, spare and band follow the arena.
void apply_arena(Answer& answer, Bytes arena, bool laid_out);

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
