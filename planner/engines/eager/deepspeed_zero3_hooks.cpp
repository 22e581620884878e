// Functions have the names of parameter_offload.py and linear.py; read those beside this file.
#include "planner/engines/eager/deepspeed_zero3_hooks.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

namespace {
std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

template <class T>
bool contains(const std::vector<T>& values, const T& value) { return std::find(values.begin(), values.end(), value) != values.end(); }
}  // namespace

Zero3Hooks::Zero3Hooks(Context& context, CausalLm& model, bool lora, ZeroInit& init, PartitionedParameterCoordinator& coordinator, const Zero3Behaviour& behaviour)
    : context_(context), init_(init), coordinator_(coordinator), behaviour_(behaviour) {
  const std::vector<Module*> modules = model.modules();
  for (Module* module : modules) {
    stand_in_for_gpt2(*module);
    stand_in_for_lora(*module);
  }
  for (Module* module : modules)
    if (module != &model) hook(*module);
  for (Module* module : modules) {
    stand_in_for_activations(*module);
    watch_lora_weight(*module);
  }
  hook_root(model, lora);
}

SubModule& Zero3Hooks::make(const Module* module) {
  sub_modules_.push_back(std::make_unique<SubModule>());
  SubModule& out = *sub_modules_.back();
  out.ds_id = static_cast<int>(sub_modules_.size()) - 1;
  if (module == nullptr) return out;
  by_module_[module] = &out;
  for (const auto& [name, tensor] : module->own_parameters)
    if (ZeroParam* param = init_.find(tensor); param != nullptr && !contains(out.params, param)) out.params.push_back(param);
  return out;
}

void Zero3Hooks::pre_forward(SubModule& module) {
  context_.runs_hooks();
  coordinator_.trace_prologue(module);
  coordinator_.fetch_sub_module(module, true);
}

void Zero3Hooks::pre_backward(SubModule& module) {
  context_.runs_hooks();
  coordinator_.trace_prologue(module);
  coordinator_.fetch_sub_module(module, false);
}

void Zero3Hooks::watch_inputs(SubModule& module, Tensors& inputs, SubModule* stand_in_after) {
  if (behaviour_.resets_grads_remaining) module.grads_remaining = 0;
  for (Tensor& input : inputs) {
    if (!input.defined()) continue;
    if (input.requires_grad()) ++module.grads_remaining;
    input = std::move(pass_through(context_, "PostBackwardFunctionModule", {input}, [this, &module, stand_in_after] {
      if (--module.grads_remaining != 0) return;
      coordinator_.release_sub_module(module, false);
      if (stand_in_after != nullptr) call_stand_in_backward(*stand_in_after);
    })[0]);
  }
}

void Zero3Hooks::watch_outputs(SubModule& module, Tensors& outputs, SubModule* stand_in_before) {
  for (Tensor& output : outputs) {
    ++module.applied_pre_backward;
    output = std::move(pass_through(context_, "PreBackwardFunctionForModule", {output}, [this, &module, stand_in_before] {
      if (module.applied_pre_backward == 0) return;
      if (stand_in_before != nullptr) call_stand_in_backward(*stand_in_before);
      pre_backward(module);
      --module.applied_pre_backward;
    })[0]);
  }
}

void Zero3Hooks::hook(Module& module) {
  SubModule& sub = make(&module);
  const Neighbours near = neighbours_[&module];
  module.pre_hooks.push_back([this, &sub, near](Module&, Arguments& arguments) {
    if (near.before != nullptr) call_stand_in(*near.before);
    pre_forward(sub);
    watch_inputs(sub, arguments.positional, near.before);
  });
  module.post_hooks.push_back([this, &sub, near](Module&, Arguments&, Tensors& outputs) {
    coordinator_.release_sub_module(sub, true);
    watch_outputs(sub, outputs, near.after);
    if (near.after != nullptr) call_stand_in(*near.after);
  });
}

namespace {
Module* child(const Module& module, const char* name) {
  for (const auto& [child_name, child] : module.children)
    if (child_name == name) return child;
  return nullptr;
}
bool is(const Module& module, const char* kind) { return std::strcmp(module.kind, kind) == 0; }
}  // namespace

/// The activation function between two projections: forward right after the first; backward right before the node of its last op,
/// which is found from the input of the second (Llama: activation × up projection).
void Zero3Hooks::stand_in_for_activations(Module& module) {
  const bool llama = is(module, "LlamaMLP");
  if (!llama && !is(module, "GPT2MLP")) return;
  SubModule& activation = make(nullptr);
  Module& before = *child(module, llama ? "gate_proj" : "c_fc");
  Module& after = *child(module, llama ? "down_proj" : "c_proj");
  before.post_hooks.push_back([this, &activation](Module&, Arguments&, Tensors&) { call_stand_in(activation); });
  after.pre_hooks.insert(after.pre_hooks.begin(), [this, &activation, llama](Module&, Arguments& arguments) {
    Node* last = arguments.positional[0].grad_fn();
    if (llama && last != nullptr) last = last->edges[0].node.get();
    if (last != nullptr) last->hooks().before.push_back([this, &activation](Tensors&) { call_stand_in_backward(activation); });
  });
}

