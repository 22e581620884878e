#include <catch2/catch.hpp>

#include <algorithm>
#include <random>

#include <nlohmann/json.hpp>

#include "planner/core/deepspeed_json.h"
#include "planner/core/error.h"
#include "planner/export/export.h"
#include "profiles/catalog.h"
#include "tests/support/questions.h"

using namespace zeroplan;
using Catch::Contains;
using nlohmann::json;

namespace {

Question asked(Engine engine = Engine::deepspeed) {
  Question question = default_question(catalogue_model("llama-2-7b"), cluster_from_name("8xa100-80g"));
  if (engine == Engine::deepspeed) set_engine(question, engine);
  else choose_engine(question, engine);
  return question;
}

std::string refusal(Export (*target)(const Question&, const ExportOptions&), const Question& question) {
  try {
    target(question, {});
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

const ExportWarning* warning(const Export& exported, std::string_view key) {
  const auto found = std::find_if(exported.warnings.begin(), exported.warnings.end(), [&](const ExportWarning& w) { return w.key == key; });
  return found == exported.warnings.end() ? nullptr : &*found;
}

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed) {}
  std::int64_t between(std::int64_t low, std::int64_t high) { return std::uniform_int_distribution<std::int64_t>(low, high)(random_); }
  bool coin() { return between(0, 1) == 1; }
  Dtype half() { return coin() ? Dtype::bf16 : Dtype::fp16; }
  Dtype dtype() { return coin() ? Dtype::fp32 : half(); }
  std::mt19937_64& random() { return random_; }

 private:
  std::mt19937_64 random_;
};

void draw_offload(Draw& draw, Question& q) {
  Plan& plan = q.plan;
  if (plan.stage > 0 && draw.coin()) plan.offload_optimizer = plan.stage == 3 && draw.coin() ? Offload::nvme : Offload::cpu;
  if (plan.stage == 3 && draw.coin()) plan.offload_parameters = draw.coin() ? Offload::nvme : Offload::cpu;
  if (plan.stage == 3 && draw.coin()) plan.offload_optimizer_ratio = static_cast<double>(draw.between(0, 100)) / 100;
}

/// Dtypes that DeepSpeed accepts together, where every option that it resolves for itself is written out.
void draw_dtypes(Draw& draw, Question& q) {
  DeepSpeedOptions& o = q.plan.deepspeed;
  q.job.compute_dtype = draw.dtype();
  o.bf16_master_weights_and_grads = q.plan.stage > 0 && q.job.compute_dtype == Dtype::bf16 && draw.coin();
  o.bf16_optimizer_states = o.bf16_master_weights_and_grads && draw.coin();
  if (o.bf16_optimizer_states) q.job.optimizer_dtype = Dtype::bf16;
  o.immediate_grad_update = draw.coin();
  o.torch_autocast = q.job.compute_dtype != Dtype::fp32 && draw.coin();
  q.job.gradient_dtype = q.plan.stage == 0 ? q.parameters_dtype() : draw.dtype();
  o.grad_accum_dtype = q.job.gradient_dtype;
  o.communication_data_type = draw.dtype();
  if (*o.communication_data_type != q.implied_reduce_dtype()) q.job.wire_dtype = o.communication_data_type;
  o.seq_parallel_communication_data_type = draw.dtype();
}

void draw_options(Draw& draw, Question& q) {
  DeepSpeedOptions& o = q.plan.deepspeed;
  const bool three = q.plan.stage == 3;
  for (const DeepSpeedInteger& integer : kDeepSpeedIntegers)
    if ((three || !integer.stage3_only) && draw.coin()) o.*integer.field = draw.between(integer.least, std::int64_t{1} << draw.between(1, 62));
  for (const DeepSpeedFlag& flag : kDeepSpeedFlags)
    if ((three || !flag.stage3_only) && flag.key != "compute_grad_norm" && draw.coin()) o.*flag.field = !(o.*flag.field);
  o.overlap_comm = draw.coin();
  o.deepcompile = draw.coin();
  o.offload_optimizer_pin_memory = q.plan.stage == 0 || draw.coin();
  o.offload_param_pin_memory = !three || draw.coin();
  if (three) o.offload_param_max_in_cpu = draw.between(0, 1'000'000'000'000);
  q.job.clip_norm = draw.coin() ? 0 : static_cast<double>(draw.between(1, 1000)) / 7;
  o.compute_grad_norm = !(q.job.clip_norm == 0 && (q.plan.stage == 1 || q.plan.stage == 2) && q.plan.offload_optimizer == Offload::none);
}

Question random_deepspeed_question(std::uint64_t seed) {
  Draw draw(seed);
  Question q = testing::random_question(draw.random());
  q.plan.attention = AttentionKernel::eager;  // any head width
  set_engine(q, Engine::deepspeed);
  draw_offload(draw, q);
  draw_dtypes(draw, q);
  draw_options(draw, q);
  return q;
}

/// The question with everything that a DeepSpeed JSON says taken away again. Compute dtype stays: fp32 is said by nothing.
Question unsaid(const Question& q) {
  Question out = q;
  out.plan.deepspeed = {};
  out.plan.stage = 1;
  out.plan.micro_batch = out.plan.accumulate = 77;
  out.plan.offload_optimizer = out.plan.offload_parameters = Offload::none;
  out.plan.offload_optimizer_ratio = 1;
  out.job.clip_norm = 12;
  out.job.gradient_dtype = Dtype::fp32;
  out.job.optimizer_dtype = Dtype::fp32;
  out.job.wire_dtype.reset();
  return out;
}

}  // namespace

