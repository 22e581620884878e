#include "simulator/prediction.h"

#include <algorithm>
#include <future>

#include <fmt/format.h>

#include "planner/engines/eager/step_time.h"
#include "planner/price/price.h"
#include "simulator/emulated_run.h"

namespace zeroplan {
namespace {

using eager::Place;

/// How far published measurements lie from predictions: 19 in 20 of an engine's values, of rows that are modelled in all they say, rounded up to 5 % (docs/validation.md).
double published_band_ratio(Engine engine) {
  switch (engine) {
    case Engine::zeroplan: return 0;  // compiled, not emulated
    case Engine::fsdp2: return 0.10;
    case Engine::deepspeed: return 0.20;
    case Engine::fsdp1:
    case Engine::single:
    case Engine::ddp:
    case Engine::other: break;
  }
  return 0.25;
}
/// Likewise of rows of which something is not modelled.
constexpr double kBandRatioWithGaps = 0.40;

/// torch.compile and fp8 leave what a plan keeps nearly as it is; other gaps may not.
bool has_gaps(const std::vector<EmulationGap>& gaps) {
  return std::any_of(gaps.begin(), gaps.end(), [](const EmulationGap& gap) { return gap.key != "compile" && gap.key != "fp8"; });
}

// ---- emulated engines ----

PhaseMeasures measures_of(const eager::PhasePeak& requested, const Replay& replayed) {
  PhaseMeasures out;
  out.phase = requested.name;
  out.requested = Bytes(requested.bytes[0]);
  out.host_requested = Bytes(requested.bytes[1]);
  for (const AllocatorPeaks& peaks : replayed.phases) {
    if (peaks.phase != requested.name) continue;
    out.allocated = peaks.allocated;
    out.active = peaks.active;
    out.reserved = peaks.reserved;
  }
  return out;
}

void raise(PhaseMeasures& to, const PhaseMeasures& from) {
  to.requested = std::max(to.requested, from.requested);
  to.allocated = std::max(to.allocated, from.allocated);
  to.active = std::max(to.active, from.active);
  to.reserved = std::max(to.reserved, from.reserved);
  to.host_requested = std::max(to.host_requested, from.host_requested);
}

/// The least memory for the allocator with which a job runs, a few per cent above at most. Not less than it asks for; found by replays, each of which takes as long as the emulation does.
class LeastCapacity {
 public:
  LeastCapacity(const EmulatedRun& run, Bytes requested) : run_(run) {
    for (const double factor : {1.005, 1.02, 1.05, 1.1, 1.2, 1.4}) tried_.emplace_back(static_cast<std::int64_t>(factor * static_cast<double>(requested.value())));
    end_ = tried_.size();
  }

  /// One replay.
  void halve() {
    const std::size_t middle = least_ + (end_ - least_) / 2;
    if (suffices(middle)) end_ = middle;
    else least_ = middle + 1;
  }

  /// Two at a time; `enough` is known to suffice.
  Bytes find(Bytes enough) {
    while (end_ > least_ && tried_[end_ - 1] >= enough) --end_;
    while (least_ < end_) {
      const std::size_t lower = least_ + (end_ - least_) / 3, upper = least_ + 2 * (end_ - least_) / 3;
      std::future<bool> upper_suffices = std::async(lower < upper ? std::launch::async : std::launch::deferred, [this, upper] { return suffices(upper); });
      const bool lower_suffices = suffices(lower);
      if (lower < upper && !lower_suffices && upper_suffices.get()) least_ = lower + 1, end_ = upper;
      else if (lower_suffices) end_ = lower;
      else least_ = upper + 1;
    }
    return end_ == tried_.size() ? enough : std::min(tried_[end_], enough);
  }

 private:
  bool suffices(std::size_t place) const {
    ReplayOptions within = own_device(run_.question);
    within.allocator.capacity_bytes = tried_[place];
    within.most_rounds = 3;  // where every micro batch empties the cache the allocator may never come to rest; of 2,000 random replays 1,998 end as with all rounds
    return !replay(run_, within, nullptr).failure;
  }

