#include "planner/engines/eager/optimizers.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

AdamW::AdamW(Context& context, OptimizerKernel kernel, const Tensors& parameters, OptimizerRule rule, bool fp32_masters) : context_(context), kernel_(kernel), rule_(rule) {
  for (const Tensor& p : parameters)
    if (p.requires_grad()) parameters_.push_back(p);
  if (fp32_masters) make_masters();
}

void AdamW::make_masters() {
  of_model_ = parameters_;
  Scoped category(context_.category, Category::optimizer);
  for (Tensor& p : parameters_) {
    if (p.type() == ScalarType::fp32) continue;
    Scoped place(context_.place, p.storage().place);
    context_.moves(p.elems() * (size_of(p.type()) + size_of(ScalarType::fp32)));
    p = empty_like(p, ScalarType::fp32, "fp32 master copy");
  }
}

void AdamW::step_masters() {
  {
    Scoped category(context_.category, Category::gradients);
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const Tensor gradient = of_model_[i].grad();
      if (!gradient.defined() || parameters_[i] == of_model_[i]) continue;
      Scoped place(context_.place, gradient.storage().place);
      parameters_[i].set_grad(to(gradient, ScalarType::fp32));
    }
  }
  update();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i] == of_model_[i]) continue;
    parameters_[i].set_grad({});
    if (of_model_[i].storage().place == Place::device) context_.moves(of_model_[i].bytes() + parameters_[i].bytes());
  }
}

void AdamW::make_state(std::size_t i) {
  if (states_.size() < parameters_.size()) states_.resize(parameters_.size());
  State& state = states_[i];
  if (std::exchange(state.made, true)) return;
  const Tensor& p = parameters_[i];
  Scoped category(context_.category, Category::optimizer);
  Scoped place(context_.place, p.storage().place);
  if (rule_ != OptimizerRule::adamw) return make_moments(state, p);
  {
    Scoped step_place(context_.place, kernel_ == OptimizerKernel::fused ? context_.place : context_.host);
    state.step = empty(context_, Shape{}, ScalarType::fp32, "AdamW step");
  }
  state.average = empty_like(p, "AdamW exp_avg");
  state.average_of_squares = empty_like(p, "AdamW exp_avg_sq");
}

namespace {
constexpr std::int64_t kSmallest8BitElems = 4096, kSmallestPagedElems = 100'000, k8BitBlockElems = 256;  // bitsandbytes/optim/optimizer.py
constexpr std::int64_t kTableEntries = 256;
}  // namespace

/// Optimizer2State.init_state: values and maxima.
void AdamW::make_8bit_moments(State& state, const Tensor& p) {
  if (p.elems() < kSmallest8BitElems) {
    state.average = empty_like(p, ScalarType::fp32, "state1");
    state.average_of_squares = empty_like(p, ScalarType::fp32, "state2");
    return;
  }
  for (std::size_t i = tables_.size(); i < 2; ++i) tables_.push_back(empty(context_, Shape{kTableEntries}, ScalarType::fp32, "qmap"));
  {
    const bool paged = rule_ == OptimizerRule::paged_adamw_8bit && p.elems() >= kSmallestPagedElems;
    Scoped place(context_.place, paged ? context_.host : context_.place);
    state.average = empty_like(p, ScalarType::uint8, "state1");
    state.average_of_squares = empty_like(p, ScalarType::uint8, "state2");
  }
  const Shape blocks{divide_up(p.elems(), k8BitBlockElems)};
  state.average_maxima = empty(context_, blocks, ScalarType::fp32, "absmax1");
  state.squares_maxima = empty(context_, blocks, ScalarType::fp32, "absmax2");
}

void AdamW::make_moments(State& state, const Tensor& p) {
  switch (rule_) {
    case OptimizerRule::adamw:
    case OptimizerRule::sgd: return;
    case OptimizerRule::momentum: state.average = empty_like(p, "momentum"); return;
    case OptimizerRule::lion: state.average = empty_like(p, ScalarType::fp32, "state1"); return;
    case OptimizerRule::adafactor:
      if (p.dims() < 2) {
        state.average_of_squares = empty_like(p, ScalarType::fp32, "exp_avg_sq");
        return;
      }
      state.average = empty(context_, Shape{p.elems() / p.size(-1)}, ScalarType::fp32, "exp_avg_sq_row");
      state.average_of_squares = empty(context_, Shape{p.elems() / p.size(-2)}, ScalarType::fp32, "exp_avg_sq_col");
      return;
    case OptimizerRule::adamw_8bit:
    case OptimizerRule::paged_adamw_8bit: make_8bit_moments(state, p); return;
  }
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
  Tensors roots, denominators;
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
    if (kernel_ != OptimizerKernel::foreach_of_two) continue;
    Tensors group_denominators;
    for (const Tensor& root : roots) group_denominators.push_back(empty_like(root, "AdamW denominator"));
    denominators = std::move(group_denominators);
  }
}

