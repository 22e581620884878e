#include "planner/engines/eager/optimizers.h"

#include <algorithm>
#include <numeric>

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

AdamW::AdamW(Context& context, OptimizerKernel kernel, const Tensors& parameters) : context_(context), kernel_(kernel) {
  for (const Tensor& p : parameters)
    if (p.requires_grad()) parameters_.push_back(p);
}

void AdamW::make_state(std::size_t i) {
  if (states_.size() < parameters_.size()) states_.resize(parameters_.size());
  State& state = states_[i];
  if (state.step.defined()) return;
  const Tensor& p = parameters_[i];
  Scoped category(context_.category, Category::optimizer);
  Scoped place(context_.place, p.storage().place);
  {
    Scoped step_place(context_.place, kernel_ == OptimizerKernel::fused ? context_.place : context_.host);
    state.step = empty(context_, Shape{}, ScalarType::fp32, "AdamW step");
  }
  state.average = empty_like(p, "AdamW exp_avg");
  state.average_of_squares = empty_like(p, "AdamW exp_avg_sq");
}

namespace {
/// Passes over a parameter's bytes, reads and writes, of one update with weight decay: mul_, lerp_, mul_, addcmul_, sqrt, div, add_, addcdiv_ (torch/optim/adamw.py).
constexpr std::int64_t kPassesOfSteps = 20;
constexpr std::int64_t kKernelsOfSteps = 8;
/// One kernel that reads parameter, gradient and moments and writes all but the gradient.
constexpr std::int64_t kFusedPasses = 7;

std::int64_t bytes_of(const Tensors& parameters, const std::vector<std::size_t>& active, Place place) {
  std::int64_t bytes = 0;
  for (const std::size_t i : active)
    if (parameters[i].storage().place == place) bytes += parameters[i].bytes();
  return bytes;
}
}  // namespace

/// On the host the fused kernel stands for DeepSpeedCPUAdam.
void AdamW::step_fused(const std::vector<std::size_t>& active) {
  context_.begin_op("adamw");
  if (const std::int64_t bytes = bytes_of(parameters_, active, Place::device); bytes > 0) context_.moves(kFusedPasses * bytes);
  for (const std::size_t i : active)
    if (parameters_[i].storage().place == Place::host) context_.update_on_host(parameters_[i].elems());
}

void AdamW::step_for_loop(const std::vector<std::size_t>& active) {
  Tensor denominator;  // a Python name: the last one lives until the next is computed
  for (const std::size_t i : active) {
    const Tensor& square = states_[i].average_of_squares;
    Scoped place(context_.place, square.storage().place);
    context_.begin_op("adamw");
    for (std::int64_t kernel = 2; kernel < kKernelsOfSteps; ++kernel) context_.moves((kPassesOfSteps - 4) * square.bytes() / (kKernelsOfSteps - 2));
    Tensor root = elementwise("AdamW sqrt", square.type(), {&square});
    Tensor next = elementwise("AdamW denominator", root.type(), {&root});
    root.reset();
    denominator = std::move(next);
  }
}

void AdamW::step_foreach(const std::vector<std::size_t>& active) {
  context_.begin_op("adamw");
  std::vector<std::pair<ScalarType, Place>> groups;
  for (const std::size_t i : active) {
    const std::pair group(parameters_[i].type(), parameters_[i].storage().place);
    if (std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
  }
  Tensors roots;
  for (const auto& [type, where] : groups) {
    {
      Scoped step_place(context_.place, context_.host);
      const Tensor one = empty(context_, Shape{}, ScalarType::fp32, "AdamW one");
    }
    Scoped place(context_.place, where);
    Tensors group_roots;
    std::int64_t group_bytes = 0;
    for (const std::size_t i : active) {
      if (parameters_[i].type() != type || parameters_[i].storage().place != where) continue;
      group_roots.push_back(empty(context_, elementwise_shape({&states_[i].average_of_squares}), type, "AdamW sqrt"));
      group_bytes += parameters_[i].bytes();
    }
    for (std::int64_t kernel = 0; kernel < kKernelsOfSteps; ++kernel) context_.moves(kPassesOfSteps * group_bytes / kKernelsOfSteps);
    roots = std::move(group_roots);  // the name is bound again: the last group's roots die only now
  }
}

void AdamW::step() {
  std::vector<std::size_t> active;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (parameters_[i].grad().defined()) active.push_back(i);
  for (const std::size_t i : active) make_state(i);
  if (kernel_ == OptimizerKernel::for_loop) step_for_loop(active);
  if (kernel_ == OptimizerKernel::foreach) step_foreach(active);
  if (kernel_ == OptimizerKernel::fused) step_fused(active);
}

void AdamW::zero_grad() {
  for (const Tensor& p : parameters_) p.set_grad({});
}

void clip_grad_norm(Context& context, const Tensors& parameters) {
  Tensors norms;
  ScalarType first = ScalarType::fp32;
  Scoped category(context.category, Category::scratch);
  context.begin_op("clip_grad_norm");
  std::int64_t gradient_bytes = 0;
  for (const Tensor& p : parameters) {
    if (!p.grad().defined()) continue;
    if (norms.empty()) first = p.grad().type();
    gradient_bytes += p.grad().bytes();
    norms.push_back(empty(context, Shape{}, p.grad().type(), "gradient norm"));
  }
  if (norms.empty()) return;
  context.moves(gradient_bytes);      // the norms
  context.moves(2 * gradient_bytes);  // scaled in place
  Tensor stacked = empty(context, Shape{static_cast<std::int64_t>(norms.size())}, first, "gradient norms");
  const Tensor total = empty(context, Shape{}, first, "gradient norm");
  stacked.reset();
  norms.clear();
  Tensor shifted = elementwise("clip coefficient", first, {&total});
  Tensor reciprocal = elementwise("clip coefficient", first, {&shifted});
  const Tensor coefficient = elementwise("clip coefficient", first, {&reciprocal});
  reciprocal.reset();
  shifted.reset();
  const Tensor clamped = elementwise("clip coefficient", first, {&coefficient});
}

}  // namespace zeroplan::eager
