#include "simulator/validation.h"

#include <algorithm>
#include <array>

#include "planner/core/error.h"

namespace zeroplan {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, kMeasureCount> kNames{"requested_bytes", "allocated_bytes", "active_bytes", "reserved_bytes", "device_used_bytes",
                                                             "static_bytes", "host_bytes", "unnamed_bytes", "tried_bytes", "step_s", "tokens_per_s_per_gpu"};

/// A source that names no measure looked at one between the allocator's peak and nvidia-smi: the nearest of them.
Bytes nearest_between(Bytes low, Bytes high, double measured) {
  if (measured <= static_cast<double>(low.value())) return low;
  return measured >= static_cast<double>(high.value()) ? high : Bytes(static_cast<std::int64_t>(measured));
}

std::optional<double> predicted_value(const Prediction& p, Measure measure, double measured) {
  const auto bytes = [](Bytes value) { return std::optional(static_cast<double>(value.value())); };
  switch (measure) {
    case Measure::requested: return bytes(p.steady.requested);
    case Measure::allocated: return bytes(p.steady.allocated);
    case Measure::active: return bytes(p.steady_active());
    case Measure::reserved: return bytes(p.steady_reserved());
    case Measure::device_used: return bytes(p.device_used());
    case Measure::statics: return bytes(p.between_steps_allocated);
    case Measure::host: return bytes(p.host_bytes);
    case Measure::unnamed: return bytes(nearest_between(p.steady.allocated, p.device_used(), measured));
    case Measure::step_time: return p.cost ? std::optional(p.cost->step_s) : std::nullopt;
    case Measure::tokens_per_s: return p.cost ? std::optional(p.cost->tokens_per_s_per_gpu) : std::nullopt;
    case Measure::tried: break;
  }
  return std::nullopt;
}

/// What an out-of-memory error says is what was so at the failure, and not a peak.
std::optional<double> value_at_failure(const ReplayFailure& failure, Measure measure) {
  const auto bytes = [](Bytes value) { return std::optional(static_cast<double>(value.value())); };
  switch (measure) {
    case Measure::allocated: return bytes(failure.error.allocated_bytes);
    case Measure::reserved: return bytes(failure.error.allocated_bytes + failure.error.unallocated_bytes);
    case Measure::tried: return bytes(failure.error.segment_bytes);
    default: return std::nullopt;
  }
}

void compare_measures(const QuestionRow& row, ValidatedRow& out) {
  const bool failed = out.fits == false && out.prediction->failure;
  for (int m = 0; m < kMeasureCount; ++m) {
    const auto found = row.measured.find(kNames[static_cast<std::size_t>(m)]);
    if (found == row.measured.end() || !found->is_number()) continue;
    const auto measure = static_cast<Measure>(m);
    const double measured = found->get<double>();
    const auto predicted = failed ? value_at_failure(*out.prediction->failure, measure) : predicted_value(*out.prediction, measure, measured);
    if (predicted) out.compared.push_back({measure, failed ? "at the failure" : "", *predicted, measured, is_memory(measure) ? row.measured.value("memory_halfwidth_bytes", 0.0) : 0.0});
  }
}

void compare_phases(const QuestionRow& row, ValidatedRow& out) {
  const auto phases = row.measured.find("phases_requested_bytes");
  if (phases == row.measured.end()) return;
  for (const auto& [name, bytes] : phases->items())
    if (const PhaseMeasures* phase = out.prediction->phase(name))
      out.compared.push_back({Measure::requested, name, static_cast<double>(phase->requested.value()), bytes.get<double>(), 0});
  const auto between = row.measured.find("between_steps_requested_bytes");
  if (between != row.measured.end())
    out.compared.push_back({Measure::requested, "between_steps", static_cast<double>(out.prediction->between_steps_requested.value()), between->get<double>(), 0});
}

}  // namespace

std::string_view name_of(Measure measure) { return kNames[static_cast<std::size_t>(measure)]; }

bool is_memory(Measure measure) { return measure < Measure::step_time; }

bool ValidatedRow::wrong_verdict() const {
  return judged && fits && prediction && *fits == (prediction->verdict == Verdict::does_not_fit);
}

bool is_oracle_row(const QuestionRow& row) {
  const std::string& tool = row.question.plan.tool;
  return row.measured.contains("phases_requested_bytes") || (row.has_unknown_device() && (tool == "transformers" || tool == "torchtitan"));
}

ValidatedRow validate(const QuestionRow& row) {
  ValidatedRow out;
  out.id = row.id;
  out.engine = row.question.plan.engine;
  out.trust = row.trust;
  out.judged = !row.has_unknown_device();
  if (const auto fits = row.measured.find("fits"); fits != row.measured.end() && fits->is_boolean()) out.fits = fits->get<bool>();
  try {
    out.prediction = predict(row.question, {.device = is_oracle_row(row) ? EmulatedDevice::oracle : EmulatedDevice::gpu, .against_capacity = out.judged, .host_ahead = !is_oracle_row(row)});
  } catch (const UsageError& error) {
    out.refusal = error.what();
    return out;
  }
  compare_measures(row, out);
  compare_phases(row, out);
  return out;
}

}  // namespace zeroplan
