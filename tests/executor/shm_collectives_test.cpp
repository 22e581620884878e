#include "executor/shm_collectives.h"

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <fmt/format.h>

#include "executor/launcher.h"
#include "planner/core/error.h"

namespace zeroplan {
namespace {

// Runs body on every rank; a rank says what is wrong by throwing.
LaunchResult on_ranks(std::int64_t world, const std::function<void(RankContext&)>& body) {
  return launch({.world = world, .stuck_after_s = 20.0}, [&](RankContext& context) {
    body(context);
    return 0;
  });
}

void require_well(const LaunchResult& result) {
  INFO(result.message);
  REQUIRE(result.exit_code == 0);
}

void expect(bool holds, const std::string& what) {
  if (!holds) throw RunError(what);
}

// Magnitudes differ by 2^40, so that another order of the same sum gives other bits.
double value_at(std::int64_t rank, std::int64_t i) {
  std::uint64_t x = static_cast<std::uint64_t>(rank * 1'000'003 + i + 1) * 0x9e3779b97f4a7c15ULL;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 32;
  const double mantissa = 1.0 + static_cast<double>(x % 1'000'003) / 1'000'003.0;
  return std::ldexp((x >> 40) % 2 == 0 ? mantissa : -mantissa, static_cast<int>((x >> 50) % 40) - 20);
}

// Rounding by distance to the two neighbours: another way than the implementation's.
std::uint16_t nearest_bf16(float value) {
  if (std::isnan(value)) return 0x7fc0;
  const std::uint32_t low_bits = std::bit_cast<std::uint32_t>(value) & 0xffff0000U;
  const auto low = static_cast<double>(std::bit_cast<float>(low_bits));
  if (std::isinf(low)) return static_cast<std::uint16_t>(low_bits >> 16);
  const bool next_is_infinite = (low_bits & 0x7fff0000U) == 0x7f7f0000U;
  const double step = next_is_infinite ? std::copysign(std::ldexp(1.0, 128), low) - low : static_cast<double>(std::bit_cast<float>(low_bits + 0x10000U)) - low;
  const double part = (static_cast<double>(value) - low) / step;
  const bool up = part > 0.5 || (part == 0.5 && (low_bits & 0x10000U) != 0);
  return static_cast<std::uint16_t>((low_bits >> 16) + (up ? 1 : 0));
}

struct Fp32 {
  using Stored = float;
  using Sum = float;
  static constexpr Dtype dtype = Dtype::fp32;
  static Stored make(double value) { return static_cast<float>(value); }
  static Sum load(Stored value) { return value; }
  static Stored round(Sum sum) { return sum; }
};
struct Fp64 {
  using Stored = double;
  using Sum = double;
  static constexpr Dtype dtype = Dtype::fp64;
  static Stored make(double value) { return value; }
  static Sum load(Stored value) { return value; }
  static Stored round(Sum sum) { return sum; }
};
struct Bf16 {
  using Stored = std::uint16_t;
  using Sum = float;
  static constexpr Dtype dtype = Dtype::bf16;
  static Stored make(double value) { return nearest_bf16(static_cast<float>(value)); }
  static Sum load(Stored value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16); }
  static Stored round(Sum sum) { return nearest_bf16(sum); }
};

template <class T>
std::vector<typename T::Stored> inputs_of(std::int64_t rank, std::int64_t elems) {
  std::vector<typename T::Stored> values(static_cast<std::size_t>(elems));
  for (std::int64_t i = 0; i < elems; ++i) values[static_cast<std::size_t>(i)] = T::make(value_at(rank, i));
  return values;
}

template <class T>
std::vector<typename T::Stored> sequential_sum(std::int64_t world, std::int64_t elems) {
  std::vector<typename T::Sum> sums(static_cast<std::size_t>(elems));
  for (std::int64_t rank = 0; rank < world; ++rank) {
    const auto values = inputs_of<T>(rank, elems);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = rank == 0 ? T::load(values[i]) : sums[i] + T::load(values[i]);
  }
  std::vector<typename T::Stored> rounded;
  for (const auto sum : sums) rounded.push_back(T::round(sum));
  return rounded;
}

template <class T>
void expect_same_bits(const typename T::Stored* got, const typename T::Stored* want, std::int64_t elems, const std::string& what) {
  for (std::int64_t i = 0; i < elems; ++i)
    if (std::memcmp(got + i, want + i, sizeof *got) != 0) throw RunError(fmt::format("{}: element {} of {} differs", what, i, elems));
}

// 1 MiB slots hold 131,072 fp64, 262,144 fp32, 524,288 bf16: empty, tiny, just around a chunk, several chunks and a rest.
const std::vector<std::int64_t> kSizes = {0, 1, 3, 1000, 131'072, 262'145, 600'011};

template <class T>
void check_all_reduce(RankContext& context) {
  for (const std::int64_t elems : kSizes) {
    auto data = inputs_of<T>(context.rank, elems);
    context.collectives.all_reduce(data.data(), elems, T::dtype);
    expect_same_bits<T>(data.data(), sequential_sum<T>(context.world, elems).data(), elems, "all_reduce");
  }
}

template <class T>
void check_reduce_scatter(RankContext& context) {
  for (const std::int64_t shard_elems : kSizes) {
    const std::int64_t elems = shard_elems * context.world;
    const auto before = inputs_of<T>(context.rank, elems);
    auto full = before;
    context.collectives.reduce_scatter(full.data(), shard_elems, T::dtype);
    const std::int64_t own = context.rank * shard_elems;
    expect_same_bits<T>(full.data() + own, sequential_sum<T>(context.world, elems).data() + own, shard_elems, "reduce_scatter");
    expect_same_bits<T>(full.data(), before.data(), own, "slices before the own one");
    expect_same_bits<T>(full.data() + own + shard_elems, before.data() + own + shard_elems, elems - own - shard_elems, "slices after the own one");
  }
}

std::byte byte_at(std::int64_t rank, std::int64_t i) { return static_cast<std::byte>((rank * 77 + i * 31 + i / 251) % 256); }

void check_all_gather(RankContext& context, bool in_place) {
  for (const std::int64_t shard_bytes : std::vector<std::int64_t>{0, 1, 1000, (1 << 20) - 1, (1 << 20) + 1, 3'000'001}) {
    std::vector<std::byte> full(static_cast<std::size_t>(shard_bytes * context.world), std::byte{0xaa});
    std::vector<std::byte> apart(static_cast<std::size_t>(shard_bytes));
    std::byte* shard = in_place ? full.data() + context.rank * shard_bytes : apart.data();
    for (std::int64_t i = 0; i < shard_bytes; ++i) shard[i] = byte_at(context.rank, i);
    context.collectives.all_gather(shard, full.data(), shard_bytes);
    for (std::int64_t rank = 0; rank < context.world; ++rank)
      for (std::int64_t i = 0; i < shard_bytes; ++i)
        if (full[static_cast<std::size_t>(rank * shard_bytes + i)] != byte_at(rank, i))
          throw RunError(fmt::format("rank {}'s byte {} of {} differs", rank, i, shard_bytes));
  }
}

}  // namespace

TEST_CASE("an all-reduce gives every rank the bits of the sum in rank order", "[unit]") {
  const auto world = GENERATE(std::int64_t{1}, 2, 3, 4);
  require_well(on_ranks(world, [](RankContext& context) {
    check_all_reduce<Fp32>(context);
    check_all_reduce<Bf16>(context);
    check_all_reduce<Fp64>(context);
  }));
}

TEST_CASE("a reduce-scatter leaves the bits of the sum in rank order in the own slice and the other slices as they were", "[unit]") {
  const auto world = GENERATE(std::int64_t{1}, 2, 3, 4);
  require_well(on_ranks(world, [](RankContext& context) {
    check_reduce_scatter<Fp32>(context);
    check_reduce_scatter<Bf16>(context);
    check_reduce_scatter<Fp64>(context);
  }));
}

TEST_CASE("an all-gather brings every rank's bytes, in place and out of place", "[unit]") {
  const auto world = GENERATE(std::int64_t{1}, 2, 3, 4);
  require_well(on_ranks(world, [](RankContext& context) {
    check_all_gather(context, false);
    check_all_gather(context, true);
  }));
}

TEST_CASE("the inputs of these tests do sum differently in another order", "[unit]") {
  const auto a = inputs_of<Fp32>(0, 1000), b = inputs_of<Fp32>(1, 1000), c = inputs_of<Fp32>(2, 1000);
  int different = 0;
  for (std::size_t i = 0; i < a.size(); ++i) different += (a[i] + b[i]) + c[i] != a[i] + (b[i] + c[i]) ? 1 : 0;
  REQUIRE(different > 100);
}

TEST_CASE("bf16 sums round once, ties to even, keep infinities and signed zeros, and turn every NaN into 0x7fc0", "[unit]") {
  struct Case {
    std::uint16_t first, second, sum;
  };
  // 0x3f80 is 1, a unit in its last place 2^-7; 0x3b80 is 2^-8, half of that.
  const std::vector<Case> cases = {{0x3f80, 0x3b80, 0x3f80},    // 1 + half a unit: a tie, down to even
                                   {0x3f81, 0x3b80, 0x3f82},    // odd + half a unit: a tie, up to even
                                   {0x3f80, 0x3b81, 0x3f81},    // a little more than half: up
                                   {0x7f7f, 0x7f7f, 0x7f80},    // overflow: infinity
                                   {0xff80, 0x3f80, 0xff80},    // -inf + 1
                                   {0x7f80, 0xff80, 0x7fc0},    // inf - inf
                                   {0xffff, 0x3f80, 0x7fc0},    // a NaN whose rounding would carry into the sign
                                   {0x8000, 0x8000, 0x8000},    // -0 + -0
                                   {0x0001, 0x0001, 0x0002}};   // subnormals
  require_well(on_ranks(2, [&](RankContext& context) {
    for (const Case& each : cases) {
      std::uint16_t value = context.rank == 0 ? each.first : each.second;
      context.collectives.all_reduce(&value, 1, Dtype::bf16);
      expect(value == each.sum, fmt::format("{:04x} + {:04x} = {:04x}, not {:04x}", each.first, each.second, each.sum, value));
    }
  }));
}

TEST_CASE("three bf16 values are summed in fp32 and rounded only at the end", "[unit]") {
  require_well(on_ranks(3, [](RankContext& context) {
    std::uint16_t value = context.rank == 0 ? 0x3f80 : 0x3b80;  // 1 + 2^-8 + 2^-8: rounding in between would lose both
    context.collectives.all_reduce(&value, 1, Dtype::bf16);
    expect(value == 0x3f81, fmt::format("{:04x}", value));
  }));
}

TEST_CASE("payload is counted as full buffers, an all-reduce twice, in a world of one too", "[unit]") {
  const auto world = GENERATE(std::int64_t{1}, 3);
  require_well(on_ranks(world, [](RankContext& context) {
    std::vector<double> data(300);
    context.collectives.all_gather(data.data() + context.rank * 100, data.data(), 800);
    context.collectives.reduce_scatter(data.data(), 100, Dtype::fp32);
    context.collectives.reduce_scatter(data.data(), 10, Dtype::bf16);
    context.collectives.all_reduce(data.data(), 7, Dtype::fp64);
    context.collectives.barrier();
    const CollectiveCounts want{.all_gather_bytes = context.world * 800, .reduce_scatter_bytes = context.world * 420, .all_reduce_bytes = 112};
    expect(context.collectives.counts() == want, "counts differ");
  }));
}

TEST_CASE("integers are refused, and nothing is counted for the refused call", "[unit]") {
  const auto world = GENERATE(std::int64_t{1}, 2);
  require_well(on_ranks(world, [](RankContext& context) {
    std::vector<std::int32_t> data(8);
    int refused = 0;
    try {
      context.collectives.all_reduce(data.data(), 8, Dtype::int32);
    } catch (const std::invalid_argument&) {
      ++refused;
    }
    try {
      context.collectives.reduce_scatter(data.data(), 2, Dtype::int32);
    } catch (const std::invalid_argument&) {
      ++refused;
    }
    expect(refused == 2 && context.collectives.counts() == CollectiveCounts{}, "int32 was summed or counted");
  }));
}

TEST_CASE("ranks that make different calls are told both calls", "[unit]") {
  const LaunchResult result = on_ranks(2, [](RankContext& context) {
    std::vector<float> data(64);
    context.collectives.barrier();
    if (context.rank == 0) context.collectives.all_gather(data.data(), data.data(), 128);
    if (context.rank == 1) context.collectives.all_reduce(data.data(), 64, Dtype::fp32);
  });
  REQUIRE(result.exit_code == 5);
  REQUIRE_THAT(result.message, Catch::Contains("rank 0 calls all_gather of 256 bytes, rank 1 calls all_reduce of 256 bytes of fp32"));
}

TEST_CASE("ranks that make the same call with different sizes or types are told both", "[unit]") {
  const LaunchResult sizes = on_ranks(3, [](RankContext& context) {
    std::vector<float> data(64);
    context.collectives.all_reduce(data.data(), context.rank == 2 ? 33 : 32, Dtype::fp32);
  });
  REQUIRE_THAT(sizes.message, Catch::Contains("rank 0 calls all_reduce of 128 bytes of fp32, rank 2 calls all_reduce of 132 bytes of fp32"));
  const LaunchResult types = on_ranks(2, [](RankContext& context) {
    std::vector<float> data(64);
    if (context.rank == 0) context.collectives.reduce_scatter(data.data(), 8, Dtype::fp32);
    if (context.rank == 1) context.collectives.reduce_scatter(data.data(), 16, Dtype::bf16);
  });
  REQUIRE_THAT(types.message, Catch::Contains("64 bytes of fp32") && Catch::Contains("64 bytes of bf16"));
}

TEST_CASE("no rank leaves a barrier before all have come", "[unit]") {
  const SharedArea area(Bytes(4096));
  auto& came = *new (area.data()) std::atomic<std::int64_t>(0);
  require_well(on_ranks(4, [&](RankContext& context) {
    for (std::int64_t round = 1; round <= 2000; ++round) {
      came.fetch_add(1);
      context.collectives.barrier();
      expect(came.load() >= round * context.world, "somebody had not come");
    }
  }));
  REQUIRE(came.load() == 8000);
}

TEST_CASE("a stopped world turns a rank out of its collective", "[unit]") {
  ShmWorld shared(2);
  ShmCollectives alone(shared, 0);
  shared.stop();
  REQUIRE_THROWS_WITH(alone.barrier(), "stopped: another rank failed");
  REQUIRE_FALSE(shared.is_waiting(0));
}

TEST_CASE("a world without ranks or with too many is refused", "[unit]") {
  REQUIRE_THROWS_AS(ShmWorld(0), std::invalid_argument);
  REQUIRE_THROWS_AS(ShmWorld(ShmWorld::kMaxWorld + 1), std::invalid_argument);
}

}  // namespace zeroplan
