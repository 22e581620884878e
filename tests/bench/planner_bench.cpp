// How fast plans are answered: compile + price over a fixed shuffled list of different plans with remembered fragments and without, compile + walk
// of one large plan, and `zeroplan fit` as a process. Needs no torch. Targets and figures are in README.md.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <random>
#include <stdexcept>
#include <vector>

#include "planner/engines/zeroplan.h"
#include "planner/price/price.h"
#include "profiles/catalog.h"
#include "simulator/requested_surface.h"
#include "simulator/replay.h"
#include "simulator/walk.h"
#include "planner/engines/emulation.h"

using namespace zeroplan;

namespace {

constexpr std::size_t kPlans = 4096;
constexpr std::uint64_t kSeed = 20240229;

Question question_of(const char* model, const char* cluster) { return default_question(catalogue_model(model), cluster_from_name(cluster)); }

/// Different plans in random order, each valid. Drawn with plain arithmetic on the generator, so that every standard library draws the same.
std::vector<Question> shuffled_plans() {
  const std::array<Question, 3> models{question_of("internlm2-20b", "8xa100-80g"), question_of("llama-3-8b", "8xa100-80g"), question_of("qwen2.5-7b", "8xa100-80g")};
  std::mt19937_64 random(kSeed);
  const auto below = [&](std::int64_t limit) { return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(limit)); };
  std::vector<Question> plans;
  while (plans.size() < kPlans) {
    Question q = models[static_cast<std::size_t>(below(3))];
    q.plan.stage = below(4);
    q.plan.recomputed_blocks = below(q.job.model.num_layers + 1);
    q.plan.prefetch_units = below(4);
    q.plan.accumulate = std::int64_t{1} << below(5);
    q.plan.micro_batch = std::int64_t{1} << below(3);
    q.plan.overlap_comm = below(2) != 0;
    q.job.seq = std::int64_t{2048} << below(3);
    check_question(q);
    if (std::find(plans.begin(), plans.end(), q) == plans.end()) plans.push_back(q);
  }
  return plans;
}

const std::vector<Question>& plans() {
  static const std::vector<Question> list = shuffled_plans();
  return list;
}

void count_plans(benchmark::State& state) {
  state.counters["plans/s"] = benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

/// One Compiler and Pricer that have seen the list once: every fragment is remembered, no plan's answer is.
void plans_with_remembered_fragments(benchmark::State& state) {
  Compiler compiler;
  Pricer pricer;
  for (const Question& question : plans()) benchmark::DoNotOptimize(pricer.price(compiler.compile(question)));
  std::size_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(pricer.price(compiler.compile(plans()[next])));
    next = (next + 1) % kPlans;
  }
  count_plans(state);
}
BENCHMARK(plans_with_remembered_fragments);

/// The compile alone, to see where the time goes.
void compiles_with_remembered_fragments(benchmark::State& state) {
  Compiler compiler;
  for (const Question& question : plans()) benchmark::DoNotOptimize(compiler.compile(question));
  std::size_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(compiler.compile(plans()[next]));
    next = (next + 1) % kPlans;
  }
  count_plans(state);
}
BENCHMARK(compiles_with_remembered_fragments);

/// The first pass over the list with an empty memory: what a search pays that begins.
void plans_of_a_first_pass(benchmark::State& state) {
  for (auto _ : state) {
    Compiler compiler;
    Pricer pricer;
    for (const Question& question : plans()) benchmark::DoNotOptimize(pricer.price(compiler.compile(question)));
  }
  state.counters["plans/s"] = benchmark::Counter(static_cast<double>(state.iterations()) * kPlans, benchmark::Counter::kIsRate);
}
BENCHMARK(plans_of_a_first_pass)->Unit(benchmark::kMillisecond);

/// A new Compiler and Pricer for every plan.
void plans_from_nothing(benchmark::State& state) {
  std::size_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(Pricer().price(Compiler().compile(plans()[next])));
    next = (next + 1) % kPlans;
  }
  count_plans(state);
}
BENCHMARK(plans_from_nothing);

void compile_and_walk_of_internlm2_20b(benchmark::State& state) {
  Question question = question_of("internlm2-20b", "8xa100-80g");
  question.plan.stage = 3;
  const WalkOptions options{.record_events = state.range(0) != 0};
  for (auto _ : state) benchmark::DoNotOptimize(walk(compile(question), options));
}
BENCHMARK(compile_and_walk_of_internlm2_20b)->ArgName("events")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

// ---- other engines: internlm2-20b on 8 A100; 0, 1: DeepSpeed at stages 2 and 3 as XTuner sets them, 2: FSDP2 as Accelerate does ----

Question on_another_engine(std::int64_t which) {
  Question q = question_of("internlm2-20b", "8xa100-80g");
  q.plan.stage = which == 0 ? 2 : 3;
  choose_engine(q, which == 2 ? Engine::fsdp2 : Engine::deepspeed);
  return q;
}

/// Requested bytes of plans that differ in micro batch and length.
void plans_on_a_requested_surface(benchmark::State& state) {
  const auto surface = RequestedSurface::of(on_another_engine(state.range(0)));
  std::int64_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(surface->peak(1 + next % 16, 128 * (1 + next / 16 % 256)));
    ++next;
  }
  count_plans(state);
}
BENCHMARK(plans_on_a_requested_surface)->ArgName("engine")->DenseRange(0, 2);

void requested_surface_from_nothing(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(RequestedSurface::of(on_another_engine(state.range(0))));
}
BENCHMARK(requested_surface_from_nothing)->ArgName("engine")->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

void emulation(benchmark::State& state) {
  const Question question = on_another_engine(state.range(0));
  for (auto _ : state) {
    eager::Recorder recorder(true);
    benchmark::DoNotOptimize(emulate(question, recorder));
  }
}
BENCHMARK(emulation)->ArgName("engine")->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

/// All three emulated steps through the model of the caching allocator.
void walk_with_allocator(benchmark::State& state) {
  eager::Recorder recorder(true);
  emulate(on_another_engine(state.range(0)), recorder);
  const ReplayOptions options;
  for (auto _ : state) benchmark::DoNotOptimize(replay(recorder, options));
}
BENCHMARK(walk_with_allocator)->ArgName("engine")->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

/// From fork to exit, output thrown away.
void zeroplan_fit_as_a_process(benchmark::State& state) {
  const char* const arguments[] = {ZEROPLAN_PROGRAM, "fit", "internlm2-20b", "--on", "8xa100-80g", nullptr};
  posix_spawn_file_actions_t quiet;
  posix_spawn_file_actions_init(&quiet);
  posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  for (auto _ : state) {
    pid_t child = 0;
    int status = 0;
    if (posix_spawn(&child, ZEROPLAN_PROGRAM, &quiet, nullptr, const_cast<char* const*>(arguments), environ) != 0) throw std::runtime_error("zeroplan cannot be started");
    waitpid(child, &status, 0);
    // 0 fits, 1 does not: both are answers.
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 1) return state.SkipWithError("zeroplan fit failed");
  }
  posix_spawn_file_actions_destroy(&quiet);
}
BENCHMARK(zeroplan_fit_as_a_process)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
