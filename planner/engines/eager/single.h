// Plain PyTorch on one device: model, optional autocast, clip, AdamW. The simplest engine on the emulated framework, and the example for the others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/optimizers.h"
#include "planner/engines/eager/training_loop.h"

namespace zeroplan::eager {

struct SingleJob {
  HfConfig model;  ///< model.type: dtype of the stored parameters
  TrainingSize size;
  BlockCheckpoints checkpoint;
  ScalarType compute_type = ScalarType::bf16;  ///< autocast to it where the trained parameters are fp32
  OptimizerKernel kernel = OptimizerKernel::foreach;
  OptimizerRule rule = OptimizerRule::adamw;
  bool fp32_masters = false;  ///< AdamW
  LoraConfig lora;  ///< rank 0: full training
  bool optimizer_in_backward = false;  ///< each gradient is stepped with and dropped as soon as it is there (torchtune's optimizer_in_bwd); accumulate is 1, no norm is clipped
};

/// Runs the job, reporting to `recorder`.
PhasePeaks run_single(const SingleJob& job, Recorder& recorder, const MachineBehaviour& machine = kFakeCpu);

}  // namespace zeroplan::eager
