// Every dense family of transformers and every setting of attention, loss and checkpointing, against what the real code asked of memory.
#include <catch2/catch.hpp>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/engines/eager/deepspeed_zero12.h"
#include "planner/engines/eager/deepspeed_zero3.h"
#include "planner/engines/eager/fsdp2.h"
#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/ops_attention.h"
#include "planner/engines/eager/ops_loss.h"
#include "planner/engines/eager/optimizers.h"
#include "planner/engines/eager/training_loop.h"
#include "profiles/catalog.h"

#ifndef ZEROPLAN_TEST_DATA
#define ZEROPLAN_TEST_DATA "tests/data"
#endif

namespace zeroplan::eager {
namespace {

using nlohmann::json;

ScalarType scalar_type(const std::string& name) { return name == "fp32" ? ScalarType::fp32 : ScalarType::bf16; }

HfConfig config_of(const json& question) {
  const Model model = model_from_config(question["model"], "engine_oracle_families.json");
  HfConfig config = hf_config(model, scalar_type(question["parameters_dtype"]), question["seq"]);
  const std::string attention = question.value("attention", "");
  if (attention == "eager") config.attention = zeroplan::AttentionKernel::eager;
  if (attention == "efficient") config.attention = zeroplan::AttentionKernel::efficient;
  if (attention == "cudnn") config.attention = zeroplan::AttentionKernel::cudnn;
  config.loss.logits_fp32 = question.value("logits_fp32", true);
  const std::string loss = question.value("loss", "plain");
  if (loss == "fused") config.loss.kind = LossConfig::Kind::fused;
  if (loss == "chunked") config.loss = {.kind = LossConfig::Kind::chunked, .chunks = question["loss_chunks"]};
  return config;
}

BlockCheckpoints checkpoints_of(const json& question) {
  BlockCheckpoints out;
  if (question["checkpoint"] == "full") out.mode = question.value("checkpoint_reentrant", false) ? CheckpointMode::reentrant : CheckpointMode::non_reentrant;
  out.every = question.value("checkpoint_every", 1);
  if (question.contains("checkpoint_first")) out.first_blocks = question["checkpoint_first"].get<std::int64_t>();
  return out;
}

/// Plain PyTorch on one device: forward, maybe under autocast, backward, clip, AdamW.
class PlainTrainer {
 public:
  PlainTrainer(Context& context, const json& question)
      : context_(context), config_(config_of(question)), compute_type_(scalar_type(question["compute_dtype"])), accumulate_(question["accumulate"]),
        model_(make_causal_lm(context, config_, {}, checkpoints_of(question))), parameters_(model_->parameters()), optimizer_(context, OptimizerKernel::foreach, parameters_) {}

  Tensor forward(const Tensor& ids) {
    std::optional<AutocastScope> autocast;
    if (config_.type == ScalarType::fp32 && compute_type_ != ScalarType::fp32) autocast.emplace(context_, true, compute_type_);
    return model_->loss(ids);
  }
  void backward(const Tensor& loss) { eager::backward(loss); }
  void step() {
    if (++micro_batches_ % accumulate_ != 0) return;
    Scoped no_grad(context_.grad_enabled, false);
    clip_grad_norm(context_, parameters_);
    optimizer_.step();
    optimizer_.zero_grad();
  }
  void skip_micro_batches(std::int64_t n) { micro_batches_ += n; }

