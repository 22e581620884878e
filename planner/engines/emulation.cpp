#include "planner/engines/emulation.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "planner/core/error.h"
#include "planner/core/torch_release.h"
#include "planner/engines/eager/deepspeed_zero12.h"
#include "planner/engines/eager/deepspeed_zero3.h"
#include "planner/engines/eager/fsdp2.h"
#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/single.h"

namespace zeroplan {
namespace {

using eager::ScalarType;

ScalarType scalar_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::bf16: return ScalarType::bf16;
    case Dtype::fp16: return ScalarType::fp16;
    case Dtype::fp32: return ScalarType::fp32;
    case Dtype::fp64: return ScalarType::fp64;
    case Dtype::int32: return ScalarType::int32;
    case Dtype::int8: return ScalarType::uint8;
  }
  return ScalarType::fp32;
}

/// Which emulated engine stands for the question's.
enum class Emulated : std::uint8_t { single, fsdp2, zero12, zero3 };

Emulated emulated_engine(const Plan& plan) {
  switch (plan.engine) {
    case Engine::single:
    case Engine::ddp: return Emulated::single;
    case Engine::fsdp1:
    case Engine::fsdp2: return Emulated::fsdp2;
    case Engine::zeroplan:
    case Engine::other:
    case Engine::deepspeed: break;
  }
  if (plan.stage == 3) return Emulated::zero3;
  return plan.stage == 0 ? Emulated::single : Emulated::zero12;
}

/// pytorch/pytorch#153666: torch.nn.RMSNorm is one CUDA kernel.
constexpr TorchChange kFusedRmsNorm{9, 20250801};
/// pytorch/torchtitan#391 (e29b6b4d4): train.py drops the logits before backward.
constexpr TorchChange kTorchtitanDropsLogits{4, 20240612};

// ---- parts that the jobs share ----

eager::HfConfig model_of(const Question& question) { return eager::hf_config(question.job.model, scalar_type(question.parameters_dtype()), question.job.seq); }

eager::TrainingSize size_of(const Question& question, int steps) {
  return {.seq_tokens = question.job.seq / question.job.sequence_parallel, .micro_batch = question.plan.micro_batch, .accumulate = question.plan.accumulate, .steps = steps};
}

eager::OptimizerKernel kernel_of(const Question& question) {
  switch (question.plan.optimizer_kernel) {
    case OptimizerKernel::foreach: return eager::OptimizerKernel::foreach;
    case OptimizerKernel::for_loop: return eager::OptimizerKernel::for_loop;
    case OptimizerKernel::fused:
    case OptimizerKernel::cpu: break;  // DeepSpeed's CPU Adam updates in place, as the fused kernel does
  }
  return eager::OptimizerKernel::fused;
}

/// Tools that hand no choice to torch.utils.checkpoint: its default was re-entrant until transformers 5.
bool checkpoints_reentrant(const Plan& plan) {
  constexpr std::array<std::string_view, 8> kReentrant{"xtuner", "hf-trainer", "llamafactory", "ms-swift", "arctic-training", "megatron-deepspeed", "accelerate", "flagperf"};
  return plan.checkpoint_reentrant.value_or(std::find(kReentrant.begin(), kReentrant.end(), plan.tool) != kReentrant.end());
}

bool recomputes_all(const Question& question) {
  return question.plan.checkpoint_policy == CheckpointPolicy::blocks && question.plan.recomputed_blocks == question.job.model.num_layers;
}

eager::CheckpointMode checkpoint_of(const Question& question) {
  if (question.plan.checkpoint_policy == CheckpointPolicy::selective_op) return eager::CheckpointMode::selective;
  if (!recomputes_all(question)) return eager::CheckpointMode::none;
  return checkpoints_reentrant(question.plan) ? eager::CheckpointMode::reentrant : eager::CheckpointMode::non_reentrant;
}

eager::TitanCheckpoint titan_checkpoint_of(const Question& question) {
  using Mode = eager::TitanCheckpoint::Mode;
  switch (question.plan.checkpoint_policy) {
    case CheckpointPolicy::selective_op: return {.mode = Mode::selective_op};
    case CheckpointPolicy::every_nth: return {.mode = Mode::every_blocks, .block_frequency = question.plan.checkpoint_every};
    case CheckpointPolicy::blocks:
    case CheckpointPolicy::selective_attention: break;
  }
  return {.mode = recomputes_all(question) ? Mode::full : Mode::none};
}

eager::LoraConfig lora_of(const Question& question) {
  if (!question.job.lora) return {};
  return {.rank = question.job.lora->rank, .targets = question.job.lora->targets};
}

