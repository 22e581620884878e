// Flags that make a Question: one flag a key of planner/core/plan.h (micro_batch = --micro-batch), MODEL, --on, --plan and --set. Shared by every command
// that asks about a job. What they mean is profiles/question_words.h's.
#pragma once

#include <string>
#include <vector>

#include "profiles/question_words.h"

namespace CLI {
class App;
}

namespace zeroplan::cli {

struct QuestionFlags : QuestionWords {
  void add_to(CLI::App& command);
  /// The flags that lead to it again, for "next" lines, with some keys changed.
  std::string as_typed(const std::vector<std::pair<std::string, std::string>>& change = {}) const;
};

}  // namespace zeroplan::cli
