#include "planner/ops/rates.h"

#include <catch2/catch.hpp>

#include "profiles/catalog.h"

using namespace zeroplan;

namespace {
constexpr std::int64_t kA100Multiprocessors = 108;

DeviceProfile device_of(std::int64_t multiprocessors) {
  DeviceProfile device;
  device.multiprocessors = multiprocessors;
  return device;
}

/// Seconds of a collective of 8 ranks on `nodes` nodes of 8 / nodes GPUs: 10 GB/s inside, 1 GB/s a port between; 1 µs and 1 ms a step.
Cluster round_cluster(std::int64_t nodes) {
  Cluster cluster;
  cluster.nodes = nodes;
  cluster.gpus_per_node = 8 / nodes;
  cluster.device.link_bytes_per_s = 1e10;
  cluster.device.link_step_s = 1e-6;
  cluster.network_bytes_per_s = 1e9;
  cluster.network_latency_s = 1e-3;
  return cluster;
}
}  // namespace

TEST_CASE("a product runs in whole waves of tiles, and tiles in the result's corner are computed whole", "[unit]") {
  const DeviceProfile device = device_of(16);
  CHECK(wave_ratio(4 * 256, 4 * 128, device) == Approx(1));       // 16 tiles: one wave
  CHECK(wave_ratio(4 * 256, 2 * 128, device) == Approx(0.9));     // half a wave of large tiles, one wave of 128 × 128
  CHECK(wave_ratio(8 * 4 * 256, 4 * 128 + 1, device) < 0.95);     // a column more is a tile more in each row of tiles
  CHECK(wave_ratio(1, 1, device) < 0.01);
  CHECK(wave_ratio(100, 100, DeviceProfile{}) == 1);              // multiprocessors not said
  CHECK(wave_ratio(0, 100, device) == 1);                         // shape not said
}

TEST_CASE("never more than the device, and a product eight times as large is no less efficient", "[property]") {
  const DeviceProfile device = device_of(kA100Multiprocessors);
  for (std::int64_t rows = 64; rows <= 40000; rows = rows * 3 / 2)
    for (std::int64_t columns = 64; columns <= 40000; columns = columns * 3 / 2) {
      INFO(rows << " x " << columns);
      CHECK(wave_ratio(rows, columns, device) <= 1);
      CHECK(wave_ratio(8 * rows, 8 * columns, device) > 0.95 * wave_ratio(rows, columns, device));
    }
  CHECK(wave_ratio(1 << 15, 1 << 15, device) > 0.99);
}

TEST_CASE("attention's rate falls with short sequences as FlashAttention-2's README has it", "[published]") {
  struct Published {
    const char* device;
    double tflops_per_s[6];  // 512 to 16384 tokens, causal, head dimension 128, forward and backward
    double within_ratio;
  };
  for (const Published& p : {Published{"a100-80g", {99, 133, 155, 173, 182, 189}, 0.04}, Published{"h100-80g", {163, 221, 265, 294, 308, 328}, 0.07}}) {
    const DeviceProfile device = catalogue_device(p.device);
    for (int i = 0; i < 6; ++i) {
      INFO(p.device << " " << (512 << i));
      CHECK(attention_flops_per_s(device, 512 << i) / 1e12 == Approx(p.tflops_per_s[i]).epsilon(p.within_ratio));
    }
  }
}

TEST_CASE("a ring's steps cost latency: n - 1 of them, one for each further node over the network", "[unit]") {
  const auto latency_s = [](CollectiveKind kind, std::int64_t nodes) { return collective_s({.kind = kind, .payload_bytes = 0, .ranks = 8}, round_cluster(nodes)); };
  CHECK(latency_s(CollectiveKind::all_gather, 1) == Approx(7e-6));
  CHECK(latency_s(CollectiveKind::reduce_scatter, 2) == Approx(6e-6 + 1e-3));
  CHECK(latency_s(CollectiveKind::all_gather, 8) == Approx(7e-3));
  CHECK(latency_s(CollectiveKind::all_reduce, 8) == Approx(2 * 3e-3));  // a tree, three levels up and down
  CHECK(latency_s(CollectiveKind::broadcast, 2) == Approx(1e-3));
}

TEST_CASE("between nodes a ring has a port for each of its ranks in a node, up to the links' rate", "[unit]") {
  const Collective gather{.kind = CollectiveKind::all_gather, .payload_bytes = 8'000'000'000, .ranks = 8};
  CHECK(collective_s(gather, round_cluster(1)) == Approx(0.7 + 7e-6));
  CHECK(collective_s(gather, round_cluster(2)) == Approx(7.0 / 4 + 1e-3 + 6e-6));
  Cluster fast = round_cluster(2);
  fast.network_bytes_per_s = 1e12;
  CHECK(collective_s(gather, fast) == Approx(0.7 + 1e-3 + 6e-6));
}
