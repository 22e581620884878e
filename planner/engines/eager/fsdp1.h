// FSDP1 (torch 2.11, torch.distributed.fsdp.FullyShardedDataParallel) on the emulated framework: what rank 0 of a job asks of memory. Wrapped as HF Trainer, accelerate
// and llm-foundry do: one FlatParameter for every decoder block and one for what is left (the root); checkpoints lie inside the wrapped blocks. With LoRA each adapter matrix
// is a unit of its own inside its block (peft's fsdp_auto_wrap_policy, llama-recipes, torchtune, fsdp_qlora), so that the block's flat parameter is frozen: it has no gradient and is
// resharded when the gradient of its input is there. Without wraps_adapters a flat parameter holds both kinds, and its gradient covers them all.
//
// Terms, as in _flat_param.py. Flat parameter: the parameters of a unit in one 1-D tensor, each padded to 16 bytes and the whole to the ranks (use_orig_params), cut into
// equal shards. Local shard: this rank's piece in the stored dtype. Low precision shard: its cast, alive until the all-gather has read it. Padded unsharded flat parameter:
// the all-gather's destination; modules compute with views of it (so autograd joins their gradients: split's backward is a cat); it is freed by resizing its storage.
//
// What outlives what, in backward: a unit's unsharded gradients live one by one until the cat; the cat's result until its reduce-scatter was issued, beside its cast to
// reduce_dtype and the sharded result. The root is gathered from its forward to its backward. Sharded gradients outlive zero_grad: they die when the next forward begins.
// The streams' pools: low precision shards Stream::h2d (FSDP's pre-unshard stream), unsharded parameters and gradients Stream::gather (autograd runs split's backward on the
// stream where the views were made: the unshard stream), what is reduced Stream::reduce (the post-backward stream; HSDP's all-reduce stream is counted as it too).
// Frees that wait for an event are done at once. Not here: FSDP's limit on gathers in flight (a replay's frees_wait: 2), buffers' dtype, communication hooks.
#pragma once

#include <cstdint>
#include <optional>

#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/optimizers.h"
#include "planner/engines/eager/training_loop.h"

namespace zeroplan::eager {

/// The hybrid ones shard within a group and copy across groups.
enum class ShardingStrategy : std::uint8_t { full_shard, shard_grad_op, no_shard, hybrid_shard, hybrid_shard_zero2 };
/// When the next unit in backward is gathered: before this one's backward, after it, or when it is needed.
enum class BackwardPrefetch : std::uint8_t { pre, post, none };

struct Fsdp1Job {
  HfConfig model;  ///< model.type: dtype of the local shards
  std::int64_t world_ranks = 1;
  std::optional<std::int64_t> shard_group_ranks;  ///< hybrid strategies: divides world_ranks
  TrainingSize size;
  ShardingStrategy strategy = ShardingStrategy::full_shard;
  std::optional<ScalarType> param_type = ScalarType::bf16;  ///< MixedPrecision.param_dtype; none: as stored
  std::optional<ScalarType> reduce_type;                    ///< MixedPrecision.reduce_dtype; none: as param_type
  bool keep_low_precision_grads = false;  ///< gradients are left in param_type. torch's AdamW refuses them for parameters of another dtype
  bool use_orig_params = true;
  BackwardPrefetch backward_prefetch = BackwardPrefetch::pre;
  bool forward_prefetch = false;
  bool cpu_offload = false;  ///< CPUOffload(offload_params=True): shards, gradients and optimizer on the host
  bool no_sync = false;      ///< unsharded gradients pile up until the last micro batch of a step; else every micro batch reduces
  BlockCheckpoints checkpoint;
  std::optional<ScalarType> autocast_type;  ///< forward under torch.autocast
  OptimizerKernel kernel = OptimizerKernel::foreach;
  OptimizerRule rule = OptimizerRule::adamw;
  bool fp32_masters = false;  ///< AdamW
  LoraConfig lora;  ///< rank 0: full training
  bool wraps_adapters = true;
  /// The model is made on the meta device or the host, and each unit comes to the device when it is wrapped (param_init_fn; device_id with sync_module_states); else whole on every GPU first.
  bool made_on_meta = false;
};

/// Runs the job (FSDP.clip_grad_norm_, AdamW, zero_grad), reporting to `recorder`. Requested bytes of rank 0.
PhasePeaks run_fsdp1(const Fsdp1Job& job, Recorder& recorder, const MachineBehaviour& machine = kSimulatedAccelerator);

}  // namespace zeroplan::eager
