// The Accelerate YAML. DeepSpeed: the file names a DeepSpeed JSON, since Accelerate's own DeepSpeed keys cannot say bucket sizes or dtypes; beside such a file Accelerate
// refuses to be told stage, offload, clipping or mixed_precision again, so they are not written. FSDP2: everything is in fsdp_config.
#include <array>
#include <optional>

#include <fmt/format.h>

#include "planner/core/error.h"
#include "planner/export/targets.h"

namespace zeroplan {

namespace {

constexpr int kMainProcessPort = 29500;

/// The class of one block in transformers' (or the model's own) code. Source: _no_split_modules of transformers 5.24; modeling files of the hub for the others.
struct BlockClass {
  std::string_view model_type, name;
};
constexpr std::array<BlockClass, 24> kBlockClasses{{{"llama", "LlamaDecoderLayer"}, {"internlm", "InternLMDecoderLayer"}, {"internlm2", "InternLM2DecoderLayer"}, {"internlm3", "InternLM3DecoderLayer"},
                                                    {"qwen2", "Qwen2DecoderLayer"}, {"qwen3", "Qwen3DecoderLayer"}, {"mistral", "MistralDecoderLayer"}, {"gemma", "GemmaDecoderLayer"},
                                                    {"gemma2", "Gemma2DecoderLayer"}, {"gemma3_text", "Gemma3DecoderLayer"}, {"phi3", "Phi3DecoderLayer"}, {"olmo2", "Olmo2DecoderLayer"},
                                                    {"chatglm", "GLMBlock"}, {"glm", "GlmDecoderLayer"}, {"gpt2", "GPT2Block"}, {"gpt_neox", "GPTNeoXLayer"}, {"opt", "OPTDecoderLayer"},
                                                    {"bloom", "BloomBlock"}, {"falcon", "FalconDecoderLayer"}, {"mpt", "MptBlock"}, {"mixtral", "MixtralDecoderLayer"},
                                                    {"qwen3_moe", "Qwen3MoeDecoderLayer"}, {"deepseek_v2", "DeepseekV2DecoderLayer"}, {"deepseek_v3", "DeepseekV3DecoderLayer"}}};

std::string_view block_class(const Model& model) {
  // Baichuan's sizes have files of their own: those with ALiBi (13B) call it BaichuanLayer.
  if (model.model_type == "baichuan") return model.position == PositionKind::alibi ? "BaichuanLayer" : "DecoderLayer";
  for (const BlockClass& known : kBlockClasses)
    if (known.model_type == model.model_type) return known.name;
  throw UsageError(fmt::format("model {}: the class of its blocks is not known, so fsdp_transformer_layer_cls_to_wrap cannot be said. Known: families of zeroplan list models", model.name));
}

/// Lines of YAML, two levels deep; keys in the order added.
class Yaml {
 public:
  void section(std::string_view key) {
    text_ += fmt::format("{}:\n", key);
    indent_ = "  ";
  }
  void end_section() { indent_.clear(); }
  void add(std::string_view key, bool value) { line(key, value ? "true" : "false"); }
  void add(std::string_view key, std::int64_t value) { line(key, std::to_string(value)); }
  void add(std::string_view key, int value) { line(key, std::to_string(value)); }
  void add(std::string_view key, std::string_view word) { line(key, word); }  ///< a plain word
  void add(std::string_view key, const char* word) { line(key, word); }
  void add_quoted(std::string_view key, std::string_view value) { line(key, string_literal(value)); }
  std::string take() { return std::move(text_); }

