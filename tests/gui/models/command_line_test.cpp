#include "gui/models/command_line.h"

#include <catch2/catch.hpp>
#include <random>

#include "gui/models/workbench.h"
#include "profiles/catalog.h"

namespace zeroplan::gui {
namespace {

std::string one_of(std::mt19937_64& random, std::initializer_list<const char*> values) { return *(values.begin() + random() % values.size()); }

Asked random_asked(std::mt19937_64& random) {
  Asked asked = asked_of(one_of(random, {"internlm2-20b", "qwen3-8b", "qwen2.5-0.5b", "llama-3-8b"}), one_of(random, {"8xa100-80g", "2x8xh100-80g", "h100-80g", "2xcpu"}));
  const auto set = [&](std::string_view key, const std::string& value) {
    try {
      asked = with_key(asked, key, value);
    } catch (const std::runtime_error&) {
    }
  };
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

TEST_CASE("a default question prints its model and cluster alone") { REQUIRE(print_command_line(asked_of("internlm2-20b", "8xa100-80g")) == "zeroplan fit internlm2-20b --on 8xa100-80g"); }

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
  Asked asked = with_key(with_key(asked_of("internlm2-20b", "8xa100-80g"), "stage", "1"), "micro_batch", "4");
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
