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
