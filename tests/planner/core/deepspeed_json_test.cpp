#include <catch2/catch.hpp>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "planner/core/deepspeed_json.h"
#include "planner/core/error.h"
#include "profiles/catalog.h"

using namespace zeroplan;
using Catch::Contains;
using nlohmann::json;

namespace {

Question asked(const char* tool = "") {
  Question question = default_question(catalogue_model("llama-2-7b"), cluster_from_name("8xa100-80g"));
  set_engine(question, Engine::deepspeed);
  question.plan.tool = tool;
  return question;
}

json file(json zero, json top = json::object()) {
  json whole{{"train_micro_batch_size_per_gpu", 2}, {"zero_optimization", std::move(zero)}};
  whole.update(top);
  return whole;
}

std::string refusal(const json& whole, const char* tool = "") {
  Question question = asked(tool);
  const Question before = question;
  try {
    apply_deepspeed_json(question, whole, "ds.json");
  } catch (const InputError& error) {
    CHECK(question == before);
    return error.what();
  }
  return "";
}

/// "code key" of every note.
std::vector<std::string> notes(const json& whole, const char* tool = "") {
  Question question = asked(tool);
  std::vector<std::string> out;
  for (const DeepSpeedNote& note : apply_deepspeed_json(question, whole, "ds.json")) {
    CHECK_FALSE(note.text.empty());
    out.push_back(std::string(name_of(note.code)) + " " + note.key);
  }
  return out;
}

Question read(const json& whole, const char* tool = "") {
  Question question = asked(tool);
  apply_deepspeed_json(question, whole, "ds.json");
  return question;
}

using Notes = std::vector<std::string>;

}  // namespace

