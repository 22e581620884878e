#include "planner/engines/eager/fsdp2.h"

#include <catch2/catch.hpp>

#include <string>

namespace zeroplan::eager {
namespace {

Fsdp2Job small_job(Fsdp2Job::Tool tool) {
  Fsdp2Job job;
  job.tool = tool;
  job.model = {.hidden_size = 64, .num_layers = 3, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .type = ScalarType::fp32};
  job.world_ranks = job.shard_group_ranks = 4;
  job.size.seq_tokens = 32;
  return job;
}

constexpr Fsdp2Job::Tool kTools[] = {Fsdp2Job::Tool::transformers, Fsdp2Job::Tool::torchtitan};

std::int64_t backward_peak_bytes(const Fsdp2Job& job) {
  Recorder recorder;
  return run_fsdp2(job, recorder).peak_bytes("steady.backward");
}

}  // namespace

TEST_CASE("what is alive at a phase's peak under FSDP2 sums up to the peak, and nothing is alive afterwards", "[unit]") {
  for (const Fsdp2Job::Tool tool : kTools) {
    Recorder recorder(true);
    const PhasePeaks peaks = run_fsdp2(small_job(tool), recorder);
    for (const PhasePeak& phase : peaks.phases) {
      INFO(phase.name);
      std::int64_t sum_bytes = 0;
      for (const AliveBytes& alive : recorder.alive_at_peak(phase.name)) sum_bytes += alive.bytes;
      CHECK(sum_bytes == phase.bytes[0]);
    }
    CHECK(recorder.alive_bytes(Place::device) == 0);
  }
}

TEST_CASE("keeping whole parameters after forward asks for more than gathering them again", "[property]") {
  for (const Fsdp2Job::Tool tool : kTools) {
    Fsdp2Job job = small_job(tool);
    job.model.num_layers = 8;
    job.reshard = Reshard::never;
    const std::int64_t never_bytes = backward_peak_bytes(job);
    job.reshard = Reshard::always;
    const std::int64_t always_bytes = backward_peak_bytes(job);
    job.reshard = Reshard::by_default;
    const std::int64_t default_bytes = backward_peak_bytes(job);
    CHECK(always_bytes <= default_bytes);
    CHECK(default_bytes < never_bytes);
  }
}

TEST_CASE("a bf16 reduction across copies of the shards keeps every group's all-reduce input until backward ends", "[property]") {
  for (const Fsdp2Job::Tool tool : kTools) {
    Fsdp2Job job = small_job(tool);
    job.reduce_type = ScalarType::bf16;
    const std::int64_t one_copy_bytes = backward_peak_bytes(job);
    job.world_ranks = 8;
    CHECK(backward_peak_bytes(job) > one_copy_bytes);
    job.reduce_type = ScalarType::fp32;  // the reduced gradients are the all-reduce input: nothing more is kept
    const std::int64_t hybrid_bytes = backward_peak_bytes(job);
    job.world_ranks = 4;
    CHECK(backward_peak_bytes(job) == hybrid_bytes);
  }
}

TEST_CASE("a device with its own silu backward that adds gradients in place never asks for more than the simulated one", "[property]") {
  for (const Fsdp2Job::Tool tool : kTools) {
    Recorder simulated, gpu;
    const PhasePeaks simulated_peaks = run_fsdp2(small_job(tool), simulated);
    const PhasePeaks gpu_peaks = run_fsdp2(small_job(tool), gpu, {.out_of_place_accumulation = false, });
    for (const PhasePeak& phase : simulated_peaks.phases) CHECK(gpu_peaks.peak_bytes(phase.name) <= phase.bytes[0]);
  }
}

}  // namespace zeroplan::eager
