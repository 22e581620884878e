// A question as the command line that asks it: `zeroplan fit internlm2-20b --on 8xa100-80g --stage 2`. Words mean what they mean to the program
// (profiles/question_words.h). Printing says only what differs from what they mean already; parse(print(asked)) == asked.
// Wrong text is a value with the place of the mistake, so that the window keeps its plan and marks it.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "profiles/question_words.h"

namespace zeroplan::gui {

/// A question and the words that name its model and cluster: catalogue names or files.
struct Asked {
  Question question;
  std::string model_word, cluster_word;
  friend bool operator==(const Asked&, const Asked&) = default;
};

/// What model and cluster alone ask: asked_or_usual. Throws as that does.
Asked asked_of(const std::string& model_word, const std::string& cluster_word);
/// The same of one engine.
Asked asked_of(const std::string& model_word, const std::string& cluster_word, Engine engine);
/// A plan read from a file; its model and cluster keep catalogue names where they are the catalogue's, else they are said by the file itself.
Asked asked_of_plan(const Question& question, const std::string& file);

/// The same job and plan for another model or cluster, as far as its keys can be carried over. Throws as asked_of does.
Asked with_model(const Asked& asked, const std::string& model_word);
Asked with_cluster(const Asked& asked, const std::string& cluster_word);
/// Throws InputError or UsageError as set_key and check_question do. A stage of DeepSpeed and FSDP2 brings the settings that its tool has for it.
Asked with_key(const Asked& asked, std::string_view key, const std::string& value);
/// The same job on another engine, as choose_engine sets it: model, cluster, batch, sequence, compute dtype and checkpoint stay as far as the engine has them;
/// the stage where it has that too.
Asked with_engine(const Asked& asked, Engine engine);

/// The same model and cluster as a DeepSpeed JSON sets them (`--deepspeed FILE`); sequence, checkpoint and depth stay, the micro batch where the file leaves it open.
/// Throws InputError or UsageError as the words do.
Asked with_deepspeed(const Asked& asked, const std::string& file);

std::string key_text(const Question& question, std::string_view key);  ///< as a word of the command line
QuestionWords words_of(const Asked& asked);
std::string print_command_line(const Asked& asked);

/// What is wrong with a text: bytes [begin, end) of it, and a sentence.
struct LineError {
  std::size_t begin = 0, end = 0;
  std::string message;
};

/// "zeroplan fit" at the front may be left out. Flags as of `zeroplan fit` that ask: one a key (--zero is --stage), --on, --host-memory, --set key=value.
std::variant<Asked, LineError> parse_command_line(std::string_view text);

/// Words as a shell splits them: quotes and backslashes, no expansion.
struct Word {
  std::string text;
  std::size_t begin = 0, end = 0;
};
std::vector<Word> split_words(std::string_view text);
std::string quoted(const std::string& word);

}  // namespace zeroplan::gui
