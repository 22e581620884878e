// Work: what an emulated run does that takes time, as counts. Kernels with their FLOPs and bytes moved, collectives, copies between host and device,
// optimizer updates on the host, and who waits for whom. Here are no rates and no seconds: step_time.h puts them together with a Cluster.
//
// How to report. An op that allocates its results through ops.h's building stones has reported itself. A kernel of one's own: context.moves(bytes) or
// context.computes({.arithmetic = ..., .flops = ..., ...}). An engine: context.collective({.kind = ..., .payload_bytes = ..., .ranks = ...}), context.copy_to_host(bytes),
// context.wait_stream(Stream::gather) or, for less than all of a stream, context.wait_event(context.record_event()). All of it runs on context.stream.
#pragma once

#include <array>
#include <cstdint>

#include "planner/core/program.h"
#include "planner/ops/rates.h"

namespace zeroplan::eager {

/// What a kernel's arithmetic runs on. none: bound by memory. attention: a fused kernel, whose rate is not a product's.
enum class Arithmetic : std::uint8_t { none, matmul_16_bit, matmul_32_bit, attention };
inline constexpr int kArithmeticCount = 4;

/// A kernel with arithmetic that counts. rows and columns as in Activity; 0: unknown, taken as large.
struct Computation {
  Arithmetic arithmetic = Arithmetic::none;
  double flops = 0;  ///< of a long sequence more than an int64 holds
  std::int64_t moved_bytes = 0;
  std::int64_t rows = 0, columns = 0;
};

/// A point on a stream. Counts up through the run; 0: before everything.
using EventId = std::uint32_t;

/// One thing that takes time, or waits, in the order of issue.
struct Activity {
  enum class Kind : std::uint8_t {
    kernel,
    collective,   ///< with an `event` asynchronous: its stream goes on at once, the event is its end
    copy_to_device,
    copy_to_host,
    host_hooks,   ///< Python of ZeRO-3's hooks around a module
    host_fetch,   ///< that of one of its gathers
    host_reduction,  ///< that of reducing one of its buckets
    host_kernel,  ///< of ATen on the CPU: the host goes on when it is done
    host_update,  ///< DeepSpeedCPUAdam: likewise; `count` elements
    record,       ///< `event` is the stream's end as it is now
    wait,         ///< the stream goes on after `event`
    synchronize   ///< the host goes on when the stream has ended; with an `event`, when that is over
  } kind = Kind::kernel;
  Stream stream = Stream::compute;
  Arithmetic arithmetic = Arithmetic::none;
  CollectiveKind collective = CollectiveKind::all_reduce;
  std::uint16_t phase = 0;  ///< index in Recorder::phases()
  EventId event = 0;
  std::int32_t ranks = 1, stride = 1;
  std::uint32_t op = 0;     ///< as in MemoryEvent
  std::int32_t rows = 0, columns = 0;  ///< of a product's result, all of a batch's one below the other; of attention: the head's dimension, keys
  double count = 0;         ///< FLOPs; elements of a host update
  std::int64_t bytes = 0;   ///< moved (read and written), payload, or copied

  Collective as_collective() const { return {.kind = collective, .payload_bytes = bytes, .ranks = ranks, .stride = stride}; }
  friend bool operator==(const Activity&, const Activity&) = default;
};

/// Sums over the activities of a phase and stream.
struct WorkTotals {
  std::array<double, kArithmeticCount> flops{};              ///< by Arithmetic
  std::array<std::int64_t, kArithmeticCount> moved_bytes{};  ///< by Arithmetic; none: kernels bound by memory
  std::int64_t kernels = 0;
  std::array<std::int64_t, kCollectiveKindCount> payload_bytes{};  ///< by CollectiveKind
  std::int64_t collectives = 0;
  std::int64_t wire_bytes = 0;  ///< Collective::wire_bytes
  std::int64_t copied_to_device_bytes = 0, copied_to_host_bytes = 0;
  std::int64_t host_moved_bytes = 0, host_updated_elems = 0;

  void add(const Activity& activity);
  WorkTotals& operator+=(const WorkTotals& other);
  /// What was added since `before` comes `times` more.
  void repeat(const WorkTotals& before, std::int64_t times);
  double all_flops() const;
  friend bool operator==(const WorkTotals&, const WorkTotals&) = default;
};

}  // namespace zeroplan::eager
