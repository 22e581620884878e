#include "gui/models/stream_lanes.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "gui/models/plan_tables.h"
#include "gui/models/workbench.h"

namespace zeroplan::gui {
namespace {

std::shared_ptr<const Answered> answered(const std::string& words) {
  const auto parsed = parse_command_line("qwen2.5-1.5b --on 8xa100-80g " + words);
  INFO(words);
  REQUIRE(std::holds_alternative<Asked>(parsed));
  return Workbench().compute(std::get<Asked>(parsed), Addresses::leave_out);
}

const char* const kPlans[] = {"", "--stage 2", "--stage 2 --accumulate 12", "--accumulate 9", "--accumulate 40 --seq 512", "--engine fsdp2", "--engine fsdp2 --accumulate 8", "--engine fsdp1 --accumulate 5", "--engine ddp --accumulate 6",
                              "--stage 3 --offload-optimizer cpu --offload-parameters cpu --accumulate 6", "--engine zeroplan --accumulate 12"};

}  // namespace

TEST_CASE("a lane's busy stretches ascend without overlap, hold all of its works and nothing else, inside the step", "[property]") {
  for (const char* words : kPlans) {
    INFO(words);
    const auto a = answered(words);
    const StepPicture& picture = a->picture;
    REQUIRE(picture.has_clock);
    REQUIRE(picture.lanes.size() >= 2);
    for (const StreamLane& l : picture.lanes) {
      INFO(std::string(name_of(l.lane)));
      SimTime end;
      for (std::size_t i = 0; i < l.busy.size(); ++i) {
        REQUIRE(l.busy[i].begin < l.busy[i].end);
        REQUIRE((i == 0 || end < l.busy[i].begin));
        end = l.busy[i].end;
      }
      REQUIRE(end <= picture.duration);
      for (const LaneWork& work : l.work) {
        const auto in = std::upper_bound(l.busy.begin(), l.busy.end(), work.time.begin, [](SimTime t, const TimeSpan& s) { return t < s.begin; });
        REQUIRE(in != l.busy.begin());
        REQUIRE(work.time.end <= std::prev(in)->end);
        const LaneWork* at = work_at(l, work.time.begin);
        REQUIRE(at != nullptr);
        REQUIRE(at->time.begin == work.time.begin);
      }
    }
    for (std::size_t i = 1; i < picture.exposed.size(); ++i) REQUIRE(picture.exposed[i - 1].end <= picture.exposed[i].begin);
    if (!picture.exposed.empty()) REQUIRE(picture.exposed.back().end <= picture.duration);
  }
}

TEST_CASE("kernels of one stream never run at once, drawn or not", "[property]") {
  for (const char* words : kPlans) {
    INFO(words);
    const auto a = answered(words);
    std::map<Stream, std::vector<TimeSpan>> kernels;
    for (const StreamLane& l : a->picture.lanes)
      for (const LaneWork& work : l.work) {
        if (a->ours) kernels[a->picture.instructions[work.index].stream].push_back(work.time);
        else if (const TimelineWork& of = a->timeline->work[work.index]; of.kind == TimelineWork::Kind::kernel) kernels[of.stream].push_back(work.time);
      }
    REQUIRE(kernels.contains(Stream::compute));
    for (auto& [stream, spans] : kernels) {
      std::sort(spans.begin(), spans.end(), [](const TimeSpan& x, const TimeSpan& y) { return x.begin < y.begin; });
      constexpr SimTime kRounding(2);
      for (std::size_t i = 1; i < spans.size(); ++i) REQUIRE(spans[i - 1].end <= spans[i].begin + kRounding);
    }
  }
}

TEST_CASE("where communication is exposed no kernel of the compute stream runs", "[property]") {
  for (const char* words : kPlans) {
    INFO(words);
    const auto a = answered(words);
    std::vector<TimeSpan> kernels;
    for (const LaneWork& work : a->picture.lanes.front().work)
      if (a->ours || a->timeline->work[work.index].kind == TimelineWork::Kind::kernel) kernels.push_back(work.time);
    std::size_t next = 0;
    constexpr SimTime kRounding(2);
    for (const TimeSpan& exposed : a->picture.exposed) {
      while (next < kernels.size() && kernels[next].end <= exposed.begin + kRounding) ++next;
      if (next < kernels.size()) REQUIRE(exposed.end <= kernels[next].begin + kRounding);
    }
  }
}

TEST_CASE("columns of a lane add up to its time at every zoom", "[property]") {
  const auto a = answered("--accumulate 9");
  std::mt19937_64 random(5);
  for (int round = 0; round < 60; ++round) {
    const std::int64_t whole = a->picture.duration.value(), from = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(whole)), to = from + 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(whole - from + 1000));
    const int width = 1 + static_cast<int>(random() % 2000);
    for (const StreamLane& l : a->picture.lanes) {
      const std::vector<float> covered = covered_ratios(l.busy, SimTime(from), SimTime(to), width);
      REQUIRE(covered.size() == static_cast<std::size_t>(width));
      double sum = 0, expected = 0;
      for (const float ratio : covered) {
        REQUIRE(ratio <= 1.001f);
        sum += ratio;
      }
      for (const TimeSpan& span : l.busy) expected += static_cast<double>(std::max<std::int64_t>(0, std::min(span.end.value(), to) - std::max(span.begin.value(), from)));
      REQUIRE(sum * static_cast<double>(to - from) / width == Approx(expected).margin(static_cast<double>(to - from) * 1e-4));
    }
  }
}

