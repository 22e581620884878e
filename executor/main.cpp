// zeroplan-run: runs a plan on this machine's ranks, or proves it. Reads plan.json, speaks JSON Lines on stdout; `zeroplan run` and `zeroplan prove`
// are its faces for people. Exit codes: README, "Exit codes".
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "executor/run.h"
#include "planner/core/error.h"
#include "planner/core/exit_code.h"
#include "planner/core/format.h"
#include "planner/engines/twin.h"
#include "profiles/catalog.h"

namespace {

using namespace zeroplan;

void print_line(const std::string& line) {
  // One write a line: ranks share stdout.
  const std::string whole = line + "\n";
  std::fwrite(whole.data(), 1, whole.size(), stdout);
  std::fflush(stdout);
}

Question twin(const Question& question) {
  const std::optional<std::string_view> cpu = device_text("cpu");
  return twin_of(question, device_from_json(nlohmann::json::parse(*cpu), "profiles/gpus/cpu.json"));
}

int run(int argc, char** argv) {
  CLI::App app{"Runs a zeroplan plan on CPU ranks of this machine. JSON Lines on stdout."};
  app.name("zeroplan-run");
  std::string plan, limit;
  RunOptions options;
  bool prove = false, as_twin = false;
  int prove_steps = 2;
  app.add_option("PLAN", plan, "plan.json, as `zeroplan fit --save` writes it")->required();
  app.add_option("--data", options.data, "token file, as `zeroplan prepare` writes it; synthetic tokens without");
  app.add_option("--steps", options.steps, "optimizer steps")->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  app.add_option("--seed", options.seed, "of weights and batches");
  app.add_option("--warmup-steps", options.warmup_steps, "steps over which the learning rate rises")->check(CLI::NonNegativeNumber);
  app.add_flag("--cosine", options.cosine, "then let it fall to a tenth along a cosine");
  app.add_option("--limit", limit, "memory of a rank, as 80GiB: refuse to start above it");
  app.add_option("--stuck-after", options.stuck_after_s, "seconds without a finished instruction after which a rank is stuck")->check(CLI::PositiveNumber);
  app.add_option("--threads", options.threads, "threads of a rank; 0: cores / ranks")->check(CLI::NonNegativeNumber);
  app.add_flag("--all-ranks", options.all_ranks, "step lines of every rank, not of rank 0 alone");
  app.add_flag("--prove", prove, "run the executed rungs of the proof instead of training");
  app.add_flag("--twin", as_twin, "run the plan's twin: same plan, small dimensions, CPU ranks");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  if (!limit.empty()) {
    options.limit = parse_bytes(limit);
    if (!options.limit) throw UsageError(fmt::format("--limit {} is not a size; write 80GiB, 80GB or 76000MiB", limit));
  }
  Question question = plan_from_json(read_json_file(plan), plan);
  if (as_twin) question = twin(question);
  check_question(question);
  require_zeroplan_engine(question);
  return prove ? prove_job(question, prove_steps, options.stuck_after_s, print_line) : run_job(question, options, print_line);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (...) {
    const Failure failure = current_failure();
    fmt::print(stderr, "zeroplan-run: {}\n", failure.message);
    print_line(nlohmann::json{{"event", "error"}, {"code", failure.code}, {"message", failure.message}}.dump());
    return failure.code;
  }
}
