#include "planner/engines/zeroplan.h"

#include <catch2/catch.hpp>

#include <random>
#include <set>

#include "planner/engines/twin.h"
#include "planner/engines/zeroplan_storages.h"
#include "planner/price/price.h"
#include "profiles/catalog.h"
#include "simulator/walk.h"
#include "tests/support/questions.h"

namespace zeroplan {
namespace {

std::int64_t count_ops(const Program& program, Op op) {
  std::int64_t count = 0;
  for_each_instruction(program, program.step, [&](const Fragment& fragment, std::uint16_t, std::size_t i, std::int32_t, std::int64_t, bool) { count += fragment.instructions[i].op == op; });
  return count;
}

}  // namespace

TEST_CASE("every operand lies inside its storage, and is alive when it is used", "[property]") {
  std::mt19937_64 random(3);
  for (int i = 0; i < 300; ++i) {
    const Program program = compile(testing::random_question(random));
    std::set<std::pair<StorageId, std::int32_t>> alive;
    const auto check = [&](const std::vector<Node>& nodes) {
      for_each_instruction(program, nodes, [&](const Fragment& fragment, std::uint16_t, std::size_t at, std::int32_t block, std::int64_t counter, bool) {
        const Instruction& instruction = fragment.instructions[at];
        const auto key = [&](InstanceRef r) { return std::pair{r.storage, program.storages[r.storage].per_block ? block + r.delta : 0}; };
        for (std::size_t b = instruction.births_begin; b < instruction.births_end; ++b) REQUIRE(alive.insert(key(fragment.births[b])).second);
        for (const Operand& o : fragment.operands_of(instruction)) {
          INFO(fragment.name << " " << at << " uses " << program.storages[o.instance.storage].name);
          REQUIRE(alive.count(key(o.instance)) == 1);
          const std::int64_t begin = o.offset_bytes + counter * o.offset_step_bytes;
          REQUIRE(begin >= 0);
          REQUIRE(begin + o.elems() * size_of(o.dtype) <= program.storages[o.instance.storage].bytes.value());
        }
        for (std::size_t d = instruction.deaths_begin; d < instruction.deaths_end; ++d) REQUIRE(alive.erase(key(fragment.deaths[d])) == 1);
      });
    };
    check(program.init);
    const auto persistent = alive;
    check(program.step);
    REQUIRE(alive == persistent);
    check(program.step);
  }
}

TEST_CASE("the tree is short whatever the number of layers and micro batches", "[unit]") {
  Question question = testing::origin_question(3);
  question.job.model.num_layers = 500;
  question.plan.recomputed_blocks = 200;
  question.plan.accumulate = 64;
  const Program program = compile(question);
  CHECK(program.step.size() < 80);
  CHECK(program.fragments.size() < 48);
}

TEST_CASE("full checkpointing runs each block's forward products again but for the down projection", "[unit]") {
  Question question = testing::origin_question(3);
  question.plan.recomputed_blocks = 0;
  const std::int64_t kept = count_ops(compile(question), Op::linear);
  question.plan.recomputed_blocks = 48;
  CHECK(count_ops(compile(question), Op::linear) - kept == 48 * 3);  // qkv, attention out, gate and up
  CHECK(count_ops(compile(question), Op::attention) == 2 * 48);
}

TEST_CASE("a kept tensor is not recomputed, and what only it needed is not either", "[unit]") {
  Question question = testing::origin_question(3);
  question.plan.keep = KeepSet{}.with(Kept::qkv).with(Kept::attention_out);
  const Program program = compile(question);
  CHECK(count_ops(program, Op::attention) == 48);       // forward only
  CHECK(count_ops(program, Op::linear) == 48 * 4 + 4 + 48 * 2);  // forward, loss chunks, then attention out and gate and up again
}

TEST_CASE("prefetch gathers that many units ahead and keeps what is used again within that distance", "[unit]") {
  for (std::int64_t prefetch : {0, 1, 2, 3}) {
    Question question = testing::origin_question(3);
    question.plan.prefetch_units = prefetch;
    const Program program = compile(question);
    const std::int64_t gathers = count_ops(program, Op::all_gather);
    // embedding, 48 forward, head, 48 backward; the last blocks stay where backward comes back within the distance.
    CHECK(gathers == 98 - prefetch / 2);
    std::size_t most = 0;
    std::set<std::pair<StorageId, std::int32_t>> alive;
    for_each_instruction(program, program.step, [&](const Fragment& fragment, std::uint16_t, std::size_t at, std::int32_t block, std::int64_t, bool) {
      const Instruction& instruction = fragment.instructions[at];
      const auto key = [&](InstanceRef r) { return std::pair{r.storage, program.storages[r.storage].per_block ? block + r.delta : 0}; };
      for (std::size_t b = instruction.births_begin; b < instruction.births_end; ++b)
        if (program.storages[fragment.births[b].storage].category == Category::gathered_parameters) alive.insert(key(fragment.births[b]));
      most = std::max(most, alive.size());
      for (std::size_t d = instruction.deaths_begin; d < instruction.deaths_end; ++d) alive.erase(key(fragment.deaths[d]));
    });
    CHECK(most == static_cast<std::size_t>(prefetch) + 1);
  }
}

TEST_CASE("tied embeddings are one parameter with one gradient, gathered for both uses", "[unit]") {
  Question question = default_question(catalogue_model("qwen3-0.6b"), cluster_from_name("8xa100-80g"));
  REQUIRE(question.job.model.tie_embeddings);
  const Program program = compile(question);
  const Traffic t = fold_traffic(program);
  const std::int64_t table = program.padded_elems(UnitKind::embedding) * 2, block = 28 * program.padded_elems(UnitKind::block) * 2, head = program.padded_elems(UnitKind::head) * 2;
  CHECK(t.reduce_scatter_bytes == table + block + head);
  CHECK(t.all_gather_bytes == 2 * table + 2 * block + head);
}

TEST_CASE("ranks differ only in which slice is theirs", "[property]") {
  std::mt19937_64 random(4);
  for (int i = 0; i < 100; ++i) {
    const Question question = testing::random_question(random);
    const Program first = compile(question, 0), last = compile(question, question.cluster.world_size() - 1);
    REQUIRE(fold_memory(first).peak_live == fold_memory(last).peak_live);
    REQUIRE(fold_traffic(first) == fold_traffic(last));
    for (UnitKind unit : {UnitKind::embedding, UnitKind::block, UnitKind::head}) {
      REQUIRE(first.shard_elems(unit) * question.cluster.world_size() == first.padded_elems(unit));
      REQUIRE(first.shard_elems(unit) % kParameterAlignment == 0);
      REQUIRE(first.padded_elems(unit) - unit_flat_elems(question.job.model, unit) < question.cluster.world_size() * kParameterAlignment);
    }
  }
}

TEST_CASE("the twin is the same tree of instructions with other sizes", "[property]") {
  std::mt19937_64 random(5);
  const DeviceProfile cpu = catalogue_device("cpu");
  for (int i = 0; i < 200; ++i) {
    const Question question = i == 0 ? testing::origin_question(3) : testing::random_question(random);
    const Question twin = twin_of(question, cpu);
    check_question(twin);
    const Program a = compile(question), b = compile(twin);
    REQUIRE(a.step.size() == b.step.size());
    REQUIRE(a.fragments.size() == b.fragments.size());
    const auto shape = [](const Program& program) {
      std::vector<std::tuple<Op, Stream, std::int32_t>> out;
      for_each_instruction(program, program.step, [&](const Fragment& f, std::uint16_t, std::size_t at, std::int32_t block, std::int64_t, bool) {
        if (f.instructions[at].op != Op::zero_gaps) out.emplace_back(f.instructions[at].op, f.instructions[at].stream, block);  // gaps depend on sizes
      });
      return out;
    };
    REQUIRE(shape(a) == shape(b));
    REQUIRE(twin.job.compute_dtype == question.job.compute_dtype);
    REQUIRE(parameter_elems(twin.job.model) < 3'000'000);
  }
}

TEST_CASE("storages have names and reasons", "[unit]") {
  for (const Storage& storage : ours::storages_of(testing::origin_question())) {
    CHECK(!storage.name.empty());
    CHECK(!storage.why.empty());
  }
  CHECK(ours::storages_of(testing::origin_question()).size() == ours::kCount);
}

}  // namespace zeroplan
