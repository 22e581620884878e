// Every gradient that the executor computes by its own backward, against libtorch's autograd of a model written separately (reference_model.cpp).
// Parameters are drawn anew so that norms, biases and attention are far from trivial. The worst figures are printed.
#include <c10/util/BFloat16.h>
#include <fmt/format.h>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <catch2/catch.hpp>

#include <cmath>

#include "executor/batches.h"
#include "executor/initialization.h"
#include "executor/shm_collectives.h"
#include "tests/executor/reference_model.h"
#include "tests/executor/small_models.h"
#include "tests/executor/small_run.h"

namespace zeroplan {
namespace {

using testing::FlatUnits;
using testing::ReferenceBatch;
using testing::ReferenceGradient;
using testing::ReferencePrecision;
using testing::ReferenceResult;

constexpr std::uint64_t kSeed = 7;

// Uniform in [-1, 1), by place.
float uniform(UnitKind unit, std::int64_t block, std::int64_t element) {
  const std::uint64_t bits = splitmix64(splitmix64(static_cast<std::uint64_t>(unit) * 1000 + static_cast<std::uint64_t>(block)) + static_cast<std::uint64_t>(element));
  return static_cast<float>(static_cast<double>(bits >> 11) * 0x1p-52 - 1.0);
}

// Norm weights around 1, biases of the size of what they are added to, matrices that keep the size of their input.
float drawn(const Parameter& p, float u) {
  switch (p.id) {
    case ParameterId::attention_norm:
    case ParameterId::ffn_norm:
    case ParameterId::final_norm:
    case ParameterId::query_norm:
    case ParameterId::key_norm: return 1.0f + 0.4f * u;
    case ParameterId::qkv_bias: return 0.5f * u;
    case ParameterId::token_embedding:
    case ParameterId::qkv:
    case ParameterId::attention_out:
    case ParameterId::gate_up:
    case ParameterId::down:
    case ParameterId::head_weight: return std::sqrt(3.0f / static_cast<float>(p.columns)) * u;
  }
  return 0;
}

template <class Visit>
void for_each_unit(const Model& model, Visit&& visit) {
  visit(UnitKind::embedding, std::int64_t{0});
  for (std::int64_t block = 0; block < model.num_layers; ++block) visit(UnitKind::block, block);
  visit(UnitKind::head, std::int64_t{0});
}

FlatUnits drawn_parameters(const Job& job) {
  FlatUnits units = testing::zeroed_units(job.model);
  for_each_unit(job.model, [&](UnitKind unit, std::int64_t block) {
    for (const Parameter& p : unit_parameters(job.model, unit))
      for (std::int64_t e = p.offset_elems; e < p.offset_elems + p.elems(); ++e) {
        const float value = drawn(p, uniform(unit, block, e));
        units.of(unit, block)[static_cast<std::size_t>(e)] = job.compute_dtype == Dtype::bf16 ? static_cast<float>(c10::BFloat16(value)) : value;
      }
  });
  return units;
}

template <class T>
void copy_into(const std::vector<float>& from, void* to) {
  for (std::size_t i = 0; i < from.size(); ++i) static_cast<T*>(to)[i] = T(from[i]);
}
template <class T>
void copy_out(const void* from, std::vector<float>& to) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<float>(static_cast<const T*>(from)[i]);
}

// The arena is the test's own: what lies between steps may be replaced.
void set_parameters(const Interpreter& interpreter, const Job& job, const FlatUnits& units) {
  for_each_unit(job.model, [&](UnitKind unit, std::int64_t block) {
    void* memory = const_cast<void*>(interpreter.parameters_of(unit, block).first);
    job.compute_dtype == Dtype::bf16 ? copy_into<c10::BFloat16>(units.of(unit, block), memory) : copy_into<float>(units.of(unit, block), memory);
  });
}

// On one rank what the gradient norm reads is each unit's whole gradient, complete and not yet clipped.
class GradientCapture final : public Observer {
 public:
  GradientCapture(const Interpreter& interpreter, const Model& model) : interpreter_(interpreter), gradients(testing::zeroed_units(model)) {}

  void before(std::size_t at) override {
    const Prepared& prepared = interpreter_.prepared()[at];
    if (prepared.instruction->op != Op::grad_norm) return;
    const Bound& flat = interpreter_.operands_of(prepared)[0];
    std::vector<float>& out = gradients.of(prepared.instruction->unit, prepared.block);
    REQUIRE(flat.elems() >= static_cast<std::int64_t>(out.size()));
    flat.dtype == Dtype::bf16 ? copy_out<c10::BFloat16>(flat.data, out) : copy_out<float>(flat.data, out);
  }
  void after(std::size_t) override {}

