#include "planner/engines/eager/modules.h"

#include <algorithm>
#include <string_view>

#include "planner/engines/eager/liger.h"
#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

Tensors Module::operator()(Arguments arguments) {
  Scoped here(context->where, where);
  for (std::size_t i = 0; i < pre_hooks.size(); ++i) pre_hooks[i](*this, arguments);
  Tensors outputs = forward(arguments);
  for (std::size_t i = 0; i < post_hooks.size(); ++i) post_hooks[i](*this, arguments, outputs);
  return outputs;
}

Tensor Module::call(const Tensor& x) { return std::move((*this)(Arguments{.positional = {x}, .keyword = {}})[0]); }

void Module::collect(const std::string& prefix, std::vector<std::pair<std::string, Tensor>>& out) const {
  for (const auto& [name, tensor] : own_parameters) {
    const bool known = std::any_of(out.begin(), out.end(), [&t = tensor](const auto& entry) { return entry.second == t; });
    if (!known) out.emplace_back(prefix + name, tensor);
  }
  for (const auto& [name, child] : children) child->collect(prefix + name + ".", out);
}

std::vector<std::pair<std::string, Tensor>> Module::named_parameters() const {
  std::vector<std::pair<std::string, Tensor>> out;
  collect("", out);
  return out;
}

Tensors Module::parameters() const {
  Tensors out;
  for (auto& [name, tensor] : named_parameters()) out.push_back(tensor);
  return out;
}

std::vector<Module*> Module::modules() {
  std::vector<Module*> out{this};
  for (const auto& [name, child] : children)
    for (Module* below : child->modules()) out.push_back(below);
  return out;
}

Linear::Linear(Context& owner, std::int64_t in, std::int64_t out, bool has_bias, ScalarType type) : Module(owner, "Linear") {
  where = owner.where;
  own_parameters.emplace_back("weight", parameter(owner, Shape{out, in}, type, "linear weight"));
  if (has_bias) own_parameters.emplace_back("bias", parameter(owner, Shape{out}, type, "linear bias"));
  made();
}

Tensor Linear::call_with(const Tensor& x, const std::function<Tensor(const Tensor& x)>& use) {
  Scoped in_use(use_, &use);
  return call(x);
}

Tensors Linear::forward(Arguments& arguments) {
  if (use_ != nullptr) return {(*use_)(arguments.positional[0])};
  return {linear(arguments.positional[0], own_parameters[0].second, own_parameters.size() > 1 ? own_parameters[1].second : Tensor())};
}

LoraLinear::LoraLinear(std::unique_ptr<Module> base, std::int64_t in, std::int64_t out, std::int64_t rank, ScalarType type, bool drops)
    : Module(*base->context, "lora.Linear"), base_(std::move(base)), a_(*context, in, rank, false, type), b_(*context, rank, out, false, type), drops_(drops) {
  where = base_->where;
  a_.where = b_.where = where;
  children = {{"base_layer", base_.get()}, {"lora_A.default", &a_}, {"lora_B.default", &b_}};
}

/// B(A(dropout(x))) × scaling
Tensor LoraLinear::adapted(const Tensor& x) {
  Tensor low = a_.call(drops_ ? dropout(x) : x);
  Tensor high = b_.call(low);
  low.reset();
  return mul_scalar(high);
}

Tensors LoraLinear::forward_4bit(const Tensor& input) {
  Tensor result = base_->call(input);
  result = clone(result);
  const ScalarType result_type = result.type();
  const bool converts = !context->autocast.enabled;
  const Tensor x = converts ? to(input, a_.weight().type()) : input;
  Tensor output = adapted(x);
  if (converts) output = to(output, result_type);
  return {add(result, output)};
}

Tensors LoraLinear::forward(Arguments& arguments) {
  if (std::string_view(base_->kind) == "Linear4bit") return forward_4bit(arguments.positional[0]);
  Tensor result = base_->call(arguments.positional[0]);
  const ScalarType result_type = result.type();
  const Tensor x = to(arguments.positional[0], a_.weight().type());  // as it is now: an engine may have gathered it in another dtype
  Tensor scaled = adapted(x);
  result = add(result, scaled);
  scaled.reset();
  return {to(result, result_type)};
}

Embedding::Embedding(Context& owner, std::int64_t rows, std::int64_t columns, ScalarType type, bool scaled) : Module(owner, "Embedding") {
  where = owner.where;
  own_parameters.emplace_back("weight", parameter(owner, Shape{rows, columns}, type, "embedding weight"));
  if (scaled) {
    {
      Scoped on_host(owner.place, owner.host);
      const Tensor number = empty(owner, Shape{}, type, "tensor");
    }
    scale_ = empty(owner, Shape{}, type, "embedding scale");
  }
  made();
}

Tensors Embedding::forward(Arguments& arguments) {
  const Tensor rows = embedding(weight(), arguments.positional[0]);
  if (!scale_.defined()) return {rows};
  const Tensor scale = to(scale_, weight().type());
  return {mul(rows, scale)};
}

RmsNorm::RmsNorm(Context& owner, std::int64_t size, ScalarType type, RmsNormKind norm_kind) : Module(owner, "RMSNorm"), kind_(norm_kind) {
  where = owner.where;
  own_parameters.emplace_back("weight", parameter(owner, Shape{size}, type, "norm weight"));
  made();
}

/// output = self._norm(x.float()) * (1.0 + self.weight.float())
Tensor RmsNorm::plus_one(const Tensor& x) const {
  Tensor output;
  {
    const Tensor hidden = to(x, ScalarType::fp32);
    Tensor squares = pow_scalar(hidden);
    Tensor variance = mean_last(squares);
    squares.reset();
    Tensor shifted = add_scalar(variance);
    variance.reset();
    Tensor scale = rsqrt(shifted);
    shifted.reset();
    output = mul(hidden, scale);
  }
  Tensor weight = to(own_parameters[0].second, ScalarType::fp32);
  const Tensor factor = add_scalar(weight);
  weight.reset();
  output = mul(output, factor);
  return to(output, x.type());
}

Tensors RmsNorm::forward(Arguments& arguments) {
  if (kind_ == RmsNormKind::liger) return {liger_rms_norm(arguments.positional[0], own_parameters[0].second)};
  if (kind_ == RmsNormKind::plus_one) return {plus_one(arguments.positional[0])};
  const ScalarType input_type = arguments.positional[0].type();
  Tensor hidden = to(arguments.positional[0], ScalarType::fp32);
  Tensor squares = pow_scalar(hidden);
  const Tensor variance = mean_last(squares);
  squares.reset();
  Tensor shifted = add_scalar(variance);
  Tensor scale = rsqrt(shifted);
  shifted.reset();
  hidden = mul(hidden, scale);
  scale.reset();
  if (kind_ == RmsNormKind::fp32_weight) {
    const Tensor weighted = mul(own_parameters[0].second, hidden);
    return {to(weighted, input_type)};
  }
  const Tensor normed = to(hidden, input_type);
  return {mul(own_parameters[0].second, normed)};
}

LayerNorm::LayerNorm(Context& owner, std::int64_t size, ScalarType type) : Module(owner, "LayerNorm") {
  where = owner.where;
  own_parameters.emplace_back("weight", parameter(owner, Shape{size}, type, "norm weight"));
  own_parameters.emplace_back("bias", parameter(owner, Shape{size}, type, "norm bias"));
  made();
}

Tensors LayerNorm::forward(Arguments& arguments) {
  return {layer_norm(arguments.positional[0], own_parameters[0].second, own_parameters.size() > 1 ? own_parameters[1].second : Tensor())};
}

}  // namespace zeroplan::eager
