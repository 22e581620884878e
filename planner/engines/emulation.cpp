#include "planner/engines/emulation.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "planner/core/error.h"
#include "planner/core/torch_release.h"
#include "planner/engines/eager/ddp.h"
#include "planner/engines/eager/deepspeed_zero12.h"
#include "planner/engines/eager/deepspeed_zero3.h"
#include "planner/engines/eager/fsdp1.h"
#include "planner/engines/eager/fsdp2.h"
#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/hf_ulysses.h"
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
enum class Emulated : std::uint8_t { single, ddp, fsdp1, fsdp2, zero12, zero3 };

Emulated emulated_engine(const Question& question) {
  const Plan& plan = question.plan;
  switch (plan.engine) {
    case Engine::single: return Emulated::single;
    case Engine::ddp: return question.cluster.world_size() > 1 ? Emulated::ddp : Emulated::single;
    case Engine::fsdp1: return Emulated::fsdp1;
    case Engine::fsdp2: return Emulated::fsdp2;
    case Engine::zeroplan:
    case Engine::other:
    case Engine::deepspeed: break;
  }
  if (plan.stage == 3) return plan.tool.starts_with("torchtitan") ? Emulated::fsdp2 : Emulated::zero3;
  return plan.stage == 0 && !question.has_master() ? Emulated::ddp : Emulated::zero12;
}

/// pytorch/pytorch#153666: torch.nn.RMSNorm is one CUDA kernel.
constexpr TorchChange kFusedRmsNorm{9, 20250801};
/// pytorch/pytorch#104898: foreach AdamW adds epsilon in place.
constexpr TorchChange kOneForeachTemporary{1, 20230712};
/// pytorch/torchtitan#391 (e29b6b4d4): train.py drops the logits before backward.
constexpr TorchChange kTorchtitanDropsLogits{4, 20240612};
/// pytorch/torchtitan#1094 (83e694105): embedding and head are sharded on their own.
constexpr TorchChange kTorchtitanShardsEnds{9, 20250728};
/// pytorch/torchtitan#181 (34711655b) to 3ff7fbb27: train_configs of Llama 2 7B and 13B have norm_type fused_rmsnorm, a Triton kernel; that of Llama 3 8B until #297 (5e84866e3).
constexpr TorchChange kTritonNorm{4, 20240401}, kNoTritonNormInLlama2{5, 20240710}, kNoTritonNormInLlama3{4, 20240502};
/// mosaicml/llm-foundry#1041: until then attn_impl was triton, a FlashAttention-1 (scripts/train/benchmarking/submit_benchmarks.py, yamls/pretrain).
constexpr TorchChange kFoundryLeavesTriton{2, 20240318};

/// huggingface/transformers 4.50 (March 2025): ForCausalLMLoss pads and shifts the labels; before, models shifted and copied the logits.
constexpr TorchChange kTransformersShiftsLabels{7, 20250301};

// ---- parts that the jobs share ----

/// What a job is made of: the question, and how the oracle differs from a real run.
struct Asked {
  const Question& question;
  int steps = 3;
  bool oracle = false;
};

bool runs_torchtitan(const Question& question) { return question.plan.tool.starts_with("torchtitan"); }

/// Tools whose models are transformers'.
bool runs_transformers(const Plan& plan) {
  constexpr std::array<std::string_view, 11> kTools{"transformers", "hf-trainer", "accelerate", "xtuner", "llamafactory", "ms-swift", "deepspeed", "flagperf", "easycontext", "llama-recipes", "fsdp_qlora"};
  return std::find(kTools.begin(), kTools.end(), plan.tool) != kTools.end();
}

eager::LossConfig loss_of(const Question& question) {
  using Kind = eager::LossConfig::Kind;
  const bool fp32 = question.job.logits_fp32.value_or(true);
  const std::int64_t chunks = question.plan.loss_chunks.value_or(eager::LossConfig{}.chunks);
  if (question.plan.loss == Loss::fused) return {.kind = Kind::fused};
  if (question.plan.loss == Loss::chunked) return {.kind = Kind::chunked, .chunks = chunks};
  if (question.plan.tool == "llm-foundry" && !fp32) return {.kind = Kind::flash};
  return {.kind = Kind::plain, .logits_fp32 = fp32, .shifts_logits = runs_transformers(question.plan) && is_before(question.plan.torch, kTransformersShiftsLabels)};
}

