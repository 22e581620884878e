// MapView: the arena as a picture: address upwards, time to the right, every tensor a rectangle at its planned address. Hover names it, the wheel zooms, a drag
// pans. Leaves out where the addresses come from (planner/layout).
#pragma once

#include <QImage>
#include <QWidget>
#include <memory>
#include <optional>

#include "gui/models/memory_map.h"
#include "gui/views/look.h"

namespace zeroplan::gui {

class MapView : public QWidget {
  Q_OBJECT

 public:
  explicit MapView(const Look& look, QWidget* parent = nullptr);
  /// Rectangles are made when they are first seen: a hidden map costs nothing.
  void set_plan(std::shared_ptr<const Answered> plan);
  void fit();

 protected:
  void paintEvent(QPaintEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void mousePressEvent(QMouseEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void leaveEvent(QEvent* event) override;
  bool event(QEvent* event) override;

 private:
  QRect plot() const;
  double x_of(SimTime time) const;
  double y_of(std::int64_t address_bytes) const;
  std::optional<std::size_t> rectangle_at(QPoint point) const;
  QString words_of(std::size_t rectangle) const;
  void draw_rectangles();
  void draw_absence(QPainter& painter);

  const Look& look_;
  std::shared_ptr<const Answered> plan_;
  std::vector<MapRectangle> rectangles_;
  double from_ratio_ = 0, to_ratio_ = 1;          // of the step
  double low_ratio_ = 0, high_ratio_ = 1;         // of the arena
  std::optional<std::size_t> hovered_;
  QPoint pressed_;
  QImage image_;
};

}  // namespace zeroplan::gui
