#include "gui/models/session_file.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/json_fields.h"

namespace zeroplan::gui {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr const char* kFormat = "zeroplan-session";
constexpr const char* kRemedy = "save it again with Save session";

json json_of(const Asked& asked) { return {{"model_word", asked.model_word}, {"cluster_word", asked.cluster_word}, {"plan", plan_to_json(asked.question)}}; }

constexpr NumberRange kRatio{0, 1};
constexpr IntegerRange kEvent{0, std::numeric_limits<std::int64_t>::max()};

/// May be empty.
std::string words_of(const JsonFields& fields, const char* key) {
  const json& value = fields.at(key);
  if (!value.is_string()) fields.fail(key, fmt::format("must be a text, got {}", describe(value)), kRemedy);
  return value;
}

Asked asked_of_json(const JsonFields& fields) {
  fields.refuse_unknown({"model_word", "cluster_word", "plan"});
  Asked out;
  out.model_word = words_of(fields, "model_word");
  out.cluster_word = words_of(fields, "cluster_word");
  out.question = plan_from_json(fields.at("plan"), fields.file());
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
  const json whole = parse_json(text, file);
  check_format(whole, file);
  const JsonFields fields(whole, file, "");
  fields.refuse_unknown({"format", "version", "b", "a", "a_is_pinned", "screen", "view", "files", "compare"});
  SessionFile out;
  out.b = asked_of_json(fields.object("b"));
  if (fields.has("a")) out.a = asked_of_json(fields.object("a"));
  out.a_is_pinned = fields.boolean("a_is_pinned");
  out.screen = fields.text("screen");
  const JsonFields view = fields.object("view");
  view.refuse_unknown({"from_ratio", "to_ratio", "selected_event"});
  out.from_ratio = view.number("from_ratio", kRatio);
  out.to_ratio = view.number("to_ratio", kRatio);
  if (out.from_ratio >= out.to_ratio) view.fail("to_ratio", "is not after from_ratio", kRemedy);
  out.selected_event = view.integer("selected_event", kEvent);
  const json& files = fields.at("files");
  if (!files.is_array()) fields.fail("files", fmt::format("must be a list, got {}", describe(files)), kRemedy);
  for (const json& name : files) {
    if (!name.is_string()) fields.fail("files", fmt::format("must hold file names, got {}", describe(name)), kRemedy);
    out.files.push_back(name);
  }
  const JsonFields compare = fields.object("compare");
  compare.refuse_unknown({"a", "b"});
  out.compare_a = words_of(compare, "a");
  out.compare_b = words_of(compare, "b");
  return out;
}

}  // namespace zeroplan::gui
