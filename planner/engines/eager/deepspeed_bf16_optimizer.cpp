// BF16_Optimizer, as DeepSpeed's bf16_optimizer.py has it: bf16 parameters, stage 1, gradients accumulated in fp32.
#include <utility>

#include "planner/engines/eager/deepspeed_optimizers.h"

namespace zeroplan::eager {

namespace {

class Bf16Optimizer : public ZeroOptimizer {
 public:
  Bf16Optimizer(Context& context, const Zero12Job& job, AdamW& optimizer);

  void clear_backward_seen_flag() override {}
  Tensor scale_if_loss(const Tensor& loss) override { return loss; }
  void after_backward() override;
  void step() override;
  void zero_grad() override;

 private:
  void update_hp_grad(const Tensor& lp);
  void allreduce_hp_grads();
  Tensor global_norm_of_gradients();

  Context& context_;
  AdamW& optimizer_;
  Zero12Options options_;
  std::int64_t world_ranks_;
  Tensors bf16_group_;
  Tensor bf16_flat_;
  Tensor fp32_partition_;
  Tensor fp32_gradients_flat_;
};

/// _setup_for_real_optimizer
Bf16Optimizer::Bf16Optimizer(Context& context, const Zero12Job& job, AdamW& optimizer)
    : context_(context), optimizer_(optimizer), options_(job.zero), world_ranks_(job.world_ranks), bf16_group_(optimizer.parameters()) {
  bf16_flat_ = flatten(align_dense_tensors(bf16_group_, kNcclStartAlignmentFactor * job.world_ranks), "flat buffer of the parameters", Category::parameters).detach();
  for (const Tensor& p : bf16_group_) p.set_data(view_of(bf16_flat_, p.shape()));
  const std::int64_t partition_elems = bf16_flat_.elems() / job.world_ranks;
  {
    const Tensor clone = new_flat(context_, partition_elems, ScalarType::bf16, "clone of the bit16 partition", Category::scratch);
    fp32_partition_ = new_flat(context_, partition_elems, ScalarType::fp32, "fp32 partition", Category::optimizer);
  }
  fp32_partition_.set_requires_grad(true);
  fp32_gradients_flat_ = new_flat(context_, bf16_flat_.elems(), ScalarType::fp32, "fp32 gradients of the whole model", Category::gradients);
  optimizer_.parameters() = {fp32_partition_};
  if (!options_.immediate_grad_update) return;
  for (const Tensor& p : bf16_group_)
    p.on_gradient_accumulated([this](Tensor& lp) {
      update_hp_grad(lp);
      lp.set_grad({});
    });
}

void Bf16Optimizer::update_hp_grad(const Tensor& lp) {
  if (!lp.grad().defined()) return;
  const Tensor wide = converted(lp.grad(), ScalarType::fp32, "fp32 copy of a gradient", Category::gradients);
  context_.moves(3 * wide.bytes());
}

/// engine.py: buffered_allreduce_fallback over the one flat fp32 tensor. It is reduced at once, whatever its size, as a copy in the dtype of communication.
void Bf16Optimizer::allreduce_hp_grads() {
  const Tensor tensor_to_allreduce = converted(fp32_gradients_flat_, options_.communication_data_type.value_or(ScalarType::bf16), "copy in the dtype of communication", Category::communication_buffers);
  context_.moves(2 * tensor_to_allreduce.bytes());  // divided by the ranks
  context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = tensor_to_allreduce.bytes(), .ranks = world_ranks_});
  if (tensor_to_allreduce.type() != fp32_gradients_flat_.type()) context_.moves(tensor_to_allreduce.bytes() + fp32_gradients_flat_.bytes());
}

void Bf16Optimizer::after_backward() {
  if (!options_.immediate_grad_update)
    for (const Tensor& p : bf16_group_) update_hp_grad(p);
  if (is_boundary_) allreduce_hp_grads();
}

/// get_global_norm_of_tensors
Tensor Bf16Optimizer::global_norm_of_gradients() {
  Tensors all_norms;
  for (std::size_t i = 0; i < bf16_group_.size(); ++i) all_norms.push_back(new_scalar(context_, ScalarType::fp32, "gradient norm"));
  const Tensor sum = sum_of_squares(context_, all_norms, ScalarType::fp32);
  mask_nan_or_inf_with_val_inplace(context_);
  return new_scalar(context_, ScalarType::fp32, "global gradient norm");
}

void Bf16Optimizer::step() {
  Scoped no_grad(context_.grad_enabled, false);
  context_.begin_op("BF16_Optimizer step");
  const Tensor all_groups_norm = global_norm_of_gradients();
  global_grad_norm_ = all_groups_norm;
  fp32_partition_.set_grad(fp32_gradients_flat_);
  context_.moves(fp32_gradients_flat_.bytes());      // the norms
  context_.moves(2 * fp32_gradients_flat_.bytes());  // clipped
  optimizer_.step();
  context_.moves(fp32_partition_.bytes() + fp32_partition_.elems() * size_of(ScalarType::bf16));
  context_.collective({.kind = CollectiveKind::all_gather, .payload_bytes = bf16_flat_.bytes(), .ranks = world_ranks_});
  context_.moves(fp32_gradients_flat_.bytes());  // zeros
}

void Bf16Optimizer::zero_grad() {
  for (const Tensor& p : bf16_group_) p.set_grad({});
}

}  // namespace

std::unique_ptr<ZeroOptimizer> make_bf16_optimizer(Context& context, const Zero12Job& job, AdamW& optimizer) { return std::make_unique<Bf16Optimizer>(context, job, optimizer); }

}  // namespace zeroplan::eager
