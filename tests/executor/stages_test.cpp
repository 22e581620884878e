// Plans that compute the same must give the same bits: loss, gradient norm and all weights over 20 steps of several ranks, for every stage, recomputation,
// prefetch, overlap and order of instructions. What another order of sums may change stays within bounds, which are printed. Ranks are forked from this process, so it must not call torch itself.
#include <fmt/format.h>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "executor/initialization.h"
#include "executor/launcher.h"
#include "planner/core/error.h"
#include "tests/executor/small_models.h"
#include "tests/executor/small_run.h"

namespace zeroplan {
namespace {

constexpr std::int64_t kSteps = 20;

struct Case {
  std::string name;
  Question question;
  std::optional<std::uint64_t> order_seed;  ///< random topological orders
  std::uint64_t seed = 1;                   ///< of the first parameters
};

/// What one rank saw of one case.
struct Seen {
  std::vector<double> losses, gradient_norms;
  std::uint64_t parameters_hash = 0;  ///< of all parameters, gathered where they are sharded
  std::uint64_t order_hash = 0;       ///< of the instructions in the order in which they ran
  std::vector<float> head_gradient;   ///< of the first step; only stage 0, fp32, rank 0

  bool same_bits(const Seen& other) const { return losses == other.losses && gradient_norms == other.gradient_norms && parameters_hash == other.parameters_hash; }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Seen, losses, gradient_norms, parameters_hash, order_hash, head_gradient)

// A sequence depends on its place in the global batch only, so that any number of ranks and micro batches can train on the same tokens.
class GlobalBatches final : public Batches {
 public:
  explicit GlobalBatches(const Question& question) : vocab_(static_cast<std::uint64_t>(question.job.model.vocab_size)), world_(question.cluster.world_size()) {}

  void fill(std::int64_t step, std::int64_t micro_batch, std::int64_t rank, std::int64_t sequences, std::int64_t seq, std::int32_t* tokens, std::int32_t* targets) override {
    for (std::int64_t s = 0; s < sequences; ++s) {
      const auto sequence = static_cast<std::uint64_t>((micro_batch * world_ + rank) * sequences + s);
      const std::uint64_t base = splitmix64(splitmix64(static_cast<std::uint64_t>(step)) + sequence);
      const auto token = [&](std::int64_t i) { return static_cast<std::int32_t>(splitmix64(base + static_cast<std::uint64_t>(i)) % vocab_); };
      for (std::int64_t i = 0; i < seq; ++i) {
        tokens[s * seq + i] = token(i);
        targets[s * seq + i] = token(i + 1);
      }
    }
  }

 private:
  std::uint64_t vocab_;
  std::int64_t world_;
};

std::uint64_t mixed(std::uint64_t hash, std::uint64_t word) { return (hash ^ word) * 0x100000001b3ull; }

std::uint64_t hash_of_memory(std::uint64_t hash, const void* memory, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, static_cast<const char*>(memory) + i, sizeof word);
    hash = mixed(hash, word);
  }
  return hash;
}

// Of every unit's whole flat buffer, so that all ranks of all stages must agree.
std::uint64_t whole_parameters_hash(const Interpreter& interpreter, Collectives& collectives) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  const Question& question = interpreter.program().question;
  const auto add = [&](UnitKind unit, std::int64_t block) {
    const auto [memory, bytes] = interpreter.parameters_of(unit, block);
    std::vector<char> whole(static_cast<std::size_t>(interpreter.program().padded_elems(unit) * size_of(question.job.compute_dtype)));
    if (question.plan.stage == 3) collectives.all_gather(memory, whole.data(), bytes);
    else std::memcpy(whole.data(), memory, whole.size());
    hash = hash_of_memory(hash, whole.data(), static_cast<std::int64_t>(whole.size()));
  };
  add(UnitKind::embedding, 0);
  for (std::int64_t block = 0; block < question.job.model.num_layers; ++block) add(UnitKind::block, block);
  add(UnitKind::head, 0);
  return hash;
}

