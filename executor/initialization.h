// First values of parameters: normal with standard deviation 0.02 (output projections 0.02/sqrt(2L), as GPT-2), norms 1, biases and gaps 0. A value depends
// only on seed, unit, block and position in the flat buffer, so every rank makes just its own part, and all stages and world sizes start equal.
#pragma once

#include <cstdint>

#include "planner/core/dtype.h"
#include "planner/core/model.h"

namespace zeroplan {

/// Writes elements [begin, begin + count) of a unit's flat buffer to `out` in `dtype` (fp32, or bf16 rounded to nearest).
void fill_initial(const Model& model, UnitKind unit, std::int64_t block, std::uint64_t seed, std::int64_t begin, std::int64_t count, Dtype dtype, void* out);

/// splitmix64: the one hash of the executor's reproducible randomness. Source: Steele et al., OOPSLA 2014.
std::uint64_t splitmix64(std::uint64_t value);

}  // namespace zeroplan
