// Training as a user starts it: predicted beside measured, refusals before data is read, dead and stuck ranks.
#include <catch2/catch.hpp>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/cli/program.h"

namespace zeroplan::testing {
namespace {

using nlohmann::json;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

constexpr const char* kConfig =
    R"({"model_type": "llama", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 100, "vocab_size": 256, "max_position_embeddings": 512})";

// A small plan on `ranks` CPU ranks; returns its file.
std::string plan_in(const Folder& folder, int ranks, const std::string& flags = "") {
  const std::string plan = folder.file("plan.json");
  const Outcome outcome = shell("zeroplan fit " + folder.write("config.json", kConfig) + fmt::format(" --on {}xcpu --seq 32 --micro-batch 2 --learning-rate 3e-3 {} --save ", ranks, flags) + plan);
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  return plan;
}

std::string tokens_in(const Folder& folder) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += fmt::format("{} and {} make {}. ", i % 7, i % 5, i % 7 + i % 5);
  const std::string tokens = folder.file("tokens");
  REQUIRE(shell("zeroplan prepare " + folder.write("text", text) + " -o " + tokens).code == 0);
  return tokens;
}

std::vector<json> events(const std::string& out) {
  std::vector<json> list;
  for (const std::string& line : lines_of(out)) list.push_back(json::parse(line));
  return list;
}

// Ranks of a running zeroplan-run: the children of the process whose command line names the plan.
std::vector<pid_t> ranks_of(const std::string& plan) {
  std::vector<pid_t> out;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string command = read_file("/proc/" + pid + "/cmdline");
    if (!has(command, "zeroplan-run") || !has(command, plan)) continue;
    const std::string stat = read_file("/proc/" + pid + "/stat");
    const pid_t parent = static_cast<pid_t>(std::atoi(stat.substr(stat.rfind(')') + 4).c_str()));
    const std::string parent_command = read_file(fmt::format("/proc/{}/cmdline", parent));
    if (parent_command == command) out.push_back(static_cast<pid_t>(std::atoi(pid.c_str())));
  }
  return out;
}

// Starts a long run, does `deed` to one of its ranks after some steps, and reports how it ended and how long after the deed.
Outcome disturbed(const Folder& folder, const std::string& flags, int signal_number) {
  const std::string plan = plan_in(folder, 3, "--stage 3"), out = folder.file("run.jsonl");
  Outcome outcome;
  std::chrono::steady_clock::time_point ended;
  std::thread job([&] {
    outcome = shell("exec zeroplan-run " + plan + " --steps 1000000 " + flags + " > " + out);
    ended = std::chrono::steady_clock::now();
  });
  std::vector<pid_t> ranks;
  for (int tries = 0; tries < 400; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    if (lines_of(read_file(out)).size() < 5) continue;
    ranks = ranks_of(plan);
    if (ranks.size() == 3) break;
  }
  const auto disturbed_at = std::chrono::steady_clock::now();
  if (ranks.size() == 3) ::kill(ranks[1], signal_number);
  else for (pid_t rank : ranks) ::kill(rank, SIGKILL);
  job.join();
  REQUIRE(ranks.size() == 3);
  outcome.took_s = std::chrono::duration<double>(ended - disturbed_at).count();
  outcome.out = lines_of(read_file(out)).back();
  return outcome;
}

}  // namespace

TEST_CASE("every step's measured peak is the predicted one, and what is sent is what was planned", "[e2e]") {
  for (int stage = 0; stage <= 3; ++stage)
    for (const char* flags : {"--checkpoint none", "--checkpoint full --accumulate 3", "--compute-dtype bf16 --checkpoint blocks-1"}) {
      const Folder folder;
      const std::string plan = plan_in(folder, 2, fmt::format("--stage {} {}", stage, flags));
      const Outcome outcome = shell("zeroplan-run " + plan + " --steps 4 --all-ranks --data " + tokens_in(folder));
      INFO("stage " << stage << " " << flags << "\n" << outcome.err << outcome.out);
      REQUIRE(outcome.code == 0);
      int steps = 0, ends = 0;
      for (const json& event : events(outcome.out)) {
        if (event.at("event") == "step") {
          ++steps;
          CHECK(event.at("measured_peak_bytes") == event.at("predicted_peak_bytes"));
          CHECK(event.at("surprise_bytes") == 0);
        }
        if (event.at("event") == "end") {
          ++ends;
          CHECK(event.at("communication_bytes") == event.at("planned_communication_bytes"));
        }
      }
      CHECK(steps == 8);
      CHECK(ends == 2);
    }
}

TEST_CASE("a small model learns its text", "[e2e]") {
  const Folder folder;
  const Outcome outcome = shell("zeroplan-run " + plan_in(folder, 2, "--stage 3") + " --steps 60 --warmup-steps 5 --data " + tokens_in(folder));
  REQUIRE(outcome.code == 0);
  const std::vector<json> list = events(outcome.out);
  const double first = list.at(1).at("loss"), last = list.back().at("loss");
  CHECK(first == Approx(5.545).margin(0.1));  // ln 256
  CHECK(last < 2.5);
}

TEST_CASE("the run is the same bits again", "[e2e]") {
  const Folder folder;
  const std::string command = "zeroplan-run " + plan_in(folder, 2, "--stage 2") + " --steps 5 --seed 7 --data " + tokens_in(folder);
  const std::vector<json> a = events(shell(command).out), b = events(shell(command).out);
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i].value("loss", 0.0) == b[i].value("loss", 0.0));
}

