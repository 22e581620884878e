#include "planner/engines/eager/single.h"

#include <catch2/catch.hpp>

#include <algorithm>
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
  std::ifstream file(std::string(ZEROPLAN_TEST_DATA) + "/engine_oracle_single.json");
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
  HfConfig config;
  config.family = family == "gpt2" ? HfConfig::Family::gpt2 : HfConfig::Family::llama;
  config.hidden_size = model["hidden_size"];
  config.num_layers = model["num_layers"];
  config.vocab_size = model["vocab_size"];
  config.intermediate_size = model["intermediate_size"];
  config.num_heads = model["num_heads"];
  config.num_kv_heads = model["num_kv_heads"];
  config.head_dim = model["head_dim"];
  config.max_positions = question["seq"];
  config.tie_embeddings = model["tie_embeddings"];
  config.qkv_bias = family == "qwen2";
  config.qk_norm = family == "qwen3";
  config.type = scalar_type(question["parameters_dtype"]);
  return config;
}

OptimizerKernel kernel_of(const std::string& name) {
  if (name == "for-loop") return OptimizerKernel::for_loop;
  return name == "fused" ? OptimizerKernel::fused : OptimizerKernel::foreach;
}

SingleJob job_of(const json& question) {
  SingleJob job;
  job.model = config_of(question);
  job.seq_tokens = question["seq"];
  job.micro_batch = question["micro_batch"];
  job.accumulate = question["accumulate"];
  job.steps = question.value("steps", 3);
  if (question["checkpoint"] == "full") job.checkpoint = question.value("checkpoint_reentrant", false) ? CheckpointMode::reentrant : CheckpointMode::non_reentrant;
  if (question["checkpoint"] == "selective-op") job.checkpoint = CheckpointMode::selective;
  job.compute_type = scalar_type(question["compute_dtype"]);
  job.kernel = kernel_of(question["optimizer_kernel"]);
  if (question["train"].is_object()) job.lora = {.rank = question["train"]["lora_rank"], .targets = question["train"]["lora_targets"]};
  return job;
}

SingleJob small_job() {
  SingleJob job;
  job.model = {.hidden_size = 64, .num_layers = 3, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16};
  job.seq_tokens = 32;
  return job;
}

}  // namespace

TEST_CASE("every phase of plain PyTorch asks for exactly the bytes that the real code asked for", "[published]") {
  for (const json& row : oracle_rows()) {
    INFO(row["id"]);
    Recorder recorder;
    const PhasePeaks peaks = run_single(job_of(row["question"]), recorder);
    const json& measured = row["measured"];
    CHECK(peaks.after_init_bytes == measured["after_init_requested_bytes"]);
    CHECK(peaks.between_steps_bytes == measured["between_steps_requested_bytes"]);
    for (const auto& [phase, bytes] : measured["phases_requested_bytes"].items()) {
      INFO(phase);
      CHECK(peaks.peak_bytes(phase) == bytes);
    }
  }
}

TEST_CASE("what is alive at a phase's peak sums up to the peak", "[unit]") {
  Recorder recorder(true);
  SingleJob job = small_job();
  job.checkpoint = CheckpointMode::non_reentrant;
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
    job.checkpoint = mode;
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
    job.checkpoint = mode;
    Recorder fake, gpu;
    const PhasePeaks fake_peaks = run_single(job, fake);
    const PhasePeaks gpu_peaks = run_single(job, gpu, {.out_of_place_accumulation = false, .layer_norm_keeps_input_type = false, .host = Place::host});
    for (const PhasePeak& phase : fake_peaks.phases) CHECK(gpu_peaks.peak_bytes(phase.name) <= phase.bytes[0]);
    CHECK(gpu_peaks.peak_bytes("steady.backward") < fake_peaks.peak_bytes("steady.backward"));
  }
}

}  // namespace zeroplan::eager
