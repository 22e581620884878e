// Benchmarks of the window on its own platform: a slider move from the input event to the end of paint, and frames of a large timeline. Prints one line each.
#pragma once

#include <string>
#include <vector>

namespace zeroplan::gui {

class MainWindow;
class PlanSession;

int bench(MainWindow& window, PlanSession& session, const std::vector<std::string>& files, double start_ms);

}  // namespace zeroplan::gui
