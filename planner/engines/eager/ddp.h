// DistributedDataParallel (torch 2.11, torch/nn/parallel/distributed.py and its C++ Reducer, reducer.cpp) on the emulated framework: what a rank asks of memory.
//
// Terms, as in reducer.cpp. Bucket: one 1-D tensor for the gradients of some parameters, made with the Reducer and never freed. A gradient that was accumulated is copied
// into its bucket (divided by the ranks on the way); a full bucket is all-reduced in place; when backward ends the sums are copied back. So gradients live twice,
// unless gradient_as_bucket_view lets a parameter's .grad become a view of its bucket: then only the one that was just computed lives twice.
// At first all parameters are in one bucket; before the second forward the buckets are made again, in the order in which gradients came: first_bucket_bytes, then bucket_cap.
// When the Reducer is made the model is broadcast in flat pieces of up to 250 MiB.
// Not here: find_unused_parameters (its buckets stay as made first), DDP's own mixed precision, communication hooks, broadcast of buffers before each forward.
#pragma once

#include <cstdint>
#include <optional>

#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/optimizers.h"
#include "planner/engines/eager/training_loop.h"

namespace zeroplan::eager {

struct DdpJob {
  HfConfig model;  ///< model.type: dtype of the stored parameters
  std::int64_t world_ranks = 1;
  TrainingSize size;
  std::optional<std::int64_t> bucket_cap_bytes;  ///< none: 25 MiB, the first one 1 MiB
  bool gradient_as_bucket_view = false;
  bool static_graph = false;  ///< in the first step outputs are cloned and all gradients reduced at the end of backward
  bool no_sync = false;       ///< only the last micro batch of a step reduces; else every one does
  BlockCheckpoints checkpoint;
  ScalarType compute_type = ScalarType::bf16;  ///< autocast to it where the trained parameters are fp32
  OptimizerKernel kernel = OptimizerKernel::foreach;
  OptimizerRule rule = OptimizerRule::adamw;
  bool fp32_masters = false;  ///< AdamW
  LoraConfig lora;  ///< rank 0: full training
};

/// Runs the job (clip_grad_norm_, AdamW, zero_grad), reporting to `recorder`.
PhasePeaks run_ddp(const DdpJob& job, Recorder& recorder, const MachineBehaviour& machine = kFakeCpu);

}  // namespace zeroplan::eager
