#include "planner/engines/eager/modules.h"

#include <algorithm>

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

Tensors Linear::forward(Arguments& arguments) {
  return {linear(arguments.positional[0], own_parameters[0].second, own_parameters.size() > 1 ? own_parameters[1].second : Tensor())};
}

LoraLinear::LoraLinear(std::unique_ptr<Module> base, std::int64_t in, std::int64_t out, std::int64_t rank, ScalarType type)
    : Module(*base->context, "lora.Linear"), base_(std::move(base)), a_(*context, in, rank, false, type), b_(*context, rank, out, false, type) {
  where = base_->where;
  a_.where = b_.where = where;
  children = {{"base_layer", base_.get()}, {"lora_A.default", &a_}, {"lora_B.default", &b_}};
}

Tensors LoraLinear::forward(Arguments& arguments) {
  const Tensor& x = arguments.positional[0];
  Tensor result = base_->call(x);
  Tensor low = a_.call(x);
  Tensor high = b_.call(low);
  low.reset();
  Tensor scaled = mul_scalar(high);
  high.reset();
  Tensor sum = add(result, scaled);
  scaled.reset();
  return {sum};
}

Embedding::Embedding(Context& owner, std::int64_t rows, std::int64_t columns, ScalarType type) : Module(owner, "Embedding") {
  where = owner.where;
  own_parameters.emplace_back("weight", parameter(owner, Shape{rows, columns}, type, "embedding weight"));
  made();
}

Tensors Embedding::forward(Arguments& arguments) { return {embedding(weight(), arguments.positional[0])}; }

RmsNorm::RmsNorm(Context& owner, std::int64_t size, ScalarType type) : Module(owner, "RMSNorm") {
  where = owner.where;
  own_parameters.emplace_back("weight", parameter(owner, Shape{size}, type, "norm weight"));
  made();
}

Tensors RmsNorm::forward(Arguments& arguments) {
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
  const Tensor normed = to(hidden, input_type);
  return {mul(own_parameters[0].second, normed)};
}

LayerNorm::LayerNorm(Context& owner, std::int64_t size, ScalarType type) : Module(owner, "LayerNorm") {
  where = owner.where;
  own_parameters.emplace_back("weight", parameter(owner, Shape{size}, type, "norm weight"));
  own_parameters.emplace_back("bias", parameter(owner, Shape{size}, type, "norm bias"));
  made();
}

Tensors LayerNorm::forward(Arguments& arguments) { return {layer_norm(arguments.positional[0], own_parameters[0].second, own_parameters[1].second)}; }

}  // namespace zeroplan::eager
