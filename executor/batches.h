// Batches for a run: windows of a memory-mapped token file, or synthetic tokens for proofs. What a rank reads depends only on (seed, step, micro batch,
// rank, sequence), so that a plan's stage, recomputation or prefetch never changes the data.
#pragma once

#include <memory>

#include "executor/interpreter.h"
#include "planner/core/token_file.h"

namespace zeroplan {

/// Windows of seq + 1 tokens at pseudo-random places of the file. Throws InputError if the file is shorter or knows more words than the model.
std::unique_ptr<Batches> file_batches(const std::string& file, const Question& question, std::uint64_t seed);

/// Uniform pseudo-random tokens below the model's vocabulary.
std::unique_ptr<Batches> synthetic_batches(const Question& question, std::uint64_t seed);

}  // namespace zeroplan
