#include "planner/engines/eager/deepspeed_zero3.h"

#include <catch2/catch.hpp>

#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#ifndef ZEROPLAN_TEST_DATA
#define ZEROPLAN_TEST_DATA "tests/data"
#endif

namespace zeroplan::eager {
namespace {

using nlohmann::json;

json oracle_rows() {
  std::ifstream file(std::string(ZEROPLAN_TEST_DATA) + "/engine_oracle_deepspeed3.json");
  REQUIRE(file);
  return json::parse(file)["rows"];
}

ScalarType scalar_type(const std::string& name) {
  if (name == "fp32") return ScalarType::fp32;
  return name == "fp16" ? ScalarType::fp16 : ScalarType::bf16;
}

HfConfig config_of(const json& question) {
  const json& model = question["model"];
  const std::string family = model["family"];
  return {.family = family == "gpt2" ? HfConfig::Family::gpt2 : HfConfig::Family::llama,
          .hidden_size = model["hidden_size"],
          .num_layers = model["num_layers"],
          .vocab_size = model["vocab_size"],
          .intermediate_size = model["intermediate_size"],
          .num_heads = model["num_heads"],
          .num_kv_heads = model["num_kv_heads"],
          .head_dim = model["head_dim"],
          .max_positions = question["seq"],
          .tie_embeddings = model["tie_embeddings"],
          .qkv_bias = family == "qwen2",
          .qk_norm = family == "qwen3",
          .type = scalar_type(question["parameters_dtype"])};
}

OptimizerKernel kernel_of(const std::string& name) {
  if (name == "for-loop") return OptimizerKernel::for_loop;
  return name == "fused" ? OptimizerKernel::fused : OptimizerKernel::foreach;
}

CheckpointMode checkpoint_of(const json& question) {
  if (question["checkpoint"] == "none") return CheckpointMode::none;
  return question.value("checkpoint_reentrant", false) ? CheckpointMode::reentrant : CheckpointMode::non_reentrant;
}

template <class T>
void set(const json& keys, const char* key, T& value) {
  if (keys.contains(key)) value = keys[key].get<T>();
}

Zero3Fetching fetching_of(const json& zero) {
  Zero3Fetching out;
  set(zero, "stage3_prefetch_bucket_size", out.prefetch_bucket_elems);
  set(zero, "stage3_param_persistence_threshold", out.persistence_threshold_elems);
  set(zero, "stage3_max_live_parameters", out.max_live_elems);
  set(zero, "stage3_max_reuse_distance", out.max_reuse_distance_elems);
  set(zero, "stage3_allgather_sequential", out.sequential);
  set(zero, "stage3_use_all_reduce_for_fetch_params", out.by_all_reduce);
  if (zero.contains("stage3_model_persistence_threshold")) out.model_persistence_threshold_elems = zero["stage3_model_persistence_threshold"].get<std::int64_t>();
  return out;
}

void set_zero_optimization(const json& zero, Zero3Job& job) {
  job.fetching = fetching_of(zero);
  set(zero, "reduce_bucket_size", job.reduce_bucket_elems);
  set(zero, "sub_group_size", job.sub_group_elems);
  set(zero, "contiguous_gradients", job.contiguous_gradients);
  set(zero, "reduce_scatter", job.reduce_scatter);
  set(zero, "memory_efficient_linear", job.memory_efficient_linear);
  job.offload_optimizer = zero.contains("offload_optimizer");
  job.offload_parameters = zero.contains("offload_param");
}

void set_top_level(const json& top, Zero3Job& job) {
  if (top.contains("data_types")) job.grad_accum_type = scalar_type(top["data_types"]["grad_accum_dtype"]);
  if (top.contains("communication_data_type")) job.communication_type = scalar_type(top["communication_data_type"]);
  if (top.contains("gradient_clipping")) job.clips_gradients = top["gradient_clipping"] > 0.0;
}

Zero3Job job_of(const json& question) {
  Zero3Job job;
  job.model = config_of(question);
  job.ranks = question["shard_group"];
  job.seq_tokens = question["seq"];
  job.micro_batch = question["micro_batch"];
  job.accumulate = question["accumulate"];
  job.steps = question.value("steps", 3);
  job.checkpoint = checkpoint_of(question);
  job.kernel = kernel_of(question["optimizer_kernel"]);
  if (question["train"].is_object()) job.lora = {.rank = question["train"]["lora_rank"], .targets = question["train"]["lora_targets"].get<std::vector<std::string>>()};
  job.zero_init = question.value("zero_init", false);
  job.version = question.value("engine_version", "0.19.8");
  set_zero_optimization(question["deepspeed"], job);
  set_top_level(question.value("deepspeed_top", json::object()), job);
  return job;
}

/// Four ranks, a bucket and a prefetch of about a block.
Zero3Job small_job() {
  Zero3Job job;
  job.model = {.hidden_size = 64, .num_layers = 6, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .type = ScalarType::bf16};
  job.ranks = 4;
  job.seq_tokens = 32;
  job.checkpoint = CheckpointMode::non_reentrant;
  job.reduce_bucket_elems = 20'000;
  job.fetching = {.prefetch_bucket_elems = 20'000, .persistence_threshold_elems = 100, .max_reuse_distance_elems = 1'000};
  return job;
}

OffloadPhasePeaks peaks_of(const Zero3Job& job) {
  Recorder recorder;
  return run_zero3(job, recorder);
}

}  // namespace

TEST_CASE("every phase of DeepSpeed ZeRO-3 asks for exactly the bytes that the real code asked for, on the device and on the host", "[published]") {
  for (const json& row : oracle_rows()) {
    INFO(row["id"]);
    const OffloadPhasePeaks peaks = peaks_of(job_of(row["question"]));
    const json& measured = row["measured"];
    CHECK(peaks.after_init_bytes == measured["after_init_requested_bytes"]);
    CHECK(peaks.between_steps_bytes == measured["between_steps_requested_bytes"]);
    for (const auto& [phase, bytes] : measured["phases_requested_bytes"].items()) {
      INFO(phase);
      CHECK(peaks.peak_bytes(phase) == bytes);
    }
    if (!measured.contains("phases_host_requested_bytes")) continue;
    CHECK(peaks.between_steps_host_bytes == measured["between_steps_host_requested_bytes"]);
    for (const auto& [phase, bytes] : measured["phases_host_requested_bytes"].items()) {
      INFO("host " << phase);
      CHECK(peaks.peak_bytes(phase, Place::host) == bytes);
    }
  }
}

TEST_CASE("what is alive at a phase's peak under ZeRO-3 sums up to the peak, and nothing is alive afterwards", "[unit]") {
  Zero3Job job = small_job();
  job.offload_optimizer = true;
  Recorder recorder(true);
  const OffloadPhasePeaks peaks = run_zero3(job, recorder);
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
    job.checkpoint = mode;
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
  const OffloadPhasePeaks whole = peaks_of(job);
  job.sub_group_elems = 5'000;
  const OffloadPhasePeaks cut = peaks_of(job);
  CHECK(cut.peak_bytes("steady.step") < whole.peak_bytes("steady.step"));
  CHECK(cut.between_steps_bytes == whole.between_steps_bytes);
}

}  // namespace zeroplan::eager
