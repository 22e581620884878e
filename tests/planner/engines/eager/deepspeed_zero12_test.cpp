#include "planner/engines/eager/deepspeed_zero12.h"

#include <catch2/catch.hpp>

#include <string>
#include <vector>

namespace zeroplan::eager {
namespace {

Zero12Job small_job() {
  Zero12Job job;
  job.model = {.hidden_size = 64, .num_layers = 3, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .type = ScalarType::bf16};
  job.world_ranks = 4;
  job.size.seq_tokens = 32;
  job.zero.reduce_bucket_size = 10'000;
  return job;
}

std::int64_t peak_bytes(const Zero12Job& job, const std::string& phase, Place place = Place::device) {
  Recorder recorder;
  return run_zero12(job, recorder).peak_bytes(phase, place);
}

}  // namespace

TEST_CASE("what is alive at a phase's peak under ZeRO sums up to the peak, and nothing is alive afterwards", "[unit]") {
  for (const int stage : {1, 2}) {
    for (const bool offload : {false, true}) {
      Zero12Job job = small_job();
      job.stage = stage;
      job.offload_optimizer = offload;
      job.size.accumulate = 2;
      Recorder recorder(true);
      const PhasePeaks peaks = run_zero12(job, recorder);
      for (const PhasePeak& phase : peaks.phases) {
        for (const Place place : {Place::device, Place::host}) {
          INFO(phase.name << ", place " << static_cast<int>(place));
          std::int64_t sum_bytes = 0;
          for (const AliveBytes& alive : recorder.alive_at_peak(phase.name, place)) sum_bytes += alive.bytes;
          CHECK(sum_bytes == phase.bytes[static_cast<int>(place)]);
        }
      }
      CHECK(recorder.alive_bytes(Place::device) == 0);
      CHECK(recorder.alive_bytes(Place::host) == 0);
    }
  }
}

TEST_CASE("stage 2 asks for less than stage 1 in backward, because gradients of other ranks' partitions are dropped", "[property]") {
  Zero12Job job = small_job();
  job.model.num_layers = 8;
  job.stage = 1;
  const std::int64_t stage1_bytes = peak_bytes(job, "steady.backward");
  job.stage = 2;
  CHECK(peak_bytes(job, "steady.backward") < stage1_bytes);
}

TEST_CASE("accumulation at stage 2 keeps the gradients of the partition a second time", "[property]") {
  Zero12Job job = small_job();
  const std::int64_t one_bytes = peak_bytes(job, "steady.backward");
  job.size.accumulate = 2;
  const std::int64_t two_bytes = peak_bytes(job, "steady.backward");
  job.size.accumulate = 4;
  CHECK(one_bytes < two_bytes);
  CHECK(peak_bytes(job, "steady.backward") == two_bytes);
}

TEST_CASE("overlap_comm costs a second bucket", "[property]") {
  Zero12Job job = small_job();
  job.zero.reduce_bucket_size = 10'000'000;
  const std::int64_t one_bytes = peak_bytes(job, "steady.backward");
  job.zero.overlap_comm = true;
  CHECK(peak_bytes(job, "steady.backward") == one_bytes + 2 * job.zero.reduce_bucket_size);
}

TEST_CASE("an accelerator without room for the flat copy has the parameters flattened on the host", "[property]") {
  Zero12Job job = small_job();
  job.world_ranks = 16;  // with few ranks the fp32 partitions decide init's peak
  CHECK(peak_bytes(job, "init", Place::host) == 0);
  const std::int64_t roomy_bytes = peak_bytes(job, "init");
  job.gpu_bytes = roomy_bytes * 3 / 4;
  CHECK(peak_bytes(job, "init") < roomy_bytes);
  CHECK(peak_bytes(job, "init", Place::host) > roomy_bytes / 2);
}

TEST_CASE("offload moves the fp32 partition, its gradient and the optimizer's states to the host", "[property]") {
  Zero12Job job = small_job();
  Recorder recorder;
  const PhasePeaks on_device = run_zero12(job, recorder);
  job.offload_optimizer = true;
  Recorder offload_recorder;
  const PhasePeaks offloaded = run_zero12(job, offload_recorder);
  CHECK(on_device.between_steps_host_bytes == 4);  // AdamW's step counter
  CHECK(offloaded.between_steps_bytes < on_device.between_steps_bytes);
  CHECK(offloaded.between_steps_host_bytes > on_device.between_steps_bytes - offloaded.between_steps_bytes);
}

}  // namespace zeroplan::eager
