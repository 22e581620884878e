#include "planner/engines/eager/step_time.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <functional>

#include "planner/engines/eager/deepspeed_zero12.h"
#include "planner/engines/eager/deepspeed_zero3.h"
#include "planner/engines/eager/fsdp2.h"
#include "planner/engines/eager/single.h"

namespace zeroplan::eager {
namespace {

constexpr std::int64_t kRanks = 4;
constexpr std::int64_t kBf16Bytes = 2, kFp32Bytes = 4;

/// Every size divides by the ranks, so that nothing is padded.
HfConfig small_model(ScalarType type) {
  return {.hidden_size = 64, .num_layers = 6, .vocab_size = 128, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .type = type};
}

constexpr TrainingSize kSize{.seq_tokens = 32, .micro_batch = 2};
constexpr std::int64_t kTokens = 64;

/// Elements of matrices that tokens are multiplied with.
std::int64_t block_matrix_elems(const HfConfig& c) {
  const std::int64_t q_dim = c.num_heads * c.head_dim, kv_dim = c.num_kv_heads * c.head_dim;
  return c.hidden_size * (2 * q_dim + 2 * kv_dim + 3 * c.intermediate_size);
}
std::int64_t matrix_elems(const HfConfig& c) { return c.num_layers * block_matrix_elems(c) + c.hidden_size * c.vocab_size; }
/// Causal: two products over half the pairs.
std::int64_t attention_forward_flops(const HfConfig& c) { return 2 * c.num_layers * kTokens * kSize.seq_tokens * c.num_heads * c.head_dim; }
std::int64_t parameter_elems(const HfConfig& c) { return matrix_elems(c) + c.vocab_size * c.hidden_size + (2 * c.num_layers + 1) * c.hidden_size; }

std::int64_t flops(const WorkTotals& work, Arithmetic arithmetic) { return work.flops[static_cast<std::size_t>(arithmetic)]; }
std::int64_t payload(const WorkTotals& work, CollectiveKind kind) { return work.payload_bytes[static_cast<std::size_t>(kind)]; }
/// The ZeRO paper's volume: an all-reduce is a reduce-scatter and an all-gather.
std::int64_t volume_bytes(const WorkTotals& work) {
  return payload(work, CollectiveKind::all_gather) + payload(work, CollectiveKind::reduce_scatter) + 2 * payload(work, CollectiveKind::all_reduce);
}

WorkTotals work_of(const SingleJob& job) {
  Recorder recorder;
  run_single(job, recorder, kGpu);
  return recorder.work_totals("steady");
}
WorkTotals work_of(const Zero12Job& job) {
  Recorder recorder;
  run_zero12(job, recorder, kGpu);
  return recorder.work_totals("steady");
}
WorkTotals work_of(const Zero3Job& job) {
  Recorder recorder;
  run_zero3(job, recorder, kGpu);
  return recorder.work_totals("steady");
}
WorkTotals work_of(const Fsdp2Job& job) {
  Recorder recorder;
  run_fsdp2(job, recorder, kGpu);
  return recorder.work_totals("steady");
}

SingleJob single_job() {
  SingleJob job;
  job.model = small_model(ScalarType::bf16);
  job.size = kSize;
  return job;
}

Zero12Job zero12_job(int stage) {
  Zero12Job job;
  job.model = small_model(ScalarType::bf16);
  job.stage = stage;
  job.world_ranks = kRanks;
  job.size = kSize;
  job.kernel = OptimizerKernel::fused;
  return job;
}

/// Nothing is spared between forward and backward: a prefetch would spare what it meets in the trace.
Zero3Job zero3_job() {
  Zero3Job job;
  job.model = small_model(ScalarType::bf16);
  job.ranks = kRanks;
  job.size = kSize;
  job.fetching.prefetch_bucket_elems = job.fetching.persistence_threshold_elems = job.fetching.max_reuse_distance_elems = 0;
  return job;
}

Fsdp2Job fsdp2_job(Reshard reshard) {
  Fsdp2Job job;
  job.tool = Fsdp2Job::Tool::torchtitan;
  job.model = small_model(ScalarType::fp32);
  job.world_ranks = job.shard_group_ranks = kRanks;
  job.size = kSize;
  job.reshard = reshard;
  return job;
}

/// Round figures: 1 TFLOP/s, 1 TB/s, 10 GB/s; nothing but work costs time.
Cluster round_cluster() {
  Cluster cluster;
  cluster.gpus_per_node = kRanks;
  cluster.device.matmul_bf16_flops_per_s = cluster.device.matmul_fp32_flops_per_s = cluster.device.peak_bf16_flops_per_s = 1e12;
  cluster.device.memory_bytes_per_s = 1e12;
  cluster.device.link_bytes_per_s = 1e10;
  cluster.device.attention_flops_per_s = 1e12;
  cluster.device.host_link_bytes_per_s = 1e10;
  cluster.network_bytes_per_s = 1e9;
  return cluster;
}

}  // namespace

TEST_CASE("a Llama step multiplies 6 FLOPs a token and matrix element, and attention seven halves of its forward", "[unit]") {
  const SingleJob job = single_job();
  const WorkTotals work = work_of(job);
  CHECK(flops(work, Arithmetic::matmul_16_bit) == 6 * kTokens * matrix_elems(job.model));
  CHECK(flops(work, Arithmetic::matmul_32_bit) == 0);
  CHECK(2 * flops(work, Arithmetic::attention) == 7 * attention_forward_flops(job.model));
}

TEST_CASE("checkpointing adds one forward of the blocks; early stop leaves out the product after which nothing is saved", "[unit]") {
  SingleJob job = single_job();
  const WorkTotals kept = work_of(job);
  const auto extra = [&](CheckpointMode mode, Arithmetic arithmetic) {
    job.checkpoint.mode = mode;
    return flops(work_of(job), arithmetic) - flops(kept, arithmetic);
  };
  const std::int64_t blocks_elems = job.model.num_layers * block_matrix_elems(job.model);
  const std::int64_t last_elems = job.model.num_layers * job.model.hidden_size * job.model.intermediate_size;
  CHECK(extra(CheckpointMode::reentrant, Arithmetic::matmul_16_bit) == 2 * kTokens * blocks_elems);
  CHECK(extra(CheckpointMode::non_reentrant, Arithmetic::matmul_16_bit) == 2 * kTokens * (blocks_elems - last_elems));
  CHECK(extra(CheckpointMode::reentrant, Arithmetic::attention) == attention_forward_flops(job.model));
  CHECK(extra(CheckpointMode::selective, Arithmetic::attention) == 0);
}

TEST_CASE("totals are of one step, whatever the number of steps, and of all its micro batches", "[property]") {
  SingleJob job = single_job();
  const WorkTotals once = work_of(job);
  job.size.steps = 5;
  CHECK(work_of(job) == once);
  job.size.accumulate = 3;
  const WorkTotals thrice = work_of(job);
  CHECK(flops(thrice, Arithmetic::matmul_16_bit) == 3 * flops(once, Arithmetic::matmul_16_bit));
  CHECK(flops(thrice, Arithmetic::attention) == 3 * flops(once, Arithmetic::attention));
}

TEST_CASE("totals are the sums of the activities, phase by phase and stream by stream", "[property]") {
  Zero3Job job = zero3_job();
  job.offload_optimizer = true;
  job.kernel = OptimizerKernel::fused;
  job.checkpoint.mode = CheckpointMode::non_reentrant;
  job.size.accumulate = 2;
  Recorder recorder(true);
  run_zero3(job, recorder, kGpu);
  for (std::size_t phase = 0; phase < recorder.phases().size(); ++phase)
    for (int stream = 0; stream < kStreamCount; ++stream) {
      WorkTotals sum;
      for (const Activity& activity : recorder.activities())
        if (activity.phase == phase && activity.stream == static_cast<Stream>(stream)) sum.add(activity);
      INFO(recorder.phases()[phase].name << " " << stream);
      CHECK(sum == recorder.work_totals(recorder.phases()[phase].name, static_cast<Stream>(stream)));
    }
}

TEST_CASE("stage 3 sends three times the parameters: gathered for forward, for backward, and gradients scattered", "[published]") {
  Zero3Job job = zero3_job();
  const std::int64_t parameters_bytes = parameter_elems(job.model) * kBf16Bytes;
  const WorkTotals work = work_of(job);
  CHECK(payload(work, CollectiveKind::all_gather) == 2 * parameters_bytes);
  CHECK(payload(work, CollectiveKind::reduce_scatter) == parameters_bytes);
  job.fetching.max_reuse_distance_elems = 1'000'000'000;
  CHECK(payload(work_of(job), CollectiveKind::all_gather) < 2 * parameters_bytes);
}

TEST_CASE("stages 1 and 2 gather the parameters once; DeepSpeed reduces whole buckets unless it is told to reduce to their owners", "[published]") {
  for (const int stage : {1, 2}) {
    INFO(stage);
    Zero12Job job = zero12_job(stage);
    const std::int64_t parameters_bytes = parameter_elems(job.model) * kBf16Bytes;
    constexpr std::int64_t kNormBytes = 8;
    const WorkTotals whole = work_of(job);
    CHECK(payload(whole, CollectiveKind::all_gather) == parameters_bytes);
    CHECK(volume_bytes(whole) == 3 * parameters_bytes + 2 * kNormBytes);
    job.zero.use_multi_rank_bucket_allreduce = false;
    const WorkTotals owners = work_of(job);
    CHECK(payload(owners, CollectiveKind::reduce) == parameters_bytes);
    CHECK(volume_bytes(owners) == parameters_bytes + 2 * kNormBytes);  // with the reductions: the paper's 2Ψ
  }
}

TEST_CASE("FSDP2 gathers twice and scatters once; without resharding it gathers once", "[published]") {
  const std::int64_t elems = parameter_elems(small_model(ScalarType::fp32));
  const WorkTotals always = work_of(fsdp2_job(Reshard::always));
  CHECK(payload(always, CollectiveKind::all_gather) == 2 * elems * kBf16Bytes);
  CHECK(payload(always, CollectiveKind::reduce_scatter) == elems * kFp32Bytes);
  const WorkTotals never = work_of(fsdp2_job(Reshard::never));
  CHECK(payload(never, CollectiveKind::all_gather) == elems * kBf16Bytes);
  CHECK(payload(never, CollectiveKind::reduce_scatter) == elems * kFp32Bytes);
  Fsdp2Job hybrid = fsdp2_job(Reshard::always);
  hybrid.world_ranks = 2 * kRanks;
  constexpr std::int64_t kNormBytes = 4;
  CHECK(payload(work_of(hybrid), CollectiveKind::all_reduce) == elems / kRanks * kFp32Bytes + kNormBytes);
}

TEST_CASE("an offloaded optimizer sends this rank's gradients to the host, updates there, and sends parameters back", "[unit]") {
  Zero12Job job = zero12_job(2);
  job.offload_optimizer = true;
  const std::int64_t partition_elems = parameter_elems(job.model) / kRanks;
  const WorkTotals work = work_of(job);
  CHECK(work.host_updated_elems == partition_elems);
  CHECK(work.copied_to_host_bytes == partition_elems * kFp32Bytes);
  CHECK(work.copied_to_device_bytes == partition_elems * kBf16Bytes);
}

TEST_CASE("a ring sends (n - 1) / n of the payload, twice for an all-reduce, over one port a rank in each node", "[unit]") {
  Cluster cluster = round_cluster();
  const Collective gather{.kind = CollectiveKind::all_gather, .payload_bytes = 4'000'000, .ranks = 4};
  CHECK(collective_s(gather, cluster) == Approx(3e6 / 1e10));
  CHECK(collective_s({.kind = CollectiveKind::all_reduce, .payload_bytes = 4'000'000, .ranks = 4}, cluster) == Approx(6e6 / 1e10));
  CHECK(collective_s({.kind = CollectiveKind::all_gather, .payload_bytes = 4'000'000, .ranks = 1}, cluster) == 0);
  cluster.nodes = 2;
  CHECK(collective_s({.kind = CollectiveKind::all_gather, .payload_bytes = 8'000'000, .ranks = 8}, cluster) == Approx(7e6 / 4e9));
  CHECK(collective_s({.kind = CollectiveKind::all_reduce, .payload_bytes = 8'000'000, .ranks = 2, .stride = 4}, cluster) == Approx(8e6 / 1e9));
  cluster.device.link_latency_s = 1e-3;
  cluster.network_latency_s = 2e-3;
  CHECK(collective_s(gather, cluster) == Approx(3e6 / 1e10 + 1e-3));
  CHECK(collective_s({.kind = CollectiveKind::all_gather, .payload_bytes = 8'000'000, .ranks = 8}, cluster) == Approx(7e6 / 4e9 + 3e-3));
}

TEST_CASE("streams overlap until one waits for another", "[unit]") {
  const auto run = [](bool waits_at_once) {
    Recorder recorder;
    recorder.record_activities();
    recorder.begin_phase("steady.forward");
    Context context(recorder);
    EventId gathered = 0;
    {
      Scoped gather(context.stream, Stream::gather);
      context.collective({.kind = CollectiveKind::all_gather, .payload_bytes = 40'000'000'000, .ranks = 4});  // 3 s
      gathered = context.record_event();
    }
    if (waits_at_once) context.wait_event(gathered);
    context.computes({.arithmetic = Arithmetic::matmul_16_bit, .flops = 2'000'000'000'000});  // 2 s
    context.wait_event(gathered);
    context.computes({.arithmetic = Arithmetic::matmul_16_bit, .flops = 1'000'000'000'000});
    return step_time(recorder, round_cluster());
  };
  const StepTime overlapped = run(false);
  CHECK(overlapped.step_s == Approx(4).margin(1e-4));
  CHECK(overlapped.compute_s == Approx(3));
  CHECK(overlapped.exposed_communication_s == Approx(1).margin(1e-4));
  CHECK(run(true).step_s == Approx(6).margin(1e-4));
  CHECK(run(true).exposed_communication_s == Approx(3).margin(1e-4));
}

TEST_CASE("collectives of one communicator run one at a time, asynchronous ones hold their event back and not their stream", "[unit]") {
  Recorder recorder;
  recorder.record_activities();
  recorder.begin_phase("steady.forward");
  Context context(recorder);
  const Collective second{.kind = CollectiveKind::broadcast, .payload_bytes = 10'000'000'000, .ranks = 4};
  {
    Scoped gather(context.stream, Stream::gather);
    context.collective_async(second);
  }
  EventId reduced = 0;
  {
    Scoped reduce(context.stream, Stream::reduce);
    reduced = context.collective_async(second);
  }
  context.wait_stream(Stream::gather);
  context.computes({.arithmetic = Arithmetic::matmul_16_bit, .flops = 1'000'000'000'000});
  CHECK(step_time(recorder, round_cluster()).exposed_communication_s == Approx(0).margin(1e-4));
  context.wait_event(reduced);
  const StepTime time = step_time(recorder, round_cluster());
  CHECK(time.exposed_communication_s == Approx(1).margin(1e-4));
  CHECK(time.communication_s == Approx(2));
}

namespace {
/// The steady step of what `work` does.
StepTime time_of(const Cluster& cluster, const StepConditions& conditions, const std::function<void(Context&)>& work) {
  Recorder recorder(true);
  recorder.begin_phase("steady.forward");
  Context context(recorder);
  context.where = {.unit = UnitKind::block};
  context.begin_op("op");
  work(context);
  return step_time(recorder, cluster, conditions);
}
}  // namespace

TEST_CASE("a collective that runs beside takes its channels' multiprocessors from kernels, whichever was issued first", "[unit]") {
  Cluster cluster = round_cluster();
  cluster.device.multiprocessors = 10;
  cluster.device.nccl_channels = 5;
  const auto gather = [](Context& context) {
    Scoped there(context.stream, Stream::gather);
    context.collective({.kind = CollectiveKind::all_gather, .payload_bytes = 40'000'000'000, .ranks = 4});  // 3 s
  };
  const auto multiply = [](Context& context) { context.computes({.arithmetic = Arithmetic::matmul_16_bit, .flops = 2'000'000'000'000}); };  // 2 s
  CHECK(time_of(cluster, {}, [&](Context& c) { gather(c), multiply(c); }).step_s == Approx(3.5).margin(1e-4));  // 1.5 s done beside it, half a second after it
  CHECK(time_of(cluster, {}, [&](Context& c) { multiply(c), gather(c); }).compute_s == Approx(3).margin(1e-4));
  cluster.device.multiprocessors.reset();
  CHECK(time_of(cluster, {}, [&](Context& c) { gather(c), multiply(c); }).compute_s == Approx(2).margin(1e-4));
}

TEST_CASE("kernels of two streams share the device: together they take as long as one after the other", "[unit]") {
  const StepTime time = time_of(round_cluster(), {}, [](Context& context) {
    {
      Scoped there(context.stream, Stream::reduce);
      context.moves(1'000'000'000'000);  // 1 s
    }
    context.computes({.arithmetic = Arithmetic::matmul_16_bit, .flops = 2'000'000'000'000});
  });
  CHECK(time.step_s == Approx(3).margin(1e-4));
}

TEST_CASE("torch.compile makes one kernel of a block's neighbours that are bound by memory, and spares what they hand on", "[unit]") {
  constexpr std::int64_t kBytes = 1'000'000'000'000;  // 1 s
  const auto chain = [](Context& context) {
    for (int i = 0; i < 3; ++i) context.moves(kBytes);
    context.computes({.arithmetic = Arithmetic::matmul_16_bit, .flops = 1'000'000'000'000});
    context.moves(kBytes);
  };
  CHECK(time_of(round_cluster(), {}, chain).compute_s == Approx(5));
  CHECK(time_of(round_cluster(), {.compiled = true}, chain).compute_s == Approx(5 - 2 * kHandedOnRatio));
  const auto outside = [&](Context& context) {
    context.where = {.unit = UnitKind::head};
    context.begin_op("op");
    chain(context);
  };
  CHECK(time_of(round_cluster(), {.compiled = true}, outside).compute_s == Approx(5));
}

TEST_CASE("conditions choose the rate: fp8, fp16, tf32, the attention kernel and a sequence's ranks", "[unit]") {
  Cluster cluster = round_cluster();
  cluster.device.matmul_fp8_flops_per_s = cluster.device.matmul_fp16_flops_per_s = cluster.device.matmul_tf32_flops_per_s = 4e12;
  cluster.device.cudnn_attention_flops_per_s = 2e12;
  const auto seconds = [&](const StepConditions& conditions, Arithmetic arithmetic) {
    return time_of(cluster, conditions, [&](Context& c) { c.computes({.arithmetic = arithmetic, .flops = 1'000'000'000'000}); }).compute_s;
  };
  using Attention = StepConditions::Attention;
  CHECK(seconds({}, Arithmetic::matmul_16_bit) == Approx(1));
  CHECK(seconds({.fp8 = true}, Arithmetic::matmul_16_bit) == Approx(0.25));
  CHECK(seconds({.fp16 = true}, Arithmetic::matmul_16_bit) == Approx(0.25));
  CHECK(seconds({.tf32 = true}, Arithmetic::matmul_16_bit) == Approx(1));
  CHECK(seconds({.tf32 = true}, Arithmetic::matmul_32_bit) == Approx(0.25));
  CHECK(seconds({}, Arithmetic::attention) == Approx(1));
  CHECK(seconds({.attention = Attention::flash_1}, Arithmetic::attention) == Approx(1 / kFlash1Ratio));
  CHECK(seconds({.attention = Attention::cudnn}, Arithmetic::attention) == Approx(0.5));
  CHECK(seconds({.sequence_parallel = 8}, Arithmetic::attention) == Approx(8));
}

TEST_CASE("the host is quicker in backward than in Python, and DeepSpeed's hooks hold it up at each module", "[unit]") {
  Zero3Job job = zero3_job();
  Recorder recorder(true);
  run_zero3(job, recorder, kGpu);
  const auto seconds_of = [&](Activity::Kind kind, double each) {
    return each * static_cast<double>(std::count_if(recorder.activities().begin(), recorder.activities().end(), [&](const Activity& a) { return a.kind == kind; }));
  };
  const double hooks_s = seconds_of(Activity::Kind::host_hooks, kModuleHooksS);
  const double python_s = hooks_s + seconds_of(Activity::Kind::host_fetch, kFetchS) + seconds_of(Activity::Kind::host_reduction, kReductionS);
  CHECK(hooks_s > static_cast<double>(2 * 7 * job.model.num_layers) * kModuleHooksS);  // seven projections a block, there and back
  Cluster fast = round_cluster();
  fast.device.link_bytes_per_s = fast.device.memory_bytes_per_s = fast.device.matmul_bf16_flops_per_s = fast.device.attention_flops_per_s.emplace() = 1e18;
  const StepTime time = step_time(recorder, fast);
  CHECK(time.step_s > hooks_s / 2);  // the list is of two steps at most
  CHECK(time.step_s < python_s + static_cast<double>(time.work.kernels + time.work.collectives) * kIssueS);
}

TEST_CASE("twice the bandwidth halves what a blocking reduction exposes, and never makes a step longer", "[property]") {
  Recorder blocking, overlapping;
  blocking.record_activities();
  overlapping.record_activities();
  run_zero12(zero12_job(2), blocking, kGpu);
  run_fsdp2(fsdp2_job(Reshard::always), overlapping, kGpu);
  Cluster cluster = round_cluster();
  cluster.device.link_bytes_per_s = 1e7;
  StepTime before = step_time(blocking, cluster);
  CHECK(before.exposed_communication_s == Approx(before.communication_s));
  for (int doubling = 0; doubling < 4; ++doubling) {
    const double overlapped_s = step_time(overlapping, cluster).step_s;
    cluster.device.link_bytes_per_s *= 2;
    const StepTime after = step_time(blocking, cluster);
    CHECK(after.exposed_communication_s == Approx(before.exposed_communication_s / 2));
    CHECK(step_time(overlapping, cluster).step_s < overlapped_s);
    before = after;
  }
}

TEST_CASE("sums alone give at most the time of the walk, and the same compute where no kernel is bound the other way", "[property]") {
  for (const Reshard reshard : {Reshard::always, Reshard::never}) {
    Recorder recorder;
    recorder.record_activities();
    run_fsdp2(fsdp2_job(reshard), recorder, kGpu);
    for (const double link_bytes_per_s : {1e6, 1e9, 1e12}) {
      Cluster cluster = round_cluster();
      cluster.device.link_bytes_per_s = link_bytes_per_s;
      const StepTime walked = step_time(recorder, cluster), summed = step_time_from_totals(recorder, cluster);
      CHECK(summed.step_s <= walked.step_s * (1 + 1e-9));
      CHECK(summed.compute_s <= walked.compute_s * (1 + 1e-9));
      CHECK(summed.communication_s == Approx(walked.communication_s));
      CHECK(summed.work == walked.work);
    }
  }
}

TEST_CASE("rates say tokens, model FLOPs and executed FLOPs against the data sheet", "[unit]") {
  StepTime time;
  time.step_s = 2;
  time.work.flops[static_cast<std::size_t>(Arithmetic::matmul_16_bit)] = 1'500'000'000'000;
  const StepRates rates = rates_of(time, round_cluster().device, 1000, 1e9);
  CHECK(rates.tokens_per_s_per_gpu == Approx(500));
  CHECK(rates.mfu_ratio == Approx(0.5));
  CHECK(rates.hfu_ratio == Approx(0.75));
}

}  // namespace zeroplan::eager
