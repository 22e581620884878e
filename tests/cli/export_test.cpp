#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace zeroplan::testing {
namespace {

using nlohmann::json;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// What real parsers accepted (tests/planner/export/accept.py).
json accepted() { return json::parse(read_file(ZEROPLAN_TEST_DATA "/export_accepted.json")); }

std::string out_name(const std::string& target) { return target == "deepspeed" ? "ds.json" : target == "accelerate" ? "acc.yaml" : "xt.py"; }

}  // namespace

TEST_CASE("export writes today what DeepSpeed, Accelerate and mmengine accepted", "[published]") {
  const json rows = accepted().at("rows");
  CHECK(rows.size() >= 40);
  for (const json& row : rows) {
    const Folder folder;
    const std::string target = row.at("target"), words = row.at("words");
    INFO(target << ": " << words);
    const Outcome outcome = shell("cd " + folder.file("") + " && zeroplan export " + words + " --to " + target + " -o " + out_name(target));
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    for (const auto& [name, text] : row.at("files").items()) CHECK(read_file(folder.file(name)) == text.get<std::string>());
  }
}

TEST_CASE("DeepSpeed took every zero_optimization key as it was written, and the cluster's batch", "[published]") {
  const json rows = accepted().at("rows");
  for (const json& row : rows)
    for (const auto& [name, text] : row.at("files").items()) {
      if (name.find(".json") == std::string::npos) continue;
      INFO(row.at("words"));
      const json file = json::parse(text.get<std::string>());
      const json& parsed = row.at("parsed").at(name);
      for (const auto& [key, value] : file.at("zero_optimization").items()) {
        INFO(key);
        if (!value.is_object()) CHECK(parsed.at("zero_optimization").at(key) == value);
        else for (const auto& [inner, said] : value.items()) CHECK(parsed.at("zero_optimization").at(key).at(inner) == said);
      }
      CHECK(parsed.at("bf16") == file.at("bf16"));
      CHECK(parsed.at("gradient_clipping") == file.at("gradient_clipping"));
      CHECK(parsed.at("train_batch_size").get<std::int64_t>() ==
            parsed.at("world_size").get<std::int64_t>() * file.at("train_micro_batch_size_per_gpu").get<std::int64_t>() * file.at("gradient_accumulation_steps").get<std::int64_t>());
    }
}

TEST_CASE("export prints the file on stdout and on stderr what it cannot say", "[e2e]") {
  const Outcome outcome = shell("zeroplan export internlm2-20b --on 8xa100-80g --to deepspeed --engine zeroplan --keep qkv --checkpoint blocks-5");
  CHECK(outcome.code == 0);
  const json file = json::parse(outcome.out);
  CHECK(file["zero_optimization"]["stage"] == 3);
  CHECK(file["train_batch_size"] == 8);
  for (const char* key : {"engine:", "keep:", "prefetch_units:", "loss_chunk_tokens:", "checkpoint:", "blocks-5"}) CHECK(has(outcome.err, key));
}

TEST_CASE("a plan that fit saved is exported as it was asked", "[e2e]") {
  const Folder folder;
  const std::string plan = folder.file("plan.json");
  CHECK(shell("zeroplan fit llama-2-7b --on 8xa100-80g --stage 2 --offload-optimizer cpu --micro-batch 2 --save " + plan).code != 2);
  const json file = json::parse(shell("zeroplan export " + plan + " --to deepspeed").out);
  CHECK(file["zero_optimization"]["stage"] == 2);
  CHECK(file["zero_optimization"]["offload_optimizer"]["device"] == "cpu");
  CHECK(file["train_batch_size"] == 16);
  CHECK(file["zero_force_ds_cpu_optimizer"] == false);  // XTuner's optimizer is torch's
}

TEST_CASE("the DeepSpeed JSON is written beside the file that uses it, and both name each other", "[e2e]") {
  const Folder folder;
  const Outcome outcome = shell("cd " + folder.file("") + " && zeroplan export llama-2-7b --on 8xa100-80g --to accelerate -o job.yaml");
  CHECK(outcome.code == 0);
  CHECK(outcome.out == "wrote job_deepspeed.json\nwrote job.yaml\n");
  CHECK(has(read_file(folder.file("job.yaml")), "deepspeed_config_file: \"job_deepspeed.json\""));
  CHECK(json::parse(read_file(folder.file("job_deepspeed.json"))).contains("zero_optimization"));
}

TEST_CASE("what a target must not drop is refused with a remedy", "[e2e]") {
  const auto refusal = [](const std::string& words) {
    const Outcome outcome = shell("zeroplan export llama-2-7b --on 8xa100-80g " + words);
    INFO(words);
    CHECK(outcome.code == 2);
    CHECK(outcome.out.empty());
    return outcome.err;
  };
  CHECK(has(refusal("--to deepspeed --engine fsdp2"), "--to accelerate"));
  CHECK(has(refusal("--to xtuner --preset torchtitan"), "--engine deepspeed"));
  CHECK(has(refusal("--to deepspeed --stage 3 --offload-optimizer nvme"), "--nvme-path"));
  CHECK(has(refusal("--to deepspeed --stage 2 --offload-parameters cpu"), "in silence at stage 2"));
  CHECK(has(refusal("--to torchtitan"), "--to"));
  CHECK(has(refusal(""), "--to"));
}

}  // namespace zeroplan::testing
