#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/executor_process.h"
#include "planner/core/error.h"
#include "planner/core/format.h"

namespace zeroplan::cli {
namespace {

using nlohmann::json;

// Turns the executor's lines into a table: predicted beside measured on every step.
class Table {
 public:
  void line(const json& event) {
    const std::string kind = event.value("event", "");
    if (kind == "start") start(event);
    else if (kind == "step") step(event);
    else if (kind == "end") end(event);
    else if (kind == "surprise") fmt::print(stderr, "surprise at step {} on rank {}: {}\n", event.value("step", 0), event.value("rank", 0), event.value("first", ""));
    else if (kind == "error") failed(event);
  }

 private:
  void start(const json& e) {
    fmt::print("{} rank(s), {} parameters, one arena of {} each, taken and touched before the first step\n\n", e.value("world", 0), format_count(e.value("parameters", 0.0)), format_gib(Bytes(e.value("arena_bytes", std::int64_t{0}))));
    fmt::print("{:>6} {:>9} {:>8} {:>9} {:>9}   {:>14} {:>14} {:>9}\n", "step", "loss", "norm", "tokens/s", "step", "predicted B", "measured B", "surprise");
    steps_ = e.value("steps", std::int64_t{0});
  }
  void step(const json& e) {
    const double step_s = e.value("step_s", 0.0);
    fmt::print("{:>6} {:>9.4f} {:>8.3f} {:>9.0f} {:>9}   {:>14} {:>14} {:>9}\n", e.value("step", 0), e.value("loss", 0.0), e.value("gradient_norm", 0.0), step_s > 0 ? e.value("tokens", 0.0) / step_s : 0.0,
               format_seconds(step_s), e.value("predicted_peak_bytes", std::int64_t{0}), e.value("measured_peak_bytes", std::int64_t{0}), e.value("surprise_bytes", std::int64_t{0}));
    std::fflush(stdout);
    total_s_ += step_s;
    tokens_ += e.value("tokens", std::int64_t{0});
    if (e.value("predicted_peak_bytes", std::int64_t{0}) == e.value("measured_peak_bytes", std::int64_t{-1})) ++equal_;
    ++seen_;
    if (::isatty(STDERR_FILENO) && !::isatty(STDOUT_FILENO)) fmt::print(stderr, "\rstep {}/{}", seen_, steps_);
  }
  void end(const json& e) {
    const auto part = [&](const char* key, const char* which) { return e.contains(key) ? e[key].value(which, std::int64_t{0}) : 0; };
    fmt::print("\n{} steps, {} tokens in {}; loss {:.4f}\n", seen_, tokens_, format_seconds(total_s_), e.value("loss", 0.0));
    fmt::print("peak memory predicted = measured on {} of {} steps; the process grew by {} B after the first\n", equal_, seen_, e.value("process_growth_bytes", std::int64_t{0}));
    fmt::print("{:<22} {:>16} {:>16}\n", "bytes a step", "planned", "counted");
    for (const char* which : {"all_gather", "reduce_scatter", "all_reduce"})
      fmt::print("{:<22} {:>16} {:>16}\n", which, part("planned_communication_bytes", which), part("communication_bytes", which));
  }
  void failed(const json& e) {
    std::string place;
    if (e.contains("rank")) place = fmt::format(" (rank {}", e["rank"].get<std::int64_t>());
    if (e.contains("step")) place += fmt::format(", step {}", e["step"].get<std::int64_t>());
    if (e.contains("instruction")) place += fmt::format(", instruction {}", e["instruction"].get<std::int64_t>());
    if (e.contains("op")) place += fmt::format(" {}", e["op"].get<std::string>());
    fmt::print(stderr, "zeroplan run: {}{}\n", e.value("message", ""), place.empty() ? "" : place + ")");
  }

  std::int64_t steps_ = 0, seen_ = 0, equal_ = 0, tokens_ = 0;
  double total_s_ = 0;
};

}  // namespace

int run(const RunCommandOptions& options) {
  std::vector<std::string> arguments{options.plan};
  arguments.insert(arguments.end(), options.passed_on.begin(), options.passed_on.end());
  std::ofstream log;
  if (!options.log.empty()) {
    log.open(options.log);
    if (!log) throw UsageError(fmt::format("--log {} cannot be written", options.log));
  }
  Table table;
  const int code = run_executor(arguments, [&](const std::string& line) {
    if (log.is_open()) log << line << '\n' << std::flush;
    if (options.json) {
      fmt::print("{}\n", line);
      std::fflush(stdout);
      return;
    }
    const json event = json::parse(line, nullptr, false);
    if (event.is_object()) table.line(event);
  });
  if (log.is_open() && !log) throw RunError(fmt::format("{}: the log could not be written to its end; is the disk full?", options.log));
  return code;
}

}  // namespace zeroplan::cli
