#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/fit_report.h"
#include "cli/words.h"
#include "planner/core/error.h"
#include "planner/core/format.h"
#include "profiles/catalog.h"

namespace zeroplan::cli {
namespace {

/// The runtimes that people choose between, in the order of the overview.
constexpr Engine kOverview[] = {Engine::deepspeed, Engine::fsdp2, Engine::ddp, Engine::zeroplan};

EngineAnswer ask(const FitOptions& options, Engine engine) {
  EngineAnswer out{engine, std::nullopt, ""};
  try {
    out.prediction = predict(options.question.question_on(engine));
  } catch (const UsageError& error) {
    out.refusal = error.what();
  }
  return out;
}

std::vector<Remedy> remedies_of(const Prediction& asked) {
  if (asked.question.plan.engine != Engine::zeroplan) return ranked_remedies(asked);
  Compiler compiler;
  Pricer pricer;
  std::vector<Remedy> out;
  for (const Fix& fix : ranked_fixes(answer(asked.question, compiler, pricer, true), compiler, pricer)) out.push_back({fix.change, predict(fix.answer.question), fix.changes_numerics});
  return out;
}

/// The question at every stage of its engine, the asked one among them.
std::vector<Prediction> stages_of(const FitOptions& options, const Prediction& asked) {
  const Engine engine = asked.question.plan.engine;
  std::vector<Prediction> out;
  if (engine != Engine::zeroplan && engine != Engine::deepspeed) return out;
  for (std::int64_t stage = engine == Engine::zeroplan ? 0 : 1; stage <= 3; ++stage) {
    if (stage == asked.question.plan.stage) {
      out.push_back(asked);
      continue;
    }
    QuestionFlags other = options.question;
    other.keys["stage"] = std::to_string(stage);
    try {
      out.push_back(predict(other.names_engine() ? other.question() : other.question_on(engine)));
    } catch (const UsageError&) {  // an offload that this stage has not
    }
  }
  return out;
}

/// DeepSpeed 0.16.2 to 0.16.7 never release gathered parameters under a non-re-entrant checkpoint at stage 3.
std::string version_warning(const Prediction& asked) {
  const Plan& plan = asked.question.plan;
  if (plan.engine != Engine::deepspeed || plan.stage != 3) return "";
  Question old = asked.question;
  old.plan.engine_version = "0.16.4";
  if (old == asked.question) return "";
  const Prediction leaking = predict(old);
  if (leaking.verdict == asked.verdict) return "";
  return fmt::format("{} on DeepSpeed 0.16.2–0.16.7: gathered parameters are never released there, {} requested instead of {}", verdict_words(leaking.verdict), format_gib(leaking.whole.requested),
                     format_gib(asked.whole.requested));
}

std::string next_command(const FitOptions& options, const Prediction& asked, const std::vector<Remedy>& remedies) {
  if (asked.verdict == Verdict::does_not_fit && !remedies.empty() && remedies.front().prediction.verdict != Verdict::does_not_fit)
    return fmt::format("zeroplan fit {}", options.question.as_typed(remedies.front().change));
  if (asked.question.plan.engine != Engine::zeroplan) return fmt::format("zeroplan prove {} {}", options.question.model, options.question.on.empty() ? "" : "--on " + options.question.on);
  if (!options.save.empty()) return fmt::format("zeroplan prove {}", options.save);
  return fmt::format("zeroplan timeline {}", options.question.as_typed());
}

/// Where no engine is named: DeepSpeed as XTuner sets it, the runtime people have; on CPU ranks ours, which alone runs there.
Question default_question(const FitOptions& options) {
  if (options.question.names_engine() || options.question.cluster().device.kind == DeviceKind::cpu) return options.question.question();
  return options.question.question_on(Engine::deepspeed);
}

}  // namespace

int fit(const FitOptions& options) {
  const bool named = options.question.names_engine();
  FitReport report;
  report.asked = predict(default_question(options));
  report.notes = options.question.deepspeed_notes();
  const bool on_gpus = report.asked.question.cluster.device.kind == DeviceKind::cuda;
  if (on_gpus && (!named || options.json))
    for (const Engine engine : kOverview)
      report.engines.push_back(engine == report.asked.question.plan.engine ? EngineAnswer{engine, report.asked, ""} : ask(options, engine));
  report.other_stages = stages_of(options, report.asked);
  report.remedies = remedies_of(report.asked);
  report.version_warning = version_warning(report.asked);
  report.next = next_command(options, report.asked, report.remedies);
  if (!options.save.empty()) write_file_atomically(options.save, plan_to_json(report.asked.question).dump(2) + "\n");
  if (options.json) fmt::print("{}\n", fit_json(report));
  else print_fit(report);
  const bool no = report.asked.verdict == Verdict::does_not_fit || (options.strict && report.asked.verdict == Verdict::tight);
  return no ? 1 : 0;
}

}  // namespace zeroplan::cli
