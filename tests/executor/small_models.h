// Questions small enough to run hundreds of in seconds: one model of each family with uneven sizes (nothing divides ranks, tiles or chunks), on CPU
// ranks in fp32. Leaves out what is done with them: parity_test.cpp, stages_test.cpp, ladder_test.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "planner/core/plan.h"

namespace zeroplan::testing {

/// llama2 (as many key/value heads as query heads), llama3 (grouped query), internlm2 (wqkv in groups), qwen2 (qkv bias, one key/value head, tied), qwen3 (q/k norm,
/// query width other than hidden), qwen3-tied, mistral (query width above hidden).
std::span<const std::string_view> small_families();

/// The family's model on `ranks` CPU ranks: 2 sequences of 19 tokens a rank, 7 tokens a loss chunk, stage 0, everything kept, one micro batch.
/// Throws std::invalid_argument for a family that small_families() does not name.
Question small_question(std::string_view family, std::int64_t ranks);

/// small_question of every family.
std::vector<Question> small_questions(std::int64_t ranks);

}  // namespace zeroplan::testing
