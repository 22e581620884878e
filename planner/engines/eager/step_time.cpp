#include "planner/engines/eager/step_time.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <optional>
#include <utility>
#include <vector>

namespace zeroplan::eager {

namespace {

/// Rounds of a repeated stretch that are run one by one: by then each takes as long as the one before it.
constexpr std::int64_t kMostRounds = 16;

double d(std::int64_t value) { return static_cast<double>(value); }
std::size_t at(Stream stream) { return static_cast<std::size_t>(stream); }

std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

double product_flops_per_s(Arithmetic arithmetic, const DeviceProfile& device, const StepConditions& conditions) {
  if (arithmetic == Arithmetic::matmul_32_bit) return conditions.tf32 ? device.matmul_tf32_flops_per_s.value_or(device.matmul_fp32_flops_per_s) : device.matmul_fp32_flops_per_s;
  if (conditions.fp8) return device.matmul_fp8_flops_per_s.value_or(device.matmul_bf16_flops_per_s);
  return conditions.fp16 ? device.matmul_fp16_flops_per_s.value_or(device.matmul_bf16_flops_per_s) : device.matmul_bf16_flops_per_s;
}

/// A profile's attention rate is that of 16-bit products on tensor cores; `device` is the one with the kernel's own rate.
double attention_rate(DeviceProfile device, std::int64_t head_dim, std::int64_t tokens, const StepConditions& conditions) {
  using Attention = StepConditions::Attention;
  if (conditions.attention == Attention::cudnn && device.cudnn_attention_flops_per_s) device.attention_flops_per_s = device.cudnn_attention_flops_per_s;
  if (conditions.fp16 && !device.attention_flops_per_s) device.matmul_bf16_flops_per_s = product_flops_per_s(Arithmetic::matmul_16_bit, device, {.fp16 = true});
  double rate = attention_flops_per_s(device, tokens);
  if (conditions.attention == Attention::flash_1) rate *= kFlash1Ratio;
  if (conditions.attention == Attention::efficient) rate *= kEfficientAttentionRatio;
  if (head_dim <= 0) return rate;
  const auto padded = conditions.attention == Attention::flash_1 ? static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(head_dim))) : round_up(head_dim, 32);
  return rate * d(head_dim) / d(padded);
}

double flops_per_s(const Activity& activity, const DeviceProfile& device, const StepConditions& conditions) {
  switch (activity.arithmetic) {
    case Arithmetic::none: return 0;
    case Arithmetic::matmul_16_bit:
    case Arithmetic::matmul_32_bit: return product_flops_per_s(activity.arithmetic, device, conditions) * wave_ratio(activity.rows, activity.columns, device);
    case Arithmetic::attention: return attention_rate(device, activity.rows, activity.columns * conditions.sequence_parallel, conditions);
  }
  return 0;
}

/// Of an fp8 product's operands, rows × inner and inner × columns.
double cast_s(const Activity& product, const DeviceProfile& device) {
  if (product.rows == 0 || product.columns == 0) return 0;
  const double inner = product.count / 2 / d(product.rows) / d(product.columns);
  return 2 * device.launch_s + kFp8CastBytesPerElem * inner * d(product.rows + product.columns) / device.memory_bytes_per_s;
}

/// Without the launch.
double roofline_s(const Activity& kernel, const DeviceProfile& device, const StepConditions& conditions) {
  const double rate = flops_per_s(kernel, device, conditions);
  const double keys = kernel.arithmetic == Arithmetic::attention ? d(conditions.sequence_parallel) : 1;  // for each of the piece's queries
  const double cast = conditions.fp8 && kernel.arithmetic == Arithmetic::matmul_16_bit ? cast_s(kernel, device) : 0;
  return cast + std::max(rate > 0 ? kernel.count * keys / rate : 0, d(kernel.bytes) / device.memory_bytes_per_s);
}

/// What a collective that runs beside takes from kernels.
double nccl_share(const DeviceProfile& device) {
  if (!device.multiprocessors) return 0;
  return d(std::min(device.nccl_channels, kMostNcclChannels)) / d(*device.multiprocessors);
}

