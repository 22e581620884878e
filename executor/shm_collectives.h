// Collectives between the processes of one machine, over memory they share. Made for CPU ranks and for bitwise tests: every sum is taken
// in rank order 0..N-1, so all ranks hold the bits of the sequential sum. Leaves out devices and other machines.
// ShmWorld is made by the parent before it forks (the ranks inherit the mapping); each rank then makes its own ShmCollectives.
// Letters: N world size, r rank. One thread of a rank calls its collectives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "executor/collectives.h"
#include "planner/core/units.h"

namespace zeroplan {

/// A memfd mapped MAP_SHARED: zeroed, inherited by fork, gone with its last mapping. Throws EnvironmentError if the machine refuses.
class SharedArea {
 public:
  explicit SharedArea(Bytes bytes);
  ~SharedArea();
  SharedArea(const SharedArea&) = delete;
  SharedArea& operator=(const SharedArea&) = delete;

  std::byte* data() const { return data_; }
  Bytes bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  Bytes bytes_;
};

/// What the ranks share (barrier, call descriptors, two slots a rank) and what their parent may look at.
class ShmWorld {
 public:
  static constexpr std::int64_t kSlotBytes = std::int64_t{1} << 20;
  static constexpr std::int64_t kMaxWorld = 1024;

  /// Throws std::invalid_argument unless 1 <= world <= kMaxWorld.
  explicit ShmWorld(std::int64_t world);

  std::int64_t world() const { return world_; }

  /// From now on every rank that waits or comes to a collective throws RunError("stopped: another rank failed"), within about 0.1 s.
  void stop();
  bool stopped() const;

  /// The rank waits for others that have not come yet. A rank that was let go but does not run (SIGSTOP) is not waiting.
  bool is_waiting(std::int64_t rank) const;
  /// Barriers the rank has passed: it moves while a long collective moves.
  std::uint64_t passes(std::int64_t rank) const;

 private:
  friend class ShmCollectives;
  struct Control;
  struct RankLine;

  Control& control() const;
  RankLine& line(std::int64_t rank) const;
  std::byte* slot(std::int64_t rank, std::uint64_t turn) const;

  std::int64_t world_;
  SharedArea area_;
};

/// Sums fp32 and bf16 in fp32 (bf16 rounded once, to nearest even) and fp64 in fp64; int32 is refused with std::invalid_argument.
/// Throws RunError when stopped, or when the ranks do not make the same call (it names both).
class ShmCollectives final : public Collectives {
 public:
  /// `shared` outlives this object. One object per rank and ShmWorld: its count of turns must agree with the other ranks'.
  ShmCollectives(ShmWorld& shared, std::int64_t rank);

  std::int64_t rank() const override { return rank_; }
  std::int64_t world() const override { return shared_.world(); }

  void all_gather(const void* shard, void* full, std::int64_t shard_bytes) override;
  void reduce_scatter(void* full, std::int64_t shard_elems, Dtype dtype) override;
  void all_reduce(void* data, std::int64_t elems, Dtype dtype) override;
  void barrier() override;

 private:
  enum class Call : std::uint32_t { all_gather, reduce_scatter, all_reduce, barrier };
  struct Descriptor;
  friend struct ShmWorld::RankLine;

  static const char* name_of_call(Call call);
  static std::string describe(const Descriptor& descriptor);
  void begin(Call call, std::int64_t bytes, Dtype dtype);
  void pass_barrier();
  void wait_while(std::uint32_t generation);
  void check_same_call() const;
  std::byte* outgoing() const { return shared_.slot(rank_, turn_); }                          ///< own slot, before the barrier
  const std::byte* incoming(std::int64_t from) const { return shared_.slot(from, turn_ - 1); }  ///< another's slot, after it

  void gather_chunks(const std::byte* shard, std::byte* full, std::int64_t shard_bytes);
  void reduce_scatter_chunks(std::byte* full, std::int64_t shard_bytes, Dtype dtype);
  void all_reduce_chunk(std::byte* data, std::int64_t elems, Dtype dtype);

  ShmWorld& shared_;
  std::int64_t rank_;
  std::uint64_t turn_ = 0;   ///< barriers passed; its parity picks the slot
  std::uint64_t calls_ = 0;  ///< calls begun; its parity picks the descriptor
  bool call_is_checked_ = true;
};

}  // namespace zeroplan
