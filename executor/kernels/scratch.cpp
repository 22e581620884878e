#include <string>

#include "executor/kernels/kernels.h"
#include "planner/core/error.h"
#include "planner/core/units.h"
#include "planner/ops/scratch.h"

namespace zeroplan::kernels {

void* Scratch::take_bytes(std::int64_t bytes) {
  const std::int64_t begin = used_;
  used_ += round_up(bytes, kScratchAlignmentBytes);
  if (used_ > bytes_)
    throw RunError("a kernel needs " + std::to_string(used_) + " bytes of scratch where the plan declared " + std::to_string(bytes_));
  return begin_ + begin;
}

}  // namespace zeroplan::kernels
