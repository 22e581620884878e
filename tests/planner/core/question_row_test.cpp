#include <catch2/catch.hpp>

#include <set>

#include "planner/core/error.h"
#include "profiles/catalog.h"

using namespace zeroplan;
using Catch::Contains;
using nlohmann::json;

namespace {

json all_rows() { return read_json_file(ZEROPLAN_TEST_DATA "/question_rows.json")["rows"]; }

json row(const json& changes = json::object()) {
  json whole = all_rows()[0];
  whole["question"].update(changes);
  return whole;
}

std::string problem(const json& changed) {
  try {
    rows_from_json(json::array({all_rows()[1], changed}), "q.json");
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("every row of both question files is read, and what it says reads back", "[property]") {
  const json rows = all_rows();
  CHECK(rows.size() == 342);
  const std::set<std::string> elsewhere{"model", "gpu", "gpus_per_node", "nodes", "link", "deepspeed", "deepspeed_top"};
  for (const json& row : rows) {
    INFO(row["id"]);
    const auto read = rows_from_json(json::array({row}), "q.json");
    REQUIRE(read.size() == 1);
    const Question& question = read[0].question;
    CHECK(read[0].id == row["id"]);
    for (const auto& [key, value] : row["question"].items()) {
      if (elsewhere.count(key) || value.is_null() || (key == "shard_group" && question.shard_group() == value)) continue;
      INFO(key);
      CHECK(get_key(question, key) == value);
    }
    CHECK(question.cluster.world_size() == row["question"]["nodes"].get<std::int64_t>() * row["question"]["gpus_per_node"].get<std::int64_t>());
    CHECK(plan_from_json(plan_to_json(question), "p.json") == question);
  }
}

TEST_CASE("a preset named by a row sets what the row does not say, and no version", "[unit]") {
  json changed = row({{"engine", "deepspeed"}, {"tool", "llamafactory"}, {"stage", 3}, {"preset", "llamafactory-z3"}, {"model", "qwen2.5-7b"}, {"deepspeed", nullptr}, {"reshard", nullptr}});
  changed["question"].erase("engine_version");
  const Question question = rows_from_json(json::array({changed}), "q.json")[0].question;
  CHECK(question.plan.deepspeed.reduce_bucket_size == 3584 * 3584);
  CHECK_FALSE(question.plan.deepspeed.overlaps(3));
  CHECK(question.plan.engine_version.empty());
  changed["question"]["preset"] = "hf-auto";
  CHECK(rows_from_json(json::array({changed}), "q.json")[0].question.plan.deepspeed.overlaps(3));
  changed["question"]["preset"] = "of-nobody";
  CHECK(rows_from_json(json::array({changed}), "q.json")[0].question.plan.deepspeed.reduce_bucket_size == 500'000'000);
}

TEST_CASE("a row on an unknown GPU has no capacity to be held against", "[unit]") {
  const auto rows = rows_from_json(json::array({row({{"gpu", "unknown"}}), row({{"gpu", "h100-80g"}})}), "q.json");
  CHECK(rows[0].has_unknown_device());
  CHECK_FALSE(rows[1].has_unknown_device());
}

TEST_CASE("PCIe between GPUs is slower than the profile's NVLink", "[unit]") {
  const auto rows = rows_from_json(json::array({row({{"gpu", "a100-80g"}, {"link", "pcie"}}), row({{"gpu", "a100-80g"}, {"link", "nvlink"}})}), "q.json");
  CHECK(rows[0].question.cluster.device.link_bytes_per_s == kPcieBytesPerS);
  CHECK(rows[1].question.cluster.device.link_bytes_per_s > kPcieBytesPerS);
  CHECK(rows[0].question.cluster.link == NodeLink::pcie);
}

TEST_CASE("a wrong row is refused with its place", "[unit]") {
  CHECK_THAT(problem(row({{"micro_batchs", 1}})), Contains("q.json: /1/question/micro_batchs: is not a known key. Did you mean micro_batch?"));
  CHECK_THAT(problem(row({{"seq", 0}})), Contains("q.json: /1/question/seq"));
  CHECK_THAT(problem(row({{"gpu", "a100-81g"}})), Contains("/1/question/gpu") && Contains("a100-80g"));
  CHECK_THAT(problem(row({{"model", "llama-9-9b"}})), Contains("/1/question/model"));
  CHECK_THAT(problem(row({{"model", {{"hidden_size", 64}}}})), Contains("/1/question/model/num_layers"));
  CHECK_THAT(problem(row({{"link", "string"}})), Contains("/1/question/link"));
  CHECK_THAT(problem(row({{"shard_group", 7}, {"gpus_per_node", 8}, {"nodes", 1}})), Contains("shard_group=7"));
  CHECK_THAT(problem(row({{"train", {{"lora_rank", 8}, {"lora_targets", {"w_proj"}}}}})), Contains("w_proj"));
  json changed = row();
  changed["measured"]["speed"] = 3;
  CHECK_THAT(problem(changed), Contains("/1/measured/speed"));
  changed = row();
  changed["answer"] = 3;
  CHECK_THAT(problem(changed), Contains("/1/answer"));
  changed = row();
  changed["measured"]["requested_bytes"] = -1;
  CHECK_THAT(problem(changed), Contains("/1/measured/requested_bytes"));
  CHECK_THROWS_AS(rows_from_json(json::object(), "q.json"), InputError);
  for (const json& hostile : {json(3), json("row"), json(nullptr), json::array(), json::object()}) CHECK_FALSE(problem(hostile).empty());
}
