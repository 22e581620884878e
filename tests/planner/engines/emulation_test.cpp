#include "planner/engines/emulation.h"

#include <catch2/catch.hpp>

#include "planner/core/error.h"
#include "profiles/catalog.h"
#include "tests/planner/engines/oracle_rows.h"

using namespace zeroplan;

TEST_CASE("every phase asks for exactly the bytes that the engine's own code asked for", "[published]") {
  for (const char* engine : {"single", "deepspeed12", "deepspeed3", "deepspeed3_sequence", "fsdp2"}) {
    for (const OracleRow& row : oracle_rows(engine)) {
      INFO(engine << " " << row.id);
      eager::Recorder recorder;
      check_equal(emulate(row.question, recorder, EmulatedDevice::oracle, row.steps), row.measured);
      CHECK(emulation_gaps(row.question).empty());
    }
  }
}

TEST_CASE("llm-foundry's attention was Triton's FlashAttention-1 until it left it; other tools' is the second", "[unit]") {
  using Attention = eager::StepConditions::Attention;
  Question question;
  question.plan.engine = Engine::fsdp1;
  const auto attention_of = [&](const char* tool, const char* torch) {
    question.plan.tool = tool;
    question.plan.torch = torch;
    return step_conditions(question).attention;
  };
  CHECK(attention_of("llm-foundry", "2.1") == Attention::flash_1);
  CHECK(attention_of("llm-foundry", "1.13.1") == Attention::flash_1);
  CHECK(attention_of("llm-foundry", "2.3") == Attention::flash_2);
  CHECK(attention_of("llm-foundry", "") == Attention::flash_2);
  CHECK(attention_of("xtuner", "1.13") == Attention::flash_2);
}

namespace {

Question plain_question(const char* parameters_dtype) {
  Question question = default_question(catalogue_model("smollm2-135m"), cluster_from_name("1xa100-80g"));
  question.job.seq = 128;
  choose_engine(question, Engine::single);
  set_key(question, "parameters_dtype", parameters_dtype, "");
  return question;
}

eager::PhasePeaks peaks_of(const Question& question) {
  eager::Recorder recorder;
  return emulate(question, recorder);
}

}  // namespace

TEST_CASE("an optimizer with fp32 masters keeps them with fp32 moments, and has fp32 gradients during its step", "[unit]") {
  Question question = plain_question("bf16");
  const std::int64_t elems = parameter_elems(question.job.model);
  const eager::PhasePeaks without = peaks_of(question);
  set_key(question, "master_dtype", "fp32", "");
  const eager::PhasePeaks with = peaks_of(question);
  CHECK(with.after_init_bytes - without.after_init_bytes == 4 * elems);
  CHECK(with.between_steps_bytes - without.between_steps_bytes == (4 + 2 * (4 - 2)) * elems);
  CHECK(with.peak_bytes("steady.step") - with.between_steps_bytes >= (2 + 4) * elems);
  for (const Engine engine : {Engine::ddp, Engine::fsdp1, Engine::fsdp2}) {
    INFO(name_of(engine));
    Question sharded = default_question(question.job.model, cluster_from_name("8xa100-80g"));
    choose_engine(sharded, engine);
    set_key(sharded, "parameters_dtype", "bf16", "");
    const std::int64_t before = peaks_of(sharded).between_steps_bytes;
    set_key(sharded, "master_dtype", "fp32", "");
    CHECK(peaks_of(sharded).between_steps_bytes - before >= 8 * elems / (engine == Engine::ddp ? 1 : 8));
  }
}

TEST_CASE("an optimizer in backward never has all gradients", "[unit]") {
  Question question = plain_question("bf16");
  question.job.model.num_layers = question.plan.recomputed_blocks = 4;
  const std::int64_t elems = parameter_elems(question.job.model), largest = question.job.model.vocab_size * question.job.model.hidden_size;
  const eager::PhasePeaks after = peaks_of(question);
  question.plan.preset = "torchtune-optimizer-in-backward";
  const eager::PhasePeaks in_backward = peaks_of(question);
  CHECK(in_backward.between_steps_bytes == after.between_steps_bytes);
  CHECK(in_backward.peak_bytes("steady.step") == in_backward.between_steps_bytes);
  CHECK(after.peak_bytes("steady.step") - after.between_steps_bytes >= 2 * elems);
  CHECK(in_backward.peak_bytes("steady.backward") <= after.peak_bytes("steady.backward") - 2 * (elems - 2 * largest) + 2 * largest);
}

namespace {

Question titan_question(const char* torch) {
  Question question = default_question(catalogue_model("llama-3.1-8b"), cluster_from_name("8xh100-96g"));
  question.job.model.num_layers = question.plan.recomputed_blocks = 4;
  choose_engine(question, Engine::fsdp2);
  question.plan.tool = "torchtitan";
  question.plan.torch = torch;
  question.plan.reshard = Reshard::standard;
  set_key(question, "checkpoint", "selective-op", "");
  return question;
}

std::int64_t peak_of(const Question& question, const std::string& phase) {
  eager::Recorder recorder;
  return emulate(question, recorder).peak_bytes(phase);
}

}  // namespace

TEST_CASE("torchtitan before #1094 keeps the embedding and the last block gathered through forward", "[unit]") {
  const Question now = titan_question("nightly 2025-07-30"), before = titan_question("nightly 2025-07-01");
  const Model& m = now.job.model;
  const std::int64_t kept_elems = m.vocab_size * m.hidden_size + unit_parameter_elems(m, UnitKind::block);
  CHECK(peak_of(before, "steady.forward") - peak_of(now, "steady.forward") == 2 * kept_elems);
}

