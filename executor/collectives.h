// Collectives of one rank: what an instruction of a Program asks for. One interface, because two real implementations exist: shared memory between
// processes of one machine (shm_collectives.cpp, sums in rank order: bitwise reproducible) and NCCL (comes with the GPU executor).
// Pointers may be device memory for an implementation that knows devices. A call returns when the data is there.
#pragma once

#include <cstdint>

#include "planner/core/dtype.h"

namespace zeroplan {

/// Payload bytes by collective as the ZeRO paper counts them (a full buffer's bytes; an all-reduce counts twice: it is a reduce-scatter and an
/// all-gather). Counted by the implementation from the calls it served, to be compared with the planner's figure.
struct CollectiveCounts {
  std::int64_t all_gather_bytes = 0, reduce_scatter_bytes = 0, all_reduce_bytes = 0;
  friend bool operator==(const CollectiveCounts&, const CollectiveCounts&) = default;
};

class Collectives {
 public:
  virtual ~Collectives() = default;
  virtual std::int64_t rank() const = 0;
  virtual std::int64_t world() const = 0;

  /// full[r·shard .. (r+1)·shard) = rank r's shard. `shard` may point into `full` (its own slice).
  virtual void all_gather(const void* shard, void* full, std::int64_t shard_bytes) = 0;
  /// full: world × shard_elems; afterwards the own slice full[rank·shard_elems ..) holds the sum over ranks (fp32 sums in rank order,
  /// rounded once for bf16; fp64 for fp64). The other slices are unspecified but only ever written with values of that kind.
  virtual void reduce_scatter(void* full, std::int64_t shard_elems, Dtype dtype) = 0;
  /// data: elems, afterwards the sum over ranks on every rank, the same bits everywhere.
  virtual void all_reduce(void* data, std::int64_t elems, Dtype dtype) = 0;
  virtual void barrier() = 0;

  const CollectiveCounts& counts() const { return counts_; }

 protected:
  CollectiveCounts counts_;
};

}  // namespace zeroplan
