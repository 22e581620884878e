// Checks that a laid-out Program has no race, on any machine that honours its waits: vector clocks over streams (Mattern 1989), one counter a stream.
// Two rules. Data: an access to a storage must come after the accesses it conflicts with (write after anything, read after the last write).
// Addresses: a birth must come after the last use, on every stream, of everything dead whose addresses it takes.
// The step is gone through twice, and loops over micro batches twice, so that wrap-arounds are seen.
#pragma once

#include <optional>
#include <string>

#include "planner/layout/layout.h"

namespace zeroplan {

/// The first race as a sentence naming both instructions and the storage; nullopt if there is none.
std::optional<std::string> find_race(const Program& program, const LinearProgram& linear, const Layout& layout);

}  // namespace zeroplan