// At stage 0 every rank holds the whole summed gradient; rank 0's share of its norm begins where the gradient begins.
class HeadGradient final : public Observer {
 public:
  explicit HeadGradient(const Interpreter& interpreter) : interpreter_(interpreter) {}
  void before(std::size_t at) override {
    const Prepared& prepared = interpreter_.prepared()[at];
    if (prepared.instruction->op != Op::grad_norm || prepared.instruction->unit != UnitKind::head || !values.empty()) return;
    const auto* first = static_cast<const float*>(interpreter_.operands_of(prepared)[0].data);
    values.assign(first, first + unit_flat_elems(interpreter_.program().question.job.model, UnitKind::head));
  }
  void after(std::size_t) override {}

 private:
  const Interpreter& interpreter_;

 public:
  std::vector<float> values;
};

Seen run_case(const Case& one, Collectives& collectives) {
  GlobalBatches batches(one.question);
  testing::SmallRun run(one.question, collectives, batches, one.seed);
  Seen seen;
  std::mt19937_64 random(one.order_seed.value_or(0));
  HeadGradient head(run.interpreter);
  if (one.order_seed) run.interpreter.random_order = &random;
  if (one.question.plan.stage == 0 && collectives.rank() == 0 && one.question.job.gradient_dtype == Dtype::fp32) run.interpreter.observer = &head;
  run.interpreter.progress = [&](std::int64_t, std::int64_t instruction, std::string_view) { seen.order_hash = mixed(seen.order_hash, static_cast<std::uint64_t>(instruction)); };
  run.interpreter.run_init();
  for (std::int64_t step = 1; step <= kSteps; ++step) {
    const StepResult result = run.interpreter.run_step(step, one.question.job.learning_rate);
    if (!result.finite() || result.loss <= 0) throw RunError(fmt::format("{}: step {}: loss {}, gradient norm {}", one.name, step, result.loss, result.gradient_norm));
    seen.losses.push_back(result.loss);
    seen.gradient_norms.push_back(result.gradient_norm);
  }
  seen.parameters_hash = whole_parameters_hash(run.interpreter, collectives);
  seen.head_gradient = std::move(head.values);
  return seen;
}

/// By case, as rank 0 saw it; the other ranks must have seen the same bits.
std::vector<Seen> run_cases(std::int64_t ranks, const std::vector<Case>& cases) {
  const LaunchResult result = launch({.world = ranks}, [&](RankContext& context) {
    at::set_num_threads(1);
    const at::NoGradGuard no_grad;
    nlohmann::json seen = nlohmann::json::array();
    for (std::size_t i = 0; i < cases.size(); ++i) {
      context.progress.at(static_cast<std::int64_t>(i), 0, "case");
      seen.push_back(run_case(cases[i], context.collectives));
    }
    context.send(seen.dump());
    return 0;
  });
  INFO(result.message);
  REQUIRE(result.exit_code == 0);
  const auto first = nlohmann::json::parse(result.messages[0]).get<std::vector<Seen>>();
  REQUIRE(first.size() == cases.size());
  for (const std::string& message : result.messages) {
    const auto other = nlohmann::json::parse(message).get<std::vector<Seen>>();
    for (std::size_t i = 0; i < cases.size(); ++i) {
      INFO(ranks << " ranks, " << cases[i].name);
      CHECK(first[i].same_bits(other[i]));
    }
  }
  return first;
}

/// Cases that must give the bits of the first of them.
struct Group {
  std::string name;
  std::vector<Case> cases;
};

void compare(const std::string& where, const Case& base_case, const Seen& base, const Case& one, const Seen& seen) {
  std::int64_t step = 0;
  while (step < kSteps && seen.losses[static_cast<std::size_t>(step)] == base.losses[static_cast<std::size_t>(step)] &&
         seen.gradient_norms[static_cast<std::size_t>(step)] == base.gradient_norms[static_cast<std::size_t>(step)])
    ++step;
  INFO(where << ": " << one.name << " against " << base_case.name << ": losses and norms are equal for " << step << " of " << kSteps << " steps; last losses " << seen.losses.back() << " and "
             << base.losses.back());
  CHECK(seen.losses == base.losses);
  CHECK(seen.gradient_norms == base.gradient_norms);
  CHECK(seen.parameters_hash == base.parameters_hash);
}

std::vector<std::vector<Seen>> run_groups(std::int64_t ranks, const std::vector<Group>& groups) {
  std::vector<Case> all;
  for (const Group& group : groups) all.insert(all.end(), group.cases.begin(), group.cases.end());
  const std::vector<Seen> seen = run_cases(ranks, all);
  std::vector<std::vector<Seen>> out;
  std::size_t at = 0;
  for (const Group& group : groups) {
    out.emplace_back(seen.begin() + static_cast<std::ptrdiff_t>(at), seen.begin() + static_cast<std::ptrdiff_t>(at + group.cases.size()));
    at += group.cases.size();
  }
  return out;
}

