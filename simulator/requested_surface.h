// RequestedSurface: the peak of requested bytes of an emulated engine as a function of micro batch b and sequence length s, everything else fixed. Which requests are made, and in which
// order, depends on neither (but for b = 1, where some tensors are contiguous that are copied otherwise); each one's size is a bilinear form of them. So six emulated runs give what
// is alive after every request for all b and s, and a plan costs a maximum over the few requests that no other dominates: exact, in well under a microsecond. For searches; a
// finalist is predicted in full.
// Exact where s is a multiple of kSequenceGrain (attention kernels round up to it); leaves out what the allocator makes of the requests, and the host.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "planner/core/plan.h"
#include "planner/core/units.h"

namespace zeroplan {

class RequestedSurface {
 public:
  static constexpr std::int64_t kSequenceGrain = 128;

  /// nullopt where the requests do depend on b or s (a plan that flattens on the host when memory is short, say). Throws as emulate() does.
  static std::optional<RequestedSurface> of(const Question& question);

  /// Over load, init and all steps. seq_tokens: of one rank's sequence, a multiple of kSequenceGrain; micro_batch ≥ 1.
  Bytes peak(std::int64_t micro_batch, std::int64_t seq_tokens) const;


 private:
  /// constant + per_sequence·b + per_position·s + per_token·b·s bytes.
  struct Form {
    std::int64_t constant = 0, per_sequence = 0, per_position = 0, per_token = 0;
    bool dominated_by(const Form& other) const;
  };
  using Requests = std::vector<std::int64_t>;  ///< what is alive after each
  static std::optional<std::vector<Form>> forms_of(const Requests& short_1, const Requests& short_2, const Requests& long_1, const Requests& long_2, std::int64_t least_micro_batch);
  static std::int64_t highest(const std::vector<Form>& forms, std::int64_t micro_batch, std::int64_t seq_tokens);

  std::vector<Form> single_, several_;  ///< b = 1, b ≥ 2
};

}  // namespace zeroplan