 private:
  Context& context_;
  HfConfig config_;
  ScalarType compute_type_;
  std::int64_t accumulate_, micro_batches_ = 0;
  std::unique_ptr<CausalLm> model_;
  Tensors parameters_;
  AdamW optimizer_;
};

PhasePeaks run(const json& question) {
  Recorder recorder;
  Context context(recorder);
  kFakeCpu.apply_to(context);
  recorder.begin_phase("init");
  PlainTrainer trainer(context, question);
  return train(context, {.seq_tokens = question["seq"], .micro_batch = question["micro_batch"], .accumulate = question["accumulate"]}, trainer);
}

/// The same under DeepSpeed or FSDP2.
PhasePeaks run_engine(const json& question) {
  const Model model = model_from_config(question["model"], "engine_oracle_families.json");
  const bool full = question["checkpoint"] == "full";
  const TrainingSize size{.seq_tokens = question["seq"], .micro_batch = question["micro_batch"], .accumulate = question["accumulate"]};
  Recorder recorder;
  if (question["engine"] == "fsdp2") {
    Fsdp2Job job;
    job.model = hf_config(model, ScalarType::fp32, question["seq"]);
    job.world_ranks = job.shard_group_ranks = question["world"];
    job.size = size;
    if (full) job.checkpoint.mode = CheckpointMode::non_reentrant;
    return run_fsdp2(job, recorder);
  }
  const HfConfig config = hf_config(model, ScalarType::bf16, question["seq"]);
  const CheckpointMode checkpoint = full ? CheckpointMode::non_reentrant : CheckpointMode::none;
  if (question["stage"] == 3) {
    Zero3Job job;
    job.model = config;
    job.ranks = question["world"];
    job.size = size;
    job.checkpoint.mode = checkpoint;
    return run_zero3(job, recorder);
  }
  Zero12Job job;
  job.model = config;
  job.stage = question["stage"];
  job.world_ranks = question["world"];
  job.size = size;
  job.checkpoint.mode = checkpoint;
  return run_zero12(job, recorder);
}

json oracle_rows(const char* key) {
  std::ifstream file(std::string(ZEROPLAN_TEST_DATA) + "/engine_oracle_families.json");
  REQUIRE(file);
  const json all = json::parse(file);
  return all.at(key);
}

void check_equal_bytes(const PhasePeaks& peaks, const json& measured) {
  CHECK(peaks.after_init_bytes == measured["after_init_requested_bytes"]);
  CHECK(peaks.between_steps_bytes == measured["between_steps_requested_bytes"]);
  for (const auto& [phase, bytes] : measured["phases_requested_bytes"].items()) {
    INFO(phase);
    CHECK(peaks.peak_bytes(phase) == bytes);
  }
  if (!measured.contains("host_phases_requested_bytes")) return;
  for (const auto& [phase, bytes] : measured["host_phases_requested_bytes"].items()) {
    INFO(phase << " on the host");
    CHECK(peaks.peak_bytes(phase, Place::host) == bytes);
  }
}

Model named(const char* model_type) {
  Model model = catalogue_model("llama-3.2-1b");
  model.model_type = model_type;
  return model;
}

}  // namespace

TEST_CASE("every family, attention kernel, loss and choice of checkpointed blocks asks for exactly the bytes that the real code asked for", "[published]") {
  const json rows = oracle_rows("rows");
  REQUIRE(rows.size() > 20);
  for (const json& row : rows) {
    INFO(row["id"]);
    check_equal_bytes(run(row["question"]), row["measured"]);
  }
}

TEST_CASE("every family under DeepSpeed's stages and FSDP2 asks for exactly the bytes that the real code asked for, device and host", "[published]") {
  const json rows = oracle_rows("engine_rows");
  REQUIRE(rows.size() > 20);
  for (const json& row : rows) {
    INFO(row["id"]);
    check_equal_bytes(run_engine(row["question"]), row["measured"]);
  }
}

TEST_CASE("every dense model of the catalogue is made with as many parameters as it has, the others are refused by name", "[property]") {
  for (const std::string_view name : model_names()) {
    INFO(name);
    const Model model = catalogue_model(name);
    Recorder recorder;
    Context context(recorder);
    if (model.num_experts > 0 || model.kv_lora_rank > 0 || model.vision_params > 0) {
      CHECK_THROWS_WITH(hf_config(model, ScalarType::bf16, 1024), Catch::Contains(model.model_type) && Catch::Contains("Modelled: llama, "));
      continue;
    }
    const std::unique_ptr<CausalLm> lm = CausalLm::make(context, hf_config(model, ScalarType::bf16, model.max_position));
    std::int64_t elems = 0;
    for (const Tensor& p : lm->parameters()) elems += p.elems();
    CHECK(elems == parameter_elems(model));
  }
}

TEST_CASE("two blocks of every dense model of the catalogue run forward and backward and leave a gradient for each parameter", "[property]") {
  for (const std::string_view name : model_names()) {
    INFO(name);
    Model model = catalogue_model(name);
    if (model.num_experts > 0 || model.kv_lora_rank > 0 || model.vision_params > 0) continue;
    model.num_layers = 2;
    Recorder recorder;
    Context context(recorder);
    recorder.begin_phase("step");
    const std::unique_ptr<CausalLm> lm = make_causal_lm(context, hf_config(model, ScalarType::bf16, 256), {}, {.mode = CheckpointMode::non_reentrant});
    const Tensor ids = empty(context, Shape{1, 256}, ScalarType::int64, "ids");
    backward(lm->loss(ids));
    for (const auto& [parameter_name, p] : lm->named_parameters()) {
      INFO(parameter_name);
      REQUIRE(p.grad().defined());
      CHECK(p.grad().shape().same_sizes(p.shape()));
    }
    CHECK(recorder.work_totals("step").all_flops() > 6 * 256 * (parameter_elems(model) - model.vocab_size * model.hidden_size));
  }
}

TEST_CASE("a model type that is not written down is refused by name", "[unit]") {
  CHECK_THROWS_AS(hf_config(named("mamba"), ScalarType::bf16, 128), UsageError);
  CHECK_THROWS_WITH(hf_config(named("mamba"), ScalarType::bf16, 128), Catch::StartsWith("mamba: "));
}

TEST_CASE("of every so many blocks the last one is checkpointed, and none behind the first so many", "[unit]") {
  const BlockCheckpoints every{.mode = CheckpointMode::non_reentrant, .every = 3};
  for (const std::int64_t block : {0, 1, 3, 4}) CHECK(every.of_block(block) == CheckpointMode::none);
  for (const std::int64_t block : {2, 5, 8}) CHECK(every.of_block(block) == CheckpointMode::non_reentrant);
  const BlockCheckpoints first{.mode = CheckpointMode::reentrant, .first_blocks = 2};
  CHECK(first.of_block(1) == CheckpointMode::reentrant);
  CHECK(first.of_block(2) == CheckpointMode::none);
}

TEST_CASE("whatever the model and its settings, nothing is alive when a job has ended", "[property]") {
  for (const HfConfig::Family family : {HfConfig::Family::llama, HfConfig::Family::gpt2, HfConfig::Family::gpt_neox, HfConfig::Family::opt, HfConfig::Family::bloom, HfConfig::Family::falcon, HfConfig::Family::mpt})
    for (const LossConfig::Kind kind : {LossConfig::Kind::plain, LossConfig::Kind::fused, LossConfig::Kind::chunked, LossConfig::Kind::flash})
      for (const auto attention : {zeroplan::AttentionKernel::flash, zeroplan::AttentionKernel::eager, zeroplan::AttentionKernel::efficient, zeroplan::AttentionKernel::cudnn}) {
        HfConfig config{.family = family, .hidden_size = 64, .num_layers = 2, .vocab_size = 101, .intermediate_size = 96, .num_heads = 4, .num_kv_heads = 4, .head_dim = 16, .max_positions = 32};
        config.attention = attention;
        config.loss.kind = kind;
        config.rotary_dims = family == HfConfig::Family::gpt_neox ? 4 : 0;
        config.foundry = family == HfConfig::Family::mpt && attention == zeroplan::AttentionKernel::flash;
        for (const CheckpointMode mode : {CheckpointMode::none, CheckpointMode::non_reentrant, CheckpointMode::reentrant, CheckpointMode::selective}) {
          Recorder recorder;
          {
            Context context(recorder);
            recorder.begin_phase("step");
            const std::unique_ptr<CausalLm> model = make_causal_lm(context, config, {}, {.mode = mode});
            const Tensor ids = empty(context, Shape{2, 32}, ScalarType::int64, "ids");
            backward(model->loss(ids));
            for (const Tensor& p : model->parameters()) REQUIRE(p.grad().defined());
          }
          CHECK(recorder.alive_bytes(Place::device) == 0);
        }
      }
}

TEST_CASE("llm-foundry's MPT with flash attention keeps far less than transformers' with its matrices of tokens by tokens", "[property]") {
  json question{{"model", {{"architectures", {"MPTForCausalLM"}}, {"model_type", "mpt"}, {"d_model", 128}, {"n_layers", 3}, {"n_heads", 4}, {"vocab_size", 331}, {"max_seq_len", 512}}},
                {"seq", 512}, {"parameters_dtype", "bf16"}};
  std::int64_t peaks[2] = {};
  for (const bool foundry : {false, true}) {
    Recorder recorder;
    Context context(recorder);
    recorder.begin_phase("forward");
    HfConfig config = config_of(question);
    config.foundry = foundry;
    const std::unique_ptr<CausalLm> model = CausalLm::make(context, config);
    const Tensor ids = empty(context, Shape{1, 512}, ScalarType::int64, "ids");
    const Tensor loss = model->loss(ids);
    peaks[foundry] = recorder.phase("forward")->bytes[0];
  }
  CHECK(peaks[true] * 2 < peaks[false]);
}

TEST_CASE("a fused loss's chunk is the power of two that liger_kernel takes", "[unit]") {
  CHECK(fused_loss_chunk_tokens(16384, 4096, 32000) == 2048);   // the example in its source
  CHECK(fused_loss_chunk_tokens(8192, 4096, 128256) == 256);
  CHECK(fused_loss_chunk_tokens(48, 1024, 512) == 48);          // one chunk never exceeds the tokens
}

TEST_CASE("efficient attention's workspace is dq in fp32 tiles, and dk and dv where a head is wider than 128", "[unit]") {
  Recorder recorder;
  Context context(recorder);
  const auto heads = [&](std::int64_t head_dim, ScalarType type) { return empty(context, Shape{1, 2, 256, head_dim}, type, "q"); };
  const Tensor narrow_heads = heads(64, ScalarType::bf16), usual = heads(128, ScalarType::bf16), wide = heads(256, ScalarType::bf16);
  CHECK(efficient_workspace_bytes(narrow_heads, narrow_heads) == 2 * 4 * (4 * (64 * 64 + 4)));
  CHECK(efficient_workspace_bytes(usual, usual) == 2 * 4 * (2 * (128 * 128 + 4)));
  CHECK(efficient_workspace_bytes(wide, wide) == 2 * 4 * (2 * 4 * (128 * 64 + 4) + 2 * 4 * 64 * 256));
}

}  // namespace zeroplan::eager