TEST_CASE("an emulated step is drawn on the compute clock: monotone, its maximum the fold's peak, its end the step's", "[property]") {
  for (const char* words : kPlans) {
    INFO(words);
    const auto a = answered(words);
    const StepPicture& picture = a->picture;
    REQUIRE(picture.memory.total_after(picture.peak_event) == a->prediction.whole.requested.value());
    SimTime before;
    for (const InstructionSpan& i : picture.instructions) {
      REQUIRE(before <= i.place.begin);
      REQUIRE(i.place.begin <= i.place.end);
      before = i.place.end;
    }
    REQUIRE(before <= picture.duration);
    REQUIRE(seconds(step_time(picture, picture.duration)) == Approx(a->step_s()).epsilon(1e-6));
    if (!a->timeline) continue;
    REQUIRE(instruction_at(picture, picture.peak_event) == a->timeline->peak());
    const TimeSpan peak = picture.instructions[a->timeline->peak()].place;
    REQUIRE(picture.memory.time(picture.peak_event) == peak.begin);
  }
}

TEST_CASE("equal micro batches are drawn once, marked, and what lies between the marks does not depend on how many they are") {
  for (const std::string engine : {"", "--stage 2 ", "--engine fsdp2 ", "--engine ddp ", "--engine zeroplan "}) {
    INFO(engine);
    const auto few = answered(engine + "--accumulate 12"), many = answered(engine + "--accumulate 60");
    REQUIRE(few->picture.repeats.size() == 1);
    REQUIRE(many->picture.repeats.size() == 1);
    const RepeatSpan &a = few->picture.repeats.front(), &b = many->picture.repeats.front();
    REQUIRE(b.count == a.count + 48);
    REQUIRE(few->picture.instructions.size() == many->picture.instructions.size());
    REQUIRE(seconds(few->picture.duration) == Approx(seconds(many->picture.duration)).epsilon(0.02));
    REQUIRE(b.time.begin < b.time.end);
    REQUIRE(b.more > a.more);
    REQUIRE(rounds_of(many->picture, b.begin) == b.count);
    REQUIRE(rounds_of(many->picture, b.begin - 1) == 1);
    REQUIRE(rounds_of(many->picture, b.end) == 1);
    REQUIRE(step_time(many->picture, b.time.end) == b.time.end);
    // In the table of what is alive: who is born in a round says so.
    std::size_t marked = 0;
    for (std::size_t event = many->picture.memory.first_at(b.time.begin); event < many->picture.memory.first_at(b.time.end); event += 50)
      for (const Row& row : alive_table(*many, event, "", {}, Language::english).rows) marked += row.cells[2].text.ends_with("×" + std::to_string(b.count));
    REQUIRE(marked > 0);
  }
}

}  // namespace zeroplan::gui
