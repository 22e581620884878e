#include "executor/launcher.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor/process_memory.h"
#include "planner/core/error.h"

namespace zeroplan {
namespace {

using Body = std::function<int(RankContext&)>;

struct Timed {
  LaunchResult result;
  double took_s = 0;
};

Timed timed_launch(const LaunchOptions& options, const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  Timed timed{launch(options, body), 0};
  timed.took_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return timed;
}

void sleep_s(double s) { std::this_thread::sleep_for(std::chrono::duration<double>(s)); }

[[noreturn]] void loop_for_ever() {
  for (std::atomic<unsigned> turns = 0;;) ++turns;
}

std::int64_t mappings_of_ours() {
  std::ifstream maps("/proc/self/maps");
  std::int64_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find("memfd:zeroplan") != std::string::npos ? 1 : 0;
  return count;
}

std::int64_t open_files() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return std::distance(begin(files), end(files));
}

// Step, instruction and a collective, for ever; one rank does `last_deed` instead of its collective at step 3.
Body steps_until(std::int64_t victim, const std::function<void()>& last_deed) {
  return [=](RankContext& context) {
    float value = 1;
    for (std::int64_t step = 0;; ++step) {
      context.progress.at(step, 7, "linear");
      if (step == 3 && context.rank == victim) last_deed();
      context.progress.at(step, 8, "all_reduce");
      context.collectives.all_reduce(&value, 1, Dtype::fp32);
    }
    return 0;
  };
}

}  // namespace

TEST_CASE("a job whose ranks all return 0 ends well and says nothing", "[unit]") {
  const LaunchResult result = launch({.world = 3}, [](RankContext& context) {
    context.send("rank " + std::to_string(context.rank) + " of " + std::to_string(context.world));
    context.collectives.barrier();
    return 0;
  });
  REQUIRE(result.exit_code == 0);
  REQUIRE(result.message.empty());
  REQUIRE_FALSE(result.rank.has_value());
  REQUIRE(result.messages == std::vector<std::string>{"rank 0 of 3", "rank 1 of 3", "rank 2 of 3"});
}

TEST_CASE("large messages of all ranks arrive whole and in order", "[unit]") {
  const auto text_of = [](std::int64_t rank) {
    std::string text;
    for (std::int64_t i = 0; text.size() < 5'000'000; ++i) text += std::to_string(rank) + ":" + std::to_string(i) + "\n";
    return text;
  };
  const LaunchResult result = launch({.world = 3}, [&](RankContext& context) {
    const std::string text = text_of(context.rank);
    const std::size_t half = text.size() / 2;
    context.send(std::string_view(text).substr(0, half));
    context.collectives.barrier();
    context.send(std::string_view(text).substr(half));
    return 0;
  });
  REQUIRE(result.exit_code == 0);
  for (std::int64_t rank = 0; rank < 3; ++rank) REQUIRE((result.messages.at(static_cast<std::size_t>(rank)) == text_of(rank)));
}

TEST_CASE("a killed rank is named with signal, step, instruction and op, and the job ends within two seconds", "[unit]") {
  const Timed timed = timed_launch({.world = 3}, steps_until(1, [] { raise(SIGKILL); }));
  CHECK(timed.took_s < 2);
  CHECK(timed.result.exit_code == 5);
  CHECK(timed.result.rank == 1);
  CHECK(timed.result.step == 3);
  CHECK(timed.result.instruction == 7);
  CHECK(timed.result.op == "linear");
  CHECK_THAT(timed.result.message, Catch::StartsWith("rank 1 was killed by signal 9 (SIGKILL)") && Catch::EndsWith("(step 3, instruction 7, linear)"));
}

TEST_CASE("survivors that compute and never come to a collective are killed", "[unit]") {
  const Timed timed = timed_launch({.world = 2}, [](RankContext& context) {
    if (context.rank == 0) {
      std::signal(SIGABRT, SIG_DFL);  // Catch's handler would print a report of its own
      std::abort();
    }
    loop_for_ever();
    return 0;
  });
  CHECK(timed.took_s < 2);
  CHECK(timed.result.rank == 0);
  CHECK_THAT(timed.result.message, Catch::Contains("SIGABRT") && Catch::EndsWith("(before its first instruction)"));
  CHECK_FALSE(timed.result.step.has_value());
}

