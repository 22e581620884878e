#include "planner/engines/eager/single.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <string>

namespace zeroplan::eager {
namespace {

SingleJob small_job() {
  SingleJob job;
  job.model = {.hidden_size = 64, .num_layers = 3, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16};
  job.size.seq_tokens = 32;
  return job;
}

}  // namespace

TEST_CASE("what is alive at a phase's peak sums up to the peak", "[unit]") {
  Recorder recorder(true);
  SingleJob job = small_job();
  job.checkpoint.mode = CheckpointMode::non_reentrant;
  const PhasePeaks peaks = run_single(job, recorder);
  for (const PhasePeak& phase : peaks.phases) {
    INFO(phase.name);
    std::int64_t sum = 0;
    for (const AliveBytes& alive : recorder.alive_at_peak(phase.name)) sum += alive.bytes;
    CHECK(sum == phase.bytes[0]);
  }
}

TEST_CASE("nothing is alive when a job has ended, and no storage dies twice", "[unit]") {
  for (const CheckpointMode mode : {CheckpointMode::none, CheckpointMode::non_reentrant, CheckpointMode::reentrant, CheckpointMode::selective}) {
    Recorder recorder(true);
    SingleJob job = small_job();
    job.checkpoint.mode = mode;
    run_single(job, recorder);
    CHECK(recorder.alive_bytes(Place::device) == 0);
    std::vector<int> alive(recorder.tags().size(), 0);
    for (const MemoryEvent& event : recorder.events()) {
      if (event.kind == MemoryEvent::Kind::birth) ++alive[event.storage];
      if (event.kind == MemoryEvent::Kind::death) --alive[event.storage];
    }
    CHECK(std::all_of(alive.begin(), alive.end(), [](int n) { return n == 0; }));
  }
}

TEST_CASE("a GPU that adds gradients in place never asks for more than fake tensors do", "[property]") {
  for (const CheckpointMode mode : {CheckpointMode::none, CheckpointMode::non_reentrant, CheckpointMode::reentrant, CheckpointMode::selective}) {
    SingleJob job = small_job();
    job.checkpoint.mode = mode;
    Recorder fake, gpu;
    const PhasePeaks fake_peaks = run_single(job, fake);
    const PhasePeaks gpu_peaks = run_single(job, gpu, {.out_of_place_accumulation = false, .layer_norm_keeps_input_type = false, .host = Place::host});
    for (const PhasePeak& phase : fake_peaks.phases) CHECK(gpu_peaks.peak_bytes(phase.name) <= phase.bytes[0]);
    CHECK(gpu_peaks.peak_bytes("steady.backward") < fake_peaks.peak_bytes("steady.backward"));
  }
}

namespace {
constexpr std::int64_t kTokens = 64, kBlocks = 3, kBf16Bytes = 2;

SingleJob block_job() {
  SingleJob job;
  job.model = {.hidden_size = 64, .num_layers = kBlocks, .vocab_size = 101, .intermediate_size = 128, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16};
  job.size.seq_tokens = kTokens;
  return job;
}

std::int64_t exchanged_bytes(const SingleJob& job) {
  Recorder recorder;
  run_single(job, recorder, kGpu);
  return recorder.work_totals("steady").payload_bytes[static_cast<std::size_t>(CollectiveKind::all_to_all)];
}
}  // namespace

TEST_CASE("inputs of checkpointed blocks wait on the host, cross the link once each way and leave the device", "[unit]") {
  for (const CheckpointMode mode : {CheckpointMode::non_reentrant, CheckpointMode::reentrant}) {
    SingleJob job = block_job();
    job.checkpoint = {.mode = mode};
    Recorder kept, moved;
    const PhasePeaks kept_peaks = run_single(job, kept, kGpu);
    job.checkpoint.offload_inputs = true;
    const PhasePeaks moved_peaks = run_single(job, moved, kGpu);
    const std::int64_t inputs_bytes = kBlocks * kTokens * job.model.hidden_size * kBf16Bytes;
    CHECK(moved_peaks.peak_bytes("steady.forward", Place::host) - kept_peaks.peak_bytes("steady.forward", Place::host) == inputs_bytes);
    CHECK(moved.work_totals("steady").copied_to_host_bytes == inputs_bytes);
    CHECK(moved.work_totals("steady").copied_to_device_bytes == inputs_bytes);
    CHECK(kept_peaks.peak_bytes("steady.forward") - moved_peaks.peak_bytes("steady.forward") == inputs_bytes);
    CHECK(moved.alive_bytes(Place::host) == 0);
  }
}

TEST_CASE("an nf4 base takes half a byte a weight of the blocks' Linears and its statistics", "[unit]") {
  SingleJob job = block_job();
  job.lora = {.rank = 4, .targets = {"q_proj", "v_proj"}};
  Recorder whole, packed;
  const std::int64_t whole_bytes = run_single(job, whole, kGpu).after_init_bytes;
  job.model.four_bit = FourBitWeights{.double_quantised = true, .storage = ScalarType::bf16};
  const std::int64_t packed_bytes = run_single(job, packed, kGpu).after_init_bytes;
  constexpr std::int64_t kTablesBytes = (16 + 256 + 1) * 4;  // values of 4-bit and of 8-bit codes, the mean that statistics are less by
  std::int64_t saved_bytes = 0;
  for (const std::int64_t elems : {64 * 64, 64 * 64, 64 * 32, 64 * 32, 64 * 128, 64 * 128, 64 * 128})  // q, o, k, v, gate, up, down
    saved_bytes += elems * kBf16Bytes - elems / 2 - elems / 64 - (elems / 64 + 255) / 256 * 4 - kTablesBytes;
  CHECK(whole_bytes - packed_bytes == kBlocks * saved_bytes);
}

TEST_CASE("ranks that share a sequence exchange q, k, v and the output in forward and their gradients in backward", "[unit]") {
  SingleJob job = block_job();
  CHECK(exchanged_bytes(job) == 0);
  job.model.sequence_ranks = 2;
  const std::int64_t heads = 4 + 2 + 2 + 4;
  CHECK(exchanged_bytes(job) == 2 * kBlocks * heads * 16 * kTokens * kBf16Bytes);
  job.model.sequence_ranks = 4;  // two kv heads become four
  CHECK(exchanged_bytes(job) == 2 * kBlocks * (4 + 4 + 4 + 4) * 16 * kTokens * kBf16Bytes);
}

TEST_CASE("adapters in fp32 on a base of 16 bits have fp32 states and compute under autocast", "[unit]") {
  SingleJob job = block_job();
  job.lora = {.rank = 4, .targets = {"q_proj"}};
  Recorder same, wider;
  const PhasePeaks same_peaks = run_single(job, same, kGpu);
  job.lora.type = ScalarType::fp32;
  const PhasePeaks wider_peaks = run_single(job, wider, kGpu);
  const std::int64_t adapter_elems = kBlocks * 4 * (64 + 64);
  CHECK(wider_peaks.after_init_bytes - same_peaks.after_init_bytes == 2 * adapter_elems);
  CHECK(wider_peaks.between_steps_bytes - same_peaks.between_steps_bytes == 3 * 2 * adapter_elems);
}

}  // namespace zeroplan::eager