TEST_CASE("run prints a table for people and ends with the comparison", "[e2e]") {
  const Folder folder;
  const Outcome outcome = shell("zeroplan run " + plan_in(folder, 2) + " --steps 3 --log " + folder.file("log") + " --data " + tokens_in(folder));
  CHECK(outcome.code == 0);
  CHECK(has(outcome.out, "predicted = measured on 3 of 3 steps"));
  CHECK(events(read_file(folder.file("log"))).size() == 5);
}

TEST_CASE("memory that is not there is refused before any data is read, with need, limit and the nearest plan", "[e2e]") {
  const Folder folder;
  const std::string plan = plan_in(folder, 2, "--stage 0 --checkpoint none");
  // The data does not exist: a run that got as far as reading it would end with 3.
  const std::int64_t need = json::parse(shell("zeroplan fit " + plan + " --json").out).at("peak_bytes"), limit = need * 3 / 4;
  const Outcome outcome = shell(fmt::format("zeroplan run {} --limit {} --data {}", plan, limit, folder.file("missing")));
  INFO(outcome.err);
  CHECK(outcome.code == 1);
  CHECK(has(outcome.err, "needs"));
  CHECK(has(outcome.err, "the limit is"));
  CHECK(has(outcome.err, "nearest plan that fits: --"));
  const Outcome raw = shell(fmt::format("zeroplan-run {} --limit {} --data {}", plan, limit, folder.file("missing")));
  const json error = events(raw.out).back();
  CHECK(error.at("need_bytes") == need);
  CHECK(error.at("limit_bytes") == limit);
  CHECK(error.at("nearest").at("peak_bytes").get<std::int64_t>() <= error.at("limit_bytes").get<std::int64_t>());
}

TEST_CASE("more memory than the machine has is refused in the same way", "[e2e]") {
  const Folder folder;
  const std::string plan = folder.file("big.json");
  REQUIRE(shell("zeroplan fit llama-3-8b --on 2xcpu --seq 2048 --save " + plan).code <= 1);
  const Outcome outcome = shell("zeroplan run " + plan);
  CHECK(outcome.code == 1);
  CHECK(has(outcome.err, "this machine can give each"));
}

TEST_CASE("bad data, plans and flags of a run say what is wrong", "[e2e]") {
  const Folder folder;
  const std::string plan = plan_in(folder, 1);
  const auto check = [](const std::string& command, int code, const char* part) {
    const Outcome outcome = shell(command);
    INFO(command << "\n" << outcome.err);
    CHECK(outcome.code == code);
    CHECK(has(outcome.err, part));
  };
  check("zeroplan run " + plan + " --data " + folder.file("missing"), 3, "missing");
  check("zeroplan run " + plan + " --data " + folder.write("text", "not tokens at all, but long enough to hold a header of sixty-four bytes"), 3, "text");
  check("zeroplan run " + folder.file("no-plan.json"), 3, "no-plan.json");
  check("zeroplan run " + plan + " --stesp 3", 2, "--stesp");
  check("zeroplan run " + plan + " --limit lots", 2, "lots");
  const std::string gpu = folder.file("gpu.json");
  REQUIRE(shell("zeroplan fit internlm2-20b --on 8xa100-80g --engine zeroplan --save " + gpu).code == 0);
  check("zeroplan run " + gpu, 4, "CPU ranks only");
}

TEST_CASE("a short token file is refused with both numbers", "[e2e]") {
  const Folder folder;
  const std::string plan = plan_in(folder, 1);
  REQUIRE(shell("zeroplan prepare " + folder.write("text", "short") + " -o " + folder.file("short")).code == 0);
  const Outcome outcome = shell("zeroplan run " + plan + " --data " + folder.file("short"));
  CHECK(outcome.code == 3);
  CHECK(has(outcome.err, "5 tokens"));
  CHECK(has(outcome.err, "32"));
}

TEST_CASE("a killed rank ends the job within two seconds and is named with step and instruction", "[e2e]") {
  const Folder folder;
  const Outcome outcome = disturbed(folder, "", SIGKILL);
  INFO(outcome.out << outcome.err);
  CHECK(outcome.code == 5);
  CHECK(outcome.took_s < 2.0);
  const json error = events(outcome.out).back();
  CHECK(error.at("event") == "error");
  CHECK(error.contains("rank"));
  CHECK(error.at("step").get<std::int64_t>() >= 1);
  CHECK(error.contains("instruction"));
}

TEST_CASE("a stuck rank ends the job after its time and is named", "[e2e]") {
  const Folder folder;
  const Outcome outcome = disturbed(folder, "--stuck-after 1", SIGSTOP);
  INFO(outcome.out << outcome.err);
  CHECK(outcome.code == 5);
  CHECK(outcome.took_s < 4.0);
  const json error = events(outcome.out).back();
  CHECK(has(error.at("message"), "stuck"));
  CHECK(error.contains("rank"));
  CHECK(error.contains("step"));
  CHECK(error.contains("instruction"));
}

TEST_CASE("prove runs the plan's twin and finds no difference", "[e2e]") {
  const Outcome outcome = shell("zeroplan prove internlm2-20b --on 8xa100-80g --json");
  INFO(outcome.out << outcome.err);
  CHECK(outcome.code == 0);
  const json answer = json::parse(outcome.out);
  CHECK(answer.at("proved") == true);
  CHECK(answer.at("rungs").size() >= 13);
  CHECK(outcome.took_s < 60);
}

}  // namespace zeroplan::testing