double copy_s(std::int64_t bytes, const DeviceProfile& device) { return d(bytes) / device.host_link_bytes_per_s.value_or(kHostLinkBytesPerS); }

/// A rank's part of its node's host.
double host_s(std::int64_t moved_bytes, std::int64_t updated_elems, const Cluster& cluster) {
  return (d(moved_bytes) / kHostBytesPerS + d(updated_elems) / kHostUpdateElemsPerS) * d(cluster.gpus_per_node);
}

/// Something that runs beside the compute stream and takes this share of the device from it.
struct Neighbour {
  double begin = 0, end = 0;
  double share = 0;

  /// Seconds beside a kernel that starts at `start` and would take `duration` alone.
  double beside_s(double start, double duration) const {
    const double from = std::max(start, begin), work = start + duration - from;
    if (work <= 0 || end <= from) return 0;
    return share < 1 ? std::min(work / (1 - share), end - from) : end - from;
  }
};

/// How a kernel comes to be launched.
struct Issued {
  bool compiled = false;
  bool by_autograd = false;
};

class Clocks {
 public:
  Clocks(const Cluster& cluster, const StepConditions& conditions, std::size_t events)
      : cluster_(cluster), device_(cluster.device), conditions_(conditions), nccl_share_(nccl_share(device_)), events_(events + 1) {}

  /// Activities run several times.
  void remember_kernels(std::size_t activities) { rooflines_s_.resize(activities); }
  /// `noted`: not null where the times of what runs from now on are wanted.
  void note_in(StepClock* noted) {
    noted_ = noted;
    last_kernel_.reset();
  }
  void run(std::size_t index, const Activity& activity, Issued issued);
  /// The next round of a repeated stretch: what it recorded is what the round before it recorded.
  void hand_on(const RepeatedStretch& stretch);
  double now_s() const { return std::max(compute(), host_); }
  double host_now_s() const { return host_; }
  double stream_s(Stream stream) const { return streams_[at(stream)]; }
  /// The host waits for everything.
  void synchronize_all() { host_ = std::max({host_, *std::max_element(streams_.begin(), streams_.end()), communicators_[0], communicators_[1]}); }
  /// `more` rounds after this one, in each of which every clock goes on as far as it did since `before`, when this round began.
  void continue_from(const Clocks& before, const RepeatedStretch& stretch, std::int64_t more);
  StepTime result(const WorkTotals& work) {
    time_.work = work;
    time_.step_s = std::max(host_, *std::max_element(streams_.begin(), streams_.end()));
    expose(time_.step_s, std::max(compute(), host_));
    return time_;
  }

 private:
  double& clock(Stream stream) { return streams_[at(stream)]; }
  double compute() const { return streams_[at(Stream::compute)]; }
  /// The compute stream, which had work until `free`, goes on at `until`.
  void expose(double until, double free) {
    time_.exposed_communication_s += std::max(0.0, until - free);
    if (noted_ != nullptr && until > free) noted_->exposed.push_back({free, until});
  }
  void note(double start, double end) {
    if (noted_ != nullptr) noted_->activities[index_] = {start, end};
  }

  double kernel_s(const Activity& activity, Issued issued);
  void run_kernel(const Activity& activity, Issued issued);
  void enter_queue();
  double slowed_end(double start, double duration);
  void run_beside(Neighbour neighbour);
  void run_collective(const Activity& activity);
  void run_copy(const Activity& activity, double& engine);
  void run_python(double duration) {
    note(host_, host_ + duration);
    host_ += duration;
  }
  void run_on_host(const Activity& activity);
  void wait(const Activity& activity);
  void synchronize(const Activity& activity);

