#include "cli/fit_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/words.h"
#include "planner/core/format.h"

namespace zeroplan::cli {
namespace {

using nlohmann::json;

// ---- JSON ----

json change_json(const Remedy& remedy) {
  json change = json::object();
  for (const auto& [key, value] : remedy.change) change[key] = get_key(remedy.prediction.question, key);
  return change;
}

json step_json(const Prediction& p, double StepCost::*figure) { return p.cost ? json((*p.cost).*figure) : json(nullptr); }

json short_json(const EngineAnswer& a) {
  if (!a.prediction) return {{"engine", name_of(a.engine)}, {"verdict", nullptr}, {"refusal", a.refusal}};
  const Prediction& p = *a.prediction;
  return {{"engine", name_of(a.engine)}, {"preset", p.question.plan.preset.empty() ? json(nullptr) : json(p.question.plan.preset)}, {"stage", p.question.plan.stage}, {"verdict", name_of(p.verdict)},
          {"peak_bytes", p.must_fit.value()}, {"spare_bytes", p.spare.value()}, {"step_s", step_json(p, &StepCost::step_s)}};
}

json categories_json(const Prediction& p) {
  json out = json::object();
  for (int c = 0; c < kCategoryCount; ++c) out[std::string(name_of(static_cast<Category>(c)))] = p.by_category[static_cast<std::size_t>(c)];
  return out;
}

json phases_json(const Prediction& p) {
  json out = json::object();
  for (const PhaseMeasures& phase : p.phases) out[phase.phase] = phase.requested.value();
  return out;
}

json question_json(const Question& question) {
  json out = json::object();
  for (const QuestionKey& key : question_keys()) out[std::string(key.name)] = get_key(question, key.name);
  return out;
}

json save_json(const Prediction& p) {
  if (!p.saving) return nullptr;
  return {{"device_bytes", (p.between_steps_requested + p.saving->device_bytes).value()}, {"host_bytes", p.saving->host_bytes.value()}};
}

json host_ahead_json(const Prediction& p) {
  if (!p.ahead) return nullptr;
  return {{"active_bytes", p.ahead->whole.active.value()}, {"reserved_bytes", p.ahead->whole.reserved.value()}};
}

json measures_json(const Prediction& p) {
  return {{"requested_bytes", p.whole.requested.value()}, {"allocated_bytes", p.whole.allocated.value()}, {"active_bytes", p.whole.active.value()}, {"reserved_bytes", p.whole.reserved.value()},
          {"device_used_bytes", p.device_used().value()}, {"host_ahead", host_ahead_json(p)}};
}

json alive_json(const Prediction& p) {
  json out = json::array();
  for (const AlivePart& part : p.alive) out.push_back({{"site", part.site}, {"category", name_of(part.category)}, {"bytes", part.bytes.value()}});
  return out;
}

json failure_json(const Prediction& p) {
  if (!p.failure) return nullptr;
  return {{"phase", p.failure->phase}, {"instruction", p.failure->op}, {"site", p.failure->tag.site}, {"tried_bytes", p.failure->error.segment_bytes.value()}, {"message", text(p.failure->error)}};
}

json lists_json(const FitReport& r) {
  json fixes = json::array(), engines = json::array(), gaps = json::array(), notes = json::array(), stages = json::array();
  for (const Remedy& f : r.remedies)
    fixes.push_back({{"change", change_json(f)}, {"peak_bytes", f.prediction.must_fit.value()}, {"step_s", step_json(f.prediction, &StepCost::step_s)}, {"verdict", name_of(f.prediction.verdict)},
                     {"changes_numerics", f.changes_numerics}});
  for (const EngineAnswer& a : r.engines) engines.push_back(short_json(a));
  for (const EmulationGap& gap : r.asked.gaps) gaps.push_back({{"key", gap.key}, {"taken", gap.taken}});
  for (const DeepSpeedNote& note : r.notes) notes.push_back({{"code", name_of(note.code)}, {"key", note.key}, {"text", note.text}});
  for (const Prediction& p : r.other_stages) stages.push_back(short_json({p.question.plan.engine, p, ""}));
  return {{"fixes", fixes}, {"engines", engines}, {"not_modelled", gaps}, {"deepspeed_notes", notes}, {"stages", stages}};
}

// ---- text ----

std::string spare_words(const Prediction& p) {
  return fmt::format("{} {}", format_gib(p.spare < Bytes() ? Bytes() - p.spare : p.spare), p.spare < Bytes() ? "too much" : "spare");
}

std::string need_words(const Prediction& p) { return fmt::format("needs {} of {} usable, {}", format_gib(p.must_fit), format_gib(p.usable), spare_words(p)); }

void print_engines(const FitReport& r) {
  for (const EngineAnswer& a : r.engines) {
    if (!a.prediction) fmt::print("  {:<26} {}\n", engine_words(a.engine), a.refusal);
    else fmt::print("  {:<26} {:<12} {}\n", engine_words(a.prediction->question), verdict_words(a.prediction->verdict), need_words(*a.prediction));
  }
  if (!r.engines.empty()) fmt::print("\n");
}

void print_failure(const Prediction& p) {
  if (!p.failure) return;
  fmt::print("  fails      in {} at {}, asking for {} ({}); {} are allocated by then\n", p.failure->phase, p.failure->op, format_gib(p.failure->error.segment_bytes), p.failure->tag.site,
             format_gib(p.failure->error.allocated_bytes));
}

void print_peak(const Prediction& p) {
  fmt::print("  peak       {} of {}, {}; on every rank\n", p.peak.phase, p.peak.unit, p.peak.instruction);
  fmt::print("  live then  {}\n", category_words(p.by_category));
  if (p.alive.empty()) return;
  std::string parts;
  for (std::size_t i = 0; i < p.alive.size() && i < 4; ++i) parts += fmt::format("{}{} {}", parts.empty() ? "" : " | ", p.alive[i].site, format_gib(p.alive[i].bytes));
  fmt::print("  largest    {}\n", parts);
}

void print_phases(const Prediction& p) {
  const auto bytes = [&](const char* name) { return p.phase(name) != nullptr ? format_gib(p.phase(name)->requested) : std::string("?"); };
  fmt::print("  phases     init {} | first step: forward {}, backward {}, step {}\n", bytes("init"), bytes("first.forward"), bytes("first.backward"), bytes("first.step"));
  fmt::print("             later steps: forward {}, backward {}, step {} | between steps {}\n", bytes("steady.forward"), bytes("steady.backward"), bytes("steady.step"), format_gib(p.between_steps_requested));
}

void print_measures(const Prediction& p) {
  if (p.question.plan.engine == Engine::zeroplan)
    fmt::print("  measures   {} live; the arena with its addresses takes {} ({:+.2f} %)\n", format_gib(p.whole.requested), format_gib(p.must_fit),
               100.0 * (static_cast<double>(p.must_fit.value()) / static_cast<double>(p.whole.requested.value()) - 1.0));
  else
    fmt::print("  measures   requested {} ≤ allocated {} ≤ active {} ≤ reserved {}{} {}\n", format_gib(p.whole.requested), format_gib(p.whole.allocated), format_gib(p.whole.active), format_gib(p.whole.reserved),
               p.must_fit == p.whole.reserved ? "; nvidia-smi shows" : fmt::format(" where there is room, {} (the need) where the cache is emptied in time; nvidia-smi then shows", format_gib(p.must_fit)),
               format_gib(p.device_used()));
}

void print_host_ahead(const Prediction& p) {
  if (p.ahead && p.ahead->whole.active > p.whole.active)
    fmt::print("  host ahead active {}, reserved {}: while the host runs ahead, blocks wait for the streams that use them; where memory is short the allocator waits for them too, so a job needs no more\n",
               format_gib(p.ahead->whole.active), format_gib(p.ahead->whole.reserved));
}

void print_outside(const Prediction& p) {
  const std::string libraries = p.outside.libraries > Bytes() ? fmt::format(" + libraries {}", format_gib(p.outside.libraries)) : "";
  fmt::print("  outside    context {} + NCCL {}{} of {} capacity\n", format_gib(p.outside.context), format_gib(p.outside.nccl), libraries, format_gib(p.capacity));
  const char* source = p.question.plan.engine == Engine::zeroplan ? "what lies outside; the arena itself is exact" : "19 in 20 published measurements against predictions (docs/validation.md)";
  fmt::print("  band       ±{:.1f} % of the need, from {}\n", 100 * p.band_ratio, source);
}

void print_cost(const Prediction& p) {
  if (!p.cost) return;
  const Traffic& t = p.cost->traffic;
  fmt::print("  traffic    a step: all-gather {} | reduce-scatter {} | all-reduce {}\n", format_gib(Bytes(t.all_gather_bytes)), format_gib(Bytes(t.reduce_scatter_bytes)), format_gib(Bytes(t.all_reduce_bytes)));
  fmt::print("  time       about {} a step, {:.0f} tokens/s a GPU", format_seconds(p.cost->step_s), p.cost->tokens_per_s_per_gpu);
  if (p.question.cluster.device.peak_bf16_flops_per_s > 0) fmt::print(", MFU {:.0f} % (6N + 6LhDS a token, of the data sheet's bf16)", 100 * p.cost->mfu_ratio);
  fmt::print("\n");
}

void print_host(const Prediction& p) {
  const std::string has = p.question.cluster.host_bytes ? fmt::format("{} a node", format_gib(*p.question.cluster.host_bytes)) : std::string("memory of a node is unknown (--host-memory)");
  if (p.saving)
    fmt::print("  save       between steps {} + {} ({}); {} of host memory on rank 0\n", format_gib(p.between_steps_requested), format_gib(p.saving->device_bytes), words_of(p.saving->kind),
               format_gib(p.saving->host_bytes));
  if (p.host_bytes == Bytes()) fmt::print("  host       nothing offloaded; {}\n", has);
  else fmt::print("  host       {} a node, {} of it pinned; {}{}\n", format_gib(p.host_bytes), format_gib(p.pinned_bytes), has, p.host_fits() ? "" : ": DOES NOT FIT");
}

void print_asked(const FitReport& r) {
  const Prediction& p = r.asked;
  fmt::print("{}: {}: {}\n", engine_words(p.question), verdict_words(p.verdict), need_words(p));
  if (p.verdict == Verdict::tight && p.cache_emptied == 0) fmt::print("tight: the spare is less than what predictions and runs may differ by (±{:.1f} % of the need)\n", 100 * p.band_ratio);
  if (p.verdict == Verdict::tight && p.cache_emptied > 0) fmt::print("tight: it runs only because the allocator empties its cache {} times, which costs time\n", p.cache_emptied);
  print_failure(p);
  print_peak(p);
  print_phases(p);
  print_measures(p);
  print_host_ahead(p);
  print_outside(p);
  print_cost(p);
  print_host(p);
  for (const EmulationGap& gap : p.gaps) fmt::print("  not modelled  {}: taken {}\n", gap.key, gap.taken);
  for (const DeepSpeedNote& note : r.notes) fmt::print("  note       {}: {}\n", note.key, note.text);
  if (!r.version_warning.empty()) fmt::print("  versions   {}\n", r.version_warning);
}

void print_stages(const FitReport& r) {
  if (r.other_stages.empty()) return;
  fmt::print("\nthe other stages, all else equal\n");
  for (const Prediction& p : r.other_stages)
    fmt::print("  stage {}  {:<12} {:>10} {}\n", p.question.plan.stage, verdict_words(p.verdict), format_gib(p.must_fit), p.question.plan.stage == r.asked.question.plan.stage ? " <- asked" : "");
}

void print_remedies(const FitReport& r) {
  const bool no = r.asked.verdict == Verdict::does_not_fit;
  if (r.remedies.empty()) {
    if (no) fmt::print("\nno change of these settings fits: take more GPUs, a smaller batch or a smaller model\n");
    return;
  }
  fmt::print("\n{:<58} {:>10}  {:>9}\n", no ? "make it fit (fastest first)" : "faster, and still fits", "peak", "step");
  for (const Remedy& f : r.remedies) {
    fmt::print("  {:<56} {:>10}  {:>9}  {}{}\n", change_words(f.change), format_gib(f.prediction.must_fit), f.prediction.cost ? format_seconds(f.prediction.cost->step_s) : "",
               verdict_words(f.prediction.verdict), f.changes_numerics ? " (rounds differently)" : "");
    const std::string in_tool = tool_words(f.prediction.question, f.change);
    if (!in_tool.empty()) fmt::print("      {}\n", in_tool);
  }
}

}  // namespace

void print_fit(const FitReport& r) {
  fmt::print("{}\n\n", question_line(r.asked.question));
  print_engines(r);
  print_asked(r);
  print_stages(r);
  print_remedies(r);
  fmt::print("\nnext: {}\n", r.next);
}

std::string fit_json(const FitReport& r) {
  const Prediction& p = r.asked;
  const Question& q = p.question;
  const Traffic traffic = p.cost ? p.cost->traffic : Traffic{};
  json out = {
      {"format", "zeroplan-fit"}, {"version", 1}, {"engine", name_of(q.plan.engine)}, {"preset", q.plan.preset.empty() ? json(nullptr) : json(q.plan.preset)}, {"model", q.job.model.name},
      {"cluster", q.cluster.name}, {"question", question_json(q)}, {"verdict", name_of(p.verdict)}, {"parameters", parameter_elems(q.job.model)}, {"peak_bytes", p.must_fit.value()},
      {"peak_live_bytes", p.whole.requested.value()}, {"by_category_bytes", categories_json(p)}, {"peak", {{"phase", p.peak.phase}, {"instruction", p.peak.instruction}, {"unit", p.peak.unit}, {"rank", p.peak.rank}}},
      {"alive", alive_json(p)}, {"capacity_bytes", p.capacity.value()},
      {"outside_bytes", {{"context", p.outside.context.value()}, {"nccl", p.outside.nccl.value()}, {"libraries", p.outside.libraries.value()}}},
      {"usable_bytes", p.usable.value()}, {"spare_bytes", p.spare.value()}, {"band_ratio", p.band_ratio}, {"measures", measures_json(p)}, {"phases_requested_bytes", phases_json(p)},
      {"between_steps_requested_bytes", p.between_steps_requested.value()}, {"host_bytes", p.host_bytes.value()}, {"pinned_bytes", p.pinned_bytes.value()}, {"save", save_json(p)},
      {"communication_bytes", {{"all_gather", traffic.all_gather_bytes}, {"reduce_scatter", traffic.reduce_scatter_bytes}, {"all_reduce", traffic.all_reduce_bytes}}},
      {"step_s", step_json(p, &StepCost::step_s)}, {"tokens_per_s_per_gpu", step_json(p, &StepCost::tokens_per_s_per_gpu)}, {"mfu_ratio", step_json(p, &StepCost::mfu_ratio)},
      {"failure", failure_json(p)}, {"version_warning", r.version_warning.empty() ? json(nullptr) : json(r.version_warning)}, {"next", r.next}};
  out.update(lists_json(r));
  return out.dump(2);
}

}  // namespace zeroplan::cli
