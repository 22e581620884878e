// Blocks that another stream still uses come back when that is over and the host has noticed: how far the host may run ahead decides how much waits.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>

#include "profiles/catalog.h"
#include "simulator/emulated_run.h"
#include "simulator/prediction.h"

using namespace zeroplan;

namespace {

Question seven_billion(Engine engine, std::int64_t stage) {
  Question q = default_question(catalogue_model("llama-2-7b"), cluster_from_name("8xa100-80g"));
  q.plan.stage = stage;
  choose_engine(q, engine);
  q.plan.stage = stage;
  return q;
}

std::int64_t waiting_bytes(const Prediction& p) { return p.ahead ? (p.ahead->whole.active - p.whole.active).value() : 0; }
std::int64_t waiting_bytes(const Question& q) { return waiting_bytes(predict(q, {.host_ahead = true})); }

constexpr std::int64_t kBlockBytes = 2 * (4 * 4096 + 3 * 11008) * std::int64_t{4096};  // in bf16

}  // namespace

TEST_CASE("FSDP1's rate limiter lets two gathered units wait at most, and the one that is being freed") {
  const Question q = seven_billion(Engine::fsdp1, 3);
  const EmulatedRun run(q, {});
  std::map<std::size_t, std::int64_t> more;  // units that wait, by event
  for (const eager::WaitingFree& w : eager::waiting_frees(run.recorder, q.cluster, step_conditions(q))) {
    const eager::MemoryEvent& freed = run.recorder.events()[w.freed];
    if (run.recorder.tags()[freed.storage].category != Category::gathered_parameters) continue;
    ++more[w.freed];
    --more[w.back];
  }
  std::int64_t now = 0, most = 0;
  for (const auto& [event, change] : more) most = std::max(most, now += change);
  CHECK(most >= 2);
  CHECK(most <= 3);
}

TEST_CASE("under ZeRO-3 the host runs ahead by many blocks, unless every layer's attention asks the device for its positions") {
  Question q = seven_billion(Engine::deepspeed, 3);
  q.plan.tool = "xtuner";
  const std::int64_t own_attention = waiting_bytes(q);
  CHECK(own_attention > 6 * kBlockBytes);
  q.plan.tool = "hf-trainer";
  CHECK(waiting_bytes(q) < own_attention / 3);
  q.plan.torch = "2.2";  // transformers of that time did not ask
  CHECK(waiting_bytes(q) > own_attention / 3);
}

TEST_CASE("engines whose streams share no freed blocks have nothing that waits") {
  for (const auto& [engine, stage] : {std::pair(Engine::fsdp2, 3), {Engine::ddp, 0}, {Engine::zeroplan, 3}})
    CHECK_FALSE(predict(seven_billion(engine, stage), {.host_ahead = true}).ahead.has_value());
}

TEST_CASE("the verdict and the need are the same however far the host runs ahead, and so is what is allocated") {
  for (const std::int64_t seq : {2048, 16384, 65536})
    for (const auto& [engine, stage] : {std::pair(Engine::fsdp1, 3), {Engine::deepspeed, 3}}) {
      Question q = seven_billion(engine, stage);
      q.job.seq = seq;
      const Prediction with = predict(q, {.host_ahead = true}), without = predict(q);
      CHECK(with.verdict == without.verdict);
      CHECK(with.must_fit == without.must_fit);
      CHECK(with.whole.reserved == without.whole.reserved);
      CHECK(with.ahead.has_value() == !with.failure.has_value());
      if (!with.ahead) continue;
      CHECK(with.ahead->whole.allocated == without.whole.allocated);
      CHECK(with.ahead->whole.active >= without.whole.active);
      CHECK(with.ahead->whole.reserved <= with.usable);
      CHECK(with.device_used() >= without.device_used());
    }
}

TEST_CASE("what waits is back by the end of its micro batch, later than it was freed, and in the order of its stream") {
  for (const auto& [engine, stage] : {std::pair(Engine::fsdp1, 3), {Engine::deepspeed, 3}}) {
    Question q = seven_billion(engine, stage);
    q.plan.accumulate = 9;
    const EmulatedRun run(q, {});
    const std::vector<eager::WaitingFree> waiting = eager::waiting_frees(run.recorder, q.cluster, step_conditions(q));
    REQUIRE_FALSE(waiting.empty());
    std::vector<std::size_t> forwards;
    for (std::size_t i = 0; i < run.recorder.events().size(); ++i) {
      const eager::MemoryEvent& event = run.recorder.events()[i];
      if (event.kind == eager::MemoryEvent::Kind::phase && run.recorder.phases()[event.storage].name.ends_with("forward")) forwards.push_back(i);
    }
    std::map<Stream, std::vector<std::pair<std::size_t, std::size_t>>> by_stream;
    for (const eager::WaitingFree& w : waiting) {
      REQUIRE(w.back > w.freed + 1);
      const auto next = std::lower_bound(forwards.begin(), forwards.end(), w.freed);
      REQUIRE((next == forwards.end() || w.back <= *next));
      by_stream[w.stream].push_back({w.freed, w.back});
    }
    for (auto& [stream, all] : by_stream) {
      std::sort(all.begin(), all.end());
      for (std::size_t i = 1; i < all.size(); ++i) CHECK(all[i - 1].second <= all[i].second);
    }
  }
}
