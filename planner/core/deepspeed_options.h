// DeepSpeedOptions: the keys of a DeepSpeed JSON that change memory or time, with the defaults of DeepSpeed 0.19.8 (runtime/zero/config.py, offload_config.py,
// precision_config.py, constants.py). Its stage, batch sizes, clipping and offload devices have a home of their own in Job and Plan and are not repeated here.
// Sizes are in elements, as DeepSpeed counts them. kDeepSpeedIntegers and kDeepSpeedFlags are the one list of zero_optimization's keys.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "planner/core/dtype.h"

namespace zeroplan {

struct Question;

struct DeepSpeedOptions {
  // zero_optimization
  std::int64_t reduce_bucket_size = 500'000'000;
  std::int64_t allgather_bucket_size = 500'000'000;
  std::optional<bool> overlap_comm;  ///< unsaid: true at stage 3 only
  bool contiguous_gradients = true;
  bool reduce_scatter = true;
  bool use_multi_rank_bucket_allreduce = true;
  bool allgather_partitions = true;
  bool round_robin_gradients = false;
  bool ignore_unused_parameters = true;
  bool parameter_alignment = false;
  bool compute_grad_norm = true;
  bool memory_efficient_linear = true;
  std::int64_t sub_group_size = 1'000'000'000;
  std::int64_t stage3_prefetch_bucket_size = 50'000'000;
  std::int64_t stage3_param_persistence_threshold = 100'000;
  std::int64_t stage3_model_persistence_threshold = std::numeric_limits<std::int64_t>::max();
  std::int64_t stage3_max_live_parameters = 1'000'000'000;
  std::int64_t stage3_max_reuse_distance = 1'000'000'000;
  std::int64_t stage3_module_granularity_threshold = 0;
  bool stage3_allgather_sequential = false;
  bool stage3_use_all_reduce_for_fetch_params = false;
  bool stage3_gather_16bit_weights_on_model_save = false;
  bool offload_optimizer_pin_memory = true;
  bool offload_param_pin_memory = true;
  std::int64_t offload_param_max_in_cpu = 1'000'000'000;
  // top level
  std::optional<Dtype> grad_accum_dtype;        ///< data_types; unsaid: the dtype of the parameters
  std::optional<Dtype> communication_data_type; ///< unsaid: the dtype of the parameters
  Dtype seq_parallel_communication_data_type = Dtype::fp32;
  bool bf16_master_weights_and_grads = false;   ///< bf16: no fp32 master copy
  bool bf16_optimizer_states = false;
  bool immediate_grad_update = false;           ///< bf16, only where BF16_Optimizer is chosen
  bool torch_autocast = false;
  bool deepcompile = false;

