#include "executor/prove.h"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "executor/allocation_watch.h"
#include "executor/arena_meter.h"
#include "executor/batches.h"
#include "executor/interpreter.h"
#include "executor/process_memory.h"
#include "planner/core/error.h"
#include "planner/layout/happens_before.h"
#include "planner/ops/op_table.h"
#include "planner/price/price.h"
#include "simulator/walk.h"

namespace zeroplan {
namespace {

// Growth of the process that is not a sign of anything: the kernel counts resident pages in batches per CPU (process_memory.h).
constexpr std::int64_t kProcessNoiseBytes = 1 << 20;

// Keeps real contents in a shadow and lets the arena hold nothing but poison, except what the running instruction declares. An instruction that reads more than it
// declares gets NaN; one that writes more is seen.
class PoisonObserver final : public Observer {
 public:
  PoisonObserver(const Interpreter& interpreter, char* arena, Bytes bytes)
      : interpreter_(interpreter), arena_(arena), bytes_(bytes), shadow_(static_cast<std::size_t>(bytes.value())) {
    poison(arena_, bytes_);
    poison(shadow_.data(), bytes_);
    const std::vector<Life> lives = lives_of(interpreter.program(), interpreter.linear());
    births_.resize(interpreter.prepared().size());
    deaths_.resize(interpreter.prepared().size());
    for (std::size_t i = 0; i < interpreter.layout().birth_offset.size(); ++i) {
      if (lives[i].persistent) continue;
      const Region region{interpreter.layout().birth_offset[i], lives[i].bytes, lives[i].storage};
      births_[lives[i].birth].push_back(region);
      deaths_[lives[i].death].push_back(region);
    }
  }

  void before(std::size_t at) override {
    for (const Region& region : births_[at])
      if (const Bytes held = count_overwritten(shadow_.data() + region.offset, Bytes(region.bytes)); held > Bytes())
        note(at, fmt::format("{} is born on {} bytes that are in use", interpreter_.program().storages[region.storage].name, held.value()));
    each_operand(at, [&](const Bound& o) {
      if (o.access != Access::write) std::memcpy(o.data, shadow_of(o), static_cast<std::size_t>(o.bytes()));
    });
  }

  void after(std::size_t at) override {
    const Prepared& prepared = interpreter_.prepared()[at];
    each_operand(at, [&](const Bound& o) {
      if (o.access == Access::read) return;
      // zero_gaps writes only what the parameters leave over; everything else fills what it declares.
      const std::int64_t unwritten = count_poisoned(o.data, o.elems(), size_of(o.dtype));
      if (prepared.instruction->op != Op::zero_gaps && unwritten > 0) note(at, fmt::format("leaves {} of {} declared elements unwritten or NaN", unwritten, o.elems()));
      std::memcpy(shadow_of(o), o.data, static_cast<std::size_t>(o.bytes()));
    });
    each_operand(at, [&](const Bound& o) {
      if (o.access == Access::read && std::memcmp(shadow_of(o), o.data, static_cast<std::size_t>(o.bytes())) != 0) note(at, "changes an operand that it declares to read only");
    });
    each_operand(at, [&](const Bound& o) { poison(o.data, Bytes(o.bytes())); });
    if (prepared.scratch) {
      const Bytes declared = prepared.instruction->scratch_bytes;
      const Bytes used = highest_overwritten(prepared.scratch, declared);
      if (used.value() <= declared.value() - kMemoryLineBytes)  // scratch is taken in lines: its last one is used, if not filled
        note(at, fmt::format("uses {} of {} declared scratch bytes", used.value(), declared.value()));
      poison(prepared.scratch, declared);
    }
    if (const Bytes stray = count_overwritten(arena_, bytes_); stray > Bytes()) {
      note(at, fmt::format("writes {} bytes that it does not declare, up to offset {}", stray.value(), highest_overwritten(arena_, bytes_).value()));
      poison(arena_, bytes_);
    }
    for (const Region& region : deaths_[at]) poison(shadow_.data() + region.offset, Bytes(region.bytes));
  }

  const std::string& first_difference() const { return first_; }
  char* shadow() { return shadow_.data(); }

 private:
  struct Region {
    std::int64_t offset, bytes;
    StorageId storage;
  };

  template <class Visit>
  void each_operand(std::size_t at, Visit visit) {
    const Prepared& prepared = interpreter_.prepared()[at];
    const Bound* operands = interpreter_.operands_of(prepared);
    for (std::uint32_t i = 0; i < prepared.count; ++i) visit(operands[i]);
  }
  void* shadow_of(const Bound& o) { return shadow_.data() + (static_cast<char*>(o.data) - arena_); }
  void note(std::size_t at, const std::string& what) {
    if (!first_.empty()) return;
    const Prepared& p = interpreter_.prepared()[at];
    first_ = fmt::format("{}[{}] instruction {} ({}) {}", p.fragment->name, p.block, at, name_of(p.instruction->op), what);
  }

