// The XTuner v0.1 configuration: a whole mmengine configuration in Python, to be started with `xtuner train FILE.py --deepspeed FILE.json`. XTuner takes batch, accumulation and
// clipping from here and writes them over the JSON's; it keeps only the optimizer of optim_wrapper and puts its DeepSpeed strategy and model wrapper in place of the rest.
#include <fmt/format.h>

#include "planner/core/error.h"
#include "planner/export/targets.h"

namespace zeroplan {

namespace {

const char* python(bool value) { return value ? "True" : "False"; }

/// A number that Python reads as a float and back to the same double.
std::string python(double value) { return nlohmann::json(value).dump(); }

/// Module and class of the optimizer, and the arguments that it has beside lr and weight_decay.
struct OptimizerWords {
  std::string module, name, arguments;
};

std::string kernel_arguments(OptimizerKernel kernel) { return fmt::format(", foreach={}, fused={}", python(kernel == OptimizerKernel::foreach), python(kernel == OptimizerKernel::fused)); }

OptimizerWords optimizer_words(const Question& q) {
  const std::string adam = ", betas=betas, eps=eps";
  const bool cpu = q.plan.optimizer_kernel == OptimizerKernel::cpu;
  const std::string kernel = kernel_arguments(q.plan.optimizer_kernel);
  switch (q.job.optimizer) {
    case Optimizer::adamw:
    case Optimizer::adam: {
      const bool decoupled = q.job.optimizer == Optimizer::adamw;
      if (cpu) return {"deepspeed.ops.adam", "DeepSpeedCPUAdam", adam + fmt::format(", adamw_mode={}", python(decoupled))};
      return {"torch.optim", decoupled ? "AdamW" : "Adam", adam + kernel};
    }
    case Optimizer::sgd: return {"torch.optim", "SGD", ", momentum=0.0" + kernel};
    case Optimizer::momentum: return {"torch.optim", "SGD", ", momentum=betas[0]" + kernel};
    case Optimizer::adamw_8bit: return {"bitsandbytes.optim", "AdamW8bit", adam};
    case Optimizer::paged_adamw_8bit: return {"bitsandbytes.optim", "PagedAdamW8bit", adam};
    case Optimizer::adafactor:
    case Optimizer::lion:
    case Optimizer::muon: break;
  }
  throw UsageError(fmt::format("optimizer={}: is not exported to XTuner. Set adamw, adam, sgd, momentum, adamw-8bit or paged-adamw-8bit", get_key(q, "optimizer").get<std::string>()));
}

std::string_view torch_dtype(Dtype dtype) { return dtype == Dtype::bf16 ? "torch.bfloat16" : dtype == Dtype::fp16 ? "torch.float16" : "torch.float32"; }

/// Flash attention has no fp32 kernel.
std::string_view attention_words(const Question& q) {
  if (q.plan.attention == AttentionKernel::eager) return "eager";
  return q.plan.attention == AttentionKernel::flash && q.job.compute_dtype != Dtype::fp32 ? "flash_attention_2" : "sdpa";
}

bool is_quantised(const Question& q) { return q.job.lora && (q.job.lora->base_dtype == BaseDtype::nf4 || q.job.lora->base_dtype == BaseDtype::int8); }

std::string head(const Question& q, const ExportOptions& options, const OptimizerWords& optimizer) {
  const bool groups = q.job.sequence_parallel > 1;
  std::string out = fmt::format("# XTuner v0.1. Start it with the DeepSpeed JSON that belongs to it:\n#   NPROC_PER_NODE={} NNODES={} xtuner train THIS_FILE --deepspeed {}\n", q.cluster.gpus_per_node, q.cluster.nodes,
                                string_literal(options.deepspeed_file));
  out += "import torch\nfrom datasets import load_dataset\n";
  if (!groups) out += "from mmengine.dataset import DefaultSampler\n";
  out += "from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook\nfrom mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR\n";
  if (q.job.lora) out += "from peft import LoraConfig\n";
  out += fmt::format("from {} import {}\n", optimizer.module, optimizer.name);
  out += fmt::format("from transformers import AutoModelForCausalLM, AutoTokenizer{}\n", is_quantised(q) ? ", BitsAndBytesConfig" : "");
  out += "from xtuner.dataset import process_hf_dataset\nfrom xtuner.dataset.collate_fns import default_collate_fn\nfrom xtuner.dataset.map_fns import template_map_fn_factory\n";
  out += "from xtuner.engine.hooks import DatasetInfoHook\nfrom xtuner.engine.runner import TrainLoop\nfrom xtuner.model import SupervisedFinetune\n";
  if (groups) out += "from xtuner.parallel.sequence import SequenceParallelSampler\n";
  return out + "from xtuner.utils import PROMPT_TEMPLATE\n";
}

std::string settings(const Question& q) {
  const Job& job = q.job;
  std::string out = fmt::format("\n# To be filled in: where the model and the data are.\npretrained_model_name_or_path = {}\ndata_files = [\"data/train.json\"]\nprompt_template = PROMPT_TEMPLATE.default\nmax_epochs = 1\n",
                                string_literal(job.model.name));
  out += fmt::format("\n# The plan.\nmax_length = {}\npack_to_max_length = {}\nuse_varlen_attn = False\nbatch_size = {}  # sequences a GPU and micro batch\naccumulative_counts = {}\n", job.seq, python(job.packed),
                     q.plan.micro_batch, q.plan.accumulate);
  out += fmt::format("sequence_parallel_size = {}\nuse_activation_checkpointing = {}\n", job.sequence_parallel, python(recomputes(q)));
  out += fmt::format("lr = {}\nbetas = ({}, {})\neps = {}\nweight_decay = {}\nmax_norm = {}  # 0: no clipping\nwarmup_ratio = 0.03\n", python(job.learning_rate), python(job.beta1), python(job.beta2),
                     python(job.epsilon), python(job.weight_decay), python(job.clip_norm));
  return out;
}

std::string quantisation(const Lora& lora, Dtype compute) {
  if (lora.base_dtype == BaseDtype::int8) return "        quantization_config=dict(type=BitsAndBytesConfig, load_in_8bit=True),\n";
  return fmt::format("        quantization_config=dict(type=BitsAndBytesConfig, load_in_4bit=True, bnb_4bit_quant_type=\"nf4\", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype={}),\n", torch_dtype(compute));
}

std::string model_part(const Question& q) {
  std::string out = "\ntokenizer = dict(\n    type=AutoTokenizer.from_pretrained,\n    pretrained_model_name_or_path=pretrained_model_name_or_path,\n    trust_remote_code=True,\n    padding_side=\"right\",\n)\n";
  out += "\nmodel = dict(\n    type=SupervisedFinetune,\n    use_varlen_attn=use_varlen_attn,\n    use_activation_checkpointing=use_activation_checkpointing,\n    llm=dict(\n        type=AutoModelForCausalLM.from_pretrained,\n"
         "        pretrained_model_name_or_path=pretrained_model_name_or_path,\n        trust_remote_code=True,\n";
  const Dtype base = q.job.lora && q.job.lora->base_dtype == BaseDtype::fp16 ? Dtype::fp16 : q.parameters_dtype();
  out += fmt::format("        torch_dtype={},\n        attn_implementation=\"{}\",\n", torch_dtype(base), attention_words(q));
  if (is_quantised(q)) out += quantisation(*q.job.lora, q.job.compute_dtype);
  out += "    ),\n";
  if (q.job.lora)
    out += fmt::format("    lora=dict(type=LoraConfig, r={}, lora_alpha={}, lora_dropout=0.0, bias=\"none\", task_type=\"CAUSAL_LM\", target_modules={}),\n", q.job.lora->rank, q.job.lora->rank,
                       nlohmann::json(q.job.lora->targets).dump());
  return out + ")\n";
}

std::string data_part(const Question& q) {
  std::string out = "\ntrain_dataset = dict(\n    type=process_hf_dataset,\n    dataset=dict(type=load_dataset, path=\"json\", data_files=data_files),\n    tokenizer=tokenizer,\n    max_length=max_length,\n    dataset_map_fn=None,\n"
                    "    template_map_fn=dict(type=template_map_fn_factory, template=prompt_template),\n    remove_unused_columns=True,\n    shuffle_before_pack=True,\n    pack_to_max_length=pack_to_max_length,\n"
                    "    use_varlen_attn=use_varlen_attn,\n)\n";
  out += fmt::format("\ntrain_dataloader = dict(\n    batch_size=batch_size,\n    num_workers=0,\n    dataset=train_dataset,\n    sampler=dict(type={}, shuffle=True),\n    collate_fn=dict(type=default_collate_fn, use_varlen_attn=use_varlen_attn),\n)\n",
                     q.job.sequence_parallel > 1 ? "SequenceParallelSampler" : "DefaultSampler");
  return out;
}

std::string optimizer_part(const OptimizerWords& optimizer) {
  return fmt::format(
      "\noptim_wrapper = dict(\n    type=AmpOptimWrapper,  # with --deepspeed XTuner keeps the optimizer and wraps the model itself\n    optimizer=dict(type={}, lr=lr, weight_decay=weight_decay{}),\n"
      "    clip_grad=dict(max_norm=max_norm, error_if_nonfinite=False),\n    accumulative_counts=accumulative_counts,\n    loss_scale=\"dynamic\",\n)\n"
      "\nparam_scheduler = [\n    dict(type=LinearLR, start_factor=1e-5, by_epoch=True, begin=0, end=warmup_ratio * max_epochs, convert_to_iter_based=True),\n"
      "    dict(type=CosineAnnealingLR, eta_min=0.0, by_epoch=True, begin=warmup_ratio * max_epochs, end=max_epochs, convert_to_iter_based=True),\n]\n"
      "\ntrain_cfg = dict(type=TrainLoop, max_epochs=max_epochs)\n",
      optimizer.name, optimizer.arguments);
}

constexpr std::string_view kRuntime = R"(
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, log_metric_by_epoch=False, interval=10),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=500, max_keep_ckpts=2),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
custom_hooks = [dict(type=DatasetInfoHook, tokenizer=tokenizer)]
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0), dist_cfg=dict(backend="nccl"))
visualizer = None
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
log_processor = dict(by_epoch=False)
)";

