#include "gui/models/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "planner/core/error.h"
#include "planner/core/format.h"
#include "planner/core/nearest.h"
#include "profiles/catalog.h"

namespace zeroplan::gui {
namespace {

using nlohmann::json;

constexpr std::string_view kPlanFormat = "zeroplan-plan";

bool is_file(const std::string& word) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(word, ignored);
}

std::optional<Question> plan_in(const std::string& word) {
  if (!is_file(word)) return std::nullopt;
  const json content = read_json_file(word);
  if (!content.is_object() || content.value("format", json()) != kPlanFormat) return std::nullopt;
  return plan_from_json(content, word);
}

Cluster load_cluster(const std::string& word) { return is_file(word) ? cluster_from_json(read_json_file(word), word) : cluster_from_name(word); }

std::string flag_of(std::string_view key) {
  std::string flag(key);
  std::replace(flag.begin(), flag.end(), '_', '-');
  return "--" + flag;
}

std::string key_of(std::string_view flag) {
  std::string key(flag.substr(2));
  std::replace(key.begin(), key.end(), '-', '_');
  return key == "zero" ? "stage" : key;
}

// What the command line starts from before its keys: the defaults, or the plan file that names the model.
Question start_of(const std::string& model_word, const std::string& cluster_word) {
  if (std::optional<Question> plan = plan_in(model_word)) {
    if (!cluster_word.empty()) plan->cluster = load_cluster(cluster_word);
    return *plan;
  }
  if (cluster_word.empty()) throw UsageError("--on is missing: name the cluster, as --on 8xa100-80g");
  return default_question(load_model(model_word), load_cluster(cluster_word));
}

void set_text(Question& question, std::string_view key, const std::string& value) {
  set_key(question, key, value == "null" ? json(nullptr) : json(value), "command line");
}

// The keys of `from` that `to` can take, one after the other; what it refuses stays at its default.
void carry_keys(const Question& from, Question& to) {
  const bool same_depth = from.job.model.num_layers == to.job.model.num_layers;
  for (const QuestionKey& key : question_keys()) {
    if (key.name == "num_layers" || key.name == "shard_group") continue;
    const json value = get_key(from, key.name);
    if (key.name == "checkpoint" && !same_depth && value.is_string() && value.get<std::string>().starts_with("blocks-")) continue;
    Question tried = to;
    try {
      set_key(tried, key.name, value, "plan");
      check_question(tried);
      require_zeroplan_engine(tried);
    } catch (const std::runtime_error&) {
      continue;
    }
    to = tried;
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text), words_(split_words(text)) {}

  std::variant<Asked, LineError> parse() {
    if (const auto error = read_words()) return *error;
    Asked asked;
    asked.model_word = model_.text;
    asked.cluster_word = cluster_.text;
    if (const auto error = guarded(model_, [&] { asked.question = start_of(model_.text, ""); }, true)) return *error;
    if (asked.question.job.model.hidden_size == 0)
      if (const auto error = guarded(cluster_.text.empty() ? end() : cluster_, [&] { asked.question = start_of(model_.text, cluster_.text); })) return *error;
    if (const auto error = guarded(cluster_, [&] { if (!cluster_.text.empty()) asked.question.cluster = load_cluster(cluster_.text); })) return *error;
    if (!host_memory_.text.empty()) {
      asked.question.cluster.host_bytes = parse_bytes(host_memory_.text);
      if (!asked.question.cluster.host_bytes) return at(host_memory_, "is not a size; write 1TB or 512GiB");
    }
    // In the table's order, so that checkpoint=full means the layers that num_layers says.
    for (const QuestionKey& key : question_keys())
      for (const auto& [name, value] : keys_)
        if (name == key.name)
          if (const auto error = guarded(value, [&] { set_text(asked.question, name, value.text); })) return *error;
    if (const auto error = guarded(keys_.empty() ? model_ : keys_.back().second, [&] { check_question(asked.question); require_zeroplan_engine(asked.question); })) return *error;
    return asked;
  }

 private:
  LineError at(const Word& word, std::string message) const { return {word.begin, word.end, word.text.empty() ? std::move(message) : word.text + ": " + message}; }
  Word end() const { return {"", text_.size(), text_.size()}; }

  // `only_plans`: a model that is no plan file needs a cluster first; that is said later, at its own place.
  template <class Do>
  std::optional<LineError> guarded(const Word& word, Do&& what, bool only_plans = false) {
    try {
      if (!only_plans || plan_in(word.text)) what();
      else (void)load_model(word.text);
      return std::nullopt;
    } catch (const std::runtime_error& error) {
      return LineError{word.begin, word.end, error.what()};
    }
  }

  std::optional<LineError> read_words() {
    std::size_t i = 0;
    if (i < words_.size() && words_[i].text == "zeroplan") ++i;
    if (i < words_.size() && words_[i].text == "fit") ++i;
    for (; i < words_.size(); ++i) {
      const Word& word = words_[i];
      if (!word.text.starts_with("--")) {
        if (!model_.text.empty()) return at(word, "is one word too many: the model is " + model_.text);
        model_ = word;
        continue;
      }
      Word flag = word, value;
      if (const std::size_t equals = word.text.find('='); equals != std::string::npos) {
        value = {word.text.substr(equals + 1), word.begin + equals + 1, word.end};
        flag.text = word.text.substr(0, equals);
      } else {
        if (i + 1 == words_.size()) return at(word, "needs a value");
        value = words_[++i];
      }
      if (const auto error = take(flag, value)) return error;
    }
    if (model_.text.empty()) return LineError{text_.size(), text_.size(), "the model is missing, as internlm2-20b"};
    return std::nullopt;
  }

  std::optional<LineError> take(const Word& flag, const Word& value) {
    if (flag.text == "--on") return void(cluster_ = value), std::nullopt;
    if (flag.text == "--host-memory") return void(host_memory_ = value), std::nullopt;
    std::string key = key_of(flag.text);
    Word text = value;
    if (flag.text == "--set") {
      const std::size_t equals = value.text.find('=');
      if (equals == std::string::npos) return at(value, "is not key=value");
      key = value.text.substr(0, equals);
      text.text = value.text.substr(equals + 1);
    }
    std::vector<std::string_view> names;
    for (const QuestionKey& known : question_keys()) names.push_back(known.name);
    if (std::find(names.begin(), names.end(), key) == names.end()) return at(flag, fmt::format("is not known. {}", did_you_mean(names, key)));
    std::erase_if(keys_, [&](const auto& old) { return old.first == key; });
    keys_.emplace_back(key, text);
    return std::nullopt;
  }

  std::string_view text_;
  std::vector<Word> words_;
  Word model_, cluster_, host_memory_;
  std::vector<std::pair<std::string, Word>> keys_;
};

}  // namespace

