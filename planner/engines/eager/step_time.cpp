#include "planner/engines/eager/step_time.h"

#include <algorithm>
#include <cassert>
#include <unordered_map>

namespace zeroplan::eager {

namespace {

double d(std::int64_t value) { return static_cast<double>(value); }
std::size_t at(Stream stream) { return static_cast<std::size_t>(stream); }

double flops_per_s(Arithmetic arithmetic, const DeviceProfile& device) {
  switch (arithmetic) {
    case Arithmetic::none: return 0;
    case Arithmetic::matmul_16_bit: return device.matmul_bf16_flops_per_s;
    case Arithmetic::matmul_32_bit: return device.matmul_fp32_flops_per_s;
    case Arithmetic::attention: return device.attention_flops_per_s.value_or(kAttentionOfMatmulRatio * device.matmul_bf16_flops_per_s);
  }
  return 0;
}

/// Without launches.
double roofline_s(Arithmetic arithmetic, std::int64_t flops, std::int64_t bytes, const DeviceProfile& device) {
  const double rate = flops_per_s(arithmetic, device);
  return std::max(rate > 0 ? d(flops) / rate : 0, d(bytes) / device.memory_bytes_per_s);
}

double copy_s(std::int64_t bytes, const DeviceProfile& device) { return d(bytes) / device.host_link_bytes_per_s.value_or(kHostLinkBytesPerS); }

/// A rank's part of its node's host.
double host_s(std::int64_t moved_bytes, std::int64_t updated_elems, const Cluster& cluster) {
  return (d(moved_bytes) / kHostBytesPerS + d(updated_elems) / kHostUpdateElemsPerS) * d(cluster.gpus_per_node);
}

/// The part of a device that collectives take from kernels beside them.
double contended_part(const DeviceProfile& device) {
  if (device.multiprocessors == 0) return 0;
  return d(std::min({device.nccl_channels, kMostChannels, device.multiprocessors})) / d(device.multiprocessors);
}

class Clocks {
 public:
  explicit Clocks(const Cluster& cluster) : cluster_(cluster), device_(cluster.device) {}

  void run(const Activity& activity);
  StepTime result(const WorkTotals& work) {
    time_.work = work;
    const double slowed_s = contended_part(device_) * std::max(0.0, time_.communication_s - time_.exposed_communication_s);
    streams_[at(Stream::compute)] += slowed_s;
    time_.compute_s += slowed_s;
    time_.step_s = std::max(host_, *std::max_element(streams_.begin(), streams_.end()));
    expose(time_.step_s, std::max(compute(), host_));
    return time_;
  }

 private:
  double& clock(Stream stream) { return streams_[at(stream)]; }
  double compute() const { return streams_[at(Stream::compute)]; }
  double event(EventId id) const {
    const auto found = events_.find(id);
    return found == events_.end() ? 0 : found->second;  // of an earlier step
  }
  /// The compute stream, which had work until `free`, goes on at `until`.
  void expose(double until, double free) { time_.exposed_communication_s += std::max(0.0, until - free); }

  void run_kernel(const Activity& activity);
  void run_collective(const Activity& activity);
  void run_copy(const Activity& activity, double& engine);
  void run_on_host(const Activity& activity);
  void wait(const Activity& activity);
  void synchronize(const Activity& activity);