  const EmulatedRun& run_;
  std::vector<Bytes> tried_;         ///< ascending
  std::size_t least_ = 0, end_ = 0;  ///< the answer's place is from least_ to end_
};

class EmulatedPrediction {
 public:
  EmulatedPrediction(const EmulatedRun& run, DeviceTrace* trace, eager::StepClock* clock) : run_(run), trace_(trace), clock_(clock) {
    out_.question = run.question;
    out_.device = run.options.device;
    out_.gaps = run.gaps;
  }

  Prediction predict() {
    set_device();
    // The clock of many micro batches is worth a thread of its own.
    time_ = std::async(run_.recorder.repeated().empty() ? std::launch::deferred : std::launch::async,
                       [this] { return eager::step_time(run_.recorder, out_.question.cluster, step_conditions(out_.question), "steady", clock_); });
    // What asks for more than is usable fails for certain: where, and with how much it would not, is looked for meanwhile.
    LeastCapacity least(run_, most_requested());
    std::future<Replay> failing;
    if (run_.options.against_capacity && most_requested() > out_.usable)
      failing = std::async(std::launch::async, [&] {
        least.halve();
        return replay(run_, own_device(run_.question), nullptr);
      });
    std::future<std::optional<HostAhead>> ahead;
    if (run_.options.host_ahead && run_.recorder.has_uses()) ahead = std::async(std::launch::async, [this] { return host_ahead(); });
    const Replay replayed = replay(run_, endless_device(out_.question), trace_);
    set_phases(replayed);
    set_peak();
    set_host();
    out_.saving = saving_of(out_.question);
    set_cost();
    out_.must_fit = out_.whole.reserved;
    if (run_.options.against_capacity) judge(std::move(failing), least);
    if (ahead.valid() && !out_.failure) out_.ahead = ahead.get();
    return std::move(out_);
  }

 private:
  Bytes most_requested() const {
    std::int64_t most = 0;
    for (const eager::PhasePeak& peak : run_.peaks.phases) most = std::max(most, peak.bytes[0]);
    return Bytes(most);
  }

  void set_device() {
    out_.outside = outside_of_emulated(out_.question);
    out_.capacity = out_.question.cluster.device.capacity_bytes;
    out_.usable = out_.capacity - out_.outside.total();
  }

  /// On the question's own device where an endless one would take more than is usable.
  std::optional<HostAhead> host_ahead() const {
    const std::vector<eager::WaitingFree> waiting = eager::waiting_frees(run_.recorder, run_.question.cluster, step_conditions(run_.question));
    ReplayOptions options = endless_device(run_.question);
    options.waiting = waiting;
    Replay replayed = replay(run_, options, nullptr);
    if (run_.options.against_capacity && replayed.whole.reserved > *own_device(run_.question).allocator.capacity_bytes) {
      options.allocator = own_device(run_.question).allocator;
      replayed = replay(run_, options, nullptr);
    }
    if (replayed.failure) return std::nullopt;
    return HostAhead{replayed.steady, replayed.whole};
  }

  void set_phases(const Replay& replayed) {
    for (const eager::PhasePeak& peak : run_.peaks.phases) {
      out_.phases.push_back(measures_of(peak, replayed));
      raise(out_.whole, out_.phases.back());
      if (peak.name.starts_with("steady")) raise(out_.steady, out_.phases.back());
    }
    out_.after_init_requested = Bytes(run_.peaks.after_init_bytes);
    out_.between_steps_requested = Bytes(run_.peaks.between_steps_bytes);
    out_.between_steps_allocated = replayed.between_steps_allocated;
  }

  void set_peak() {
    const auto highest = std::max_element(run_.peaks.phases.begin(), run_.peaks.phases.end(), [](const eager::PhasePeak& a, const eager::PhasePeak& b) { return a.bytes[0] < b.bytes[0]; });
    if (highest == run_.peaks.phases.end()) return;
    out_.peak.phase = highest->name;
    if (const std::size_t event = highest->event[0]; event > 0) {
      const std::uint32_t op = run_.recorder.events()[event - 1].op;
      if (op > 0) {
        out_.peak.instruction = run_.recorder.ops()[op - 1].name;
        out_.peak.unit = eager::unit_name(run_.recorder.ops()[op - 1].where);
      }
    }
    for (const eager::AliveBytes& alive : run_.recorder.alive_at_peak(highest->name)) {
      out_.alive.push_back({alive.site, alive.category, Bytes(alive.bytes)});
      out_.by_category[static_cast<std::size_t>(alive.category)] += alive.bytes;
    }
  }