TEST_CASE("a DeepSpeed JSON read back is the question it was exported from, and nothing in it is dropped in silence", "[property]") {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    INFO("seed " << seed);
    const Question q = random_deepspeed_question(seed);
    const Export exported = deepspeed_config(q, {.deepspeed_file = "", .nvme_path = "nvme"});
    Question back = unsaid(q);
    const std::vector<DeepSpeedNote> notes = apply_deepspeed_text(back, exported.text, "ds.json");
    for (const DeepSpeedNote& note : notes) FAIL_CHECK(note.key << ": " << note.text);
    REQUIRE(back == q);
  }
}

TEST_CASE("every preset's question keeps its meaning through export", "[property]") {
  for (const std::string_view name : preset_names()) {
    INFO(name);
    Question q = default_question(catalogue_model("llama-2-7b"), cluster_from_name("8xa100-80g"));
    apply_preset(q, name);
    if (q.plan.engine != Engine::deepspeed) {
      CHECK_FALSE(accelerate_config(q).text.empty());
      continue;
    }
    Question back = q;
    for (const DeepSpeedNote& note : apply_deepspeed_text(back, deepspeed_config(q).text, "ds.json")) CHECK(note.code == DeepSpeedNoteCode::overwritten);  // by XTuner, with the same values
    CHECK(back.plan.deepspeed.grad_accum_dtype == q.job.gradient_dtype);
    CHECK(back.plan.deepspeed.overlap_comm == q.plan.deepspeed.overlaps(q.plan.stage));
    CHECK(back.plan.deepspeed.communication_data_type == q.reduce_dtype());
    back.plan.deepspeed.grad_accum_dtype.reset();
    back.plan.deepspeed.communication_data_type.reset();
    back.plan.deepspeed.overlap_comm = q.plan.deepspeed.overlap_comm;
    CHECK(back == q);
  }
}

TEST_CASE("any plan of our own engine becomes a DeepSpeed setting of its stage", "[property]") {
  std::mt19937_64 random(11);
  for (int i = 0; i < 500; ++i) {
    const Question ours = testing::random_question(random);
    const Export exported = deepspeed_config(ours);
    REQUIRE(warning(exported, "engine") != nullptr);
    Question back = ours;
    apply_deepspeed_text(back, exported.text, "ds.json");
    CHECK(back.plan.stage == ours.plan.stage);
    CHECK(back.plan.micro_batch == ours.plan.micro_batch);
    CHECK(back.plan.accumulate == ours.plan.accumulate);
    CHECK(back.plan.deepspeed.overlap_comm == ours.plan.overlap_comm);
    CHECK((back.job.gradient_dtype == ours.job.gradient_dtype || warning(exported, "gradient_dtype") != nullptr));
    CHECK((warning(exported, "keep") != nullptr) == (ours.plan.keep.bits != 0 && ours.plan.recomputed_blocks > 0));
    CHECK((warning(exported, "loss_chunk_tokens") != nullptr) == (ours.plan.loss_chunk_tokens < ours.tokens_per_micro_batch()));
  }
}

