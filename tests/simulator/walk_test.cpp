#include "simulator/walk.h"

#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "planner/engines/zeroplan.h"
#include "simulator/trace_files.h"
#include "tests/support/questions.h"

namespace zeroplan {

TEST_CASE("two walks are identical", "[property]") {
  std::mt19937_64 random(6);
  for (int i = 0; i < 30; ++i) {
    const Program program = compile(testing::random_question(random));
    const WalkResult a = walk(program), b = walk(program);
    REQUIRE(json_lines(program, a.trace) == json_lines(program, b.trace));
    REQUIRE(a.trace.duration == b.trace.duration);
  }
}

TEST_CASE("instructions of one stream never overlap, and none starts before its births", "[property]") {
  std::mt19937_64 random(7);
  for (int i = 0; i < 50; ++i) {
    const Program program = compile(testing::random_question(random));
    const WalkResult walked = walk(program);
    std::array<SimTime, kStreamCount> tail{};
    bool in_step = false;
    for (const TraceEvent& e : walked.trace.events) {
      if (e.kind != TraceEvent::Kind::run) continue;
      const bool step = program.fragments[e.fragment]->phase != Phase::init;
      if (step && !in_step) tail = {};
      in_step = step;
      REQUIRE(e.start >= tail[static_cast<std::size_t>(e.stream)]);
      REQUIRE(e.end >= e.start);
      tail[static_cast<std::size_t>(e.stream)] = e.end;
    }
  }
}

TEST_CASE("prefetch hides gathers behind compute", "[unit]") {
  Question question = testing::origin_question(3);
  question.plan.prefetch_units = 0;
  const SimTime exposed = walk(compile(question)).trace.duration;
  question.plan.prefetch_units = 1;
  const SimTime hidden = walk(compile(question)).trace.duration;
  CHECK(hidden < exposed);
}

TEST_CASE("a Chrome trace is JSON with a slice for every instruction", "[unit]") {
  const Program program = compile(testing::origin_question(3));
  const WalkResult walked = walk(program);
  const nlohmann::json trace = nlohmann::json::parse(chrome_trace(program, walked.trace));
  std::size_t slices = 0;
  for (const auto& event : trace.at("traceEvents")) slices += event.at("ph") == "X";
  CHECK(slices == walked.instruction_count);
}

TEST_CASE("JSON Lines have one object an event, and live bytes add up", "[unit]") {
  const Program program = compile(testing::origin_question(3));
  const WalkResult walked = walk(program);
  std::istringstream lines(json_lines(program, walked.trace));
  std::size_t count = 0;
  std::int64_t live = 0, peak = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const nlohmann::json event = nlohmann::json::parse(line);
    const std::string kind = event.at("event");
    if (kind == "birth") live += event.at("bytes").get<std::int64_t>();
    if (kind == "death") live -= event.at("bytes").get<std::int64_t>();
    if (kind == "scratch" || kind == "run") peak = std::max(peak, event.at("live_bytes").get<std::int64_t>());
    else REQUIRE(event.at("live_bytes").get<std::int64_t>() == live);
  }
  CHECK(count == walked.trace.events.size());
  CHECK(peak == walked.trace.peak_live.value());
}

TEST_CASE("a trace differs from another in the first event that is not the same", "[unit]") {
  const Program program = compile(testing::origin_question(3));
  const Trace planned = walk(program).trace;
  CHECK(first_memory_difference(program, planned, planned).empty());
  Trace late = planned;
  for (std::size_t i = 0; i + 1 < late.events.size(); ++i)
    if (late.events[i].kind == TraceEvent::Kind::death) {
      ++late.events[i].index;
      break;
    }
  CHECK(!first_memory_difference(program, planned, late).empty());
  Trace shorter = planned;
  while (shorter.events.back().kind == TraceEvent::Kind::run) shorter.events.pop_back();
  shorter.events.pop_back();
  CHECK(!first_memory_difference(program, planned, shorter).empty());
}

}  // namespace zeroplan
