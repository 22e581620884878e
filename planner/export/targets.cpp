#include "planner/export/targets.h"

#include <algorithm>

#include <fmt/format.h>

#include "planner/core/error.h"

namespace zeroplan {

std::string_view name_of(ExportTarget target) {
  switch (target) {
    case ExportTarget::deepspeed: return "deepspeed";
    case ExportTarget::accelerate: return "accelerate";
    case ExportTarget::xtuner: return "xtuner";
  }
  return "";
}

Export export_to(ExportTarget target, const Question& question, const ExportOptions& options) {
  switch (target) {
    case ExportTarget::deepspeed: return deepspeed_config(question, options);
    case ExportTarget::accelerate: return accelerate_config(question, options);
    case ExportTarget::xtuner: return xtuner_config(question, options);
  }
  return {};
}

std::string string_literal(std::string_view text) { return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); }

bool recomputes(const Question& q) { return q.plan.checkpoint_policy != CheckpointPolicy::blocks || q.plan.recomputed_blocks > 0; }
bool recomputes_all(const Question& q) { return q.plan.checkpoint_policy == CheckpointPolicy::blocks && q.plan.recomputed_blocks == q.job.model.num_layers; }

// ---- our own engine's plan ----

namespace {

std::string words_of(const nlohmann::json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

std::string kept_words(KeepSet keep) {
  std::string out;
  for (int i = 0; i < kKeptCount; ++i)
    if (keep.has(static_cast<Kept>(i))) out += (out.empty() ? "" : ", ") + std::string(name_of(static_cast<Kept>(i)));
  return out;
}

void warn_of_ours(const Question& ours, const Question& near, Warnings& warnings) {
  const Plan& plan = ours.plan;
  warnings.push_back({"engine", fmt::format("this is a plan of the zeroplan engine; DeepSpeed at stage {} needs other memory and time: zeroplan fit with --engine deepspeed answers for it", plan.stage)});
  if (plan.keep.bits != 0 && plan.recomputed_blocks > 0)
    warnings.push_back({"keep", fmt::format("{}: DeepSpeed's user has no choice of saved tensors, a recomputed block keeps its input only", kept_words(plan.keep))});
  if (plan.stage == 3)
    warnings.push_back({"prefetch_units", fmt::format("{}: DeepSpeed counts elements, not units; stage3_prefetch_bucket_size is set to the {} elements of so many blocks", plan.prefetch_units,
                                                      near.plan.deepspeed.stage3_prefetch_bucket_size)});
  if (plan.loss_chunk_tokens < ours.tokens_per_micro_batch())
    warnings.push_back({"loss_chunk_tokens", fmt::format("{}: models make all logits at once unless the script chunks the loss", plan.loss_chunk_tokens)});
  if (near.job.gradient_dtype != ours.job.gradient_dtype)
    warnings.push_back({"gradient_dtype", fmt::format("{}: at stage 0 DeepSpeed accumulates in the dtype of the parameters, {}", name_of(ours.job.gradient_dtype), name_of(near.job.gradient_dtype))});
}

/// Whole blocks ahead, as DeepSpeed counts: elements.
std::int64_t prefetched_elems(const Question& ours) { return checked_multiply(ours.plan.prefetch_units, unit_parameter_elems(ours.job.model, UnitKind::block)); }

/// Gradients in their dtype on the wire too, reductions overlapped as planned, FusedAdam, the model made in shards.
Question nearest_deepspeed(const Question& ours) {
  Question near = ours;
  set_engine(near, Engine::deepspeed);
  Plan& plan = near.plan;
  if (plan.stage > 0) near.job.gradient_dtype = ours.job.gradient_dtype;
  if (near.job.gradient_dtype != near.implied_reduce_dtype()) near.job.wire_dtype = near.job.gradient_dtype;
  plan.deepspeed.overlap_comm = ours.plan.overlap_comm;
  if (plan.stage == 3) plan.deepspeed.stage3_prefetch_bucket_size = prefetched_elems(ours);
  plan.optimizer_kernel = OptimizerKernel::fused;
  plan.zero_init = plan.stage == 3;
  return near;
}

}  // namespace

Question as_deepspeed(const Question& question, ExportTarget target, Warnings& warnings) {
  const Engine engine = question.plan.engine;
  if (engine == Engine::deepspeed) return question;
  if (engine == Engine::zeroplan) {
    Question near = nearest_deepspeed(question);
    warn_of_ours(question, near, warnings);
    return near;
  }
  const bool to_accelerate = engine == Engine::fsdp2 || engine == Engine::ddp || engine == Engine::single;
  throw UsageError(fmt::format("engine={}: a {} file cannot say it. {}", name_of(engine), name_of(target),
                               to_accelerate ? "Export it with --to accelerate, or plan it with --engine deepspeed" : "Plan it with --engine deepspeed"));
}

// ---- what the script says ----

namespace {

constexpr std::string_view kDeepSpeedVersion = "0.19.8";

/// A choice that is made where model and data are made. `stated`: it differs from what a script does by itself.
struct ScriptChoice {
  std::string_view key;
  bool stated;
  std::string_view where;
};

std::vector<ScriptChoice> script_choices(const Question& q) {
  const Plan& plan = q.plan;
  return {
      {"seq", true, "the data's length, in the script"},
      {"micro_batch", true, "the data loader's batch size, in the script"},
      {"accumulate", q.plan.accumulate != 1, "gradient_accumulation_steps of Accelerator or the Trainer"},
      {"clip_norm", true, "max_norm of the script"},
      {"train", q.job.lora.has_value(), "peft's LoraConfig, in the script"},
      {"checkpoint", recomputes(q) && recomputes_all(q), "gradient_checkpointing_enable(), in the script"},
      {"checkpoint", recomputes(q) && !recomputes_all(q), "cannot be said of whole models: transformers recomputes all blocks or none, so the script has to choose blocks"},
      {"checkpoint_reentrant", recomputes(q) && plan.checkpoint_reentrant.has_value(), "gradient_checkpointing_kwargs={\"use_reentrant\": …}, in the script"},
      {"attention", true, "attn_implementation of from_pretrained"},
      {"loss", plan.loss != Loss::plain, "the model's or a kernel library's choice, in the script"},
      {"optimizer", !has_deepspeed_optimizer(q), "made in the script"},
      {"optimizer_kernel", !has_deepspeed_optimizer(q), "foreach= and fused= of torch's optimizer, in the script"},
      {"offload_activations", plan.offload_activations != Offload::none, "in the script"},
      {"compile", plan.compile, "torch.compile, in the script"},
      {"fp8", plan.fp8, "in the script"},
      {"expandable_segments", plan.expandable_segments, "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True in the environment"},
      {"zero_init", plan.zero_init && plan.stage == 3 && plan.engine == Engine::deepspeed, "deepspeed.zero.Init around the model, or HfDeepSpeedConfig kept alive, in the script"},
      {"engine_version", !plan.engine_version.empty() && plan.engine == Engine::deepspeed && plan.engine_version != kDeepSpeedVersion,
       "its keys are those of DeepSpeed 0.19.8: an older one refuses, by name, those that it does not know"},
      {"compute_dtype", q.job.tf32, "torch.backends.cuda.matmul.allow_tf32, in the script"},
  };
}

}  // namespace

void warn_of_script(const Question& question, ExportTarget target, std::initializer_list<std::string_view> said, Warnings& warnings) {
  for (const ScriptChoice& choice : script_choices(question)) {
    if (!choice.stated || std::find(said.begin(), said.end(), choice.key) != said.end()) continue;
    warnings.push_back({std::string(choice.key), fmt::format("{}: not said by the {} file; {}", words_of(get_key(question, choice.key)), name_of(target), choice.where)});
  }
}

}  // namespace zeroplan
