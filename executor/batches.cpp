#include "executor/batches.h"

#include <fmt/format.h>

#include "executor/initialization.h"
#include "planner/core/error.h"

namespace zeroplan {
namespace {

std::uint64_t mix(std::initializer_list<std::int64_t> values, std::uint64_t seed) {
  for (std::int64_t value : values) seed = splitmix64(seed ^ static_cast<std::uint64_t>(value));
  return seed;
}

class FileBatches final : public Batches {
 public:
  FileBatches(TokenFile file, std::uint64_t seed) : file_(std::move(file)), seed_(seed) {}

  void fill(std::int64_t step, std::int64_t micro_batch, std::int64_t rank, std::int64_t sequences, std::int64_t seq, std::int32_t* tokens, std::int32_t* targets) override {
    for (std::int64_t s = 0; s < sequences; ++s) {
      const auto places = static_cast<std::uint64_t>(file_.size() - seq);
      const auto start = static_cast<std::int64_t>(mix({step, micro_batch, rank, s}, seed_) % places);
      for (std::int64_t i = 0; i < seq; ++i) {
        tokens[s * seq + i] = file_.token(start + i);
        targets[s * seq + i] = file_.token(start + i + 1);
      }
    }
  }

 private:
  TokenFile file_;
  std::uint64_t seed_;
};

class SyntheticBatches final : public Batches {
 public:
  SyntheticBatches(std::int64_t vocab, std::uint64_t seed) : vocab_(static_cast<std::uint64_t>(vocab)), seed_(seed) {}

  void fill(std::int64_t step, std::int64_t micro_batch, std::int64_t rank, std::int64_t sequences, std::int64_t seq, std::int32_t* tokens, std::int32_t* targets) override {
    for (std::int64_t i = 0; i < sequences * seq; ++i) {
      tokens[i] = static_cast<std::int32_t>(mix({step, micro_batch, rank, i}, seed_) % vocab_);
      targets[i] = static_cast<std::int32_t>(mix({step, micro_batch, rank, i, 1}, seed_) % vocab_);
    }
  }

 private:
  std::uint64_t vocab_;
  std::uint64_t seed_;
};

}  // namespace

std::unique_ptr<Batches> file_batches(const std::string& file, const Question& question, std::uint64_t seed) {
  TokenFile tokens(file);
  if (tokens.size() < question.job.seq + 1)
    throw InputError(file, "token count", fmt::format("{} tokens are fewer than one sequence of {} and its next token", tokens.size(), question.job.seq),
                     "Give a longer text to zeroplan prepare, or a smaller --seq");
  if (tokens.vocab_size() > question.job.model.vocab_size)
    throw InputError(file, "vocab_size", fmt::format("the file's vocabulary of {} does not fit the model's {}", tokens.vocab_size(), question.job.model.vocab_size),
                     "Use a model with at least that vocab_size");
  return std::make_unique<FileBatches>(std::move(tokens), seed);
}

std::unique_ptr<Batches> synthetic_batches(const Question& question, std::uint64_t seed) {
  return std::make_unique<SyntheticBatches>(question.job.model.vocab_size, seed);
}

}  // namespace zeroplan
