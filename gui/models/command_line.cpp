#include "gui/models/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "planner/core/error.h"
#include "planner/core/nearest.h"
#include "profiles/catalog.h"

namespace zeroplan::gui {
namespace {

using nlohmann::json;

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

QuestionWords words_naming(const std::string& model_word, const std::string& cluster_word) {
  QuestionWords words;
  words.model = model_word;
  words.on = cluster_word;
  return words;
}

bool is_preset(const std::string& name) {
  const std::vector<std::string_view> names = preset_names();
  return std::find(names.begin(), names.end(), name) != names.end();
}

// ---- a question to its words ----

// What a key has to be set to so that `start` becomes `asked`: of DeepSpeed's object only the members that differ.
std::string difference_text(const Question& start, const Question& asked, std::string_view key) {
  if (key != "deepspeed") return key_text(asked, key);
  const json from = get_key(start, key), to = get_key(asked, key);
  json members = json::object();
  if (to.is_object())
    for (const auto& [name, value] : to.items())
      if (!from.is_object() || from.value(name, json()) != value) members[name] = value;
  return members.dump();
}

// A key said earlier may change a later one (compute_dtype sets gradient_dtype), so differences are taken from what has been said so far.
void add_differences(QuestionWords& words, Question start, const Question& asked) {
  for (const QuestionKey& key : question_keys()) {
    const std::string name(key.name);
    if (key_text(start, name) == key_text(asked, name)) continue;
    const std::string value = difference_text(start, asked, name);
    try {
      set_key_word(start, name, value);
    } catch (const std::runtime_error&) {  // cannot be said of this engine
      continue;
    }
    if (name == "engine" || name == "preset") words.set.push_back(name + "=" + value);  // as a word of their own they would set everything else too
    else words.keys[name] = value;
  }
}

// Words up to the choice of an engine and its settings, with the stage and the offload that decide which settings these are.
QuestionWords with_engine_words(QuestionWords words, const std::string& key, const std::string& value, const Question& asked) {
  if (!key.empty()) words.keys[key] = value;
  for (const char* deciding : {"stage", "offload_optimizer"})
    if (key_text(asked_or_usual(words), deciding) != key_text(asked, deciding)) words.keys[deciding] = key_text(asked, deciding);
  return words;
}

// The shortest way to say the engine, with which everything else can be said.
QuestionWords engine_words(const QuestionWords& named, const Question& asked) {
  const std::string engine(name_of(asked.plan.engine)), &preset = asked.plan.preset;
  const std::pair<std::string, std::string> ways[] = {{"", ""}, {"engine", engine}, {"preset", preset}};
  for (const auto& [key, value] : ways) {
    if (key == "preset" && !is_preset(value)) continue;
    try {
      QuestionWords words = with_engine_words(named, key, value, asked);
      const Plan plan = asked_or_usual(words).plan;
      if (plan.engine == asked.plan.engine && plan.preset == preset) return words;
    } catch (const std::runtime_error&) {  // this engine has no such stage by default
    }
  }
  return with_engine_words(named, "engine", engine, asked);
}

// ---- words to a question ----

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text), words_(split_words(text)) {}

  std::variant<Asked, LineError> parse() {
    if (const std::size_t nul = text_.find('\0'); nul != std::string_view::npos) return LineError{nul, nul + 1, "a byte 0 is in no word"};
    if (const auto error = read_words()) return *error;
    Asked asked;
    asked.model_word = asked_.model;
    asked.cluster_word = asked_.on;
    if (const auto error = guarded(places_["model"], [&] { if (!is_plan_file(asked_.model)) (void)load_model(asked_.model); })) return *error;
    if (const auto error = guarded(places_["on"], [&] { if (!asked_.on.empty()) (void)load_cluster(asked_.on); })) return *error;
    if (const auto error = guarded(last_, [&] { asked.question = asked_or_usual(asked_); })) return *error;
    return asked;
  }

 private:
  static LineError at(const Word& word, std::string message) { return {word.begin, word.end, word.text.empty() ? std::move(message) : word.text + ": " + message}; }