TEST_CASE("survivors have the time to report what they were told", "[unit]") {
  const LaunchResult result = launch({.world = 2}, [](RankContext& context) {
    if (context.rank == 1) raise(SIGKILL);
    try {
      for (;;) context.collectives.barrier();
    } catch (const RunError& error) {
      context.send(error.what());
      throw;
    }
    return 0;
  });
  CHECK(result.messages.at(0) == "stopped: another rank failed");
  CHECK(result.rank == 1);
}

TEST_CASE("a rank that loops while the others wait for it is the stuck one", "[unit]") {
  const Timed timed = timed_launch({.world = 3, .stuck_after_s = 1.0}, steps_until(2, [] { loop_for_ever(); }));
  CHECK(timed.took_s >= 1);
  CHECK(timed.took_s < 5);
  CHECK(timed.result.exit_code == 5);
  CHECK(timed.result.rank == 2);
  CHECK(timed.result.step == 3);
  CHECK(timed.result.instruction == 7);
  CHECK_THAT(timed.result.message, Catch::StartsWith("rank 2 is stuck") && Catch::Contains("running"));
}

TEST_CASE("a rank stopped by a signal is the stuck one", "[unit]") {
  const Timed timed = timed_launch({.world = 2, .stuck_after_s = 1.0}, steps_until(0, [] { raise(SIGSTOP); }));
  CHECK(timed.took_s < 5);
  CHECK(timed.result.rank == 0);
  CHECK(timed.result.step == 3);
  CHECK_THAT(timed.result.message, Catch::StartsWith("rank 0 is stuck") && Catch::Contains("stopped by a signal"));
}

TEST_CASE("a rank stopped while it waits in a collective is the stuck one once the others have come", "[unit]") {
  const SharedArea area(Bytes(4096));
  auto& sleeper = *new (area.data()) std::atomic<pid_t>(0);
  const LaunchResult result = launch({.world = 2, .stuck_after_s = 1.0}, [&](RankContext& context) {
    context.progress.at(5, context.rank, "barrier");
    if (context.rank == 1) sleeper = getpid();
    if (context.rank == 0) {
      while (sleeper == 0) sleep_s(0.01);
      sleep_s(0.2);  // by now rank 1 waits
      kill(sleeper, SIGSTOP);
      sleep_s(0.1);
    }
    context.collectives.barrier();
    context.progress.at(6, context.rank, "barrier");
    context.collectives.barrier();
    return 0;
  });
  CHECK(result.exit_code == 5);
  CHECK(result.rank == 1);
  CHECK(result.step == 5);
}

TEST_CASE("waiting in a collective for a slow rank that makes progress is not being stuck", "[unit]") {
  const LaunchResult result = launch({.world = 2, .stuck_after_s = 0.3}, [](RankContext& context) {
    for (std::int64_t i = 0; context.rank == 1 && i < 10; ++i) {
      context.progress.at(0, i, "slow");
      sleep_s(0.1);
    }
    context.collectives.barrier();
    return 0;
  });
  INFO(result.message);
  CHECK(result.exit_code == 0);
}

TEST_CASE("without a deadline no rank is stuck", "[unit]") {
  const LaunchResult result = launch({.world = 1, .stuck_after_s = std::nullopt}, [](RankContext&) {
    sleep_s(0.5);
    return 0;
  });
  CHECK(result.exit_code == 0);
}

TEST_CASE("a rank that ends while another waits for it ends the job", "[unit]") {
  const Timed timed = timed_launch({.world = 2}, [](RankContext& context) {
    if (context.rank == 0) context.collectives.barrier();
    return 0;
  });
  CHECK(timed.took_s < 2);
  CHECK(timed.result.exit_code == 5);
  CHECK(timed.result.rank == 1);
  CHECK_THAT(timed.result.message, Catch::StartsWith("rank 1 ended while rank 0 waits for it"));
}

