#include "simulator/requested_surface.h"

#include <algorithm>

#include "planner/engines/emulation.h"

namespace zeroplan {
namespace {

using eager::MemoryEvent;

/// What is alive on the device after each request that made it more, in order.
std::vector<std::int64_t> alive_after_requests(Question question, std::int64_t micro_batch, std::int64_t seq_tokens) {
  question.plan.micro_batch = micro_batch;
  question.job.seq = seq_tokens * question.job.sequence_parallel;
  eager::Recorder recorder(true);
  emulate(question, recorder);
  std::vector<std::int64_t> size(recorder.tags().size(), 0), out;
  std::int64_t alive = 0;
  for (const MemoryEvent& event : recorder.events()) {
    if (event.kind == MemoryEvent::Kind::end) break;
    if (event.kind >= MemoryEvent::Kind::phase || recorder.tags()[event.storage].place != eager::Place::device) continue;
    const std::int64_t now = event.kind == MemoryEvent::Kind::death ? 0 : event.bytes;
    alive += now - size[event.storage];
    size[event.storage] = now;
    if (event.kind != MemoryEvent::Kind::death) out.push_back(alive);
  }
  return out;
}

}  // namespace

bool RequestedSurface::Form::dominated_by(const Form& other) const {
  // b and s are at least 1: what has less of everything is never higher.
  return constant <= other.constant && per_sequence <= other.per_sequence && per_position <= other.per_position && per_token <= other.per_token;
}

namespace {
constexpr std::int64_t kShort = RequestedSurface::kSequenceGrain, kLong = 3 * RequestedSurface::kSequenceGrain;
}

/// From runs at micro batches m and m + 1 (or twice m) and two lengths; nothing where they do not ask for the same things.
std::optional<std::vector<RequestedSurface::Form>> RequestedSurface::forms_of(const Requests& short_1, const Requests& short_2, const Requests& long_1, const Requests& long_2, std::int64_t m) {
  if (short_1.size() != short_2.size() || short_1.size() != long_1.size() || short_1.size() != long_2.size()) return std::nullopt;
  constexpr std::int64_t kStep = kLong - kShort;
  std::vector<Form> all;
  for (std::size_t i = 0; i < short_1.size(); ++i) {
    const std::int64_t mixed = long_2[i] - short_2[i] - long_1[i] + short_1[i], along = long_1[i] - short_1[i];
    if (mixed % kStep != 0 || along % kStep != 0) return std::nullopt;
    Form form;
    form.per_token = mixed / kStep;
    form.per_sequence = short_2[i] - short_1[i] - form.per_token * kShort;
    form.per_position = along / kStep - form.per_token * m;
    form.constant = short_1[i] - form.per_sequence * m - form.per_position * kShort - form.per_token * m * kShort;
    all.push_back(form);
  }
  // Largest first, so that most are dominated by the first few.
  std::sort(all.begin(), all.end(), [](const Form& a, const Form& b) { return a.constant + (a.per_token << 13) > b.constant + (b.per_token << 13); });
  std::vector<Form> kept;
  for (const Form& form : all)
    if (std::none_of(kept.begin(), kept.end(), [&](const Form& other) { return form.dominated_by(other); })) kept.push_back(form);
  return kept;
}

std::optional<RequestedSurface> RequestedSurface::of(const Question& question) {
  const auto run = [&](std::int64_t micro_batch, std::int64_t seq_tokens) { return alive_after_requests(question, micro_batch, seq_tokens); };
  const Requests single_short = run(1, kShort), single_long = run(1, kLong);
  auto single = forms_of(single_short, single_short, single_long, single_long, 1);
  auto several = forms_of(run(2, kShort), run(3, kShort), run(2, kLong), run(3, kLong), 2);
  if (!single || !several) return std::nullopt;
  RequestedSurface out;
  out.single_ = std::move(*single);
  out.several_ = std::move(*several);
  return out;
}

std::int64_t RequestedSurface::highest(const std::vector<Form>& forms, std::int64_t micro_batch, std::int64_t seq_tokens) {
  const std::int64_t tokens = micro_batch * seq_tokens;
  std::int64_t most = 0;
  for (const Form& f : forms) most = std::max(most, f.constant + f.per_sequence * micro_batch + f.per_position * seq_tokens + f.per_token * tokens);
  return most;
}

Bytes RequestedSurface::peak(std::int64_t micro_batch, std::int64_t seq_tokens) const { return Bytes(highest(micro_batch == 1 ? single_ : several_, micro_batch, seq_tokens)); }

}  // namespace zeroplan
