// Words for values: places, verdicts and categories as people read them. The only place where cli turns codes into sentences.
#pragma once

#include <string>

#include "planner/search/answer.h"

namespace zeroplan::cli {

std::string verdict_words(Verdict verdict);  ///< "FITS", "TIGHT", "DOES NOT FIT"
std::string question_line(const Question& question);
/// "DeepSpeed", "FSDP2", ...; of a question with what sets it: "DeepSpeed, xtuner-zero2".
std::string engine_words(Engine engine);
std::string engine_words(const Question& question);
/// The change as the question's tool spells it; empty where it has no words of its own.
std::string tool_words(const Question& changed, const std::vector<std::pair<std::string, std::string>>& change);
std::string checkpoint_words(const Question& question);

/// "backward of block 47, instruction 7 (linear_wgrad)".
std::string place_words(const Program& program, const Place& place);

/// "parameters 4.6 | gradients 5.3 | ..." in GiB, without empty categories.
std::string category_words(const std::array<std::int64_t, kCategoryCount>& by_category);

/// "--stage 3 --checkpoint full".
std::string change_words(const std::vector<std::pair<std::string, std::string>>& change);

}  // namespace zeroplan::cli
