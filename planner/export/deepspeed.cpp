// The DeepSpeed JSON. Refusals first: what DeepSpeed itself refuses, and what it accepts and then does not do. Keys are written in the order in which people read them.
#include <limits>

#include <fmt/format.h>

#include "planner/core/error.h"
#include "planner/export/targets.h"

namespace zeroplan {

namespace {

using nlohmann::ordered_json;

bool offloads_optimizer(const Question& q) { return q.plan.offload_optimizer != Offload::none; }
bool offloads_parameters(const Question& q) { return q.plan.offload_parameters != Offload::none; }

[[noreturn]] void refuse(std::string_view key, const Question& q, std::string_view problem, std::string_view remedy) {
  const nlohmann::json value = get_key(q, key);
  throw UsageError(fmt::format("{}={}: {}. {}", key, value.is_string() ? value.get<std::string>() : value.dump(), problem, remedy));
}

void check_offload(const Question& q, const ExportOptions& options) {
  if (offloads_optimizer(q) && q.plan.stage == 0) refuse("offload_optimizer", q, "DeepSpeed ignores it in silence at stage 0", "Set stage to 1, 2 or 3");
  if (offloads_parameters(q) && q.plan.stage != 3) refuse("offload_parameters", q, fmt::format("DeepSpeed ignores it in silence at stage {}", q.plan.stage), "Set stage to 3");
  if (q.plan.offload_optimizer == Offload::nvme && q.plan.stage != 3) refuse("offload_optimizer", q, fmt::format("at stage {} DeepSpeed takes it for cpu in silence", q.plan.stage), "Set it to cpu, or stage to 3");
  if (q.plan.offload_optimizer_ratio < 1 && q.plan.stage != 3) refuse("offload_optimizer_ratio", q, "DeepSpeed offloads a part of the optimizer at stage 3 only", "Set it to 1, or stage to 3");
  for (const auto& [key, offload] : {std::pair{"offload_optimizer", q.plan.offload_optimizer}, std::pair{"offload_parameters", q.plan.offload_parameters}})
    if (offload == Offload::nvme && options.nvme_path.empty()) refuse(key, q, "needs a directory on the NVMe device", "Name it with --nvme-path");
}

/// Parameters are kept in fp32 and computed with in less: torch_autocast's way.
bool autocasts(const Question& q) { return q.plan.deepspeed.torch_autocast && q.parameters_dtype() == Dtype::fp32 && q.job.compute_dtype != Dtype::fp32; }

void check_dtypes(const Question& q) {
  const DeepSpeedOptions& o = q.plan.deepspeed;
  if (q.parameters_dtype() != q.job.compute_dtype && !autocasts(q))
    refuse("parameters_dtype", q, fmt::format("DeepSpeed keeps parameters in the compute_dtype, {}", name_of(q.job.compute_dtype)), R"(Set them equal, or fp32 with --deepspeed '{"torch_autocast": true}')");
  if (o.torch_autocast && q.job.compute_dtype == Dtype::fp32) refuse("compute_dtype", q, "torch_autocast computes in bf16 or fp16", "Set compute_dtype to one of them");
  if (q.has_master() != q.implied_master()) refuse("master_dtype", q, "DeepSpeed keeps an fp32 master copy unless bf16_master_weights_and_grads is on", "Leave it out, or set that key of deepspeed");
  if (o.bf16_master_weights_and_grads && (q.plan.stage == 0 || q.job.compute_dtype != Dtype::bf16))
    throw UsageError("bf16_master_weights_and_grads=true: DeepSpeed refuses it at stage 0 and without bf16. Leave it out");
  if (o.bf16_optimizer_states && !o.bf16_master_weights_and_grads) throw UsageError("bf16_optimizer_states=true: DeepSpeed refuses it without bf16_master_weights_and_grads. Set that too");
  if (o.bf16_optimizer_states != (q.job.optimizer_dtype == Dtype::bf16)) refuse("optimizer_dtype", q, "DeepSpeed's moments are bf16 where bf16_optimizer_states is on, and only there", "Set that key of deepspeed");
  if (q.plan.stage == 0 && q.job.gradient_dtype != q.parameters_dtype()) refuse("gradient_dtype", q, "at stage 0 DeepSpeed refuses a dtype other than the parameters'", "Leave it out, or set stage to 1, 2 or 3");
}

void check_grad_norm(const Question& q) {
  if (q.plan.deepspeed.compute_grad_norm) return;
  if (q.plan.stage != 1 && q.plan.stage != 2) throw UsageError("compute_grad_norm=false: DeepSpeed refuses it outside stages 1 and 2. Leave it out");
  if (q.job.clip_norm > 0) throw UsageError("compute_grad_norm=false: DeepSpeed refuses it with clipping. Set clip_norm to 0");
  if (offloads_optimizer(q)) throw UsageError("compute_grad_norm=false: DeepSpeed refuses it with an offloaded optimizer. Leave one of them out");
}

void check_ranks(const Question& q) {
  if (q.shard_group() != q.cluster.world_size()) refuse("shard_group", q, "DeepSpeed shards over all ranks; groups (MiCS, hpZ) are not exported", "Leave it out");
}

std::int64_t data_ranks(const Question& q) { return q.cluster.world_size() / q.job.sequence_parallel; }

void add_batches(const Question& q, ordered_json& out) {
  out["train_micro_batch_size_per_gpu"] = q.plan.micro_batch;
  out["gradient_accumulation_steps"] = q.plan.accumulate;
  out["train_batch_size"] = checked_multiply(checked_multiply(q.plan.micro_batch, q.plan.accumulate), data_ranks(q));
  if (q.job.sequence_parallel > 1) out["sequence_parallel_size"] = q.job.sequence_parallel;
  out["gradient_clipping"] = q.job.clip_norm;
}

void add_dtypes(const Question& q, ordered_json& out) {
  const DeepSpeedOptions& o = q.plan.deepspeed;
  const bool converts = !autocasts(q);
  out["bf16"] = {{"enabled", converts && q.job.compute_dtype == Dtype::bf16},
                 {"immediate_grad_update", o.immediate_grad_update},
                 {"check_grad_overflow", true},
                 {"bf16_master_weights_and_grads", o.bf16_master_weights_and_grads},
                 {"bf16_optimizer_states", o.bf16_optimizer_states}};
  out["fp16"] = {{"enabled", converts && q.job.compute_dtype == Dtype::fp16},
                 {"auto_cast", false},
                 {"loss_scale", 0},
                 {"initial_scale_power", 16},
                 {"loss_scale_window", 1000},
                 {"hysteresis", 2},
                 {"consecutive_hysteresis", false},
                 {"min_loss_scale", 1},
                 {"fp16_master_weights_and_grads", false}};
  out["torch_autocast"] = {{"enabled", o.torch_autocast}};
  if (o.torch_autocast) out["torch_autocast"]["dtype"] = name_of(q.job.compute_dtype);
  out["data_types"] = {{"grad_accum_dtype", name_of(q.job.gradient_dtype)}};
  out["communication_data_type"] = name_of(q.reduce_dtype());
  out["seq_parallel_communication_data_type"] = name_of(o.seq_parallel_communication_data_type);
}

std::string_view device_name(Offload offload) {
  switch (offload) {
    case Offload::none: return "none";
    case Offload::cpu: return "cpu";
    case Offload::nvme: return "nvme";
  }
  return "";
}

ordered_json offload_optimizer_block(const Question& q, const ExportOptions& options) {
  ordered_json out{{"device", device_name(q.plan.offload_optimizer)}};
  if (q.plan.offload_optimizer == Offload::nvme) out["nvme_path"] = options.nvme_path;
  out["pin_memory"] = q.plan.deepspeed.offload_optimizer_pin_memory;
  out["ratio"] = q.plan.offload_optimizer_ratio;
  out.update(ordered_json{{"buffer_count", 4}, {"pipeline_read", false}, {"pipeline_write", false}, {"fast_init", false}});
  return out;
}

ordered_json offload_param_block(const Question& q, const ExportOptions& options) {
  ordered_json out{{"device", device_name(q.plan.offload_parameters)}};
  if (q.plan.offload_parameters == Offload::nvme) out["nvme_path"] = options.nvme_path;
  out["pin_memory"] = q.plan.deepspeed.offload_param_pin_memory;
  out["max_in_cpu"] = q.plan.deepspeed.offload_param_max_in_cpu;
  out.update(ordered_json{{"buffer_count", 5}, {"buffer_size", 100'000'000}});
  return out;
}

/// Keys of every stage at every stage (it reads them all), those of stage 3 there.
ordered_json zero_block(const Question& q, const ExportOptions& options) {
  const DeepSpeedOptions& o = q.plan.deepspeed;
  const bool three = q.plan.stage == 3;
  ordered_json out{{"stage", q.plan.stage}, {"overlap_comm", o.overlaps(q.plan.stage)}};
  for (const DeepSpeedInteger& integer : kDeepSpeedIntegers)
    if (three || !integer.stage3_only) out[std::string(integer.key)] = o.*integer.field;
  for (const DeepSpeedFlag& flag : kDeepSpeedFlags)
    if (three || !flag.stage3_only) out[std::string(flag.key)] = o.*flag.field;
  if (q.plan.stage > 0) out["offload_optimizer"] = offload_optimizer_block(q, options);
  if (three) out["offload_param"] = offload_param_block(q, options);
  return out;
}

ordered_json optimizer_block(const Job& job) {
  ordered_json params{{"lr", job.learning_rate}, {"betas", {job.beta1, job.beta2}}};
  if (job.optimizer != Optimizer::lion) params["eps"] = job.epsilon;
  params["weight_decay"] = job.weight_decay;
  if (job.optimizer == Optimizer::lion) return {{"type", "Lion"}, {"params", params}};
  params["torch_adam"] = false;
  params["adam_w_mode"] = job.optimizer == Optimizer::adamw;
  return {{"type", job.optimizer == Optimizer::adamw ? "AdamW" : "Adam"}, {"params", params}};
}

void add_optimizer(const Question& q, ordered_json& out) {
  const bool own = has_deepspeed_optimizer(q);
  if (own) out["optimizer"] = optimizer_block(q.job);
  out["zero_allow_untested_optimizer"] = !own;
  out["zero_force_ds_cpu_optimizer"] = own || q.plan.optimizer_kernel == OptimizerKernel::cpu;
}

void warn_of_ranks(const Question& q, Warnings& warnings) {
  if (q.job.sequence_parallel > 1)
    warnings.push_back({"sequence_parallel", fmt::format("{}: the script makes the groups; DeepSpeed counts {} ranks for train_batch_size only where it is handed them (mpu) or the JSON as a dict", q.job.sequence_parallel, data_ranks(q))});
  if (tool_resolves_auto(q.plan.tool))
    warnings.push_back({"tool", fmt::format("{}: its own batch size, accumulation and clipping must be {}, {} and {}, as here: it refuses others", q.plan.tool, q.plan.micro_batch, q.plan.accumulate, q.job.clip_norm)});
}

}  // namespace

bool has_deepspeed_optimizer(const Question& q) {
  const bool known = q.job.optimizer == Optimizer::adamw || q.job.optimizer == Optimizer::adam || q.job.optimizer == Optimizer::lion;
  const OptimizerKernel own = offloads_optimizer(q) ? OptimizerKernel::cpu : OptimizerKernel::fused;
  return q.plan.engine == Engine::deepspeed && q.plan.tool.empty() && known && q.plan.optimizer_kernel == own;
}

ordered_json deepspeed_json(const Question& q, const ExportOptions& options) {
  check_question(q);
  check_offload(q, options);
  check_dtypes(q);
  check_grad_norm(q);
  check_ranks(q);
  ordered_json out;
  add_batches(q, out);
  add_dtypes(q, out);
  out["zero_optimization"] = zero_block(q, options);
  add_optimizer(q, out);
  if (q.plan.deepspeed.deepcompile) out["compile"] = {{"deepcompile", true}};
  if (q.plan.offload_optimizer == Offload::nvme || q.plan.offload_parameters == Offload::nvme)
    out["aio"] = {{"block_size", 1'048'576}, {"queue_depth", 8}, {"intra_op_parallelism", 1}, {"single_submit", false}, {"overlap_events", true}, {"use_gds", false}};
  return out;
}

std::string deepspeed_text(const ordered_json& json) { return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n"; }

Export deepspeed_config(const Question& question, const ExportOptions& options) {
  Export out;
  const Question q = as_deepspeed(question, ExportTarget::deepspeed, out.warnings);
  out.text = deepspeed_text(deepspeed_json(q, options));
  warn_of_script(q, ExportTarget::deepspeed, {"micro_batch", "accumulate", "clip_norm"}, out.warnings);
  warn_of_ranks(q, out.warnings);
  return out;
}

}  // namespace zeroplan
