// Memory of this process and machine as seen from outside the plan, and the arena: one exact stretch of memory that is resident and poisoned
// before it is used, so that "overwritten since" can be counted. Leaves out device memory and what is planned.
// The kernel counts resident pages per CPU and may lag by a few hundred KiB.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "planner/core/units.h"

namespace zeroplan {

/// From /proc/self/status. Absent lines are 0.
struct ProcessMemory {
  Bytes virtual_bytes;        ///< VmSize
  Bytes resident_bytes;       ///< VmRSS = anonymous + file + shared memory
  Bytes peak_resident_bytes;  ///< VmHWM: highest VmRSS since start or reset_peak()
  Bytes anonymous_bytes;      ///< RssAnon: heap, stacks, the arena
  Bytes file_bytes;           ///< RssFile: programs and libraries
  Bytes shared_memory_bytes;  ///< RssShmem: pages of the collectives' slots this process has touched
};

/// Throws EnvironmentError if /proc cannot be read.
ProcessMemory process_memory();

/// Makes the peak the present resident size. Throws EnvironmentError if the kernel does not allow it.
void reset_peak();

/// What can still be taken without swapping or being killed: the smallest of /proc/meminfo's MemAvailable and, for each memory cgroup (v1 and v2)
/// that holds this process, limit − usage + inactive file cache. `root` stands before every path that is read.
Bytes machine_available_bytes(const std::string& root = "");

/// Poison is the 16-bit pattern kPoisonHalf over and over: read as bf16, fp32 or fp64, at any multiple of two bytes, it is a NaN, and as an int32 it is negative.
inline constexpr std::uint16_t kPoisonHalf = 0xfff5;
inline constexpr std::uint32_t kPoisonWord = 0xfff5fff5;

/// All three: `memory` is even; an odd last byte holds, and is compared with, the first byte of the pattern.
/// A write of the pattern itself cannot be seen.
void poison(void* memory, Bytes bytes);
/// Bytes in units of two that no longer hold the poison.
Bytes count_overwritten(const void* memory, Bytes bytes);
/// Elements of 2, 4 or 8 bytes of which every unit still holds the poison. A finite float never does, though half of one may by chance: this, not
/// count_overwritten, says whether data was written. `memory` is aligned to the element.
std::int64_t count_poisoned(const void* memory, std::int64_t elements, std::int64_t element_bytes);
/// Offset just past the last unit that no longer holds the poison; 0 if all do.
Bytes highest_overwritten(const void* memory, Bytes bytes);

/// Anonymous memory of `bytes` rounded up to pages, every page touched and poisoned.
class Arena {
 public:
  /// nullopt: the machine has not that much available, or refuses (RLIMIT_AS, overcommit). bytes > 0. Ranks that ask at the same moment
  /// do not see each other's: a launcher of several should compare their sum with machine_available_bytes() first.
  static std::optional<Arena> try_make(Bytes bytes);

  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;

  void* data() const { return data_; }
  Bytes bytes() const { return bytes_; }          ///< as asked for
  Bytes mapped_bytes() const;                     ///< whole pages: what the process grew by

 private:
  Arena(void* data, Bytes bytes) : data_(data), bytes_(bytes) {}

  void* data_ = nullptr;
  Bytes bytes_;
};

}  // namespace zeroplan
