// Validation: published jobs (planner/core/question_row.h) beside what is predicted for them. Like is compared with like: a measured allocated maximum with the predicted one, never with another
// measure; requested bytes of an engine's own code with the same code's emulation on the same simulated device. Leaves out words and tables (cli).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "planner/core/question_row.h"
#include "simulator/prediction.h"

namespace zeroplan {

/// Names are the rows' keys. `unnamed` is whatever tool the source looked at; `tried` what an out-of-memory error says it tried to allocate.
enum class Measure : std::uint8_t { requested, allocated, active, reserved, device_used, statics, host, unnamed, tried, step_time, tokens_per_s };
inline constexpr int kMeasureCount = 11;
std::string_view name_of(Measure measure);  ///< "requested_bytes", ...
bool is_memory(Measure measure);

struct Compared {
  Measure measure = Measure::requested;
  std::string phase;  ///< of requested bytes; "at the failure" of a run out of memory; empty: the steady step
  double predicted = 0, measured = 0;
  double halfwidth = 0;  ///< rounding of the source

  /// Signed, of the measured value.
  double error_ratio() const { return measured != 0 ? predicted / measured - 1 : 0; }
};

struct ValidatedRow {
  std::string id;
  Engine engine = Engine::zeroplan;
  std::string trust;
  std::optional<Prediction> prediction;  ///< none: refused
  std::string refusal;                   ///< why
  std::vector<Compared> compared;
  std::optional<bool> fits;              ///< as measured
  bool judged = false;                   ///< the device's capacity is known

  bool wrong_verdict() const;
};

/// Whether the row was made by running the engine's own code on a simulated device.
bool is_oracle_row(const QuestionRow& row);

ValidatedRow validate(const QuestionRow& row);

}  // namespace zeroplan