 private:
  const Interpreter& interpreter_;

 public:
  FlatUnits gradients;
};

struct Executed {
  StepResult step;
  FlatUnits gradients;
};

Executed execute(const Question& question, const FlatUnits& parameters) {
  const at::NoGradGuard no_grad;
  ShmWorld world(1);
  ShmCollectives collectives(world, 0);
  const std::unique_ptr<Batches> batches = synthetic_batches(question, kSeed);
  testing::SmallRun run(question, collectives, *batches);
  run.interpreter.run_init();
  set_parameters(run.interpreter, question.job, parameters);
  GradientCapture capture(run.interpreter, question.job.model);
  run.interpreter.observer = &capture;
  const StepResult step = run.interpreter.run_step(1, question.job.learning_rate);
  return {step, std::move(capture.gradients)};
}

std::vector<ReferenceBatch> batches_of(const Question& question) {
  const std::unique_ptr<Batches> batches = synthetic_batches(question, kSeed);
  std::vector<ReferenceBatch> out;
  for (std::int64_t micro_batch = 0; micro_batch < question.plan.accumulate; ++micro_batch) {
    const auto tokens = static_cast<std::size_t>(question.tokens_per_micro_batch());
    ReferenceBatch batch{question.plan.micro_batch, question.job.seq, std::vector<std::int32_t>(tokens), std::vector<std::int32_t>(tokens)};
    batches->fill(1, micro_batch, 0, batch.sequences, batch.seq, batch.tokens.data(), batch.targets.data());
    out.push_back(batch);
  }
  return out;
}

// One tensor beside the executor's values of it.
struct Difference {
  double largest_entry = 0, largest_difference = 0, dot = 0, norm = 0, reference_norm = 0;
  double ratio() const { return largest_difference / largest_entry; }
  double cosine() const { return dot / std::sqrt(norm * reference_norm); }
};

Difference difference(const ReferenceGradient& reference, const FlatUnits& executed) {
  Difference d;
  const float* values = executed.of(reference.unit, reference.block).data() + reference.offset_elems;
  for (std::size_t i = 0; i < reference.values.size(); ++i) {
    const double a = values[i], b = reference.values[i];
    d.largest_entry = std::max(d.largest_entry, std::abs(b));
    d.largest_difference = std::max(d.largest_difference, std::isfinite(a) ? std::abs(a - b) : INFINITY);
    d.dot += a * b;
    d.norm += a * a;
    d.reference_norm += b * b;
  }
  return d;
}

struct Worst {
  double ratio = 0, cosine = 1;
  std::string of_ratio, of_cosine;
};

Worst worst_of(const std::vector<ReferenceGradient>& references, const FlatUnits& executed) {
  Worst worst;
  for (const ReferenceGradient& reference : references) {
    const Difference d = difference(reference, executed);
    if (!(d.ratio() <= worst.ratio)) worst.ratio = d.ratio(), worst.of_ratio = reference.name;
    if (!(d.cosine() >= worst.cosine)) worst.cosine = d.cosine(), worst.of_cosine = reference.name;
  }
  return worst;
}

double norm_of(const std::vector<ReferenceGradient>& gradients) {
  double squares = 0;
  for (const ReferenceGradient& gradient : gradients)
    for (const double value : gradient.values) squares += value * value;
  return std::sqrt(squares);
}

std::int64_t elems_of(const std::vector<ReferenceGradient>& gradients) {
  std::int64_t elems = 0;
  for (const ReferenceGradient& gradient : gradients) elems += static_cast<std::int64_t>(gradient.values.size());
  return elems;
}

Question two_blocks(std::string_view family) {
  Question question = testing::small_question(family, 1);
  question.job.model.num_layers = 2;
  return question;
}

void expect_parity(const std::string& what, const Question& question) {
  const FlatUnits parameters = drawn_parameters(question.job);
  const ReferenceResult reference = reference_step(question.job.model, parameters, batches_of(question), ReferencePrecision::fp32);
  const ReferenceResult exact = reference_step(question.job.model, parameters, batches_of(question), ReferencePrecision::fp64);
  const Executed executed = execute(question, parameters);

  REQUIRE(elems_of(reference.gradients) == parameter_elems(question.job.model));
  const Worst worst = worst_of(reference.gradients, executed.gradients), from_exact = worst_of(exact.gradients, executed.gradients);
  const double loss_ratio = std::abs(executed.step.loss / reference.loss - 1);
  fmt::print("{:<28} {:>2} tensors: worst {:.1e} of the largest entry ({}), {:.1e} from autograd in fp64; loss {:.7f}, off by {:.1e}\n", what, reference.gradients.size(), worst.ratio,
             worst.of_ratio, from_exact.ratio, executed.step.loss, loss_ratio);
  CHECK(loss_ratio <= 1e-6);
  CHECK(std::abs(executed.step.gradient_norm / norm_of(reference.gradients) - 1) <= 1e-6);
  for (const ReferenceGradient& gradient : reference.gradients) {
    const Difference d = difference(gradient, executed.gradients);
    INFO(what << ": " << gradient.name << ": largest entry " << d.largest_entry << ", largest difference " << d.largest_difference);
    CHECK(d.largest_entry > 1e-5);  // a tensor without a gradient would prove nothing
    CHECK(d.ratio() <= 1e-5);
  }
}

struct Bf16Parity {
  double loss_difference;
  Worst worst;
};

Bf16Parity bf16_parity(Question question, Dtype gradient_dtype) {
  question.job.compute_dtype = Dtype::bf16;
  question.job.gradient_dtype = gradient_dtype;
  const FlatUnits parameters = drawn_parameters(question.job);
  const ReferenceResult reference = reference_step(question.job.model, parameters, batches_of(question), ReferencePrecision::fp32);
  const Executed executed = execute(question, parameters);
  return {std::abs(executed.step.loss - reference.loss), worst_of(reference.gradients, executed.gradients)};
}

struct OneThread {
  OneThread() { at::set_num_threads(1); }
};

}  // namespace

