// RunLog: the JSON Lines of zeroplan-run as series: loss, predicted and measured memory by step and rank. Bytes arrive in any pieces; lines that are no JSON
// are kept as the log's last words and never an error. Leaves out processes and pictures.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace zeroplan::gui {

struct RunStep {
  std::int64_t step = 0, rank = 0;
  double loss = 0, step_s = 0;
  std::int64_t tokens = 0;
  std::int64_t predicted_peak_bytes = 0, measured_peak_bytes = 0, surprise_bytes = 0;
};

class RunLog {
 public:
  void add(std::string_view bytes);
  const std::vector<RunStep>& steps() const { return steps_; }  ///< of rank 0, and of others where the run reports them
  std::int64_t planned_steps() const { return planned_steps_; }
  std::int64_t arena_bytes() const { return arena_bytes_; }
  std::int64_t world() const { return world_; }
  const std::optional<std::string>& failure() const { return failure_; }  ///< a sentence with rank, step and op where the run said them
  bool ended() const { return ended_; }
  const std::string& last_line() const { return last_line_; }
  std::size_t equal_steps() const;  ///< predicted = measured

 private:
  void line(std::string_view text);

  std::string rest_, last_line_;
  std::vector<RunStep> steps_;
  std::int64_t planned_steps_ = 0, arena_bytes_ = 0, world_ = 0;
  std::optional<std::string> failure_;
  bool ended_ = false;
};

}  // namespace zeroplan::gui
