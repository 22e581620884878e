#include "planner/engines/emulation.h"

#include <catch2/catch.hpp>

#include "planner/core/error.h"
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