void warn_of_xtuner(const Question& q, Warnings& warnings) {
  const auto warn = [&](std::string key, std::string text) { warnings.push_back({std::move(key), std::move(text)}); };
  warn("model", fmt::format("{}: pretrained_model_name_or_path, data_files and prompt_template are to be filled in", q.job.model.name));
  if (recomputes(q) && !recomputes_all(q)) warn("checkpoint", fmt::format("{}: XTuner recomputes all blocks or none; written as all", get_key(q, "checkpoint").get<std::string>()));
  if (recomputes(q) && q.plan.checkpoint_reentrant == false) warn("checkpoint_reentrant", "false: XTuner leaves it to transformers, whose version 4 is reentrant");
  if (attention_words(q) == "sdpa") warn("attention", fmt::format("{}: written as sdpa, where torch chooses the kernel", get_key(q, "attention").get<std::string>()));
  if (q.job.lora && q.job.model.model_type == "internlm2") warn("train", "target_modules: internlm2's layers are called wqkv, wo, w1, w2, w3");
  if (q.job.lora) warn("train", "lora_alpha and lora_dropout are no part of the plan: set to the rank and 0");
  if (q.job.optimizer_dtype == Dtype::int8 && q.job.optimizer != Optimizer::adamw_8bit && q.job.optimizer != Optimizer::paged_adamw_8bit) warn("optimizer_dtype", "int8: the optimizer is not an 8-bit one");
}

