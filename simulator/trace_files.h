// Traces as text: Chrome's trace format (chrome://tracing, Perfetto) and JSON Lines.
#pragma once

#include <string>

#include "planner/core/trace.h"

namespace zeroplan {

/// Instructions as slices on one track a stream, live bytes by category as a counter. Times in microseconds.
std::string chrome_trace(const Program& program, const Trace& trace);

/// One JSON object a line: {"event": "birth"|"death"|"scratch"|"run", "index", "fragment", "block", "op"|"storage", "bytes", "live_bytes", "start_ns", "end_ns", ...}.
std::string json_lines(const Program& program, const Trace& trace);

}  // namespace zeroplan
