// Plain PyTorch on one device: model, optional autocast, clip, AdamW. The simplest engine on the emulated framework, and the example for the others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/optimizers.h"

namespace zeroplan::eager {

struct SingleJob {
  HfConfig model;  ///< model.type: dtype of the stored parameters
  std::int64_t seq_tokens = 0;
  std::int64_t micro_batch = 1;
  std::int64_t accumulate = 1;
  int steps = 3;
  CheckpointMode checkpoint = CheckpointMode::none;
  ScalarType compute_type = ScalarType::bf16;  ///< autocast to it where the parameters are fp32
  OptimizerKernel kernel = OptimizerKernel::foreach;
  LoraConfig lora;  ///< rank 0: full training
};

/// How the emulated machine behaves. The defaults are those of the oracle (fake tensors on one CPU device); a GPU: {false, false, Place::host}.
struct MachineBehaviour {
  bool out_of_place_accumulation = true;
  bool layer_norm_keeps_input_type = true;
  Place host = Place::device;
};

/// Requested bytes. Phases as Recorder::begin_phase names them: init, first.forward … steady.step (of the last step).
struct PhasePeaks {
  std::vector<PhasePeak> phases;
  std::int64_t after_init_bytes = 0;
  std::int64_t between_steps_bytes = 0;

  std::int64_t peak_bytes(const std::string& phase, Place place = Place::device) const;
};

/// Runs `steps` optimizer steps of the job, reporting to `recorder`.
PhasePeaks run_single(const SingleJob& job, Recorder& recorder, const MachineBehaviour& machine = {});

}  // namespace zeroplan::eager