TEST_CASE("the optimizer is in the JSON only where DeepSpeed makes it", "[unit]") {
  Question q = asked();
  CHECK_FALSE(json::parse(deepspeed_config(q).text).contains("optimizer"));
  CHECK(json::parse(deepspeed_config(q).text)["zero_allow_untested_optimizer"] == true);
  CHECK(warning(deepspeed_config(q), "optimizer") != nullptr);
  q.plan.optimizer_kernel = OptimizerKernel::fused;
  json file = json::parse(deepspeed_config(q).text);
  CHECK(file["optimizer"]["type"] == "AdamW");
  CHECK(file["optimizer"]["params"]["betas"] == json({0.9, 0.95}));
  CHECK(file["optimizer"]["params"]["adam_w_mode"] == true);
  CHECK(warning(deepspeed_config(q), "optimizer") == nullptr);
  q.job.optimizer = Optimizer::adam;  // DeepSpeed's Adam decouples weight decay unless told
  CHECK(json::parse(deepspeed_config(q).text)["optimizer"]["params"]["adam_w_mode"] == false);
  q.plan.tool = "xtuner";
  CHECK_FALSE(json::parse(deepspeed_config(q).text).contains("optimizer"));
  q.plan.offload_optimizer = Offload::cpu;
  CHECK(json::parse(deepspeed_config(q).text)["zero_force_ds_cpu_optimizer"] == false);
  q.plan.optimizer_kernel = OptimizerKernel::cpu;
  CHECK(json::parse(deepspeed_config(q).text)["zero_force_ds_cpu_optimizer"] == true);
}

TEST_CASE("keys of stage 3 stand at stage 3 only", "[unit]") {
  Question q = asked();
  for (const std::int64_t stage : {0, 1, 2, 3}) {
    q.plan.stage = stage;
    const json zero = json::parse(deepspeed_config(q).text)["zero_optimization"];
    CHECK(zero.contains("stage3_max_live_parameters") == (stage == 3));
    CHECK(zero.contains("offload_param") == (stage == 3));
    CHECK(zero["overlap_comm"] == (stage == 3));
  }
}

TEST_CASE("what DeepSpeed refuses or ignores is refused by name", "[unit]") {
  const auto with = [](auto change) {
    Question q = asked();
    change(q);
    return refusal(deepspeed_config, q);
  };
  CHECK_THAT(with([](Question& q) { q.plan.stage = 0, q.plan.offload_optimizer = Offload::cpu; }), Contains("offload_optimizer=cpu") && Contains("in silence"));
  CHECK_THAT(with([](Question& q) { q.plan.stage = 2, q.plan.offload_optimizer = Offload::nvme; }), Contains("takes it for cpu"));
  CHECK_THAT(with([](Question& q) { q.plan.offload_parameters = Offload::nvme; }), Contains("--nvme-path"));
  CHECK_THAT(with([](Question& q) { q.plan.stage = 2, q.plan.offload_optimizer_ratio = 0.5; }), Contains("offload_optimizer_ratio=0.5"));
  CHECK_THAT(with([](Question& q) { q.plan.shard_group = 4; }), Contains("shard_group=4"));
  CHECK_THAT(with([](Question& q) { q.job.stored_dtype = Dtype::fp32; }), Contains("parameters_dtype=fp32") && Contains("torch_autocast"));
  CHECK_THAT(with([](Question& q) { q.job.separate_master = false; }), Contains("master_dtype=none"));
  CHECK_THAT(with([](Question& q) { q.job.optimizer_dtype = Dtype::bf16; }), Contains("optimizer_dtype=bf16"));
  CHECK_THAT(with([](Question& q) { q.plan.stage = 0, q.job.gradient_dtype = Dtype::fp32; }), Contains("gradient_dtype=fp32"));
  CHECK_THAT(with([](Question& q) { q.plan.stage = 2, q.plan.deepspeed.compute_grad_norm = false; }), Contains("clip_norm"));
  CHECK_THAT(with([](Question& q) { q.plan.deepspeed.bf16_optimizer_states = true; }), Contains("bf16_optimizer_states"));
  CHECK_THAT(refusal(deepspeed_config, asked(Engine::fsdp2)), Contains("engine=fsdp2") && Contains("--to accelerate"));
  CHECK_THAT(refusal(xtuner_config, asked(Engine::fsdp2)), Contains("engine=fsdp2"));
  Question other = asked();
  set_engine(other, Engine::fsdp1);
  CHECK_THAT(refusal(accelerate_config, other), Contains("engine=fsdp1") && Contains("--engine deepspeed"));
}

