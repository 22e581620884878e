// A function run on pieces of the tokens, one after the other, forward and again in backward, so that only one piece's intermediates exist at a time
// (deepspeed 0.19.8, runtime/sequence_parallel/ulysses_sp.py: TiledMLP; the ALST paper, arXiv 2506.13996).
// Leaves out that ZeRO-3 finds the MLP's weights used outside their modules in the first step, and gathers them at once.
#pragma once

#include <cstdint>
#include <functional>

#include "planner/engines/eager/eager.h"

namespace zeroplan::eager {

/// Pieces of one x [batch, tokens, hidden]: as many as the tokens are hidden sizes long (ALST's MLP).
std::int64_t mlp_tiles(const Tensor& x);

/// Saves x only. `function` maps [batch, tokens of a tile, hidden] to the same sizes. While gradients of its parameters are those of some tiles only,
/// Context::gradients_incomplete is set.
Tensor in_tiles(const Tensor& x, std::int64_t tiles, std::function<Tensor(const Tensor& tile)> function);

}  // namespace zeroplan::eager
