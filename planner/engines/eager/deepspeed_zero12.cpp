// DeepSpeed's engine.py at stages 1 and 2.
#include "planner/engines/eager/deepspeed_zero12.h"

#include <memory>

#include "planner/engines/eager/deepspeed_optimizers.h"

namespace zeroplan::eager {

namespace {

/// DeepSpeedEngine, as far as memory depends on it.
class Engine {
 public:
  Engine(Context& context, const Zero12Job& job, CausalLm& model) : model_(model), accumulate_(job.size.accumulate), basic_optimizer_(context, job.kernel, model.parameters()) {
    const bool accumulates_in_fp32 = job.zero.grad_accum_dtype == ScalarType::fp32;
    if (job.model.type == ScalarType::bf16 && accumulates_in_fp32 && job.stage == 1 && !job.offload_optimizer) optimizer_ = make_bf16_optimizer(context, job, basic_optimizer_);
    else optimizer_ = make_zero_optimizer(context, job, basic_optimizer_);
  }

  Tensor forward(const Tensor& ids) {
    optimizer_->clear_backward_seen_flag();
    return model_.loss(ids);
  }

  void backward(const Tensor& loss) {
    optimizer_->set_gradient_accumulation_boundary(is_gradient_accumulation_boundary());
    const Tensor gas_scaled_loss = div_scalar(loss);
    const Tensor scaled_loss = optimizer_->scale_if_loss(gas_scaled_loss);
    eager::backward(scaled_loss);
    optimizer_->after_backward();
  }

  void step() {
    if (is_gradient_accumulation_boundary()) {
      optimizer_->step();
      global_grad_norm_ = optimizer_->global_grad_norm();
      optimizer_->zero_grad();
    }
    ++micro_steps_;
  }

  void skip_micro_batches(std::int64_t n) { micro_steps_ += n; }

 private:
  bool is_gradient_accumulation_boundary() const { return (micro_steps_ + 1) % accumulate_ == 0; }

  CausalLm& model_;
  std::int64_t accumulate_;
  std::int64_t micro_steps_ = 0;
  AdamW basic_optimizer_;
  std::unique_ptr<ZeroOptimizer> optimizer_;
  Tensor global_grad_norm_;  ///< outlives the optimizer's own until step() returns
};

}  // namespace

PhasePeaks run_zero12(const Zero12Job& job, Recorder& recorder, const MachineBehaviour& machine) {
  Context context(recorder);
  machine.apply_to(context);
  recorder.begin_phase("init");
  const std::unique_ptr<CausalLm> model = make_causal_lm(context, job.model, job.lora, job.checkpoint);
  Engine engine(context, job, *model);
  return train(context, job.size, engine);
}

}  // namespace zeroplan::eager