/// Of what is not trained, or of all in full training. Norms, embeddings and head of a quantised base are in 16 bits. DeepSpeed casts the whole model to the dtype that it trains in.
ScalarType base_type(const Question& question) {
  const Emulated emulated = emulated_engine(question);
  if (!question.job.lora || emulated == Emulated::zero12 || emulated == Emulated::zero3) return scalar_type(question.parameters_dtype());
  switch (question.job.lora->base_dtype) {
    case BaseDtype::bf16: return ScalarType::bf16;
    case BaseDtype::fp16: return ScalarType::fp16;
    case BaseDtype::fp32: return ScalarType::fp32;
    case BaseDtype::nf4:
    case BaseDtype::int8: break;
  }
  return question.job.compute_dtype == Dtype::fp16 ? ScalarType::fp16 : ScalarType::bf16;
}

/// Where weights are sharded they are stored as the model's dtype, to be flattened with it.
std::optional<eager::FourBitWeights> four_bit_of(const Question& question) {
  if (!question.job.lora || question.job.lora->base_dtype != BaseDtype::nf4) return std::nullopt;
  const Emulated emulated = emulated_engine(question);
  if (emulated == Emulated::zero3) return std::nullopt;
  const bool sharded = emulated == Emulated::fsdp1 || emulated == Emulated::fsdp2;
  return eager::FourBitWeights{.double_quantised = true, .storage = sharded ? base_type(question) : ScalarType::uint8};
}

/// Ulysses. torchtitan's context parallelism is a ring.
bool exchanges_heads(const Question& question, const eager::HfConfig& config) { return !runs_torchtitan(question) && config.family == eager::HfConfig::Family::llama && eager::shares_heads(config); }

/// Tools whose switch for the fused loss puts all of Liger's kernels in (apply_liger_kernel_to_llama and its like).
bool patches_with_liger(const Question& question) {
  constexpr std::array<std::string_view, 5> kSwitches{"accelerate", "arctic-training", "hf-trainer", "llamafactory", "ms-swift"};
  return question.plan.loss == Loss::fused && std::find(kSwitches.begin(), kSwitches.end(), question.plan.tool) != kSwitches.end();
}

/// huggingface/transformers 4.44: FlashAttention's integration looks for packed samples in the positions (#31629); 4.56: of a batch of one only. Both read from the device.
constexpr TorchChange kTransformersReadsPositions{4, 20240806}, kTransformersReadsThemOfOne{8, 20250829};

/// Tools whose attention is not transformers' own leave it out. Padding is looked for in every layer as well, and there is some where samples of a batch have their own lengths.
eager::HfConfig::PositionsRead positions_read(const Question& question) {
  using Read = eager::HfConfig::PositionsRead;
  const std::string& tool = question.plan.tool;
  if ((!runs_transformers(question.plan) && tool != "arctic-training") || tool == "xtuner" || tool == "easycontext") return Read::never;
  if (!question.job.packed && question.plan.micro_batch > 1) return Read::always;
  if (is_before(question.plan.torch, kTransformersReadsPositions)) return Read::never;
  return is_before(question.plan.torch, kTransformersReadsThemOfOne) ? Read::always : Read::batch_of_one;
}

/// The oracle's models have as many learned positions as their sequences are long.
eager::HfConfig model_of(const Asked& asked) {
  const Question& question = asked.question;
  eager::HfConfig config = eager::hf_config(question.job.model, scalar_type(question.parameters_dtype()), question.job.seq);
  if (!asked.oracle) config.max_positions = std::max(question.job.model.max_position, question.job.seq);
  if (config.attention == AttentionKernel::flash) config.attention = question.plan.attention;  // models that write attention out do so whatever is asked
  config.type = base_type(question);
  config.liger = !asked.oracle && patches_with_liger(question) && config.norm != NormKind::layernorm;
  config.tiled_mlp = question.plan.preset.find("tiled-mlp") != std::string::npos;
  if (config.family == eager::HfConfig::Family::llama) config.four_bit = four_bit_of(question);
  config.sequence_ranks = question.job.sequence_parallel;
  if (!exchanges_heads(question, config)) config.sequence_ranks = 1;
  config.loss = loss_of(question);
  if (!asked.oracle) config.positions_read = positions_read(question);
  // transformers' MPT writes attention out; a GPT with layer norms and an attention kernel is nearer to llm-foundry's.
  config.foundry = config.family == eager::HfConfig::Family::mpt && (question.plan.tool == "llm-foundry" || question.plan.attention != AttentionKernel::eager);
  return config;
}

