// The hooks that DeepSpeed ZeRO stage 3 puts on every module, and its linear: deepspeed/runtime/zero/parameter_offload.py and linear.py on the emulated framework.
//
// Every module is called with hooks, also those without parameters (activation functions, dropouts): each call is one more chance to prefetch. transformers' activations and
// dropouts and peft's wrappers are not modules in hf_models.h, so Zero3Hooks calls stand-ins for them at the same places.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "planner/engines/eager/deepspeed_zero3_coordinator.h"
#include "planner/engines/eager/hf_models.h"

namespace zeroplan::eager {

/// DeepSpeedZeRoOffload: the hooks of every module, and the linear that saves the parameter itself instead of a view of it.
class Zero3Hooks {
 public:
  Zero3Hooks(Context& context, CausalLm& model, bool lora, ZeroInit& init, PartitionedParameterCoordinator& coordinator, const Zero3Behaviour& behaviour);

  /// ZeROOrderedDict._in_forward: a partitioned parameter that somebody touches is gathered and from then on belongs to the module that runs.
  bool in_forward = false;

 private:
  SubModule& make(const Module* module);
  void hook(Module& module);
  void stand_in_for_activations(Module& module);
  void stand_in_for_gpt2(Module& module);
  void stand_in_for_lora(Module& module);
  void watch_lora_weight(Module& module);
  void hook_root(CausalLm& model, bool lora);

  void pre_forward(SubModule& module);
  void pre_backward(SubModule& module);
  void call_stand_in(SubModule& module) { pre_forward(module), coordinator_.release_sub_module(module, true); }
  void call_stand_in_backward(SubModule& module) { pre_backward(module), coordinator_.release_sub_module(module, false); }
  /// _post_backward_module_hook, _pre_backward_module_hook: may also run the backward of a stand-in right after / before.
  void watch_inputs(SubModule& module, Tensors& inputs, SubModule* stand_in_after);
  void watch_outputs(SubModule& module, Tensors& outputs, SubModule* stand_in_before);

  /// The stand-ins around a module: called in forward before / after it, and accordingly in backward.
  struct Neighbours {
    SubModule* before = nullptr;
    SubModule* after = nullptr;
  };

  Context& context_;
  ZeroInit& init_;
  PartitionedParameterCoordinator& coordinator_;
  Zero3Behaviour behaviour_;
  std::vector<std::unique_ptr<SubModule>> sub_modules_;
  std::unordered_map<const Module*, SubModule*> by_module_;
  std::unordered_map<const Module*, Neighbours> neighbours_;
};

/// linear.py: LinearFunctionForZeroStage3, for Context::linear_override.
Tensor zero3_linear(ZeroInit& init, const Tensor& input, const Tensor& weight, const Tensor& bias);

}  // namespace zeroplan::eager
