#include "planner/engines/eager/deepspeed_zero12.h"

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
  std::ifstream file(std::string(ZEROPLAN_TEST_DATA) + "/engine_oracle_deepspeed12.json");
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

/// `zero`: the JSON's zero_optimization object; `top`: its other keys.
Zero12Options options_of(const json& zero, const json& top) {
  Zero12Options out;
  out.reduce_bucket_size = zero.value("reduce_bucket_size", out.reduce_bucket_size);
  out.overlap_comm = zero.value("overlap_comm", out.overlap_comm);
  out.contiguous_gradients = zero.value("contiguous_gradients", out.contiguous_gradients);
  out.reduce_scatter = zero.value("reduce_scatter", out.reduce_scatter);
  out.use_multi_rank_bucket_allreduce = zero.value("use_multi_rank_bucket_allreduce", out.use_multi_rank_bucket_allreduce);
  out.round_robin_gradients = zero.value("round_robin_gradients", out.round_robin_gradients);
  out.parameter_alignment = zero.value("parameter_alignment", out.parameter_alignment);
  out.compute_grad_norm = zero.value("compute_grad_norm", out.compute_grad_norm);
  if (top.contains("data_types")) out.grad_accum_dtype = scalar_type(top["data_types"]["grad_accum_dtype"]);
  if (top.contains("communication_data_type")) out.communication_data_type = scalar_type(top["communication_data_type"]);
  const json bf16 = top.value("bf16", json::object());
  out.immediate_grad_update = bf16.value("immediate_grad_update", false);
  out.bf16_master_weights_and_grads = bf16.value("bf16_master_weights_and_grads", false);
  out.gradient_clipping = top.value("gradient_clipping", out.gradient_clipping);
  return out;
}

Zero12Job job_of(const json& question) {
  Zero12Job job;
  job.model = config_of(question);
  if (question["train"].is_object()) job.lora = {question["train"]["lora_rank"], question["train"]["lora_targets"].get<std::vector<std::string>>()};
  job.stage = question["stage"];
  job.world_ranks = question["gpus_per_node"].get<std::int64_t>() * question["nodes"].get<std::int64_t>();
  job.seq_tokens = question["seq"];
  job.micro_batch = question["micro_batch"];
  job.accumulate = question["accumulate"];
  job.steps = question.value("steps", 3);
  job.checkpoint = checkpoint_of(question);
  job.kernel = kernel_of(question["optimizer_kernel"]);
  job.offload_optimizer = question["deepspeed"].contains("offload_optimizer");
  job.zero = options_of(question["deepspeed"], question.value("deepspeed_top", json::object()));
  job.gpu_bytes = static_cast<std::int64_t>(question.value("gpu_gib", 80.0) * 1073741824.0);
  return job;
}

Zero12Job small_job() {
  Zero12Job job;
  job.model = {.hidden_size = 64, .num_layers = 3, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .type = ScalarType::bf16};
  job.world_ranks = 4;
  job.seq_tokens = 32;
  job.zero.reduce_bucket_size = 10'000;
  return job;
}

std::int64_t peak_bytes(const Zero12Job& job, const std::string& phase, Place place = Place::device) {
  Recorder recorder;
  return run_zero12(job, recorder).peak_bytes(phase, place);
}

}  // namespace

TEST_CASE("every phase of ZeRO stages 1 and 2 asks for exactly the bytes that DeepSpeed asked for, on the device and on the host", "[published]") {
  for (const json& row : oracle_rows()) {
    INFO(row["id"]);
    Recorder recorder;
    const OffloadPhasePeaks peaks = run_zero12(job_of(row["question"]), recorder);
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
      INFO(phase << " on the host");
      CHECK(peaks.peak_bytes(phase, Place::host) == bytes);
    }
  }
}

TEST_CASE("what is alive at a phase's peak under ZeRO sums up to the peak, and nothing is alive afterwards", "[unit]") {
  for (const int stage : {1, 2}) {
    for (const bool offload : {false, true}) {
      Zero12Job job = small_job();
      job.stage = stage;
      job.offload_optimizer = offload;
      job.accumulate = 2;
      Recorder recorder(true);
      const OffloadPhasePeaks peaks = run_zero12(job, recorder);
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
  job.accumulate = 2;
  const std::int64_t two_bytes = peak_bytes(job, "steady.backward");
  job.accumulate = 4;
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
  const OffloadPhasePeaks on_device = run_zero12(job, recorder);
  job.offload_optimizer = true;
  Recorder offload_recorder;
  const OffloadPhasePeaks offloaded = run_zero12(job, offload_recorder);
  CHECK(on_device.between_steps_host_bytes == 4);  // AdamW's step counter
  CHECK(offloaded.between_steps_bytes < on_device.between_steps_bytes);
  CHECK(offloaded.between_steps_host_bytes > on_device.between_steps_bytes - offloaded.between_steps_bytes);
}

}  // namespace zeroplan::eager
