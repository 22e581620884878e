#include "planner/export/export.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/format.h"

namespace zeroplan {
namespace {

using json = nlohmann::ordered_json;

class Warnings {
 public:
  void add_if(bool applies, std::string_view key, std::string text) {
    if (applies) list_.push_back({std::string(key), std::move(text)});
  }
  std::vector<ExportWarning> take() { return std::move(list_); }

 private:
  std::vector<ExportWarning> list_;
};

bool is_ours(const Question& q) { return q.plan.engine == Engine::zeroplan; }

std::string_view torch_name(Dtype dtype) { return dtype == Dtype::bf16 ? "bf16" : dtype == Dtype::fp16 ? "fp16" : "fp32"; }

/// What none of the targets can say.
void warn_of_common(const Question& q, Warnings& warnings) {
  const Plan& plan = q.plan;
  warnings.add_if(is_ours(q), "engine", "zeroplan's own engine is exported as DeepSpeed at the same stage; its memory is not the exported job's (zeroplan fit --engine deepspeed)");
  warnings.add_if(is_ours(q) && !(plan.keep == KeepSet{}), "keep", "no target keeps single tensors of a block: recomputed blocks are recomputed whole");
  warnings.add_if(is_ours(q) && plan.loss == Loss::chunked, "loss_chunk_tokens", "logits exist for all tokens at once unless the training code fuses or chunks the loss");
  const bool partly = plan.checkpoint_policy != CheckpointPolicy::blocks || (plan.recomputed_blocks > 0 && plan.recomputed_blocks < q.job.model.num_layers);
  warnings.add_if(partly, "checkpoint", fmt::format("checkpoint={} is the training code's choice; the file cannot say it", get_key(q, "checkpoint").get<std::string>()));
  warnings.add_if(q.job.sequence_parallel > 1, "sequence_parallel", "is the training code's choice; the file cannot say it");
}

void require_deepspeed(const Question& q, std::string_view target) {
  const Engine engine = q.plan.engine;
  if (engine == Engine::deepspeed || engine == Engine::zeroplan) return;
  throw UsageError(fmt::format("engine={}: a plan of this engine cannot be exported to {}. Ask for --engine deepspeed, or export to accelerate", name_of(engine), target));
}

// ---- DeepSpeed ----

json offload_json(Offload device, bool pins, bool is_optimizer, double ratio) {
  json out = {{"device", device == Offload::cpu ? "cpu" : "none"}, {"pin_memory", pins}};
  if (is_optimizer) out["ratio"] = ratio;
  return out;
}

/// Keys that older releases refuse: written only where they are not at their default.
bool is_recent(std::string_view key) {
  constexpr std::string_view kRecent[] = {"parameter_alignment", "compute_grad_norm", "stage3_allgather_sequential", "stage3_module_granularity_threshold"};
  return std::find(std::begin(kRecent), std::end(kRecent), key) != std::end(kRecent);
}

template <class Field>
bool is_default(const DeepSpeedOptions& o, Field DeepSpeedOptions::*field) { return o.*field == DeepSpeedOptions{}.*field; }

json zero_json(const Question& q) {
  const DeepSpeedOptions& o = q.plan.deepspeed;
  const std::int64_t stage = q.plan.stage;
  json zero = {{"stage", stage}};
  if (stage == 0) return zero;
  for (const DeepSpeedInteger& integer : kDeepSpeedIntegers) {
    const bool is_endless = integer.field == &DeepSpeedOptions::stage3_model_persistence_threshold;
    const bool said = !is_default(o, integer.field) || (!is_endless && !is_recent(integer.key));
    if ((!integer.stage3_only || stage == 3) && said) zero[std::string(integer.key)] = o.*integer.field;
  }
  for (const DeepSpeedFlag& flag : kDeepSpeedFlags)
    if ((!flag.stage3_only || stage == 3) && (!is_recent(flag.key) || !is_default(o, flag.field))) zero[std::string(flag.key)] = o.*flag.field;
  zero["overlap_comm"] = is_ours(q) ? q.plan.overlap_comm : o.overlaps(stage);
  zero["offload_optimizer"] = offload_json(q.plan.offload_optimizer, o.offload_optimizer_pin_memory, true, q.plan.offload_optimizer_ratio);
  if (stage == 3) zero["offload_param"] = offload_json(q.plan.offload_parameters, o.offload_param_pin_memory, false, 1);
  return zero;
}

json precision_json(const Question& q) {
  const DeepSpeedOptions& o = q.plan.deepspeed;
  json out = json::object();
  json bf16 = {{"enabled", q.job.compute_dtype == Dtype::bf16}};
  if (q.job.compute_dtype == Dtype::bf16 && q.plan.stage == 1) bf16["immediate_grad_update"] = o.immediate_grad_update;
  if (q.job.compute_dtype == Dtype::bf16 && (o.bf16_master_weights_and_grads || o.bf16_optimizer_states)) {
    bf16["bf16_master_weights_and_grads"] = o.bf16_master_weights_and_grads;
    bf16["bf16_optimizer_states"] = o.bf16_optimizer_states;
  }
  out["bf16"] = bf16;
  out["fp16"] = {{"enabled", q.job.compute_dtype == Dtype::fp16}};
  out["data_types"] = {{"grad_accum_dtype", torch_name(q.job.gradient_dtype)}};
  out["communication_data_type"] = torch_name(q.reduce_dtype());
  return out;
}

json deepspeed_json(const Question& q) {
  const std::int64_t data_ranks = q.cluster.world_size() / q.job.sequence_parallel;
  json out = {{"train_micro_batch_size_per_gpu", q.plan.micro_batch},
              {"gradient_accumulation_steps", q.plan.accumulate},
              {"train_batch_size", q.plan.micro_batch * q.plan.accumulate * data_ranks},
              {"gradient_clipping", q.job.clip_norm}};
  out.update(precision_json(q));
  // The optimizer is the training code's torch.optim.AdamW; these two let DeepSpeed take it as it is, also with offload.
  out["zero_allow_untested_optimizer"] = true;
  out["zero_force_ds_cpu_optimizer"] = q.plan.offload_optimizer == Offload::cpu && q.plan.optimizer_kernel == OptimizerKernel::cpu;
  out["zero_optimization"] = zero_json(q);
  return out;
}

void warn_of_deepspeed(const Question& q, Warnings& warnings) {
  warnings.add_if(is_ours(q) && q.plan.stage == 3, "prefetch_units", "DeepSpeed prefetches by elements (stage3_prefetch_bucket_size), not by units");
  warnings.add_if(q.plan.shard_group && *q.plan.shard_group != q.cluster.world_size(), "shard_group", "shard groups smaller than the world (MiCS, hpZ) are not written");
  warnings.add_if(q.job.lora.has_value(), "train", "LoRA is the training code's choice; the file cannot say it");
  warnings.add_if(q.plan.offload_optimizer == Offload::nvme || q.plan.offload_parameters == Offload::nvme, "offload_optimizer", "NVMe needs a path: device is written as none");
  warnings.add_if(q.plan.checkpoint_policy == CheckpointPolicy::blocks && q.plan.recomputed_blocks == q.job.model.num_layers, "checkpoint",
                  "switch gradient checkpointing on in the training code: the file cannot say it");
}

// ---- Accelerate ----

/// The class that FSDP wraps, by transformers' names.
std::string layer_class(const Model& model) {
  struct Family {
    std::string_view type, layer;
  };
  constexpr Family kFamilies[] = {{"llama", "LlamaDecoderLayer"},       {"internlm2", "InternLM2DecoderLayer"}, {"internlm3", "InternLM3DecoderLayer"}, {"internlm", "InternLMDecoderLayer"},
                                  {"mistral", "MistralDecoderLayer"},   {"qwen2", "Qwen2DecoderLayer"},         {"qwen3", "Qwen3DecoderLayer"},         {"gemma", "GemmaDecoderLayer"},
                                  {"gemma2", "Gemma2DecoderLayer"},     {"gemma3_text", "Gemma3DecoderLayer"},  {"phi3", "Phi3DecoderLayer"},           {"olmo2", "Olmo2DecoderLayer"},
                                  {"gpt2", "GPT2Block"},                {"gpt_neox", "GPTNeoXLayer"},           {"opt", "OPTDecoderLayer"},             {"bloom", "BloomBlock"},
                                  {"falcon", "FalconDecoderLayer"},     {"mpt", "MptBlock"},                    {"glm", "GlmDecoderLayer"},             {"baichuan", "DecoderLayer"}};
  for (const Family& family : kFamilies)
    if (model.model_type == family.type) return std::string(family.layer);
  return "";
}

std::string accelerate_head(const Question& q, std::string_view distributed) {
  const std::string_view precision = q.job.compute_dtype == Dtype::bf16 ? "bf16" : q.job.compute_dtype == Dtype::fp16 ? "fp16" : "no";
  return fmt::format("compute_environment: LOCAL_MACHINE\ndebug: false\ndistributed_type: {}\ndowncast_bf16: 'no'\nenable_cpu_affinity: false\nmachine_rank: 0\nmain_training_function: main\n"
                     "mixed_precision: '{}'\nnum_machines: {}\nnum_processes: {}\nrdzv_backend: static\nsame_network: true\nuse_cpu: false\n",
                     distributed, precision, q.cluster.nodes, q.cluster.world_size());
}

std::string_view yaml(bool value) { return value ? "true" : "false"; }

std::string accelerate_deepspeed(const Question& q) {
  const auto device = [](Offload offload) { return offload == Offload::cpu ? "cpu" : "none"; };
  return accelerate_head(q, "DEEPSPEED") +
         fmt::format("deepspeed_config:\n  deepspeed_multinode_launcher: standard\n  gradient_accumulation_steps: {}\n  gradient_clipping: {:.6g}\n  offload_optimizer_device: {}\n  offload_param_device: {}\n"
                     "  zero3_init_flag: {}\n  zero3_save_16bit_model: {}\n  zero_stage: {}\n",
                     q.plan.accumulate, q.job.clip_norm, device(q.plan.offload_optimizer), device(q.plan.offload_parameters), yaml(q.plan.zero_init && q.plan.stage == 3),
                     yaml(q.plan.deepspeed.stage3_gather_16bit_weights_on_model_save), q.plan.stage);
}

std::string accelerate_fsdp(const Question& q) {
  const Plan& plan = q.plan;
  const bool second = plan.engine == Engine::fsdp2;
  const bool checkpoints = plan.checkpoint_policy == CheckpointPolicy::blocks && plan.recomputed_blocks == q.job.model.num_layers;
  const bool reshards = plan.reshard != Reshard::never && plan.stage != 2;
  std::string out = accelerate_head(q, "FSDP") + "fsdp_config:\n";
  out += fmt::format("  fsdp_version: {}\n  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n  fsdp_transformer_layer_cls_to_wrap: {}\n", second ? 2 : 1, layer_class(q.job.model));
  out += fmt::format("  fsdp_activation_checkpointing: {}\n  fsdp_cpu_ram_efficient_loading: true\n  fsdp_offload_params: {}\n  fsdp_state_dict_type: SHARDED_STATE_DICT\n", yaml(checkpoints),
                     yaml(plan.offload_parameters == Offload::cpu));
  if (second) return out + fmt::format("  fsdp_reshard_after_forward: {}\n", yaml(reshards));
  return out + fmt::format("  fsdp_reshard_after_forward: {}\n  fsdp_backward_prefetch: BACKWARD_PRE\n  fsdp_forward_prefetch: false\n  fsdp_sync_module_states: true\n  fsdp_use_orig_params: true\n",
                           plan.stage == 2 ? "SHARD_GRAD_OP" : "FULL_SHARD");
}

Exported to_accelerate(const Question& q) {
  Warnings warnings;
  warn_of_common(q, warnings);
  Exported out;
  if (q.plan.engine == Engine::fsdp2 || q.plan.engine == Engine::fsdp1) {
    if (layer_class(q.job.model).empty())
      throw UsageError(fmt::format("model {}: no class name of a decoder layer is known for {}. Write fsdp_transformer_layer_cls_to_wrap by hand", q.job.model.name, q.job.model.model_type));
    warnings.add_if(q.plan.engine == Engine::fsdp2 && q.plan.reshard == Reshard::standard && q.plan.stage == 3, "reshard", "Accelerate reshards the root too (reshard=always)");
    warnings.add_if(true, "accumulate", fmt::format("set gradient_accumulation_steps={} in Accelerator(); the file cannot say it for FSDP", q.plan.accumulate));
    out.text = accelerate_fsdp(q);
  } else {
    require_deepspeed(q, "accelerate");
    warn_of_deepspeed(q, warnings);
    warnings.add_if(true, "deepspeed", "bucket sizes and dtypes are not part of this file: pass the DeepSpeed JSON (export --to deepspeed) as deepspeed_config_file to fix them");
    out.text = accelerate_deepspeed(q);
  }
  out.warnings = warnings.take();
  return out;
}

// ---- XTuner ----

Exported to_xtuner(const Question& q) {
  require_deepspeed(q, "xtuner");
  Warnings warnings;
  warn_of_common(q, warnings);
  warn_of_deepspeed(q, warnings);
  std::string indented = deepspeed_json(q).dump(2);
  Exported out;
  out.text = fmt::format("# XTuner (mmengine) settings of one plan: put them into a config made by `xtuner copy-cfg`, and pass the DeepSpeed JSON below with\n"
                         "#     NPROC_PER_NODE={} xtuner train CONFIG.py --deepspeed DEEPSPEED.json\n"
                         "from torch.optim import AdamW\n\n"
                         "batch_size = {}  # per device\naccumulative_counts = {}\nsequence_parallel_size = {}\nmax_length = {}\npack_to_max_length = {}\nmax_norm = {:.6g}\n\n"
                         "optim_wrapper = dict(\n    type='AmpOptimWrapper',\n    optimizer=dict(type=AdamW, lr={:.6g}, betas=({:.6g}, {:.6g}), eps={:.6g}, weight_decay={:.6g}, fused={}),\n"
                         "    clip_grad=dict(max_norm=max_norm, error_if_nonfinite=False),\n    accumulative_counts=accumulative_counts,\n    loss_scale='dynamic',\n    dtype='{}')\n\n"
                         "# DEEPSPEED.json:\ndeepspeed_json = r'''\n{}\n'''\n",
                         q.cluster.gpus_per_node, q.plan.micro_batch, q.plan.accumulate, q.job.sequence_parallel, q.job.seq, q.job.packed ? "True" : "False", q.job.clip_norm, q.job.learning_rate, q.job.beta1,
                         q.job.beta2, q.job.epsilon, q.job.weight_decay, q.plan.optimizer_kernel == OptimizerKernel::fused ? "True" : "False", q.job.compute_dtype == Dtype::bf16 ? "bfloat16" : "float16", indented);
  out.warnings = warnings.take();
  return out;
}

Exported to_deepspeed(const Question& q) {
  require_deepspeed(q, "deepspeed");
  Warnings warnings;
  warn_of_common(q, warnings);
  warn_of_deepspeed(q, warnings);
  return {deepspeed_json(q).dump(2) + "\n", warnings.take()};
}

}  // namespace

std::string_view name_of(ExportTarget target) {
  switch (target) {
    case ExportTarget::deepspeed: return "deepspeed";
    case ExportTarget::accelerate: return "accelerate";
    case ExportTarget::xtuner: return "xtuner";
  }
  return "";
}

Exported export_plan(const Question& question, ExportTarget target) {
  switch (target) {
    case ExportTarget::deepspeed: return to_deepspeed(question);
    case ExportTarget::accelerate: return to_accelerate(question);
    case ExportTarget::xtuner: return to_xtuner(question);
  }
  return {};
}

}  // namespace zeroplan
