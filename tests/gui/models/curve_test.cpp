#include "gui/models/curve.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <unistd.h>

#include "gui/models/curve_tables.h"
#include "planner/core/error.h"
#include "simulator/timeline_files.h"
#include "simulator/trace_files.h"
#include "simulator/walk.h"

namespace zeroplan::gui {
namespace {

const std::string kData = std::string(ZEROPLAN_TEST_DATA) + "/memory_snapshots/";

std::vector<Curve> curves_of(const std::string& name) { return curves_of_snapshot(read_memory_snapshot(kData + name).value(), kData + name); }

/// A file of this test alone, gone with it.
struct Temporary {
  static inline int count = 0;
  std::string name = (std::filesystem::temp_directory_path() / ("zeroplan_curve_" + std::to_string(::getpid()) + "_" + std::to_string(count++) + ".jsonl")).string();
  explicit Temporary(const std::string& text) { std::ofstream(name, std::ios::binary) << text; }
  ~Temporary() { std::filesystem::remove(name); }
};

Asked asked(const std::string& words) { return std::get<Asked>(parse_command_line(words)); }

std::int64_t alive_bytes(const Curve& curve, std::size_t event) {
  std::int64_t out = 0;
  for (const std::uint32_t block : alive_blocks(curve, event)) out += curve.blocks[block].bytes;
  return out;
}

std::int64_t rows_difference(const Table& table, std::size_t from) {
  double out = 0;
  for (std::size_t i = from; i < table.rows.size(); ++i) out += table.rows[i].cells[3].order;
  return static_cast<std::int64_t>(out);
}

}  // namespace

TEST_CASE("a snapshot's curve has the peak, start and end that its allocator knows, and its blocks add up to it") {
  const auto expected = read_json_file(kData + "expected.json");
  for (const std::string name : {"training.pickle", "ring.pickle"}) {
    const std::vector<Curve> curves = curves_of(name);
    REQUIRE(curves.size() == expected[name].size());
    for (const Curve& curve : curves) {
      const auto& known = expected[name][std::to_string(curve.device)];
      INFO(curve.label);
      REQUIRE(curve.peak_bytes() == known["peak_bytes"].get<std::int64_t>());
      REQUIRE(curve.memory.total_after(curve.memory.size() - 1) == known["end_bytes"].get<std::int64_t>());
      for (std::size_t event = 0; event < curve.memory.size(); event += 7) REQUIRE(alive_bytes(curve, event) == curve.memory.total_after(event));
      REQUIRE(alive_bytes(curve, curve.peak_event) == curve.peak_bytes());
      REQUIRE(std::all_of(curve.blocks.begin(), curve.blocks.end(), [&](const CurveBlock& b) { return !curve.bands[b.band].empty(); }));
    }
  }
}

TEST_CASE("every snapshot that can be read has a curve; one that would run code is refused by name") {
  for (const std::string name : {"legacy_list.pickle", "profile.pickle", "ring_protocol5.pickle", "ring_torch_pickler.pickle"})
    for (const Curve& curve : curves_of(name)) REQUIRE(curve.peak_bytes() > 0);
  REQUIRE_THROWS_AS(curves_of("runs_code_protocol2.pickle"), InputError);
  REQUIRE_THROWS_AS(curves_of_snapshot(MemorySnapshot(), "empty.pickle"), InputError);
}

TEST_CASE("our categories keep their bands in a snapshot of a plan, byte for byte at the peak") {
  for (const char* words : {"qwen2.5-0.5b --on 8xa100-80g", "qwen2.5-0.5b --on 8xa100-80g --engine fsdp2", "qwen2.5-0.5b --on 8xa100-80g --engine zeroplan"}) {
    const Timeline timeline = timeline_of(asked(words).question);
    const std::vector<Curve> curves = curves_of_snapshot(snapshot_of(timeline), "plan.pickle");
    REQUIRE(curves.size() == 1);
    const Curve& curve = curves.front();
    REQUIRE(curve.has_categories);
    REQUIRE(curve.memory.stack_after(curve.peak_event) == timeline.by_category(timeline.peak()));
  }
}

TEST_CASE("a written trace is the plan's own curve again") {
  Workbench workbench;
  const auto ours = workbench.compute(asked("qwen2.5-0.5b --on 8xa100-80g --engine zeroplan --accumulate 2"), Addresses::leave_out);
  const Temporary walked(json_lines(ours->ours->program, walk(ours->ours->program).trace));
  const Curve a = curve_of(*ours), b = curve_of_trace(walked.name).value();
  REQUIRE(b.peak_bytes() == a.peak_bytes());
  REQUIRE(b.memory.stack_after(b.peak_event) == a.memory.stack_after(a.peak_event));
  REQUIRE(b.phases.size() == a.phases.size());
  for (const DeltaBy by : {DeltaBy::unit, DeltaBy::tensor}) REQUIRE(delta_table(a, b, {a.peak_event, b.peak_event}, by, {}, Language::english).rows.empty());
}

TEST_CASE("the tensors of an emulated engine's trace are the plan's, phases too") {
  Workbench workbench;
  const auto plan = workbench.compute(asked("qwen2.5-0.5b --on 8xa100-80g --stage 2 --accumulate 2"), Addresses::leave_out);
  const Temporary file(timeline_json_lines(*plan->timeline));
  const Curve a = curve_of(*plan), b = curve_of_trace(file.name).value();
  REQUIRE(b.peak_bytes() == a.peak_bytes());
  REQUIRE(alive_bytes(b, b.peak_event) == b.peak_bytes());
  REQUIRE(aligned(a, b).size() > 2);
  REQUIRE(delta_table(a, b, {a.peak_event, b.peak_event}, DeltaBy::tensor, {}, Language::english).rows.empty());
}

TEST_CASE("a damaged trace is refused with its line") {
  for (const char* text : {"{\"event\":\"birth\",\"storage\":\"x\",\"category\":\"parameters\",\"bytes\":4}\n{\"event\":\"birth\",\"storage\":3}\n",
                           "{\"event\":\"birth\",\"storage\":\"x\",\"category\":\"parameters\",\"bytes\":4}\n{\"event\":\"death\",\"storage\":\"y\"}\n",
                           "{\"event\":\"birth\",\"storage\":\"x\",\"category\":\"parameters\",\"bytes\":4}\n{\"event\":\"bi"}) {
    const Temporary file(text);
    REQUIRE_THROWS_WITH(curve_of_trace(file.name), Catch::Contains("line 2") && Catch::Contains(file.name));
  }
  const Temporary empty("{\"event\":\"run\",\"phase\":\"forward\",\"stream\":\"compute\",\"start_ns\":0,\"end_ns\":1}\n");
  REQUIRE_THROWS_AS(curve_of_trace(empty.name), InputError);
}

TEST_CASE("two curves meet phase by phase, and the columns of a picture reach both peaks", "[property]") {
  Workbench workbench;
  std::mt19937 random(5);
  for (const char* words : {"--accumulate 1", "--accumulate 2", "--accumulate 3 --seq 2048", "--engine zeroplan --accumulate 4", "--engine fsdp2", "--engine zeroplan --stage 1 --checkpoint none"}) {
    const auto x = workbench.compute(asked("qwen2.5-0.5b --on 8xa100-80g"), Addresses::leave_out), y = workbench.compute(asked(std::string("qwen2.5-0.5b --on 8xa100-80g ") + words), Addresses::leave_out);
    const Curve a = curve_of(*x), b = curve_of(*y);
    INFO(words);
    const std::vector<Stretch> stretches = aligned(a, b);
    REQUIRE(stretches.size() >= 3);
    REQUIRE(stretches.front().from == 0);
    REQUIRE(stretches.back().to == Approx(1));
    REQUIRE(stretches.back().phase == Phase::step);
    for (std::size_t i = 1; i < stretches.size(); ++i) REQUIRE((stretches[i].a.begin == stretches[i - 1].a.end && stretches[i].b.begin == stretches[i - 1].b.end && stretches[i].from == stretches[i - 1].to));
    const int width = 100 + static_cast<int>(random() % 900);
    std::int64_t highest_a = 0, highest_b = 0;
    for (const AlignedColumn& c : aligned_columns(a, b, 0, 1, width)) {
      REQUIRE(c.a_bytes == a.memory.total_after(c.a_event));
      highest_a = std::max(highest_a, c.a_bytes);
      highest_b = std::max(highest_b, c.b_bytes);
    }
    REQUIRE(highest_a == a.peak_bytes());
    REQUIRE(highest_b == b.peak_bytes());
  }
}

TEST_CASE("a phase that only one curve begins with joins the one after it", "[unit]") {
  const auto curve = [](std::vector<PhaseSpan> phases) {
    Curve out;
    out.duration = phases.back().time.end;
    out.phases = std::move(phases);
    return out;
  };
  const auto span = [](std::int64_t begin, std::int64_t end) { return TimeSpan{SimTime(begin), SimTime(end)}; };
  const Curve longer = curve({{Phase::forward, span(0, 10)}, {Phase::backward, span(10, 30)}, {Phase::step, span(30, 40)}}), shorter = curve({{Phase::backward, span(0, 20)}, {Phase::step, span(20, 30)}});
  const std::vector<Stretch> stretches = aligned(longer, shorter);
  REQUIRE(stretches.size() == 2);
  CHECK(stretches[0].a.end == SimTime(30));
  CHECK(stretches[0].b.end == SimTime(20));
  CHECK(stretches[1].phase == Phase::step);
  CHECK(aligned(shorter, longer)[0].b.end == SimTime(30));
}

TEST_CASE("differences by unit and by tensor each add up to the difference of the peaks, and say where each is") {
  Workbench workbench;
  const Curve a = curve_of(*workbench.compute(asked("qwen2.5-0.5b --on 8xa100-80g --engine zeroplan --stage 3"), Addresses::leave_out));
  for (const char* words : {"--engine zeroplan --stage 1", "--stage 2", "--engine ddp"}) {
    const Curve b = curve_of(*workbench.compute(asked(std::string("qwen2.5-0.5b --on 8xa100-80g ") + words), Addresses::leave_out));
    std::set<std::string> where;
    for (const DeltaBy by : {DeltaBy::unit, DeltaBy::tensor}) {
      const Table table = delta_table(a, b, {a.peak_event, b.peak_event}, by, {}, Language::english);
      REQUIRE(rows_difference(table, 0) == b.peak_bytes() - a.peak_bytes());
      for (const Row& row : table.rows) where.insert(row.cells[4].text);
    }
    REQUIRE(where.count("both") == 1);
    REQUIRE(where.count("only B") == 1);
    const Table categories = delta_table(a, b, {a.peak_event, b.peak_event}, DeltaBy::category, {}, Language::english);
    REQUIRE(categories.rows[1].cells[3].order == static_cast<double>(b.peak_bytes() - a.peak_bytes()));
    REQUIRE(rows_difference(categories, 3) == b.peak_bytes() - a.peak_bytes());
  }
}

TEST_CASE("blocks alive at an instant are a table that is sorted and filtered by stack frame") {
  const auto curve = std::make_shared<const Curve>(std::move(curves_of("training.pickle").front()));
  const BlocksSource blocks(curve, alive_blocks(*curve, curve->peak_event), {}, Language::english);
  REQUIRE(blocks.row_count() > 5);
  for (std::size_t row = 1; row < blocks.row_count(); ++row) REQUIRE(blocks.cell(row, 0).order <= blocks.cell(row - 1, 0).order);
  for (int column = 0; column < 5; ++column) {
    const auto rows = rows_in_order(blocks, {column, false, ""});
    const std::vector<double> order = blocks.order(static_cast<std::size_t>(column));
    for (std::size_t i = 1; i < rows.size(); ++i) REQUIRE(order[rows[i - 1]] <= order[rows[i]]);
  }
  const std::string frame = blocks.cell(0, 1).text;
  REQUIRE(frame != "not recorded");
  const auto same = rows_in_order(blocks, {-1, true, frame});
  REQUIRE_FALSE(same.empty());
  for (const std::uint32_t row : same) REQUIRE(blocks.cell(row, 1).text == frame);
  REQUIRE(blocks.note(0).find('\n') != std::string::npos);
}

}  // namespace zeroplan::gui
