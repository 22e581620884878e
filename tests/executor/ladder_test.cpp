// The ladder of proof on small models of every family (design: docs/idea.md): for stages × keep or recompute × accumulation × prefetch × ranks, fold = walk = the arena's
// live maximum, and the executed run makes exactly the planned births and deaths, seen from outside. One pool of ranks runs all cases of a world size,
// for starting processes is what costs. Then what must not pass: programs with one falsified lifetime, address or scratch size.
#include <fmt/format.h>

#include <ATen/Parallel.h>
#include <catch2/catch.hpp>

#include <functional>
#include <nlohmann/json.hpp>

#include "executor/launcher.h"
#include "executor/prove.h"
#include "planner/engines/zeroplan.h"
#include "planner/engines/zeroplan_storages.h"
#include "tests/executor/small_models.h"

namespace zeroplan {
namespace {

std::vector<Question> matrix(std::int64_t ranks) {
  std::vector<Question> out;
  for (const std::string_view family : {"llama2", "llama3", "internlm2", "qwen2", "qwen3", "mistral"})
    for (std::int64_t stage = 0; stage <= 3; ++stage)
      for (const bool recompute : {false, true})
        for (const std::int64_t accumulate : {1, 3})
          for (const std::int64_t prefetch : {0, 1, 2}) {
            if (stage < 3 && prefetch > 0) continue;
            Question question = testing::small_question(family, ranks);
            question.plan.stage = stage;
            question.plan.recomputed_blocks = recompute ? question.job.model.num_layers : 0;
            question.plan.accumulate = accumulate;
            question.plan.prefetch_units = prefetch;
            question.plan.overlap_comm = prefetch != 0 || stage < 3;
            out.push_back(question);
          }
  return out;
}

std::string case_name(const Question& q) {
  return fmt::format("{} {} stage {} recomputed {} accumulate {} prefetch {} ranks {}", q.job.model.name, name_of(q.job.compute_dtype), q.plan.stage, q.plan.recomputed_blocks, q.plan.accumulate,
                     q.plan.prefetch_units, q.cluster.world_size());
}

ProofReport proof(const Question& question, RankContext& context, const ProofOptions& options = {}) {
  const Program program = compile(question, context.rank);
  const LinearProgram linear = linearize(program);
  return prove_rank(program, linear, lay_out(program, linear), context.collectives, options);
}

// Proves all questions on one pool of ranks; returns every failed check of every rank.
std::vector<std::string> failures(std::int64_t ranks, const std::vector<Question>& questions) {
  const LaunchResult result = launch({.world = ranks}, [&](RankContext& context) {
    at::set_num_threads(1);
    for (std::size_t i = 0; i < questions.size(); ++i) {
      context.progress.at(static_cast<std::int64_t>(i), 0, "case");
      for (const Check& check : proof(questions[i], context).checks)
        if (!check.passed) context.send(fmt::format("{}: rank {}: {}: {}\n", case_name(questions[i]), context.rank, check.name, check.detail));
    }
    return 0;
  });
  std::vector<std::string> out;
  if (result.exit_code != 0) out.push_back(result.message);
  for (const std::string& message : result.messages)
    if (!message.empty()) out.push_back(message);
  return out;
}

struct Falsified {
  Program program;
  LinearProgram linear;
  Layout layout;
};

// Runs a falsified program on one rank in a process of its own; true if some check failed. What a check throws counts: it was noticed.
bool noticed(const std::function<bool(Falsified&)>& falsify, const Question& question) {
  const LaunchResult result = launch({.world = 1}, [&](RankContext& context) {
    at::set_num_threads(1);
    Falsified f{compile(question, 0), {}, {}};
    f.linear = linearize(f.program);
    f.layout = lay_out(f.program, f.linear);
    if (!falsify(f)) throw std::logic_error("nothing to falsify");
    const ProofReport report = prove_rank(f.program, f.linear, f.layout, context.collectives);
    for (const Check& check : report.checks)
      if (!check.passed) context.send(check.name + "; ");
    return 0;
  });
  REQUIRE(result.message.find("nothing to falsify") == std::string::npos);
  INFO("noticed by: " << result.messages[0] << result.message);
  return result.exit_code != 0 || !result.messages[0].empty();
}

// Replaces one instruction of a fragment by a changed copy.
void replace(Program& program, std::size_t fragment, const std::function<void(Fragment&)>& change) {
  Fragment changed = *program.fragments[fragment];
  change(changed);
  program.fragments[fragment] = std::make_shared<const Fragment>(changed);
}

std::size_t find_fragment(const Program& program, std::string_view name) {
  for (std::size_t f = 0; f < program.fragments.size(); ++f)
    if (program.fragments[f]->name == name) return f;
  throw std::logic_error("no such fragment");
}

Question one_rank() {
  Question question = testing::small_question("llama3", 1);
  question.plan.stage = 3;
  return question;
}

}  // namespace

TEST_CASE("the ladder holds for every family, stage, recomputation, accumulation and prefetch", "[property]") {
  for (const std::int64_t ranks : {1, 2, 3, 4}) {
    const std::vector<Question> questions = matrix(ranks);
    REQUIRE(questions.size() == 144);
    const std::vector<std::string> failed = failures(ranks, questions);
    INFO(fmt::format("{} ranks: {}", ranks, fmt::join(failed, "\n")));
    CHECK(failed.empty());
  }
}

TEST_CASE("the ladder holds in bf16, with bf16 and with fp32 gradients, and for kept subsets", "[property]") {
  std::vector<Question> questions;
  for (const std::string_view family : {"llama2", "internlm2", "qwen2", "qwen3"})
    for (const Dtype gradient : {Dtype::bf16, Dtype::fp32})
      for (std::int64_t stage = 0; stage <= 3; ++stage) {
        Question question = testing::small_question(family, 2);
        question.job.compute_dtype = Dtype::bf16;
        question.job.gradient_dtype = gradient;
        question.plan.stage = stage;
        question.plan.recomputed_blocks = 1;
        question.plan.keep = KeepSet{}.with(stage % 2 == 0 ? Kept::qkv : Kept::gate_up);
        questions.push_back(question);
      }
  const std::vector<std::string> failed = failures(2, questions);
  INFO(fmt::format("{}", fmt::join(failed, "\n")));
  CHECK(failed.empty());
}

TEST_CASE("a program that is as planned is proved", "[unit]") {
  CHECK_FALSE(noticed([](Falsified&) { return true; }, one_rank()));
}

TEST_CASE("a tensor that dies before its last use is noticed", "[property]") {
  // Every death of block.backward, moved to the instruction before it; but not one at a boundary, where nothing runs that could use it.
  const Program whole = compile(one_rank(), 0);
  const Fragment& backward = *whole.fragments[find_fragment(whole, "block.backward")];
  int moved = 0;
  for (std::size_t i = 1; i < backward.instructions.size(); ++i) {
    if (backward.instructions[i].deaths_begin == backward.instructions[i].deaths_end || backward.instructions[i].op == Op::boundary) continue;
    INFO("deaths of instruction " << i);
    ++moved;
    CHECK(noticed(
        [&](Falsified& f) {
          replace(f.program, find_fragment(f.program, "block.backward"), [&](Fragment& fragment) {
            Instruction &late = fragment.instructions[i], &early = fragment.instructions[i - 1];
            early.deaths_end = late.deaths_end;
            early.dead_bytes += late.dead_bytes;
            late.deaths_begin = late.deaths_end;
            late.dead_bytes = Bytes();
          });
          f.linear = linearize(f.program);
          f.layout = lay_out(f.program, f.linear);
          return true;
        },
        one_rank()));
  }
  CHECK(moved >= 5);
}

TEST_CASE("two storages that live together at one address are noticed", "[property]") {
  const auto falsify = [](Falsified& f) {
    const std::vector<Life> lives = lives_of(f.program, f.linear);
    for (std::size_t a = 0; a < f.layout.birth_offset.size(); ++a)
      for (std::size_t b = 0; b < a; ++b)
        if (!lives[a].persistent && !lives[b].persistent && lives[a].birth < lives[b].death && lives[b].birth < lives[a].death) {
          f.layout.birth_offset[a] = f.layout.birth_offset[b];
          return true;
        }
    return false;
  };
  CHECK(noticed(falsify, one_rank()));
}

TEST_CASE("scratch that is declared too small or too large is noticed", "[property]") {
  for (const std::int64_t change : {-64, 64, 4096})
    for (const std::string_view name : {"block.backward", "head.end"}) {
      INFO(name << ' ' << change);
      CHECK(noticed(
          [&](Falsified& f) {
            bool done = false;
            replace(f.program, find_fragment(f.program, name), [&](Fragment& fragment) {
              for (Instruction& i : fragment.instructions)
                if (i.scratch_bytes > Bytes(64) && !done) {
                  i.scratch_bytes += Bytes(change);
                  done = true;
                }
            });
            f.linear = linearize(f.program);
            f.layout = lay_out(f.program, f.linear);
            return done;
          },
          one_rank()));
    }
}

TEST_CASE("an operand that is declared read only, or smaller than it is, is noticed", "[property]") {
  const auto change_operand = [](std::string_view fragment_name, Op op, std::size_t operand, const std::function<void(Operand&)>& change) {
    return [=](Falsified& f) {
      bool done = false;
      replace(f.program, find_fragment(f.program, fragment_name), [&](Fragment& fragment) {
        for (const Instruction& i : fragment.instructions)
          if (i.op == op && !done) {
            change(fragment.operands[i.operands_begin + operand]);
            done = true;
          }
      });
      return done;
    };
  };
  CHECK(noticed(change_operand("block.forward", Op::swiglu, 1, [](Operand& o) { o.access = Access::read; }), one_rank()));
  CHECK(noticed(change_operand("block.forward", Op::rope, 1, [](Operand& o) { o.rows -= 1; }), one_rank()));
  CHECK(noticed(change_operand("head.chunk", Op::cross_entropy, 2, [](Operand& o) { o.access = Access::read; }), one_rank()));
  CHECK(noticed(change_operand("block.backward", Op::linear_wgrad, 2, [](Operand& o) { o.access = Access::read; }), one_rank()));
}

TEST_CASE("a wait that is missing is noticed", "[unit]") {
  CHECK(noticed(
      [](Falsified& f) {
        bool done = false;
        for (std::size_t i = 0; i < f.program.fragments.size() && !done; ++i)
          if (f.program.fragments[i]->name == "block.forward")
            replace(f.program, i, [&](Fragment& fragment) {
              for (Instruction& instruction : fragment.instructions)
                if (instruction.stream == Stream::compute && instruction.waits_begin != instruction.waits_end) {
                  instruction.waits_end = instruction.waits_begin;
                  done = true;
                }
            });
        return done;
      },
      one_rank()));
}

}  // namespace zeroplan
