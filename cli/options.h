// Flags that make a Question: one flag a key of planner/core/plan.h (micro_batch = --micro-batch), MODEL, --on, --plan and --set. Shared by every command
// that asks about a job. Precedence: flag > plan file > defaults.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "planner/core/deepspeed_options.h"
#include "planner/core/plan.h"

namespace zeroplan::cli {

struct QuestionFlags {
  std::string model;  ///< catalogue name, config.json, directory, or a plan.json
  std::string on;     ///< cluster
  std::string host_memory;
  std::map<std::string, std::string> keys;  ///< by key name, as typed
  std::vector<std::string> set;             ///< key=value

  void add_to(CLI::App& command);

 private:
  Question base() const;
  std::vector<DeepSpeedNote> set_engine_defaults(Question& question, std::optional<Engine> engine) const;
  void set_keys(Question& question) const;
  const std::string* typed(const std::string& key) const;
  bool has_deepspeed_file() const;

 public:

  /// The question with defaults written out, checked, on the engine that was named, else ours. Throws UsageError or InputError.
  Question question() const { return question_on(std::nullopt); }
  /// The same question put to another engine, as choose_engine (profiles/catalog.h) sets it.
  Question question_on(std::optional<Engine> engine) const;
  Cluster cluster() const;
  /// An engine was named: by --engine, --preset, --deepspeed FILE or a plan.
  bool names_engine() const;
  /// What DeepSpeed makes of --deepspeed FILE without saying so.
  std::vector<DeepSpeedNote> deepspeed_notes() const;
  /// The flags that lead to it again, for "next" lines, with some keys changed.
  std::string as_typed(const std::vector<std::pair<std::string, std::string>>& change = {}) const;
};

/// Where no engine is named: DeepSpeed as XTuner sets it, the runtime people have; on CPU ranks ours, which alone runs there.
Question asked_or_usual(const QuestionFlags& flags);

}  // namespace zeroplan::cli
