#include "planner/engines/eager/ddp.h"

#include <catch2/catch.hpp>

#include <string>

#include "planner/engines/eager/single.h"
#include "profiles/catalog.h"
#include "tests/planner/engines/eager/oracle_job.h"
#include "tests/planner/engines/oracle_rows.h"

namespace zeroplan::eager {
namespace {

using nlohmann::json;

constexpr double kMib = 1048576.0;

DdpJob job_of(const json& question) {
  const json& ddp = question["ddp"];
  DdpJob job;
  job.model = model_of(question);
  job.world_ranks = question["gpus_per_node"];
  job.size = size_of(question);
  if (ddp.contains("bucket_cap_mb")) job.bucket_cap_bytes = static_cast<std::int64_t>(ddp["bucket_cap_mb"].get<double>() * kMib);
  job.gradient_as_bucket_view = ddp.value("gradient_as_bucket_view", false);
  job.static_graph = ddp.value("static_graph", false);
  job.no_sync = ddp.value("no_sync", false);
  job.checkpoint = checkpoints_of(question);
  job.compute_type = scalar_type_of(question["compute_dtype"]);
  job.kernel = kernel_of(question);
  if (question.contains("train")) job.lora = {.rank = question["train"]["lora_rank"], .targets = question["train"]["lora_targets"]};
  return job;
}

DdpJob small_job() {
  DdpJob job;
  job.model = {.hidden_size = 64, .num_layers = 3, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16};
  job.world_ranks = 4;
  job.size.seq_tokens = 32;
  return job;
}

std::int64_t small_model_bytes() {
  Recorder recorder;
  Context context(recorder);
  std::int64_t bytes = 0;
  for (const Tensor& p : CausalLm::make(context, small_job().model)->parameters()) bytes += p.bytes();
  return bytes;
}

PhasePeaks peaks_of(const DdpJob& job) {
  Recorder recorder;
  return run_ddp(job, recorder, kGpu);
}

}  // namespace

TEST_CASE("DDP asks in every phase for exactly the bytes that its own code asked for", "[published]") {
  const json file = read_json_file(ZEROPLAN_TEST_DATA "/engine_oracle_ddp.json");
  for (const json& row : file["rows"]) {
    INFO(row["id"].get<std::string>());
    Recorder recorder;
    check_equal(run_ddp(job_of(row["question"]), recorder), row["measured"]);
  }
}

TEST_CASE("what is alive at a phase's peak under DDP sums up to the peak, and nothing is alive afterwards", "[unit]") {
  for (const bool view : {false, true})
    for (const bool static_graph : {false, true}) {
      DdpJob job = small_job();
      job.gradient_as_bucket_view = view;
      job.static_graph = static_graph;
      Recorder recorder(true);
      const PhasePeaks peaks = run_ddp(job, recorder);
      for (const PhasePeak& phase : peaks.phases) {
        INFO(phase.name);
        std::int64_t sum_bytes = 0;
        for (const AliveBytes& alive : recorder.alive_at_peak(phase.name)) sum_bytes += alive.bytes;
        CHECK(sum_bytes == phase.bytes[0]);
      }
      CHECK(recorder.alive_bytes(Place::device) == 0);
    }
}

TEST_CASE("DDP's buckets cost a copy of the gradients, or nothing where gradients are views of them", "[property]") {
  const DdpJob job = small_job();
  Recorder recorder;
  SingleJob single;
  single.model = job.model;
  single.size = job.size;
  const PhasePeaks plain = run_single(single, recorder, kGpu);
  DdpJob view = job;
  view.gradient_as_bucket_view = true;
  CHECK(peaks_of(job).peak_bytes("steady.step") == plain.peak_bytes("steady.step") + small_model_bytes());
  CHECK(peaks_of(view).peak_bytes("steady.step") == plain.peak_bytes("steady.step"));
}

TEST_CASE("DDP reduces every gradient once a step under no_sync and once a micro batch without, in as many pieces as there are buckets", "[property]") {
  DdpJob job = small_job();
  job.size.accumulate = 3;
  for (const bool no_sync : {false, true}) {
    job.no_sync = no_sync;
    job.bucket_cap_bytes.reset();
    Recorder one_bucket, many_buckets;
    run_ddp(job, one_bucket);
    job.bucket_cap_bytes = 1 << 14;
    run_ddp(job, many_buckets);
    const WorkTotals one = one_bucket.work_totals("steady", Stream::reduce), many = many_buckets.work_totals("steady", Stream::reduce);
    const std::int64_t reductions = no_sync ? 1 : 3;
    CHECK(one.payload_bytes[static_cast<std::size_t>(CollectiveKind::all_reduce)] == reductions * small_model_bytes());
    CHECK(one.payload_bytes == many.payload_bytes);
    CHECK(one.collectives == reductions);
    CHECK(many.collectives > 2 * reductions);
  }
}

}  // namespace zeroplan::eager
