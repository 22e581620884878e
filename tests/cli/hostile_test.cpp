// Hostile words and files through the commands: a sentence that names place and remedy, an exit code for bad input, nothing on stdout.
#include <catch2/catch.hpp>

#include "tests/cli/program.h"

namespace zeroplan::testing {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void check_refused(const std::string& command, int code, const std::string& part) {
  const Outcome outcome = shell(command);
  INFO(command << "\n" << outcome.err);
  CHECK(outcome.code == code);
  CHECK(outcome.out.empty());
  CHECK(outcome.err.starts_with("zeroplan: "));
  CHECK(has(outcome.err, part));
}

}  // namespace

TEST_CASE("hostile words of fit, why, timeline and export end with 2 and name the key", "[e2e]") {
  const std::pair<const char*, const char*> words[] = {
      {"--seq 0", "seq"}, {"--seq -1", "seq"}, {"--seq 9223372036854775808", "seq"}, {"--seq 1e308", "seq"}, {"--seq nan", "seq"}, {"--seq ''", "seq"}, {"--seq 1000000000000000", "seq"},
      {"--micro-batch -9223372036854775808", "micro_batch"}, {"--micro-batch 2147483648", "micro_batch"}, {"--accumulate 99999999999999999999", "accumulate"}, {"--num-layers 0", "num_layers"},
      {"--num-layers 1000000000000000", "num_layers"}, {"--clip-norm inf", "clip_norm"}, {"--clip-norm NaN", "clip_norm"}, {"--clip-norm -1e308", "clip_norm"}, {"--host-memory -1GB", "host-memory"},
      {"--host-memory 99999999999TB", "host-memory"}, {"--host-memory ''", "--host-memory"}, {"--checkpoint blocks-9999999999", "blocks"}, {"--checkpoint every-0", "every-0"}, {"--stage 4", "stage"},
      {"--set seq=0", "seq"}, {"--set =", "key=value"}, {"--set ''", "key=value"}, {"--shard-group 0", "shard_group"}, {"--deepspeed /dev/zero", "64 MiB"}};
  for (const char* command : {"fit", "why", "timeline", "export --to deepspeed"})
    for (const auto& [word, part] : words) {
      if (std::string(word) == "--host-memory ''") continue;  // an empty word is none
      const bool is_file = std::string(word).find("/dev/zero") != std::string::npos;
      check_refused(std::string("zeroplan ") + command + " smollm2-135m --on 8xa100-80g --engine deepspeed " + (is_file ? "--stage 2 " : "") + word, is_file ? 3 : 2, part);
    }
  check_refused("zeroplan fit smollm2-135m --on ''", 2, "--on is missing");
  for (const char* cluster : {"0x8xa100-80g", "8x0xa100-80g", "9999999x8xa100-80g", "-1xa100-80g", "8xa100-80gx8", "nan", "99999999999999999999xa100-80g"})
    check_refused(std::string("zeroplan fit smollm2-135m --on ") + cluster, 2, "a100-80g");
}

TEST_CASE("hostile files of fit, why, export and validate end with 3 and name file and place", "[e2e]") {
  const Folder folder;
  const std::string deep(200'000, '[');
  for (const std::string& text : {std::string(), std::string("{\"a\":") + deep, std::string("{\"hidden_size\": 1e999}"), std::string("{\"hidden_size\": NaN}"), std::string("\xff"), std::string("null"),
                                  std::string(R"({"model_type": "llama", "hidden_size": 1000000000000000, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 10})")}) {
    const std::string file = folder.write("hostile.json", text);
    const bool could_be_deepspeeds = text.find("model_type") != std::string::npos;  // which ignores keys that it does not know
    for (const std::string& command : {"fit " + file + " --on 8xa100-80g", "why " + file + " --on 8xa100-80g", "export --to deepspeed " + file + " --on 8xa100-80g", "fit smollm2-135m --on " + file,
                                       could_be_deepspeeds ? "validate " + file : "fit smollm2-135m --on 8xa100-80g --deepspeed " + file, "validate " + file})
      check_refused("zeroplan " + command, 3, "hostile.json");
  }
  check_refused("zeroplan why smollm2-135m --on 8xa100-80g --oom " + folder.write("log.txt", "Tried to allocate" + std::string(1'000'000, ' ') + "1 GiB"), 3, "log.txt");
}

TEST_CASE("peers 10: a model with experts or a vision tower is refused by its architecture, not priced as a dense one", "[e2e][peers]") {
  const std::pair<const char*, const char*> models[] = {{"mixtral-8x7b", "mixtures of experts"}, {"deepseek-v2-lite", "mixtures of experts"}, {"qwen2-vl-7b", "vision towers"}};
  for (const auto& [model, trait] : models) {
    for (const char* engine : {"deepspeed", "fsdp2", "ddp"}) check_refused(std::string("zeroplan fit ") + model + " --on 8xa100-80g --engine " + engine, 2, trait);
    check_refused(std::string("zeroplan fit ") + model + " --on 8xa100-80g --engine zeroplan", 2, "model ");
    check_refused(std::string("zeroplan why ") + model + " --on 8xa100-80g", 2, trait);
  }
}

}  // namespace zeroplan::testing
