#include "planner/price/price.h"

#include <catch2/catch.hpp>

#include <array>
#include <random>

#include "planner/core/program.h"
#include "planner/engines/zeroplan.h"
#include "simulator/walk.h"
#include "tests/support/questions.h"

namespace zeroplan {
namespace {

// Papers' algebra with Ψ = padded parameters × bytes: what one step sends, in full buffers.
std::int64_t unit_bytes(const Program& program, UnitKind unit, Dtype dtype) {
  const std::int64_t count = unit == UnitKind::block ? program.question.job.model.num_layers : 1;
  return count * program.padded_elems(unit) * size_of(dtype);
}

}  // namespace

TEST_CASE("the fold equals the walk for random models and plans: peak, place, categories, time", "[property]") {
  std::mt19937_64 random(20261125);
  Compiler compiler;
  Pricer pricer;
  for (int i = 0; i < 2000; ++i) {
    const Question question = testing::random_question(random);
    INFO("case " << i << ": stage " << question.plan.stage << ", layers " << question.job.model.num_layers << ", accumulate " << question.plan.accumulate << ", prefetch "
                 << question.plan.prefetch_units << ", recomputed " << question.plan.recomputed_blocks << ", world " << question.cluster.world_size());
    const Program program = compiler.compile(question, static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(question.cluster.world_size())));
    const Estimate estimate = pricer.price(program);
    const WalkResult walked = walk(program, {.record_events = false, .steps = 1});
    REQUIRE(estimate.memory.peak_live == walked.trace.peak_live);
    REQUIRE(estimate.memory.by_category == walked.by_category_at_peak);
    REQUIRE(estimate.memory.phase_peak == walked.phase_peak);
    REQUIRE(estimate.memory.between_steps == walked.between_steps);
    REQUIRE(estimate.step_time == walked.trace.duration);
    REQUIRE(walked.balanced);
    std::int64_t sum = 0;
    for (std::int64_t bytes : estimate.memory.by_category) sum += bytes;
    REQUIRE(sum == estimate.memory.peak_live.value());
  }
}

TEST_CASE("the place of the folded peak is the instruction where the walk first reaches it", "[property]") {
  std::mt19937_64 random(7);
  for (int i = 0; i < 300; ++i) {
    const Program program = compile(testing::random_question(random));
    const Place place = fold_memory(program).peak;
    const WalkResult walked = walk(program);
    const auto at_peak = std::find_if(walked.trace.events.begin(), walked.trace.events.end(),
                                      [&](const TraceEvent& e) { return e.kind == TraceEvent::Kind::run && e.index == walked.trace.peak_index; });
    REQUIRE(at_peak != walked.trace.events.end());
    REQUIRE(at_peak->fragment == place.fragment);
    REQUIRE(at_peak->instruction == place.instruction);
    REQUIRE(at_peak->block == place.block);
  }
}

TEST_CASE("a second step of the walk has the same peak and leaves the same behind", "[property]") {
  std::mt19937_64 random(8);
  for (int i = 0; i < 200; ++i) {
    const Program program = compile(testing::random_question(random));
    const WalkResult one = walk(program, {.record_events = false, .steps = 1}), two = walk(program, {.record_events = false, .steps = 2});
    REQUIRE(one.trace.peak_live == two.trace.peak_live);
    REQUIRE(two.balanced);
  }
}

TEST_CASE("what persists shrinks with the stage", "[property]") {
  std::mt19937_64 random(9);
  for (int i = 0; i < 200; ++i) {
    Question question = testing::random_question(random);
    std::array<Bytes, 4> persistent;
    for (std::int64_t stage = 0; stage <= 3; ++stage) {
      question.plan.stage = stage;
      persistent[static_cast<std::size_t>(stage)] = fold_memory(compile(question)).between_steps;
    }
    REQUIRE(persistent[3] <= persistent[2]);
    REQUIRE(persistent[2] <= persistent[1]);
    REQUIRE(persistent[1] <= persistent[0]);
  }
}

TEST_CASE("the same question compiles and prices to the same figures with and without memory", "[property]") {
  std::mt19937_64 random(10);
  Compiler compiler;
  Pricer pricer;
  for (int i = 0; i < 300; ++i) {
    const Question question = testing::random_question(random);
    const Estimate remembered = pricer.price(compiler.compile(question)), again = pricer.price(compiler.compile(question)), fresh = price(compile(question));
    REQUIRE(remembered.memory.peak_live == fresh.memory.peak_live);
    REQUIRE(again.memory.peak == fresh.memory.peak);
    REQUIRE(remembered.step_time == fresh.step_time);
    REQUIRE(again.step_time == fresh.step_time);
    REQUIRE(remembered.traffic == fresh.traffic);
    REQUIRE(again.step_flops == fresh.step_flops);
  }
}

