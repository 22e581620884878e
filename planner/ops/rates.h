// Seconds of work: matrix products, fused attention, collectives. Both engines' times come from here: op_table.h (our own) and engines/eager/step_time.h (the emulated
// ones), so equal work costs equal time. Rates are a DeviceProfile's; here is how they fall with shapes, with ranks and with nodes.
//
// Leaves out: what an op computes (op_table.h, engines/eager/ops.h), streams and overlap, clocks (a profile's rates are those of long runs), split-K.
#pragma once

#include <cstdint>

#include "planner/core/cluster.h"

namespace zeroplan {

/// Part of the multiprocessors that work while a product of rows × columns is computed. A multiprocessor computes one tile of the result at a time, and the last
/// wave of tiles is as long as a full one: 2048² in tiles of 256 × 128 is 64 tiles, one wave on an A100 (108). Smaller tiles fill the last wave better and read more
/// for each FLOP, so the best of several is taken. 1 where the profile does not say its multiprocessors, or the shape is unknown (0).
double wave_ratio(std::int64_t rows, std::int64_t columns, const DeviceProfile& device);

/// FLOP/s of a fused causal attention kernel over `tokens` keys, forward and backward together. A profile's rate is of 4096 tokens; the tiles on the diagonal are
/// computed whole and used by half, which costs as much as kDiagonalTokens more tokens would: rate ∝ S / (S + 480). Within 4 % of FlashAttention-2's README
/// for 512 to 16384 tokens on an A100 (99 to 189 TFLOP/s) and within 7 % on an H100 (163 to 328).
double attention_flops_per_s(const DeviceProfile& device, std::int64_t tokens);
inline constexpr double kDiagonalTokens = 480;
inline constexpr double kAttentionProfileTokens = 4096;
/// Of a profile that does not say: attention's rate as a part of the products' (173 of 257 TFLOP/s on an A100).
inline constexpr double kAttentionOfMatmulRatio = 0.67;

enum class CollectiveKind : std::uint8_t { all_gather, reduce_scatter, all_reduce, reduce, broadcast, all_to_all };
inline constexpr int kCollectiveKindCount = 6;

/// payload_bytes as the ZeRO paper counts: the full buffer (of an all-gather its output, of a reduce-scatter its input, of an all-to-all what one rank sends).
/// The group's ranks are `stride` apart: 1 for neighbours, the shard group's size for the copies of HSDP.
struct Collective {
  CollectiveKind kind = CollectiveKind::all_reduce;
  std::int64_t payload_bytes = 0;
  std::int64_t ranks = 1;
  std::int64_t stride = 1;

  /// What crosses the slowest link of a ring: of an all-reduce 2·(n − 1)/n of the payload, of a gather, a scatter or an all-to-all (n − 1)/n, of the others all of it
  /// (nccl-tests, doc/PERFORMANCE.md).
  std::int64_t wire_bytes() const;
};

/// Seconds of one collective: launch, the link's latency, the steps, and wire bytes over the bus bandwidth. 0 for one rank.
/// Bandwidth: neighbours in a node use its links; a ring through several nodes uses as many network ports as it has ranks in each, up to the links' rate.
/// Steps as in NCCL's own model (NVIDIA/nccl, src/graph/tuning.cc, ncclTopoTuneModel; 3.4 us over NVLink, 14 over a network): a ring of n ranks on m nodes gathers in n − 1 steps, m − 1 of them between nodes; an all-reduce takes twice that, or up and
/// down a tree 2·(n/m − 1) and 2·log2 m. Broadcasts and reductions are pipelined: one step.
double collective_s(const Collective& collective, const Cluster& cluster);

}  // namespace zeroplan
