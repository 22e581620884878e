// What `zeroplan fit` found, and its two forms: text for people, JSON for programs (docs: interfaces in README).
#pragma once

#include <string>
#include <vector>

#include "planner/core/deepspeed_options.h"
#include "simulator/prediction.h"
#include "simulator/remedies.h"

namespace zeroplan::cli {

/// An engine asked the same question: its prediction, or why it has no answer.
struct EngineAnswer {
  Engine engine = Engine::zeroplan;
  std::optional<Prediction> prediction;
  std::string refusal;
};

struct FitReport {
  Prediction asked;
  std::vector<EngineAnswer> engines;    ///< empty where one engine was named and people read
  std::vector<Prediction> other_stages;
  std::vector<Remedy> remedies;
  std::vector<DeepSpeedNote> notes;     ///< of --deepspeed FILE
  std::string version_warning;          ///< releases of the engine on which the verdict is another
  std::string next;
};

void print_fit(const FitReport& report);
std::string fit_json(const FitReport& report);

}  // namespace zeroplan::cli
