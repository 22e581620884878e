#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/words.h"
#include "planner/core/format.h"
#include "profiles/catalog.h"
#include "simulator/validation.h"

namespace zeroplan::cli {
namespace {

using nlohmann::json;

json phases_json(const Prediction& p, Bytes PhaseMeasures::*measure) {
  json out = json::object();
  for (const PhaseMeasures& phase : p.phases) out[phase.phase] = (phase.*measure).value();
  return out;
}

json predicted_json(const Prediction& p) {
  json out = {{"requested_bytes", p.steady.requested.value()}, {"phases_requested_bytes", phases_json(p, &PhaseMeasures::requested)},
              {"between_steps_requested_bytes", p.between_steps_requested.value()}, {"after_init_requested_bytes", p.after_init_requested.value()},
              {"allocated_bytes", p.steady.allocated.value()}, {"active_bytes", p.steady_active().value()}, {"reserved_bytes", p.steady_reserved().value()},
              {"device_used_bytes", p.device_used().value()}, {"static_bytes", p.between_steps_allocated.value()}, {"host_bytes", p.host_bytes.value()}};
  if (p.whole.host_requested > Bytes()) out["phases_host_requested_bytes"] = phases_json(p, &PhaseMeasures::host_requested);
  return out;
}

json row_json(const ValidatedRow& row) {
  json gaps = json::array();
  if (!row.prediction) return {{"id", row.id}, {"predicted", nullptr}, {"verdict", nullptr}, {"band_ratio", nullptr}, {"not_modelled", json::array({"model"})}, {"refusal", row.refusal}};
  for (const EmulationGap& gap : row.prediction->gaps) gaps.push_back(gap.key);
  return {{"id", row.id}, {"predicted", predicted_json(*row.prediction)}, {"verdict", row.judged ? json(name_of(row.prediction->verdict)) : json(nullptr)},
          {"band_ratio", row.prediction->band_ratio}, {"not_modelled", gaps}};
}

std::string value_words(Measure measure, double value) {
  if (is_memory(measure)) return format_gib(Bytes(static_cast<std::int64_t>(value)));
  return measure == Measure::step_time ? format_seconds(value) : fmt::format("{:.0f}", value);
}

void print_row(const ValidatedRow& row) {
  std::string verdict = "";
  if (row.judged && row.prediction && row.fits)
    verdict = fmt::format("  {}, ran {}{}", verdict_words(row.prediction->verdict), *row.fits ? "through" : "out of memory", row.wrong_verdict() ? "  <- wrong" : "");
  fmt::print("{}{}\n", row.id, verdict);
  if (!row.prediction) fmt::print("    {}\n", row.refusal);
  for (const Compared& c : row.compared) {
    std::string what(name_of(c.measure));
    if (!c.phase.empty()) what += " " + c.phase;
    fmt::print("    {:<34} predicted {:>11}  measured {:>11}  {:+7.2f} %\n", what, value_words(c.measure, c.predicted), value_words(c.measure, c.measured), 100 * c.error_ratio());
  }
  if (!row.prediction) return;
  for (const EmulationGap& gap : row.prediction->gaps) fmt::print("    not modelled: {}, taken {}\n", gap.key, gap.taken);
}

double quantile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1) + 0.5)];
}

void print_summary(const std::vector<ValidatedRow>& rows) {
  std::map<std::pair<std::string, std::string>, std::vector<double>> errors;
  int refused = 0, judged = 0, wrong = 0;
  for (const ValidatedRow& row : rows) {
    if (!row.prediction) ++refused;
    if (row.judged && row.fits && row.prediction) ++judged;
    if (row.wrong_verdict()) ++wrong;
    for (const Compared& c : row.compared) {
      std::string measure(name_of(c.measure));
      if (!c.phase.empty()) measure += c.measure == Measure::requested ? " of a phase" : " " + c.phase;
      errors[{std::string(name_of(row.engine)), measure}].push_back(std::abs(c.error_ratio()));
      errors[{"all engines", measure}].push_back(std::abs(c.error_ratio()));
    }
  }
  fmt::print("\n{:<12} {:<28} {:>6} {:>12} {:>14} {:>10}\n", "engine", "measure", "values", "median |err|", "nine in ten ≤", "worst");
  for (const auto& [key, values] : errors)
    fmt::print("{:<12} {:<28} {:>6} {:>10.2f} % {:>12.2f} % {:>8.1f} %\n", key.first, key.second, values.size(), 100 * quantile(values, 0.5), 100 * quantile(values, 0.9), 100 * quantile(values, 1));
  fmt::print("{} rows: {} refused; {} verdicts, {} wrong\n", rows.size(), refused, judged, wrong);
}

}  // namespace

int validate(const ValidateOptions& options) {
  const std::vector<QuestionRow> questions = rows_from_json(read_json_file(options.file), options.file);
  std::vector<ValidatedRow> rows;
  for (const QuestionRow& question : questions) {
    rows.push_back(zeroplan::validate(question));
    if (rows.size() % 10 == 0 || rows.size() == questions.size()) fmt::print(stderr, "\r{} of {} rows", rows.size(), questions.size());
  }
  fmt::print(stderr, "\n");
  if (options.json) {
    json list = json::array();
    for (const ValidatedRow& row : rows) list.push_back(row_json(row));
    fmt::print("{}\n", json{{"format", "zeroplan-validate"}, {"version", 1}, {"rows", list}}.dump(2));
    return 0;
  }
  for (const ValidatedRow& row : rows) print_row(row);
  print_summary(rows);
  return 0;
}

}  // namespace zeroplan::cli
