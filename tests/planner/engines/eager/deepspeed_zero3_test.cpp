#include "planner/engines/eager/deepspeed_zero3.h"

#include <catch2/catch.hpp>

#include <string>
#include <vector>

namespace zeroplan::eager {
namespace {

/// Four ranks, a bucket and a prefetch of about a block.
Zero3Job small_job() {
  Zero3Job job;
  job.model = {.hidden_size = 64, .num_layers = 6, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .type = ScalarType::bf16};
  job.ranks = 4;
  job.size.seq_tokens = 32;
  job.checkpoint.mode = CheckpointMode::non_reentrant;
  job.reduce_bucket_elems = 20'000;
  job.fetching = {.prefetch_bucket_elems = 20'000, .persistence_threshold_elems = 100, .max_reuse_distance_elems = 1'000};
  return job;
}

PhasePeaks peaks_of(const Zero3Job& job) {
  Recorder recorder;
  return run_zero3(job, recorder);
}

}  // namespace

TEST_CASE("what is alive at a phase's peak under ZeRO-3 sums up to the peak, and nothing is alive afterwards", "[unit]") {
  Zero3Job job = small_job();
  job.offload_optimizer = true;
  Recorder recorder(true);
  const PhasePeaks peaks = run_zero3(job, recorder);
  for (const Place place : {Place::device, Place::host})
    for (const PhasePeak& phase : peaks.phases) {
      INFO(phase.name);
      std::int64_t sum_bytes = 0;
      for (const AliveBytes& alive : recorder.alive_at_peak(phase.name, place)) sum_bytes += alive.bytes;
      CHECK(sum_bytes == phase.bytes[static_cast<int>(place)]);
    }
  CHECK(recorder.alive_bytes(Place::device) == 0);
  CHECK(recorder.alive_bytes(Place::host) == 0);
}

TEST_CASE("DeepSpeed 0.16.2 to 0.16.7 keep gathered parameters under non-reentrant checkpointing only", "[property]") {
  Zero3Job job = small_job();
  const auto backward_bytes = [&](const std::string& version, CheckpointMode mode) {
    job.version = version;
    job.checkpoint.mode = mode;
    return peaks_of(job).peak_bytes("first.backward");
  };
  const std::int64_t whole_model_bytes = 2 * 6 * (64 * (64 + 2 * 32 + 64) + 3 * 64 * 96);
  CHECK(backward_bytes("0.16.4", CheckpointMode::non_reentrant) - backward_bytes("0.16.8", CheckpointMode::non_reentrant) > whole_model_bytes / 2);
  CHECK(backward_bytes("0.16.1", CheckpointMode::non_reentrant) == backward_bytes("0.16.8", CheckpointMode::non_reentrant));
  const std::int64_t norm_bytes = 2 * 6 * 64;  // only the norm at a block's entry sees an input that needs gradients in the first, graph-less run
  CHECK(backward_bytes("0.16.4", CheckpointMode::reentrant) - backward_bytes("0.16.8", CheckpointMode::reentrant) <= norm_bytes);
}

TEST_CASE("a larger prefetch or reuse distance never makes the steady forward smaller", "[property]") {
  Zero3Job job = small_job();
  std::int64_t last_bytes = 0;
  for (const std::int64_t elems : {0, 5'000, 50'000, 500'000}) {
    job.fetching.prefetch_bucket_elems = elems;
    job.fetching.max_reuse_distance_elems = elems;
    const std::int64_t bytes = peaks_of(job).peak_bytes("steady.forward");
    CHECK(bytes >= last_bytes);
    last_bytes = bytes;
  }
}

TEST_CASE("smaller sub-groups make the optimizer step smaller and leave what is kept between steps", "[property]") {
  Zero3Job job = small_job();
  const PhasePeaks whole = peaks_of(job);
  job.sub_group_elems = 5'000;
  const PhasePeaks cut = peaks_of(job);
  CHECK(cut.peak_bytes("steady.step") < whole.peak_bytes("steady.step"));
  CHECK(cut.between_steps_bytes == whole.between_steps_bytes);
}

}  // namespace zeroplan::eager