TEST_CASE("Accelerate's FSDP file says what the plan says, and warns of what it cannot", "[unit]") {
  Question q = asked(Engine::fsdp2);
  CHECK_THAT(accelerate_config(q).text, Contains("distributed_type: \"FSDP\"") && Contains("fsdp_version: 2\n") && Contains("fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer") &&
                                            Contains("fsdp_reshard_after_forward: true") && Contains("mixed_precision: \"bf16\"") && Contains("num_processes: 8"));
  CHECK(accelerate_config(q).deepspeed_text.empty());
  q.plan.reshard = Reshard::never;
  q.plan.recomputed_blocks = 0;
  CHECK_THAT(accelerate_config(q).text, Contains("fsdp_reshard_after_forward: false") && Contains("fsdp_activation_checkpointing: false"));
  q.plan.reshard = Reshard::standard;
  q.plan.recomputed_blocks = 3;
  q.job.wire_dtype = Dtype::fp32;
  const Export exported = accelerate_config(q);
  for (const char* key : {"reshard", "checkpoint", "reduce_dtype"}) CHECK(warning(exported, key) != nullptr);
  q.plan.offload_optimizer = Offload::cpu;
  CHECK_THAT(refusal(accelerate_config, q), Contains("offload_optimizer=cpu"));
  q = asked(Engine::fsdp2);
  q.cluster = cluster_from_name("2xcpu");
  CHECK_THAT(refusal(accelerate_config, q), Contains("CPU"));
}

TEST_CASE("every model of the catalogue has a block that FSDP can wrap", "[unit]") {
  for (const std::string_view name : model_names()) {
    INFO(name);
    Question q = default_question(catalogue_model(name), cluster_from_name("8xa100-80g"));
    choose_engine(q, Engine::fsdp2);
    q.plan.attention = AttentionKernel::efficient;
    CHECK_THAT(accelerate_config(q).text, Contains("fsdp_transformer_layer_cls_to_wrap: "));
  }
}

TEST_CASE("XTuner's file and its JSON agree, and hostile names stay inside their quotes", "[unit]") {
  Question q = asked();
  q.plan.stage = 2;
  q.plan.micro_batch = 3;
  q.plan.accumulate = 5;
  q.job.clip_norm = 0;
  q.job.model.name = "a\"b\n\\c\xff";
  const Export exported = xtuner_config(q, {.deepspeed_file = "x\ny.json", .nvme_path = ""});
  CHECK_THAT(exported.text, Contains("batch_size = 3 ") && Contains("accumulative_counts = 5\n") && Contains("max_norm = 0.0 ") && Contains(R"(pretrained_model_name_or_path = "a\"b\n\\c)") &&
                                Contains(R"(--deepspeed "x\ny.json")"));
  const json file = json::parse(exported.deepspeed_text);
  CHECK(file["train_micro_batch_size_per_gpu"] == 3);
  CHECK(file["gradient_accumulation_steps"] == 5);
  CHECK(file["train_batch_size"] == 120);
  CHECK(file["gradient_clipping"] == 0);
  q.job.sequence_parallel = 4;  // XTuner counts all ranks
  CHECK_FALSE(json::parse(xtuner_config(q).deepspeed_text).contains("train_batch_size"));
  CHECK_THAT(xtuner_config(q).text, Contains("SequenceParallelSampler"));
  q.job.optimizer = Optimizer::muon;
  CHECK_THAT(refusal(xtuner_config, q), Contains("optimizer=muon"));
}
