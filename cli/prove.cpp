#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/executor_process.h"
#include "cli/words.h"
#include "planner/core/error.h"
#include "planner/core/format.h"
#include "planner/layout/happens_before.h"
#include "profiles/catalog.h"
#include "simulator/walk.h"

namespace zeroplan::cli {
namespace {

using nlohmann::json;

inline constexpr double kMaxWaste = 1.01;  ///< arena over the live maximum that a plan may cost

struct Rung {
  std::string name, detail;
  bool passed = false;
};

// The rungs that need no run: every rank of the plan at full size.
std::vector<Rung> computed_rungs(const Question& question) {
  Compiler compiler;
  Rung fold{"fold = walk, every rank", "", true}, waste{"layout", "", true}, race{"no race between streams", "", true};
  double worst = 0;
  std::size_t instructions = 0;
  for (std::int64_t rank = 0; rank < question.cluster.world_size(); ++rank) {
    const Program program = compiler.compile(question, rank);
    const Estimate estimate = price(program);
    const WalkResult walked = walk(program, {.record_events = false, .steps = 2});
    instructions = walked.instruction_count;
    const WalkResult once = walk(program, {.record_events = false, .steps = 1});
    if (estimate.memory.peak_live != walked.trace.peak_live || estimate.step_time != once.trace.duration || !walked.balanced || walked.by_category_at_peak != estimate.memory.by_category) {
      fold.passed = false;
      fold.detail = fmt::format("rank {}: fold {} B and {} ns, walk {} B and {} ns", rank, estimate.memory.peak_live.value(), estimate.step_time.value(), walked.trace.peak_live.value(), once.trace.duration.value());
    } else if (fold.passed) {
      fold.detail = fmt::format("{} B live at the peak and {} a step on {} rank(s)", estimate.memory.peak_live.value(), format_seconds(seconds(estimate.step_time)), question.cluster.world_size());
    }
    // Ranks have the same sizes and lives, so the same addresses: those of the first are checked on all.
    const LinearProgram linear = linearize(program);
    const Layout layout = lay_out(program, linear);
    worst = std::max(worst, layout.waste_ratio());
    if (layout.max_live != estimate.memory.peak_live) {
      waste.passed = false;
      waste.detail = fmt::format("rank {}: the lives sum up to {} B, the fold says {} B", rank, layout.max_live.value(), estimate.memory.peak_live.value());
    }
    if (const auto found = find_race(program, linear, layout)) {
      race.passed = false;
      race.detail = fmt::format("rank {}: {}", rank, *found);
    }
    if (::isatty(STDERR_FILENO)) fmt::print(stderr, "\rrank {} of {}", rank + 1, question.cluster.world_size());
  }
  if (::isatty(STDERR_FILENO)) fmt::print(stderr, "\r                    \r");
  waste.passed = waste.passed && worst <= kMaxWaste;
  if (waste.detail.empty()) waste.detail = fmt::format("arena = {:.4f} × the live maximum (at most {:.2f})", worst, kMaxWaste);
  if (race.detail.empty()) race.detail = fmt::format("{} instructions in two steps, happens-before checked for every reuse of an address", instructions);
  return {fold, waste, race};
}

// A file for the executor that goes away with its scope.
class TemporaryPlan {
 public:
  explicit TemporaryPlan(const Question& question) {
    std::string pattern = (std::filesystem::temp_directory_path() / "zeroplan-XXXXXX").string();
    const int file = ::mkstemp(pattern.data());
    if (file < 0) throw EnvironmentError("cannot write a temporary file in " + std::filesystem::temp_directory_path().string());
    ::close(file);
    path_ = pattern;
    write_file_atomically(path_, plan_to_json(question).dump());
  }
  ~TemporaryPlan() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Small CPU plans are executed as they are; everything else as its twin.
bool runs_as_it_is(const Question& question) {
  return question.cluster.device.kind == DeviceKind::cpu && parameter_elems(question.job.model) <= 4'000'000 && question.tokens_per_micro_batch() <= 1024;
}

// Executed rungs, folded over ranks: a check has passed when it has on every rank.
std::vector<Rung> executed_rungs(const Question& question, int& code) {
  const bool twin = !runs_as_it_is(question);
  const TemporaryPlan plan(question);
  std::vector<std::string> arguments{plan.path(), "--prove"};
  if (twin) arguments.push_back("--twin");
  std::vector<Rung> rungs;
  std::map<std::string, std::size_t> index;
  std::map<std::string, std::int64_t> ranks;
  code = run_executor(arguments, [&](const std::string& line) {
    const json event = json::parse(line, nullptr, false);
    if (!event.is_object()) return;
    if (event.value("event", "") == "error") {
      rungs.push_back({"run", event.value("message", ""), false});
      return;
    }
    const std::string name = event.value("check", "");
    const auto [it, fresh] = index.emplace(name, rungs.size());
    if (fresh) rungs.push_back({name, "", true});
    Rung& rung = rungs[it->second];
    ++ranks[name];
    const bool passed = event.value("passed", false);
    if (rung.detail.empty() || (rung.passed && !passed)) rung.detail = (passed ? "" : fmt::format("rank {}: ", event.value("rank", 0))) + event.value("detail", "");
    rung.passed = rung.passed && passed;
  });
  for (Rung& rung : rungs)
    if (const std::int64_t count = ranks[rung.name]; count > 0) rung.name = fmt::format("{} ({}, {} rank{})", rung.name, twin ? "twin" : "run", count, count == 1 ? "" : "s");
  return rungs;
}

}  // namespace

int prove(const ProveOptions& options) {
  const Question question = options.question.question();
  require_zeroplan_engine(question);
  std::vector<Rung> rungs = computed_rungs(question);
  int code = 0;
  if (!options.no_run)
    for (Rung& rung : executed_rungs(question, code)) rungs.push_back(std::move(rung));
  bool all = true;
  json list = json::array();
  for (const Rung& rung : rungs) {
    all = all && rung.passed;
    if (options.json) list.push_back({{"rung", rung.name}, {"passed", rung.passed}, {"detail", rung.detail}});
  }
  if (options.json) {
    fmt::print("{}\n", json{{"format", "zeroplan-prove"}, {"version", 1}, {"proved", all}, {"executed", !options.no_run}, {"rungs", list}}.dump(2));
  } else {
    fmt::print("{}\n\n", question_line(question));
    for (const Rung& rung : rungs) fmt::print("{}  {:<58} {}\n", rung.passed ? "ok  " : "FAIL", rung.name, rung.detail);
    fmt::print("\n{}\n", !all ? "NOT PROVED: prediction and program differ, see above" : options.no_run ? "proved as far as it can be without running (--no-run)" : "PROVED: predicted = executed, to the byte");
  }
  if (all && code == 0) return 0;
  return code > 1 ? code : 1;
}

}  // namespace zeroplan::cli
