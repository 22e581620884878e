#include "simulator/timeline_files.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace zeroplan {
namespace {

/// A field that may hold anything.
std::string csv_field(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::string seconds_field(std::optional<SimTime> time) { return time ? fmt::format(",{:.9f}", seconds(*time)) : ","; }

/// Consecutive instants of one phase.
struct PhaseRun {
  std::size_t begin = 0, end = 0;
  std::size_t columns = 0;
};

std::vector<PhaseRun> runs_of(const Timeline& t) {
  std::vector<PhaseRun> out;
  for (std::size_t i = 0; i < t.instants.size(); ++i) {
    if (out.empty() || t.instants[i].phase != t.instants[out.back().begin].phase) out.push_back({i, i, 0});
    out.back().end = i + 1;
  }
  return out;
}

/// Gives every run its share of the columns; where there are not many, none less than what can be seen. They sum up to `count`.
void share(std::vector<PhaseRun>& runs, const Timeline& t, std::size_t count) {
  constexpr std::size_t kFew = 6, kMany = 14;
  const std::size_t visible = runs.size() <= kFew ? count / 12 : runs.size() <= kMany ? count / 24 : 0;
  const auto least = [&](const PhaseRun& run) { return t.instants[run.begin].phase == "before" ? visible / 16 : visible; };
  std::size_t spare = count, instants = 0;
  for (const PhaseRun& run : runs) {
    spare -= std::min(spare, least(run));
    instants += run.end - run.begin;
  }
  std::size_t seen = 0, given = 0;
  for (PhaseRun& run : runs) {
    const std::size_t before = spare * seen / instants;
    seen += run.end - run.begin;
    run.columns = std::min(least(run) + spare * seen / instants - before, count - given);
    given += run.columns;
  }
}

TimelineColumn column_of(const Timeline& t, std::size_t begin, std::size_t end) {
  TimelineColumn out{begin, end, begin, std::nullopt};
  for (std::size_t i = begin; i < end; ++i) {
    if (t.instants[i].live > t.instants[out.highest].live) out.highest = i;
    if (t.instants[i].taken) out.most_taken = std::max(out.most_taken.value_or(*t.instants[i].taken), *t.instants[i].taken);
  }
  return out;
}

}  // namespace

std::vector<std::array<std::int64_t, kCategoryCount>> category_series(const Timeline& t) {
  std::vector<std::array<std::int64_t, kCategoryCount>> out(t.instants.size() + 1);
  for (const TimelineTensor& tensor : t.tensors) {
    const auto category = static_cast<std::size_t>(tensor.category);
    out[tensor.birth][category] += tensor.bytes.value();
    if (tensor.death < t.instants.size()) out[tensor.death + 1][category] -= tensor.bytes.value();
  }
  for (std::size_t i = 1; i < out.size(); ++i)
    for (std::size_t c = 0; c < kCategoryCount; ++c) out[i][c] += out[i - 1][c];
  out.pop_back();
  return out;
}

std::vector<TimelineColumn> columns_of(const Timeline& t, std::size_t count) {
  std::vector<PhaseRun> runs = runs_of(t);
  std::vector<TimelineColumn> out;
  if (runs.size() > count) runs = {{0, t.instants.size(), count}};
  else share(runs, t, count);
  std::size_t skipped = 0;
  bool skips = false;  // a run without a column of its own is drawn with the next
  for (const PhaseRun& run : runs) {
    const std::size_t first = skips ? skipped : run.begin, n = run.end - first;
    skips = run.columns == 0;
    skipped = first;
    for (std::size_t c = 0; c < run.columns; ++c) {
      const std::size_t begin = first + c * n / run.columns;
      out.push_back(column_of(t, begin, std::max(begin + 1, first + (c + 1) * n / run.columns)));
    }
  }
  if (skips && !out.empty()) out.back() = column_of(t, out.back().begin, t.instants.size());
  return out;
}

std::vector<std::size_t> highest_instants(const Timeline& t, std::size_t count) {
  std::vector<std::size_t> out;
  for (const TimelineColumn& column : columns_of(t, count)) out.push_back(column.highest);
  return out;
}

Bytes top_of(const Timeline& t) {
  Bytes out;
  for (const TimelineInstant& instant : t.instants) out = std::max({out, instant.live, instant.taken.value_or(Bytes())});
  return out;
}

bool nears_capacity(const Timeline& t) { return 3 * top_of(t) > t.capacity; }

std::string timeline_csv(const Timeline& t) {
  std::string out = "index,phase,unit,instruction,stream,live_bytes";
  for (int c = 0; c < kCategoryCount; ++c) out += fmt::format(",{}_bytes", name_of(static_cast<Category>(c)));
  out += ",device_bytes,start_s,end_s\n";
  const auto series = category_series(t);
  for (std::size_t i = 0; i < t.instants.size(); ++i) {
    const TimelineInstant& instant = t.instants[i];
    out += fmt::format("{},{},{},{},{},{}", i, instant.phase, instant.unit, csv_field(instant.name), name_of(instant.stream), instant.live.value());
    for (const std::int64_t bytes : series[i]) out += fmt::format(",{}", bytes);
    out += instant.taken ? fmt::format(",{}", instant.taken->value()) : ",";
    out += seconds_field(instant.start) + seconds_field(instant.end) + "\n";
  }
  return out;
}

std::string timeline_json_lines(const Timeline& t) {
  std::string out;
  for (const TimelineTensor& tensor : t.tensors)
    out += nlohmann::json{{"name", tensor.name}, {"category", name_of(tensor.category)}, {"unit", tensor.unit}, {"stream", name_of(tensor.stream)}, {"bytes", tensor.bytes.value()}, {"birth", tensor.birth},
                          {"death", tensor.death}, {"born", instant_line(t, tensor.birth)}, {"dies", instant_line(t, tensor.death)}, {"why", tensor.why}}.dump() + "\n";
  return out;
}

std::string timeline_chrome(const Timeline& t) {
  std::string out = "{\"traceEvents\":[\n";
  const auto series = category_series(t);
  const auto counter = [&](std::size_t i, const char* name, const nlohmann::json& values) { out += nlohmann::json{{"ph", "C"}, {"pid", 0}, {"ts", i}, {"name", name}, {"args", values}}.dump() + ",\n"; };
  for (std::size_t i = 0; i < t.instants.size(); ++i) {
    const TimelineInstant& instant = t.instants[i];
    nlohmann::json parts = nlohmann::json::object();
    for (int c = 0; c < kCategoryCount; ++c) parts[std::string(name_of(static_cast<Category>(c)))] = series[i][static_cast<std::size_t>(c)];
    counter(i, "live bytes", parts);
    const bool changes = i == 0 || instant.taken != t.instants[i - 1].taken;
    if (instant.taken && changes) counter(i, "reserved bytes", {{"reserved", instant.taken->value()}});
    out += nlohmann::json{{"ph", "X"}, {"pid", 0}, {"tid", static_cast<int>(instant.stream)}, {"ts", i}, {"dur", 1}, {"name", instant.name}, {"args", {{"unit", instant.unit}, {"phase", instant.phase}}}}.dump() + ",\n";
  }
  return out + "{\"ph\":\"M\",\"pid\":0,\"name\":\"process_name\",\"args\":{\"name\":\"rank 0, one microsecond an instant\"}}\n]}\n";
}

}  // namespace zeroplan
