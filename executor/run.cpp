#include "executor/run.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "executor/allocation_watch.h"
#include "executor/arena_meter.h"
#include "executor/batches.h"
#include "executor/launcher.h"
#include "executor/process_memory.h"
#include "executor/prove.h"
#include "planner/core/error.h"
#include "planner/core/format.h"
#include "planner/ops/op_table.h"
#include "planner/search/answer.h"

namespace zeroplan {
namespace {

using nlohmann::json;

constexpr Bytes kGuard{4096};  // poisoned bytes behind the arena, to see a write past its end

double learning_rate_at(const Question& question, const RunOptions& options, std::int64_t step) {
  const double peak = question.job.learning_rate;
  if (step <= options.warmup_steps) return peak * static_cast<double>(step) / static_cast<double>(options.warmup_steps);
  if (!options.cosine) return peak;
  const double part = static_cast<double>(step - options.warmup_steps) / static_cast<double>(std::max<std::int64_t>(1, options.steps - options.warmup_steps));
  return peak * (0.1 + 0.45 * (1.0 + std::cos(3.141592653589793 * part)));
}

void require_cpu(const Question& question) {
  if (question.cluster.device.kind != DeviceKind::cpu)
    throw EnvironmentError(fmt::format("this plan is for {} and zeroplan-run has CPU ranks only. Run its twin with `zeroplan prove`, or make a plan with --on {}xcpu", question.cluster.name,
                                       question.cluster.world_size()));
  if (!question.job.model.rope_scaling.empty() && question.job.seq > question.job.model.max_position)
    throw UsageError(fmt::format("rope scaling {} changes positions past {}; it is planned but cannot be run yet: use --seq {}", question.job.model.rope_scaling,
                                 question.job.model.max_position, question.job.model.max_position));
  if (question.job.model.rope_scaling == "llama3") throw UsageError("rope scaling llama3 is planned but cannot be run yet: use a model without rope_scaling");
  if (question.job.model.sliding_window && question.job.seq > *question.job.model.sliding_window)
    throw UsageError(fmt::format("a sequence of {} exceeds the sliding window of {}, which is planned as full attention and cannot be run: use a smaller --seq", question.job.seq,
                                 *question.job.model.sliding_window));
}

struct Compiled {
  Program program;
  LinearProgram linear;
  Layout layout;
  Compiled(const Question& question, std::int64_t rank) : program(compile(question, rank)), linear(linearize(program)), layout(lay_out(program, linear)) {}
};

// The expected no: says need, limit and the nearest plan that fits. Exit code 1.
int refuse(const Question& question, Bytes need, Bytes limit, const std::string& who, const std::function<void(const std::string&)>& line) {
  Question limited = question;
  DeviceProfile& device = limited.cluster.device;
  device.capacity_bytes = limit;
  device.context_bytes = device.libraries_bytes = Bytes();
  Compiler compiler;
  Pricer pricer;
  const Answer now = answer(limited, compiler, pricer, true);
  json nearest = nullptr;
  std::string sentence = "no single change of this plan fits";
  for (const Fix& fix : ranked_fixes(now, compiler, pricer)) {
    if (fix.answer.verdict == Verdict::does_not_fit) continue;
    json change = json::object();
    std::string words;
    for (const auto& [key, value] : fix.change) {
      change[key] = value;
      words += fmt::format(" --{} {}", key, value);
    }
    std::replace(words.begin(), words.end(), '_', '-');
    nearest = {{"change", change}, {"peak_bytes", fix.answer.arena.value()}};
    sentence = fmt::format("the nearest plan that fits:{} ({})", words, format_gib(fix.answer.arena));
    break;
  }
  line(json{{"event", "error"}, {"code", 1}, {"need_bytes", need.value()}, {"limit_bytes", limit.value()}, {"nearest", nearest},
            {"message", fmt::format("a rank needs {} and {} {}; {}", format_gib(need), who, format_gib(limit), sentence)}}
           .dump());
  return 1;
}

// What one rank does.
class RankRun {
 public:
  RankRun(const Question& question, const RunOptions& options, RankContext& context, const std::function<void(const std::string&)>& line)
      : question_(question), options_(options), context_(context), line_(line), compiled_(question, context.rank), meter_(compiled_.program, compiled_.linear, compiled_.layout) {}

