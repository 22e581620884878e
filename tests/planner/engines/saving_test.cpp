#include "planner/engines/saving.h"

#include <catch2/catch.hpp>

#include "profiles/catalog.h"

using namespace zeroplan;

namespace {

constexpr std::int64_t kParameters = 19861149696, kEmbedding = 92544 * 6144, kBlock = 390082560, kNorm = 6144;

Question asked(const char* preset) {
  Question question = default_question(catalogue_model("internlm2-20b"), cluster_from_name("8xa100-80g"));
  apply_preset(question, preset);
  return question;
}

}  // namespace

TEST_CASE("DeepSpeed at stage 3 gathers a module at a time and holds the whole model on rank 0's host", "[unit]") {
  const auto saving = saving_of(asked("xtuner-zero3"));
  REQUIRE(saving);
  CHECK(saving->kind == SaveKind::module_gathered);
  CHECK(saving->device_bytes == Bytes(2 * kEmbedding));
  CHECK(saving->host_bytes == Bytes(2 * kParameters));
  CHECK_FALSE(saving_of(asked("xtuner-zero2")));
  Question shards = asked("xtuner-zero3");
  shards.plan.deepspeed.stage3_gather_16bit_weights_on_model_save = false;
  CHECK_FALSE(saving_of(shards));
}

TEST_CASE("FSDP's full state dict: FSDP1 holds root and block, FSDP2 a tensor, in the dtype that is kept", "[unit]") {
  Question question = asked("accelerate-fsdp2");
  const std::int64_t bytes = size_of(question.parameters_dtype());
  const auto two = saving_of(question);
  REQUIRE(two);
  CHECK(two->device_bytes == Bytes(bytes * kEmbedding));
  CHECK(two->host_bytes == Bytes(bytes * kParameters));
  question.plan.engine = Engine::fsdp1;
  const auto one = saving_of(question);
  REQUIRE(one);
  CHECK(one->device_bytes == Bytes(bytes * (2 * kEmbedding + kNorm + kBlock)));
  CHECK_FALSE(saving_of(asked("torchtitan")));
}