  const Cluster& cluster_;
  const DeviceProfile& device_;
  const StepConditions& conditions_;
  double nccl_share_;
  StepTime time_;
  StepClock* noted_ = nullptr;
  std::size_t index_ = 0;                    ///< of the activity that runs
  std::optional<std::size_t> last_kernel_;   ///< of the compute stream, if noted
  double host_ = 0;
  std::array<double, kStreamCount> streams_{};
  std::array<double, kLaunchQueueEntries> queue_{};  ///< when the compute stream gets to the last entries
  std::size_t next_in_queue_ = 0;
  std::array<double, 2> communicators_{};  ///< of neighbours; of ranks that are apart
  double to_device_ = 0, to_host_ = 0;     ///< copy engines
  std::vector<std::optional<double>> rooflines_s_;  ///< by activity, where remembered
  std::vector<double> events_;             ///< by EventId; 0: of an earlier step
  std::vector<Neighbour> neighbours_;  ///< from first_neighbour_ on by their begin
  std::size_t first_neighbour_ = 0;    ///< that the compute stream has not passed
  std::int64_t last_fused_bytes_ = 0;  ///< of the last of the kernels that are being made one; 0: none
};

/// torch.compile makes one kernel of neighbours that are bound by memory: what they hand to each other stays in registers.
double Clocks::kernel_s(const Activity& activity, Issued issued) {
  const bool fusible = issued.compiled && activity.arithmetic == Arithmetic::none && activity.stream == Stream::compute;
  const std::int64_t before = activity.stream == Stream::compute ? std::exchange(last_fused_bytes_, fusible ? activity.bytes : 0) : 0;
  if (fusible && before > 0) return (d(activity.bytes) - kHandedOnRatio * d(std::min(activity.bytes, before))) / device_.memory_bytes_per_s;
  host_ += issued.by_autograd ? kBackwardIssueS : kIssueS;
  if (rooflines_s_.empty()) return device_.launch_s + roofline_s(activity, device_, conditions_);
  std::optional<double>& known = rooflines_s_[index_];
  if (!known) known = roofline_s(activity, device_, conditions_);
  return device_.launch_s + *known;
}

void Clocks::run_kernel(const Activity& activity, Issued issued) {
  const double duration = kernel_s(activity, issued);
  const double start = std::max(clock(activity.stream), host_);
  if (activity.stream != Stream::compute) {
    clock(activity.stream) = start + duration;
    note(start, start + duration);
    return run_beside({start, start + duration, 1});  // two kernels that each fill the device take as long as one after the other
  }
  clock(activity.stream) = slowed_end(start, duration);
  enter_queue();
  time_.compute_s += clock(activity.stream) - start;
  note(start, compute());
  if (noted_ != nullptr) last_kernel_ = index_;
}

/// What was issued last to the compute stream.
void Clocks::enter_queue() {
  double& oldest = queue_[next_in_queue_++ % queue_.size()];
  host_ = std::max(host_, oldest);
  oldest = compute();
}

double Clocks::slowed_end(double start, double duration) {
  while (first_neighbour_ < neighbours_.size() && neighbours_[first_neighbour_].end <= start) ++first_neighbour_;
  double taken = 0;
  for (std::size_t i = first_neighbour_; i < neighbours_.size() && neighbours_[i].begin < start + duration + taken; ++i)
    taken += neighbours_[i].share * neighbours_[i].beside_s(start, duration + taken);
  return start + duration + taken;
}

/// Kernels that were issued before it are slowed too: the compute stream's end moves.
void Clocks::run_beside(Neighbour neighbour) {
  if (neighbour.share == 0) return;
  const double beside = std::max(0.0, std::min(neighbour.end, compute()) - neighbour.begin);
  const auto ahead = neighbours_.begin() + static_cast<std::ptrdiff_t>(first_neighbour_);
  neighbours_.insert(std::upper_bound(ahead, neighbours_.end(), neighbour, [](const Neighbour& a, const Neighbour& b) { return a.begin < b.begin; }), neighbour);
  clock(Stream::compute) += beside * neighbour.share;
  time_.compute_s += beside * neighbour.share;
  if (noted_ != nullptr && last_kernel_ && beside > 0) noted_->activities[*last_kernel_].end_s += beside * neighbour.share;
}

void Clocks::run_collective(const Activity& activity) {
  host_ += kIssueS;
  const double duration = collective_s(activity.as_collective(), cluster_);
  double& communicator = communicators_[activity.stride > 1];
  const double ready = std::max(clock(activity.stream), host_);
  const double begin = std::max(ready, communicator);
  communicator = begin + duration;
  note(begin, communicator);
  time_.communication_s += duration;
  if (activity.stream != Stream::compute || activity.event != 0) run_beside({begin, communicator, nccl_share_});
  if (activity.event != 0) {
    events_[activity.event] = communicator;
    return;
  }
  if (activity.stream == Stream::compute) expose(communicator, ready);
  clock(activity.stream) = communicator;
}