  int run() {
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / static_cast<int>(context_.world));
    at::set_num_threads(options_.threads > 0 ? options_.threads : cores);
    const std::optional<Arena> arena = Arena::try_make(compiled_.layout.arena_bytes + kGuard);
    if (!arena) throw EnvironmentError(fmt::format("the machine refuses {} for the arena", format_gib(compiled_.layout.arena_bytes)));
    context_.collectives.barrier();  // every rank has its memory before any reads data
    const std::unique_ptr<Batches> batches = options_.data.empty() ? synthetic_batches(question_, options_.seed) : file_batches(options_.data, question_, options_.seed);
    at::NoGradGuard no_grad;
    AllocationWatch& watch = AllocationWatch::install();
    Interpreter interpreter(compiled_.program, compiled_.linear, compiled_.layout, arena->data(), context_.collectives, *batches, options_.seed);
    interpreter.progress = [&](std::int64_t step, std::int64_t instruction, std::string_view op) {
      context_.progress.at(step, instruction, op);
      watch.at(op);
    };
    interpreter.run_init();
    start_line();
    counts_at_start_ = context_.collectives.counts();
    for (std::int64_t step = 1; step <= options_.steps; ++step) one_step(interpreter, watch, *arena, step);
    end_line();
    return 0;
  }

 private:
  void print(const json& object) { line_(object.dump()); }
  bool prints() const { return context_.rank == 0 || options_.all_ranks; }

  void start_line() {
    if (!prints()) return;
    print({{"event", "start"}, {"rank", context_.rank}, {"world", context_.world}, {"arena_bytes", compiled_.layout.arena_bytes.value()},
           {"peak_live_bytes", compiled_.layout.max_live.value()}, {"parameters", parameter_elems(question_.job.model)}, {"steps", options_.steps}});
  }

  void one_step(Interpreter& interpreter, AllocationWatch& watch, const Arena& arena, std::int64_t step) {
    const double rate = learning_rate_at(question_, options_, step);
    if (step > 1) poison(window(arena), window_bytes());
    const auto begin = std::chrono::steady_clock::now();
    watch.arm();
    const StepResult result = interpreter.run_step(step, rate);
    watch.disarm();
    const double step_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    measure(arena, step);
    const Bytes surprise = surprise_ = outside_ + Bytes(watch.surprises().peak_bytes);
    last_ = result;
    if (!result.finite()) throw RunError(fmt::format("step {}: loss {} or gradient norm {} is not a finite number; lower --learning-rate or set --clip-norm", step, result.loss, result.gradient_norm));
    if (!prints() && surprise == Bytes()) return;
    const std::int64_t tokens = question_.tokens_per_micro_batch() * question_.plan.accumulate * context_.world;
    print({{"event", "step"}, {"rank", context_.rank}, {"step", step}, {"loss", result.loss}, {"gradient_norm", result.gradient_norm}, {"learning_rate", rate}, {"tokens", tokens},
           {"step_s", step_s}, {"predicted_peak_bytes", compiled_.layout.arena_bytes.value()}, {"measured_peak_bytes", (high_water_ + surprise).value()},
           {"surprise_bytes", surprise.value()}, {"process_growth_bytes", growth_.value()}});
    if (watch.surprises().count > 0 && surprise > Bytes()) print({{"event", "surprise"}, {"rank", context_.rank}, {"step", step}, {"first", watch.surprises().first}});
  }

  // The arena was poisoned before the run: what no longer holds the poison was used. Later steps poison its top again before they begin, so that every step's own
  // high water is seen, and look at what must stay poison.
  void measure(const Arena& arena, std::int64_t step) {
    if (step == 1) {
      const ArenaMeter::Reading reading = meter_.read(arena.data(), arena.bytes());
      high_water_ = std::min(reading.high_water, compiled_.layout.arena_bytes);
      outside_ = reading.outside;
      baseline_ = process_memory().anonymous_bytes;  // libraries have made their own buffers by now
      return;
    }
    const Bytes top = highest_overwritten(window(arena), window_bytes());
    high_water_ = top == Bytes() ? Bytes() : Bytes(round_up((compiled_.layout.arena_bytes - window_bytes() + top).value(), kMemoryLineBytes));
    outside_ = meter_.outside(arena.data(), arena.bytes());
    growth_ = std::max(growth_, process_memory().anonymous_bytes - baseline_);
  }

