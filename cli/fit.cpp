#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/words.h"
#include "planner/core/format.h"

namespace zeroplan::cli {
namespace {

using nlohmann::json;

json change_json(const Fix& fix) {
  json change = json::object();
  for (const auto& [key, value] : fix.change) change[key] = get_key(fix.answer.question, key);
  return change;
}

json short_json(const Answer& a) {
  return {{"engine", "zeroplan"}, {"stage", a.question.plan.stage}, {"verdict", name_of(a.verdict)}, {"peak_bytes", a.arena.value()}, {"spare_bytes", a.spare.value()}, {"step_s", a.step_s()}};
}

json categories_json(const Answer& a) {
  json out = json::object();
  for (int c = 0; c < kCategoryCount; ++c) out[std::string(name_of(static_cast<Category>(c)))] = a.estimate.memory.by_category[static_cast<std::size_t>(c)];
  return out;
}

struct Report {
  Answer answer;
  Program program;
  std::vector<Fix> fixes;
  std::vector<Answer> stages;
  std::string next;
};

json report_json(const Report& r) {
  const Answer& a = r.answer;
  const MemoryEstimate& m = a.estimate.memory;
  const Fragment& fragment = *r.program.fragments[m.peak.fragment];
  const Traffic& t = a.estimate.traffic;
  json fixes = json::array(), engines = json::array();
  for (const Fix& fix : r.fixes)
    fixes.push_back({{"change", change_json(fix)}, {"peak_bytes", fix.answer.arena.value()}, {"step_s", fix.answer.step_s()}, {"verdict", name_of(fix.answer.verdict)}, {"changes_numerics", fix.changes_numerics}});
  for (const Answer& stage : r.stages) engines.push_back(short_json(stage));
  json question = json::object();
  for (const QuestionKey& key : question_keys()) question[std::string(key.name)] = get_key(a.question, key.name);
  return {
      {"format", "zeroplan-fit"}, {"version", 1}, {"engine", "zeroplan"}, {"preset", nullptr}, {"model", a.question.job.model.name}, {"cluster", a.question.cluster.name}, {"question", question},
      {"verdict", name_of(a.verdict)}, {"parameters", parameter_elems(a.question.job.model)}, {"peak_bytes", a.arena.value()}, {"peak_live_bytes", m.peak_live.value()}, {"by_category_bytes", categories_json(a)},
      {"peak", {{"phase", name_of(fragment.phase)}, {"instruction", fmt::format("{}.{} {}", fragment.name, m.peak.instruction, name_of(fragment.instructions[m.peak.instruction].op))},
                {"unit", fragment.unit == UnitKind::block ? fmt::format("block[{}]", m.peak.block) : std::string(name_of(fragment.unit))}, {"rank", 0}}},
      {"capacity_bytes", a.capacity.value()}, {"outside_bytes", {{"context", a.outside.context.value()}, {"nccl", a.outside.nccl.value()}, {"libraries", a.outside.libraries.value()}}},
      {"usable_bytes", a.usable.value()}, {"spare_bytes", a.spare.value()}, {"band_ratio", a.band_ratio},
      // Ours has one measure: what is live is requested, the arena is what the device gives; nothing lies between.
      {"measures", {{"requested_bytes", m.peak_live.value()}, {"allocated_bytes", m.peak_live.value()}, {"active_bytes", m.peak_live.value()}, {"reserved_bytes", a.arena.value()},
                    {"device_used_bytes", (a.arena + a.outside.total()).value()}}},
      {"phases_requested_bytes", {{"init", m.phase_peak[0].value()}, {"first.forward", m.phase_peak[1].value()}, {"first.backward", m.phase_peak[2].value()}, {"first.step", m.phase_peak[3].value()},
                                  {"steady.forward", m.phase_peak[1].value()}, {"steady.backward", m.phase_peak[2].value()}, {"steady.step", m.phase_peak[3].value()}}},
      {"between_steps_requested_bytes", m.between_steps.value()}, {"host_bytes", 0}, {"pinned_bytes", 0},
      {"communication_bytes", {{"all_gather", t.all_gather_bytes}, {"reduce_scatter", t.reduce_scatter_bytes}, {"all_reduce", t.all_reduce_bytes}}},
      {"step_s", a.step_s()}, {"tokens_per_s_per_gpu", a.tokens_per_s_per_gpu()}, {"mfu_ratio", a.mfu_ratio()}, {"fixes", fixes}, {"engines", engines}, {"next", r.next}};
}

void print_fixes(const Report& r) {
  if (r.fixes.empty()) {
    if (r.answer.verdict == Verdict::does_not_fit) fmt::print("no change of this plan fits: take more GPUs, a smaller batch or a smaller model\n");
    return;
  }
  fmt::print("{:<58} {:>10}  {:>9}\n", r.answer.verdict == Verdict::does_not_fit ? "make it fit (fastest first)" : "faster, and still fits", "peak", "step");
  for (const Fix& fix : r.fixes)
    fmt::print("  {:<56} {:>10}  {:>9}  {}{}\n", change_words(fix.change), format_gib(fix.answer.arena), format_seconds(fix.answer.step_s()), verdict_words(fix.answer.verdict),
               fix.changes_numerics ? " (rounds differently)" : "");
}

void print_report(const Report& r) {
  const Answer& a = r.answer;
  const MemoryEstimate& m = a.estimate.memory;
  fmt::print("{}\n\n", question_line(a.question));
  fmt::print("{}: needs {} of {} usable, {} {}\n", verdict_words(a.verdict), format_gib(a.arena), format_gib(a.usable), format_gib(a.spare < Bytes() ? Bytes() - a.spare : a.spare),
             a.spare < Bytes() ? "too much" : "spare");
  if (a.verdict == Verdict::tight) fmt::print("tight: the spare is less than what context, NCCL and libraries may differ by (±{:.1f} % of the peak)\n", 100 * a.band_ratio);
  fmt::print("  peak       {}, on every rank\n", place_words(r.program, m.peak));
  fmt::print("  live then  {}\n", category_words(m.by_category));
  fmt::print("             = {} live; the arena with its addresses takes {} ({:+.2f} %)\n", format_gib(m.peak_live), format_gib(a.arena),
             100.0 * (static_cast<double>(a.arena.value()) / static_cast<double>(m.peak_live.value()) - 1.0));
  fmt::print("  phases     init {} | forward {} | backward {} | step {} | between steps {}\n", format_gib(m.phase_peak[0]), format_gib(m.phase_peak[1]), format_gib(m.phase_peak[2]), format_gib(m.phase_peak[3]),
             format_gib(m.between_steps));
  fmt::print("  outside    context {} + NCCL {} + libraries {} of {} capacity; band ±{:.1f} % comes from there, the arena itself is exact\n", format_gib(a.outside.context), format_gib(a.outside.nccl),
             format_gib(a.outside.libraries), format_gib(a.capacity), 100 * a.band_ratio);
  const Traffic& t = a.estimate.traffic;
  fmt::print("  traffic    a step: all-gather {} | reduce-scatter {} | all-reduce {}\n", format_gib(Bytes(t.all_gather_bytes)), format_gib(Bytes(t.reduce_scatter_bytes)), format_gib(Bytes(t.all_reduce_bytes)));
  fmt::print("  time       about {} a step, {:.0f} tokens/s a GPU", format_seconds(a.step_s()), a.tokens_per_s_per_gpu());
  if (a.question.cluster.device.peak_bf16_flops_per_s > 0) fmt::print(", MFU {:.0f} % (6N + 6LhDS a token, of the data sheet's bf16)", 100 * a.mfu_ratio());
  fmt::print("\n");
  fmt::print("  host       nothing offloaded; {}\n\n", a.question.cluster.host_bytes ? fmt::format("{} a node", format_gib(*a.question.cluster.host_bytes)) : std::string("host memory of a node is unknown (--host-memory)"));
  fmt::print("the other stages, all else equal\n");
  for (const Answer& stage : r.stages)
    fmt::print("  stage {}  {:<12} {:>10} {}\n", stage.question.plan.stage, verdict_words(stage.verdict), format_gib(stage.arena), stage.question.plan.stage == a.question.plan.stage ? " <- asked" : "");
  fmt::print("\n");
  print_fixes(r);
  fmt::print("\nnext: {}\n", r.next);
}

std::string next_command(const FitOptions& options, const Answer& a, const std::vector<Fix>& fixes) {
  if (a.verdict == Verdict::does_not_fit && !fixes.empty() && fixes.front().answer.verdict != Verdict::does_not_fit)
    return fmt::format("zeroplan fit {}", options.question.as_typed(fixes.front().change));
  if (!options.save.empty()) return fmt::format("zeroplan prove {}", options.save);
  return fmt::format("zeroplan timeline {}", options.question.as_typed());
}

}  // namespace

int fit(const FitOptions& options) {
  const Question question = options.question.question();
  Compiler compiler;
  Pricer pricer;
  Report report{answer(question, compiler, pricer, true), compiler.compile(question), {}, {}, {}};
  report.fixes = ranked_fixes(report.answer, compiler, pricer);
  for (std::int64_t stage = 0; stage <= 3; ++stage) {
    Question other = question;
    other.plan.stage = stage;
    report.stages.push_back(stage == question.plan.stage ? report.answer : answer(other, compiler, pricer, true));
  }
  report.next = next_command(options, report.answer, report.fixes);
  if (!options.save.empty()) write_file_atomically(options.save, plan_to_json(question).dump(2) + "\n");
  if (options.json) fmt::print("{}\n", report_json(report).dump(2));
  else print_report(report);
  const bool no = report.answer.verdict == Verdict::does_not_fit || (options.strict && report.answer.verdict == Verdict::tight);
  return no ? 1 : 0;
}

}  // namespace zeroplan::cli
