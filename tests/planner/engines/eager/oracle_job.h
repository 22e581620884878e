// Parts of an oracle row's question (tests/data/engine_oracle_*.json) that jobs of the emulated engines share.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "planner/core/plan.h"
#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/optimizers.h"
#include "planner/engines/eager/training_loop.h"

namespace zeroplan::eager {

inline ScalarType scalar_type_of(const std::string& name) {
  return name == "bf16" ? ScalarType::bf16 : name == "fp16" ? ScalarType::fp16 : ScalarType::fp32;
}

inline HfConfig model_of(const nlohmann::json& question) {
  nlohmann::json plain = {{"model", question["model"]}, {"gpu", "unknown"}, {"nodes", 1}, {"gpus_per_node", 1}, {"engine", "single"}, {"tool", "transformers"}, {"train", "full"}, {"seq", question["seq"]}};
  plain["model"].erase("name");
  const nlohmann::json row = {{"id", "model"}, {"question", plain}, {"measured", nlohmann::json::object()}};
  return hf_config(rows_from_json(nlohmann::json::array({row}), "oracle row")[0].question.job.model, scalar_type_of(question["parameters_dtype"]), question["seq"]);
}

inline TrainingSize size_of(const nlohmann::json& question) {
  return {.seq_tokens = question["seq"], .micro_batch = question["micro_batch"], .accumulate = question["accumulate"]};
}

inline OptimizerKernel kernel_of(const nlohmann::json& question) {
  const std::string kernel = question["optimizer_kernel"];
  return kernel == "foreach" ? OptimizerKernel::foreach : kernel == "fused" ? OptimizerKernel::fused : OptimizerKernel::for_loop;
}

/// "none", "full" or "every-2".
inline BlockCheckpoints checkpoints_of(const nlohmann::json& question) {
  const std::string checkpoint = question["checkpoint"];
  BlockCheckpoints out;
  if (checkpoint == "none") return out;
  out.mode = question.value("checkpoint_reentrant", false) ? CheckpointMode::reentrant : CheckpointMode::non_reentrant;
  if (checkpoint.starts_with("every-")) out.every = std::stoll(checkpoint.substr(6));
  return out;
}

}  // namespace zeroplan::eager