Asked asked_of(const std::string& model_word, const std::string& cluster_word) { return {start_of(model_word, cluster_word), model_word, cluster_word}; }

Asked asked_of_plan(const Question& question, const std::string& file) {
  const auto is_catalogue = [&](auto&& same) {
    try {
      return same();
    } catch (const std::runtime_error&) {
      return false;
    }
  };
  Asked asked{question, file, ""};
  const bool known_model = is_catalogue([&] { return catalogue_model(question.job.model.name) == question.job.model; });
  Cluster without_host = question.cluster;
  without_host.host_bytes.reset();
  const bool known_cluster = is_catalogue([&] { return cluster_from_name(question.cluster.name) == without_host; });
  if (known_model && known_cluster) {
    asked.model_word = question.job.model.name;
    asked.cluster_word = question.cluster.name;
  }
  return asked;
}

Asked with_model(const Asked& asked, const std::string& model_word) {
  if (plan_in(model_word)) return asked_of(model_word, "");
  Asked out{default_question(load_model(model_word), asked.question.cluster), model_word, asked.cluster_word};
  if (out.cluster_word.empty()) out.cluster_word = asked.question.cluster.name;
  carry_keys(asked.question, out.question);
  return out;
}

Asked with_cluster(const Asked& asked, const std::string& cluster_word) {
  Asked out = asked;
  out.cluster_word = cluster_word;
  out.question.cluster = load_cluster(cluster_word);
  out.question.cluster.host_bytes = asked.question.cluster.host_bytes;
  check_question(out.question);
  require_zeroplan_engine(out.question);
  return out;
}

Asked with_key(const Asked& asked, std::string_view key, const std::string& value) {
  Asked out = asked;
  set_text(out.question, key, value);
  check_question(out.question);
  require_zeroplan_engine(out.question);
  return out;
}

std::string key_text(const Question& question, std::string_view key) {
  const json value = get_key(question, key);
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::string out;
  for (const json& item : value) out += (out.empty() ? "" : ",") + (item.is_string() ? item.get<std::string>() : item.dump());
  return out.empty() ? "none" : out;
}

std::string print_command_line(const Asked& asked) {
  std::string out = "zeroplan fit " + quoted(asked.model_word);
  if (!asked.cluster_word.empty()) out += " --on " + quoted(asked.cluster_word);
  Question start;
  try {
    start = start_of(asked.model_word, asked.cluster_word);
  } catch (const std::runtime_error&) {
    start = default_question(asked.question.job.model, asked.question.cluster);  // the file has gone: say every key that differs from the defaults
  }
  if (asked.question.cluster.host_bytes && asked.question.cluster.host_bytes != start.cluster.host_bytes)
    out += fmt::format(" --host-memory {}", asked.question.cluster.host_bytes->value());
  // A key said earlier may change a later one (compute_dtype sets gradient_dtype), so differences are taken from what has been said so far.
  for (const QuestionKey& key : question_keys()) {
    const std::string value = key_text(asked.question, key.name);
    if (key_text(start, key.name) == value) continue;
    set_text(start, key.name, value);
    out += fmt::format(" {} {}", flag_of(key.name), quoted(value));
  }
  return out;
}

std::variant<Asked, LineError> parse_command_line(std::string_view text) { return Parser(text).parse(); }

std::vector<Word> split_words(std::string_view text) {
  std::vector<Word> out;
  for (std::size_t i = 0; i < text.size();) {
    if (text[i] == ' ' || text[i] == '\t' || text[i] == '\n') {
      ++i;
      continue;
    }
    Word word;
    word.begin = i;
    char quote = 0;
    for (; i < text.size(); ++i) {
      const char c = text[i];
      if (quote == 0 && (c == ' ' || c == '\t' || c == '\n')) break;
      if (c == quote) quote = 0;
      else if (quote == 0 && (c == '\'' || c == '"')) quote = c;
      else if (c == '\\' && quote != '\'' && i + 1 < text.size()) word.text += text[++i];
      else word.text += c;
    }
    word.end = i;
    out.push_back(std::move(word));
  }
  return out;
}

std::string quoted(const std::string& word) {
  const bool plain = !word.empty() && word.find_first_of(" \t\n'\"\\$&|;<>()*?`#~") == std::string::npos;
  if (plain) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace zeroplan::gui