  bool overlaps(std::int64_t stage) const { return overlap_comm.value_or(stage == 3); }
  friend bool operator==(const DeepSpeedOptions&, const DeepSpeedOptions&) = default;
};

/// A key of zero_optimization that is a count of elements. `hidden_rule`: what Hugging Face's "auto" makes of it.
enum class AutoRule : std::uint8_t { none, hidden_squared, nine_tenths_of_hidden_squared, ten_hidden };
struct DeepSpeedInteger {
  std::string_view key;
  std::int64_t DeepSpeedOptions::*field;
  bool stage3_only;
  std::int64_t least = 0;
  AutoRule auto_rule = AutoRule::none;
};
inline constexpr std::array<DeepSpeedInteger, 9> kDeepSpeedIntegers{{
    {"reduce_bucket_size", &DeepSpeedOptions::reduce_bucket_size, false, 1, AutoRule::hidden_squared},
    {"allgather_bucket_size", &DeepSpeedOptions::allgather_bucket_size, false},
    {"sub_group_size", &DeepSpeedOptions::sub_group_size, true},
    {"stage3_prefetch_bucket_size", &DeepSpeedOptions::stage3_prefetch_bucket_size, true, 0, AutoRule::nine_tenths_of_hidden_squared},
    {"stage3_param_persistence_threshold", &DeepSpeedOptions::stage3_param_persistence_threshold, true, 0, AutoRule::ten_hidden},
    {"stage3_model_persistence_threshold", &DeepSpeedOptions::stage3_model_persistence_threshold, true},
    {"stage3_max_live_parameters", &DeepSpeedOptions::stage3_max_live_parameters, true},
    {"stage3_max_reuse_distance", &DeepSpeedOptions::stage3_max_reuse_distance, true},
    {"stage3_module_granularity_threshold", &DeepSpeedOptions::stage3_module_granularity_threshold, true},
}};

struct DeepSpeedFlag {
  std::string_view key;
  bool DeepSpeedOptions::*field;
  bool stage3_only;
};
inline constexpr std::array<DeepSpeedFlag, 12> kDeepSpeedFlags{{
    {"contiguous_gradients", &DeepSpeedOptions::contiguous_gradients, false},
    {"reduce_scatter", &DeepSpeedOptions::reduce_scatter, false},
    {"use_multi_rank_bucket_allreduce", &DeepSpeedOptions::use_multi_rank_bucket_allreduce, false},
    {"allgather_partitions", &DeepSpeedOptions::allgather_partitions, false},
    {"round_robin_gradients", &DeepSpeedOptions::round_robin_gradients, false},
    {"ignore_unused_parameters", &DeepSpeedOptions::ignore_unused_parameters, false},
    {"parameter_alignment", &DeepSpeedOptions::parameter_alignment, false},
    {"compute_grad_norm", &DeepSpeedOptions::compute_grad_norm, false},
    {"memory_efficient_linear", &DeepSpeedOptions::memory_efficient_linear, false},
    {"stage3_allgather_sequential", &DeepSpeedOptions::stage3_allgather_sequential, true},
    {"stage3_use_all_reduce_for_fetch_params", &DeepSpeedOptions::stage3_use_all_reduce_for_fetch_params, true},
    {"stage3_gather_16bit_weights_on_model_save", &DeepSpeedOptions::stage3_gather_16bit_weights_on_model_save, true},
}};

/// What DeepSpeed does with a key without saying so.
enum class DeepSpeedNoteCode : std::uint8_t {
  unknown_key,        ///< a key it does not know and does not refuse (top level, optimizer.params, activation_checkpointing)
  auto_dropped,       ///< "auto" in zero_optimization: dropped, the default is used
  auto_resolved,      ///< "auto" that the tool replaces by a number
  unused_at_stage,    ///< a key of another stage: accepted, no effect
  offload_ignored,    ///< offload_param below stage 3, offload_optimizer at stage 0
  deprecated_key,     ///< read under its new name
  overwritten,        ///< the tool writes its own value over it
  trailing_comma,     ///< no JSON, but accepted
  not_modelled,       ///< DeepSpeed honours it; memory or time differ in a way that is not modelled
  no_effect,          ///< known, and neither memory nor time depends on it (only said where that surprises)
};
std::string_view name_of(DeepSpeedNoteCode code);

struct DeepSpeedNote {
  DeepSpeedNoteCode code;
  std::string key;   ///< JSON pointer in the file
  std::string text;  ///< a sentence for people
};

/// Sets the keys of one zero_optimization object, and of a question's `deepspeed` object, where the keys of zero_optimization stand beside top-level ones.
/// `place` is the object's JSON pointer or key; `strict`: unknown keys are refused (as DeepSpeed does inside zero_optimization), else the object may hold
/// top-level keys. "auto" follows the tool: Hugging Face's Trainer and what is built on it fill in hidden² rules, others let DeepSpeed drop it.
void set_deepspeed_keys(Question& question, const nlohmann::json& object, const std::string& file, const std::string& place, bool strict, std::vector<DeepSpeedNote>& notes);

/// The question's options as one object that set_deepspeed_keys reads back, every key written out.
nlohmann::json deepspeed_keys(const Question& question);

/// Whether the tool hands its JSON to Hugging Face's Trainer or Accelerate, which fill in "auto".
bool tool_resolves_auto(std::string_view tool);

}  // namespace zeroplan