/// A dtype that the DeepSpeed JSON states, or one that the question has otherwise than the parameters'.
std::optional<ScalarType> stated(const std::optional<Dtype>& said, Dtype asked, Dtype implied) {
  if (said) return scalar_type(*said);
  if (asked != implied) return scalar_type(asked);
  return std::nullopt;
}

// ---- jobs ----

eager::SingleJob single_job(const Question& question, int steps) {
  return {.model = model_of(question),
          .size = size_of(question, steps),
          .checkpoint = checkpoint_of(question),
          .compute_type = scalar_type(question.job.compute_dtype),
          .kernel = kernel_of(question),
          .lora = lora_of(question)};
}

eager::Reshard reshard_of(const Plan& plan) {
  if (plan.reshard == Reshard::always) return eager::Reshard::always;
  return plan.reshard == Reshard::never || plan.stage == 2 ? eager::Reshard::never : eager::Reshard::by_default;
}

eager::Fsdp2Job fsdp2_job(const Question& question, int steps) {
  return {.tool = question.plan.tool == "torchtitan" ? eager::Fsdp2Job::Tool::torchtitan : eager::Fsdp2Job::Tool::transformers,
          .model = model_of(question),
          .world_ranks = question.cluster.world_size(),
          .shard_group_ranks = question.shard_group(),
          .size = size_of(question, steps),
          .reshard = reshard_of(question.plan),
          .checkpoint = titan_checkpoint_of(question),
          .compute_type = scalar_type(question.job.compute_dtype),
          .reduce_type = scalar_type(question.reduce_dtype()),
          .kernel = kernel_of(question),
          .keeps_fp32_logits = is_before(question.plan.torch, kTorchtitanDropsLogits)};
}

eager::Zero12Options zero12_options(const Question& question) {
  const DeepSpeedOptions& o = question.plan.deepspeed;
  return {.reduce_bucket_size = o.reduce_bucket_size,
          .overlap_comm = o.overlaps(question.plan.stage),
          .contiguous_gradients = o.contiguous_gradients,
          .reduce_scatter = o.reduce_scatter,
          .use_multi_rank_bucket_allreduce = o.use_multi_rank_bucket_allreduce,
          .round_robin_gradients = o.round_robin_gradients,
          .parameter_alignment = o.parameter_alignment,
          .compute_grad_norm = o.compute_grad_norm,
          .grad_accum_dtype = stated(o.grad_accum_dtype, question.job.gradient_dtype, question.parameters_dtype()),
          .communication_data_type = stated(o.communication_data_type, question.reduce_dtype(), question.parameters_dtype()),
          .immediate_grad_update = o.immediate_grad_update,
          .bf16_master_weights_and_grads = o.bf16_master_weights_and_grads,
          .gradient_clipping = question.job.clip_norm};
}

eager::Zero12Job zero12_job(const Question& question, int steps) {
  return {.model = model_of(question),
          .lora = lora_of(question),
          .stage = static_cast<int>(question.plan.stage),
          .world_ranks = question.cluster.world_size(),
          .size = size_of(question, steps),
          .checkpoint = checkpoint_of(question),
          .kernel = kernel_of(question),
          .offload_optimizer = question.plan.offload_optimizer == Offload::cpu,
          .zero = zero12_options(question),
          .gpu_bytes = question.cluster.device.capacity_bytes.value()};
}

eager::Zero3Fetching fetching_of(const DeepSpeedOptions& o) {
  const bool has_model_threshold = o.stage3_model_persistence_threshold != DeepSpeedOptions{}.stage3_model_persistence_threshold;
  return {.prefetch_bucket_elems = o.stage3_prefetch_bucket_size,
          .persistence_threshold_elems = o.stage3_param_persistence_threshold,
          .model_persistence_threshold_elems = has_model_threshold ? std::optional(o.stage3_model_persistence_threshold) : std::nullopt,
          .max_live_elems = o.stage3_max_live_parameters,
          .max_reuse_distance_elems = o.stage3_max_reuse_distance,
          .sequential = o.stage3_allgather_sequential,
          .by_all_reduce = o.stage3_use_all_reduce_for_fetch_params};
}

eager::Zero3Job zero3_job(const Question& question, int steps) {
  const DeepSpeedOptions& o = question.plan.deepspeed;
  eager::Zero3Job job{.model = model_of(question),
                      .ranks = question.shard_group(),
                      .size = size_of(question, steps),
                      .checkpoint = checkpoint_of(question),
                      .kernel = kernel_of(question),
                      .lora = lora_of(question),
                      .zero_init = question.plan.zero_init,
                      .fetching = fetching_of(o),
                      .reduce_bucket_elems = o.reduce_bucket_size,
                      .sub_group_elems = o.sub_group_size,
                      .contiguous_gradients = o.contiguous_gradients,
                      .reduce_scatter = o.reduce_scatter,
                      .memory_efficient_linear = o.memory_efficient_linear,
                      .offload_optimizer = question.plan.offload_optimizer == Offload::cpu,
                      .offload_parameters = question.plan.offload_parameters == Offload::cpu,
                      .grad_accum_type = stated(o.grad_accum_dtype, question.job.gradient_dtype, question.parameters_dtype()),
                      .communication_type = stated(o.communication_data_type, question.reduce_dtype(), question.parameters_dtype()),
                      .clips_gradients = question.job.clip_norm > 0};
  if (!question.plan.engine_version.empty()) job.version = question.plan.engine_version;
  return job;
}