/// resid_dropout and dropout follow the projections; drop comes before the first block.
void Zero3Hooks::stand_in_for_gpt2(Module& module) {
  if (is(module, "GPT2Attention") || is(module, "GPT2MLP")) neighbours_[child(module, "c_proj")].after = &make(nullptr);
  if (is(module, "GPT2Model")) neighbours_[child(module, "h.0")].before = &make(nullptr);
}

/// lora_dropout: an Identity.
void Zero3Hooks::stand_in_for_lora(Module& module) {
  if (is(module, "lora.Linear")) neighbours_[child(module, "lora_A.default")].before = &make(nullptr);
}

/// lora.Linear.forward asks for the dtype of lora_A's weight before it calls lora_A, so the first forward makes that weight an external parameter of lora.Linear.
void Zero3Hooks::watch_lora_weight(Module& module) {
  if (!is(module, "lora.Linear")) return;
  SubModule& owner = *by_module_[&module];
  Module& lora_a = *child(module, "lora_A.default");
  ZeroParam* weight = init_.find(lora_a.own_parameters[0].second);
  lora_a.pre_hooks.insert(lora_a.pre_hooks.begin(), [this, &owner, weight](Module&, Arguments&) {
    if (!in_forward || weight->ds_status != ZeroParamStatus::not_available) return;
    if (!contains(owner.params, weight)) owner.params.push_back(weight);
    init_.all_gather({weight});
  });
}

/// Under peft the root is PeftModelForCausalLM around LoraModel, which calls the language model's forward past its hooks.
void Zero3Hooks::hook_root(CausalLm& model, bool lora) {
  std::vector<SubModule*> roots{&make(lora ? nullptr : &model)};
  if (lora) roots.push_back(&make(nullptr));
  model.pre_hooks.push_back([this, roots](Module&, Arguments& arguments) {
    coordinator_.reset_step();
    for (SubModule* root : roots) {
      pre_forward(*root);
      watch_inputs(*root, arguments.positional, nullptr);
    }
  });
  model.post_hooks.push_back([this, roots](Module&, Arguments&, Tensors& outputs) {
    for (auto root = roots.rbegin(); root != roots.rend(); ++root) {
      coordinator_.release_sub_module(**root, true);
      watch_outputs(**root, outputs, nullptr);
    }
  });
}

// ---- LinearFunctionForZeroStage3 --------------------------------------------------------------------------------------------------------

namespace {
Tensor matrix_product(Context& context, const ProductSize& size, ScalarType type, const char* site) {
  context.begin_op("mm");
  report_product(context, size, type);
  return empty(context, Shape{size.rows, size.columns}, type, site);
}

Shape with_last(const Shape& shape, std::int64_t last) {
  Shape out = shape;
  out.sizes[index(out.dims - 1)] = last;
  return out.contiguous();
}

/// reshape(-1, last): a copy where the tensor is not contiguous.
Tensor as_rows(const Tensor& x) {
  if (x.shape().is_contiguous()) return x;
  x.context().moves(2 * x.bytes());
  return empty(x.context(), x.shape().contiguous(), x.type(), "clone");
}

void linear_formula(BackwardCall& call, ZeroInit& init) {
  Context& context = *call.node.context;
  const Tensor input = call.saved(0), weight = call.saved(1);
  if (call.node.saved.size() > 2) call.saved(2);
  ZeroParam* param = init.find(weight);
  const bool was_partitioned = param != nullptr && param->ds_status == ZeroParamStatus::not_available;
  if (was_partitioned) init.all_gather({param});
  const Tensor& gradient = call.gradient();
  const std::int64_t in = input.size(-1), out = gradient.size(-1), rows = input.elems() / in;
  if (call.needs(0)) {
    const Tensor folded = as_rows(gradient);
    call.results[0] = alias(matrix_product(context, {.rows = rows, .inner = out, .columns = in}, gradient.type(), "linear input gradient"), with_last(input.shape(), in));
  }
  if (call.needs(1)) {
    const Tensor left = as_rows(gradient), right = as_rows(input);
    call.results[1] = matrix_product(context, {.rows = out, .inner = rows, .columns = in}, gradient.type(), "linear weight gradient");
  }
  if (call.needs(2)) call.results[2] = sum_to(gradient, Shape{out});
  if (was_partitioned) init.free_param(*param);
}
}  // namespace

Tensor zero3_linear(ZeroInit& init, const Tensor& input, const Tensor& weight, const Tensor& bias) {
  Context& context = input.context();
  Recording recording(context, "LinearFunctionForZeroStage3Backward", {&input, &weight, &bias});
  Tensor output;
  {
    const Tensor folded = as_rows(input);
    const std::int64_t rows = input.elems() / input.size(-1), out = weight.size(0);
    output = alias(matrix_product(context, {.rows = rows, .inner = input.size(-1), .columns = out}, input.type(), "linear"), with_last(input.shape(), out));
  }
  if (recording) {
    recording->save(input);
    recording->save(weight);
    if (bias.defined()) recording->save(bias);
    recording->apply = [&init](BackwardCall& call) { linear_formula(call, init); };
  }
  recording.set_output(output);
  return output;
}

}  // namespace zeroplan::eager