std::vector<std::vector<Seen>> expect_same_bits(std::string_view what, std::int64_t ranks, const std::vector<Group>& groups) {
  std::vector<std::vector<Seen>> seen = run_groups(ranks, groups);
  std::size_t same = 0, plans = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const std::string where = fmt::format("{} ranks, {}", ranks, groups[g].name);
    for (std::size_t i = 1; i < seen[g].size(); ++i, ++plans) {
      compare(where, groups[g].cases[0], seen[g][0], groups[g].cases[i], seen[g][i]);
      same += seen[g][i].same_bits(seen[g][0]);
    }
  }
  fmt::print("{} ranks, {}: {} of {} plans give the bits of their group's first, in {} groups\n", ranks, what, same, plans, groups.size());
  return seen;
}

/// The family's question with one change.
Case make_case(std::string name, std::string_view family, std::int64_t ranks, const std::function<void(Question&)>& change) {
  Case one{std::move(name), testing::small_question(family, ranks), std::nullopt};
  change(one.question);
  check_question(one.question);
  return one;
}

/// Every family on two ranks; more ranks, which cost more on a small machine, with two families that differ in most traits.
std::vector<std::string_view> families_for(std::int64_t ranks) {
  if (ranks > 2) return {"internlm2", "qwen3-tied"};
  return {testing::small_families().begin(), testing::small_families().end()};
}

double worst_relative(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] / b[i] - 1));
  return worst;
}

double of_largest_entry(const std::vector<float>& values, const std::vector<float>& base) {
  REQUIRE(values.size() == base.size());
  double largest = 0, difference = 0;
  for (std::size_t i = 0; i < base.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(base[i])));
    difference = std::max(difference, std::abs(static_cast<double>(values[i]) - static_cast<double>(base[i])));
  }
  REQUIRE(largest > 0);
  return difference / largest;
}

}  // namespace

TEST_CASE("stages 0 to 3 give the same bits, and with accumulation 0 as 1 and 2 as 3", "[property]") {
  for (const std::int64_t ranks : {1, 2, 3, 4}) {
    std::vector<Group> groups;
    for (const std::string_view family : testing::small_families()) {
      const auto stage = [&](std::int64_t number, std::int64_t accumulate) {
        return make_case(fmt::format("stage {}", number), family, ranks, [&](Question& q) {
          q.plan.stage = number;
          q.plan.accumulate = accumulate;
        });
      };
      groups.push_back({fmt::format("{}, stages 0 1 2 3", family), {stage(0, 1), stage(1, 1), stage(2, 1), stage(3, 1)}});
      groups.push_back({fmt::format("{}, stages 0 1, 3 micro batches", family), {stage(0, 3), stage(1, 3)}});
      groups.push_back({fmt::format("{}, stages 2 3, 3 micro batches", family), {stage(2, 3), stage(3, 3)}});
    }
    const auto seen = expect_same_bits("stages", ranks, groups);
    // Across the two halves only the order of sums differs.
    double worst = 0;
    for (std::size_t g = 0; g < groups.size(); g += 3) worst = std::max(worst, worst_relative(seen[g + 2][0].losses, seen[g + 1][0].losses));
    fmt::print("{} ranks, 3 micro batches: losses of stages 2 3 differ from those of 0 1 by {:.1e} at most\n", ranks, worst);
    CHECK(worst <= 1e-5);
  }
}

TEST_CASE("stages 0 to 3 give the same bits in bf16 too, for sums are rounded once", "[property]") {
  std::vector<Group> groups;
  for (const std::string_view family : testing::small_families())
    for (const Dtype gradient : {Dtype::bf16, Dtype::fp32}) {
      Group group{fmt::format("{}, bf16, gradients {}", family, name_of(gradient)), {}};
      for (std::int64_t stage = 0; stage <= 3; ++stage)
        group.cases.push_back(make_case(fmt::format("stage {}", stage), family, 3, [&](Question& q) {
          q.job.compute_dtype = Dtype::bf16;
          q.job.gradient_dtype = gradient;
          q.plan.stage = stage;
          q.plan.recomputed_blocks = stage % 2;
        }));
      groups.push_back(group);
    }
  expect_same_bits("stages in bf16", 3, groups);
}

