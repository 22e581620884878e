// Pixels of a stacked picture, without a window: columns of a StackedSeries to rows of 32-bit colours. Every row is the row above plus its few changes, so that
// a frame costs little more than a copy of its pixels.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "gui/models/stacked_series.h"

namespace zeroplan::gui {

using Pixel = std::uint32_t;  ///< 0xAARRGGBB

/// From the bottom of the picture to its top: what stays first, what comes and goes above it.
inline constexpr std::array<Category, kCategoryCount> kStackOrder{Category::parameters,  Category::optimizer,       Category::gradients,             Category::gathered_parameters,
                                                                  Category::activations, Category::logits_and_loss, Category::communication_buffers, Category::scratch};

struct RasterStyle {
  std::array<Pixel, kCategoryCount> colours{};  ///< by Category; 0: not drawn
  Pixel background = 0;
  std::int64_t top_bytes = 1;  ///< bytes at the upper edge
  int height = 1;
};

/// Row of the upper edge of `bytes`: 0 is the top row, `height` the floor. Clamped to the picture.
int row_of(std::int64_t bytes, const RasterStyle& style);

/// Fills `pixels` (columns.size() × height, row by row).
void raster(std::span<const StackedSeries::Column> columns, const RasterStyle& style, std::span<Pixel> pixels);

/// A round step for an axis of sizes, so that [0, top] has at most `most` of them: 1, 2 or 5 × 10^k of the unit that people read.
std::int64_t byte_tick(std::int64_t top_bytes, int most);
/// The same for times: 1, 2 or 5 × 10^n nanoseconds.
std::int64_t time_tick(std::int64_t span_ns, int most);

}  // namespace zeroplan::gui