  // The top of the arena that no step leaves anything in: at most 1 MiB, above what persists.
  Bytes window_bytes() const { return std::min(Bytes(1 << 20), compiled_.layout.arena_bytes - Bytes(round_up(compiled_.layout.persistent_bytes.value(), kMemoryLineBytes))); }
  void* window(const Arena& arena) const { return static_cast<char*>(arena.data()) + (compiled_.layout.arena_bytes - window_bytes()).value(); }

  void end_line() {
    if (!prints()) return;
    const CollectiveCounts& counts = context_.collectives.counts();
    const Traffic planned = fold_traffic(compiled_.program);
    const std::int64_t steps = std::max<std::int64_t>(1, options_.steps);
    print({{"event", "end"}, {"rank", context_.rank}, {"steps", options_.steps}, {"loss", last_.loss}, {"predicted_peak_bytes", compiled_.layout.arena_bytes.value()},
           {"measured_peak_bytes", (high_water_ + surprise_).value()}, {"process_growth_bytes", growth_.value()},
           {"communication_bytes", {{"all_gather", (counts.all_gather_bytes - counts_at_start_.all_gather_bytes) / steps},
                                    {"reduce_scatter", (counts.reduce_scatter_bytes - counts_at_start_.reduce_scatter_bytes) / steps},
                                    {"all_reduce", (counts.all_reduce_bytes - counts_at_start_.all_reduce_bytes) / steps}}},
           {"planned_communication_bytes", {{"all_gather", planned.all_gather_bytes}, {"reduce_scatter", planned.reduce_scatter_bytes}, {"all_reduce", planned.all_reduce_bytes}}}});
  }

  const Question& question_;
  const RunOptions& options_;
  RankContext& context_;
  const std::function<void(const std::string&)>& line_;
  Compiled compiled_;
  ArenaMeter meter_;
  CollectiveCounts counts_at_start_;
  Bytes high_water_, outside_, surprise_, baseline_, growth_;
  StepResult last_;
};

int failed(const LaunchResult& result, const std::function<void(const std::string&)>& line) {
  json error{{"event", "error"}, {"code", result.exit_code}, {"message", result.message}};
  if (result.rank) error["rank"] = *result.rank;
  if (result.step) error["step"] = *result.step;
  if (result.instruction) error["instruction"] = *result.instruction;
  if (!result.op.empty()) error["op"] = result.op;
  line(error.dump());
  return result.exit_code;
}

}  // namespace

int run_job(const Question& question, const RunOptions& options, const std::function<void(const std::string&)>& line) {
  require_cpu(question);
  const std::int64_t world = question.cluster.world_size();
  const Bytes arena = Compiled(question, 0).layout.arena_bytes;
  if (options.limit && arena > *options.limit) return refuse(question, arena, *options.limit, "the limit is", line);
  const Bytes available = machine_available_bytes();
  if (arena * world > available) return refuse(question, arena, Bytes(available.value() / world), "this machine can give each", line);
  const LaunchResult result = launch({.world = world, .stuck_after_s = options.stuck_after_s},
                                     [&](RankContext& context) { return RankRun(question, options, context, line).run(); });
  return result.exit_code == 0 ? 0 : failed(result, line);
}

int prove_job(const Question& question, int steps, double stuck_after_s, const std::function<void(const std::string&)>& line) {
  require_cpu(question);
  const LaunchResult result = launch({.world = question.cluster.world_size(), .stuck_after_s = stuck_after_s}, [&](RankContext& context) {
    at::set_num_threads(1);
    const Compiled compiled(question, context.rank);
    const ProofReport report = prove_rank(compiled.program, compiled.linear, compiled.layout, context.collectives, {.steps = steps});
    json checks = json::array();
    for (const Check& check : report.checks) checks.push_back({{"event", "proof"}, {"rank", context.rank}, {"check", check.name}, {"passed", check.passed}, {"detail", check.detail}});
    context.send(checks.dump());
    return 0;  // a rank that ends with anything else ends the others before they have told theirs
  });
  bool all = true;
  for (const std::string& message : result.messages) {
    if (message.empty()) continue;
    for (const json& check : json::parse(message)) {
      all = all && check["passed"].get<bool>();
      line(check.dump());
    }
  }
  if (result.exit_code != 0) return failed(result, line);
  return all ? 0 : 1;
}

}  // namespace zeroplan