TEST_CASE("defaults are those of DeepSpeed 0.19.8", "[published]") {
  // deepspeed/runtime/zero/config.py and offload_config.py of 0.19.8.
  const DeepSpeedOptions options;
  CHECK(options.reduce_bucket_size == 500'000'000);
  CHECK(options.allgather_bucket_size == 500'000'000);
  CHECK(options.sub_group_size == 1'000'000'000);
  CHECK(options.stage3_prefetch_bucket_size == 50'000'000);
  CHECK(options.stage3_param_persistence_threshold == 100'000);
  CHECK(options.stage3_max_live_parameters == 1'000'000'000);
  CHECK(options.stage3_max_reuse_distance == 1'000'000'000);
  CHECK(options.offload_optimizer_pin_memory);
  CHECK(options.overlaps(3));
  CHECK_FALSE(options.overlaps(2));
  CHECK(read(file(json::object())).plan.stage == 0);
}

TEST_CASE("settings of a file go into the question", "[unit]") {
  const Question q = read(file({{"stage", 3}, {"overlap_comm", false}, {"reduce_bucket_size", 5e7}, {"stage3_max_live_parameters", 7}, {"offload_optimizer", {{"device", "cpu"}, {"ratio", 0.3}}}},
                               {{"bf16", {{"enabled", true}}}, {"gradient_accumulation_steps", 4}, {"gradient_clipping", 0.5}, {"data_types", {{"grad_accum_dtype", "fp32"}}},
                                {"communication_data_type", "fp32"}}));
  CHECK(q.plan.engine == Engine::deepspeed);
  CHECK(q.plan.stage == 3);
  CHECK(q.plan.deepspeed.overlap_comm == false);
  CHECK(q.plan.deepspeed.reduce_bucket_size == 50'000'000);
  CHECK(q.plan.deepspeed.stage3_max_live_parameters == 7);
  CHECK(q.plan.offload_optimizer == Offload::cpu);
  CHECK(q.plan.offload_optimizer_ratio == 0.3);
  CHECK(q.plan.micro_batch == 2);
  CHECK(q.plan.accumulate == 4);
  CHECK(q.job.clip_norm == 0.5);
  CHECK(q.job.gradient_dtype == Dtype::fp32);
  CHECK(q.reduce_dtype() == Dtype::fp32);
  CHECK(read(file({{"stage", 3}, {"max_live_parameters", 9}})).plan.deepspeed.stage3_max_live_parameters == 9);  // without its prefix, as Axolotl writes it
  CHECK(read(file({{"stage", 2}}, {{"fp16", {{"enabled", true}}}})).job.compute_dtype == Dtype::fp16);
}

TEST_CASE("what DeepSpeed accepts in silence becomes a note", "[unit]") {
  CHECK(notes(file({{"stage", 2}}, {{"zero_optimisation", json::object()}})) == Notes{"unknown_key /zero_optimisation"});
  CHECK(notes(file({{"stage", 2}, {"reduce_bucket_size", "auto"}})) == Notes{"auto_dropped /zero_optimization/reduce_bucket_size"});
  CHECK(notes(file({{"stage", 2}, {"reduce_bucket_size", "auto"}}), "hf-trainer") == Notes{"auto_resolved /zero_optimization/reduce_bucket_size"});
  CHECK(notes(file({{"stage", 2}, {"overlap_comm", "auto"}}), "hf-trainer") == Notes{"auto_dropped /zero_optimization/overlap_comm"});
  CHECK(notes(file({{"stage", 2}, {"offload_param", {{"device", "cpu"}}}})) == Notes{"offload_ignored /zero_optimization/offload_param"});
  CHECK(notes(file({{"stage", 2}, {"stage3_max_live_parameters", 1}})) == Notes{"unused_at_stage /zero_optimization/stage3_max_live_parameters"});
  CHECK(notes(file({{"stage", 2}, {"cpu_offload", true}})) == Notes{"deprecated_key /zero_optimization/cpu_offload"});
  CHECK(notes(file({{"stage", 2}}, {{"optimizer", {{"type", "AdamW"}, {"params", {{"lr", 1e-5}, {"warmup", 3}}}}}})) == Notes{"unknown_key /optimizer/params/warmup"});
  CHECK(notes(file({{"stage", 2}}, {{"activation_checkpointing", {{"partition", true}}}})) == Notes{"unknown_key /activation_checkpointing/partition"});
  CHECK(notes(file({{"stage", 2}}, {{"pipeline", json::object()}})) == Notes{"not_modelled /pipeline"});
  CHECK(notes(file({{"stage", 2}}, {{"gradient_clipping", 3.0}}), "xtuner") == Notes{"overwritten /gradient_clipping", "overwritten /train_micro_batch_size_per_gpu"});
  CHECK(notes(file({{"stage", 2}}, {{"bf16", {{"enabled", "auto"}}}})) == Notes{"auto_dropped /bf16/enabled"});
  CHECK(notes(file({{"stage", 2}}, {{"bf16", {{"enabled", "auto"}}}}), "xtuner") == Notes{"overwritten /train_micro_batch_size_per_gpu"});
  CHECK(notes(file({{"stage", 2}, {"offload_optimizer", {{"device", "cpu"}, {"pin_memory", "auto"}}}})) == Notes{"auto_dropped /zero_optimization/offload_optimizer/pin_memory"});
  CHECK(notes(file({{"stage", 2}}, {{"data_types", {{"grad_dtype", "fp32"}}}})) == Notes{"unknown_key /data_types/grad_dtype"});
  CHECK(read(file({{"stage", 2}, {"reduce_bucket_size", "500"}})).plan.deepspeed.reduce_bucket_size == 500);
  CHECK(read(file({{"stage", 2}, {"cpu_offload", true}})).plan.offload_optimizer == Offload::cpu);
  CHECK(read(file({{"stage", 2}, {"offload_param", {{"device", "cpu"}}}})).plan.offload_parameters == Offload::none);
  CHECK(notes(file({{"stage", 3}, {"overlap_comm", true}}, {{"bf16", {{"enabled", true}}}, {"steps_per_print", 10}, {"zero_allow_untested_optimizer", true}})).empty());
}

TEST_CASE("what DeepSpeed refuses is an error that names the key", "[unit]") {
  CHECK_THAT(refusal(file({{"stage", 4}})), Contains("ds.json: /zero_optimization/stage"));
  CHECK_THAT(refusal(file({{"stage", 2}, {"reduce_buckets_size", 1}})), Contains("/zero_optimization/reduce_buckets_size") && Contains("Did you mean reduce_bucket_size?"));
  CHECK_THAT(refusal(file({{"stage", 2}, {"reduce_bucket_size", -1}})), Contains("/zero_optimization/reduce_bucket_size"));
  CHECK_THAT(refusal(file({{"stage", 2}, {"reduce_bucket_size", 0.5}})), Contains("/zero_optimization/reduce_bucket_size"));
  CHECK_THAT(refusal(file({{"stage", 2}, {"offload_optimizer", {{"device", "disk"}}}})), Contains("/zero_optimization/offload_optimizer/device"));
  CHECK_THAT(refusal(file({{"stage", 2}, {"offload_optimizer", {{"devise", "cpu"}}}})), Contains("devise"));
  CHECK_THAT(refusal(file({{"stage", 2}}, {{"bf16", {{"enable", true}}}})), Contains("/bf16/enable"));
  CHECK_THAT(refusal(file({{"stage", 2}}, {{"fp16", {{"enabled", true}}}, {"bf16", {{"enabled", true}}}})), Contains("/fp16") && Contains("beside bf16"));
  CHECK_THAT(refusal(file({{"stage", 2}}, {{"train_batch_size", 17}, {"gradient_accumulation_steps", 1}})), Contains("17 is not micro batch 2 × accumulation 1 × 8 ranks"));
  CHECK_THAT(refusal(file({{"stage", 2}}, {{"gradient_clipping", "auto"}})), Contains("/gradient_clipping"));
  CHECK_THAT(refusal(file({{"stage", 2}, {"offload_optimizer", {{"device", "cpu"}, {"ratio", 0.5}}}})), Contains("at stage 3 only"));
  CHECK_THAT(refusal(file({{"stage", 2}}, {{"train_micro_batch_size_per_gpu", "auto"}})), Contains("/train_micro_batch_size_per_gpu"));
  CHECK_THAT(refusal(json{{"zero_optimization", {{"stage", 2}}}}), Contains("train_micro_batch_size_per_gpu") && Contains("DeepSpeed refuses"));
  CHECK_THAT(refusal(file({{"stage", 3}, {"zero_quantized_weights", true}})), Contains("not modelled"));
  CHECK_THAT(refusal(json::array()), Contains("ds.json"));
  for (const json& hostile : {json(3), json("x"), json::array(), json(true)}) CHECK_FALSE(refusal(json{{"train_batch_size", 8}, {"zero_optimization", hostile}}).empty());
}

TEST_CASE("two batch keys give the third", "[unit]") {
  const auto batches = [](json top) {
    const Question q = read({{"zero_optimization", {{"stage", 1}}}, {"train_batch_size", top.value("t", json("none"))}});
    return std::pair{q.plan.micro_batch, q.plan.accumulate};
  };
  CHECK(batches({{"t", 64}}) == std::pair<std::int64_t, std::int64_t>{8, 1});
  const Question q = read({{"train_batch_size", 64}, {"train_micro_batch_size_per_gpu", 2}});
  CHECK(q.plan.accumulate == 4);
  CHECK(read({{"train_batch_size", 64}, {"gradient_accumulation_steps", 4}}).plan.micro_batch == 2);
}

TEST_CASE("trailing commas are accepted with a note, duplicate keys refused", "[unit]") {
  Question question = asked();
  const auto found = apply_deepspeed_text(question, R"({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 2, "reduce_bucket_size": 3,},})", "ds.json");
  REQUIRE(found.size() == 1);
  CHECK(found[0].code == DeepSpeedNoteCode::trailing_comma);
  CHECK(question.plan.deepspeed.reduce_bucket_size == 3);
  CHECK(apply_deepspeed_text(question, R"({"train_batch_size": 8, "wandb": {"project": "a,}"}})", "ds.json").empty());
  CHECK_THROWS_WITH(apply_deepspeed_text(question, R"({"train_batch_size": 8, "zero_optimization": {"stage": 2, "stage": 3}})", "ds.json"), Contains("ds.json: stage: stands twice"));
  for (const char* text : {"", "{", "[", "{\"a\":}", "nul", "{\"a\": \"\\", "{,}", "\xff\xfe"}) CHECK_THROWS_AS(apply_deepspeed_text(question, text, "ds.json"), InputError);
}

TEST_CASE("options survive being written and read", "[property]") {
  Question question = asked("xtuner");
  DeepSpeedOptions& options = question.plan.deepspeed;
  for (const DeepSpeedInteger& integer : kDeepSpeedIntegers) options.*integer.field = 1000 + (&integer - kDeepSpeedIntegers.data());
  for (const DeepSpeedFlag& flag : kDeepSpeedFlags) options.*flag.field = !(options.*flag.field);
  options.overlap_comm = false;
  options.offload_optimizer_pin_memory = false;
  options.grad_accum_dtype = Dtype::fp32;
  options.deepcompile = options.torch_autocast = options.bf16_master_weights_and_grads = true;
  question.job.gradient_dtype = Dtype::fp32;
  Question read_back = asked("xtuner");
  set_key(read_back, "deepspeed", get_key(question, "deepspeed"), "here");
  CHECK(read_back.plan.deepspeed == options);
  CHECK(plan_from_json(plan_to_json(question), "p.json") == question);
}
