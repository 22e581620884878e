#include "gui/models/raster.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace zeroplan::gui {
namespace {

struct Change {
  int row = 0;
  int column = 0;
  Pixel colour = 0;
};

constexpr double kGib = 1 << 30;

std::int64_t round_step(double least, double unit) {
  double step = unit;
  for (;;)
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (step * factor >= least) return static_cast<std::int64_t>(std::ceil(step * factor));
      if (factor == 5.0) step *= 10;
    }
}

}  // namespace

int row_of(std::int64_t bytes, const RasterStyle& style) {
  const double part = static_cast<double>(bytes) / static_cast<double>(std::max<std::int64_t>(style.top_bytes, 1));
  return std::clamp(style.height - static_cast<int>(std::lround(part * style.height)), 0, style.height);
}

void raster(std::span<const StackedSeries::Column> columns, const RasterStyle& style, std::span<Pixel> pixels) {
  const std::size_t width = columns.size();
  std::vector<Change> changes;
  changes.reserve(width * kCategoryCount);
  std::vector<int> count(static_cast<std::size_t>(style.height) + 2, 0);
  for (std::size_t c = 0; c < width; ++c) {
    std::array<int, kCategoryCount> upper{};
    std::int64_t sum = 0;
    for (std::size_t k = 0; k < kStackOrder.size(); ++k) {
      const auto category = static_cast<std::size_t>(kStackOrder[k]);
      if (style.colours[category] != 0) sum += columns[c].stack[category];
      upper[k] = row_of(sum, style);
    }
    // From the top band down, so that where bands share a row the lower one wins.
    for (std::size_t k = kStackOrder.size(); k-- > 0;) {
      const Pixel colour = style.colours[static_cast<std::size_t>(kStackOrder[k])];
      const int below = k == 0 ? style.height : upper[k - 1];
      if (colour == 0 || upper[k] >= below) continue;
      changes.push_back({upper[k], static_cast<int>(c), colour});
      ++count[static_cast<std::size_t>(upper[k]) + 1];
    }
  }
  for (std::size_t r = 1; r < count.size(); ++r) count[r] += count[r - 1];
  std::vector<Change> by_row(changes.size());
  std::vector<int> next(count.begin(), count.end());
  for (const Change& change : changes) by_row[static_cast<std::size_t>(next[static_cast<std::size_t>(change.row)]++)] = change;

  std::vector<Pixel> row(width, style.background);
  for (int y = 0; y < style.height; ++y) {
    for (int i = count[static_cast<std::size_t>(y)]; i < count[static_cast<std::size_t>(y) + 1]; ++i)
      row[static_cast<std::size_t>(by_row[static_cast<std::size_t>(i)].column)] = by_row[static_cast<std::size_t>(i)].colour;
    std::memcpy(pixels.data() + static_cast<std::size_t>(y) * width, row.data(), width * sizeof(Pixel));
  }
}

std::int64_t byte_tick(std::int64_t top_bytes, int most) {
  const double least = static_cast<double>(std::max<std::int64_t>(top_bytes, 1)) / std::max(most, 1);
  // Sizes from a tenth of a GiB on are written in GiB (format_gib), smaller ones in the unit they reach.
  if (least > 0.05 * kGib) return round_step(least, 0.1 * kGib);
  double unit = 1;
  while (unit * 1024 <= least * 2) unit *= 1024;
  return round_step(least, unit);
}

std::int64_t time_tick(std::int64_t span_ns, int most) { return round_step(static_cast<double>(std::max<std::int64_t>(span_ns, 1)) / std::max(most, 1), 1); }

}  // namespace zeroplan::gui
