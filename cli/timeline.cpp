#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "cli/commands.h"
#include "cli/words.h"
#include "planner/core/error.h"
#include "planner/core/format.h"
#include "simulator/prediction.h"
#include "simulator/timeline_files.h"
#include "simulator/trace_files.h"
#include "simulator/walk.h"

namespace zeroplan::cli {
namespace {

constexpr int kRows = 16;

char phase_letter(const std::string& phase) {
  if (phase.ends_with("forward")) return 'f';
  if (phase.ends_with("backward")) return 'b';
  return phase.ends_with("step") ? 's' : phase == "init" ? 'i' : ' ';
}

/// What a row of the picture, from `below` to `level` bytes, shows of a column.
const char* cell(const Timeline& t, const TimelineColumn& column, double below, double level) {
  const auto live = static_cast<double>(t.instants[column.highest].live.value());
  const auto in_row = [&](Bytes bytes) { return static_cast<double>(bytes.value()) > below && static_cast<double>(bytes.value()) <= level; };
  if (live >= level) return "█";
  if (live > below + (level - below) / 2) return "▄";
  if (column.most_taken && in_row(*column.most_taken)) return "─";
  return in_row(t.usable) ? "·" : " ";
}

std::string legend_of(const Timeline& t) {
  const bool ours = t.question.plan.engine == Engine::zeroplan;
  std::string out = "requested memory of rank 0 in the order of issue; i init, f forward, b backward, s optimizer step;\n";
  out += ours ? "─ arena" : t.endless ? "─ what PyTorch's allocator would reserve on a device without end" : "─ reserved by PyTorch's allocator";
  return out + fmt::format("; {} {}", nears_capacity(t) ? "· usable" : "far above: usable", format_gib(t.usable));
}

void draw(const Timeline& t, std::int64_t width) {
  const std::vector<TimelineColumn> columns = columns_of(t, static_cast<std::size_t>(width));
  const std::int64_t top = std::max(nears_capacity(t) ? t.usable : Bytes(1), top_of(t)).value();
  fmt::print("{}\n\n", question_line(t.question));
  for (int row = kRows; row > 0; --row) {
    const double level = static_cast<double>(top) * row / kRows, below = static_cast<double>(top) * (row - 1) / kRows;
    fmt::print("{:>10} ", row % 4 == 0 ? format_gib(Bytes(static_cast<std::int64_t>(level))) : "");
    for (const TimelineColumn& column : columns) fmt::print("{}", cell(t, column, below, level));
    fmt::print("\n");
  }
  fmt::print("{:>10} ", "");
  for (const TimelineColumn& column : columns) fmt::print("{}", phase_letter(t.instants[column.highest].phase));
  const std::size_t peak = t.peak();
  fmt::print("\n{}\npeak {} in {}\n", legend_of(t), format_gib(t.instants[peak].live), instant_line(t, peak));
  if (t.failure) fmt::print("out of memory in {}, which asks for {} more\n", instant_line(t, t.failure->instant), format_gib(t.failure->tried));
}

PictureWords words_of(const Question& question) {
  const Prediction p = predict(question);
  return {fmt::format("{} on {}, {}: sequence {}, micro batch {}, checkpoint {}", question.job.model.name, question.cluster.name, engine_words(question), question.job.seq, question.plan.micro_batch, checkpoint_words(question)),
          fmt::format("{}: needs {} of {} usable", verdict_words(p.verdict), format_gib(p.must_fit), format_gib(p.usable))};
}

Span span_of(const std::string& text) {
  if (text == "steady") return Span::steady;
  if (text == "first") return Span::first;
  if (text == "init") return Span::init;
  if (text == "all") return Span::whole;
  throw UsageError(fmt::format("--span {}: is not known. Accepted: steady, first, init, all", text));
}

/// Our own engine's steps have times: its traces are those of the walk.
std::string timed(const Question& question, bool lines) {
  const Program program = compile(question);
  const WalkResult walked = walk(program);
  return lines ? json_lines(program, walked.trace) : chrome_trace(program, walked.trace);
}

using Writer = std::function<std::string(const Timeline&)>;

const std::map<std::string, Writer>& writers() {
  static const std::map<std::string, Writer> all{
      {".svg", [](const Timeline& t) { return timeline_svg(t, words_of(t.question)); }},
      {".html", [](const Timeline& t) { return timeline_html(t, words_of(t.question)); }},
      {".csv", timeline_csv},
      {".pickle", timeline_snapshot},
      {".jsonl", [](const Timeline& t) { return t.question.plan.engine == Engine::zeroplan ? timed(t.question, true) : timeline_json_lines(t); }},
      {".json", [](const Timeline& t) { return t.question.plan.engine == Engine::zeroplan ? timed(t.question, false) : timeline_chrome(t); }}};
  return all;
}

const Writer& writer_for(const std::string& file) {
  for (const auto& [ending, writer] : writers())
    if (file.ends_with(ending)) return writer;
  throw UsageError(fmt::format("-o {}: the ending says the format: .svg (picture), .html (page to send), .csv (table), .json (Chrome trace, Perfetto), .jsonl (one object a line), "
                               ".pickle (PyTorch snapshot for pytorch.org/memory_viz)", file));
}

}  // namespace

int timeline(const TimelineOptions& options) {
  const Span span = span_of(options.span);
  const Writer* writer = options.out.empty() ? nullptr : &writer_for(options.out);
  const Timeline t = timeline_of(asked_or_usual(options.question), span, EmulatedDevice::gpu, Detail::device);
  if (writer == nullptr) {
    draw(t, options.width);
    fmt::print("next: zeroplan timeline {}{} -o step.html   (or .svg, .csv, .json, .jsonl, .pickle)\n", options.question.as_typed(), span == Span::steady ? "" : " --span " + options.span);
    return 0;
  }
  write_file_atomically(options.out, (*writer)(t));
  fmt::print("{}: {} tensors in {} instants\n", options.out, t.tensors.size(), t.instants.size());
  return 0;
}

}  // namespace zeroplan::cli
