// Export: a question's plan in the words of the runtimes people have: a DeepSpeed JSON, an Accelerate YAML, an XTuner config. Every value is written out, because defaults drift
// between versions. What a target cannot say is a warning; an engine that it cannot run at all is refused. Leaves out files (cli).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "planner/core/plan.h"

namespace zeroplan {

struct ExportWarning {
  std::string key;   ///< of the question
  std::string text;  ///< what the target does instead
};

struct Exported {
  std::string text;
  std::vector<ExportWarning> warnings;
};

enum class ExportTarget : std::uint8_t { deepspeed, accelerate, xtuner };
std::string_view name_of(ExportTarget target);

/// A plan of our own engine leaves as DeepSpeed at its stage. Throws UsageError where the target cannot run the question's engine.
Exported export_plan(const Question& question, ExportTarget target);

}  // namespace zeroplan