  template <class Do>
  std::optional<LineError> guarded(const Word& blamed, Do&& what) {
    try {
      what();
      return std::nullopt;
    } catch (const WordError& error) {
      const auto place = places_.find(error.word);
      const Word word = place == places_.end() ? Word{"", text_.size(), text_.size()} : place->second;
      return LineError{word.begin, word.end, error.what()};
    } catch (const std::runtime_error& error) {
      return LineError{blamed.begin, blamed.end, error.what()};
    }
  }

  std::optional<LineError> read_words() {
    std::size_t i = 0;
    if (i < words_.size() && words_[i].text == "zeroplan") ++i;
    if (i < words_.size() && words_[i].text == "fit") ++i;
    for (; i < words_.size(); ++i) {
      const Word& word = words_[i];
      if (!word.text.starts_with("--")) {
        if (!asked_.model.empty()) return at(word, "is one word too many: the model is " + asked_.model);
        asked_.model = word.text;
        places_["model"] = last_ = word;
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
    if (asked_.model.empty()) return LineError{text_.size(), text_.size(), "the model is missing, as internlm2-20b"};
    return std::nullopt;
  }

  std::optional<LineError> take(const Word& flag, const Word& value) {
    const std::string key = key_of(flag.text);
    last_ = value;
    if (key == "set") {
      asked_.set.push_back(value.text);
      places_[value.text.substr(0, value.text.find('='))] = value;
      return std::nullopt;
    }
    places_[key] = value;
    if (key == "on") return void(asked_.on = value.text), std::nullopt;
    if (key == "host_memory") return void(asked_.host_memory = value.text), std::nullopt;
    std::vector<std::string_view> names;
    for (const QuestionKey& known : question_keys()) names.push_back(known.name);
    if (std::find(names.begin(), names.end(), key) == names.end()) return at(flag, fmt::format("is not known. {}", did_you_mean(names, key)));
    asked_.keys[key] = value.text;
    return std::nullopt;
  }

  std::string_view text_;
  std::vector<Word> words_;
  QuestionWords asked_;
  std::map<std::string, Word> places_;  // by key; also "model", "on", "host_memory"
  Word last_;
};

// ---- one thing changed ----

Asked asked_with(const QuestionWords& words, const Asked& before) { return {asked_or_usual(words), words.model, before.cluster_word}; }

// The same words for another model; nothing where they do not fit it or speak of a plan file.
std::optional<Asked> with_same_words(const Asked& asked, const std::string& model_word) {
  if (asked.cluster_word.empty() || is_plan_file(asked.model_word)) return std::nullopt;
  QuestionWords words = words_of(asked);
  words.model = model_word;
  words.keys.erase("num_layers");
  if (const auto blocks = words.keys.find("checkpoint"); blocks != words.keys.end() && blocks->second.starts_with("blocks-")) words.keys.erase(blocks);
  try {
    return asked_with(words, asked);
  } catch (const std::runtime_error&) {
    return std::nullopt;
  }
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
    } catch (const std::runtime_error&) {
      continue;
    }
    to = tried;
  }
}

// Adds `key` as it is in `from` where it is another than the words' and their engine has it.
void keep_key(QuestionWords& words, const Question& from, const char* key) {
  const std::string value = key_text(from, key);
  if (key_text(words.question(), key) == value) return;
  QuestionWords tried = words;
  tried.keys[key] = value;
  try {
    (void)tried.question();
    words = std::move(tried);
  } catch (const std::runtime_error&) {
  }
}

std::int64_t lowest_stage(Engine engine) {
  switch (engine) {
    case Engine::deepspeed: return 1;
    case Engine::fsdp1:
    case Engine::fsdp2: return 2;
    case Engine::zeroplan:
    case Engine::ddp:
    case Engine::single:
    case Engine::other: return 0;
  }
  return 0;
}

bool has_stages(Engine engine) { return engine != Engine::ddp && engine != Engine::single; }

}  // namespace

Asked asked_of(const std::string& model_word, const std::string& cluster_word) { return {asked_or_usual(words_naming(model_word, cluster_word)), model_word, cluster_word}; }

Asked asked_of(const std::string& model_word, const std::string& cluster_word, Engine engine) {
  return {words_naming(model_word, cluster_word).question_on(engine), model_word, cluster_word};
}

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
  if (is_plan_file(model_word)) return asked_of(model_word, "");
  const Question& from = asked.question;
  if (const auto same = with_same_words(asked, model_word)) return *same;
  Asked out{default_question(load_model(model_word), from.cluster), model_word, asked.cluster_word.empty() ? from.cluster.name : asked.cluster_word};
  choose_engine(out.question, from.plan.engine, from.plan.offload_optimizer != Offload::none);
  carry_keys(from, out.question);
  return out;
}

