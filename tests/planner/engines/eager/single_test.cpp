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

}  // namespace zeroplan::eager
