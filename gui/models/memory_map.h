// The memory map: address × time of one step as rectangles, from a layout. Leaves out pixels.
#pragma once

#include <vector>

#include "gui/models/workbench.h"

namespace zeroplan::gui {

struct MapRectangle {
  TimeSpan time;
  std::int64_t begin_bytes = 0, end_bytes = 0;  ///< addresses in the arena
  Category category = Category::scratch;
  std::size_t life = 0;  ///< index into picture.lives
};

/// One rectangle a life, in the order of picture.lives. Empty without a layout.
std::vector<MapRectangle> map_of(const Answered& answered);

}  // namespace zeroplan::gui