void Clocks::run_copy(const Activity& activity, double& engine) {
  host_ += kIssueS;
  const double duration = copy_s(activity.bytes, device_);
  const double ready = std::max(clock(activity.stream), host_);
  engine = std::max(ready, engine) + duration;
  note(engine - duration, engine);
  time_.copy_s += duration;
  if (activity.stream == Stream::compute) expose(engine, ready);
  clock(activity.stream) = engine;
}

void Clocks::run_on_host(const Activity& activity) {
  const double duration = host_s(activity.bytes, activity.kind == Activity::Kind::host_update ? static_cast<std::int64_t>(activity.count) : 0, cluster_);
  note(host_, host_ + duration);
  host_ += duration;
  time_.host_s += duration;
}

void Clocks::wait(const Activity& activity) {
  double& own = clock(activity.stream);
  const double until = events_[activity.event];
  if (activity.stream == Stream::compute) expose(until, std::max(own, host_));
  note(own, std::max(own, until));
  own = std::max(own, until);
}

void Clocks::synchronize(const Activity& activity) {
  const double until = activity.event != 0 ? events_[activity.event] : clock(activity.stream);
  if (activity.event == 0 && activity.stream != Stream::compute) expose(until, std::max(compute(), host_));
  host_ = std::max(host_, until);
}

void Clocks::run(std::size_t index, const Activity& activity, Issued issued) {
  index_ = index;
  switch (activity.kind) {
    case Activity::Kind::kernel: return run_kernel(activity, issued);
    case Activity::Kind::collective: return run_collective(activity);
    case Activity::Kind::copy_to_device: return run_copy(activity, to_device_);
    case Activity::Kind::copy_to_host: return run_copy(activity, to_host_);
    case Activity::Kind::host_hooks: return run_python(kModuleHooksS);
    case Activity::Kind::host_fetch: return run_python(kFetchS);
    case Activity::Kind::host_reduction: return run_python(kReductionS);
    case Activity::Kind::host_kernel:
    case Activity::Kind::host_update: return run_on_host(activity);
    case Activity::Kind::record:
      events_[activity.event] = clock(activity.stream);
      if (activity.stream == Stream::compute) enter_queue();
      return;
    case Activity::Kind::wait:
      wait(activity);
      if (activity.stream == Stream::compute) enter_queue();
      return;
    case Activity::Kind::synchronize: return synchronize(activity);
  }
}

void Clocks::hand_on(const RepeatedStretch& stretch) {
  for (EventId id = stretch.begin_id + 1; id <= stretch.end_id; ++id) events_[id - stretch.ids()] = events_[id];
}

void Clocks::continue_from(const Clocks& before, const RepeatedStretch& stretch, std::int64_t more) {
  const auto go_on = [&](double& clock, double then) { clock += d(more) * (clock - then); };
  const double shift = d(more) * (compute() - before.compute());
  for (std::size_t i = first_neighbour_; i < neighbours_.size(); ++i) {
    neighbours_[i].begin += shift;
    neighbours_[i].end += shift;
  }
  for (EventId id = stretch.begin_id + 1; id <= stretch.end_id; ++id) go_on(events_[id], events_[id - stretch.ids()]);
  go_on(host_, before.host_);
  for (std::size_t i = 0; i < streams_.size(); ++i) go_on(streams_[i], before.streams_[i]);
  for (std::size_t i = 0; i < communicators_.size(); ++i) go_on(communicators_[i], before.communicators_[i]);
  go_on(to_device_, before.to_device_);
  go_on(to_host_, before.to_host_);
  for (const auto sum : {&StepTime::compute_s, &StepTime::communication_s, &StepTime::exposed_communication_s, &StepTime::copy_s, &StepTime::host_s}) go_on(time_.*sum, before.time_.*sum);
}