/// XTuner hands the JSON to DeepSpeed without the groups of sequence parallelism, so train_batch_size would be counted over all ranks; the other two give it.
std::string deepspeed_text_for_xtuner(const Question& q, const ExportOptions& options) {
  nlohmann::ordered_json json = deepspeed_json(q, options);
  json.erase("sequence_parallel_size");
  if (q.job.sequence_parallel > 1) json.erase("train_batch_size");
  return deepspeed_text(json);
}

}  // namespace

Export xtuner_config(const Question& question, const ExportOptions& options) {
  Export out;
  Question q = as_deepspeed(question, ExportTarget::xtuner, out.warnings);
  q.plan.tool = "xtuner";  // whose the optimizer is
  const OptimizerWords optimizer = optimizer_words(q);
  out.text = head(q, options, optimizer) + settings(q) + model_part(q) + data_part(q) + optimizer_part(optimizer) + std::string(kRuntime);
  out.deepspeed_text = deepspeed_text_for_xtuner(q, options);
  warn_of_xtuner(q, out.warnings);
  warn_of_script(q, ExportTarget::xtuner, {"seq", "micro_batch", "accumulate", "clip_norm", "train", "checkpoint", "checkpoint_reentrant", "attention", "optimizer", "optimizer_kernel", "zero_init"}, out.warnings);
  return out;
}

}  // namespace zeroplan