  void set_cost() {
    const Question& q = out_.question;
    const eager::StepTime time = time_.get();
    const double tokens = static_cast<double>(q.tokens_per_micro_batch() / q.job.sequence_parallel) * static_cast<double>(q.plan.accumulate);
    const eager::StepRates rates = eager::rates_of(time, q.cluster.device, tokens, model_flops_per_token(q.job.model, q.job.seq));
    const auto payload = [&](CollectiveKind kind) { return time.work.payload_bytes[static_cast<std::size_t>(kind)]; };
    // An all-reduce counts twice, as everywhere here.
    out_.cost = StepCost{time.step_s, rates.tokens_per_s_per_gpu, rates.mfu_ratio,
                         {.all_gather_bytes = payload(CollectiveKind::all_gather) + payload(CollectiveKind::broadcast),
                          .reduce_scatter_bytes = payload(CollectiveKind::reduce_scatter) + payload(CollectiveKind::reduce),
                          .all_reduce_bytes = 2 * payload(CollectiveKind::all_reduce)}};
  }

  /// Tensors that DeepSpeed keeps on the host are page-locked unless the JSON says no; each takes a power of two then.
  void set_host() {
    const std::int64_t ranks = out_.question.cluster.gpus_per_node;
    const DeepSpeedOptions& deepspeed = out_.question.plan.deepspeed;
    const bool pins = out_.question.plan.offload_optimizer == Offload::cpu && deepspeed.offload_optimizer_pin_memory;
    std::vector<std::int64_t> bytes(run_.recorder.tags().size(), 0);
    std::int64_t plain = 0, pinned = 0, most_plain = 0, most_pinned = 0;
    for (const eager::MemoryEvent& event : run_.recorder.events()) {
      if (event.kind >= eager::MemoryEvent::Kind::phase || run_.recorder.tags()[event.storage].place != Place::host) continue;
      const std::int64_t now = event.kind == eager::MemoryEvent::Kind::death ? 0 : event.bytes;
      constexpr std::int64_t kSmallest = 1 << 20;  // scalars and step counters stay pageable
      const bool kept = run_.recorder.tags()[event.storage].category != Category::scratch;
      const auto taken = [&](std::int64_t size) { return pins && kept && size >= kSmallest ? pinned_bytes(Bytes(size)).value() : 0; };
      pinned += taken(now) - taken(bytes[event.storage]);
      plain += (taken(now) > 0 ? 0 : now) - (taken(bytes[event.storage]) > 0 ? 0 : bytes[event.storage]);
      bytes[event.storage] = now;
      if (plain + pinned > most_plain + most_pinned) {
        most_plain = plain;
        most_pinned = pinned;
      }
    }
    out_.host_bytes = Bytes(most_plain + most_pinned) * ranks;
    out_.pinned_bytes = Bytes(most_pinned) * ranks;
  }

  /// What is reserved without an end may be more than the device has: PyTorch then gives its cache back and tries again. Only the replay within the device says whether that helps.
  void judge(std::future<Replay> failing, LeastCapacity& least) {
    out_.band_ratio = has_gaps(out_.gaps) ? kBandRatioWithGaps : published_band_ratio(out_.question.plan.engine);
    if (out_.must_fit > out_.usable) {
      const ReplayOptions within = own_device(out_.question);
      DeviceTrace trace;
      Replay replayed = failing.valid() ? failing.get() : replay(run_, within, trace_ == nullptr ? nullptr : &trace);
      out_.cache_emptied = replayed.retries;
      if (trace_ != nullptr && !replayed.failure) *trace_ = std::move(trace);
      if (trace_ != nullptr) trace_->failure = replayed.failure;
      out_.failure = std::move(replayed.failure);
      out_.must_fit = out_.failure ? least.find(out_.whole.reserved) : replayed.whole.reserved;
    }
    out_.spare = out_.usable - out_.must_fit;
    const double band_bytes = out_.band_ratio * static_cast<double>(out_.must_fit.value());
    if (out_.failure || !out_.host_fits()) out_.verdict = Verdict::does_not_fit;
    else out_.verdict = static_cast<double>(out_.spare.value()) < band_bytes ? Verdict::tight : Verdict::fits;
  }

