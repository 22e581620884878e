// SessionFile: what is on the screen as a file: both plans, the screen, the part of the step that is shown, the selected instant and the names of opened traces.
// JSON with format and version; another program's file, or a later version, is refused with a reason. Leaves out answers: they are computed again.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gui/models/command_line.h"

namespace zeroplan::gui {

struct SessionFile {
  Asked b;                 ///< the current plan
  std::optional<Asked> a;  ///< the plan before it, or the pinned one
  bool a_is_pinned = false;
  std::string screen = "plan";
  double from_ratio = 0, to_ratio = 1;  ///< the part of the step that is shown
  std::int64_t selected_event = 0;
  std::vector<std::string> files;       ///< opened snapshots and traces
  std::string compare_a, compare_b;     ///< what Compare shows: "", "before", "now", or a curve's label
  friend bool operator==(const SessionFile&, const SessionFile&) = default;
};

std::string session_text(const SessionFile& session);
/// Throws InputError with `file`, the place and a remedy.
SessionFile session_of_text(const std::string& text, const std::string& file);

}  // namespace zeroplan::gui
