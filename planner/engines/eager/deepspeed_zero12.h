// DeepSpeed 0.19.8, ZeRO stages 1 and 2 (deepspeed/runtime/zero/stage_1_and_2.py, runtime/bf16_optimizer.py, runtime/engine.py) on the emulated framework:
// what rank 0 of a job asks of memory, device and host apart. transformers models, torch.optim.AdamW, one parameter group.
//
// Terms, as in DeepSpeed. Flat buffer: all trained parameters in one tensor, padded to a multiple of 2 × world; the parameters are views of it. Partition: one rank's part
// of it, kept by that rank in fp32 as well (the master copy, which the optimizer updates). IPG bucket: gradients wait in a flat buffer of reduce_bucket_size elements
// (two with overlap_comm) until it is full, then they are reduced together. grads_in_partition: the reduced gradients of every parameter that touches this rank's partition,
// in the dtype of the parameters; made anew in each backward and, with stage 2, one more lives while micro batches are accumulated.
// Compact gradient partition: fp32 accumulation of 16-bit gradients keeps one fp32 partition instead. BF16_Optimizer: what DeepSpeed takes for bf16 with fp32
// accumulation at stage 1 without offload; it keeps an fp32 gradient of the whole model.
//
// Streams are inert: memory that waits for an event on a real device is released at once. Loss scales never overflow, so no step is skipped.
// Not here: torch_autocast, several parameter groups, mixtures of experts, ZenFlow, Muon, DeepSpeed's own CPU Adam, NVMe.
#pragma once

#include <cstdint>
#include <optional>

#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/optimizers.h"
#include "planner/engines/eager/training_loop.h"

namespace zeroplan::eager {

/// Keys of the DeepSpeed JSON, under their own names, with its defaults.
struct Zero12Options {
  std::int64_t reduce_bucket_size = 500'000'000;  ///< elements
  bool overlap_comm = false;
  bool contiguous_gradients = true;
  bool reduce_scatter = true;
  bool use_multi_rank_bucket_allreduce = true;
  bool round_robin_gradients = false;
  bool parameter_alignment = false;
  bool compute_grad_norm = true;                      ///< false needs gradient_clipping 0 and no offload
  std::optional<ScalarType> grad_accum_dtype;         ///< data_types; unsaid: the parameters' dtype
  std::optional<ScalarType> communication_data_type;  ///< unsaid: the parameters' dtype
  bool immediate_grad_update = false;                 ///< bf16; BF16_Optimizer only
  bool bf16_master_weights_and_grads = false;         ///< bf16; needs bf16_optimizer_states or offload
  double gradient_clipping = 1.0;                     ///< 0: none
};

struct Zero12Job {
  HfConfig model;   ///< model.type: dtype of the parameters; bf16 and fp16 switch on the JSON's "bf16" and "fp16"
  LoraConfig lora;  ///< rank 0: full training
  int stage = 2;    ///< 1 or 2
  std::int64_t world_ranks = 1;
  TrainingSize size;
  BlockCheckpoints checkpoint;
  OptimizerKernel kernel = OptimizerKernel::foreach;
  bool offload_optimizer = false;  ///< to pinned or plain host memory: the same bytes
  Zero12Options zero;
  std::int64_t gpu_bytes = std::int64_t{80} << 30;  ///< what DeepSpeed sees where it asks for free memory: decides whether parameters are flattened on the host
};

/// Runs the job, reporting to `recorder`. Requested bytes of rank 0.
PhasePeaks run_zero12(const Zero12Job& job, Recorder& recorder, const MachineBehaviour& machine = kSimulatedAccelerator);

}  // namespace zeroplan::eager
