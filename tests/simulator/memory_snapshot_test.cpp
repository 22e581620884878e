#include "simulator/memory_snapshot.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <tuple>

#include <nlohmann/json.hpp>

#include "planner/core/error.h"

namespace zeroplan {
namespace {

const std::string kData = std::string(ZEROPLAN_TEST_DATA) + "/memory_snapshots/";

MemorySnapshot read(const std::string& name) { return read_memory_snapshot(kData + name).value(); }

std::string text_of_file(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::optional<MemorySnapshot> read_bytes(std::string_view bytes) {
  return read_memory_snapshot({reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()}, "bytes");
}

std::string pickled(const MemorySnapshot& snapshot) {
  std::ostringstream out;
  write_memory_snapshot(snapshot, out);
  return out.str();
}

std::int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

/// A trace and one segment with these active blocks.
struct Small {
  MemorySnapshot snapshot;
  Small() { snapshot.device_traces.resize(1); }
  Small& entry(TraceAction action, std::int64_t address, std::int64_t size_bytes) {
    snapshot.device_traces[0].push_back({.address = address, .size_bytes = size_bytes, .action = action});
    return *this;
  }
  Small& alloc(std::int64_t address, std::int64_t size_bytes) { return entry(TraceAction::alloc, address, size_bytes); }
  Small& free(std::int64_t address, std::int64_t size_bytes) {
    return entry(TraceAction::free_requested, address, size_bytes).entry(TraceAction::free_completed, address, size_bytes);
  }
  Small& active(std::int64_t address, std::int64_t requested_bytes) {
    if (snapshot.segments.empty()) snapshot.segments.push_back({.total_bytes = 1 << 20});
    snapshot.segments[0].blocks.push_back({address, 512, requested_bytes, kEmptyStack, SnapshotBlock::State::active_allocated});
    return *this;
  }
};

std::int64_t active_bytes(const MemorySnapshot& snapshot, int device) {
  std::int64_t sum = 0;
  for (const SnapshotSegment& segment : snapshot.segments)
    for (const SnapshotBlock& block : segment.blocks)
      if (segment.device == device && block.is_active()) sum += block.requested_bytes;
  return sum;
}

}  // namespace

TEST_CASE("a snapshot of PyTorch's shape is read in full", "[unit]") {
  const MemorySnapshot snapshot = read("training.pickle");
  REQUIRE(snapshot.device_traces.size() == 3);
  CHECK(snapshot.device_count() == 3);
  CHECK(snapshot.device_traces[1].empty());
  REQUIRE(snapshot.settings);
  CHECK(snapshot.settings == SnapshotSettings{"expandable_segments:True", std::nullopt, 0.75, true});
  const SnapshotEntry& first = snapshot.device_traces[0].at(0);
  CHECK(first.action == TraceAction::segment_alloc);
  CHECK(first.address == 0x7F0000000000);
  CHECK(first.size_bytes == 2 << 20);
  CHECK(first.time_us > 1'760'000'000'000'000);
  CHECK(first.category == kUnknownCategory);
  REQUIRE_FALSE(snapshot.stacks.frames_of(first.stack).empty());
  const Frame& frame = snapshot.stacks[snapshot.stacks.frames_of(first.stack)[0]];
  CHECK(snapshot.strings[frame.file].starts_with("/src/model_"));
  CHECK(frame.line >= 10);
  const SnapshotEntry& oom = *(snapshot.device_traces[0].end() - 2);
  CHECK(oom.action == TraceAction::oom);
  CHECK(oom.address == 3 << 20);
  CHECK(oom.size_bytes == std::int64_t{1} << 40);
  CHECK(snapshot.device_traces[0].back().action == TraceAction::snapshot);
  CHECK(snapshot.stacks.frame_count() <= 24);
  const SnapshotSegment& last = snapshot.segments.back();
  CHECK(last.device == 2);
  CHECK(last.is_expandable);
  CHECK(last.blocks.back().address + last.blocks.back().size_bytes == last.address + last.total_bytes);
}

TEST_CASE("timelines agree with an allocator that saw everything, also where the ring buffer lost the beginning", "[unit]") {
  const std::string name = GENERATE(as<std::string>{}, "training.pickle", "ring.pickle");
  const nlohmann::json all = nlohmann::json::parse(text_of_file(kData + "expected.json"));
  const MemorySnapshot snapshot = read(name);
  for (const auto& [device_name, expected] : all.at(name).items()) {
    const int device = std::stoi(device_name);
    const LiveTimeline timeline = timeline_of(snapshot, device);
    CHECK(snapshot.trace_of(device).size() == expected.at("entries"));
    CHECK(timeline.start_bytes.value() == expected.at("start_bytes"));
    CHECK(timeline.peak_bytes.value() == expected.at("peak_bytes"));
    CHECK(timeline.end_bytes.value() == expected.at("end_bytes"));
    CHECK(timeline.end_bytes.value() == active_bytes(snapshot, device));
    const auto at_start = std::count_if(timeline.blocks.begin(), timeline.blocks.end(), [](const LiveBlock& b) { return !b.birth_entry; });
    const auto at_end = std::count_if(timeline.blocks.begin(), timeline.blocks.end(), [](const LiveBlock& b) { return !b.death_entry; });
    CHECK(at_start == expected.at("blocks_at_start"));
    CHECK(at_end == expected.at("blocks_at_end"));
    CHECK(timeline.unrecorded_births == 0);
    CHECK(timeline.unrecorded_deaths == 0);
    for (const LiveStep& step : timeline.steps) {
      const LiveBlock& block = timeline.blocks.at(step.block);
      REQUIRE((step.is_birth ? block.birth_entry : block.death_entry) == step.entry);
    }
  }
}

TEST_CASE("all pickles of one snapshot are read alike: protocols 2 and 5, and PyTorch's own pickler", "[unit]") {
  const std::string expected = pickled(read("ring.pickle"));
  CHECK(pickled(read("ring_protocol5.pickle")) == expected);
  CHECK(pickled(read("ring_torch_pickler.pickle")) == expected);
}

TEST_CASE("a snapshot of 2022, a list of segments, is read", "[unit]") {
  const MemorySnapshot snapshot = read("legacy_list.pickle");
  REQUIRE(snapshot.segments.size() == 1);
  const SnapshotSegment& segment = snapshot.segments[0];
  CHECK_FALSE(segment.is_large);
  REQUIRE(segment.blocks.size() == 3);
  CHECK(segment.blocks[0].requested_bytes == 1000);
  CHECK(snapshot.stacks.frames_of(segment.blocks[0].stack).size() == 2);
  CHECK(segment.blocks[1].address == 5120);
  CHECK(segment.blocks[1].requested_bytes == 1024);
  CHECK(segment.blocks[1].state == SnapshotBlock::State::active_pending_free);
  CHECK(timeline_of(snapshot, 0).end_bytes.value() == 2024);
  CHECK(timeline_of(snapshot, 0).peak_bytes.value() == 2024);
}

TEST_CASE("categories of PyTorch's profiler are read", "[unit]") {
  const MemorySnapshot snapshot = read("profile.pickle");
  std::map<std::string, std::int64_t> bytes;
  for (const LiveBlock& block : timeline_of(snapshot, 0).blocks) bytes[snapshot.strings[block.category]] += block.size_bytes.value();
  CHECK(bytes.contains("optimizer_state"));
  CHECK(bytes.contains("gradient"));
  CHECK(bytes.contains("unknown"));
}

TEST_CASE("what is written is read as it was", "[unit]") {
  const std::string name = GENERATE(as<std::string>{}, "training.pickle", "ring.pickle", "legacy_list.pickle", "profile.pickle");
  const MemorySnapshot snapshot = read(name);
  const std::string bytes = pickled(snapshot);
  const MemorySnapshot again = read_bytes(bytes).value();
  CHECK(pickled(again) == bytes);
  CHECK(again.settings == snapshot.settings);
  REQUIRE(again.segments.size() == snapshot.segments.size());
  for (std::size_t i = 0; i < again.segments.size(); ++i) {
    CHECK(again.segments[i].blocks.size() == snapshot.segments[i].blocks.size());
    CHECK(again.segments[i].pool_id == snapshot.segments[i].pool_id);
  }
  REQUIRE(again.device_traces.size() == snapshot.device_traces.size());
  for (std::size_t d = 0; d < again.device_traces.size(); ++d) {
    REQUIRE(again.device_traces[d].size() == snapshot.device_traces[d].size());
    for (std::size_t i = 0; i < again.device_traces[d].size(); ++i) {
      const SnapshotEntry &a = again.device_traces[d][i], &b = snapshot.device_traces[d][i];
      REQUIRE(std::tie(a.address, a.size_bytes, a.time_us, a.stream, a.action) == std::tie(b.address, b.size_bytes, b.time_us, b.stream, b.action));
      REQUIRE(again.strings[a.category] == snapshot.strings[b.category]);
      REQUIRE(again.stacks.frames_of(a.stack).size() == snapshot.stacks.frames_of(b.stack).size());
    }
  }
}

TEST_CASE("a written snapshot with categories names unknown among them, as the viewer needs", "[unit]") {
  MemorySnapshot snapshot;
  const StringId weights = snapshot.strings.intern("weights");
  snapshot.device_traces.push_back({{.address = 512, .size_bytes = 100, .category = weights}});
  const MemorySnapshot again = read_bytes(pickled(snapshot)).value();
  REQUIRE(again.device_traces[0].size() == 2);
  CHECK(again.strings[again.device_traces[0][0].category] == "weights");
  CHECK(again.device_traces[0][1].action == TraceAction::snapshot);
  CHECK(again.device_traces[0][1].category == kUnknownCategory);
  CHECK(pickled(snapshot).find("unknown") != std::string::npos);
  CHECK(pickled(read("ring.pickle")).find("category") == std::string::npos);
}

TEST_CASE("history that was off for a while is mended and counted", "[unit]") {
  SECTION("a second alloc at an open address") {
    const LiveTimeline timeline = timeline_of(Small().alloc(512, 100).alloc(512, 200).snapshot, 0);
    CHECK(timeline.end_bytes.value() == 200);
    CHECK(timeline.peak_bytes.value() == 200);
    CHECK(timeline.unrecorded_deaths == 1);
  }
  SECTION("a second free at a closed address") {
    const LiveTimeline timeline = timeline_of(Small().free(512, 100).free(512, 300).snapshot, 0);
    CHECK(timeline.start_bytes.value() == 100);
    CHECK(timeline.peak_bytes.value() == 300);
    CHECK(timeline.end_bytes.value() == 0);
    CHECK(timeline.unrecorded_births == 1);
  }
  SECTION("the segments lack an open block") {
    const LiveTimeline timeline = timeline_of(Small().alloc(512, 100).alloc(1024, 50).active(1024, 50).snapshot, 0);
    CHECK(timeline.end_bytes.value() == 50);
    CHECK(timeline.peak_bytes.value() == 150);
    CHECK(timeline.blocks.at(0).death_entry == 2u);
    CHECK(timeline.unrecorded_deaths == 1);
  }
  SECTION("the segments hold another size, or a block that the trace freed") {
    const LiveTimeline timeline = timeline_of(Small().alloc(512, 100).free(1024, 50).active(512, 70).active(1024, 60).snapshot, 0);
    CHECK(timeline.start_bytes.value() == 50);
    CHECK(timeline.end_bytes.value() == 130);
    CHECK(timeline.unrecorded_births == 2);
    CHECK(timeline.unrecorded_deaths == 1);
  }
  SECTION("without segments the trace alone decides") { CHECK(timeline_of(Small().alloc(512, 100).snapshot, 0).end_bytes.value() == 100); }
}

TEST_CASE("a block whose free is only requested is alive", "[unit]") {
  const LiveTimeline timeline = timeline_of(Small().alloc(512, 100).entry(TraceAction::free_requested, 512, 100).snapshot, 0);
  CHECK(timeline.end_bytes.value() == 100);
  CHECK(timeline_of(Small().snapshot, 5).blocks.empty());
}

TEST_CASE("a snapshot that would run code is refused, and nothing runs", "[unit]") {
  const std::string name = GENERATE(as<std::string>{}, "runs_code_protocol2.pickle", "runs_code_protocol4.pickle");
  CHECK_THROWS_WITH(read(name), Catch::Contains(name) && Catch::Contains("GLOBAL posix.system would import Python code") &&
                                    Catch::Contains("do not load this file in Python"));
}

TEST_CASE("pickles of other things are refused with a reason", "[unit]") {
  const auto refused = [](std::string_view bytes, const std::string& problem) { CHECK_THROWS_WITH(read_bytes(bytes), Catch::Contains(problem)); };
  refused("\x80\x02N.", "no memory snapshot");
  refused("\x80\x04}\x8c\x01xNs.", "no memory snapshot");
  CHECK_THROWS_AS(read_memory_snapshot("/nonexistent/snapshot.pickle"), InputError);
  CHECK_THROWS_WITH(read_memory_snapshot(kData), Catch::Contains("is not a file"));
}

TEST_CASE("every beginning of a snapshot is refused", "[unit]") {
  const std::string name = GENERATE(as<std::string>{}, "training.pickle", "ring_torch_pickler.pickle", "legacy_list.pickle");
  const std::string whole = text_of_file(kData + name);
  REQUIRE(read_bytes(whole));
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) REQUIRE_THROWS_AS(read_bytes(std::string_view(whole).substr(0, bytes)), InputError);
}

TEST_CASE("changed bytes end in an error or another snapshot, within little memory", "[property]") {
  const std::int64_t before_bytes = peak_resident_bytes();
  std::mt19937_64 random(11);
  int refused = 0, read = 0;
  for (const char* const name : {"ring.pickle", "ring_protocol5.pickle", "ring_torch_pickler.pickle", "legacy_list.pickle", "training.pickle"}) {
    const std::string whole = text_of_file(kData + name);
    for (int i = 0; i < 2000; ++i) {
      std::string changed = whole;
      const std::uint64_t flips = 1 + random() % 3;
      for (std::uint64_t flip = 0; flip < flips; ++flip) changed[random() % changed.size()] = static_cast<char>(random());
      try {
        const MemorySnapshot snapshot = read_bytes(changed).value();
        for (int device = 0; device < snapshot.device_count(); ++device) REQUIRE(timeline_of(snapshot, device).peak_bytes >= Bytes(0));
        REQUIRE_NOTHROW(read_bytes(pickled(snapshot)));
        ++read;
      } catch (const InputError&) {
        ++refused;
      }
    }
  }
  CHECK(refused > 1000);
  CHECK(read > 1000);
  CHECK(peak_resident_bytes() - before_bytes < 512 << 20);  // a claim that is believed takes gigabytes
}

TEST_CASE("a file is written whole or not at all", "[unit]") {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("zeroplan_snapshot_" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const std::string file = (folder / "out.pickle").string();
  const MemorySnapshot snapshot = read("ring.pickle");
  write_memory_snapshot(snapshot, file);
  CHECK(text_of_file(file) == pickled(snapshot));
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);
  CHECK_THROWS_AS(write_memory_snapshot(snapshot, (folder / "missing" / "out.pickle").string()), RunError);
  std::filesystem::remove_all(folder);
}

TEST_CASE("reading can be stopped", "[unit]") {
  CHECK_FALSE(read_memory_snapshot(kData + "ring.pickle", [](const ReadProgress&) { return false; }));
  ReadProgress last;
  CHECK(read_memory_snapshot(kData + "ring.pickle", [&](const ReadProgress& progress) { return last = progress, true; }));
  CHECK(last.done_bytes == last.total_bytes);
  CHECK(last.total_bytes == static_cast<std::int64_t>(std::filesystem::file_size(kData + "ring.pickle")));
}

TEST_CASE("a stack of more than one pickler's batch is one stack", "[unit]") {
  std::string bytes;
  PickleWriter w([&](std::string_view piece) { bytes += piece; });
  w.begin_dict();
  w.string("device_traces");
  w.begin_list();
  w.begin_list();
  for (int copy = 0; copy < 2; ++copy) {
    w.begin_dict();
    for (const char* const key : {"addr", "size"}) w.string(key), w.integer(512);
    w.string("action"), w.string("alloc");
    w.string("frames");
    w.begin_list();
    for (int i = 0; i < 2500; ++i) {
      w.begin_dict();
      w.string("filename"), w.string("deep.py");
      w.string("name"), w.string("f");
      w.string("line"), w.integer(i);
      w.end();
    }
    w.end();
    w.end();
  }
  w.end();
  w.end();
  w.end();
  w.finish();
  const MemorySnapshot snapshot = read_bytes(bytes).value();
  CHECK(snapshot.stacks.frame_count() == 2500);
  CHECK(snapshot.stacks.stack_count() == 2);
  CHECK(snapshot.stacks.frames_of(snapshot.device_traces[0][1].stack).size() == 2500);
}

}  // namespace zeroplan
