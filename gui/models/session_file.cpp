#include "gui/models/session_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"

namespace zeroplan::gui {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr const char* kFormat = "zeroplan-session";
constexpr const char* kRemedy = "save it again with Save session";

json json_of(const Asked& asked) { return {{"model_word", asked.model_word}, {"cluster_word", asked.cluster_word}, {"plan", plan_to_json(asked.question)}}; }

// One object whose keys are all used, each of the type that is asked for.
class Reader {
 public:
  Reader(const json& object, std::string file, std::string place) : object_(object), file_(std::move(file)), place_(std::move(place)) {
    if (!object.is_object()) refuse("", "is no object");
  }

  const json& at(const char* key) {
    const auto it = object_.find(key);
    if (it == object_.end()) refuse(key, "is missing");
    known_.push_back(key);
    return *it;
  }
  std::string text(const char* key) {
    const json& value = at(key);
    if (!value.is_string()) refuse(key, "is no text");
    return value;
  }
  double ratio(const char* key) {
    const json& value = at(key);
    if (!value.is_number() || value.get<double>() < 0 || value.get<double>() > 1) refuse(key, "is no number from 0 to 1");
    return value;
  }
  std::int64_t count(const char* key) {
    const json& value = at(key);
    if (!value.is_number_integer() || value.get<std::int64_t>() < 0) refuse(key, "is no count");
    return value;
  }
  bool boolean(const char* key) {
    const json& value = at(key);
    if (!value.is_boolean()) refuse(key, "is neither true nor false");
    return value;
  }
  Reader object(const char* key) { return {at(key), file_, place_ + "/" + key}; }
  void end() const {
    for (const auto& [key, value] : object_.items())
      if (std::find(known_.begin(), known_.end(), key) == known_.end()) refuse(key, "is not known");
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& problem) const { throw InputError(file_, key.empty() ? place_ : place_ + "/" + key, problem, kRemedy); }
  const std::string& file() const { return file_; }

 private:
  const json& object_;
  std::string file_, place_;
  std::vector<std::string> known_;
};

Asked asked_of_json(Reader reader) {
  Asked out;
  out.model_word = reader.text("model_word");
  out.cluster_word = reader.text("cluster_word");
  out.question = plan_from_json(reader.at("plan"), reader.file());
  reader.end();
  return out;
}

void check_format(const json& whole, const std::string& file) {
  if (!whole.is_object() || whole.value("format", json()) != kFormat) throw InputError(file, "/format", fmt::format("is not {}", kFormat), "open a file that Save session has written");
  const json version = whole.value("version", json());
  if (version != kVersion) throw InputError(file, "/version", fmt::format("is {}, this program reads version {}", version.dump(), kVersion), "open it with the program that wrote it");
}

}  // namespace

std::string session_text(const SessionFile& s) {
  const json out{{"format", kFormat},
                 {"version", kVersion},
                 {"b", json_of(s.b)},
                 {"a", s.a ? json_of(*s.a) : json()},
                 {"a_is_pinned", s.a_is_pinned},
                 {"screen", s.screen},
                 {"view", {{"from_ratio", s.from_ratio}, {"to_ratio", s.to_ratio}, {"selected_event", s.selected_event}}},
                 {"files", s.files},
                 {"compare", {{"a", s.compare_a}, {"b", s.compare_b}}}};
  return out.dump(2) + "\n";
}

SessionFile session_of_text(const std::string& text, const std::string& file) {
  const json whole = json::parse(text, nullptr, false);
  if (whole.is_discarded()) throw InputError(file, "", "is no JSON", kRemedy);
  check_format(whole, file);
  Reader reader(whole, file, "");
  for (const char* seen : {"format", "version"}) (void)reader.at(seen);
  SessionFile out;
  out.b = asked_of_json(reader.object("b"));
  if (!reader.at("a").is_null()) out.a = asked_of_json(reader.object("a"));
  out.a_is_pinned = reader.boolean("a_is_pinned");
  out.screen = reader.text("screen");
  Reader view = reader.object("view");
  out.from_ratio = view.ratio("from_ratio");
  out.to_ratio = view.ratio("to_ratio");
  if (out.from_ratio >= out.to_ratio) view.refuse("to_ratio", "is not after from_ratio");
  out.selected_event = view.count("selected_event");
  view.end();
  const json& files = reader.at("files");
  if (!files.is_array()) reader.refuse("files", "is no list");
  for (const json& name : files) {
    if (!name.is_string()) reader.refuse("files", "holds what is no file name");
    out.files.push_back(name);
  }
  Reader compare = reader.object("compare");
  out.compare_a = compare.text("a");
  out.compare_b = compare.text("b");
  compare.end();
  reader.end();
  return out;
}

}  // namespace zeroplan::gui
