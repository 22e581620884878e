#include "gui/models/command_line.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <random>

#include "gui/models/workbench.h"
#include "profiles/catalog.h"

namespace zeroplan::gui {
namespace {

std::string one_of(std::mt19937_64& random, std::initializer_list<const char*> values) { return *(values.begin() + random() % values.size()); }

void try_key(Asked& asked, std::string_view key, const std::string& value) {
  try {
    asked = with_key(asked, key, value);
  } catch (const std::runtime_error&) {
  }
}

Asked random_asked(std::mt19937_64& random) {
  Asked asked = asked_of(one_of(random, {"internlm2-20b", "qwen3-8b", "qwen2.5-0.5b", "llama-3-8b"}), one_of(random, {"8xa100-80g", "2x8xh100-80g", "h100-80g", "2xcpu"}), Engine::zeroplan);
  const auto set = [&](std::string_view key, const std::string& value) { try_key(asked, key, value); };
  set("compute_dtype", one_of(random, {"bf16", "fp32"}));
  set("gradient_dtype", one_of(random, {"bf16", "fp32"}));
  set("stage", one_of(random, {"0", "1", "2", "3"}));
  set("seq", std::to_string(1 + random() % 9000));
  set("micro_batch", std::to_string(1 + random() % 5));
  set("accumulate", std::to_string(1 + random() % 70));
  set("checkpoint", one_of(random, {"none", "full", "blocks-1", "blocks-7"}));
  set("keep", one_of(random, {"none", "all", "qkv", "qkv,gate_up"}));
  set("num_layers", std::to_string(1 + random() % 40));
  set("prefetch_units", one_of(random, {"0", "1", "4"}));
  set("overlap_comm", one_of(random, {"true", "false"}));
  set("loss_chunk_tokens", std::to_string(1 + random() % 3000));
  set("learning_rate", one_of(random, {"0.0001", "3e-05", "0.1234567890123"}));
  if (random() % 4 == 0) asked.question.cluster.host_bytes = Bytes(static_cast<std::int64_t>(1 + random() % (std::uint64_t{1} << 40)));
  return asked;
}

// DeepSpeed as XTuner or another tool sets it, FSDP2, DDP.
Asked random_asked_of_others(std::mt19937_64& random) {
  const std::string way = one_of(random, {"", "", "--engine deepspeed --stage 2", "--engine fsdp2", "--engine fsdp2 --stage 2", "--engine ddp", "--preset hf-auto-zero3", "--preset xtuner-zero2-offload", "--preset torchtitan",
                                          "--preset llamafactory-z3", "--engine fsdp1", "--stage 1 --offload-optimizer cpu"});
  const std::string model = one_of(random, {"internlm2-20b", "qwen3-8b", "llama-3-8b"}), cluster = one_of(random, {"8xa100-80g", "2x8xh100-80g", "h100-80g"});
  const auto parsed = parse_command_line(fmt::format("{} --on {} {}", model, cluster, way));
  REQUIRE(std::holds_alternative<Asked>(parsed));
  Asked asked = std::get<Asked>(parsed);
  const auto set = [&](std::string_view key, const std::string& value) {
    if (random() % 2 == 0) try_key(asked, key, value);
  };
  set("stage", one_of(random, {"1", "2", "3"}));
  set("compute_dtype", one_of(random, {"bf16", "fp32", "fp16", "tf32"}));
  set("parameters_dtype", one_of(random, {"bf16", "fp32"}));
  set("deepspeed", fmt::format("{{\"reduce_bucket_size\": {}, \"overlap_comm\": {}}}", 1 + random() % 1000000, one_of(random, {"true", "false"})));
  set("gradient_dtype", one_of(random, {"bf16", "fp32"}));
  set("seq", std::to_string(1 + random() % 9000));
  set("micro_batch", std::to_string(1 + random() % 5));
  set("accumulate", std::to_string(1 + random() % 70));
  set("num_layers", std::to_string(1 + random() % 40));
  set("checkpoint", one_of(random, {"none", "full", "blocks-1", "every-2", "selective-op"}));
  set("checkpoint_reentrant", one_of(random, {"true", "false", "null"}));
  set("attention", one_of(random, {"flash", "eager"}));
  set("loss", one_of(random, {"plain", "fused"}));
  set("optimizer", one_of(random, {"adamw", "lion"}));
  set("optimizer_kernel", one_of(random, {"fused", "foreach"}));
  set("offload_optimizer", one_of(random, {"none", "cpu"}));
  set("zero_init", one_of(random, {"true", "false"}));
  set("engine_version", one_of(random, {"0.16.4", "null"}));
  set("train", one_of(random, {"full", "lora-16"}));
  if (random() % 4 == 0) asked.question.cluster.host_bytes = Bytes(static_cast<std::int64_t>(1 + random() % (std::uint64_t{1} << 40)));
  return asked;
}

LineError error_of(const std::string& text) {
  const auto parsed = parse_command_line(text);
  REQUIRE(std::holds_alternative<LineError>(parsed));
  return std::get<LineError>(parsed);
}

}  // namespace

TEST_CASE("parse(print(asked)) is asked, for random plans", "[property]") {
  std::mt19937_64 random(31);
  for (int round = 0; round < 300; ++round) {
    const Asked asked = random_asked(random);
    const std::string line = print_command_line(asked);
    const auto parsed = parse_command_line(line);
    INFO(line);
    REQUIRE(std::holds_alternative<Asked>(parsed));
    REQUIRE(std::get<Asked>(parsed) == asked);
  }
}

TEST_CASE("parse(print(asked)) is asked, for random questions of DeepSpeed, FSDP and DDP", "[property]") {
  std::mt19937_64 random(32);
  for (int round = 0; round < 400; ++round) {
    const Asked asked = random_asked_of_others(random);
    const std::string line = print_command_line(asked);
    const auto parsed = parse_command_line(line);
    INFO(line);
    if (const auto* error = std::get_if<LineError>(&parsed)) FAIL(error->message);
    INFO(print_command_line(std::get<Asked>(parsed)));
    REQUIRE(std::get<Asked>(parsed) == asked);
  }
}

TEST_CASE("a default question prints its model and cluster alone; our engine is named on GPUs, where DeepSpeed is usual") {
  REQUIRE(print_command_line(asked_of("internlm2-20b", "8xa100-80g")) == "zeroplan fit internlm2-20b --on 8xa100-80g");
  REQUIRE(asked_of("internlm2-20b", "8xa100-80g").question.plan.preset == "xtuner-zero3");
  REQUIRE(print_command_line(asked_of("internlm2-20b", "8xa100-80g", Engine::zeroplan)) == "zeroplan fit internlm2-20b --on 8xa100-80g --engine zeroplan");
  REQUIRE(print_command_line(asked_of("qwen2.5-0.5b", "2xcpu")) == "zeroplan fit qwen2.5-0.5b --on 2xcpu");
  REQUIRE(print_command_line(with_key(asked_of("internlm2-20b", "8xa100-80g"), "stage", "2")) == "zeroplan fit internlm2-20b --on 8xa100-80g --stage 2");
}

TEST_CASE("another engine keeps the job, and the way back leads to the first question") {
  Asked ours = asked_of("internlm2-20b", "8xa100-80g", Engine::zeroplan);
  for (const auto& [key, value] : {std::pair{"seq", "2048"}, {"micro_batch", "3"}, {"accumulate", "5"}, {"checkpoint", "blocks-7"}}) ours = with_key(ours, key, value);
  for (const Engine engine : {Engine::deepspeed, Engine::fsdp2, Engine::ddp}) {
    const Asked other = with_engine(ours, engine);
    REQUIRE(other.question.plan.engine == engine);
    REQUIRE(other.question.cluster == ours.question.cluster);
    for (const char* key : {"seq", "micro_batch", "accumulate", "checkpoint", "num_layers"}) REQUIRE(key_text(other.question, key) == key_text(ours.question, key));
    REQUIRE(std::get<Asked>(parse_command_line(print_command_line(other))) == other);
    REQUIRE(with_engine(with_key(other, "seq", "2048"), Engine::zeroplan).question.job == ours.question.job);
  }
  REQUIRE(with_engine(asked_of("internlm2-20b", "8xa100-80g", Engine::ddp), Engine::deepspeed).question.plan.stage == 3);
}

TEST_CASE("a wrong word is marked at its place") {
  const std::string text = "zeroplan fit internlm2-20b --on 8xa100-80g --stage 7";
  const LineError stage = error_of(text);
  REQUIRE(text.substr(stage.begin, stage.end - stage.begin) == "7");
  const std::string unknown = "internlm2-20b --on 8xa100-80g --stagee 2";
  const LineError flag = error_of(unknown);
  REQUIRE(unknown.substr(flag.begin, flag.end - flag.begin) == "--stagee");
  REQUIRE(flag.message.find("stage") != std::string::npos);
  REQUIRE(error_of("internlm2-99b --on 8xa100-80g").begin == 0);
  REQUIRE(error_of("internlm2-20b").message.find("--on") != std::string::npos);
  REQUIRE(error_of("internlm2-20b --on 8xa100-80g --seq").message.find("needs a value") != std::string::npos);
  REQUIRE_FALSE(error_of("").message.empty());
}

TEST_CASE("any text ends as a plan or a sentence, never as an exception", "[property]") {
  std::mt19937_64 random(8);
  const std::string alphabet = "internlm2-20b --on8xa100g\"'\\ =stage3\n\t\xff";
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (std::size_t n = random() % 50; n > 0; --n) text += alphabet[random() % alphabet.size()];
    const auto parsed = parse_command_line(text);
    if (const auto* error = std::get_if<LineError>(&parsed)) {
      REQUIRE(error->begin <= error->end);
      REQUIRE(error->end <= text.size());
      REQUIRE_FALSE(error->message.empty());
    }
  }
}

TEST_CASE("a model change carries the plan over, and one gesture is one undo step") {
  Asked asked = with_key(with_key(asked_of("internlm2-20b", "8xa100-80g", Engine::zeroplan), "stage", "1"), "micro_batch", "4");
  const Asked other = with_model(asked, "qwen3-8b");
  REQUIRE(other.question.job.model.name != asked.question.job.model.name);
  REQUIRE(other.question.plan.stage == 1);
  REQUIRE(other.question.plan.micro_batch == 4);
  REQUIRE(key_text(other.question, "checkpoint") == "full");

  History history(asked);
  history.push(with_key(asked, "micro_batch", "5"), false);
  history.push(with_key(asked, "micro_batch", "6"), true);
  REQUIRE(history.now().question.plan.micro_batch == 6);
  REQUIRE(history.undo() == asked);
  REQUIRE_FALSE(history.can_undo());
  REQUIRE(history.redo().question.plan.micro_batch == 6);
}

}  // namespace zeroplan::gui
