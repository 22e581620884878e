// The Map screen's model: our engine's layout, and the segments and blocks of the allocator's model for every other engine.
#include "gui/models/memory_map.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>

#include "gui/models/map_words.h"

namespace zeroplan::gui {
namespace {

Asked asked(const std::string& words) {
  const auto parsed = parse_command_line("qwen2.5-1.5b --on 8xa100-80g " + words);
  INFO(words);
  REQUIRE(std::holds_alternative<Asked>(parsed));
  return std::get<Asked>(parsed);
}

const char* const kPlans[] = {"", "--stage 1", "--stage 2 --accumulate 12", "--accumulate 9 --seq 512", "--engine fsdp2 --accumulate 6", "--engine fsdp1", "--engine ddp --micro-batch 2", "--expandable-segments true",
                              "--engine fsdp2 --expandable-segments true --accumulate 8", "--stage 2 --offload-optimizer cpu", "--stage 3 --offload-optimizer cpu --offload-parameters cpu",
                              "--micro-batch 32 --checkpoint none"};

/// Bytes [begin, end) of the picture from instant to instant.
struct Stretch {
  std::int64_t begin = 0, end = 0;
  bool segment = false;
  Stream stream = Stream::compute;
};

}  // namespace

TEST_CASE("rectangles of the arena that are alive together never overlap and stay inside it", "[property]") {
  Workbench workbench;
  const auto answered = workbench.compute(asked_of("qwen2.5-0.5b", "2xa100-80g", Engine::zeroplan), Addresses::lay_out);
  const MemoryMap map = map_of(*answered);
  REQUIRE(map.rectangles.size() == answered->picture.lives.size());
  REQUIRE(map.height_bytes == answered->prediction.must_fit.value());
  const StepPicture& picture = answered->picture;
  for (std::size_t i = 0; i < map.rectangles.size(); ++i) {
    const MapRectangle& r = map.rectangles[i];
    REQUIRE(r.begin_bytes >= 0);
    REQUIRE(r.end_bytes <= answered->prediction.must_fit.value());
    for (std::size_t j = i + 1; j < map.rectangles.size(); ++j) {
      const LifeSpan &a = picture.lives[i], &b = picture.lives[j];
      const bool together = a.first_event < b.last_event && b.first_event < a.last_event;
      const bool touch = r.begin_bytes < map.rectangles[j].end_bytes && map.rectangles[j].begin_bytes < r.end_bytes;
      if (together && touch) FAIL("lives " << i << " and " << j << " overlap");
    }
  }
}

TEST_CASE("blocks, gaps and workspaces tile the segments of each instant without overlap, each block in a segment of its stream", "[property]") {
  Workbench workbench;
  for (const char* words : kPlans) {
    INFO(words);
    const auto answered = workbench.compute(asked(words), Addresses::leave_out);
    const Timeline addressed = timeline_of(answered->asked.question, span_of_peak(answered->prediction), EmulatedDevice::gpu, Detail::addresses);
    const MemoryMap map = map_of(*answered, addressed);
    const StepPicture& picture = answered->picture;
    const std::size_t instants = picture.instructions.size();
    REQUIRE(map.rectangles.size() == picture.lives.size());
    REQUIRE(map.workspaces.size() == 2);
    REQUIRE(map.gaps.size() > 10);
    std::vector<std::vector<Stretch>> born(instants), gone(instants);
    const auto add = [&](const Stretch& s, std::uint32_t first, std::uint32_t last) {
      REQUIRE(0 <= s.begin);
      REQUIRE(s.begin < s.end);
      REQUIRE(s.end <= map.height_bytes);
      if (first > last) return;  // between two instants
      born[first].push_back(s);
      if (last < instants) gone[last].push_back(s);
    };
    for (const MapSegment& s : map.segments) add({s.begin_bytes, s.end_bytes, true, s.stream}, s.first, s.last);
    for (const MapStretch& g : map.gaps) {
      REQUIRE(map.segments[g.segment].begin_bytes <= g.begin_bytes);
      REQUIRE(g.end_bytes <= map.segments[g.segment].end_bytes);
      add({g.begin_bytes, g.end_bytes, false, map.segments[g.segment].stream}, g.first, g.last);
    }
    for (const MapStretch& w : map.workspaces) add({w.begin_bytes, w.end_bytes, false, Stream::compute}, w.first, w.last);
    for (const MapRectangle& r : map.rectangles) {
      const LifeSpan& life = picture.lives[r.life];
      REQUIRE(r.asked_end_bytes - r.begin_bytes == life.bytes);
      REQUIRE(r.asked_end_bytes <= r.end_bytes);
      add({r.begin_bytes, r.end_bytes, false, addressed.tensors[r.life].stream}, life.born, life.dies);
    }
    std::map<std::int64_t, Stretch> segments, parts;  // by begin
    std::int64_t in_segments = 0, in_parts = 0, highest = 0;
    for (std::size_t i = 0; i < instants; ++i) {
      for (const bool segment : {true, false})
        for (const Stretch& s : born[i]) {
          if (s.segment != segment) continue;
          auto& live = segment ? segments : parts;
          const auto [place, fresh] = live.emplace(s.begin, s);
          REQUIRE(fresh);
          REQUIRE((place == live.begin() || std::prev(place)->second.end <= s.begin));
          REQUIRE((std::next(place) == live.end() || s.end <= std::next(place)->first));
          (segment ? in_segments : in_parts) += s.end - s.begin;
          if (segment) continue;
          const auto in = std::prev(segments.upper_bound(s.begin));
          REQUIRE(s.end <= in->second.end);
          REQUIRE(in->second.stream == s.stream);
        }
      REQUIRE(in_parts == in_segments);
      REQUIRE(in_segments <= addressed.instants[i].taken->value());
      if (answered->prediction.cache_emptied == 0) REQUIRE(in_segments == addressed.instants[i].taken->value());
      highest = std::max(highest, in_segments);
      for (const Stretch& s : gone[i]) {
        (s.segment ? segments : parts).erase(s.begin);
        (s.segment ? in_segments : in_parts) -= s.end - s.begin;
      }
    }
    REQUIRE(map.height_bytes >= highest);
    const bool all_stay = std::all_of(map.segments.begin(), map.segments.end(), [&](const MapSegment& s) { return s.last >= instants; });
    if (all_stay) REQUIRE(map.height_bytes == highest);
  }
}

TEST_CASE("the picture's height is the reserved bytes that the verdict counts, where nothing is given back") {
  Workbench workbench;
  for (const char* words : {"", "--stage 2", "--engine fsdp2"}) {
    const auto answered = workbench.compute(asked(words), Addresses::leave_out);
    INFO(words);
    REQUIRE(emulated_map_of(*answered).height_bytes == answered->prediction.whole.reserved.value());
    REQUIRE(answered->prediction.must_fit == answered->prediction.whole.reserved);
  }
}

TEST_CASE("what lies next to a block is what the others say of it, and the words name it in both languages", "[property]") {
  Workbench workbench;
  for (const bool ours : {true, false}) {
    const auto answered = workbench.compute(ours ? asked("--engine zeroplan") : asked(""), Addresses::lay_out);
    const MemoryMap map = ours ? map_of(*answered) : emulated_map_of(*answered);
    std::size_t seen = 0;
    for (std::size_t i = 0; i < map.rectangles.size(); i += 97) {
      const LifeSpan& life = answered->picture.lives[map.rectangles[i].life];
      const MapNeighbours next = neighbours_of(map, *answered, i, life.born);
      REQUIRE(next.segment.has_value() == !ours);
      REQUIRE(next.below.free_bytes >= 0);
      REQUIRE(next.segment_free_bytes >= next.below.free_bytes + next.above.free_bytes);
      if (!next.above.rectangle) continue;
      ++seen;
      const MapNeighbours back = neighbours_of(map, *answered, *next.above.rectangle, life.born);
      REQUIRE(back.below.rectangle == i);
      REQUIRE(back.below.free_bytes == next.above.free_bytes);
      for (const Language language : {Language::english, Language::chinese}) {
        const std::string words = neighbour_words(*answered, map, i, life.born, language);
        REQUIRE(std::count(words.begin(), words.end(), '\n') >= 1);
        REQUIRE(block_words(*answered, map, i, language).find("[0x") != std::string::npos);
      }
    }
    REQUIRE(seen > 5);
    for (const MapStretch& gap : map.gaps) REQUIRE_FALSE(gap_words(map, gap, Language::chinese).empty());
  }
}

TEST_CASE("a saved block input is read next by the backward that recomputes from it") {
  Workbench workbench;
  const auto answered = workbench.compute(asked_of("qwen2.5-0.5b", "2xa100-80g", Engine::zeroplan), Addresses::lay_out);
  const StepPicture& picture = answered->picture;
  std::size_t found = 0;
  for (const LifeSpan& life : picture.lives) {
    if (!life.storage || answered->ours->program.storages[*life.storage].name != "block.x") continue;
    const auto last_forward = [&](std::uint32_t i) { return answered->ours->program.fragments[picture.instructions[i].fragment]->phase == Phase::forward; };
    std::optional<std::uint32_t> reader = next_reader(*answered, life, life.born);
    REQUIRE(reader);
    while (reader && last_forward(*reader)) reader = next_reader(*answered, life, *reader);
    found += reader.has_value();
  }
  REQUIRE(found > 10);
}

}  // namespace zeroplan::gui