  const Interpreter& interpreter_;
  char* arena_;
  Bytes bytes_;
  std::vector<char> shadow_;
  std::vector<std::vector<Region>> births_, deaths_;
  std::string first_;
};

class Proof {
 public:
  Proof(const Program& program, const LinearProgram& linear, const Layout& layout, Collectives& collectives, const ProofOptions& options)
      : program_(program), linear_(linear), layout_(layout), collectives_(collectives), options_(options) {}

  ProofReport run() {
    report_.planned_peak = layout_.max_live;
    report_.arena = layout_.arena_bytes;
    without_running();
    const std::optional<Arena> arena = Arena::try_make(layout_.arena_bytes + kGuard);
    if (!arena) {
      check("arena", false, "the machine has not enough memory for the arena");
      return report_;
    }
    at::NoGradGuard no_grad;
    plain(*arena);
    poisoned(*arena);
    if (options_.random_order) random(*arena);
    return report_;
  }

 private:
  void check(std::string name, bool passed, std::string detail) { report_.checks.push_back({std::move(name), passed, std::move(detail)}); }

  void without_running() {
    const MemoryEstimate fold = fold_memory(program_);
    const WalkResult walked = walk(program_, {.record_events = true, .steps = 1});
    expected_ = walked.trace;
    const bool equal = fold.peak_live == walked.trace.peak_live && walked.trace.peak_live == layout_.max_live;
    check("fold = walk = layout's maximum", equal && walked.balanced,
          fmt::format("{} B, {} B, {} B live at the peak; a step's births and deaths {}", fold.peak_live.value(), walked.trace.peak_live.value(), layout_.max_live.value(),
                      walked.balanced ? "balance" : "do not balance"));
    const auto race = find_race(program_, linear_, layout_);
    check("no race", !race, race.value_or(fmt::format("{} instructions, every reuse of an address waits for its last use", linear_.instructions.size())));
  }

  void reset(const Arena& arena) { poison(arena.data(), arena.bytes()); }

  RunBits run_steps(Interpreter& interpreter) {
    RunBits bits;
    for (int step = 1; step <= options_.steps; ++step) {
      const StepResult result = interpreter.run_step(step, program_.question.job.learning_rate);
      bits.losses.push_back(result.loss);
      bits.gradient_norms.push_back(result.gradient_norm);
    }
    return bits;
  }

  // Rise of the process's highest resident memory (VmHWM) over what it had then.
  static Bytes grown(const ProcessMemory& since) { return std::max(Bytes(), process_memory().peak_resident_bytes - since.resident_bytes); }

  void plain(const Arena& arena) {
    reset(arena);
    const auto batches = synthetic_batches(program_.question, options_.seed);
    Interpreter interpreter(program_, linear_, layout_, arena.data(), collectives_, *batches, options_.seed);
    AllocationWatch& watch = AllocationWatch::install();
    const Surprises before = watch.surprises();
    Trace seen;
    interpreter.trace = &seen;
    interpreter.progress = [&](std::int64_t, std::int64_t, std::string_view op) { watch.at(op); };
    interpreter.run_init();
    const CollectiveCounts counted_before = collectives_.counts();
    reset_peak();
    const ProcessMemory before_step = process_memory();
    watch.arm();
    StepResult result = interpreter.run_step(1, program_.question.job.learning_rate);
    watch.disarm();
    report_.bits.losses = {result.loss};
    report_.bits.gradient_norms = {result.gradient_norm};
    interpreter.trace = nullptr;
    // What the first step made the process grow by belongs to libraries (buffers of MKL, code pages); later steps must add nothing, not even for a moment.
    const Bytes libraries = grown(before_step);
    reset_peak();
    const ProcessMemory settled = process_memory();
    watch.arm();
    for (int step = 2; step <= options_.steps; ++step) {
      result = interpreter.run_step(step, program_.question.job.learning_rate);
      report_.bits.losses.push_back(result.loss);
      report_.bits.gradient_norms.push_back(result.gradient_norm);
    }
    watch.disarm();
    report_.process_growth = grown(settled);
    report_.bits.parameters_hash = parameters_hash(interpreter);

    const std::string difference = first_memory_difference(program_, expected_, seen);
    check("births and deaths as planned", difference.empty() && seen.peak_live == expected_.peak_live,
          difference.empty() ? fmt::format("{} events, live maximum {} B", seen.events.size(), seen.peak_live.value()) : difference);
    const Surprises after = watch.surprises();
    check("no unplanned allocation", after.count == before.count, after.count == before.count ? "libtorch asked for 0 bytes during the steps" : after.first);
    const ArenaMeter meter(program_, linear_, layout_);
    const ArenaMeter::Reading reading = meter.read(arena.data(), arena.bytes());
    check("arena written exactly where planned", reading.outside == Bytes() && reading.touched == meter.planned() && reading.high_water == layout_.arena_bytes,
          fmt::format("{} of {} planned bytes overwritten, {} outside the plan, high water {} of {}", reading.touched.value(), meter.planned().value(), reading.outside.value(),
                      reading.high_water.value(), layout_.arena_bytes.value()));
    check("process does not grow", report_.process_growth <= Bytes(kProcessNoiseBytes), fmt::format("highest resident memory rose by {} B after the first step; the first took {} B for libraries and collectives", report_.process_growth.value(), libraries.value()));
    const Traffic planned = fold_traffic(program_);
    const CollectiveCounts& counts = collectives_.counts();
    const auto per_step = [&](std::int64_t now, std::int64_t then) { return (now - then) / options_.steps; };
    const Traffic counted{per_step(counts.all_gather_bytes, counted_before.all_gather_bytes), per_step(counts.reduce_scatter_bytes, counted_before.reduce_scatter_bytes),
                          per_step(counts.all_reduce_bytes, counted_before.all_reduce_bytes)};
    check("communication as planned", counted == planned, fmt::format("all-gather {} B, reduce-scatter {} B, all-reduce {} B a step; planned {}, {}, {}", counted.all_gather_bytes,
          counted.reduce_scatter_bytes, counted.all_reduce_bytes, planned.all_gather_bytes, planned.reduce_scatter_bytes, planned.all_reduce_bytes));
    check("finite", result.finite(), fmt::format("loss {:.6f}, gradient norm {:.6f}", result.loss, result.gradient_norm));
  }

