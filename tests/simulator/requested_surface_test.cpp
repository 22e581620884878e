#include "simulator/requested_surface.h"

#include <catch2/catch.hpp>

#include <chrono>
#include <random>

#include "profiles/catalog.h"
#include "simulator/prediction.h"

using namespace zeroplan;

namespace {

/// A small model of the Llama family on a few ranks, with an engine and settings drawn at random.
Question drawn(std::mt19937_64& random) {
  const auto pick = [&](std::initializer_list<std::int64_t> values) { return *(values.begin() + static_cast<std::ptrdiff_t>(random() % values.size())); };
  Model model = catalogue_model("llama-2-7b");
  model.hidden_size = 64 * pick({1, 2, 3});
  model.num_heads = 4;
  model.num_kv_heads = pick({1, 2, 4});
  model.head_dim = model.hidden_size / 4;
  model.intermediate_size = pick({96, 160, 352});
  model.vocab_size = pick({101, 1000, 5003});
  model.num_layers = pick({2, 3, 5});
  Question q = default_question(model, cluster_from_name(pick({0, 1}) ? "4xa100-80g" : "8xh100-80g"));
  q.plan.stage = pick({1, 2, 3});
  choose_engine(q, q.plan.stage == 1 || pick({0, 1}) ? Engine::deepspeed : Engine::fsdp2);
  q.plan.recomputed_blocks = pick({0, 1}) ? model.num_layers : 0;
  q.plan.accumulate = pick({1, 2});
  q.plan.optimizer_kernel = pick({0, 1}) ? OptimizerKernel::fused : OptimizerKernel::foreach;
  q.plan.deepspeed.reduce_bucket_size = pick({5'000, 40'000, 500'000'000});
  return q;
}

}  // namespace

TEST_CASE("the surface of requested bytes is the emulated run's peak for any micro batch and length", "[property]") {
  std::mt19937_64 random(7);
  int compared = 0;
  for (int i = 0; i < 300; ++i) {
    Question q = drawn(random);
    const auto surface = RequestedSurface::of(q);
    REQUIRE(surface);
    for (int j = 0; j < 7; ++j, ++compared) {
      q.plan.micro_batch = 1 + static_cast<std::int64_t>(random() % 9);
      q.job.seq = RequestedSurface::kSequenceGrain * (1 + static_cast<std::int64_t>(random() % 20));
      INFO(plan_to_json(q).dump());
      REQUIRE(surface->peak(q.plan.micro_batch, q.job.seq) == predict(q).whole.requested);
    }
  }
  CHECK(compared >= 2000);
}
