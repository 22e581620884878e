#include "gui/models/row_index.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

namespace zeroplan::gui {

TEST_CASE("rows sort as a stable sort of their numbers does, both ways, negative, equal and infinite ones too", "[property]") {
  std::mt19937_64 random(3);
  for (int round = 0; round < 60; ++round) {
    const std::size_t count = random() % 3000;
    std::vector<double> order(count);
    for (double& number : order) {
      const auto kind = random() % 5;
      number = kind == 0 ? 0.0 : kind == 1 ? -0.0 : kind == 2 ? static_cast<double>(static_cast<std::int64_t>(random() % 100) - 50) : kind == 3 ? 1e18 * static_cast<double>(random() % 7) : -1.0 / 3 * static_cast<double>(random() % 9);
    }
    std::vector<std::uint32_t> rows(count);
    for (std::uint32_t i = 0; i < count; ++i) rows[i] = i;
    for (const bool descending : {false, true}) {
      std::vector<std::uint32_t> sorted = rows, expected = rows;
      sort_rows(sorted, order, descending);
      std::stable_sort(expected.begin(), expected.end(), [&](std::uint32_t a, std::uint32_t b) { return descending ? order[a] > order[b] : order[a] < order[b]; });
      REQUIRE(sorted == expected);
    }
  }
}

TEST_CASE("a table is sorted by number, then by text, and filtered without regard to case; its own rows do not move") {
  const RowsSource source(Table{{"name", "size"}, {{{{"beta"}, {"2", 2, 0, true}}, "", 0}, {{{"Alpha"}, {"10", 10, 0, true}}, "", 1}, {{{"gamma"}, {"2", 2, 0, true}}, "", 2}}});
  REQUIRE(rows_in_order(source, {}) == std::vector<std::uint32_t>{0, 1, 2});
  REQUIRE(rows_in_order(source, {1, true, ""}) == std::vector<std::uint32_t>{1, 0, 2});
  REQUIRE(rows_in_order(source, {0, false, ""}) == std::vector<std::uint32_t>{1, 0, 2});
  REQUIRE(rows_in_order(source, {1, false, "A"}) == std::vector<std::uint32_t>{0, 2, 1});
  REQUIRE(rows_in_order(source, {-1, true, "ALPHA"}) == std::vector<std::uint32_t>{1});
  REQUIRE(rows_in_order(source, {7, true, "nothing"}).empty());
  REQUIRE(source.table().rows[0].tag == 0);
}

}  // namespace zeroplan::gui
