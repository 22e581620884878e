// Flags that make a Question: one flag a key of planner/core/plan.h (micro_batch = --micro-batch), MODEL, --on, --plan and --set. Shared by every command
// that asks about a job. Precedence: flag > plan file > defaults.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <vector>

#include "planner/core/plan.h"

namespace zeroplan::cli {

struct QuestionFlags {
  std::string model;  ///< catalogue name, config.json, directory, or a plan.json
  std::string on;     ///< cluster
  std::string host_memory;
  std::map<std::string, std::string> keys;  ///< by key name, as typed
  std::vector<std::string> set;             ///< key=value

  void add_to(CLI::App& command);

  /// The question with defaults written out, checked. Throws UsageError or InputError.
  Question question() const;
  /// The flags that lead to it again, for "next" lines, with some keys changed.
  std::string as_typed(const std::vector<std::pair<std::string, std::string>>& change = {}) const;
};

}  // namespace zeroplan::cli
