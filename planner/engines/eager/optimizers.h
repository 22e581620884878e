// torch.optim.AdamW in its three kernels and torch.nn.utils.clip_grad_norm_, as requests for memory: states made at the first step, temporaries of a step.
// On a device the step counters are host tensors unless the kernel is fused.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/engines/eager/eager.h"

namespace zeroplan::eager {

enum class OptimizerKernel : std::uint8_t { for_loop, foreach, fused };

class AdamW {
 public:
  /// Keeps the parameters that need gradients.
  AdamW(Context& context, OptimizerKernel kernel, const Tensors& parameters);

  /// Parameters without a gradient are left out, as in torch.
  void step();
  /// set_to_none
  void zero_grad();

  struct State {
    Tensor step, average, average_of_squares;  ///< undefined before the first step
  };
  const Tensors& parameters() const { return parameters_; }
  /// param_groups are writable: an engine may put its own tensors (flat partitions) in the place of the model's.
  Tensors& parameters() { return parameters_; }
  std::vector<State>& states() { return states_; }

 private:
  void make_state(std::size_t i);
  void step_for_loop(const std::vector<std::size_t>& active);
  void step_fused(const std::vector<std::size_t>& active);
  void step_foreach(const std::vector<std::size_t>& active);

  Context& context_;
  OptimizerKernel kernel_;
  Tensors parameters_;
  std::vector<State> states_;
};

/// clip_grad_norm_(parameters, 1.0): one scalar per gradient; the gradients are scaled in place. foreach or not asks for the same memory.
void clip_grad_norm(Context& context, const Tensors& parameters);

}  // namespace zeroplan::eager
