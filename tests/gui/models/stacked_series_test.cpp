#include "gui/models/stacked_series.h"

#include <catch2/catch.hpp>
#include <random>

#include "gui/models/raster.h"

namespace zeroplan::gui {
namespace {

struct Plain {
  std::vector<std::int64_t> times;
  std::vector<Stack> after;
};

// Changes of both signs, several at one instant now and then, sizes beyond 2^32 so that a 32-bit shortcut would be seen.
Plain random_series(std::mt19937_64& random, std::size_t events, StackedSeries& series) {
  Plain plain;
  Stack now{};
  std::int64_t time = 0;
  for (std::size_t i = 0; i < events; ++i) {
    const auto c = static_cast<std::size_t>(random() % kCategoryCount);
    const std::int64_t delta = now[c] > 0 && random() % 2 == 0 ? -now[c] : static_cast<std::int64_t>(random() % (std::uint64_t{1} << 38));
    now[c] += delta;
    if (random() % 3 != 0) time += static_cast<std::int64_t>(random() % 50);
    series.add(SimTime(time), static_cast<Category>(c), delta);
    plain.times.push_back(time);
    plain.after.push_back(now);
  }
  series.finish(SimTime(time + 10));
  return plain;
}

std::int64_t brute_maximum(const Plain& plain, std::int64_t from, std::int64_t until, bool closed) {
  std::int64_t best = 0;
  for (std::size_t i = 0; i < plain.times.size(); ++i) {
    const bool carried = plain.times[i] < from && (i + 1 == plain.times.size() || plain.times[i + 1] >= from);
    const bool inside = plain.times[i] >= from && (plain.times[i] < until || (closed && plain.times[i] == until));
    if (carried || inside) best = std::max(best, total_of(plain.after[i]));
  }
  return best;
}

}  // namespace

TEST_CASE("a pixel column's maximum is the true maximum of its stretch, the value carried in included, and its stack adds up to it", "[property]") {
  std::mt19937_64 random(20240607);
  for (int round = 0; round < 200; ++round) {
    StackedSeries series;
    const Plain plain = random_series(random, 1 + random() % 700, series);
    const std::int64_t end = series.end().value();
    const std::int64_t from = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(end));
    const std::int64_t to = from + 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(end - from));
    const int width = 1 + static_cast<int>(random() % 90);
    const auto columns = series.columns(SimTime(from), SimTime(to), width);
    REQUIRE(columns.size() == static_cast<std::size_t>(width));
    for (int c = 0; c < width; ++c) {
      const std::int64_t left = from + (to - from) * c / width, right = from + (to - from) * (c + 1) / width;
      const auto& column = columns[static_cast<std::size_t>(c)];
      REQUIRE(column.total_bytes == brute_maximum(plain, left, right, c + 1 == width));
      REQUIRE(total_of(column.stack) == column.total_bytes);
      if (right > plain.times.front()) REQUIRE(column.stack == plain.after[column.event]);  // before the first change there is nothing
    }
  }
}

TEST_CASE("the first event of the highest total is found in any range", "[property]") {
  std::mt19937_64 random(5);
  StackedSeries series;
  const Plain plain = random_series(random, 5000, series);
  for (int round = 0; round < 2000; ++round) {
    const std::size_t begin = random() % plain.after.size(), end = begin + 1 + random() % (plain.after.size() - begin);
    std::size_t expected = begin;
    for (std::size_t i = begin; i < end; ++i)
      if (total_of(plain.after[i]) > total_of(plain.after[expected])) expected = i;
    REQUIRE(series.highest(begin, end) == expected);
  }
}

TEST_CASE("a raster's bands reach exactly the row of their column's total", "[property]") {
  std::mt19937_64 random(11);
  StackedSeries series;
  random_series(random, 3000, series);
  const auto columns = series.columns(SimTime(), series.end(), 257);
  RasterStyle style;
  style.height = 111;
  style.background = 0xffffffff;
  style.top_bytes = series.total_after(series.highest(0, series.size()));
  for (std::size_t c = 0; c < style.colours.size(); ++c) style.colours[c] = static_cast<Pixel>(0xff000001 + c);
  std::vector<Pixel> pixels(257 * 111);
  raster(columns, style, pixels);
  for (std::size_t x = 0; x < 257; ++x) {
    const int top = row_of(columns[x].total_bytes, style);
    for (int y = 0; y < style.height; ++y) REQUIRE((pixels[static_cast<std::size_t>(y) * 257 + x] == style.background) == (y < top));
  }
}

TEST_CASE("axis ticks are round and few") {
  for (const std::int64_t top : {std::int64_t{1}, std::int64_t{1000}, std::int64_t{80} << 30, std::int64_t{3} << 50}) {
    REQUIRE(byte_tick(top, 6) * 6 >= top);
    REQUIRE(byte_tick(top, 6) > 0);
  }
  REQUIRE(byte_tick(std::int64_t{80} << 30, 8) == std::int64_t{10} << 30);
  REQUIRE(byte_tick(std::int64_t{3} << 30, 6) == std::int64_t{1} << 29);
  REQUIRE(byte_tick(std::int64_t{5000} << 30, 6) == std::int64_t{1000} << 30);
  REQUIRE(byte_tick(std::int64_t{300} << 20, 6) == std::int64_t{50} << 20);
  REQUIRE(time_tick(2'470'000'000, 3) == 1'000'000'000);
}

}  // namespace zeroplan::gui
