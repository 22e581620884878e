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

/// The question put to an engine; nothing where it has no such plan.
struct Asked {
  Engine engine;
  std::optional<Question> question;
  std::string refusal;
};

Asked ask(const FitOptions& options, Engine engine) {
  try {
    return {engine, options.question.question_on(engine), ""};
  } catch (const UsageError& error) {
    return {engine, std::nullopt, error.what()};
  }
}

EngineAnswer answered(const Asked& asked, Predictor& predictor) {
  EngineAnswer out{asked.engine, std::nullopt, asked.refusal};
  if (!asked.question) return out;
  try {
    out.prediction = predictor(*asked.question);
  } catch (const UsageError& error) {
    out.refusal = error.what();
  }
  return out;
}

std::vector<Remedy> remedies_of(const Prediction& asked, Predictor& predictor) {
  if (asked.question.plan.engine != Engine::zeroplan) return ranked_remedies(asked, predictor);
  Compiler compiler;
  Pricer pricer;
  std::vector<Remedy> out;
  for (const Fix& fix : ranked_fixes(answer(asked.question, compiler, pricer, true), compiler, pricer)) out.push_back({fix.change, predictor(fix.answer.question), fix.changes_numerics});
  return out;
}

/// The question at every stage of its engine, the asked one among them.
std::vector<Question> stages_of(const FitOptions& options, const Question& asked) {
  const Engine engine = asked.plan.engine;
  std::vector<Question> out;
  if (engine != Engine::zeroplan && engine != Engine::deepspeed) return out;
  for (std::int64_t stage = engine == Engine::zeroplan ? 0 : 1; stage <= 3; ++stage) {
    QuestionFlags other = options.question;
    other.keys["stage"] = std::to_string(stage);
    try {
      out.push_back(stage == asked.plan.stage ? asked : other.names_engine() ? other.question() : other.question_on(engine));
    } catch (const UsageError&) {  // an offload that this stage has not
    }
  }
  return out;
}

/// The same on DeepSpeed 0.16.2 to 0.16.7, which never release gathered parameters under a non-re-entrant checkpoint at stage 3.
std::optional<Question> on_leaking_version(const Question& asked) {
  const Plan& plan = asked.plan;
  if (plan.engine != Engine::deepspeed || plan.stage != 3 || checkpoints_reentrant(plan)) return std::nullopt;
  Question old = asked;
  old.plan.engine_version = "0.16.4";
  if (old == asked) return std::nullopt;
  return old;
}

std::string version_warning(const Prediction& asked, const Prediction& leaking) {
  if (leaking.verdict == asked.verdict) return "";
  return fmt::format("{} on DeepSpeed 0.16.2–0.16.7: gathered parameters are never released there, {} requested instead of {}", verdict_words(leaking.verdict), format_gib(leaking.whole.requested),
                     format_gib(asked.whole.requested));
}

std::string next_command(const FitOptions& options, const Prediction& asked, const std::vector<Remedy>& remedies) {
  if (asked.verdict == Verdict::does_not_fit && !remedies.empty() && remedies.front().prediction.verdict != Verdict::does_not_fit)
    return fmt::format("zeroplan fit {}", options.question.as_typed(remedies.front().change));
  if (asked.question.plan.engine != Engine::zeroplan) return fmt::format("zeroplan why {}", options.question.as_typed());
  if (!options.save.empty()) return fmt::format("zeroplan prove {}", options.save);
  return fmt::format("zeroplan timeline {}", options.question.as_typed());
}

}  // namespace

int fit(const FitOptions& options) {
  const Question question = asked_or_usual(options.question);
  const bool with_engines = question.cluster.device.kind == DeviceKind::cuda && (!options.question.names_engine() || options.json);
  std::vector<Asked> engines;
  if (with_engines)
    for (const Engine engine : kOverview) engines.push_back(engine == question.plan.engine ? Asked{engine, question, ""} : ask(options, engine));
  const std::vector<Question> stages = stages_of(options, question);
  const std::optional<Question> leaking = on_leaking_version(question);

  Predictor predictor(question);
  std::vector<Question> wanted{question};
  for (const Asked& asked : engines)
    if (asked.question) wanted.push_back(*asked.question);
  wanted.insert(wanted.end(), stages.begin(), stages.end());
  if (leaking) wanted.push_back(*leaking);
  predictor.prepare(wanted);

  FitReport report;
  report.asked = predictor(question);
  report.notes = options.question.deepspeed_notes();
  for (const Asked& asked : engines) report.engines.push_back(answered(asked, predictor));
  for (const Question& stage : stages) report.other_stages.push_back(predictor(stage));
  report.remedies = remedies_of(report.asked, predictor);
  if (leaking) report.version_warning = version_warning(report.asked, predictor(*leaking));
  report.next = next_command(options, report.asked, report.remedies);
  if (!options.save.empty()) write_file_atomically(options.save, plan_to_json(question).dump(2) + "\n");
  if (options.json) fmt::print("{}\n", fit_json(report));
  else print_fit(report);
  const bool no = report.asked.verdict == Verdict::does_not_fit || (options.strict && report.asked.verdict == Verdict::tight);
  return no ? 1 : 0;
}

}  // namespace zeroplan::cli
