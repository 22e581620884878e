// PyTorch's out-of-memory message, read: the figures that it names, whatever its release or what surrounds it (a traceback, a log). Beside a predicted run it says which
// request failed, because "Tried to allocate" is a segment's size: of few tensors' requests in a step the allocator would make just that segment.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "planner/core/units.h"
#include "simulator/timeline.h"

namespace zeroplan {

/// A size as a message prints it, two digits behind the point: anything within half of the last digit is meant.
struct PrintedSize {
  double bytes = 0;
  double halfwidth = 0;
  bool means(Bytes value) const;
};

struct OomMessage {
  std::optional<PrintedSize> tried, capacity, free, allocated, reserved_unallocated, reserved;
  std::vector<std::string> frames;  ///< "file.py:function" of a traceback, outermost first
};

/// nullopt where the text holds no such message.
std::optional<OomMessage> read_oom(std::string_view text);

/// Bytes of the segment that the allocator asks the driver for to serve a request.
Bytes segment_of(Bytes request);

/// Tensors of the timeline whose segment has the size that was tried, by their instants.
std::vector<std::size_t> tried_tensors(const Timeline& timeline, const PrintedSize& tried);

}  // namespace zeroplan