/// Collects what is passed over.
class Gaps {
 public:
  void note_if(bool gap, std::string_view key, std::string taken) {
    if (gap) gaps_.push_back({std::string(key), std::move(taken)});
  }
  std::vector<EmulationGap> take() { return std::move(gaps_); }

 private:
  std::vector<EmulationGap> gaps_;
};

bool tool_is_emulated(const Question& question) {
  constexpr std::array<std::string_view, 4> kOwnModels{"llm-foundry", "litgpt", "megatron-deepspeed", "internevo"};
  return std::find(kOwnModels.begin(), kOwnModels.end(), question.plan.tool) == kOwnModels.end();
}

}  // namespace

std::vector<EmulationGap> emulation_gaps(const Question& question) {
  (void)model_of(question);
  const Job& job = question.job;
  const Plan& plan = question.plan;
  Gaps gaps;
  gaps.note_if(plan.engine == Engine::other, "engine", fmt::format("as DeepSpeed at stage {}", plan.stage));
  gaps.note_if(plan.engine == Engine::fsdp1, "engine", "as FSDP2");
  gaps.note_if(plan.engine == Engine::ddp || (plan.engine == Engine::deepspeed && plan.stage == 0), "engine", "as plain PyTorch, without buckets");
  gaps.note_if(!tool_is_emulated(question), "tool", "with transformers' model code");
  gaps.note_if(job.sequence_parallel > 1, "sequence_parallel", "as sequences of seq / sequence_parallel tokens, attention's exchange left out");
  gaps.note_if(job.optimizer != Optimizer::adamw && job.optimizer != Optimizer::adam, "optimizer", "as adamw");
  gaps.note_if(job.optimizer_dtype != question.parameters_dtype() && job.optimizer_dtype != Dtype::fp32, "optimizer_dtype", "as fp32");
  gaps.note_if(job.lora && job.lora->base_dtype != BaseDtype::bf16 && job.lora->base_dtype != BaseDtype::fp16, "train", "with a base in 16 bits");
  gaps.note_if(plan.compile, "compile", "as eager PyTorch");
  gaps.note_if(plan.fp8, "fp8", "in the compute dtype");
  gaps.note_if(plan.offload_activations != Offload::none, "offload_activations", "kept on the device");
  gaps.note_if(plan.offload_optimizer == Offload::nvme, "offload_optimizer", "kept on the device");
  gaps.note_if(plan.offload_parameters == Offload::nvme, "offload_parameters", "kept on the device");
  gaps.note_if(plan.offload_optimizer_ratio < 1 && plan.offload_optimizer != Offload::none, "offload_optimizer_ratio", "as 1");
  const Emulated emulated = emulated_engine(plan);
  const bool offloads = plan.offload_optimizer == Offload::cpu || plan.offload_parameters == Offload::cpu;
  gaps.note_if(offloads && (emulated == Emulated::fsdp2 || emulated == Emulated::single), "offload_optimizer", "kept on the device");
  gaps.note_if(job.lora && emulated == Emulated::fsdp2, "train", "as full training");
  return gaps.take();
}

eager::PhasePeaks emulate(const Question& question, eager::Recorder& recorder, EmulatedDevice device, int steps) {
  const bool oracle = device == EmulatedDevice::oracle;
  eager::MachineBehaviour machine = oracle ? eager::kSimulatedAccelerator : eager::kGpu;
  machine.fused_rms_norm = !oracle && !is_before(question.plan.torch, kFusedRmsNorm);
  switch (emulated_engine(question.plan)) {
    case Emulated::single: return eager::run_single(single_job(question, steps), recorder, oracle ? eager::kFakeCpu : eager::kGpu);
    case Emulated::fsdp2: {
      eager::Fsdp2Job job = fsdp2_job(question, steps);
      job.made_on_meta = !oracle;  // the oracle makes it whole
      return eager::run_fsdp2(job, recorder, machine);
    }
    case Emulated::zero12: return eager::run_zero12(zero12_job(question, steps), recorder, machine);
    case Emulated::zero3: return eager::run_zero3(zero3_job(question, steps), recorder, machine);
  }
  return {};
}

}  // namespace zeroplan
