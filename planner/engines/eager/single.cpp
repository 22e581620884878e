#include "planner/engines/eager/single.h"

#include <optional>

namespace zeroplan::eager {

std::int64_t PhasePeaks::peak_bytes(const std::string& phase, Place place) const {
  for (const PhasePeak& p : phases)
    if (p.name == phase) return p.bytes[static_cast<int>(place)];
  return 0;
}

namespace {
std::unique_ptr<CausalLm> make_model(Context& context, const SingleJob& job) {
  std::unique_ptr<CausalLm> model = CausalLm::make(context, job.model);
  if (job.lora.rank > 0) model->add_lora(job.lora);
  model->enable_checkpointing(job.checkpoint);
  if (job.checkpoint == CheckpointMode::reentrant || job.lora.rank > 0) model->enable_input_require_grads();
  return model;
}

Tensor forward(Context& context, CausalLm& model, const SingleJob& job, const Tensor& ids) {
  std::optional<AutocastScope> autocast;
  if (job.model.type == ScalarType::fp32 && job.compute_type != ScalarType::fp32) autocast.emplace(context, true, job.compute_type);
  return model.loss(ids);
}
}  // namespace

PhasePeaks run_single(const SingleJob& job, Recorder& recorder, const MachineBehaviour& machine) {
  Context context(recorder);
  context.out_of_place_accumulation = machine.out_of_place_accumulation;
  context.layer_norm_keeps_input_type = machine.layer_norm_keeps_input_type;
  context.host = machine.host;
  recorder.begin_phase("init");
  const std::unique_ptr<CausalLm> model = make_model(context, job);
  const Tensors parameters = model->parameters();
  AdamW optimizer(context, job.kernel, parameters);
  PhasePeaks peaks;
  peaks.after_init_bytes = recorder.alive_bytes(Place::device);
  const Tensor ids = empty(context, Shape{job.micro_batch, job.seq_tokens}, ScalarType::int64, "input ids");
  for (int step = 0; step < job.steps; ++step) {
    const std::string which = step == 0 ? "first" : "steady";
    recorder.forget_phases("steady");
    for (std::int64_t micro = 0; micro < job.accumulate; ++micro) {
      recorder.begin_phase(which + ".forward");
      Tensor loss = forward(context, *model, job, ids);
      recorder.begin_phase(which + ".backward");
      backward(loss);
      loss.reset();
      recorder.begin_phase(which + ".step");
    }
    Scoped no_grad(context.grad_enabled, false);
    clip_grad_norm(context, parameters);
    optimizer.step();
    optimizer.zero_grad();
  }
  peaks.phases = recorder.phases();
  peaks.between_steps_bytes = recorder.alive_bytes(Place::device);
  return peaks;
}

}  // namespace zeroplan::eager
