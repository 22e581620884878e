// What several engines share beyond full training on the device: adapters over a frozen base, models made without memory, parameters and checkpoints on the host.
#include <catch2/catch.hpp>

#include <map>
#include <optional>
#include <string>

#include "planner/engines/eager/fsdp1.h"
#include "planner/engines/eager/fsdp2.h"
#include "planner/engines/eager/single.h"
#include "profiles/catalog.h"
#include "tests/planner/engines/eager/oracle_job.h"
#include "tests/planner/engines/oracle_rows.h"

namespace zeroplan::eager {
namespace {

using nlohmann::json;

LoraConfig lora_of(const json& question) {
  if (!question.contains("lora")) return {};
  const json& lora = question["lora"];
  LoraConfig out{.rank = lora["rank"], .targets = lora["targets"]};
  if (lora.contains("dtype")) out.type = scalar_type_of(lora["dtype"]);
  return out;
}

/// The weights that FSDP flattens are stored in the model's dtype.
std::optional<FourBitWeights> four_bit_of(const json& question) {
  if (!question.contains("four_bit")) return std::nullopt;
  const ScalarType type = scalar_type_of(question["parameters_dtype"]);
  return FourBitWeights{.double_quantised = question["four_bit"] == "double", .storage = question["engine"] == "single" ? ScalarType::uint8 : type};
}

OptimizerRule rule_of(const json& question) {
  const std::map<std::string, OptimizerRule> rules{{"adamw", OptimizerRule::adamw}, {"sgd", OptimizerRule::sgd}, {"momentum", OptimizerRule::momentum}, {"lion", OptimizerRule::lion},
                                                   {"adafactor", OptimizerRule::adafactor}, {"adamw-8bit", OptimizerRule::adamw_8bit}};
  return rules.at(question.value("optimizer", "adamw"));
}

BlockCheckpoints checkpoints_with_offload_of(const json& question) {
  BlockCheckpoints out = checkpoints_of(question);
  out.offload_inputs = question.value("offload_activations", false);
  return out;
}

Fsdp1Job fsdp1_job(const json& question) {
  Fsdp1Job job;
  job.model = model_of(question);
  job.model.four_bit = four_bit_of(question);
  job.world_ranks = question["gpus_per_node"];
  job.size = size_of(question);
  job.param_type = scalar_type_of(question["compute_dtype"]);
  job.reduce_type = scalar_type_of(question["reduce_dtype"]);
  if (question.value("sharding_strategy", "FULL_SHARD") == "SHARD_GRAD_OP") job.strategy = ShardingStrategy::shard_grad_op;
  job.use_orig_params = question.value("use_orig_params", true);
  job.cpu_offload = question.value("cpu_offload", false);
  job.no_sync = question.value("no_sync", false);
  job.checkpoint = checkpoints_with_offload_of(question);
  job.kernel = kernel_of(question);
  job.lora = lora_of(question);
  job.wraps_adapters = question.value("wraps_adapters", true);
  job.made_on_meta = question.value("meta", false);
  return job;
}

Fsdp2Job fsdp2_job(const json& question) {
  Fsdp2Job job;
  job.model = model_of(question);
  job.model.four_bit = four_bit_of(question);
  job.world_ranks = job.shard_group_ranks = question["gpus_per_node"];
  job.size = size_of(question);
  job.checkpoint = checkpoints_with_offload_of(question);
  job.compute_type = scalar_type_of(question["compute_dtype"]);
  job.reduce_type = scalar_type_of(question["reduce_dtype"]);
  job.kernel = kernel_of(question);
  job.lora = lora_of(question);
  job.cpu_offload = question.value("fsdp2_offload", false);
  return job;
}

SingleJob single_job(const json& question) {
  SingleJob job;
  job.model = model_of(question);
  job.model.four_bit = four_bit_of(question);
  job.size = size_of(question);
  job.checkpoint = checkpoints_of(question);
  job.kernel = kernel_of(question);
  job.rule = rule_of(question);
  job.lora = lora_of(question);
  return job;
}

PhasePeaks run(const json& question, Recorder& recorder) {
  if (question["engine"] == "fsdp1") return run_fsdp1(fsdp1_job(question), recorder);
  if (question["engine"] == "fsdp2") return run_fsdp2(fsdp2_job(question), recorder);
  return run_single(single_job(question), recorder);
}

}  // namespace

TEST_CASE("adapters and meta parameters and offload ask in every phase for the bytes that the real code asked for", "[published]") {
  const json file = read_json_file(ZEROPLAN_TEST_DATA "/engine_oracle_options.json");
  for (const json& row : file["rows"]) {
    const json& question = row["question"];
    INFO(row["id"].get<std::string>() << " " << question.dump());
    Recorder recorder;
    check_equal(run(question, recorder), row["measured"]);
  }
}

namespace {

HfConfig small_model() { return {.hidden_size = 64, .num_layers = 3, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 2, .head_dim = 16}; }
const LoraConfig kAdapters{.rank = 4, .targets = {"q_proj", "down_proj"}};

Fsdp1Job small_fsdp1_job() {
  Fsdp1Job job;
  job.model = small_model();
  job.world_ranks = 4;
  job.size.seq_tokens = 32;
  job.use_orig_params = false;
  job.lora = kAdapters;
  return job;
}

SingleJob small_single_job() {
  SingleJob job;
  job.model = small_model();
  job.size.seq_tokens = 32;
  return job;
}

std::int64_t payload_bytes(const Recorder& recorder, CollectiveKind kind) { return recorder.work_totals("steady").payload_bytes[static_cast<std::size_t>(kind)]; }

}  // namespace

TEST_CASE("nothing is alive after jobs with adapters, four bits, offload or tiles", "[unit]") {
  for (const bool offloads : {false, true}) {
    Fsdp1Job job = small_fsdp1_job();
    job.model.four_bit = FourBitWeights{.storage = ScalarType::bf16};
    job.model.tiled_mlp = true;
    job.cpu_offload = job.made_on_meta = offloads;
    job.checkpoint = {.mode = CheckpointMode::non_reentrant, .offload_inputs = offloads};
    Recorder recorder(true);
    run_fsdp1(job, recorder);
    CHECK(recorder.alive_bytes(Place::device) == 0);
    CHECK(recorder.alive_bytes(Place::host) == 0);
  }
}

TEST_CASE("a frozen base is gathered as often as a trained one and only adapters are reduced", "[property]") {
  Recorder full, adapters;
  Fsdp1Job job = small_fsdp1_job();
  run_fsdp1(job, adapters);
  job.lora = {};
  run_fsdp1(job, full);
  CHECK(payload_bytes(adapters, CollectiveKind::all_gather) > payload_bytes(full, CollectiveKind::all_gather));
  CHECK(payload_bytes(adapters, CollectiveKind::reduce_scatter) < payload_bytes(full, CollectiveKind::reduce_scatter) / 4);
}

TEST_CASE("a model made without memory never holds more in init than its shards and two units", "[property]") {
  Fsdp1Job job = small_fsdp1_job();
  job.lora = {};
  job.model.num_layers = 12;
  Recorder whole, meta;
  const std::int64_t whole_bytes = run_fsdp1(job, whole).peak_bytes("init");
  job.made_on_meta = true;
  const PhasePeaks peaks = run_fsdp1(job, meta);
  const std::int64_t q_dim = job.model.num_heads * job.model.head_dim, kv_dim = job.model.num_kv_heads * job.model.head_dim;
  const std::int64_t block_bytes = 2 * job.model.hidden_size * (2 * q_dim + 2 * kv_dim + 3 * job.model.intermediate_size + 2);
  const std::int64_t root_bytes = 2 * job.model.hidden_size * (2 * job.model.vocab_size + 1);
  CHECK(peaks.peak_bytes("init") < whole_bytes / 2);
  CHECK(peaks.peak_bytes("init") < (job.model.num_layers * block_bytes + root_bytes) / job.world_ranks + 2 * block_bytes + 1024);
}

TEST_CASE("checkpoints on the host take one block input for each block from the device and put it there", "[property]") {
  SingleJob job = small_single_job();
  job.model.num_layers = 20;
  for (const CheckpointMode mode : {CheckpointMode::non_reentrant, CheckpointMode::reentrant}) {
    job.checkpoint = {.mode = mode};
    Recorder device, host;
    const PhasePeaks kept = run_single(job, device, kGpu);
    job.checkpoint.offload_inputs = true;
    const PhasePeaks moved = run_single(job, host, kGpu);
    const std::int64_t inputs_bytes = job.model.num_layers * job.size.seq_tokens * job.model.hidden_size * 2;
    CHECK(kept.peak_bytes("steady.forward") - moved.peak_bytes("steady.forward") > inputs_bytes / 2);
    CHECK(moved.peak_bytes("steady.forward", Place::host) - kept.peak_bytes("steady.forward", Place::host) == inputs_bytes);
    CHECK(host.work_totals("steady").copied_to_device_bytes == inputs_bytes);
  }
}

TEST_CASE("Ulysses exchanges q, k, v and the result once forward and once backward, and its ranks share the heads", "[property]") {
  SingleJob job = small_single_job();
  job.model.sequence_ranks = 2;
  Recorder recorder;
  run_single(job, recorder, kGpu);
  const std::int64_t heads = 2 * job.model.num_heads + 2 * job.model.num_kv_heads;
  CHECK(payload_bytes(recorder, CollectiveKind::all_to_all) == 2 * job.model.num_layers * job.size.seq_tokens * heads * job.model.head_dim * 2);
}

TEST_CASE("Liger's kernels ask for less in every phase of a step and leave nothing behind", "[property]") {
  SingleJob job = small_single_job();
  Recorder plain, liger(true);
  const PhasePeaks plain_peaks = run_single(job, plain, kGpu);
  job.model.liger = true;
  const PhasePeaks liger_peaks = run_single(job, liger, kGpu);
  CHECK(liger_peaks.peak_bytes("steady.forward") < plain_peaks.peak_bytes("steady.forward"));
  CHECK(liger_peaks.peak_bytes("steady.backward") < plain_peaks.peak_bytes("steady.backward"));
  CHECK(liger.alive_bytes(Place::device) == 0);
}

TEST_CASE("paged moments of 8 bits leave the device where they are large", "[unit]") {
  SingleJob job = small_single_job();
  job.model.vocab_size = 2000;  // embedding and head of 128 000 elements
  job.rule = OptimizerRule::adamw_8bit;
  Recorder resident, paged;
  const PhasePeaks kept = run_single(job, resident, kGpu);
  job.rule = OptimizerRule::paged_adamw_8bit;
  const PhasePeaks moved = run_single(job, paged, kGpu);
  const std::int64_t moved_bytes = 2 * 2 * job.model.vocab_size * job.model.hidden_size;
  CHECK(kept.between_steps_bytes - moved.between_steps_bytes == moved_bytes);
  CHECK(moved.between_steps_host_bytes - kept.between_steps_host_bytes == moved_bytes);
}

}  // namespace zeroplan::eager