TEST_CASE("the text of an exception arrives, and its kind is the exit code", "[unit]") {
  struct Case {
    int exit_code;
    std::function<void()> deed;
    std::string text;
  };
  const std::vector<Case> cases = {
      {5, [] { throw RunError("loss is NaN"); }, "loss is NaN"},
      {3, [] { throw InputError("plan.json", "/model", "no such key", "Remove it"); }, "plan.json: /model: no such key. Remove it"},
      {3, [] { (void)checked_multiply(INT64_MAX, 2); }, "overflows"},
      {2, [] { throw UsageError("--world 0"); }, "--world 0"},
      {4, [] { throw EnvironmentError("no such device"); }, "no such device"},
      {4, [] { throw std::bad_alloc(); }, "out of memory"},
      {70, [] { throw std::logic_error("a hole in the plan"); }, "a hole in the plan"},
      {70, [] { throw 7; }, "not a std::exception"},
  };
  for (const Case& each : cases) {
    const LaunchResult result = launch({.world = 2}, [&](RankContext& context) {
      context.progress.at(2, 40, "a name of an op that is longer than the record has room for");
      if (context.rank == 1) each.deed();
      context.collectives.barrier();
      return 0;
    });
    CHECK(result.exit_code == each.exit_code);
    CHECK(result.rank == 1);
    CHECK(result.op == "a name of an op that is longer ");
    CHECK_THAT(result.message, Catch::StartsWith("rank 1: ") && Catch::Contains(each.text) && Catch::Contains("step 2, instruction 40"));
  }
}

TEST_CASE("a text longer than the record is cut, not lost", "[unit]") {
  const LaunchResult result = launch({.world = 1}, [](RankContext&) -> int { throw RunError(std::string(100'000, 'x')); });
  CHECK(result.exit_code == 5);
  CHECK_THAT(result.message, Catch::Contains(std::string(511, 'x')) && !Catch::Contains(std::string(512, 'x')));
}

TEST_CASE("a code that body returns is the job's", "[unit]") {
  const LaunchResult result = launch({.world = 2}, [](RankContext& context) {
    context.send("a difference");
    return context.rank == 1 ? 1 : 0;
  });
  CHECK(result.exit_code == 1);
  CHECK(result.rank == 1);
  CHECK(result.messages.at(1) == "a difference");
}

TEST_CASE("jobs one after the other leave no mapping, no file and no process behind", "[unit]") {
  const std::int64_t files = open_files();
  for (int job = 0; job < 5; ++job) {
    const bool well = job % 2 == 0;
    const LaunchResult result = launch({.world = 3}, [&](RankContext& context) {
      if (!well && context.rank == 2) raise(SIGKILL);
      context.collectives.barrier();
      return 0;
    });
    CHECK(result.exit_code == (well ? 0 : 5));
  }
  CHECK(mappings_of_ours() == 0);
  CHECK(open_files() == files);
  CHECK(waitpid(-1, nullptr, WNOHANG) == -1);
}

TEST_CASE("ranks die with their parent", "[unit]") {
  REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);  // the orphans come to us, so that we can see them end
  const SharedArea area(Bytes(4096));
  auto& ready = *new (area.data()) std::atomic<int>(0);
  const pid_t parent = fork();
  if (parent == 0) {
    launch({.world = 2}, [&](RankContext&) -> int {
      ++ready;
      loop_for_ever();
    });
    _exit(0);
  }
  while (ready < 2) sleep_s(0.01);
  kill(parent, SIGKILL);
  int ended = 0, status = 0;
  while (waitpid(-1, &status, 0) > 0) ended += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 1 : 0;
  CHECK(ended == 3);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST_CASE("a world out of range is refused", "[unit]") {
  REQUIRE_THROWS_AS(launch({.world = 0}, [](RankContext&) { return 0; }), std::invalid_argument);
}

}  // namespace zeroplan