TEST_CASE("a compiled selective checkpoint keeps no result that backward does not read, a compiled loss no fp32 logits", "[unit]") {
  const Question eager = titan_question("nightly 2025-08-01");
  Question blocks = eager, loss = eager;
  blocks.plan.compile = loss.plan.compile = true;
  blocks.job.logits_fp32 = true;
  loss.job.logits_fp32 = false;
  const std::int64_t tokens = eager.tokens_per_micro_batch(), down_bytes = 2 * tokens * eager.job.model.hidden_size, logits = tokens * eager.job.model.vocab_size;
  CHECK(peak_of(eager, "steady.forward") - peak_of(blocks, "steady.forward") == eager.job.model.num_layers * down_bytes);
  // Log-probabilities in fp32 in forward; in backward three fp32 tensors against two in bf16, until the blocks' backward is the peak.
  CHECK(peak_of(blocks, "steady.forward") - peak_of(loss, "steady.forward") >= 4 * logits);
  CHECK(peak_of(blocks, "steady.backward") - peak_of(loss, "steady.backward") >= 6 * logits);
  CHECK(emulation_gaps(blocks).empty());
}

TEST_CASE("torchtitan's stock Llama 2 7B had a Triton RMSNorm from April to July 2024, its 70B never", "[unit]") {
  const auto kept_by_norms = [](const char* model, const char* torch) {
    Question question = titan_question(torch);
    question.job.model = catalogue_model(model);
    question.job.model.num_layers = 2;
    set_key(question, "checkpoint", "none", "");
    return peak_of(question, "steady.forward");
  };
  CHECK(kept_by_norms("llama-2-7b", "2024-05-01") < kept_by_norms("llama-2-7b", "2024-03-01"));
  CHECK(kept_by_norms("llama-2-7b", "2024-05-01") < kept_by_norms("llama-2-7b", "2024-09-01"));
  CHECK(kept_by_norms("llama-2-70b", "2024-05-01") == kept_by_norms("llama-2-70b", "2024-03-01"));
}

TEST_CASE("foreach AdamW needed two temporaries as large as all parameters until torch 2.1, and one since", "[unit]") {
  Question question = plain_question("fp32");
  set_key(question, "optimizer_kernel", "foreach", "");
  const auto step_bytes = [&](const char* torch) {
    question.plan.torch = torch;
    const eager::PhasePeaks peaks = peaks_of(question);
    return peaks.peak_bytes("steady.step") - peaks.between_steps_bytes;
  };
  const std::int64_t elems = parameter_elems(question.job.model);
  CHECK(step_bytes("2.0.1") - step_bytes("2.1") == 4 * elems);
  CHECK(step_bytes("2.1") == step_bytes(""));
}

TEST_CASE("a shape with layer norms and a gated MLP is emulated with all of its parameters", "[unit]") {
  const std::vector<QuestionRow> rows = rows_from_json(nlohmann::json::parse(R"([{"id": "megatron", "question": {"model": {"hidden_size": 512, "num_layers": 2, "vocab_size": 1000, "intermediate_size": 1408,
    "num_heads": 8, "num_kv_heads": 8, "head_dim": 64, "norm": "layernorm", "mlp": "swiglu", "qkv_bias": true, "attn_out_bias": true, "mlp_bias": true}, "gpu": "a100-80g", "gpus_per_node": 1, "nodes": 1,
    "engine": "single", "stage": 0, "parameters_dtype": "bf16"}}])"), "rows.json");
  const Question& question = rows.at(0).question;
  CHECK(question.job.model.model_type == "llama");
  eager::Recorder recorder(true);
  emulate(question, recorder);
  std::int64_t bytes = 0;
  for (const eager::MemoryEvent& event : recorder.events())
    if (event.kind == eager::MemoryEvent::Kind::birth && recorder.tags()[event.storage].category == Category::parameters) bytes += event.bytes;
  CHECK(bytes == 2 * parameter_elems(question.job.model));
}

TEST_CASE("FSDP1's flat parameters are updated one by one where foreach is nobody's choice; parameters of their own together", "[unit]") {
  Question question = default_question(catalogue_model("smollm2-135m"), cluster_from_name("8xa100-80g"));
  question.job.seq = 128;
  question.plan.stage = 3;
  choose_engine(question, Engine::fsdp1);
  set_key(question, "optimizer_kernel", "foreach", "");
  question.plan.tool = "hf-trainer";
  const auto step_bytes = [&](const char* torch) {
    question.plan.torch = torch;
    return peaks_of(question).peak_bytes("steady.step");
  };
  const std::int64_t together = step_bytes("2.4"), one_by_one = step_bytes("2023-09 nightly");
  INFO(one_by_one << " and " << together);
  CHECK(one_by_one < together);
}

TEST_CASE("adapters of tools that drop some of their input keep it and a mask for each", "[unit]") {
  Question question = plain_question("bf16");
  set_key(question, "train", nlohmann::json{{"lora_rank", 8}, {"lora_targets", {"q_proj", "v_proj"}}, {"base_dtype", "bf16"}}, "");
  set_key(question, "checkpoint", "none", "");
  const auto forward_bytes = [&](const char* tool) {
    question.plan.tool = tool;
    return peaks_of(question).peak_bytes("steady.forward");
  };
  const Model& m = question.job.model;
  const std::int64_t input_elems = question.job.seq * m.hidden_size;
  // Two adapters a block, each with 3 bytes an element; the input that they shared without is not kept then.
  CHECK(forward_bytes("litgpt") - forward_bytes("peft") == m.num_layers * (2 * (1 + 2) - 2) * input_elems);
}
