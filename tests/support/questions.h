// Questions that tests ask: small and big models with uneven sizes, plans drawn at random.
#pragma once

#include <random>

#include "planner/core/plan.h"

namespace zeroplan::testing {

/// internlm2-20b on 8×A100-80G, as the catalogue has them; every block recomputed.
Question origin_question(std::int64_t stage = 3);

/// A valid question with everything drawn at random: sizes (uneven), family traits, dtypes, plan, ranks, device kind. Same generator state, same question.
Question random_question(std::mt19937_64& random);

}  // namespace zeroplan::testing