Asked with_cluster(const Asked& asked, const std::string& cluster_word) {
  Asked out = asked;
  out.cluster_word = cluster_word;
  out.question.cluster = load_cluster(cluster_word);
  out.question.cluster.host_bytes = asked.question.cluster.host_bytes;
  check_question(out.question);
  return out;
}

Asked with_key(const Asked& asked, std::string_view key, const std::string& value) {
  // A stage has settings of its own where the engine's tool has a file for each.
  if (key == "stage" && (asked.question.plan.engine == Engine::deepspeed || asked.question.plan.engine == Engine::fsdp2)) {
    QuestionWords words = words_of(asked);
    words.keys["stage"] = value;
    return asked_with(words, asked);
  }
  Asked out = asked;
  set_key_word(out.question, std::string(key), value);
  check_question(out.question);
  return out;
}

Asked with_engine(const Asked& asked, Engine engine) {
  const Question& from = asked.question;
  QuestionWords words = words_naming(asked.model_word, asked.cluster_word);
  if (from.cluster.host_bytes) words.host_memory = std::to_string(from.cluster.host_bytes->value());
  words.keys["engine"] = name_of(engine);
  if (has_stages(engine) && from.plan.stage >= lowest_stage(engine)) words.keys["stage"] = std::to_string(from.plan.stage);
  for (const char* key : {"compute_dtype", "seq", "micro_batch", "accumulate", "num_layers", "checkpoint"}) keep_key(words, from, key);
  return asked_with(words, asked);
}

Asked with_deepspeed(const Asked& asked, const std::string& file) {
  const Question& from = asked.question;
  const json settings = read_json_file(file);
  const auto is_open = [&](const char* key) { return !settings.contains(key) || !settings[key].is_number(); };
  QuestionWords words = words_naming(asked.model_word, asked.cluster_word);
  if (from.cluster.host_bytes) words.host_memory = std::to_string(from.cluster.host_bytes->value());
  words.keys["deepspeed"] = file;
  (void)words.question();  // what is wrong with the file is said as the file's
  for (const char* key : {"seq", "num_layers", "checkpoint"}) keep_key(words, from, key);
  if (is_open("train_micro_batch_size_per_gpu")) keep_key(words, from, "micro_batch");
  if (is_open("gradient_accumulation_steps")) keep_key(words, from, "accumulate");
  return asked_with(words, asked);
}

std::string key_text(const Question& question, std::string_view key) {
  const json value = get_key(question, key);
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::string out;
  for (const json& item : value) out += (out.empty() ? "" : ",") + (item.is_string() ? item.get<std::string>() : item.dump());
  return out.empty() ? "none" : out;
}

QuestionWords words_of(const Asked& asked) {
  QuestionWords named = words_naming(asked.model_word, asked.cluster_word);
  try {
    const std::optional<Bytes> host = asked.question.cluster.host_bytes;
    if (host && host != named.cluster().host_bytes) named.host_memory = std::to_string(host->value());
    QuestionWords words = engine_words(named, asked.question);
    const Question start = asked_or_usual(words);
    add_differences(words, start, asked.question);
    return words;
  } catch (const std::runtime_error&) {  // the file has gone: say every key that differs from the defaults
    Question start = default_question(asked.question.job.model, asked.question.cluster);
    set_engine(start, asked.question.plan.engine);
    named.keys["engine"] = name_of(asked.question.plan.engine);
    add_differences(named, start, asked.question);
    return named;
  }
}

std::string print_command_line(const Asked& asked) {
  const QuestionWords words = words_of(asked);
  std::string out = "zeroplan fit " + quoted(words.model);
  if (!words.on.empty()) out += " --on " + quoted(words.on);
  if (!words.host_memory.empty()) out += " --host-memory " + words.host_memory;
  for (const QuestionKey& key : question_keys())
    if (const auto value = words.keys.find(std::string(key.name)); value != words.keys.end()) out += fmt::format(" {} {}", flag_of(key.name), quoted(value->second));
  for (const std::string& assignment : words.set) out += " --set " + quoted(assignment);
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
