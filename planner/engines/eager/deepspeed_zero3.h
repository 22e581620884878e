// DeepSpeed ZeRO stage 3 (0.19.8; 0.16.4 where it differs) on the emulated framework: what rank 0 of a job asks of memory, device and host.
// Mirrors deepspeed/runtime/engine.py and zero/stage3.py; the parameters' side is in deepspeed_zero3_params.h, _coordinator.h and _hooks.h.
//
// What lives where. lp_param_buffer: this rank's partitions of all trained parameters in the model's dtype, one flat tensor. fp32 partitions: the master copy, one flat tensor
// per sub-group (a run of parameters of at least sub_group_size elements a rank); the optimizer steps one sub-group at a time, so its temporaries are a sub-group's.
// IPG bucket: full gradients are copied into it as they appear; when the next one no longer fits, all are concatenated rank by rank (one more copy),
// reduce-scattered, and this rank's parts go into grad_partitions_flat_buffer. A gradient larger than the bucket stays where it is until then.
// Offloaded optimizer: master copy, its gradients, moments and grad_partitions_flat_buffer are host tensors; gradients pass through the device one parameter at a time.
// Offloaded parameters: partitions are host tensors too, and every gather copies this rank's part to the device first.
//
// Streams are inert: memory that waits for an event on a real device is released at once. Not here: NVMe, ZeRO++ (hpZ, quantised weights or gradients), partial offload,
// Muon, MoE, torch.autocast.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "planner/engines/eager/deepspeed_zero3_params.h"
#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/optimizers.h"
#include "planner/engines/eager/training_loop.h"

namespace zeroplan::eager {

struct Zero3Job {
  HfConfig model;  ///< model.type: dtype of the stored parameters (bf16, fp16, fp32)
  std::int64_t ranks = 1;
  TrainingSize size;
  BlockCheckpoints checkpoint;
  OptimizerKernel kernel = OptimizerKernel::foreach;
  LoraConfig lora;         ///< rank 0: full training
  bool zero_init = false;  ///< the model is made in shards; else whole on every rank first

  // zero_optimization of the DeepSpeed JSON
  Zero3Fetching fetching;
  std::int64_t reduce_bucket_elems = 500'000'000;
  std::int64_t sub_group_elems = 1'000'000'000;
  bool contiguous_gradients = true;
  bool reduce_scatter = true;
  bool memory_efficient_linear = true;
  bool offload_optimizer = false;
  bool offload_parameters = false;
  // its other keys
  std::optional<ScalarType> grad_accum_type = std::nullopt;     ///< data_types.grad_accum_dtype
  std::optional<ScalarType> communication_type = std::nullopt;  ///< communication_data_type
  bool clips_gradients = true;                   ///< gradient_clipping > 0

  std::string version = "0.19.8";
};

/// What a DeepSpeed release does, from its version: "0.16.4".
Zero3Behaviour zero3_behaviour(const std::string& version);

/// Runs the job, reporting to `recorder`. Requested bytes of rank 0.
PhasePeaks run_zero3(const Zero3Job& job, Recorder& recorder, const MachineBehaviour& machine = kSimulatedAccelerator);

}  // namespace zeroplan::eager
