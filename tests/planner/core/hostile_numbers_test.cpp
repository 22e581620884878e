// Every number of every kind of file, replaced by each hostile one: accepted, or refused with file and place. What such sizes cost is asked in tests/simulator/enormous_test.cpp.
#include <catch2/catch.hpp>

#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/deepspeed_json.h"
#include "planner/core/error.h"
#include "planner/core/json_fields.h"
#include "profiles/catalog.h"

using namespace zeroplan;
using nlohmann::json;

namespace {

Question small_question(const char* cluster = "8xa100-80g") {
  Question question = default_question(catalogue_model("smollm2-135m"), cluster_from_name(cluster));
  question.plan.stage = 3;
  choose_engine(question, Engine::deepspeed);
  return question;
}

/// As text, because JSON values cannot hold all of them.
const std::vector<std::string>& hostile_texts() {
  static const std::vector<std::string> texts{
      "0", "-1", "-0", "-0.0", "0.5", "1e-300", "1e308", "-1e308", "1000000000000000", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551616",
      "99999999999999999999999999999999", "\"\"", "\"NaN\"", "\"1e999\"", "\"9223372036854775808\"", "null", "true", "[]", "{}", "[[[[[[[[[[]]]]]]]]]]"};
  return texts;
}

/// What refuses `text`; nullopt if nothing does. Anything but an InputError fails the test.
template <class Read>
std::optional<std::string> refusal(Read&& read, const std::string& text) {
  try {
    read(text);
    return std::nullopt;
  } catch (const InputError& error) {
    return error.what();
  }
}

/// Replaces each number in `whole` by each hostile text. `read` takes the file's text.
template <class Read>
void check_every_number(const json& whole, Read&& read) {
  constexpr std::int64_t kMark = 123456789012345678;
  REQUIRE(refusal(read, whole.dump()) == std::nullopt);
  int refused = 0;
  const json flat = whole.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    if (!value.is_number()) continue;
    json marked = whole;
    marked[json::json_pointer(pointer)] = kMark;
    const std::string with_mark = marked.dump(), mark = std::to_string(kMark);
    const std::string key = pointer.substr(pointer.find_last_of('/') + 1);
    for (const std::string& hostile : hostile_texts()) {
      std::string text = with_mark;
      text.replace(text.find(mark), mark.size(), hostile);
      INFO(pointer << " = " << hostile);
      const auto error = refusal(read, text);
      if (!error) continue;
      ++refused;
      INFO(*error);
      CHECK(error->starts_with("hostile.json: "));
      // A number can be refused by itself, or by what it makes of another one (rows and plans: at the question).
      const bool names_place = error->find(key) != std::string::npos || error->find("/question") != std::string::npos || error->find("batch") != std::string::npos;
      CHECK((names_place || std::isdigit(static_cast<unsigned char>(key[0])) != 0 || error->find("_size") != std::string::npos || error->find("heads") != std::string::npos));
    }
  }
  CHECK(refused > 20);
}

json parsed(const std::string& text) { return parse_json(text, "hostile.json"); }

}  // namespace

TEST_CASE("hostile numbers in a config.json are refused with file and key", "[unit]") {
  for (const char* name : {"smollm2-135m", "gpt2", "mixtral-8x7b", "deepseek-v2-lite", "gemma-3-4b", "qwen2-vl-2b", "opt-350m", "falcon-7b"})
    check_every_number(json::parse(*model_config_text(name)), [](const std::string& text) { (void)model_from_config(parsed(text), "hostile.json"); });
}

TEST_CASE("hostile numbers in a device profile and a cluster file are refused with file and key", "[unit]") {
  check_every_number(json::parse(*device_text("h100-80g")), [](const std::string& text) { (void)device_from_json(parsed(text), "hostile.json"); });
  Cluster cluster = cluster_from_name("2x8xa100-80g");
  cluster.host_bytes = Bytes(std::int64_t{1} << 40);
  check_every_number(cluster_to_json(cluster), [](const std::string& text) { (void)cluster_from_json(parsed(text), "hostile.json"); });
}