  void poisoned(const Arena& arena) {
    reset(arena);
    const auto batches = synthetic_batches(program_.question, options_.seed);
    Interpreter interpreter(program_, linear_, layout_, arena.data(), collectives_, *batches, options_.seed);
    PoisonObserver observer(interpreter, static_cast<char*>(arena.data()), layout_.arena_bytes);
    interpreter.observer = &observer;
    interpreter.result_memory = observer.shadow();
    interpreter.run_init();
    RunBits bits = run_steps(interpreter);
    std::memcpy(arena.data(), observer.shadow(), static_cast<std::size_t>(layout_.arena_bytes.value()));
    bits.parameters_hash = parameters_hash(interpreter);
    check("undeclared memory", observer.first_difference().empty(),
          observer.first_difference().empty() ? "every instruction reads and writes what it declares, nothing else" : observer.first_difference());
    check("poisoned run has the same bits", same(bits), describe(bits));
  }

  void random(const Arena& arena) {
    reset(arena);
    const auto batches = synthetic_batches(program_.question, options_.seed);
    Interpreter interpreter(program_, linear_, layout_, arena.data(), collectives_, *batches, options_.seed);
    std::mt19937_64 order(options_.seed);
    interpreter.random_order = &order;
    interpreter.run_init();
    RunBits bits = run_steps(interpreter);
    bits.parameters_hash = parameters_hash(interpreter);
    check("random topological order has the same bits", same(bits), describe(bits));
  }

  // NaN is never equal to itself: a run that read poison differs.
  bool same(const RunBits& bits) const { return bits == report_.bits; }
  std::string describe(const RunBits& bits) const {
    return fmt::format("last loss {:.9g} and {:.9g}, parameters {:016x} and {:016x}", bits.losses.back(), report_.bits.losses.back(), bits.parameters_hash,
                       report_.bits.parameters_hash);
  }

  static constexpr Bytes kGuard{4096};
  const Program& program_;
  const LinearProgram& linear_;
  const Layout& layout_;
  Collectives& collectives_;
  const ProofOptions& options_;
  Trace expected_;
  ProofReport report_;
};

}  // namespace

bool ProofReport::passed() const {
  return std::all_of(checks.begin(), checks.end(), [](const Check& c) { return c.passed; });
}

ProofReport prove_rank(const Program& program, const LinearProgram& linear, const Layout& layout, Collectives& collectives, const ProofOptions& options) {
  return Proof(program, linear, layout, collectives, options).run();
}

std::uint64_t parameters_hash(const Interpreter& interpreter) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  const auto mix = [&](std::pair<const void*, std::int64_t> memory) {
    const char* bytes = static_cast<const char*>(memory.first);
    for (std::int64_t i = 0; i < memory.second; i += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes + i, static_cast<std::size_t>(std::min<std::int64_t>(8, memory.second - i)));
      hash = (hash ^ word) * 0x100000001b3ull;
    }
  };
  mix(interpreter.parameters_of(UnitKind::embedding, 0));
  for (std::int64_t block = 0; block < interpreter.program().question.job.model.num_layers; ++block) mix(interpreter.parameters_of(UnitKind::block, block));
  mix(interpreter.parameters_of(UnitKind::head, 0));
  return hash;
}

}  // namespace zeroplan
