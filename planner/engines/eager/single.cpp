#include "planner/engines/eager/single.h"

#include <optional>

namespace zeroplan::eager {

namespace {
/// The model as the tools set it up: LoRA, checkpointing.
class PlainEngine {
 public:
  PlainEngine(Context& context, const SingleJob& job)
      : context_(context), job_(job), boundary_(job.size.accumulate), model_(make_causal_lm(context, job.model, job.lora, job.checkpoint)), parameters_(model_->parameters()),
        optimizer_(context, job.kernel, parameters_, job.rule, job.fp32_masters) {
    if (!job.optimizer_in_backward) return;
    for (const Tensor& p : parameters_)
      if (p.requires_grad()) p.on_gradient_accumulated([this](const Tensor&) { update(); });
  }

  Tensor forward(const Tensor& ids) {
    std::optional<AutocastScope> autocast;
    if (trained_type(job_.model, job_.lora) == ScalarType::fp32 && job_.compute_type != ScalarType::fp32) autocast.emplace(context_, true, job_.compute_type);
    return model_->loss(ids);
  }

  void backward(const Tensor& loss) { eager::backward(loss); }

  void step() {
    if (!boundary_.reached() || job_.optimizer_in_backward) return;
    {
      Scoped no_grad(context_.grad_enabled, false);
      clip_grad_norm(context_, parameters_);
    }
    update();
  }

  void skip_micro_batches(std::int64_t n) { boundary_.skip(n); }

 private:
  void update() {
    Scoped no_grad(context_.grad_enabled, false);
    optimizer_.step();
    optimizer_.zero_grad();
  }

  Context& context_;
  const SingleJob& job_;
  StepBoundary boundary_;
  std::unique_ptr<CausalLm> model_;
  Tensors parameters_;
  AdamW optimizer_;
};
}  // namespace

PhasePeaks run_single(const SingleJob& job, Recorder& recorder, const MachineBehaviour& machine) {
  Context context(recorder);
  machine.apply_to(context);
  recorder.begin_phase("init");
  PlainEngine engine(context, job);
  return train(context, job.size, engine);
}

}  // namespace zeroplan::eager