  const EmulatedRun& run_;
  DeviceTrace* trace_;
  eager::StepClock* clock_;
  Prediction out_;
  std::future<eager::StepTime> time_;  ///< last: reads the others
};

// ---- our own engine ----

PhaseMeasures same_in_all(const std::string& phase, Bytes live, Bytes arena) { return {phase, live, live, live, arena, Bytes()}; }

Prediction predict_ours(const Question& question) {
  Compiler compiler;
  Pricer pricer;
  const Answer a = answer(question, compiler, pricer, true);
  const MemoryEstimate& m = a.estimate.memory;
  Prediction out;
  out.question = question;
  const char* const kPhases[] = {"init", "first.forward", "first.backward", "first.step", "steady.forward", "steady.backward", "steady.step"};
  for (std::size_t i = 0; i < std::size(kPhases); ++i) out.phases.push_back(same_in_all(kPhases[i], m.phase_peak[i < 4 ? i : i - 3], a.arena));
  out.steady = same_in_all("", m.peak_live, a.arena);
  out.whole = out.steady;
  out.between_steps_requested = out.between_steps_allocated = out.after_init_requested = m.between_steps;
  const Program program = compiler.compile(question);
  const Fragment& fragment = *program.fragments[m.peak.fragment];
  out.peak = {std::string(name_of(fragment.phase)), fmt::format("{}.{} {}", fragment.name, m.peak.instruction, name_of(fragment.instructions[m.peak.instruction].op)),
              fragment.unit == UnitKind::block ? fmt::format("block[{}]", m.peak.block) : std::string(name_of(fragment.unit)), 0};
  out.by_category = m.by_category;
  out.must_fit = a.arena;
  out.outside = a.outside;
  out.capacity = a.capacity;
  out.usable = a.usable;
  out.spare = a.spare;
  out.band_ratio = a.band_ratio;
  out.verdict = a.verdict;
  out.cost = StepCost{a.step_s(), a.tokens_per_s_per_gpu(), a.mfu_ratio(), a.estimate.traffic};
  return out;
}

}  // namespace

Outside outside_of_emulated(const Question& question) {
  // DeepSpeed and FSDP run everything on one communicator; groups smaller than the world need two.
  const std::int64_t communicators = question.shard_group() == question.cluster.world_size() ? 1 : 2;
  return {question.cluster.device.context_bytes, nccl_bytes(question.cluster.device, question.cluster.world_size(), communicators), Bytes()};
}

ReplayOptions endless_device(const Question& question) {
  ReplayOptions options;
  options.allocator.expandable_segments = question.plan.expandable_segments;
  options.cublas_workspace_bytes = Bytes(question.cluster.device.libraries_bytes.value() / 2);
  return options;
}

ReplayOptions own_device(const Question& question) {
  ReplayOptions options = endless_device(question);
  options.allocator.device_bytes = question.cluster.device.capacity_bytes;
  options.allocator.capacity_bytes = options.allocator.device_bytes - outside_of_emulated(question).total();
  return options;
}

const PhaseMeasures* Prediction::phase(const std::string& name) const {
  for (const PhaseMeasures& p : phases)
    if (p.phase == name) return &p;
  return nullptr;
}

Prediction predict(const Question& question, const PredictOptions& options) {
  return within_int64(question, [&] { return question.plan.engine == Engine::zeroplan ? predict_ours(question) : predict(EmulatedRun(question, options), nullptr, nullptr); });
}

Prediction predict(const EmulatedRun& run, DeviceTrace* trace, eager::StepClock* clock) { return EmulatedPrediction(run, trace, clock).predict(); }

}  // namespace zeroplan
