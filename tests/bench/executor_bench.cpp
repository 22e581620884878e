// Our executor's step against libtorch's autograd (autograd_model.h): same model, parameters, batches and threads, steps alternating in one
// process, so that a busy machine slows both. The counter `ratio` is theirs / ours of the medians: 1 or more means that we are not slower.
// Each starts from the same parameters, and their losses must agree all along.
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

#include "executor/batches.h"
#include "executor/interpreter.h"
#include "executor/process_memory.h"
#include "executor/shm_collectives.h"
#include "planner/engines/zeroplan.h"
#include "profiles/catalog.h"
#include "tests/bench/autograd_model.h"

using namespace zeroplan;

namespace {

constexpr std::uint64_t kSeed = 1;
constexpr int kSteps = 7;
constexpr double kLossTolerance = 2e-4;  // relative; two orders of summation drift apart

enum class Size { kjv_10m, llama_15m };

Question question_of(Size size, bool recompute) {
  Model model = catalogue_model("kjv-10m");
  if (size == Size::llama_15m) model.vocab_size = 8192;  // 15.16 M parameters; the other sizes are kjv-10m's
  Question q = default_question(model, cluster_from_name("1xcpu"));
  q.job.seq = 256;
  q.plan.stage = 0;
  q.plan.micro_batch = 8;
  q.plan.recomputed_blocks = recompute ? model.num_layers : 0;
  check_question(q);
  return q;
}

/// One rank with its arena, after init.
class Executor {
 public:
  explicit Executor(const Question& question)
      : program_(compile(question)), linear_(linearize(program_)), layout_(lay_out(program_, linear_)), arena_(Arena::try_make(layout_.arena_bytes)),
        collectives_(world_, 0), batches_(synthetic_batches(question, kSeed)) {
    if (!arena_) throw std::runtime_error("not enough memory for the arena");
    interpreter_ = std::make_unique<Interpreter>(program_, linear_, layout_, arena_->data(), collectives_, *batches_, kSeed);
    interpreter_->run_init();
  }
  Interpreter& interpreter() { return *interpreter_; }
  std::vector<const float*> units() const {
    std::vector<const float*> out;
    const auto add = [&](UnitKind unit, std::int64_t block) { out.push_back(static_cast<const float*>(interpreter_->parameters_of(unit, block).first)); };
    add(UnitKind::embedding, 0);
    for (std::int64_t block = 0; block < program_.question.job.model.num_layers; ++block) add(UnitKind::block, block);
    add(UnitKind::head, 0);
    return out;
  }

 private:
  Program program_;
  LinearProgram linear_;
  Layout layout_;
  std::optional<Arena> arena_;
  ShmWorld world_{1};
  ShmCollectives collectives_;
  std::unique_ptr<Batches> batches_;
  std::unique_ptr<Interpreter> interpreter_;
};

template <class Step>
double seconds_of(Step&& step) {
  const auto begin = std::chrono::steady_clock::now();
  step();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void executor_against_autograd(benchmark::State& state, Size size, bool recompute) {
  at::set_num_threads(static_cast<int>(state.range(0)));
  const Question question = question_of(size, recompute);
  Executor ours(question);
  bench::AutogradModel theirs(question, ours.units());
  const std::unique_ptr<Batches> batches = synthetic_batches(question, kSeed);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(question.tokens_per_micro_batch())), targets(tokens.size());
  std::vector<double> our_s, their_s;
  std::int64_t number = 0;
  double our_loss = 0, their_loss = 0;
  const auto both = [&] {
    ++number;
    our_s.push_back(seconds_of([&] {
      at::NoGradGuard no_grad;
      our_loss = ours.interpreter().run_step(number, question.job.learning_rate).loss;
    }));
    batches->fill(number, 0, 0, question.plan.micro_batch, question.job.seq, tokens.data(), targets.data());
    their_s.push_back(seconds_of([&] { their_loss = theirs.step(number, tokens, targets); }));
  };
  both();  // warm: libraries and allocators
  our_s.clear();
  their_s.clear();
  for (auto _ : state) {
    both();
    state.SetIterationTime(our_s.back());
    if (std::abs(our_loss - their_loss) > kLossTolerance * their_loss) return state.SkipWithError("losses differ: not the same model");
  }
  state.counters["ours_ms"] = 1e3 * median(our_s);
  state.counters["theirs_ms"] = 1e3 * median(their_s);
  state.counters["ratio"] = median(their_s) / median(our_s);
  state.counters["loss"] = our_loss;
}

#define ZEROPLAN_AGAINST_AUTOGRAD(name, size, recompute) \
  BENCHMARK_CAPTURE(executor_against_autograd, name, size, recompute)->ArgName("threads")->Arg(1)->Arg(2)->Iterations(kSteps)->UseManualTime()->Unit(benchmark::kMillisecond)
ZEROPLAN_AGAINST_AUTOGRAD(kjv_10m_keeping_all, Size::kjv_10m, false);
ZEROPLAN_AGAINST_AUTOGRAD(kjv_10m_recomputing_all, Size::kjv_10m, true);
ZEROPLAN_AGAINST_AUTOGRAD(llama_15m_keeping_all, Size::llama_15m, false);
ZEROPLAN_AGAINST_AUTOGRAD(llama_15m_recomputing_all, Size::llama_15m, true);

}  // namespace

BENCHMARK_MAIN();
