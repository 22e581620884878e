// SvgDevice: a picture's own drawing code, written as SVG text: paths, texts and clips stay vectors. For views whose picture has no form outside Qt; a plan's step has
// one (models/svg.h). Fonts are named, not embedded. Leaves out gradients and images: a view draws shapes instead where it is asked for vectors.
#pragma once

#include <QSize>
#include <functional>
#include <string>
#include <vector>

class QPainter;
class QWidget;

namespace zeroplan::gui {

/// Where a view's picture goes. vectors: nothing of it may be an image of pixels.
enum class Medium : unsigned char { screen, vectors };

/// Something drawn with a corner at (0, 0).
struct Drawing {
  QSize size;
  std::function<void(QPainter& painter)> draw;
};

/// The drawings below each other, in the font and at the resolution of `like`.
std::string svg_of_drawings(const std::vector<Drawing>& drawings, const QWidget& like);

}  // namespace zeroplan::gui