TEST_CASE("recomputed blocks give the bits of kept ones, whatever subset is kept", "[property]") {
  std::vector<Group> groups;
  for (const std::string_view family : testing::small_families())
    for (const std::int64_t stage : {0, 3}) {
      Group group{fmt::format("{}, stage {}, checkpoint", family, stage), {}};
      const auto add = [&](std::int64_t blocks, KeepSet keep) {
        group.cases.push_back(make_case(fmt::format("{} recomputed, keep {:#04x}", blocks, keep.bits), family, 2, [&](Question& q) {
          q.plan.stage = stage;
          q.plan.recomputed_blocks = blocks;
          q.plan.keep = keep;
        }));
      };
      const std::int64_t layers = testing::small_question(family, 2).job.model.num_layers;
      for (const std::int64_t blocks : {std::int64_t{0}, std::int64_t{1}, layers - 1, layers}) add(blocks, KeepSet{});
      const bool every_subset = stage == 3 && (family == "llama3" || family == "qwen3");
      for (unsigned bits = 1; bits <= KeepSet::all().bits; bits += every_subset ? 1 : 13) add(layers, KeepSet{static_cast<std::uint8_t>(bits)});
      groups.push_back(group);
    }
  expect_same_bits("recomputation", 2, groups);
}

TEST_CASE("prefetch and overlap of communication do not change a bit", "[property]") {
  for (const std::int64_t ranks : {2, 3}) {
    std::vector<Group> groups;
    for (const std::string_view family : families_for(ranks))
      for (std::int64_t stage = 0; stage <= 3; ++stage)
        for (const std::int64_t accumulate : {1, 3}) {
          Group group{fmt::format("{}, stage {}, {} micro batches, prefetch, overlap", family, stage, accumulate), {}};
          for (const std::int64_t prefetch : {0, 1, 2, 5})
            for (const bool overlap : {false, true}) {
              if (stage < 3 && prefetch > 0) continue;
              group.cases.push_back(make_case(fmt::format("prefetch {} overlap {}", prefetch, overlap), family, ranks, [&](Question& q) {
                q.plan.stage = stage;
                q.plan.accumulate = accumulate;
                q.plan.prefetch_units = prefetch;
                q.plan.overlap_comm = overlap;
                q.plan.recomputed_blocks = 1;
              }));
            }
          groups.push_back(group);
        }
    expect_same_bits("prefetch and overlap", ranks, groups);
  }
}

TEST_CASE("random topological orders of the instructions give the bits of issue order", "[property]") {
  for (const std::int64_t ranks : {2, 3}) {
    std::vector<Group> groups;
    for (const std::string_view family : families_for(ranks))
      for (std::int64_t stage = 0; stage <= 3; ++stage)
        for (const std::int64_t accumulate : {1, 3}) {
          Group group{fmt::format("{}, stage {}, {} micro batches, orders", family, stage, accumulate), {}};
          for (const std::optional<std::uint64_t> order : {std::optional<std::uint64_t>(), {1u}, {2u}, {3u}}) {
            group.cases.push_back(make_case(order ? fmt::format("random order {}", *order) : "issue order", family, ranks, [&](Question& q) {
              q.plan.stage = stage;
              q.plan.accumulate = accumulate;
              q.plan.prefetch_units = 2;
              q.plan.recomputed_blocks = 1;
            }));
            group.cases.back().order_seed = order;
          }
          groups.push_back(group);
        }
    for (const std::vector<Seen>& group : expect_same_bits("random orders", ranks, groups))
      for (std::size_t i = 0; i < group.size(); ++i)
        for (std::size_t j = 0; j < i; ++j) CHECK(group[i].order_hash != group[j].order_hash);  // or nothing was tried
  }
}

