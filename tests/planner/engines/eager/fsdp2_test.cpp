#include "planner/engines/eager/fsdp2.h"

#include <catch2/catch.hpp>

#include <fstream>
#include <string>

#include <nlohmann/json.hpp>

#ifndef ZEROPLAN_TEST_DATA
#define ZEROPLAN_TEST_DATA "tests/data"
#endif

namespace zeroplan::eager {
namespace {

using nlohmann::json;

json oracle_rows() {
  std::ifstream file(std::string(ZEROPLAN_TEST_DATA) + "/engine_oracle_fsdp2.json");
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

Reshard reshard_of(const std::string& name) {
  if (name == "always") return Reshard::always;
  return name == "never" ? Reshard::never : Reshard::by_default;
}

TitanCheckpoint checkpoint_of(const std::string& name) {
  if (name == "none") return {};
  if (name == "full") return {.mode = TitanCheckpoint::Mode::full};
  if (name == "selective-op") return {.mode = TitanCheckpoint::Mode::selective_op};
  return {.mode = TitanCheckpoint::Mode::every_blocks, .block_frequency = std::stoi(name.substr(std::string("every-").size()))};
}

Fsdp2Job job_of(const json& question) {
  Fsdp2Job job;
  job.tool = question["tool"] == "torchtitan" ? Fsdp2Job::Tool::torchtitan : Fsdp2Job::Tool::transformers;
  job.model = config_of(question);
  job.world_ranks = question["gpus_per_node"].get<std::int64_t>() * question["nodes"].get<std::int64_t>();
  job.shard_group_ranks = question["shard_group"];
  job.seq_tokens = question["seq"];
  job.micro_batch = question["micro_batch"];
  job.accumulate = question["accumulate"];
  job.steps = question.value("steps", 3);
  job.reshard = reshard_of(question["reshard"]);
  job.checkpoint = checkpoint_of(question["checkpoint"]);
  job.compute_type = scalar_type(question["compute_dtype"]);
  job.reduce_type = scalar_type(question["reduce_dtype"]);
  job.kernel = kernel_of(question["optimizer_kernel"]);
  return job;
}

Fsdp2Job small_job(Fsdp2Job::Tool tool) {
  Fsdp2Job job;
  job.tool = tool;
  job.model = {.hidden_size = 64, .num_layers = 3, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .type = ScalarType::fp32};
  job.world_ranks = job.shard_group_ranks = 4;
  job.seq_tokens = 32;
  return job;
}

constexpr Fsdp2Job::Tool kTools[] = {Fsdp2Job::Tool::transformers, Fsdp2Job::Tool::torchtitan};

std::int64_t backward_peak_bytes(const Fsdp2Job& job) {
  Recorder recorder;
  return run_fsdp2(job, recorder).peak_bytes("steady.backward");
}

}  // namespace

TEST_CASE("every phase of FSDP2 asks for exactly the bytes that the real code asked for", "[published]") {
  for (const json& row : oracle_rows()) {
    INFO(row["id"]);
    Recorder recorder;
    const PhasePeaks peaks = run_fsdp2(job_of(row["question"]), recorder);
    const json& measured = row["measured"];
    CHECK(peaks.after_init_bytes == measured["after_init_requested_bytes"]);
    CHECK(peaks.between_steps_bytes == measured["between_steps_requested_bytes"]);
    for (const auto& [phase, bytes] : measured["phases_requested_bytes"].items()) {
      INFO(phase);
      CHECK(peaks.peak_bytes(phase) == bytes);
    }
  }
}

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
    const PhasePeaks gpu_peaks = run_fsdp2(small_job(tool), gpu, {.out_of_place_accumulation = false, .layer_norm_keeps_input_type = false, .composite_silu_backward = false});
    for (const PhasePeak& phase : simulated_peaks.phases) CHECK(gpu_peaks.peak_bytes(phase.name) <= phase.bytes[0]);
  }
}

}  // namespace zeroplan::eager
