// QuestionWords: a question as the words that ask it: MODEL, --on, --host-memory, one word a key (micro_batch = --micro-batch) and --set. The one meaning of these
// words: the command line and the window read them each in its own way and ask here. Precedence: word > plan file > preset or engine > defaults.
// Leaves out how words are split, spelled and helped with.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "planner/core/deepspeed_options.h"
#include "planner/core/error.h"
#include "planner/core/plan.h"

namespace zeroplan {

/// A word that is wrong: `word` is a key's name, "on" or "host_memory".
struct WordError : UsageError {
  WordError(std::string wrong, const std::string& message) : UsageError(message), word(std::move(wrong)) {}
  std::string word;
};

struct QuestionWords {
  std::string model;  ///< catalogue name, config.json, directory, or a plan.json
  std::string on;     ///< cluster: a name or a file; empty with a plan.json: the plan's
  std::string host_memory;
  std::map<std::string, std::string> keys;  ///< by key name, as typed
  std::vector<std::string> set;             ///< key=value

  /// The question with defaults written out, checked, on the engine that was named, else ours. Throws UsageError (WordError where one word is to blame) or InputError.
  Question question() const { return question_on(std::nullopt); }
  /// The same question put to another engine, as choose_engine (profiles/catalog.h) sets it.
  Question question_on(std::optional<Engine> engine) const;
  Cluster cluster() const { return base().cluster; }
  /// An engine was named: by --engine, --preset, --deepspeed FILE or a plan.
  bool names_engine() const;
  /// What DeepSpeed makes of --deepspeed FILE without saying so.
  std::vector<DeepSpeedNote> deepspeed_notes() const;

 private:
  Question base() const;
  std::vector<DeepSpeedNote> set_engine_defaults(Question& question, std::optional<Engine> engine) const;
  void set_keys(Question& question) const;
  const std::string* typed(const std::string& key) const;
  bool has_deepspeed_file() const;
};

/// Where no engine is named: DeepSpeed as XTuner sets it, the runtime people have; on CPU ranks ours, which alone runs there.
Question asked_or_usual(const QuestionWords& words);

/// Sets a key from a word: "null" is null, everything else needs no quotes. Throws WordError.
void set_key_word(Question& question, const std::string& key, const std::string& value);

/// A catalogue name (8xa100-80g) or a cluster file.
Cluster load_cluster(const std::string& argument);

bool is_plan_file(const std::string& argument);

}  // namespace zeroplan