eager::TrainingSize size_of(const Asked& asked) {
  const Question& q = asked.question;
  return {.seq_tokens = q.job.seq / q.job.sequence_parallel, .micro_batch = q.plan.micro_batch, .accumulate = q.plan.accumulate, .steps = asked.steps,
          .lengths_vary = !asked.oracle && !q.job.packed};
}

eager::OptimizerKernel kernel_of(const Question& question) {
  switch (question.plan.optimizer_kernel) {
    case OptimizerKernel::foreach: return is_before(question.plan.torch, kOneForeachTemporary) ? eager::OptimizerKernel::foreach_of_two : eager::OptimizerKernel::foreach;
    case OptimizerKernel::for_loop: return eager::OptimizerKernel::for_loop;
    case OptimizerKernel::fused:
    case OptimizerKernel::cpu: break;  // DeepSpeed's CPU Adam updates in place, as the fused kernel does
  }
  return eager::OptimizerKernel::fused;
}

/// Blocks of a plan that are recomputed, with a mode of torch.utils.checkpoint.
eager::BlockCheckpoints checkpoint_of(const Question& question, bool may_be_reentrant = true) {
  using Mode = eager::CheckpointMode;
  const Plan& plan = question.plan;
  const bool offloads = plan.offload_activations == Offload::cpu;
  const Mode mode = may_be_reentrant && checkpoints_reentrant(plan) ? Mode::reentrant : Mode::non_reentrant;
  switch (plan.checkpoint_policy) {
    case CheckpointPolicy::selective_op: return {.mode = Mode::selective};
    case CheckpointPolicy::every_nth: return {.mode = mode, .every = plan.checkpoint_every, .offload_inputs = offloads};
    case CheckpointPolicy::selective_attention: return {};
    case CheckpointPolicy::blocks: break;
  }
  if (plan.recomputed_blocks == 0) return {};
  return {.mode = mode, .offload_inputs = offloads, .first_blocks = plan.recomputed_blocks};
}

eager::TitanCheckpoint titan_checkpoint_of(const Question& question) {
  using Mode = eager::TitanCheckpoint::Mode;
  switch (question.plan.checkpoint_policy) {
    case CheckpointPolicy::selective_op: return {.mode = Mode::selective_op};
    case CheckpointPolicy::every_nth: return {.mode = Mode::every_blocks, .block_frequency = question.plan.checkpoint_every};
    case CheckpointPolicy::blocks:
    case CheckpointPolicy::selective_attention: break;
  }
  return {.mode = question.plan.recomputed_blocks > 0 ? Mode::full : Mode::none};
}

/// torchtitan compiled the loss with the blocks from October (#551, e10cb9494) to December 2024 (e8977b007), and again since #1033 (bbb1b616e).
bool compiles_loss(const Question& question) {
  constexpr TorchChange kFirst{6, 20241022}, kLeft{6, 20241218}, kAgain{8, 20250402};
  const std::string& torch = question.plan.torch;
  const bool by_default = !is_before(torch, kAgain) || (!is_before(torch, kFirst) && is_before(torch, kLeft));
  return question.plan.compile && !question.job.logits_fp32.value_or(!by_default);
}

eager::TitanTraining titan_training_of(const Question& question) {
  return {.checkpoint = titan_checkpoint_of(question),
          .keeps_fp32_logits = is_before(question.plan.torch, kTorchtitanDropsLogits),
          .compiled = question.plan.compile,
          .compiled_loss = compiles_loss(question)};
}

