#include <fmt/format.h>

#include <algorithm>

#include "cli/commands.h"
#include "cli/words.h"
#include "planner/core/error.h"
#include "planner/core/format.h"
#include "simulator/trace_files.h"
#include "simulator/walk.h"

namespace zeroplan::cli {
namespace {

constexpr int kRows = 16;

struct Column {
  std::int64_t peak = 0;
  Phase phase = Phase::forward;
};

// Highest live bytes in each of `width` equal stretches of the step's time.
std::vector<Column> columns_of(const Program& program, const Trace& trace, std::int64_t width) {
  std::vector<Column> out(static_cast<std::size_t>(width));
  const double total = std::max<double>(1, static_cast<double>(trace.duration.value()));
  const auto at = [&](SimTime t) { return std::min<std::size_t>(static_cast<std::size_t>(static_cast<double>(t.value()) / total * static_cast<double>(width)), static_cast<std::size_t>(width) - 1); };
  for (const TraceEvent& e : trace.events) {
    const Phase phase = program.fragments[e.fragment]->phase;
    if (e.kind != TraceEvent::Kind::run || phase == Phase::init) continue;
    for (std::size_t c = at(e.start); c <= at(e.end); ++c) {
      out[c].peak = std::max(out[c].peak, e.live_bytes);
      if (e.stream == Stream::compute) out[c].phase = phase;
    }
  }
  return out;
}

void draw(const Program& program, const Answer& a, const WalkResult& walked, std::int64_t width) {
  const std::vector<Column> columns = columns_of(program, walked.trace, width);
  const std::int64_t top = std::max(a.usable.value(), walked.trace.peak_live.value());
  fmt::print("{}\n\n", question_line(a.question));
  for (int row = kRows; row > 0; --row) {
    const double level = static_cast<double>(top) * row / kRows, below = static_cast<double>(top) * (row - 1) / kRows;
    fmt::print("{:>10} ", row % 4 == 0 ? format_gib(Bytes(static_cast<std::int64_t>(level))) : "");
    for (const Column& column : columns) {
      const auto peak = static_cast<double>(column.peak);
      const bool usable = static_cast<double>(a.usable.value()) <= level && static_cast<double>(a.usable.value()) > below;
      fmt::print("{}", peak >= level ? "█" : peak > below + (level - below) / 2 ? "▄" : usable ? "·" : " ");
    }
    fmt::print("\n");
  }
  fmt::print("{:>10} ", "");
  for (const Column& column : columns) fmt::print("{}", column.phase == Phase::forward ? 'f' : column.phase == Phase::backward ? 'b' : 's');
  fmt::print("\n{:>10} 0{:>{}}\n", "", format_seconds(seconds(walked.trace.duration)), width - 1);
  fmt::print("live memory of one step on rank 0 over time; f forward, b backward, s optimizer step; · usable {}\n", format_gib(a.usable));
  fmt::print("peak {} in {}\n", format_gib(walked.trace.peak_live), place_words(program, a.estimate.memory.peak));
}

bool ends_with(const std::string& text, std::string_view end) { return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0; }

}  // namespace

int timeline(const TimelineOptions& options) {
  const Question question = options.question.question();
  require_zeroplan_engine(question);
  Compiler compiler;
  Pricer pricer;
  const Program program = compiler.compile(question);
  const WalkResult walked = walk(program);
  if (options.out.empty()) {
    draw(program, answer(question, compiler, pricer, false), walked, options.width);
    fmt::print("next: zeroplan timeline {} -o step.json   (open it in https://ui.perfetto.dev or chrome://tracing)\n", options.question.as_typed());
    return 0;
  }
  if (ends_with(options.out, ".jsonl")) write_file_atomically(options.out, json_lines(program, walked.trace));
  else if (ends_with(options.out, ".json")) write_file_atomically(options.out, chrome_trace(program, walked.trace));
  else throw UsageError(fmt::format("-o {}: the ending says the format; use .json (Chrome trace, Perfetto) or .jsonl (one event a line)", options.out));
  fmt::print("{}: {} events of one step\n", options.out, walked.trace.events.size());
  return 0;
}

}  // namespace zeroplan::cli
