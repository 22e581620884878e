// FSDP2 (torch 2.11, torch/distributed/fsdp/_fully_shard) on the emulated framework: what rank 0 of a job asks of memory. Two tools configure it:
// transformers (each decoder block and the root wrapped, blocks in checkpoint_wrapper) and torchtitan 0.2.2 (apply_ac, apply_fsdp; its own Llama, titan_llama.h).
//
// Terms, as in _fsdp_param.py. Sharded parameter: this rank's rows of a parameter, padded so that every rank has the same number. All-gather input: the group's shards
// cast into one flat buffer. All-gather output: the whole group in rank order, copied out into one storage a parameter (the unsharded parameter, which autograd saves;
// it is freed by resizing its storage to nothing). Group: the parameters of one fully_shard call; they travel together.
//
// What outlives what, in forward: a group's all-gather output is kept until the next group's was copied out, or the root's forward ends. In backward: the next group is gathered
// before a group's backward begins (prefetch); a reduce-scatter input is kept until the next one is made; the gradients are views of the reduce-scatter output
// (or of its cast to the parameters' dtype) until zero_grad, or are added to the ones of earlier micro batches.
// Streams wait for each other as in torch, for time (work.h); memory that waits for an event there is released at once here. Frozen parameters (LoRA) are sharded and gathered as others are,
// without gradients and optimizer states. With CPU offload shards, reduced gradients and the optimizer are the host's: a shard is copied to the device before its all-gather.
// Not here: reshard to a number of ranks, float8, compile.
#pragma once

#include <cstdint>

#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/optimizers.h"
#include "planner/engines/eager/titan_llama.h"
#include "planner/engines/eager/training_loop.h"

namespace zeroplan::eager {

/// reshard_after_forward. by_default: every group but the last one used (transformers: the root; torchtitan: norm and output).
enum class Reshard : std::uint8_t { by_default, always, never };

struct Fsdp2Job {
  enum class Tool : std::uint8_t { transformers, torchtitan } tool = Tool::transformers;
  HfConfig model;  ///< model.type: dtype of the sharded parameters. torchtitan takes the sizes only and unties the head
  std::int64_t world_ranks = 1;
  std::int64_t shard_group_ranks = 1;  ///< divides world_ranks; fewer: HSDP, gradients are all-reduced across the copies
  TrainingSize size;  ///< every micro batch reduces its gradients
  Reshard reshard = Reshard::by_default;
  BlockCheckpoints checkpoint;        ///< transformers; by checkpoint_wrapper, so never re-entrant
  TitanTraining titan;       ///< torchtitan
  ScalarType compute_type = ScalarType::bf16;
  ScalarType reduce_type = ScalarType::fp32;
  OptimizerKernel kernel = OptimizerKernel::foreach;
  OptimizerRule rule = OptimizerRule::adamw;
  bool fp32_masters = false;  ///< AdamW
  LoraConfig lora;           ///< transformers; rank 0: full training
  bool cpu_offload = false;  ///< CPUOffloadPolicy
  bool root_has_ends = false;  ///< torchtitan before 2025-07-28: embedding, last norm and head are in one group, the root's
  bool made_on_meta = false;  ///< the model is made without memory and gets its shards afterwards (torchtitan, Accelerate's RAM-efficient loading); else whole on every GPU first
};

/// Runs the job (clip_grad_norm_, AdamW, zero_grad), reporting to `recorder`. Requested bytes of rank 0.
PhasePeaks run_fsdp2(const Fsdp2Job& job, Recorder& recorder, const MachineBehaviour& machine = kSimulatedAccelerator);

}  // namespace zeroplan::eager
