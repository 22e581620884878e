#include "planner/engines/saving.h"

#include <algorithm>
#include <map>

namespace zeroplan {
namespace {

std::int64_t unit_elems(const Model& model, UnitKind unit) {
  std::int64_t sum = 0;
  for (const ModuleParameter& parameter : module_parameters(model, unit)) sum += parameter.elems();
  return sum;
}

/// Elements of the largest module, or with `alone` of the largest tensor. A tied head has none of its own.
std::int64_t largest_elems(const Model& model, bool alone) {
  std::int64_t largest = 0;
  for (const UnitKind unit : {UnitKind::embedding, UnitKind::block, UnitKind::head}) {
    std::map<ModuleId, std::int64_t> modules;
    for (const ModuleParameter& parameter : module_parameters(model, unit)) {
      std::int64_t& elems = modules[parameter.module];
      elems = alone ? std::max(elems, parameter.elems()) : elems + parameter.elems();
      largest = std::max(largest, elems);
    }
  }
  return largest;
}

/// Accelerate's and HF Trainer's FULL_STATE_DICT.
Saving saving_of_fsdp1(const Question& question) {
  const Model& model = question.job.model;
  const std::int64_t bytes = size_of(question.parameters_dtype());
  const std::int64_t root = unit_elems(model, UnitKind::embedding) + unit_elems(model, UnitKind::head);
  return {SaveKind::unit_gathered, Bytes(bytes * (root + unit_elems(model, UnitKind::block))), Bytes(bytes * parameter_elems(model))};
}

}  // namespace

std::string_view words_of(SaveKind kind) {
  switch (kind) {
    case SaveKind::module_gathered: return "the largest module gathered";
    case SaveKind::unit_gathered: return "the root and a block gathered";
    case SaveKind::tensor_gathered: return "the largest tensor gathered";
  }
  return "";
}

std::optional<Saving> saving_of(const Question& question) {
  const Plan& plan = question.plan;
  const Model& model = question.job.model;
  if (question.job.lora || question.cluster.world_size() == 1) return std::nullopt;  // adapters are small
  const std::int64_t bytes = size_of(question.parameters_dtype()), all_bytes = bytes * parameter_elems(model);
  switch (plan.engine) {
    case Engine::deepspeed:
      if (plan.stage < 3 || !plan.deepspeed.stage3_gather_16bit_weights_on_model_save) return std::nullopt;
      return Saving{SaveKind::module_gathered, Bytes(bytes * largest_elems(model, false)), Bytes(all_bytes)};
    case Engine::fsdp1: return saving_of_fsdp1(question);
    case Engine::fsdp2:
      if (plan.tool.starts_with("torchtitan")) return std::nullopt;
      return Saving{SaveKind::tensor_gathered, Bytes(bytes * largest_elems(model, true)), Bytes(all_bytes)};
    case Engine::zeroplan:
    case Engine::single:
    case Engine::ddp:
    case Engine::other: break;
  }
  return std::nullopt;
}

}  // namespace zeroplan
