// The stacked timeline as vector SVG text: deterministic, no fonts embedded. Polygons follow the same columns as the screen, so every band adds up.
#pragma once

#include <string>

#include "gui/models/plan_tables.h"

namespace zeroplan::gui {

struct SvgStyle {
  int width = 1000, height = 480;
  Palette palette{};
  Language language = Language::english;
};

std::string svg_of(const Answered& answered, const SvgStyle& style);

}  // namespace zeroplan::gui
