// Our executor's step on several ranks against data-parallel autograd on the same ranks, one thread each: same model, batches and collectives, steps
// alternating, so that a busy machine slows both. Prints theirs / ours of the medians per stage; not Google Benchmark, which cannot fork ranks.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "executor/batches.h"
#include "executor/interpreter.h"
#include "executor/launcher.h"
#include "executor/process_memory.h"
#include "planner/engines/zeroplan.h"
#include "profiles/catalog.h"
#include "tests/bench/autograd_model.h"

using namespace zeroplan;

namespace {

constexpr std::uint64_t kSeed = 1;
constexpr int kSteps = 5;

Question question_of(std::int64_t stage, std::int64_t ranks, bool recompute) {
  Question q = default_question(catalogue_model("kjv-10m"), cluster_from_name(fmt::format("{}xcpu", ranks)));
  q.job.seq = 256;
  q.plan.stage = stage;
  q.plan.micro_batch = 4;
  q.plan.recomputed_blocks = recompute ? q.job.model.num_layers : 0;
  check_question(q);
  return q;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <class Step>
double seconds_of(Step&& step) {
  const auto begin = std::chrono::steady_clock::now();
  step();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// First values are the same at every stage, so a whole copy for autograd comes from a stage-0 program of the same question.
std::vector<std::vector<float>> whole_parameters(const Question& question, RankContext& context) {
  Question whole = question;
  whole.plan.stage = 0;
  const Program program = compile(whole, context.rank);
  const LinearProgram linear = linearize(program);
  const Layout layout = lay_out(program, linear);
  const std::optional<Arena> arena = Arena::try_make(layout.arena_bytes);
  const auto batches = synthetic_batches(whole, kSeed);
  Interpreter interpreter(program, linear, layout, arena->data(), context.collectives, *batches, kSeed);
  interpreter.run_init();
  std::vector<std::vector<float>> out;
  const auto add = [&](UnitKind unit, std::int64_t block) {
    const auto [data, bytes] = interpreter.parameters_of(unit, block);
    const auto* values = static_cast<const float*>(data);
    out.emplace_back(values, values + bytes / 4);
  };
  add(UnitKind::embedding, 0);
  for (std::int64_t block = 0; block < whole.job.model.num_layers; ++block) add(UnitKind::block, block);
  add(UnitKind::head, 0);
  return out;
}

int compare(const Question& question, RankContext& context) {
  at::set_num_threads(1);
  const std::vector<std::vector<float>> whole = whole_parameters(question, context);
  std::vector<const float*> units;
  for (const auto& unit : whole) units.push_back(unit.data());
  bench::AutogradModel theirs(question, units);
  theirs.collectives = &context.collectives;
  const Program program = compile(question, context.rank);
  const LinearProgram linear = linearize(program);
  const Layout layout = lay_out(program, linear);
  const std::optional<Arena> arena = Arena::try_make(layout.arena_bytes);
  const auto batches = synthetic_batches(question, kSeed);
  Interpreter ours(program, linear, layout, arena->data(), context.collectives, *batches, kSeed);
  ours.run_init();
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(question.tokens_per_micro_batch())), targets(tokens.size());
  std::vector<double> our_s, their_s;
  for (int step = 1; step <= kSteps + 1; ++step) {
    double our_loss = 0, their_loss = 0;
    context.progress.at(step, 0, "ours and theirs");
    const double mine = seconds_of([&] {
      const at::NoGradGuard no_grad;
      our_loss = ours.run_step(step, question.job.learning_rate).loss;
    });
    context.collectives.barrier();
    batches->fill(step, 0, context.rank, question.plan.micro_batch, question.job.seq, tokens.data(), targets.data());
    const double their = seconds_of([&] { their_loss = theirs.step(step, tokens, targets); });
    context.collectives.barrier();
    if (std::abs(our_loss - their_loss) > 2e-4 * their_loss) throw std::runtime_error(fmt::format("losses differ: {} and {}", our_loss, their_loss));
    if (step > 1) our_s.push_back(mine), their_s.push_back(their);  // the first warms libraries
  }
  if (context.rank == 0)
    fmt::print("stage {} checkpoint {:<4}  {} ranks  ours {:.0f} ms  theirs {:.0f} ms  ratio {:.2f}\n", question.plan.stage, question.plan.recomputed_blocks ? "full" : "none", context.world,
               1e3 * median(our_s), 1e3 * median(their_s), median(their_s) / median(our_s));
  std::fflush(stdout);
  return 0;
}

}  // namespace

int main() {
  for (const bool recompute : {false, true})
    for (std::int64_t stage = 0; stage <= 3; ++stage) {
      const Question question = question_of(stage, 2, recompute);
      const LaunchResult result = launch({.world = 2}, [&](RankContext& context) { return compare(question, context); });
      if (result.exit_code != 0) return fmt::print(stderr, "{}\n", result.message), result.exit_code;
    }
}