  const Cluster& cluster_;
  const DeviceProfile& device_;
  StepTime time_;
  double host_ = 0;
  std::array<double, kStreamCount> streams_{};
  std::array<double, 2> communicators_{};  ///< of neighbours; of ranks that are apart
  double to_device_ = 0, to_host_ = 0;     ///< copy engines
  std::unordered_map<EventId, double> events_;
};

void Clocks::run_kernel(const Activity& activity) {
  host_ += kIssueS;
  const double duration = device_.launch_s + roofline_s(activity.arithmetic, activity.count, activity.bytes, device_);
  clock(activity.stream) = std::max(clock(activity.stream), host_) + duration;
  if (activity.stream == Stream::compute) time_.compute_s += duration;
}

void Clocks::run_collective(const Activity& activity) {
  host_ += kIssueS;
  const double duration = collective_s(activity.as_collective(), cluster_);
  double& communicator = communicators_[activity.stride > 1];
  const double ready = std::max(clock(activity.stream), host_);
  communicator = std::max(ready, communicator) + duration;
  time_.communication_s += duration;
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
  time_.copy_s += duration;
  if (activity.stream == Stream::compute) expose(engine, ready);
  clock(activity.stream) = engine;
}

void Clocks::run_on_host(const Activity& activity) {
  const double duration = host_s(activity.bytes, activity.kind == Activity::Kind::host_update ? activity.count : 0, cluster_);
  host_ += duration;
  time_.host_s += duration;
}

void Clocks::wait(const Activity& activity) {
  double& own = clock(activity.stream);
  const double until = event(activity.event);
  if (activity.stream == Stream::compute) expose(until, std::max(own, host_));
  own = std::max(own, until);
}

void Clocks::synchronize(const Activity& activity) {
  const double until = clock(activity.stream);
  if (activity.stream != Stream::compute) expose(until, std::max(compute(), host_));
  host_ = std::max(host_, until);
}

void Clocks::run(const Activity& activity) {
  switch (activity.kind) {
    case Activity::Kind::kernel: return run_kernel(activity);
    case Activity::Kind::collective: return run_collective(activity);
    case Activity::Kind::copy_to_device: return run_copy(activity, to_device_);
    case Activity::Kind::copy_to_host: return run_copy(activity, to_host_);
    case Activity::Kind::host_kernel:
    case Activity::Kind::host_update: return run_on_host(activity);
    case Activity::Kind::record: events_[activity.event] = clock(activity.stream); return;
    case Activity::Kind::wait: return wait(activity);
    case Activity::Kind::synchronize: return synchronize(activity);
  }
}

/// Ring of neighbours or of ranks apart: how many of them share a node.
std::int64_t ranks_in_a_node(const Collective& collective, const Cluster& cluster) {
  return std::clamp<std::int64_t>(cluster.gpus_per_node / collective.stride, 1, collective.ranks);
}

}  // namespace

double StepTime::waiting_for_host_s() const { return std::max(0.0, step_s - compute_s - exposed_communication_s); }

double collective_s(const Collective& collective, const Cluster& cluster) {
  if (collective.ranks <= 1) return 0;
  const DeviceProfile& device = cluster.device;
  const std::int64_t local = ranks_in_a_node(collective, cluster);
  const bool between_nodes = local < collective.ranks;
  const double bandwidth = between_nodes ? std::min(d(local) * cluster.network_bytes_per_s, local > 1 ? device.link_bytes_per_s : cluster.network_bytes_per_s) : device.link_bytes_per_s;
  const double latency = device.launch_s + device.link_latency_s + (between_nodes ? cluster.network_latency_s : 0);
  return latency + (bandwidth > 0 ? d(collective.wire_bytes()) / bandwidth : 0);
}

StepTime step_time(const Recorder& recorder, const Cluster& cluster, std::string_view prefix) {
  assert(recorder.has_activities());
  Clocks clocks(cluster);
  for (const Activity& activity : recorder.activities())
    if (std::string_view(recorder.phases()[activity.phase].name).starts_with(prefix)) clocks.run(activity);
  return clocks.result(recorder.work_totals(prefix));
}

StepTime step_time_from_totals(const Recorder& recorder, const Cluster& cluster, std::string_view prefix) {
  const DeviceProfile& device = cluster.device;
  const auto kernels_s = [&](const WorkTotals& work) {
    double sum = d(work.kernels) * device.launch_s;
    for (std::size_t i = 0; i < work.flops.size(); ++i) sum += roofline_s(static_cast<Arithmetic>(i), work.flops[i], work.moved_bytes[i], device);
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
  time.step_s = std::max(time.compute_s + time.exposed_communication_s, d(time.work.kernels) * kIssueS) + time.host_s;
  return time;
}

StepRates rates_of(const StepTime& time, const DeviceProfile& device, double tokens_per_step_per_gpu, double model_flops_per_token) {
  if (time.step_s <= 0) return {};
  StepRates rates;
  rates.tokens_per_s_per_gpu = tokens_per_step_per_gpu / time.step_s;
  if (device.peak_bf16_flops_per_s <= 0) return rates;
  rates.mfu_ratio = rates.tokens_per_s_per_gpu * model_flops_per_token / device.peak_bf16_flops_per_s;
  rates.hfu_ratio = d(time.work.all_flops()) / time.step_s / device.peak_bf16_flops_per_s;
  return rates;
}

}  // namespace zeroplan::eager