/// One kernel that reads parameter, gradient and states and writes all but the gradient.
void AdamW::step_in_place(const std::vector<std::size_t>& active) {
  context_.begin_op("optimizer");
  for (const std::size_t i : active) {
    std::int64_t states_bytes = 0;
    for (const Tensor* moment : {&states_[i].average, &states_[i].average_of_squares})
      if (moment->defined()) states_bytes += moment->bytes();
    if (parameters_[i].storage().place == Place::device) context_.moves(3 * parameters_[i].bytes() + 2 * states_bytes);
    else context_.update_on_host(parameters_[i].elems());
  }
}

namespace {
/// tensor.norm(2) / numel ** 0.5
Tensor root_mean_square(const Tensor& x) {
  x.context().moves(x.bytes());
  const Tensor norm = empty(x.context(), Shape{}, x.type(), "norm");
  return elementwise("div", x.type(), {&norm});
}

/// _approx_sq_grad: the outer product of a row's and a column's factors.
Tensor approximate_squares(const Tensor& rows, const Tensor& columns, const Shape& shape) {
  const Tensor mean = empty(rows.context(), Shape{1}, ScalarType::fp32, "mean");
  const Tensor row_factor = elementwise("div", ScalarType::fp32, {&rows});
  const Tensor column_factor = elementwise("rsqrt", ScalarType::fp32, {&columns});
  rows.context().moves(shape.elems() * size_of(ScalarType::fp32));
  return empty(rows.context(), shape, ScalarType::fp32, "adafactor update");
}
}  // namespace

/// The squares of the gradient go into the state; the update is made of the state.
Tensor AdamW::adafactor_update(const State& state, Tensor squares) {
  if (!state.average.defined()) return elementwise("rsqrt", ScalarType::fp32, {&state.average_of_squares});
  for (const Tensor* mean : {&state.average, &state.average_of_squares}) {
    context_.moves(squares.bytes());
    elementwise("mean", ScalarType::fp32, {mean});
  }
  return approximate_squares(state.average, state.average_of_squares, squares.shape().contiguous());
}

/// Adafactor.step: gradient, parameter and update of one parameter in fp32. The loop's names live until they are bound again.
void AdamW::step_adafactor(const std::vector<std::size_t>& active) {
  Tensor gradient, parameter, update;
  for (const std::size_t i : active) {
    const Tensor& p = parameters_[i];
    Scoped place(context_.place, p.storage().place);
    context_.begin_op("adafactor");
    gradient = p.grad();
    gradient = to(gradient, ScalarType::fp32);
    make_state(i);
    State& state = states_[i];
    parameter = p.detach();
    parameter = to(parameter, ScalarType::fp32);
    state.step = root_mean_square(parameter);
    {
      Tensor squares = elementwise("pow", ScalarType::fp32, {&gradient});
      update = elementwise("add", ScalarType::fp32, {&squares});
    }
    update = adafactor_update(state, update);
    context_.moves(3 * update.bytes());  // times the gradient, in place
    {
      const Tensor scale = root_mean_square(update);
      const Tensor clipped = elementwise("div", ScalarType::fp32, {&scale});
      context_.moves(2 * update.bytes());
    }
    const Tensor negative = elementwise("neg", ScalarType::fp32, {&update});
    context_.moves(3 * parameter.bytes() + p.bytes());
  }
}

void AdamW::step() { of_model_.empty() ? update() : step_masters(); }

void AdamW::update() {
  std::vector<std::size_t> active;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (parameters_[i].grad().defined()) active.push_back(i);
  if (rule_ == OptimizerRule::adafactor) return step_adafactor(active);
  for (const std::size_t i : active) make_state(i);
  if (rule_ != OptimizerRule::adamw) return step_in_place(active);
  if (kernel_ == OptimizerKernel::for_loop) step_for_loop(active);
  if (kernel_ == OptimizerKernel::foreach || kernel_ == OptimizerKernel::foreach_of_two) step_foreach(active);
  if (kernel_ == OptimizerKernel::fused) step_fused(active);
}

void AdamW::zero_grad() {
  for (const Tensor& p : of_model_.empty() ? parameters_ : of_model_) p.set_grad({});
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
