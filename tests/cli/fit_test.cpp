#include <catch2/catch.hpp>

#include <fstream>
#include <regex>

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace zeroplan::testing {
namespace {

using nlohmann::json;

constexpr const char* kOrigin = "zeroplan fit internlm2-20b --on 8xa100-80g";
constexpr const char* kOurs = "zeroplan fit internlm2-20b --on 8xa100-80g --engine zeroplan";

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("fit answers the origin question on one screen, with verdict, breakdown and next command", "[e2e]") {
  const Outcome yes = shell(std::string(kOrigin) + " --stage 3");
  CHECK(yes.code == 0);
  CHECK(yes.err.empty());
  CHECK(has(yes.out, "FITS"));
  CHECK(has(yes.out, "parameters 4.62 GiB"));
  CHECK(has(yes.out, "next: zeroplan "));
  CHECK(lines_of(yes.out).size() <= 40);

  const Outcome no = shell(std::string(kOrigin) + " --stage 1");
  CHECK(no.code == 1);
  CHECK(has(no.out, "DOES NOT FIT"));
  CHECK(has(no.out, "make it fit"));
}

TEST_CASE("what the READMEs show of the first answer is what it says", "[e2e]") {
  const std::vector<std::string> said = lines_of(shell(kOrigin).out);
  for (const char* name : {"README.md", "README.zh.md"}) {
    std::ifstream readme(std::string(ZEROPLAN_README).substr(0, std::string(ZEROPLAN_README).rfind('/') + 1) + name);
    REQUIRE(readme);
    int shown = 0;
    bool inside = false;
    for (std::string line; std::getline(readme, line);) {
      if (inside && line == "```") break;
      if (inside && line != "  …") {
        INFO(name << ": " << line);
        CHECK(std::find(said.begin(), said.end(), line) != said.end());
        ++shown;
      }
      if (line == std::string("$ ") + kOrigin) inside = true;
    }
    CHECK(shown > 10);
  }
}

TEST_CASE("the 20B question is answered for the runtimes people have: ZeRO-2 as XTuner sets it dies in the optimizer step, ZeRO-3 fits", "[e2e]") {
  const json two = json::parse(shell(std::string(kOrigin) + " --stage 2 --json").out), three = json::parse(shell(std::string(kOrigin) + " --stage 3 --json").out);
  CHECK(two["engine"] == "deepspeed");
  CHECK(two["preset"] == "xtuner-zero2");
  CHECK(two["verdict"] == "does_not_fit");
  CHECK(two["peak"]["phase"] == "steady.step");
  CHECK(two["measures"]["requested_bytes"].get<double>() / (1 << 30) == Approx(83.3).epsilon(0.001));
  CHECK(two["failure"]["phase"] == "first.step");
  CHECK(three["verdict"] == "fits");
  CHECK(three["phases_requested_bytes"]["steady.backward"].get<double>() / (1 << 30) == Approx(46.47).epsilon(0.001));
  std::int64_t sum = 0;
  for (const auto& [name, bytes] : three.at("by_category_bytes").items()) sum += bytes.get<std::int64_t>();
  CHECK(sum == three["peak_live_bytes"]);
  REQUIRE(three["engines"].size() == 4);
  for (const json& engine : three["engines"]) CHECK(engine.contains("verdict"));
}

TEST_CASE("a version of the engine that changes the verdict is said", "[e2e]") {
  const std::string ask = "zeroplan fit internlm2-20b --on 8xa100-80g --stage 3 --checkpoint-reentrant false";
  CHECK(has(shell(ask).out, "TIGHT on DeepSpeed 0.16.2"));
  CHECK(shell(ask + " --seq 16384").code == 0);
  CHECK(shell(ask + " --seq 16384 --engine-version 0.16.4").code == 1);
}

TEST_CASE("--deepspeed FILE answers for that very file and names what DeepSpeed drops in silence", "[e2e]") {
  const Folder folder;
  const std::string file = folder.write("ds.json", R"({"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": true}, "grad_clipping": 1.0,
    "zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}, "reduce_bucket_size": 2e8}})");
  const Outcome outcome = shell("zeroplan fit internlm2-20b --on 8xa100-80g --deepspeed " + file);
  INFO(outcome.out << outcome.err);
  CHECK(outcome.code == 1);
  CHECK(has(outcome.out, "/grad_clipping"));
  CHECK(has(outcome.out, "/zero_optimization/offload_param"));
  const Outcome wrong = shell("zeroplan fit internlm2-20b --on 8xa100-80g --deepspeed " + folder.write("bad.json", R"({"zero_optimization": {"stge": 2}})"));
  CHECK(wrong.code == 3);
  CHECK(has(wrong.err, "stge"));
}

TEST_CASE("the next command of a no is a yes", "[e2e]") {
  const Outcome no = shell(std::string(kOrigin) + " --stage 2");
  REQUIRE(no.code == 1);
  const std::string next = no.out.substr(no.out.find("next: ") + 6);
  CHECK(shell(next).code == 0);
}

TEST_CASE("fit --json has every promised key, and its figures agree with each other", "[e2e]") {
  const Outcome outcome = shell(std::string(kOurs) + " --stage 2 --json");
  REQUIRE(outcome.code == 0);
  const json answer = json::parse(outcome.out);
  CHECK(answer.at("format") == "zeroplan-fit");
  CHECK(answer.at("version") == 1);
  for (const char* key : {"engine", "preset", "verdict", "parameters", "peak_bytes", "peak_live_bytes", "by_category_bytes", "peak", "capacity_bytes", "outside_bytes", "usable_bytes", "spare_bytes", "band_ratio",
                          "measures", "phases_requested_bytes", "between_steps_requested_bytes", "host_bytes", "pinned_bytes", "communication_bytes", "step_s", "tokens_per_s_per_gpu", "mfu_ratio", "fixes", "engines", "next"})
    CHECK(answer.contains(key));
  CHECK(answer.at("parameters") == 19861149696);
  std::int64_t sum = 0;
  for (const auto& [name, bytes] : answer.at("by_category_bytes").items()) sum += bytes.get<std::int64_t>();
  CHECK(sum == answer.at("peak_live_bytes").get<std::int64_t>());
  const json& outside = answer.at("outside_bytes");
  CHECK(answer.at("usable_bytes").get<std::int64_t>() ==
        answer.at("capacity_bytes").get<std::int64_t>() - outside.at("context").get<std::int64_t>() - outside.at("nccl").get<std::int64_t>() - outside.at("libraries").get<std::int64_t>());
  CHECK(answer.at("spare_bytes").get<std::int64_t>() == answer.at("usable_bytes").get<std::int64_t>() - answer.at("peak_bytes").get<std::int64_t>());
  for (const char* key : {"phase", "instruction", "unit", "rank"}) CHECK(answer.at("peak").contains(key));
}

TEST_CASE("the same question gives the same bytes out", "[e2e]") {
  CHECK(shell(std::string(kOrigin) + " --json").out == shell(std::string(kOrigin) + " --json").out);
}

TEST_CASE("--strict makes tight a no", "[e2e]") {
  // The band is some hundred MiB: find a number of kept blocks whose spare lies within it.
  for (int blocks = 20; blocks <= 40; ++blocks) {
    const std::string command = std::string(kOurs) + " --stage 2 --checkpoint blocks-" + std::to_string(blocks);
    if (json::parse(shell(command + " --json").out).at("verdict") != "tight") continue;
    CHECK(shell(command).code == 0);
    CHECK(has(shell(command).out, "tight: "));
    CHECK(shell(command + " --strict").code == 1);
    return;
  }
  FAIL("no plan in this row is tight");
}

TEST_CASE("a saved plan asks the same question again", "[e2e]") {
  const Folder folder;
  const std::string plan = folder.file("plan.json");
  const Outcome asked = shell(std::string(kOurs) + " --stage 2 --seq 2048 --checkpoint blocks-10 --json --save " + plan);
  json first = json::parse(asked.out), second = json::parse(shell("zeroplan fit " + plan + " --json").out);
  first.erase("next");
  second.erase("next");
  CHECK(first == second);
  CHECK(json::parse(read_file(plan)).at("format") == "zeroplan-plan");
}

TEST_CASE("what is typed wrong is named, with the nearest right word, and code 2", "[e2e]") {
  const auto check = [](const std::string& command, std::initializer_list<const char*> parts) {
    const Outcome outcome = shell(command);
    INFO(command << "\n" << outcome.err);
    CHECK(outcome.code == 2);
    CHECK(outcome.out.empty());
    for (const char* part : parts) CHECK(has(outcome.err, part));
  };
  check("zeroplan fti internlm2-20b", {"fti", "fit"});
  check("zeroplan fit internlm2-20b --on 8xa100-80g --stgae 3", {"--stgae", "--stage"});
  check("zeroplan fit internlm2-20b", {"--on"});
  check("zeroplan fit internlm-20b --on 8xa100-80g", {"internlm2-20b"});
  check("zeroplan fit internlm2-20b --on 8xa100-8g", {"a100-80g"});
  check(std::string(kOrigin) + " --stage 4", {"stage", "4"});
  check(std::string(kOrigin) + " --stage x", {"stage"});
  check(std::string(kOrigin) + " --micro-batch 0", {"micro_batch"});
  check(std::string(kOrigin) + " --checkpoint some", {"checkpoint"});
  check(std::string(kOrigin) + " --set nonsense", {"key=value"});
  check(std::string(kOrigin) + " --set sed=3", {"seq"});
  check(std::string(kOurs) + " --offload-optimizer cpu", {"offload_optimizer"});
  check(std::string(kOrigin) + " --host-memory big", {"--host-memory"});
  check("zeroplan", {"subcommand"});
}

TEST_CASE("a bad file is named with place and remedy, and code 3", "[e2e]") {
  const Folder folder;
  const auto check = [&](const std::string& text, std::initializer_list<const char*> parts) {
    const std::string config = folder.write("config.json", text);
    const Outcome outcome = shell("zeroplan fit " + config + " --on 8xa100-80g");
    INFO(text << "\n" << outcome.err);
    CHECK(outcome.code == 3);
    CHECK(has(outcome.err, "config.json"));
    for (const char* part : parts) CHECK(has(outcome.err, part));
  };
  check("", {});
  check("{\"a\": 1,}", {"1"});
  check("[]", {});
  check(R"({"model_type": "llama"})", {"hidden_size"});
  check(R"({"model_type": "mamba", "hidden_size": 4096})", {"mamba"});
  check(R"({"model_type": "llama", "hidden_size": -4, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 10})", {"hidden_size", "-4"});
  check(R"({"model_type": "llama", "hidden_size": 9223372036854775808, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 10})", {"hidden_size"});
  check(R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 0, "intermediate_size": 8, "vocab_size": 10})", {"num_attention_heads"});

  const std::string plan = folder.write("plan.json", R"({"format": "zeroplan-plan", "version": 9, "model": {}, "cluster": {}, "question": {}})");
  const Outcome version = shell("zeroplan fit " + plan);
  CHECK(version.code == 3);
  CHECK(has(version.err, "version"));
}

TEST_CASE("why names what is alive, compares two plans and reads an out-of-memory message", "[e2e]") {
  const std::string ask = "zeroplan why internlm2-20b --on 8xa100-80g --stage 2";
  const Outcome alive = shell(ask);
  CHECK(alive.code == 0);
  CHECK(has(alive.out, "flat buffer of the parameters"));
  CHECK(has(alive.out, "4·Ψ/n"));
  const json listed = json::parse(shell(ask + " --json --at steady.backward").out);
  std::int64_t sum = 0;
  for (const json& group : listed["groups"]) sum += group["bytes"].get<std::int64_t>();
  CHECK(sum == listed["live_bytes"]);

  const json versus = json::parse(shell(ask + " --versus '--stage 3' --json").out);
  std::int64_t difference = 0;
  for (const json& buffer : versus["buffers"]) difference += buffer["second_bytes"].get<std::int64_t>() - buffer["first_bytes"].get<std::int64_t>();
  CHECK(difference == versus["second_bytes"].get<std::int64_t>() - versus["first_bytes"].get<std::int64_t>());
  CHECK(shell("zeroplan why internlm2-20b --on 8xa100-80g --engine zeroplan").code == 0);

  const Folder folder;
  const std::string log = folder.write("log.txt", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.25 GiB. GPU 0 has a total capacity of 79.15 GiB of which 4.12 GiB is free. Of the allocated memory "
                                                  "64.76 GiB is allocated by PyTorch, and 8.79 GiB is reserved by PyTorch but unallocated.");
  const Outcome read = shell(ask + " --oom " + log);
  INFO(read.out << read.err);
  CHECK(read.code == 0);
  CHECK(has(read.out, "AdamW exp_avg_sq"));
  CHECK(has(read.out, "predicted to fail in first.step"));
  CHECK(shell(ask + " --oom " + folder.write("calm.txt", "loss 2.1")).code == 3);
  CHECK(shell(ask + " --at somewhere").code == 2);
  CHECK(shell(ask + " --versus 'stage 3'").code == 2);
}

TEST_CASE("timeline draws every engine's step, on the terminal and in every kind of file", "[e2e]") {
  const Folder folder;
  for (const char* engine : {"zeroplan", "deepspeed", "fsdp2"}) {
    const std::string ask = std::string("zeroplan timeline llama-2-7b --on 8xa100-80g --num-layers 4 --engine ") + engine;
    INFO(engine);
    CHECK(has(shell(ask).out, "peak "));
    for (const char* ending : {"svg", "html", "csv", "json", "jsonl", "pickle"}) {
      const std::string file = folder.file(std::string("step.") + ending);
      CHECK(shell(ask + " -o " + file).code == 0);
      CHECK(read_file(file).size() > 1000);
    }
  }
  const Outcome wrong = shell("zeroplan timeline llama-2-7b --on 8xa100-80g -o " + folder.file("step.png"));
  CHECK(wrong.code == 2);
  for (const char* ending : {".svg", ".html", ".csv", ".json", ".jsonl", ".pickle"}) CHECK(has(wrong.err, ending));
  CHECK(read_file(folder.file("step.png")).empty());
  const Outcome span = shell("zeroplan timeline llama-2-7b --on 8xa100-80g --span last");
  CHECK(span.code == 2);
  for (const char* accepted : {"steady", "first", "init", "all"}) CHECK(has(span.err, accepted));
}

TEST_CASE("timeline's files parse, and a file that cannot be written whole is left as it was", "[e2e]") {
  const Folder folder;
  const std::string ask = "zeroplan timeline llama-2-7b --on 8xa100-80g --num-layers 2 --seq 512 --engine fsdp2 -o ";
  const auto made = [&](const char* name) {
    CHECK(shell(ask + folder.file(name)).code == 0);
    return read_file(folder.file(name));
  };
  CHECK(json::parse(made("step.json")).at("traceEvents").size() > 500);
  for (const std::string& line : lines_of(made("step.jsonl"))) CHECK(json::parse(line).at("bytes").is_number());
  CHECK(lines_of(made("step.csv")).size() > 200);
  CHECK(made("step.svg").ends_with("</svg>\n"));
  CHECK(made("step.html").ends_with("</html>\n"));
  CHECK(made("step.pickle").starts_with("\x80\x02"));
  const std::string before = read_file(folder.file("step.csv"));
  const Outcome full = shell("ulimit -f 1; " + ask + folder.file("step.csv"));
  CHECK(full.code != 0);
  CHECK(read_file(folder.file("step.csv")) == before);
}

TEST_CASE("timeline shows where a run dies", "[e2e]") {
  const Outcome whole = shell("zeroplan timeline internlm2-20b --on 8xa100-80g --stage 2 --span all");
  CHECK(whole.code == 0);
  CHECK(has(whole.out, "out of memory in first.step"));
  CHECK(has(whole.out, "reserve on a device without end"));
  const Outcome small = shell("zeroplan timeline llama-2-7b --on 8xa100-80g --num-layers 2 --seq 512 --engine fsdp2");
  CHECK(has(small.out, "far above: usable"));
}

TEST_CASE("peers 15: every command that the README names exists", "[e2e][peers]") {
  const std::string readme = read_file(ZEROPLAN_README), help = shell("zeroplan --help").out;
  std::size_t found = 0;
  const std::regex named("`zeroplan ([a-z]+)|\\$ zeroplan ([a-z]+)");
  for (std::sregex_iterator at(readme.begin(), readme.end(), named), end; at != end; ++at, ++found) {
    const std::string command = (*at)[1].matched ? (*at)[1].str() : (*at)[2].str();
    INFO(command);
    CHECK(std::regex_search(help, std::regex("\n +" + command + " ")));
  }
  CHECK(found >= 5);
}

TEST_CASE("--help, list, show and doctor answer", "[e2e]") {
  CHECK(shell("zeroplan --help").code == 0);
  CHECK(shell("zeroplan fit --help").code == 0);
  CHECK(has(shell("zeroplan list models").out, "internlm2-20b"));
  CHECK(has(shell("zeroplan list gpus").out, "a100-80g"));
  CHECK(has(shell("zeroplan list presets").out, "xtuner-zero3             deepspeed  stage 3"));
  CHECK(json::parse(shell("zeroplan list knobs --json").out).size() > 10);
  CHECK(json::parse(shell("zeroplan show internlm2-20b").out).at("hidden_size") == 6144);
  CHECK(shell("zeroplan list things").code == 2);
  CHECK(shell("zeroplan show nothing-like-it").code == 2);
  CHECK(has(shell("zeroplan doctor").out, "planner"));
}

TEST_CASE("gui without a display, or without the program, says what to do and ends with 4", "[e2e]") {
  const Outcome outcome = shell("env -u DISPLAY -u WAYLAND_DISPLAY -u QT_QPA_PLATFORM zeroplan gui internlm2-20b --on 8xa100-80g");
  CHECK(outcome.code == 4);
  CHECK((has(outcome.err, "step.html") || has(outcome.err, "qt6-base-dev")));
  const Outcome no_server = shell("env -u WAYLAND_DISPLAY -u QT_QPA_PLATFORM DISPLAY=:4711 zeroplan gui");
  CHECK(no_server.code == 4);
  CHECK((has(no_server.err, "step.html") || has(no_server.err, "qt6-base-dev")));
}

TEST_CASE("timeline of our own engine has times", "[e2e]") {
  const Folder folder;
  const Outcome picture = shell("zeroplan timeline internlm2-20b --on 8xa100-80g --engine zeroplan --width 60");
  CHECK(picture.code == 0);
  CHECK(has(picture.out, "█"));
  CHECK(shell("zeroplan timeline internlm2-20b --on 8xa100-80g --engine zeroplan -o " + folder.file("step.json")).code == 0);
  CHECK(json::parse(read_file(folder.file("step.json"))).at("traceEvents").size() > 1000);
  CHECK(shell("zeroplan timeline internlm2-20b --on 8xa100-80g --engine zeroplan -o " + folder.file("step.jsonl")).code == 0);
  CHECK(json::parse(lines_of(read_file(folder.file("step.jsonl"))).front()).contains("event"));
  CHECK(shell("zeroplan timeline internlm2-20b --on 8xa100-80g --engine zeroplan -o " + folder.file("step.pdf")).code == 2);
  CHECK(shell("zeroplan timeline internlm2-20b --on 8xa100-80g --engine zeroplan -o " + folder.file("no/such/step.json")).code == 5);
}

TEST_CASE("prove --no-run proves every rank of the full plan without an executor", "[e2e]") {
  const Outcome outcome = shell("zeroplan prove internlm2-20b --on 8xa100-80g --no-run --json");
  CHECK(outcome.code == 0);
  const json answer = json::parse(outcome.out);
  CHECK(answer.at("proved") == true);
  CHECK(answer.at("executed") == false);
  CHECK(answer.at("rungs").size() == 3);
}

TEST_CASE("prepare makes byte tokens of a text, and refuses what is none", "[e2e]") {
  const Folder folder;
  const Outcome outcome = shell("zeroplan prepare " + folder.write("text", "in the beginning") + " -o " + folder.file("tokens") + " --json");
  CHECK(outcome.code == 0);
  CHECK(json::parse(outcome.out).at("tokens") == 16);
  CHECK(shell("zeroplan prepare " + folder.write("empty", "") + " -o " + folder.file("none")).code == 3);
  CHECK(shell("zeroplan prepare " + folder.file("missing") + " -o " + folder.file("none")).code == 3);
  CHECK(read_file(folder.file("none")).empty());
}

}  // namespace zeroplan::testing