/// torch.compile makes the model code of blocks, and not what an engine does around it.
Issued issued(const Recorder& recorder, const Activity& activity, const StepConditions& conditions) {
  if (activity.op == 0 || !recorder.records_events()) return {};
  const OpEvent& op = recorder.ops()[activity.op - 1];
  const std::string_view name = op.name;
  const bool of_a_block = op.where.unit == UnitKind::block && name.find("::") == name.npos && name != "AccumulateGrad";
  return {.compiled = conditions.compiled && of_a_block, .by_autograd = op.backward};
}

}  // namespace

double StepTime::waiting_for_host_s() const { return std::max(0.0, step_s - compute_s - exposed_communication_s); }

StepTime step_time(const Recorder& recorder, const Cluster& cluster, const StepConditions& conditions, std::string_view prefix, StepClock* clock) {
  assert(recorder.has_activities());
  Clocks clocks(cluster, conditions, recorder.event_ids());
  if (clock != nullptr) *clock = {.activities = std::vector<ClockSpan>(recorder.activities().size()), .step_s = 0, .exposed = {}, .more_rounds_s = {}};
  clocks.note_in(clock);
  if (!recorder.repeated().empty()) clocks.remember_kernels(recorder.activities().size());
  std::vector<bool> counts;  // by phase
  for (const PhasePeak& phase : recorder.phases()) counts.push_back(phase.name.starts_with(prefix));
  const auto run = [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const Activity& activity = recorder.activities()[i];
      if (counts[activity.phase]) clocks.run(i, activity, issued(recorder, activity, conditions));
    }
  };
  std::size_t done = 0;
  for (const RepeatedStretch& stretch : recorder.repeated()) {
    run(done, std::max(done, stretch.end_activity));
    done = std::max(done, stretch.end_activity);
    const double first_round_s = clocks.now_s();
    clocks.note_in(nullptr);
    const std::int64_t rounds = stretch.end_activity > stretch.begin_activity ? stretch.count : 1;
    for (std::int64_t round = 1; round < std::min(rounds, kMostRounds); ++round) {
      clocks.hand_on(stretch);
      run(stretch.begin_activity, stretch.end_activity);
    }
    if (rounds > kMostRounds) {
      const Clocks before = clocks;
      clocks.hand_on(stretch);
      run(stretch.begin_activity, stretch.end_activity);
      clocks.continue_from(before, stretch, rounds - kMostRounds - 1);
    }
    clocks.note_in(clock);
    if (clock != nullptr) clock->more_rounds_s.push_back(clocks.now_s() - first_round_s);
  }
  run(done, recorder.activities().size());
  const StepTime time = clocks.result(recorder.work_totals(prefix));
  if (clock != nullptr) clock->step_s = time.step_s;
  return time;
}

