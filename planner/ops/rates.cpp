#include "planner/ops/rates.h"

#include <algorithm>
#include <array>
#include <bit>

namespace zeroplan {
namespace {

double d(std::int64_t value) { return static_cast<double>(value); }
std::int64_t divided_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

/// Of a product's result. rate_ratio, assumed: what a multiprocessor reaches with it against the largest; half the tile reads a third to a half more for each FLOP.
struct Tile {
  std::int64_t rows, columns;
  double rate_ratio;
};
constexpr std::array<Tile, 4> kTiles{{{256, 128, 1}, {128, 256, 1}, {128, 128, 0.9}, {128, 64, 0.75}}};

double used_ratio(const Tile& tile, std::int64_t rows, std::int64_t columns, std::int64_t multiprocessors) {
  const std::int64_t tiles = divided_up(rows, tile.rows) * divided_up(columns, tile.columns);
  const double computed_ratio = d(rows) * d(columns) / (d(tiles) * d(tile.rows * tile.columns));  // of a tile that reaches over the edge
  return tile.rate_ratio * computed_ratio * d(tiles) / d(divided_up(tiles, multiprocessors) * multiprocessors);
}

/// How many ranks of the ring share a node.
std::int64_t ranks_in_a_node(const Collective& collective, const Cluster& cluster) {
  return std::clamp<std::int64_t>(cluster.gpus_per_node / collective.stride, 1, collective.ranks);
}

double steps_s(const Collective& collective, std::int64_t local_ranks, const Cluster& cluster) {
  const std::int64_t nodes = divided_up(collective.ranks, local_ranks);
  const double ring_s = d(collective.ranks - nodes) * cluster.device.link_step_s + d(nodes - 1) * cluster.network_latency_s;
  switch (collective.kind) {
    case CollectiveKind::all_gather:
    case CollectiveKind::all_to_all:
    case CollectiveKind::reduce_scatter: return ring_s;
    case CollectiveKind::all_reduce: {
      const double tree_s = d(local_ranks - 1) * cluster.device.link_step_s + d(std::bit_width(static_cast<std::uint64_t>(nodes)) - 1) * cluster.network_latency_s;
      return 2 * std::min(ring_s, tree_s);
    }
    case CollectiveKind::reduce:
    case CollectiveKind::broadcast: return nodes > 1 ? cluster.network_latency_s : cluster.device.link_step_s;
  }
  return 0;
}

}  // namespace

double wave_ratio(std::int64_t rows, std::int64_t columns, const DeviceProfile& device) {
  if (!device.multiprocessors || rows <= 0 || columns <= 0) return 1;
  double best = 0;
  for (const Tile& tile : kTiles) best = std::max(best, used_ratio(tile, rows, columns, *device.multiprocessors));
  return best;
}

double attention_flops_per_s(const DeviceProfile& device, std::int64_t tokens) {
  const double rate = device.attention_flops_per_s.value_or(kAttentionOfMatmulRatio * device.matmul_bf16_flops_per_s);
  if (tokens <= 0) return rate;
  return rate * (1 + kDiagonalTokens / kAttentionProfileTokens) / (1 + kDiagonalTokens / d(tokens));
}

std::int64_t Collective::wire_bytes() const {
  switch (kind) {
    case CollectiveKind::all_gather:
    case CollectiveKind::all_to_all:
    case CollectiveKind::reduce_scatter: return payload_bytes / ranks * (ranks - 1);
    case CollectiveKind::all_reduce: return 2 * payload_bytes / ranks * (ranks - 1);
    case CollectiveKind::reduce:
    case CollectiveKind::broadcast: return ranks > 1 ? payload_bytes : 0;
  }
  return 0;
}

double collective_s(const Collective& collective, const Cluster& cluster) {
  if (collective.ranks <= 1) return 0;
  const DeviceProfile& device = cluster.device;
  const std::int64_t local = ranks_in_a_node(collective, cluster);
  const bool between_nodes = local < collective.ranks;
  const double network = d(local) * cluster.network_bytes_per_s;
  const double bandwidth = !between_nodes ? device.link_bytes_per_s : local > 1 ? std::min(network, device.link_bytes_per_s) : network;
  const double latency = device.launch_s + device.link_latency_s + steps_s(collective, local, cluster);
  return latency + (bandwidth > 0 ? d(collective.wire_bytes()) / bandwidth : 0);
}

}  // namespace zeroplan
