#include "planner/engines/twin.h"

#include <algorithm>

namespace zeroplan {

Question twin_of(const Question& question, const DeviceProfile& cpu) {
  Question twin = question;
  Model& model = twin.job.model;
  model.name = question.job.model.name + " (twin)";
  // Sizes without common factors, so that no two kinds of tensor have equal bytes by accident.
  model.hidden_size = 20;
  model.head_dim = 4;
  model.intermediate_size = 28;
  model.vocab_size = 61;
  // Positions change values, never sizes: the twin's short sequence is inside every window.
  model.rope_scaling.clear();
  model.sliding_window.reset();

  const std::int64_t tokens = question.tokens_per_micro_batch(), chunk = std::min(question.plan.loss_chunk_tokens, tokens);
  const std::int64_t chunks = divide_up(tokens, chunk);
  const bool rest = tokens % chunk != 0;
  twin.plan.micro_batch = std::min<std::int64_t>(question.plan.micro_batch, 2);
  // At least four tokens a chunk; a last chunk that is shorter stays shorter.
  const std::int64_t small = 4;
  const std::int64_t wanted = chunks * small - (rest ? 2 : 0);
  twin.job.seq = divide_up(wanted, twin.plan.micro_batch);
  twin.plan.loss_chunk_tokens = chunks == 1 ? twin.tokens_per_micro_batch() : small;

  twin.cluster.device = cpu;
  return twin;
}

}  // namespace zeroplan
