// What DeepSpeed's optimizers of stage 1 and 2 share: the class that engine.py calls, and how they flatten, convert and norm tensors.
// Inside planner/engines/eager only.
#pragma once

#include <cstdint>
#include <memory>

#include "planner/engines/eager/deepspeed_zero12.h"
#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

inline constexpr std::int64_t kNcclStartAlignmentFactor = 2;

/// ZeROOptimizer (base_optimizer.py), as far as engine.py calls it.
class ZeroOptimizer {
 public:
  ZeroOptimizer() = default;
  ZeroOptimizer(const ZeroOptimizer&) = delete;
  ZeroOptimizer& operator=(const ZeroOptimizer&) = delete;
  virtual ~ZeroOptimizer() = default;

  virtual void clear_backward_seen_flag() = 0;
  virtual Tensor scale_if_loss(const Tensor& loss) = 0;
  void set_gradient_accumulation_boundary(bool is_boundary) { is_boundary_ = is_boundary; }
  /// What engine._backward_epilogue does for this optimizer.
  virtual void after_backward() = 0;
  virtual void step() = 0;
  virtual void zero_grad() = 0;
  const Tensor& global_grad_norm() const { return global_grad_norm_; }

 protected:
  bool is_boundary_ = true;
  Tensor global_grad_norm_;
};

/// stage_1_and_2.py
std::unique_ptr<ZeroOptimizer> make_zero_optimizer(Context& context, const Zero12Job& job, AdamW& optimizer);
/// bf16_optimizer.py
std::unique_ptr<ZeroOptimizer> make_bf16_optimizer(Context& context, const Zero12Job& job, AdamW& optimizer);

Tensor narrow(const Tensor& flat, std::int64_t elems);
Tensor view_of(const Tensor& flat, const Shape& shape);
Tensor new_flat(Context& context, std::int64_t elems, ScalarType type, const char* site, Category category);
Tensor new_scalar(Context& context, ScalarType type, const char* site);
/// Tensor.to(type) without a graph: the tensor itself where it has the type.
Tensor converted(const Tensor& tensor, ScalarType type, const char* site, Category category);
/// torch._utils._flatten_dense_tensors: one tensor becomes a view, several are joined.
Tensor flatten(const Tensors& tensors, const char* site, Category category);
/// runtime/utils.py: align_dense_tensors
Tensors align_dense_tensors(Tensors tensors, std::int64_t alignment);
/// A norm of a tensor in a wider type, of which a copy is made.
Tensor norm_in(const Tensor& tensor, ScalarType type);
/// torch.stack(norms).pow(2).sum()
Tensor sum_of_squares(Context& context, const Tensors& norms, ScalarType type);
/// mask_nan_or_inf_with_val_inplace: torch.tensor(-1.0, device=...) is made on the host first.
void mask_nan_or_inf_with_val_inplace(Context& context);

}  // namespace zeroplan::eager
