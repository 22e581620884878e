// The twin of a question: the same plan, ranks, layers, heads, dtypes and number of loss chunks, with every other dimension made small, on CPU. Its
// Program is the same tree with other sizes, so that what is proved of it instruction by instruction holds for the full one.
// Cannot show: scratch inside CUDA kernels, which is declared per kernel and device.
#pragma once

#include "planner/core/plan.h"

namespace zeroplan {

/// `cpu` is the profile of this machine's ranks.
Question twin_of(const Question& question, const DeviceProfile& cpu);

}  // namespace zeroplan
