#include "planner/engines/eager/training_loop.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "planner/core/error.h"

namespace zeroplan::eager {

namespace {

constexpr std::size_t kMostUnequal = 64;
/// Before the longest comes. Each that is longer than all before it makes a caching allocator keep more; docs/validation.md says what other numbers would give.
constexpr std::int64_t kShorterMicroBatches = 8;

std::int64_t shorter_in_a_step(const TrainingSize& size) { return std::min(size.accumulate, kShorterMicroBatches); }
std::int64_t shorter_steps(const TrainingSize& size) { return (kShorterMicroBatches + shorter_in_a_step(size) - 1) / shorter_in_a_step(size); }

}  // namespace

int TrainingSize::steps_in_all() const { return lengths_vary ? steps - 1 + static_cast<int>(shorter_steps(*this)) : steps; }

std::int64_t TrainingSize::tokens_of(int step, std::int64_t micro_batch_number) const {
  if (!lengths_vary || step >= shorter_steps(*this) || micro_batch_number >= kShorterMicroBatches) return seq_tokens;
  constexpr double kGoldenRatio = 0.6180339887498949;  // its multiples are spread evenly, however many there are
  const std::int64_t number = step * shorter_in_a_step(*this) + micro_batch_number + 1;
  const double share = std::fmod(kGoldenRatio * static_cast<double>(number), 1.0);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(share * static_cast<double>(seq_tokens)));
}

void MachineBehaviour::apply_to(Context& context) const {
  context.out_of_place_accumulation = out_of_place_accumulation;
  context.layer_norm_keeps_input_type = layer_norm_keeps_input_type;
  context.composite_silu_backward = composite_silu_backward;
  context.fused_rms_norm = fused_rms_norm;
  context.host = host;
}

std::int64_t EqualMicroBatches::skipped(std::int64_t left) {
  if (begins_.size() < 2 || left < 1) return 0;  // the first one of a step has no gradients to add to
  const RecorderMark& begin = begins_.back();
  const bool as_known = known_ && recorder_.repeats(*known_, begin);
  const bool as_before = !as_known && begins_.size() > 2 && recorder_.repeats({begins_[begins_.size() - 2], begin}, begin);
  if (!as_known && !as_before) {
    if (begins_.size() >= kMostUnequal) throw UsageError(fmt::format("accumulate: micro batches of this plan differ from one another, and a step of more than {} is not run one by one. Lower accumulate to {}", kMostUnequal, kMostUnequal));
    return 0;
  }
  if (step_ == 1) known_ = RecordedStretch{begin, recorder_.mark()};
  recorder_.stands_for(begin, 1 + left);
  return left;
}

std::int64_t PhasePeaks::peak_bytes(const std::string& phase, Place place) const {
  for (const PhasePeak& p : phases)
    if (p.name == phase) return p.bytes[static_cast<int>(place)];
  return 0;
}

}  // namespace zeroplan::eager