TEST_CASE_METHOD(OneThread, "every gradient of a 2-block model of each family equals autograd's", "[unit]") {
  for (const std::string_view family : testing::small_families()) expect_parity(std::string(family), two_blocks(family));
}

TEST_CASE_METHOD(OneThread, "gradients over three micro batches are autograd's of their mean loss", "[unit]") {
  for (const std::string_view family : testing::small_families())
    for (const std::int64_t stage : {0, 3}) {
      Question question = two_blocks(family);
      question.plan.stage = stage;
      question.plan.accumulate = 3;
      expect_parity(fmt::format("{}, 3 micro batches, stage {}", family, stage), question);
    }
}

TEST_CASE_METHOD(OneThread, "gradients with every block recomputed equal autograd's", "[unit]") {
  for (const std::string_view family : testing::small_families()) {
    Question question = two_blocks(family);
    question.plan.recomputed_blocks = question.job.model.num_layers;
    expect_parity(fmt::format("{}, recomputed", family), question);
  }
}

TEST_CASE_METHOD(OneThread, "gradients over more than one tile of attention and of the loss equal autograd's", "[unit]") {
  for (const std::string_view family : testing::small_families()) {
    Question question = two_blocks(family);
    question.job.seq = 150;  // three tiles of 64 queries, the last one in part
    question.plan.loss_chunk_tokens = 128;
    expect_parity(fmt::format("{}, 150 tokens", family), question);
  }
}

TEST_CASE_METHOD(OneThread, "gradients in bf16 point where autograd's in fp32 point", "[unit]") {
  for (const std::string_view family : testing::small_families())
    for (const Dtype gradient : {Dtype::bf16, Dtype::fp32}) {
      const Bf16Parity parity = bf16_parity(two_blocks(family), gradient);
      fmt::print("{:<12} bf16, gradients {}: loss off by {:.1e}; worst cosine {:.5f} ({}), worst difference {:.1e} of the largest entry ({})\n", family, name_of(gradient), parity.loss_difference,
                 parity.worst.cosine, parity.worst.of_cosine, parity.worst.ratio, parity.worst.of_ratio);
      INFO(family << ' ' << parity.worst.of_cosine);
      CHECK(parity.loss_difference <= 1e-2);
      CHECK(parity.worst.cosine > 0.99);
    }
}

TEST_CASE_METHOD(OneThread, "the yardstick tells models apart that differ in one trait", "[unit]") {
  const auto worst_against = [](const Question& question, const auto& change) {
    Model other = question.job.model;
    change(other);
    const FlatUnits parameters = drawn_parameters(question.job);
    const ReferenceResult reference = reference_step(other, parameters, batches_of(question), ReferencePrecision::fp32);
    return worst_of(reference.gradients, execute(question, parameters).gradients).ratio;
  };
  CHECK(worst_against(two_blocks("llama3"), [](Model&) {}) < 1e-5);
  CHECK(worst_against(two_blocks("llama3"), [](Model& m) { m.rope_theta *= 1.001; }) > 1e-5);
  CHECK(worst_against(two_blocks("llama2"), [](Model& m) { m.norm_eps *= 2; }) > 1e-5);
  CHECK(worst_against(two_blocks("internlm2"), [](Model& m) { m.model_type = "llama"; }) > 1e-2);  // rows of wqkv taken as q, k, v one after the other
}

}  // namespace zeroplan
