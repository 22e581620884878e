// Saving: what a checkpoint takes on rank 0 beyond what lives between steps, on the device and on the host, by the way that an engine's own tools save. Shards that each
// rank writes from where they lie take neither. Our own engine has no checkpoint files.
// Source: DeepSpeed 0.19.8 runtime/engine.py (_zero3_consolidated_16bit_state_dict: one module's parameters at a time, each then copied to the host);
// torch 2.11 distributed/fsdp/_state_dict_utils.py (_full_pre_state_dict_hook, offload_to_cpu, rank0_only: the root stays gathered while its blocks are, in the dtype
// that is kept), distributed/checkpoint/state_dict.py (full_state_dict, cpu_offload: a tensor at a time).
// Leaves out torch.save's own copies (a storage at a time), other ranks' hosts, time.
#pragma once

#include <optional>
#include <string_view>

#include "planner/core/plan.h"

namespace zeroplan {

enum class SaveKind : std::uint8_t { module_gathered, unit_gathered, tensor_gathered };
std::string_view words_of(SaveKind kind);  ///< "the largest module gathered"

struct Saving {
  SaveKind kind = SaveKind::module_gathered;
  Bytes device_bytes;  ///< gathered at the same time
  Bytes host_bytes;    ///< the whole model, on rank 0's node
};

/// None where every rank writes what it has: DeepSpeed below stage 3, or at it without gathering; DDP; one GPU; torchtitan; our own engine.
std::optional<Saving> saving_of(const Question& question);

}  // namespace zeroplan
