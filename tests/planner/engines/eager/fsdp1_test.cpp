#include "planner/engines/eager/fsdp1.h"

#include <catch2/catch.hpp>

#include <map>
#include <set>
#include <string>

#include "profiles/catalog.h"
#include "tests/planner/engines/eager/oracle_job.h"
#include "tests/planner/engines/oracle_rows.h"

namespace zeroplan::eager {
namespace {

using nlohmann::json;

Fsdp1Job job_of(const json& question) {
  const std::map<std::string, ShardingStrategy> strategies{{"FULL_SHARD", ShardingStrategy::full_shard}, {"SHARD_GRAD_OP", ShardingStrategy::shard_grad_op}, {"NO_SHARD", ShardingStrategy::no_shard},
                                                           {"HYBRID_SHARD", ShardingStrategy::hybrid_shard}, {"_HYBRID_SHARD_ZERO2", ShardingStrategy::hybrid_shard_zero2}};
  const std::map<std::string, BackwardPrefetch> prefetches{{"pre", BackwardPrefetch::pre}, {"post", BackwardPrefetch::post}, {"none", BackwardPrefetch::none}};
  const json& fsdp = question["fsdp1"];
  Fsdp1Job job;
  job.model = model_of(question);
  job.world_ranks = question["gpus_per_node"];
  job.size = size_of(question);
  if (question.contains("shard_group")) job.shard_group_ranks = question["shard_group"].get<std::int64_t>();
  job.strategy = strategies.at(fsdp.value("sharding_strategy", "FULL_SHARD"));
  job.param_type.reset();
  if (fsdp.contains("param_dtype")) job.param_type = scalar_type_of(fsdp["param_dtype"]);
  if (fsdp.contains("reduce_dtype")) job.reduce_type = scalar_type_of(fsdp["reduce_dtype"]);
  job.keep_low_precision_grads = fsdp.value("keep_low_precision_grads", false);
  job.use_orig_params = fsdp.value("use_orig_params", true);
  job.backward_prefetch = prefetches.at(fsdp.value("backward_prefetch", "pre"));
  job.forward_prefetch = fsdp.value("forward_prefetch", false);
  job.cpu_offload = fsdp.value("cpu_offload", false);
  job.no_sync = fsdp.value("no_sync", false);
  job.checkpoint = checkpoints_of(question);
  job.kernel = kernel_of(question);
  if (question.contains("train")) job.lora = {.rank = question["train"]["lora_rank"], .targets = question["train"]["lora_targets"]};
  return job;
}

Fsdp1Job small_job() {
  Fsdp1Job job;
  job.model = {.hidden_size = 64, .num_layers = 6, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .type = ScalarType::fp32};
  job.world_ranks = 4;
  job.size.seq_tokens = 32;
  return job;
}

constexpr ShardingStrategy kStrategies[] = {ShardingStrategy::full_shard, ShardingStrategy::shard_grad_op, ShardingStrategy::no_shard};

std::int64_t backward_peak_bytes(const Fsdp1Job& job) {
  Recorder recorder;
  return run_fsdp1(job, recorder).peak_bytes("steady.backward");
}

std::int64_t payload_bytes(const WorkTotals& work, CollectiveKind kind) { return work.payload_bytes[static_cast<std::size_t>(kind)]; }

}  // namespace

TEST_CASE("FSDP1 asks in every phase for exactly the bytes that its own code asked for", "[published]") {
  const json file = read_json_file(ZEROPLAN_TEST_DATA "/engine_oracle_fsdp1.json");
  for (const json& row : file["rows"]) {
    INFO(row["id"].get<std::string>());
    Recorder recorder;
    check_equal(run_fsdp1(job_of(row["question"]), recorder), row["measured"]);
  }
}

TEST_CASE("what is alive at a phase's peak under FSDP1 sums up to the peak, and nothing is alive afterwards", "[unit]") {
  for (const ShardingStrategy strategy : kStrategies)
    for (const bool use_orig_params : {true, false})
      for (const bool cpu_offload : {false, true}) {
        Fsdp1Job job = small_job();
        job.strategy = strategy;
        job.use_orig_params = use_orig_params;
        job.cpu_offload = cpu_offload;
        Recorder recorder(true);
        const PhasePeaks peaks = run_fsdp1(job, recorder);
        for (const PhasePeak& phase : peaks.phases) {
          INFO(phase.name);
          std::int64_t sum_bytes = 0;
          for (const AliveBytes& alive : recorder.alive_at_peak(phase.name)) sum_bytes += alive.bytes;
          CHECK(sum_bytes == phase.bytes[0]);
        }
        CHECK(recorder.alive_bytes(Place::device) == 0);
        CHECK(recorder.alive_bytes(Place::host) == 0);
      }
}

TEST_CASE("FSDP1 that keeps whole parameters between forward and backward asks for more", "[property]") {
  Fsdp1Job job = small_job();
  const std::int64_t full_shard_bytes = backward_peak_bytes(job);
  job.strategy = ShardingStrategy::shard_grad_op;
  const std::int64_t shard_grad_op_bytes = backward_peak_bytes(job);
  job.strategy = ShardingStrategy::no_shard;
  CHECK(full_shard_bytes < shard_grad_op_bytes);
  CHECK(shard_grad_op_bytes < backward_peak_bytes(job));
}

TEST_CASE("unsharded gradients that pile up under no_sync cost more than reducing every micro batch", "[property]") {
  Fsdp1Job job = small_job();
  job.size.accumulate = 3;
  const std::int64_t every_micro_batch_bytes = backward_peak_bytes(job);
  job.no_sync = true;
  CHECK(backward_peak_bytes(job) > every_micro_batch_bytes);
}

TEST_CASE("FULL_SHARD gathers every block twice a step and the root once; SHARD_GRAD_OP gathers all once; both reduce all once", "[property]") {
  std::map<ShardingStrategy, WorkTotals> work;
  for (const ShardingStrategy strategy : {ShardingStrategy::full_shard, ShardingStrategy::shard_grad_op}) {
    Fsdp1Job job = small_job();
    job.strategy = strategy;
    Recorder recorder;
    run_fsdp1(job, recorder);
    work[strategy] = recorder.work_totals("steady");
  }
  const WorkTotals &full = work[ShardingStrategy::full_shard], &once = work[ShardingStrategy::shard_grad_op];
  const HfConfig model = small_job().model;
  const std::int64_t q_dim = model.num_heads * model.head_dim, kv_dim = model.num_kv_heads * model.head_dim;
  const std::int64_t block_elems = model.hidden_size * (2 * q_dim + 2 * kv_dim + 3 * model.intermediate_size + 2);  // every piece fills 16 bytes
  const std::int64_t root_elems = model.hidden_size * (2 * model.vocab_size + 1);
  const std::int64_t model_bytes = 2 * (model.num_layers * block_elems + root_elems);
  CHECK(payload_bytes(once, CollectiveKind::all_gather) == model_bytes);
  CHECK(payload_bytes(full, CollectiveKind::all_gather) == model_bytes + 2 * model.num_layers * block_elems);
  CHECK(payload_bytes(once, CollectiveKind::reduce_scatter) == model_bytes);
  CHECK(payload_bytes(full, CollectiveKind::reduce_scatter) == model_bytes);
}

TEST_CASE("what FSDP1 asks for comes from the pool of the stream it asks on", "[unit]") {
  Recorder recorder(true);
  run_fsdp1(small_job(), recorder);
  std::map<std::string, std::set<Stream>> streams;
  for (const StorageTag& tag : recorder.tags())
    if (std::string(tag.site).starts_with("FSDP")) streams[tag.site].insert(tag.stream);
  CHECK(streams["FSDP flat parameter"] == std::set{Stream::compute});
  CHECK(streams["FSDP sharded gradient"] == std::set{Stream::reduce});
  CHECK(streams["FSDP unsharded gradient"] == std::set{Stream::gather});
  CHECK(streams["FSDP low precision shard"].contains(Stream::h2d));
  CHECK(streams["FSDP unsharded parameter"].contains(Stream::gather));
}

}  // namespace zeroplan::eager
