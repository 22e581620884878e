#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <unistd.h>

#include "gui/models/opened_file.h"
#include "gui/models/session_file.h"
#include "planner/core/error.h"
#include "planner/core/plan.h"
#include "tests/support/questions.h"

namespace zeroplan::gui {
namespace {

using Catch::Contains;

/// A file of this test alone, gone with it.
struct Temporary {
  std::string name;
  Temporary(const std::string& text, const std::string& ending) : name((std::filesystem::temp_directory_path() / ("zeroplan_files_" + std::to_string(::getpid()) + ending)).string()) {
    std::ofstream(name, std::ios::binary) << text;
  }
  ~Temporary() { std::filesystem::remove(name); }
};

const std::string kModel = R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 256, "max_position_embeddings": 512})";
const std::string kDeepSpeed = R"({"train_micro_batch_size_per_gpu": "auto", "bf16": {"enabled": true}, "zero_optimization": {"stage": 2, "reduce_bucket_size": 200000000}})";

SessionFile a_session() {
  SessionFile out;
  out.b = asked_of("internlm2-20b", "8xa100-80g");
  out.a = with_key(out.b, "stage", "1");
  out.a_is_pinned = true;
  out.screen = "compare";
  out.from_ratio = 0.25;
  out.to_ratio = 0.5;
  out.selected_event = 812;
  out.files = {"/data/run 1.pickle"};
  out.compare_a = "now";
  out.compare_b = "run 1.pickle · GPU 0";
  return out;
}

}  // namespace

TEST_CASE("what a file is, is told by its content and not by its ending") {
  const std::string plan = plan_to_json(testing::origin_question()).dump(), session = session_text(a_session());
  for (const std::string ending : {".json", ".txt", ".pickle", ""}) {
    REQUIRE(kind_of_file(Temporary(plan, ending).name) == FileKind::plan);
    REQUIRE(kind_of_file(Temporary(session, ending).name) == FileKind::session);
    REQUIRE(kind_of_file(Temporary(kModel, ending).name) == FileKind::model_config);
    REQUIRE(kind_of_file(Temporary(kDeepSpeed, ending).name) == FileKind::deepspeed);
    REQUIRE(kind_of_file(Temporary("{\"event\":\"start\",\"steps\":2}\n", ending).name) == FileKind::run_log);
    REQUIRE(kind_of_file(Temporary("{\"event\":\"birth\",\"bytes\":2}\n{", ending).name) == FileKind::trace);
    REQUIRE(kind_of_file(Temporary("{\"name\":\"mm\",\"birth\":0,\"death\":2,\"bytes\":8}\n", ending).name) == FileKind::trace);
    REQUIRE(kind_of_file(Temporary("\x80\x02}.", ending).name) == FileKind::snapshot);
  }
  REQUIRE(kind_of_file(Temporary("", ".jsonl").name) == FileKind::run_log);  // about to grow
}

TEST_CASE("foreign and damaged files are refused with file and remedy") {
  for (const std::string& text : {std::string(), std::string("PK\x03\x04zip"), std::string("GIF89a"), std::string("{\"a\": [1, 2"), std::string("[1, 2]"), std::string("{}"), std::string("{\"traceEvents\": []}"),
                                 std::string("{\"format\": \"zeroplan-fit\"}"), std::string("12"), std::string("\x80"), std::string(1000, '\0')}) {
    const Temporary file(text, ".json");
    INFO(text);
    REQUIRE_THROWS_WITH(kind_of_file(file.name), Contains(file.name) && Contains(". "));
  }
  REQUIRE_THROWS_AS(kind_of_file("/nonexistent/plan.json"), InputError);
  REQUIRE_THROWS_AS(kind_of_file(std::filesystem::temp_directory_path().string()), InputError);
}

TEST_CASE("a session read again is the session written") {
  REQUIRE(session_of_text(session_text(a_session()), "s.json") == a_session());
  SessionFile without = a_session();
  without.a.reset();
  without.files.clear();
  REQUIRE(session_of_text(session_text(without), "s.json") == without);
}

TEST_CASE("a session of a later version, another program's file and every changed key are refused with their place") {
  const auto whole = nlohmann::json::parse(session_text(a_session()));
  const auto refused = [](const nlohmann::json& json, const std::string& place) { REQUIRE_THROWS_WITH(session_of_text(json.dump(), "s.json"), Contains("s.json") && Contains(place)); };
  for (const auto& [key, value] : whole.items()) {
    if (key == "a") continue;
    nlohmann::json changed = whole;
    changed[key] = nlohmann::json::array({1});
    refused(changed, "/" + key);
    changed.erase(key);
    refused(changed, key);
  }
  nlohmann::json later = whole, unknown = whole, turned = whole;
  later["version"] = 2;
  refused(later, "/version");
  unknown["colour"] = 1;
  refused(unknown, "/colour");
  turned["view"]["to_ratio"] = 0.1;
  refused(turned, "/view/to_ratio");
  REQUIRE_THROWS_AS(session_of_text("{\"format\":", "s.json"), InputError);
}

TEST_CASE("a DeepSpeed file sets the engine and keeps model, cluster, sequence and what it leaves open") {
  const Temporary file(kDeepSpeed, ".json");
  const Asked before = with_key(with_key(asked_of("qwen2.5-0.5b", "8xa100-80g", Engine::zeroplan), "seq", "2048"), "micro_batch", "3");
  const Asked after = with_deepspeed(before, file.name);
  REQUIRE(after.question.plan.engine == Engine::deepspeed);
  REQUIRE(after.question.plan.stage == 2);
  REQUIRE(after.question.plan.deepspeed.reduce_bucket_size == 200000000);
  REQUIRE(after.question.job.seq == 2048);
  REQUIRE(after.question.plan.micro_batch == 3);
  REQUIRE(after.question.job.model == before.question.job.model);
  const auto again = parse_command_line(print_command_line(after));
  REQUIRE(std::get<Asked>(again).question == after.question);
  const Temporary wrong(R"({"zero_optimization": {"stage": 9}})", "_wrong.json");
  REQUIRE_THROWS_WITH(with_deepspeed(before, wrong.name), Contains("stage"));
}

}  // namespace zeroplan::gui