TEST_CASE("what changes the arithmetic changes the bits", "[property]") {
  const auto base = make_case("base", "llama3", 2, [](Question&) {});
  Case other_start = base;
  other_start.seed = 2;
  const std::vector<Case> cases{base, other_start, make_case("rate", "llama3", 2, [](Question& q) { q.job.learning_rate *= 1.001; }),
                                make_case("chunk", "llama3", 2, [](Question& q) { q.plan.loss_chunk_tokens = 6; }),
                                make_case("theta", "llama3", 2, [](Question& q) { q.job.model.rope_theta += 100; }), base};
  const std::vector<Seen> seen = run_cases(2, cases);
  for (std::size_t i = 1; i + 1 < cases.size(); ++i) {
    INFO(cases[i].name);
    CHECK(seen[i].parameters_hash != seen[0].parameters_hash);
    CHECK_FALSE(seen[i].same_bits(seen[0]));
  }
  CHECK(seen.back().same_bits(seen.front()));
}

TEST_CASE("other numbers of ranks on the same global batch stay within rounding", "[property]") {
  constexpr std::int64_t kSequences = 12;
  struct Split {
    std::int64_t ranks, accumulate;
  };
  std::vector<Seen> base;
  for (const Split split : {Split{1, 1}, Split{1, 3}, Split{2, 1}, Split{3, 1}, Split{4, 1}, Split{2, 3}}) {
    std::vector<Case> cases;
    for (const std::string_view family : testing::small_families())
      cases.push_back(make_case(std::string(family), family, split.ranks, [&](Question& q) {
        q.plan.accumulate = split.accumulate;
        q.plan.micro_batch = kSequences / split.ranks / split.accumulate;
      }));
    const std::vector<Seen> seen = run_cases(split.ranks, cases);
    if (base.empty()) base = seen;
    double loss = 0, first_loss = 0, norm = 0, gradient = 0;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      loss = std::max(loss, worst_relative(seen[i].losses, base[i].losses));
      first_loss = std::max(first_loss, std::abs(seen[i].losses[0] / base[i].losses[0] - 1));
      norm = std::max(norm, worst_relative(seen[i].gradient_norms, base[i].gradient_norms));
      gradient = std::max(gradient, of_largest_entry(seen[i].head_gradient, base[i].head_gradient));
    }
    fmt::print("{} ranks × {} micro batches × {} sequences: losses of {} steps within {:.1e} (first {:.1e}), gradient norms {:.1e}, head gradient {:.1e} of its largest entry\n", split.ranks,
               split.accumulate, kSequences / split.ranks / split.accumulate, kSteps, loss, first_loss, norm, gradient);
    INFO(split.ranks << " ranks, " << split.accumulate << " micro batches");
    CHECK(loss <= 1e-5);
    CHECK(first_loss <= 1e-6);
    CHECK(gradient <= 1e-6);
  }
}

TEST_CASE("another loss chunk keeps the loss's bits in multiples of 64 tokens, and the head's gradient within rounding", "[property]") {
  std::vector<std::int64_t> chunks{64, 128, 192, 256, 7, 50, 100};  // of 201 tokens
  std::vector<Case> cases;
  for (const std::string_view family : testing::small_families())
    for (const std::int64_t chunk : chunks)
      cases.push_back(make_case(fmt::format("{}, {} tokens a chunk", family, chunk), family, 2, [&](Question& q) {
        q.job.seq = 67;
        q.plan.micro_batch = 3;
        q.plan.loss_chunk_tokens = chunk;
      }));
  const std::vector<Seen> seen = run_cases(2, cases);
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    double loss = 0, first_loss = 0, gradient = 0;
    std::size_t same_losses = 0;
    for (std::size_t i = c; i < seen.size(); i += chunks.size()) {
      const Seen& base = seen[i - c];
      INFO(cases[i].name);
      if (chunks[c] % 64 == 0) CHECK(seen[i].losses[0] == base.losses[0]);
      same_losses += seen[i].losses[0] == base.losses[0];
      loss = std::max(loss, worst_relative(seen[i].losses, base.losses));
      first_loss = std::max(first_loss, std::abs(seen[i].losses[0] / base.losses[0] - 1));
      gradient = std::max(gradient, of_largest_entry(seen[i].head_gradient, base.head_gradient));
    }
    fmt::print("{:>3} tokens a chunk against 64: first loss the same bits for {} of {} models (within {:.1e}), losses of {} steps within {:.1e}, head gradient {:.1e} of its largest entry\n",
               chunks[c], same_losses, testing::small_families().size(), first_loss, kSteps, loss, gradient);
    CHECK(first_loss <= 1e-6);
    CHECK(loss <= 1e-5);
    CHECK(gradient <= 1e-6);
  }
}

}  // namespace zeroplan