bool has_fused_rms_norm(const Question& question) {
  const std::string& torch = question.plan.torch;
  const bool has_triton_norm = runs_torchtitan(question) && question.job.model.hidden_size <= 5120 && !is_before(torch, kTritonNorm) &&
                               is_before(torch, question.job.model.vocab_size > 100'000 ? kNoTritonNormInLlama3 : kNoTritonNormInLlama2);
  return has_triton_norm || !is_before(torch, kFusedRmsNorm);
}

/// Tools that adapters of drop some of their input by default: ms-swift and litgpt 0.05 (lora_dropout of their arguments), llama-recipes 0.05 (configs/peft.py), xtuner (its configs) and
/// fsdp_qlora (train.py) 0.1. peft's own default is none.
bool drops_in_adapters(const Plan& plan) {
  constexpr std::array<std::string_view, 5> kDropping{"ms-swift", "litgpt", "llama-recipes", "xtuner", "fsdp_qlora"};
  return std::find(kDropping.begin(), kDropping.end(), plan.tool) != kDropping.end();
}

eager::LoraConfig lora_of(const Asked& asked) {
  const Question& question = asked.question;
  if (!question.job.lora || model_of({.question = question}).family != eager::HfConfig::Family::llama) return {};
  const ScalarType type = scalar_type(question.parameters_dtype());
  return {.rank = question.job.lora->rank, .targets = question.job.lora->targets, .type = type == base_type(question) ? std::nullopt : std::optional(type),
          .dropout = !asked.oracle && drops_in_adapters(question.plan)};
}

eager::OptimizerRule rule_of(const Question& question) {
  using Rule = eager::OptimizerRule;
  switch (question.job.optimizer) {
    case Optimizer::sgd: return Rule::sgd;
    case Optimizer::momentum: return Rule::momentum;
    case Optimizer::adafactor: return Rule::adafactor;
    case Optimizer::lion: return Rule::lion;
    case Optimizer::adamw_8bit: return Rule::adamw_8bit;
    case Optimizer::paged_adamw_8bit: return Rule::paged_adamw_8bit;
    case Optimizer::adamw:
    case Optimizer::adam:
    case Optimizer::muon: break;
  }
  return Rule::adamw;
}

/// A dtype that the DeepSpeed JSON states, or one that the question has otherwise than the parameters'.
std::optional<ScalarType> stated(const std::optional<Dtype>& said, Dtype asked, Dtype implied) {
  if (said) return scalar_type(*said);
  if (asked != implied) return scalar_type(asked);
  return std::nullopt;
}

// ---- jobs ----

eager::SingleJob single_job(const Asked& asked) {
  const Question& q = asked.question;
  return {.model = model_of(asked),
          .size = size_of(asked),
          .checkpoint = checkpoint_of(q),
          .compute_type = scalar_type(q.job.compute_dtype),
          .kernel = kernel_of(q),
          .rule = rule_of(q),
          .fp32_masters = q.has_master(),
          .lora = lora_of(asked),
          .optimizer_in_backward = q.plan.preset.find("optimizer-in-backward") != std::string::npos};
}

/// Tools on Accelerate and Lightning reduce gradients at the last micro batch of a step only.
bool skips_reductions(const Plan& plan) {
  constexpr std::array<std::string_view, 5> kNoSync{"accelerate", "hf-trainer", "llamafactory", "ms-swift", "litgpt"};
  return std::find(kNoSync.begin(), kNoSync.end(), plan.tool) != kNoSync.end();
}

eager::DdpJob ddp_job(const Asked& asked) {
  const Question& q = asked.question;
  eager::DdpJob job;
  job.model = model_of(asked);
  job.world_ranks = q.cluster.world_size();
  job.size = size_of(asked);
  job.no_sync = skips_reductions(q.plan);
  job.checkpoint = checkpoint_of(q);
  job.compute_type = scalar_type(q.job.compute_dtype);
  job.kernel = kernel_of(q);
  job.rule = rule_of(q);
  job.fp32_masters = q.has_master();
  job.lora = lora_of(asked);
  return job;
}

eager::ShardingStrategy strategy_of(const Question& question) {
  using Strategy = eager::ShardingStrategy;
  const bool hybrid = question.shard_group() < question.cluster.world_size();
  if (question.plan.stage == 2) return hybrid ? Strategy::hybrid_shard_zero2 : Strategy::shard_grad_op;
  if (question.plan.stage < 2) return Strategy::no_shard;
  return hybrid ? Strategy::hybrid_shard : Strategy::full_shard;
}

/// Accelerate's fsdp_use_orig_params was false until late November 2023 (huggingface/accelerate#2177). Adapters that are wrapped alone do without.
bool uses_orig_params(const Question& question, bool wraps_adapters) {
  constexpr TorchChange kAccelerateUsesOrigParams{2, 20231124};
  const std::string& tool = question.plan.tool;
  if ((tool == "hf-trainer" || tool == "accelerate") && is_before(question.plan.torch, kAccelerateUsesOrigParams)) return false;
  return !question.job.lora || !wraps_adapters;
}

eager::Fsdp1Job fsdp1_job(const Asked& asked) {
  const Question& q = asked.question;
  eager::Fsdp1Job job;
  job.model = model_of(asked);
  job.world_ranks = q.cluster.world_size();
  if (q.shard_group() < job.world_ranks) job.shard_group_ranks = q.shard_group();
  job.size = size_of(asked);
  job.strategy = strategy_of(q);
  job.param_type = scalar_type(q.job.compute_dtype);
  job.reduce_type = scalar_type(q.reduce_dtype());
  job.cpu_offload = q.plan.offload_parameters == Offload::cpu;
  job.no_sync = skips_reductions(q.plan);
  job.checkpoint = checkpoint_of(q, false);
  job.kernel = kernel_of(q);
  job.rule = rule_of(q);
  job.fp32_masters = q.has_master();
  job.lora = lora_of(asked);
  job.wraps_adapters = q.plan.tool != "litgpt";
  job.use_orig_params = uses_orig_params(q, job.wraps_adapters);
  // torch.optim takes foreach of itself only for tensors and Parameters, and a FlatParameter is neither (torch/optim/optimizer.py, _default_to_fused_or_foreach).
  if (!job.use_orig_params && !job.fp32_masters && q.plan.optimizer_kernel == OptimizerKernel::foreach) job.kernel = eager::OptimizerKernel::for_loop;
  job.made_on_meta = !asked.oracle;
  return job;
}

eager::Reshard reshard_of(const Plan& plan) {
  if (plan.reshard == Reshard::always) return eager::Reshard::always;
  return plan.reshard == Reshard::never || plan.stage == 2 ? eager::Reshard::never : eager::Reshard::by_default;
}

eager::Fsdp2Job fsdp2_job(const Asked& asked) {
  const Question& q = asked.question;
  const bool titan = runs_torchtitan(q);
  return {.tool = titan ? eager::Fsdp2Job::Tool::torchtitan : eager::Fsdp2Job::Tool::transformers,
          .model = model_of(asked),
          .world_ranks = q.cluster.world_size(),
          .shard_group_ranks = q.shard_group(),
          .size = size_of(asked),
          .reshard = reshard_of(q.plan),
          .checkpoint = checkpoint_of(q, false),
          .titan = titan_training_of(q),
          .compute_type = scalar_type(q.job.compute_dtype),
          .reduce_type = scalar_type(q.reduce_dtype()),
          .kernel = kernel_of(q),
          .rule = rule_of(q),
          .fp32_masters = q.has_master(),
          .lora = titan ? eager::LoraConfig{} : lora_of(asked),
          .cpu_offload = q.plan.offload_parameters == Offload::cpu,
          .root_has_ends = is_before(q.plan.torch, kTorchtitanShardsEnds),
          .made_on_meta = !asked.oracle};
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

/// Stage 0 with a master copy is stage 1 on one rank: nothing is sharded, everything else is the same.
eager::Zero12Job zero12_job(const Asked& asked) {
  const Question& q = asked.question;
  const bool whole = q.plan.stage == 0;
  return {.model = model_of(asked),
          .lora = lora_of(asked),
          .stage = whole ? 1 : static_cast<int>(q.plan.stage),
          .world_ranks = whole ? 1 : q.cluster.world_size(),
          .size = size_of(asked),
          .checkpoint = checkpoint_of(q),
          .kernel = kernel_of(q),
          .offload_optimizer = q.plan.offload_optimizer == Offload::cpu,
          .zero = zero12_options(q),
          .gpu_bytes = q.cluster.device.capacity_bytes.value()};
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

/// Tools that load models with transformers' DeepSpeed integration (HfDeepSpeedConfig): from_pretrained makes them under zero.Init.
bool loads_in_shards(const Plan& plan) {
  constexpr std::array<std::string_view, 6> kOnTransformers{"accelerate", "arctic-training", "hf-trainer", "llamafactory", "ms-swift", "xtuner"};
  return std::find(kOnTransformers.begin(), kOnTransformers.end(), plan.tool) != kOnTransformers.end();
}

eager::Zero3Job zero3_job(const Asked& asked) {
  const Question& question = asked.question;
  const DeepSpeedOptions& o = question.plan.deepspeed;
  eager::Zero3Job job{.model = model_of(asked),
                      .ranks = question.shard_group(),
                      .size = size_of(asked),
                      .checkpoint = checkpoint_of(question),
                      .kernel = kernel_of(question),
                      .lora = lora_of(asked),
                      .zero_init = question.plan.zero_init || (!asked.oracle && loads_in_shards(question.plan)),
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
  constexpr std::array<std::string_view, 3> kOthers{"arctic-training", "llm-foundry", ""};  // and torchtitan, on FSDP2
  return runs_transformers(question.plan) || (runs_torchtitan(question) && emulated_engine(question) == Emulated::fsdp2) || std::find(kOthers.begin(), kOthers.end(), question.plan.tool) != kOthers.end();
}

bool optimizer_is_gap(Optimizer optimizer, bool zero) {
  if (optimizer == Optimizer::adamw || optimizer == Optimizer::adam) return false;
  return zero || optimizer == Optimizer::muon;
}

bool is_8bit(Optimizer optimizer) { return optimizer == Optimizer::adamw_8bit || optimizer == Optimizer::paged_adamw_8bit; }

bool recomputes(const Question& question) { return question.plan.checkpoint_policy != CheckpointPolicy::blocks || question.plan.recomputed_blocks > 0; }

bool has_gap_in_checkpointing(const Question& question) {
  const Plan& plan = question.plan;
  if (plan.checkpoint_policy == CheckpointPolicy::selective_attention) return true;
  const bool partly = plan.checkpoint_policy == CheckpointPolicy::blocks && plan.recomputed_blocks > 0 && plan.recomputed_blocks < question.job.model.num_layers;
  return partly && plan.tool.starts_with("torchtitan");
}

bool is_zero(Emulated emulated) { return emulated == Emulated::zero12 || emulated == Emulated::zero3; }

void note_gaps_in_training(const Question& question, const eager::HfConfig& model, Gaps& gaps) {
  const Job& job = question.job;
  if (!job.lora) return;
  const bool adapts = model.family == eager::HfConfig::Family::llama && !runs_torchtitan(question);
  gaps.note_if(!adapts, "train", "as full training");
  gaps.note_if(adapts && (job.lora->base_dtype == BaseDtype::int8 || (job.lora->base_dtype == BaseDtype::nf4 && !model.four_bit)), "train", "with a base in 16 bits");
}

void note_gaps_in_job(const Question& question, Gaps& gaps) {
  const eager::HfConfig model = model_of({.question = question});
  const Job& job = question.job;
  const bool zero = is_zero(emulated_engine(question));
  const bool exchanges = model.sequence_ranks > 1;
  gaps.note_if(job.sequence_parallel > 1 && !exchanges, "sequence_parallel", "as sequences of seq / sequence_parallel tokens, attention's exchange left out");
  gaps.note_if(job.sequence_parallel > 1 && exchanges && question.plan.tool == "easycontext", "sequence_parallel", "ring attention as Ulysses");
  gaps.note_if(optimizer_is_gap(job.optimizer, zero), "optimizer", "as adamw");
  gaps.note_if(job.optimizer == Optimizer::paged_adamw_8bit && !zero, "optimizer", "with pages on the host");
  gaps.note_if(job.optimizer_dtype != question.parameters_dtype() && job.optimizer_dtype != Dtype::fp32 && !is_8bit(job.optimizer), "optimizer_dtype", "as fp32");
  note_gaps_in_training(question, model, gaps);
}

void note_gaps_in_plan(const Question& question, Gaps& gaps) {
  const Plan& plan = question.plan;
  gaps.note_if(plan.engine == Engine::other, "engine", fmt::format("as DeepSpeed at stage {}", plan.stage));
  gaps.note_if(plan.engine == Engine::deepspeed && plan.stage == 0, "engine", "as ZeRO 1 on one rank");
  gaps.note_if(!tool_is_emulated(question), "tool", "with transformers' model code");
  gaps.note_if(has_gap_in_checkpointing(question), "checkpoint", plan.recomputed_blocks > 0 ? "as full" : "as none");
  const bool keeps_as_compiled = runs_torchtitan(question) && plan.engine == Engine::fsdp2 && recomputes(question);
  gaps.note_if(plan.compile && !keeps_as_compiled, "compile", "as eager PyTorch where memory is asked for");
  gaps.note_if(plan.fp8, "fp8", "in the compute dtype where memory is asked for");
}

/// FSDP's CPU offload takes parameters and optimizer together; only what is recomputed has inputs to move.
void note_gaps_in_offload(const Question& question, Gaps& gaps) {
  const Plan& plan = question.plan;
  const Emulated emulated = emulated_engine(question);
  const bool moves_checkpoints = recomputes(question) && !runs_torchtitan(question);
  gaps.note_if(plan.offload_activations == Offload::nvme || (plan.offload_activations == Offload::cpu && !moves_checkpoints), "offload_activations", "kept on the device");
  gaps.note_if(plan.offload_optimizer == Offload::nvme, "offload_optimizer", "kept on the device");
  gaps.note_if(plan.offload_parameters == Offload::nvme, "offload_parameters", "kept on the device");
  gaps.note_if(plan.offload_optimizer_ratio < 1 && plan.offload_optimizer != Offload::none, "offload_optimizer_ratio", "as 1");
  if (is_zero(emulated)) return;
  const bool offloads_all = plan.offload_parameters == Offload::cpu && emulated != Emulated::single && emulated != Emulated::ddp;
  gaps.note_if(!offloads_all && (plan.offload_optimizer == Offload::cpu || plan.offload_parameters == Offload::cpu), "offload_optimizer", "kept on the device");
}

}  // namespace

bool checkpoints_reentrant(const Plan& plan) {
  constexpr std::array<std::string_view, 8> kReentrant{"xtuner", "hf-trainer", "llamafactory", "ms-swift", "arctic-training", "megatron-deepspeed", "accelerate", "flagperf"};
  return plan.checkpoint_reentrant.value_or(std::find(kReentrant.begin(), kReentrant.end(), plan.tool) != kReentrant.end());
}

eager::StepConditions step_conditions(const Question& question) {
  using Attention = eager::StepConditions::Attention;
  eager::StepConditions conditions{.fp16 = question.job.compute_dtype == Dtype::fp16, .tf32 = question.job.tf32, .fp8 = question.plan.fp8, .compiled = question.plan.compile};
  if (question.job.sequence_parallel > 1) conditions.sequence_parallel = question.job.sequence_parallel / model_of({.question = question}).sequence_ranks;
  switch (question.plan.attention) {
    case AttentionKernel::flash:
      if (question.plan.tool == "llm-foundry" && is_before(question.plan.torch, kFoundryLeavesTriton)) conditions.attention = Attention::flash_1;
      break;
    case AttentionKernel::efficient: conditions.attention = Attention::efficient; break;
    case AttentionKernel::cudnn: conditions.attention = Attention::cudnn; break;
    case AttentionKernel::eager: break;
  }
  return conditions;
}

std::vector<EmulationGap> emulation_gaps(const Question& question) {
  Gaps gaps;
  note_gaps_in_job(question, gaps);
  note_gaps_in_plan(question, gaps);
  note_gaps_in_offload(question, gaps);
  return gaps.take();
}

eager::PhasePeaks emulate(const Question& question, eager::Recorder& recorder, EmulatedDevice device, int steps) {
  const bool oracle = device == EmulatedDevice::oracle;
  eager::MachineBehaviour machine = oracle ? eager::kSimulatedAccelerator : eager::kGpu;
  machine.fused_rms_norm = !oracle && has_fused_rms_norm(question);
  const Asked asked{.question = question, .steps = steps, .oracle = oracle};
  switch (emulated_engine(question)) {
    case Emulated::single: return eager::run_single(single_job(asked), recorder, oracle ? eager::kFakeCpu : machine);
    case Emulated::ddp: return eager::run_ddp(ddp_job(asked), recorder, oracle ? eager::kFakeCpu : machine);
    case Emulated::fsdp1: return eager::run_fsdp1(fsdp1_job(asked), recorder, machine);
    case Emulated::fsdp2: return eager::run_fsdp2(fsdp2_job(asked), recorder, machine);
    case Emulated::zero12: return eager::run_zero12(zero12_job(asked), recorder, machine);
    case Emulated::zero3: return eager::run_zero3(zero3_job(asked), recorder, machine);
  }
  return {};
}

}  // namespace zeroplan