TEST_CASE("hostile numbers in a plan are refused with file and key", "[unit]") {
  check_every_number(plan_to_json(small_question()), [](const std::string& text) { (void)plan_from_json(parsed(text), "hostile.json"); });
}

TEST_CASE("hostile numbers in rows of questions are refused with file and key", "[unit]") {
  const json row = {{"id", "one"},
                    {"question", {{"model", "smollm2-135m"}, {"gpu", "a100-80g"}, {"nodes", 1}, {"gpus_per_node", 8}, {"engine", "deepspeed"}, {"stage", 3}, {"shard_group", 8}, {"sequence_parallel", 1},
                                  {"seq", 512}, {"micro_batch", 2}, {"accumulate", 3}, {"num_layers", 4}}},
                    {"measured", {{"allocated_bytes", 1e9}, {"step_s", 1.5}, {"phases_requested_bytes", {{"init", 1000}}}}}};
  check_every_number(json::array({row}), [](const std::string& text) { (void)rows_from_json(parsed(text), "hostile.json"); });
}

TEST_CASE("hostile numbers in a DeepSpeed JSON are refused with file and key", "[unit]") {
  const json file = {{"train_micro_batch_size_per_gpu", 1}, {"gradient_accumulation_steps", 2}, {"train_batch_size", 16}, {"gradient_clipping", 1.0},
                     {"zero_optimization", {{"stage", 3}, {"reduce_bucket_size", 500000000}, {"stage3_prefetch_bucket_size", 50000000}, {"stage3_param_persistence_threshold", 100000},
                                            {"stage3_max_live_parameters", 1000000000}, {"stage3_max_reuse_distance", 1000000000}, {"sub_group_size", 1000000000}}},
                     {"optimizer", {{"type", "AdamW"}, {"params", {{"lr", 1e-4}, {"eps", 1e-8}, {"weight_decay", 0.1}}}}}};
  check_every_number(file, [](const std::string& text) {
    Question question = small_question();
    (void)apply_deepspeed_text(question, text, "hostile.json");
  });
}

TEST_CASE("text that is no JSON of ours is refused with line and column", "[unit]") {
  const auto error_of = [](const std::string& text) { return refusal(parsed, text).value_or("accepted"); };
  for (const char* text : {"", " \n\t", "NaN", "[Infinity]", "{\"a\": 1e999}", "{\"a\": -1e999}", "\xff\xfe{}", "{\"a\": \"\xc3\"}", "{", "{\"a\": 0x10}"}) {
    INFO(text);
    CHECK(error_of(text).starts_with("hostile.json: "));
  }
  CHECK(error_of("{\n \"a\": NaN}").find("line 2, column 7") != std::string::npos);
}

TEST_CASE("nesting of any depth is refused before anything recurses over it", "[unit]") {
  for (const std::size_t depth : {101, 100'000, 5'000'000}) {
    const std::string brackets(depth, '[');
    const auto error = refusal(parsed, brackets).value_or("accepted");
    CHECK(error == "hostile.json: line 1, column 101: nests deeper than 100 brackets. No JSON file that is read here does: is it the right one?");
    Question question = small_question();
    CHECK(refusal([&](const std::string& text) { (void)apply_deepspeed_text(question, text, "hostile.json"); }, "{\"zero_optimization\":" + brackets).value_or("accepted").find("nests too deep") != std::string::npos);
    CHECK_THROWS_AS(set_key(question, "train", json("{\"lora_rank\":" + brackets), "hostile.json"), InputError);
  }
  CHECK(refusal(parsed, "\"" + std::string(1000, '[') + "\"") == std::nullopt);  // brackets of a string are none
}

TEST_CASE("a file without an end is refused by its size", "[unit]") {
  CHECK_THROWS_WITH(read_text_file("/dev/zero"), Catch::Contains("larger than 64 MiB"));
  CHECK_THROWS_WITH(read_json_file("/dev/zero"), Catch::Contains("larger than 64 MiB"));
}