 private:
  void line(std::string_view key, std::string_view value) { text_ += fmt::format("{}{}: {}\n", indent_, key, value); }
  std::string text_, indent_;
};

/// Accelerate's keys for one machine of the cluster; on the others machine_rank differs.
void add_machines(const Question& q, Yaml& yaml, Warnings& warnings) {
  const Cluster& cluster = q.cluster;
  yaml.add("num_machines", cluster.nodes);
  yaml.add("num_processes", cluster.world_size());
  yaml.add("machine_rank", 0);
  yaml.add("main_process_port", kMainProcessPort);
  yaml.add("main_training_function", "main");
  yaml.add("rdzv_backend", "static");
  yaml.add("same_network", true);
  yaml.add("enable_cpu_affinity", false);
  yaml.add_quoted("downcast_bf16", "no");
  yaml.add("use_cpu", false);
  if (cluster.nodes > 1)
    warnings.push_back({"main_process_ip", fmt::format("{} machines: give each its own with accelerate launch --main_process_ip ADDRESS --machine_rank RANK", cluster.nodes)});
}

void begin(Yaml& yaml, std::string_view distributed_type) {
  yaml.add("compute_environment", "LOCAL_MACHINE");
  yaml.add("debug", false);
  yaml.add_quoted("distributed_type", distributed_type);
}

// ---- DeepSpeed ----

Export deepspeed_yaml(const Question& question, const ExportOptions& options) {
  Export out;
  Question q = as_deepspeed(question, ExportTarget::accelerate, out.warnings);
  if (q.plan.tool.empty()) q.plan.tool = "accelerate";  // the script hands it the optimizer: a JSON with one would need DummyOptim there
  out.deepspeed_text = deepspeed_text(deepspeed_json(q, options));
  Yaml yaml;
  begin(yaml, "DEEPSPEED");
  yaml.section("deepspeed_config");
  yaml.add_quoted("deepspeed_config_file", options.deepspeed_file);
  yaml.add("deepspeed_multinode_launcher", "standard");
  yaml.add("zero3_init_flag", q.plan.stage == 3 && q.plan.zero_init);
  yaml.end_section();
  add_machines(q, yaml, out.warnings);
  out.text = yaml.take();
  warn_of_script(q, ExportTarget::accelerate, {"accumulate", "clip_norm", "zero_init"}, out.warnings);
  if (q.job.sequence_parallel > 1)
    out.warnings.push_back({"sequence_parallel", fmt::format("{}: ParallelismConfig(sp_size={}, sp_backend=\"deepspeed\"), in the script", q.job.sequence_parallel, q.job.sequence_parallel)});
  return out;
}

// ---- FSDP2, DDP ----

/// Accelerate's mixed precision keeps fp32 shards and computes and reduces in one dtype; without it everything is in the parameters' dtype.
bool is_mixed(const Question& q) { return q.job.compute_dtype != Dtype::fp32 && q.parameters_dtype() == Dtype::fp32; }

void check_native(const Question& q) {
  const Plan& plan = q.plan;
  if (q.job.sequence_parallel > 1) throw UsageError(fmt::format("sequence_parallel={}: is not exported to Accelerate for {}. Set it to 1, or plan it with --engine deepspeed", q.job.sequence_parallel, name_of(plan.engine)));
  if (plan.offload_optimizer == Offload::nvme || plan.offload_parameters == Offload::nvme) throw UsageError(fmt::format("offload to nvme: {} has none. Set it to cpu, or plan it with --engine deepspeed", name_of(plan.engine)));
  const bool offloads = plan.offload_optimizer != Offload::none || plan.offload_parameters != Offload::none;
  if (offloads && plan.engine != Engine::fsdp2) throw UsageError(fmt::format("offload: {} has none. Leave it out, or plan it with --engine deepspeed", name_of(plan.engine)));
  if (plan.offload_optimizer != Offload::none && plan.offload_parameters == Offload::none)
    throw UsageError("offload_optimizer=cpu: FSDP2 offloads parameters, gradients and optimizer together. Set offload_parameters to cpu too, or leave both out");
  if (q.shard_group() != q.cluster.world_size() && plan.engine != Engine::fsdp2) throw UsageError(fmt::format("shard_group={}: {} shards nothing. Leave it out", q.shard_group(), name_of(plan.engine)));
}

void warn_of_dtypes(const Question& q, Warnings& warnings) {
  const Dtype on_wire = is_mixed(q) && q.plan.engine == Engine::fsdp2 ? q.job.compute_dtype : q.parameters_dtype();
  if (q.reduce_dtype() != on_wire) warnings.push_back({"reduce_dtype", fmt::format("{}: Accelerate reduces in {} here; a MixedPrecisionPolicy in the script says otherwise", name_of(q.reduce_dtype()), name_of(on_wire))});
  if (q.job.gradient_dtype != q.parameters_dtype())
    warnings.push_back({"gradient_dtype", fmt::format("{}: gradients have the parameters' dtype, {}", name_of(q.job.gradient_dtype), name_of(q.parameters_dtype()))});
  if (q.parameters_dtype() != Dtype::fp32)
    warnings.push_back({"parameters_dtype", fmt::format("{}: mixed_precision is no, since it would make them fp32; load the model with dtype={}", name_of(q.parameters_dtype()), name_of(q.parameters_dtype()))});
  if (q.parameters_dtype() != Dtype::fp32 && q.parameters_dtype() != q.job.compute_dtype)
    warnings.push_back({"compute_dtype", fmt::format("{}: without mixed_precision it is that of the parameters", name_of(q.job.compute_dtype))});
}

void warn_of_fsdp2(const Question& q, Warnings& warnings) {
  if (q.plan.reshard == Reshard::standard) warnings.push_back({"reshard", "default: Accelerate hands one value to every module, so the root is resharded too"});
  if (q.plan.offload_parameters != Offload::none && q.plan.offload_optimizer == Offload::none) warnings.push_back({"offload_optimizer", "none: FSDP2 offloads the optimizer with the parameters"});
}

void add_fsdp(const Question& q, Yaml& yaml) {
  yaml.section("fsdp_config");
  yaml.add("fsdp_version", 2);
  yaml.add("fsdp_reshard_after_forward", q.plan.reshard != Reshard::never);
  yaml.add("fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP");
  yaml.add("fsdp_transformer_layer_cls_to_wrap", block_class(q.job.model));
  yaml.add("fsdp_state_dict_type", "SHARDED_STATE_DICT");
  yaml.add("fsdp_offload_params", q.plan.offload_parameters == Offload::cpu);
  yaml.add("fsdp_activation_checkpointing", recomputes(q));
  yaml.add("fsdp_activation_checkpointing_offload", recomputes(q) && q.plan.offload_activations == Offload::cpu);
  yaml.add("fsdp_cpu_ram_efficient_loading", true);
  yaml.end_section();
  if (q.shard_group() == q.cluster.world_size()) return;
  yaml.section("parallelism_config");
  yaml.add("parallelism_config_dp_replicate_size", q.cluster.world_size() / q.shard_group());
  yaml.add("parallelism_config_dp_shard_size", q.shard_group());
  yaml.add("parallelism_config_tp_size", 1);
  yaml.add("parallelism_config_cp_size", 1);
  yaml.end_section();
}

std::string_view distributed_type(Engine engine) { return engine == Engine::fsdp2 ? "FSDP" : engine == Engine::ddp ? "MULTI_GPU" : "NO"; }

Export native_yaml(const Question& q) {
  check_question(q);
  check_native(q);
  Export out;
  Yaml yaml;
  const bool fsdp2 = q.plan.engine == Engine::fsdp2;
  begin(yaml, distributed_type(q.plan.engine));
  if (fsdp2) add_fsdp(q, yaml);
  yaml.add_quoted("mixed_precision", is_mixed(q) ? name_of(q.job.compute_dtype) : "no");
  add_machines(q, yaml, out.warnings);
  out.text = yaml.take();
  warn_of_dtypes(q, out.warnings);
  if (fsdp2) warn_of_fsdp2(q, out.warnings);
  if (fsdp2 && recomputes(q) && !recomputes_all(q))
    out.warnings.push_back({"checkpoint", fmt::format("{}: Accelerate recomputes every wrapped block or none; written as all", get_key(q, "checkpoint").get<std::string>())});
  if (fsdp2 && recomputes(q) && q.plan.checkpoint_reentrant == true) out.warnings.push_back({"checkpoint_reentrant", "true: Accelerate's checkpoints are not reentrant"});
  if (fsdp2) warn_of_script(q, ExportTarget::accelerate, {"checkpoint", "checkpoint_reentrant", "offload_activations"}, out.warnings);
  else warn_of_script(q, ExportTarget::accelerate, {}, out.warnings);
  return out;
}

}  // namespace

Export accelerate_config(const Question& question, const ExportOptions& options) {
  if (question.cluster.device.kind == DeviceKind::cpu) throw UsageError(fmt::format("cluster {}: on CPU ranks Accelerate starts neither DeepSpeed nor FSDP. Name GPUs with --on", question.cluster.name));
  switch (question.plan.engine) {
    case Engine::fsdp2:
    case Engine::ddp:
    case Engine::single: return native_yaml(question);
    case Engine::zeroplan:
    case Engine::deepspeed:
    case Engine::fsdp1:
    case Engine::other: break;
  }
  return deepspeed_yaml(question, options);  // refuses the last two
}

}  // namespace zeroplan
