#include <catch2/catch.hpp>

#include <cmath>
#include <set>

#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/plan.h"
#include "planner/core/units.h"

using namespace zeroplan;
using Catch::Contains;
using nlohmann::json;

namespace {

Question question() {
  Question q;
  Model& model = q.job.model;
  model.name = "tiny";
  model.model_type = "llama";
  model.hidden_size = 64;
  model.num_layers = 8;
  model.vocab_size = 256;
  model.intermediate_size = 96;
  model.num_heads = model.num_kv_heads = 4;
  model.head_dim = 16;
  DeviceProfile& device = q.cluster.device;
  device.name = "x-1g";
  device.capacity_bytes = Bytes(1 << 30);
  device.matmul_bf16_flops_per_s = device.matmul_fp32_flops_per_s = device.peak_bf16_flops_per_s = 1e12;
  device.memory_bytes_per_s = device.link_bytes_per_s = 1e11;
  q.cluster.name = "4xx-1g";
  q.cluster.gpus_per_node = 4;
  return q;
}

Question with(const std::string& key, const json& value) {
  Question q = question();
  set_key(q, key, value, "here");
  return q;
}

/// A question where every honoured key differs from its default.
Question unusual() {
  Question q = question();
  q.job.seq = 777;
  q.job.compute_dtype = Dtype::bf16;
  q.job.gradient_dtype = Dtype::fp32;
  q.job.learning_rate = 0.1 + 0.2;  // no short decimal
  q.job.beta1 = 0.8;
  q.job.beta2 = 0.999;
  q.job.epsilon = 1e-6;
  q.job.weight_decay = 0;
  q.job.clip_norm = 0;
  q.plan = {.engine = Engine::zeroplan, .stage = 1, .micro_batch = 3, .accumulate = 5, .recomputed_blocks = 6, .keep = KeepSet{}.with(Kept::qkv).with(Kept::gate_up),
            .prefetch_units = 2, .overlap_comm = false, .loss_chunk_tokens = 100};
  q.cluster.host_bytes = Bytes(1 << 30);
  return q;
}

std::string refusal(const std::string& key, const json& value) {
  Question q = question();
  const Question before = q;
  try {
    set_key(q, key, value, "here");
  } catch (const InputError& error) {
    CHECK(q == before);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a plan survives being written and read", "[property]") {
  for (Question q : {question(), unusual(), with("compute_dtype", "fp32"), with("checkpoint", "full"), with("num_layers", 3), with("keep", "all")}) {
    CHECK(plan_from_json(plan_to_json(q), "plan.json") == q);
    CHECK(plan_from_json(json::parse(plan_to_json(q).dump(2)), "plan.json") == q);
  }
}

TEST_CASE("a plan holds every key with its value written out", "[unit]") {
  const json plan = plan_to_json(question());
  CHECK(plan["format"] == "zeroplan-plan");
  CHECK(plan["version"] == 1);
  CHECK(plan["question"].size() == question_keys().size());
  for (const QuestionKey& key : question_keys()) {
    INFO(key.name);
    CHECK(plan["question"].contains(key.name));
    CHECK_FALSE(key.values.empty());
    CHECK_FALSE(key.help.empty());
  }
  CHECK(plan["question"]["stage"] == 3);
  CHECK(plan["question"]["master_dtype"] == "fp32");
}

TEST_CASE("the names of keys are unique", "[unit]") {
  std::set<std::string_view> names;
  for (const QuestionKey& key : question_keys()) names.insert(key.name);
  CHECK(names.size() == question_keys().size());
}

TEST_CASE("every key of our own engine reads back what it was set to, from JSON and from the words of a command line", "[property]") {
  struct Setting {
    const char* key;
    json value;
    const char* words;
  };
  const Setting settings[] = {{"engine", "zeroplan", "zeroplan"},
                              {"stage", 0, "0"},
                              {"seq", 128, "128"},
                              {"micro_batch", 4, "4"},
                              {"accumulate", 16, "16"},
                              {"num_layers", 3, "3"},
                              {"compute_dtype", "fp32", "fp32"},
                              {"gradient_dtype", "fp32", "fp32"},
                              {"parameters_dtype", "bf16", "bf16"},
                              {"master_dtype", "fp32", "fp32"},
                              {"reduce_dtype", "bf16", "bf16"},
                              {"checkpoint", "blocks-3", "blocks-3"},
                              {"keep", json{"qkv", "residual"}, "residual,qkv"},
                              {"prefetch_units", 0, "0"},
                              {"overlap_comm", false, "false"},
                              {"loss_chunk_tokens", 64, "64"},
                              {"learning_rate", 3e-4, "3e-4"},
                              {"beta1", 0.5, "0.5"},
                              {"beta2", 0.99, "0.99"},
                              {"epsilon", 1e-6, "1e-6"},
                              {"weight_decay", 0.1, "0.1"},
                              {"clip_norm", 0.0, "0"},
                              {"sequence_parallel", 1, "1"},
                              {"train", "full", "full"},
                              {"packed", true, "true"},
                              {"optimizer", "adamw", "adamw"},
                              {"optimizer_dtype", "fp32", "fp32"},
                              {"attention", "flash", "flash"},
                              {"loss", "chunked", "chunked"},
                              {"offload_optimizer", "none", "none"},
                              {"offload_parameters", "none", "none"},
                              {"offload_activations", "none", "none"},
                              {"compile", false, "false"},
                              {"fp8", false, "false"}};
  for (const Setting& setting : settings) {
    INFO(setting.key);
    CHECK(get_key(with(setting.key, setting.value), setting.key) == setting.value);
    CHECK(get_key(with(setting.key, setting.words), setting.key) == setting.value);
    const Question q = with(setting.key, setting.value);
    Question again = q;
    set_key(again, setting.key, get_key(q, setting.key), "here");
    CHECK(again == q);
  }
}

TEST_CASE("every key of another engine reads back what it was set to, from JSON and from the words of a command line", "[property]") {
  struct Setting {
    const char* engine;
    const char* key;
    json value;
    const char* words;
  };
  const Setting settings[] = {{"ddp", "engine", "ddp", "ddp"},
                              {"deepspeed", "tool", "xtuner", "xtuner"},
                              {"deepspeed", "preset", "xtuner-zero3", "xtuner-zero3"},
                              {"deepspeed", "engine_version", "0.16.4", "0.16.4"},
                              {"fsdp2", "torch", "2.11.0", "2.11.0"},
                              {"deepspeed", "stage", 2, "2"},
                              {"fsdp2", "reshard", "never", "never"},
                              {"fsdp2", "shard_group", 2, "2"},
                              {"deepspeed", "sequence_parallel", 2, "2"},
                              {"deepspeed", "seq", 128, "128"},
                              {"deepspeed", "micro_batch", 4, "4"},
                              {"deepspeed", "accumulate", 16, "16"},
                              {"deepspeed", "packed", false, "false"},
                              {"deepspeed", "num_layers", 3, "3"},
                              {"deepspeed", "compute_dtype", "fp16", "fp16"},
                              {"single", "compute_dtype", "tf32", "tf32"},
                              {"fsdp2", "parameters_dtype", "bf16", "bf16"},
                              {"deepspeed", "gradient_dtype", "fp32", "fp32"},
                              {"deepspeed", "master_dtype", "none", "none"},
                              {"fsdp2", "reduce_dtype", "bf16", "bf16"},
                              {"fsdp1", "checkpoint", "every-2", "every-2"},
                              {"fsdp2", "checkpoint", "selective-op", "selective-op"},
                              {"fsdp2", "checkpoint", "selective-attention", "selective-attention"},
                              {"fsdp2", "checkpoint", "blocks-3", "blocks-3"},
                              {"fsdp2", "checkpoint_reentrant", true, "true"},
                              {"single", "attention", "eager", "eager"},
                              {"single", "loss", "fused", "fused"},
                              {"single", "loss_chunks", 8, "8"},
                              {"single", "logits_fp32", false, "false"},
                              {"single", "optimizer", "paged-adamw-8bit", "paged-adamw-8bit"},
                              {"single", "optimizer_dtype", "int8", "int8"},
                              {"single", "optimizer_kernel", "for-loop", "for-loop"},
                              {"deepspeed", "offload_optimizer", "cpu", "cpu"},
                              {"deepspeed", "offload_optimizer_ratio", 0.5, "0.5"},
                              {"deepspeed", "offload_parameters", "nvme", "nvme"},
                              {"deepspeed", "offload_activations", "cpu", "cpu"},
                              {"deepspeed", "compile", true, "true"},
                              {"deepspeed", "fp8", true, "true"},
                              {"deepspeed", "zero_init", true, "true"},
                              {"deepspeed", "expandable_segments", true, "true"},
                              {"deepspeed", "clip_norm", 0.5, "0.5"}};
  std::set<std::string> seen{"keep", "prefetch_units", "overlap_comm", "loss_chunk_tokens", "deepspeed", "deepspeed_top", "train", "learning_rate", "beta1", "beta2", "epsilon", "weight_decay"};
  for (const Setting& setting : settings) {
    INFO(setting.engine << " " << setting.key);
    seen.insert(setting.key);
    for (const json& said : {setting.value, json(setting.words)}) {
      Question q = with("engine", setting.engine);
      set_key(q, setting.key, said, "here");
      CHECK(get_key(q, setting.key) == setting.value);
      Question again = q;
      set_key(again, setting.key, get_key(q, setting.key), "here");
      CHECK(again == q);
      q.cluster.gpus_per_node = std::string(setting.engine) == "single" ? 1 : 4;
      CHECK_NOTHROW(check_question(q));
      CHECK(plan_from_json(plan_to_json(q), "p.json") == q);
    }
  }
  for (const QuestionKey& key : question_keys()) {
    INFO(key.name);
    CHECK(seen.count(std::string(key.name)) == 1);
  }
}

TEST_CASE("what is trained is all of it or adapters of a rank", "[unit]") {
  Question q = with("engine", "deepspeed");
  const json lora{{"lora_rank", 8}, {"lora_targets", {"q_proj", "v_proj"}}, {"base_dtype", "nf4"}};
  set_key(q, "train", lora, "here");
  CHECK(get_key(q, "train") == lora);
  CHECK(q.job.lora->rank == 8);
  CHECK(q.job.lora->base_dtype == BaseDtype::nf4);
  CHECK(plan_from_json(plan_to_json(q), "p.json") == q);
  set_key(q, "train", lora.dump(), "here");
  CHECK(get_key(q, "train") == lora);
  set_key(q, "train", "lora-16", "here");
  CHECK(q.job.lora->targets.size() == 7);
  for (const json& wrong : {json("lora-0"), json("half"), json(3), json::array(), json::object(), json{{"lora_rank", 8}}, json{{"lora_rank", 8}, {"lora_targets", {"x"}}},
                            json{{"lora_rank", 8}, {"lora_targets", {"q_proj"}}, {"base_dtype", "fp4"}}, json{{"lora_rank", 8}, {"lora_targets", {"q_proj"}}, {"rank", 3}}})
    CHECK_THROWS_AS(set_key(q, "train", wrong, "here"), InputError);
  set_key(q, "train", "full", "here");
  CHECK_FALSE(q.job.lora);
}

TEST_CASE("dtypes follow the engine where nothing is said", "[unit]") {
  const auto dtypes = [](const char* engine, const char* compute) {
    Question q = with("engine", engine);
    set_key(q, "compute_dtype", compute, "here");
    std::string text;
    for (const char* key : {"parameters_dtype", "gradient_dtype", "reduce_dtype", "master_dtype"}) text += get_key(q, key).get<std::string>() + " ";
    return text;
  };
  CHECK(dtypes("zeroplan", "bf16") == "bf16 bf16 bf16 fp32 ");
  CHECK(dtypes("deepspeed", "bf16") == "bf16 bf16 bf16 fp32 ");
  CHECK(dtypes("deepspeed", "fp16") == "fp16 fp16 fp16 fp32 ");
  CHECK(dtypes("deepspeed", "fp32") == "fp32 fp32 fp32 fp32 ");
  CHECK(dtypes("fsdp2", "bf16") == "fp32 fp32 fp32 none ");
  CHECK(dtypes("single", "tf32") == "fp32 fp32 fp32 none ");
  Question q = with("engine", "fsdp2");
  set_key(q, "parameters_dtype", "bf16", "here");
  CHECK(q.job.gradient_dtype == Dtype::bf16);
}

TEST_CASE("an engine keeps its own choices and refuses the others'", "[unit]") {
  Question q = with("engine", "deepspeed");
  for (const char* key : {"keep", "prefetch_units", "overlap_comm", "loss_chunk_tokens"}) {
    CHECK(get_key(q, key).is_null());
    CHECK_THROWS_WITH(set_key(q, key, 1, "here"), Contains(key) && Contains("is a choice of the zeroplan engine; deepspeed has none"));
    CHECK_NOTHROW(set_key(q, key, nullptr, "here"));
  }
  CHECK_THROWS_WITH(set_key(q, "reshard", "never", "here"), Contains("is FSDP2's"));
  q = with("engine", "fsdp2");
  CHECK_THROWS_WITH(set_key(q, "deepspeed", json::object(), "here"), Contains("is DeepSpeed's"));
  CHECK_THROWS_WITH(set_key(q, "engine", "deepspede", "here"), Contains("Did you mean deepspeed?"));
}

TEST_CASE("a question of another engine is complete but not answered for", "[unit]") {
  const Question q = with("engine", "deepspeed");
  CHECK_NOTHROW(check_question(q));
  CHECK_THROWS_WITH(require_zeroplan_engine(q), Contains("engine=deepspeed"));
  Question single = with("engine", "single");
  CHECK_THROWS_WITH(check_question(single), Contains("runs on one GPU"));
  Question parallel = q;
  parallel.job.sequence_parallel = 3;
  CHECK_THROWS_WITH(check_question(parallel), Contains("sequence_parallel=3"));
}

TEST_CASE("going back to our own engine names what it cannot honour", "[unit]") {
  const auto problem = [](const char* key, const json& value) -> std::string {
    Question q = with("engine", "deepspeed");
    set_key(q, key, value, "here");
    set_key(q, "engine", "zeroplan", "here");
    try {
      check_question(q);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(problem("optimizer", "sgd"), Contains("optimizer=\"sgd\" is not modelled by the zeroplan engine"));
  CHECK_THAT(problem("checkpoint", "every-2"), Contains("checkpoint=every-2"));
  CHECK_THAT(problem("shard_group", 2), Contains("shard_group=2"));
  CHECK_THAT(problem("offload_optimizer", "cpu"), Contains("offload_optimizer"));
  CHECK_THAT(problem("compute_dtype", "fp16"), Contains("compute_dtype=fp16"));
  CHECK_THAT(problem("train", "lora-8"), Contains("train="));
  CHECK(problem("tool", "xtuner").empty());
}

TEST_CASE("a model without a kernel of ours is refused by our own engine alone", "[unit]") {
  Question q = question();
  q.job.model.norm = NormKind::layernorm;
  CHECK_THROWS_WITH(check_question(q), Contains("model tiny: norm: norm=layernorm is not modelled by the zeroplan engine"));
  set_engine(q, Engine::deepspeed);
  CHECK_NOTHROW(check_question(q));
}

TEST_CASE("dtypes follow compute_dtype", "[unit]") {
  const Question fp32 = with("compute_dtype", "fp32");
  CHECK(fp32.job.gradient_dtype == Dtype::fp32);
  CHECK(get_key(fp32, "master_dtype") == "none");
  CHECK(get_key(fp32, "parameters_dtype") == "fp32");
  CHECK(get_key(with("gradient_dtype", "fp32"), "reduce_dtype") == "fp32");
  Question q = fp32;
  CHECK_THROWS_WITH(set_key(q, "gradient_dtype", "bf16", "here"), Contains("gradient_dtype"));
  CHECK_THROWS_WITH(set_key(q, "master_dtype", "fp32", "here"), Contains("With this compute_dtype it is none"));
  CHECK_NOTHROW(set_key(q, "master_dtype", nullptr, "here"));
}

TEST_CASE("checkpoint counts the model's blocks and full follows num_layers", "[unit]") {
  CHECK(with("checkpoint", "full").plan.recomputed_blocks == 8);
  CHECK(get_key(with("checkpoint", "blocks-8"), "checkpoint") == "full");
  CHECK(get_key(with("checkpoint", "blocks-0"), "checkpoint") == "none");
  Question q = with("checkpoint", "full");
  set_key(q, "num_layers", 5, "here");
  CHECK(q.plan.recomputed_blocks == 5);
  q = with("checkpoint", "blocks-7");
  set_key(q, "num_layers", 5, "here");
  CHECK_THROWS_WITH(check_question(q), Contains("checkpoint=blocks-7") && Contains("5 layers"));
  CHECK(with("num_layers", nullptr) == question());
}

TEST_CASE("keep takes a list, words with commas, all, none and null", "[unit]") {
  CHECK(with("keep", "attention_out, qkv").plan.keep == KeepSet{}.with(Kept::qkv).with(Kept::attention_out));
  CHECK(with("keep", "all").plan.keep == KeepSet::all());
  for (const json& nothing : {json("none"), json(""), json(nullptr), json::array()}) CHECK(with("keep", nothing).plan.keep == KeepSet{});
  CHECK_THAT(refusal("keep", "qvk"), Contains("Did you mean qkv?"));
  CHECK_THAT(refusal("keep", json{"qkv", 3}), Contains("keep"));
}

TEST_CASE("the shard group is the world or unsaid", "[unit]") {
  CHECK_NOTHROW(with("shard_group", 4));
  CHECK_NOTHROW(with("shard_group", "4"));
  CHECK_NOTHROW(with("shard_group", nullptr));
  CHECK_THAT(refusal("shard_group", 2), Contains("shard_group") && Contains("world size 4"));
}

TEST_CASE("what this engine cannot honour is refused with the key's name and what is accepted", "[unit]") {
  const std::pair<const char*, json> refused[] = {{"tool", "xtuner"},             {"sequence_parallel", 2},    {"attention", "eager"},     {"loss", "plain"},
                                                  {"optimizer", "adamw-8bit"},    {"optimizer_dtype", "bf16"}, {"train", {{"lora_rank", 8}}}, {"offload_optimizer", "cpu"},
                                                  {"offload_parameters", "nvme"}, {"offload_activations", "cpu"}, {"compile", true},       {"fp8", true},
                                                  {"compute_dtype", "fp16"},      {"gradient_dtype", "fp16"},  {"parameters_dtype", "fp32"}, {"master_dtype", "none"},
                                                  {"reduce_dtype", "fp32"},       {"checkpoint", "every-2"},   {"checkpoint", "selective-op"}, {"reshard", "never"},
                                                  {"deepspeed", json::object()},  {"zero_init", true},         {"expandable_segments", true}};
  for (const auto& [key, value] : refused) {
    INFO(key << " " << value);
    CHECK_THAT(refusal(key, value), Contains(key) && Contains("not modelled by the zeroplan engine yet"));
  }
  for (const char* key : {"engine", "sequence_parallel", "attention", "loss", "optimizer", "train", "compile", "fp8", "offload_optimizer", "reshard", "deepspeed", "torch"})
    CHECK_NOTHROW(with(key, nullptr));
}

TEST_CASE("hostile values of every key are refused with the key's name", "[unit]") {
  const json numbers[] = {-1,    0.5,   1e300, std::nan(""), std::uint64_t{1} << 63, std::int64_t{1} << 62, "",    "abc", "3x",  " 3", "3.0", "0x3", "99999999999999999999",
                          "nan", "inf", true,  nullptr,      json::array(),          json::object()};
  for (const char* key : {"stage", "seq", "micro_batch", "accumulate", "prefetch_units", "loss_chunk_tokens"})
    for (const json& value : numbers) {
      INFO(key << " " << value);
      CHECK_THAT(refusal(key, value), Contains(std::string("here: ") + key) && Contains("Accepted: "));
    }
  const json reals[] = {-1, 1e300, std::nan(""), "", "abc", "1e", "1e400", "nan", "inf", "-inf", true, nullptr, json::array()};
  for (const char* key : {"learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm"})
    for (const json& value : reals) {
      INFO(key << " " << value);
      CHECK_THAT(refusal(key, value), Contains(std::string("here: ") + key));
    }
  for (const char* key : {"stage", "seq"}) CHECK_THAT(refusal(key, "4294967299"), Contains("4294967299"));
  for (const json& value : {json("yes"), json(1), json(nullptr)}) CHECK_THAT(refusal("overlap_comm", value), Contains("true|false"));
  for (const json& value : {json("blocks-"), json("blocks--1"), json("blocks-9999999999999999999"), json("blocks-1x"), json(3), json(nullptr)})
    CHECK_THAT(refusal("checkpoint", value), Contains("checkpoint"));
  CHECK_THAT(refusal("beta1", 1), Contains("beta1"));
  CHECK_THAT(refusal("epsilon", 0), Contains("epsilon"));
}

TEST_CASE("an unknown key is refused with the nearest name", "[unit]") {
  CHECK_THAT(refusal("microbatch", 1), Contains("microbatch") && Contains("Did you mean micro_batch?"));
  CHECK_THAT(refusal("", 1), Contains("not a known key"));
  CHECK_THAT(refusal("gpus_per_node", 8), Contains("model or the cluster"));
  CHECK_THROWS_AS(get_key(question(), "nonsense"), UsageError);
}

TEST_CASE("a question that cannot be asked is refused with key, value and cause", "[unit]") {
  CHECK_NOTHROW(check_question(question()));
  CHECK_NOTHROW(check_question(unusual()));
  const auto problem = [](auto&& change) -> std::string {
    Question q = question();
    change(q);
    try {
      check_question(q);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(problem([](Question& q) { q.plan.stage = 4; }), Contains("stage=4"));
  CHECK_THAT(problem([](Question& q) { q.job.seq = 0; }), Contains("seq=0"));
  CHECK_THAT(problem([](Question& q) { q.job.seq = (1 << 24) + 1; }), Contains("seq="));
  CHECK_THAT(problem([](Question& q) { q.plan.micro_batch = -1; }), Contains("micro_batch=-1"));
  CHECK_THAT(problem([](Question& q) { q.plan.accumulate = 0; }), Contains("accumulate=0"));
  CHECK_THAT(problem([](Question& q) { q.plan.loss_chunk_tokens = 0; }), Contains("loss_chunk_tokens=0"));
  CHECK_THAT(problem([](Question& q) { q.plan.prefetch_units = 9; }), Contains("prefetch_units=9"));
  CHECK_THAT(problem([](Question& q) { q.plan.recomputed_blocks = 9; }), Contains("checkpoint=blocks-9") && Contains("8 layers"));
  CHECK_THAT(problem([](Question& q) { q.job.compute_dtype = Dtype::fp32; }), Contains("gradient_dtype=bf16"));
  CHECK_THAT(problem([](Question& q) { q.job.compute_dtype = Dtype::int32; }), Contains("compute_dtype=int32"));
  CHECK_THAT(problem([](Question& q) { q.job.learning_rate = std::nan(""); }), Contains("learning_rate"));
  CHECK_THAT(problem([](Question& q) { q.job.model.num_kv_heads = 3; }), Contains("num_key_value_heads"));
  CHECK_THAT(problem([](Question& q) { q.job.model.head_dim = 512; }), Contains("head_dim=512"));
  CHECK_THAT(problem([](Question& q) { q.job.model.hidden_size = 1LL << 31, q.job.model.intermediate_size = 1LL << 31; }), Contains("too many parameters"));
  CHECK_THAT(problem([](Question& q) { q.plan.micro_batch = 1 << 20, q.job.seq = 1 << 24, q.job.model.vocab_size = 1 << 20; }),
             Contains("micro_batch=1048576 × seq=16777216") && Contains("overflows"));
  CHECK(problem([](Question& q) { q.plan.loss_chunk_tokens = 1 << 30; }).empty());  // clamped when compiled
}

TEST_CASE("a wrong plan file is refused with the place of the mistake", "[unit]") {
  const auto problem = [](const char* pointer, json value) -> std::string {
    json plan = plan_to_json(question());
    plan[json::json_pointer(pointer)] = std::move(value);
    try {
      plan_from_json(plan, "p.json");
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(problem("/format", "other"), Contains("p.json: /format"));
  CHECK_THAT(problem("/version", 2), Contains("p.json: /version: 2 is not known"));
  CHECK_THAT(problem("/version", "1"), Contains("/version"));
  CHECK_THAT(problem("/answer", 42), Contains("/answer: is not a known key"));
  CHECK_THAT(problem("/question/sec", 42), Contains("/question/sec: is not a known key. Did you mean seq?"));
  CHECK_THAT(problem("/question/seq", 0), Contains("p.json: /question/seq"));
  CHECK_THAT(problem("/question/checkpoint", "blocks-9"), Contains("p.json: /question") && Contains("blocks-9"));
  CHECK_THAT(problem("/question/offload_optimizer", "cpu"), Contains("/question/offload_optimizer"));
  CHECK_THAT(problem("/model/hidden_size", -1), Contains("p.json: /model/hidden_size"));
  CHECK_THAT(problem("/cluster/device/kind", "tpu"), Contains("p.json: /cluster/device/kind"));
  CHECK_THAT(problem("/cluster/nodes", 0), Contains("p.json: /cluster/nodes"));
  for (const char* part : {"format", "version", "model", "cluster", "question"}) {
    json plan = plan_to_json(question());
    plan.erase(part);
    CHECK_THROWS_WITH(plan_from_json(plan, "p.json"), Contains(std::string("/") + part + ": is missing"));
    plan[part] = json::array();
    CHECK_THROWS_AS(plan_from_json(plan, "p.json"), InputError);
  }
  CHECK_THROWS_AS(plan_from_json(json::array(), "p.json"), InputError);
}

TEST_CASE("a plan may leave keys out and the order of its keys does not matter", "[unit]") {
  json plan = plan_to_json(question());
  plan["question"] = json::parse(R"({"checkpoint": "full", "num_layers": 4, "gradient_dtype": "fp32", "compute_dtype": "bf16"})");
  const Question q = plan_from_json(plan, "p.json");
  CHECK(q.plan.recomputed_blocks == 4);
  CHECK(q.job.gradient_dtype == Dtype::fp32);
  CHECK(q.plan.stage == Plan{}.stage);
}
