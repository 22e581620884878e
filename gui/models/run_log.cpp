#include "gui/models/run_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace zeroplan::gui {
namespace {

using nlohmann::json;

// The log may come from anywhere: a key of another type counts as absent.
std::int64_t integer(const json& event, const char* key) {
  const auto it = event.find(key);
  return it != event.end() && it->is_number_integer() ? it->get<std::int64_t>() : 0;
}
double number(const json& event, const char* key) {
  const auto it = event.find(key);
  return it != event.end() && it->is_number() ? it->get<double>() : 0;
}
std::string words(const json& event, const char* key) {
  const auto it = event.find(key);
  return it != event.end() && it->is_string() ? it->get<std::string>() : "";
}

}  // namespace

void RunLog::add(std::string_view bytes) {
  rest_ += bytes;
  std::size_t begin = 0;
  for (std::size_t end; (end = rest_.find('\n', begin)) != std::string::npos; begin = end + 1) line(std::string_view(rest_).substr(begin, end - begin));
  rest_.erase(0, begin);
}

void RunLog::line(std::string_view text) {
  if (text.empty()) return;
  last_line_ = text;
  const json event = json::parse(text, nullptr, false);
  if (!event.is_object()) return;
  const std::string kind = words(event, "event");
  if (kind == "start") {
    planned_steps_ = integer(event, "steps");
    arena_bytes_ = integer(event, "arena_bytes");
    world_ = integer(event, "world");
  } else if (kind == "step") {
    steps_.push_back({integer(event, "step"), integer(event, "rank"), number(event, "loss"), number(event, "step_s"), integer(event, "tokens"), integer(event, "predicted_peak_bytes"),
                      integer(event, "measured_peak_bytes"), integer(event, "surprise_bytes")});
  } else if (kind == "end") {
    ended_ = true;
  } else if (kind == "error") {
    std::string sentence = words(event, "message");
    if (sentence.empty()) sentence = std::string(text);
    for (const char* key : {"rank", "step", "instruction"})
      if (event.contains(key)) sentence += fmt::format(", {} {}", key, integer(event, key));
    if (const std::string op = words(event, "op"); !op.empty()) sentence += " " + op;
    failure_ = sentence;
  }
}

std::size_t RunLog::equal_steps() const {
  return static_cast<std::size_t>(std::count_if(steps_.begin(), steps_.end(), [](const RunStep& s) { return s.predicted_peak_bytes == s.measured_peak_bytes; }));
}

}  // namespace zeroplan::gui