TEST_CASE("bytes sent are the papers' algebra: 2 psi at stages 0 to 2, 3 psi a block at stage 3", "[unit]") {
  // Source: Rajbhandari et al., "ZeRO" (SC20), section 7. Embedding and head are visited once a step with their parameters, so they cost 2 psi at stage 3 too.
  for (std::int64_t stage = 0; stage <= 3; ++stage) {
    const Program program = compile(testing::origin_question(stage));
    const Traffic t = fold_traffic(program);
    const std::int64_t blocks = unit_bytes(program, UnitKind::block, Dtype::bf16), ends = unit_bytes(program, UnitKind::embedding, Dtype::bf16) + unit_bytes(program, UnitKind::head, Dtype::bf16);
    const std::int64_t psi = blocks + ends, scalars = 2 * 2 * 8;
    INFO("stage " << stage);
    CHECK(t.all_reduce_bytes == (stage == 0 ? 2 * psi : 0) + scalars);
    CHECK(t.reduce_scatter_bytes == (stage == 0 ? 0 : psi));
    CHECK(t.all_gather_bytes == (stage == 0 ? 0 : stage == 3 ? 2 * blocks + ends : psi));
  }
}

TEST_CASE("with accumulation, stages 0 and 1 still send once a step, stages 2 and 3 each micro batch", "[unit]") {
  for (std::int64_t stage = 0; stage <= 3; ++stage) {
    Question question = testing::origin_question(stage);
    const Traffic once = fold_traffic(compile(question));
    question.plan.accumulate = 5;
    const Traffic five = fold_traffic(compile(question));
    INFO("stage " << stage);
    CHECK(five.reduce_scatter_bytes == (stage >= 2 ? 5 : 1) * once.reduce_scatter_bytes);
    CHECK(five.all_reduce_bytes == once.all_reduce_bytes);
    CHECK(five.all_gather_bytes == (stage == 3 ? 5 : 1) * once.all_gather_bytes);
  }
}

TEST_CASE("model states of internlm2-20b on 8 ranks are the published 16 bytes a parameter, cut as each stage says", "[published]") {
  // Source: Rajbhandari et al., "ZeRO" (SC20), figure 1: 2 + 2 + 12 bytes; between steps no gradients are held.
  const double psi = 19861149696.0;
  for (std::int64_t stage = 0; stage <= 3; ++stage) {
    const MemoryEstimate m = fold_memory(compile(testing::origin_question(stage)));
    const double parameters = stage == 3 ? 2 * psi / 8 : 2 * psi, optimizer = stage == 0 ? 12 * psi : 12 * psi / 8;
    CHECK(static_cast<double>(m.between_steps.value()) == Approx(parameters + optimizer).epsilon(1e-3));
  }
}

TEST_CASE("recomputing more blocks never needs more memory between neighbours of the peak, and costs time", "[property]") {
  Question question = testing::origin_question(3);
  Bytes last_peak;
  SimTime last_time;
  for (std::int64_t blocks = 0; blocks <= 48; ++blocks) {
    question.plan.recomputed_blocks = blocks;
    const Estimate e = price(compile(question));
    if (blocks > 0) {
      CHECK(e.memory.peak_live <= last_peak);
      CHECK(e.step_time >= last_time);
    }
    last_peak = e.memory.peak_live;
    last_time = e.step_time;
  }
}

TEST_CASE("what is kept without recomputation is sketch's 119 kB a token and layer for internlm2-20b", "[published]") {
  // bf16: qkv 2·(6144 + 2·1024), out 2·6144, residual and x 2·2·6144, gate and up 2·2·16384, lse 4·48, two rstd 2·4.
  const std::int64_t per_token = 2 * 8192 + 2 * 6144 + 2 * 2 * 6144 + 2 * 2 * 16384 + 4 * 48 + 2 * 4;
  CHECK(per_token == 118984);
  Question question = testing::origin_question(3);
  question.plan.recomputed_blocks = 0;
  const MemoryEstimate all = fold_memory(compile(question));
  question.job.model.num_layers = 47;
  const MemoryEstimate fewer = fold_memory(compile(question));
  const auto activations = static_cast<std::size_t>(Category::activations);
  CHECK(all.by_category[activations] - fewer.by_category[activations] == 4096 * per_token);
}

TEST_CASE("a loop is timed as if it were unrolled, however long its transient", "[property]") {
  std::mt19937_64 random(11);
  for (int i = 0; i < 100; ++i) {
    Question question = testing::random_question(random);
    question.job.model.num_layers = 40;
    question.plan.recomputed_blocks = 13;
    question.plan.accumulate = 9;
    question.cluster.device.link_bytes_per_s = 1e6 * static_cast<double>(1 + random() % 100000);
    const Program program = compile(question);
    REQUIRE(price(program).step_time == walk(program, {.record_events = false, .steps = 1}).trace.duration);
  }
}

}  // namespace zeroplan
