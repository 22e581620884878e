// torch.utils.checkpoint: activations are dropped in forward and computed again in backward.
// non_reentrant: saved tensors become holders; the first one that backward asks for runs the function again up to the last tensor that was saved
// (early stop), and each recomputed tensor dies when its user is done. reentrant: one node; its backward runs the function again and then a backward of its own.
// Tensors in `function`'s closure (keyword arguments) live as long as the checkpoint; `arguments` are what autograd saves.
#pragma once

#include <functional>
#include <optional>

#include "planner/engines/eager/eager.h"

namespace zeroplan::eager {

enum class CheckpointMode : std::uint8_t { none, non_reentrant, reentrant, selective };

/// Which blocks of a model are checkpointed, and how.
struct BlockCheckpoints {
  CheckpointMode mode = CheckpointMode::none;
  std::int64_t every = 1;                    ///< of every so many blocks the last one (torchtitan's selective_ac_option)
  bool offload_inputs = false;               ///< to pinned host memory (torch.autograd.graph.save_on_cpu around the checkpoint; ALST's checkpoint function)
  std::optional<std::int64_t> first_blocks = std::nullopt;  ///< only among so many at the front (Megatron's recompute_method block, InternEvo's checkpoint fraction)

  CheckpointMode of_block(std::int64_t block) const {
    return (block + 1) % every == 0 && block < first_blocks.value_or(block + 1) ? mode : CheckpointMode::none;
  }
};

struct CheckpointOptions {
  bool early_stop = true;       ///< else a recomputation runs to the function's end (torchtitan's default)
  bool offload_inputs = false;  ///< arguments wait on the host: their device copies die when nobody else holds them
};

using CheckpointFunction = std::function<Tensors(const Tensors& arguments)>;

/// Calls function(arguments) under a checkpoint. `mode` is not none; selective: non_reentrant that keeps attention's and every second mm's results
/// (torchtitan's operator policy, torch.utils.checkpoint.create_selective_checkpoint_contexts).
Tensors checkpoint(Context& context, CheckpointMode mode, CheckpointFunction function, const Tensors& arguments, const CheckpointOptions& options = {});

}  // namespace zeroplan::eager