std::vector<WaitingFree> waiting_frees(const Recorder& recorder, const Cluster& cluster, const StepConditions& conditions) {
  const std::vector<MemoryEvent>& events = recorder.events();
  Clocks clocks(cluster, conditions, recorder.event_ids());
  std::vector<WaitingFree> out, asked;         // of all micro batches; of this one
  std::vector<double> over_s;                  // by place in asked
  std::vector<double> host_s;                  // by event, from begin on
  std::size_t begin = 0, next_activity = 0;
  const auto run_until = [&](std::size_t activity) {
    for (; next_activity < activity; ++next_activity) clocks.run(next_activity, recorder.activities()[next_activity], issued(recorder, recorder.activities()[next_activity], conditions));
  };
  const auto end_micro_batch = [&](std::size_t end) {
    for (std::size_t i = 0; i < asked.size(); ++i) {
      const auto comes_back = std::lower_bound(host_s.begin() + static_cast<std::ptrdiff_t>(asked[i].freed + 1 - begin), host_s.end(), over_s[i]);
      asked[i].back = begin + static_cast<std::size_t>(comes_back - host_s.begin());
      if (asked[i].back > asked[i].freed + 1) out.push_back(asked[i]);
    }
    asked.clear();
    over_s.clear();
    host_s.clear();
    begin = end;
    clocks.synchronize_all();
  };
  std::vector<std::uint32_t> uses(recorder.tags().size());  // by storage: a bit a stream
  std::int64_t steps = std::count_if(events.begin(), events.end(), [](const MemoryEvent& event) { return event.kind == MemoryEvent::Kind::forget; }), step = 0;
  for (std::size_t i = 0; i < events.size() && events[i].kind != MemoryEvent::Kind::end; ++i) {
    const MemoryEvent& event = events[i];
    if (event.kind == MemoryEvent::Kind::forget || (event.kind == MemoryEvent::Kind::phase && recorder.phases()[event.storage].name.ends_with("forward"))) end_micro_batch(i);
    step += event.kind == MemoryEvent::Kind::forget;
    if (step <= 1 || step == steps) run_until(event.activity);
    const bool frees = event.kind == MemoryEvent::Kind::death || event.kind == MemoryEvent::Kind::resize;
    host_s.push_back(clocks.host_now_s());
    if (event.kind == MemoryEvent::Kind::use) uses[event.storage] |= 1U << event.bytes;
    if (!frees || uses[event.storage] == 0) continue;
    for (std::size_t stream = 0; stream < kStreamCount; ++stream) {
      if ((uses[event.storage] >> stream & 1U) == 0) continue;
      asked.push_back({static_cast<Stream>(stream), i, 0});
      over_s.push_back(clocks.stream_s(static_cast<Stream>(stream)));
    }
    uses[event.storage] = 0;
  }
  end_micro_batch(events.size());
  std::stable_sort(out.begin(), out.end(), [](const WaitingFree& a, const WaitingFree& b) { return a.back < b.back; });
  return out;
}

StepTime step_time_from_totals(const Recorder& recorder, const Cluster& cluster, std::string_view prefix) {
  const DeviceProfile& device = cluster.device;
  const auto kernels_s = [&](const WorkTotals& work) {
    double sum = d(work.kernels) * device.launch_s;
    for (std::size_t i = 0; i < work.flops.size(); ++i)
      sum += roofline_s({.arithmetic = static_cast<Arithmetic>(i), .count = work.flops[i], .bytes = work.moved_bytes[i]}, device, {});
    return sum;
  };
  const auto communication_s = [&](const WorkTotals& work) {
    if (work.collectives == 0) return 0.0;
    const Collective whole{.kind = CollectiveKind::broadcast, .payload_bytes = work.wire_bytes, .ranks = cluster.world_size()};  // wire bytes as they are
    const double latency = collective_s({.kind = CollectiveKind::broadcast, .payload_bytes = 0, .ranks = whole.ranks}, cluster);
    return collective_s(whole, cluster) + latency * d(work.collectives - 1);
  };
  StepTime time;
  time.work = recorder.work_totals(prefix);
  const WorkTotals compute = recorder.work_totals(prefix, Stream::compute);
  time.compute_s = kernels_s(compute);
  time.communication_s = communication_s(time.work);
  time.copy_s = copy_s(time.work.copied_to_device_bytes + time.work.copied_to_host_bytes, device);
  time.host_s = host_s(time.work.host_moved_bytes, time.work.host_updated_elems, cluster);
  const double blocking_s = communication_s(compute) + copy_s(compute.copied_to_device_bytes + compute.copied_to_host_bytes, device);
  const double hidden_s = time.communication_s - communication_s(compute);
  time.exposed_communication_s = blocking_s + std::max(0.0, hidden_s - time.compute_s);
  time.step_s = std::max(time.compute_s + time.exposed_communication_s, d(time.work.kernels) * kBackwardIssueS) + time.host_s;
  return time;
}

StepRates rates_of(const StepTime& time, const DeviceProfile& device, double tokens_per_step_per_gpu, double model_flops_per_token) {
  if (time.step_s <= 0) return {};
  StepRates rates;
  rates.tokens_per_s_per_gpu = tokens_per_step_per_gpu / time.step_s;
  if (device.peak_bf16_flops_per_s <= 0) return rates;
  rates.mfu_ratio = rates.tokens_per_s_per_gpu * model_flops_per_token / device.peak_bf16_flops_per_s;
  rates.hfu_ratio = time.work.all_flops() / time.step_s / device.peak_bf16_flops_per_s;
  return rates;
}

}  // namespace zeroplan::eager
