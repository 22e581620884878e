// Sits under libtorch's CPU allocator and counts what a step asks for beyond its plan. Kernels are written to allocate nothing, so while a step runs every
// request is a surprise: it is served from the heap as usual, and reported with the instruction that made it.
#pragma once

#include <cstdint>
#include <string>

namespace zeroplan {

struct Surprises {
  std::int64_t count = 0;
  std::int64_t peak_bytes = 0;  ///< highest sum of such blocks alive at once
  std::string first;            ///< "linear: 4096 B"
};

class AllocationWatch {
 public:
  /// Installs itself; once a process.
  static AllocationWatch& install();
  /// Counting is on between arm and disarm. `instruction` names what runs now.
  void arm();
  void disarm();
  void at(std::string_view instruction);
  const Surprises& surprises() const;
};

}  // namespace zeroplan
