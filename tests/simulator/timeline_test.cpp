#include "simulator/timeline.h"

#include <catch2/catch.hpp>

#include "profiles/catalog.h"
#include "simulator/prediction.h"

using namespace zeroplan;

namespace {

Question question(Engine engine, std::int64_t stage) {
  Question q = default_question(catalogue_model("llama-2-7b"), cluster_from_name(engine == Engine::single ? "1xa100-80g" : "8xa100-80g"));
  q.job.model.num_layers = 4;
  q.plan.recomputed_blocks = 4;
  q.job.seq = 1024;
  q.plan.stage = stage;
  if (engine != Engine::zeroplan) choose_engine(q, engine);
  return q;
}

std::vector<Question> all_engines() {
  return {question(Engine::zeroplan, 0), question(Engine::zeroplan, 3), question(Engine::deepspeed, 1), question(Engine::deepspeed, 2), question(Engine::deepspeed, 3),
          question(Engine::fsdp2, 3), question(Engine::fsdp1, 3), question(Engine::ddp, 0), question(Engine::single, 0)};
}

std::int64_t sum_of_live(const Timeline& t, std::size_t instant) {
  std::int64_t sum = 0;
  for (const std::size_t i : t.live_at(instant)) sum += t.tensors[i].bytes.value();
  return sum;
}

}  // namespace

TEST_CASE("a timeline's highest instant is the predicted peak of each phase, for every engine", "[property]") {
  for (const Question& q : all_engines()) {
    INFO(name_of(q.plan.engine) << " stage " << q.plan.stage);
    const Timeline t = timeline_of(q);
    const Prediction p = predict(q);
    for (const char* phase : {"steady.forward", "steady.backward", "steady.step"}) {
      INFO(phase);
      // What a phase inherits is counted by it too, so its peak is never below that of its own instants.
      CHECK(t.instants[t.peak(phase)].live <= p.phase(phase)->requested);
    }
    CHECK(t.instants[t.peak("steady")].live == p.steady.requested);
  }
}

TEST_CASE("what is live at an instant sums up to it, by tensors and by categories", "[property]") {
  for (const Question& q : all_engines()) {
    INFO(name_of(q.plan.engine) << " stage " << q.plan.stage);
    for (const Span span : {Span::steady, Span::first}) {
      const Timeline t = timeline_of(q, span);
      REQUIRE(t.instants.size() > 20);
      for (std::size_t i = 0; i < t.instants.size(); i += 1 + t.instants.size() / 50) {
        CHECK(sum_of_live(t, i) == t.instants[i].live.value());
        std::int64_t sum = 0;
        for (const std::int64_t bytes : t.by_category(i)) sum += bytes;
        CHECK(sum == t.instants[i].live.value());
      }
    }
  }
}

TEST_CASE("every tensor says why it is there", "[unit]") {
  for (const Question& q : all_engines())
    for (const TimelineTensor& tensor : timeline_of(q).tensors) {
      INFO(tensor.name);
      CHECK_FALSE(tensor.why.empty());
      CHECK(tensor.birth <= tensor.death);
    }
}

TEST_CASE("the whole run begins with load and ends with a steady step", "[unit]") {
  const Question q = question(Engine::deepspeed, 3);
  const Timeline t = timeline_of(q, Span::whole);
  CHECK(t.instants.front().phase == "init");
  CHECK(t.instants.back().phase == "steady.step");
  CHECK(t.instants[t.peak()].live == predict(q).whole.requested);
}
