// torch.optim.AdamW in its three kernels and torch.nn.utils.clip_grad_norm_, as requests for memory: states made at the first step, temporaries of a step.
// On a device the step counters are host tensors unless the kernel is fused. Other rules have other states, all updated in place or one parameter after the other:
// sgd none, momentum and lion one moment (torch.optim.SGD in the parameters' dtype; bitsandbytes' Lion in fp32), adafactor a row and a column of means (transformers' Adafactor), adamw_8bit two
// moments of a byte with an fp32 maximum for every 256 (bitsandbytes.optim.AdamW8bit; fp32 below 4096 elements), paged: those of 100 000 elements and more in
// memory that the driver moves between host and device, counted as the host's.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/engines/eager/eager.h"

namespace zeroplan::eager {

/// foreach_of_two: as foreach was until torch 2.1, with two temporaries as large as all parameters and not one.
enum class OptimizerKernel : std::uint8_t { for_loop, foreach, foreach_of_two, fused };

enum class OptimizerRule : std::uint8_t { adamw, sgd, momentum, lion, adafactor, adamw_8bit, paged_adamw_8bit };

class AdamW {
 public:
  /// Keeps the parameters that need gradients. Rules other than adamw have one kernel each.
  /// fp32_masters: an fp32 copy of every 16-bit parameter is what is updated, with fp32 copies of all gradients during the step, as Megatron's and InternEvo's optimizers do.
  AdamW(Context& context, OptimizerKernel kernel, const Tensors& parameters, OptimizerRule rule = OptimizerRule::adamw, bool fp32_masters = false);

  /// Parameters without a gradient are left out, as in torch.
  void step();
  /// set_to_none
  void zero_grad();

  struct State {
    Tensor step, average, average_of_squares;  ///< undefined before the first step, and where the rule has none
    Tensor average_maxima, squares_maxima;     ///< of moments in 8 bits
    bool made = false;
  };
  const Tensors& parameters() const { return parameters_; }
  /// param_groups are writable: an engine may put its own tensors (flat partitions) in the place of the model's.
  Tensors& parameters() { return parameters_; }
  std::vector<State>& states() { return states_; }

 private:
  void make_masters();
  void step_masters();
  void update();
  void make_state(std::size_t i);
  void make_moments(State& state, const Tensor& parameter);
  void make_8bit_moments(State& state, const Tensor& parameter);
  void step_in_place(const std::vector<std::size_t>& active);
  Tensor adafactor_update(const State& state, Tensor squares);
  void step_adafactor(const std::vector<std::size_t>& active);
  void step_for_loop(const std::vector<std::size_t>& active);
  void step_fused(const std::vector<std::size_t>& active);
  void step_foreach(const std::vector<std::size_t>& active);

  Context& context_;
  OptimizerKernel kernel_;
  OptimizerRule rule_;
  Tensors parameters_;  ///< that are updated
  Tensors of_model_;    ///< those that parameters_ are masters of; empty without masters
  std::vector<State> states_;
  Tensors tables_;  ///< of values, that moments in 8 bits share
};

/// clip_grad_norm_(parameters, 1.0): one scalar per gradient; the gradients are scaled in place. foreach or not asks for the same memory.
void clip_grad_norm(Context& context, const Tensors& parameters);

}  // namespace zeroplan::eager
