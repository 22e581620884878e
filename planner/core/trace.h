// Trace: what happened in a step, in issue order: births, deaths and instructions, with times where they are known. The simulator writes one by
// walking a Program, the executor by running it; compare() says where two differ. One row is plain data; names come from the Program.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planner/core/program.h"

namespace zeroplan {

struct TraceEvent {
  enum class Kind : std::uint8_t { birth, death, scratch, run } kind = Kind::run;
  Stream stream = Stream::compute;
  std::uint16_t fragment = 0;
  std::uint16_t instruction = 0;
  std::int32_t block = 0;      ///< of the leaf
  std::uint32_t index = 0;     ///< of the instruction in issue order
  StorageId storage = 0;       ///< birth, death
  std::int32_t instance = 0;   ///< birth, death
  std::int64_t bytes = 0;      ///< birth, death, scratch
  std::int64_t live_bytes = 0; ///< after this event; scratch: while it lasts
  SimTime start, end;          ///< run; others: when the instruction starts (births, scratch) or ends (deaths)
};

struct Trace {
  std::vector<TraceEvent> events;
  Bytes peak_live;
  std::uint32_t peak_index = 0;  ///< first instruction (issue order) at the peak
  SimTime duration;
};

/// "block.qkv[3]": the storage of a birth or death.
std::string instance_name(const Program& program, const TraceEvent& event);

/// The first difference in births, deaths and scratch between two traces of one Program, as a sentence; empty if there is none.
std::string first_memory_difference(const Program& program, const Trace& expected, const Trace& seen);

}  // namespace zeroplan
