// MapView: memory as a picture: address upwards, time to the right. Of our own engine every tensor is a rectangle at its planned address; of the others the allocator's segments are
// outlined and named by stream, blocks coloured, free space and rounding hatched. Hover names, a click (or ↑/↓ from it) says what lies next to a block, the wheel zooms, a drag pans.
// An emulated map is made on a thread of its own and only while it is seen; until it is there the one before it stays, marked. Leaves out where the addresses come from.
#pragma once

#include <QImage>
#include <QThreadPool>
#include <QTimer>
#include <QWidget>
#include <memory>
#include <optional>

#include "gui/models/memory_map.h"
#include "gui/models/raster.h"
#include "gui/views/look.h"
#include "gui/views/svg_device.h"

namespace zeroplan::gui {

class MapView : public QWidget {
  Q_OBJECT

 public:
  explicit MapView(const Look& look, QWidget* parent = nullptr);
  /// A hidden map costs nothing.
  void set_plan(std::shared_ptr<const Answered> plan);
  void fit();
  /// The picture as it is on the screen.
  void draw(QPainter& painter, Medium medium);

  /// What is drawn; null before the first.
  const MemoryMap* map() const { return map_.get(); }
  /// Whether it is the plan's, and not still the one before it.
  bool is_current() const { return plan_ != nullptr && drawn_ == plan_; }
  void select(std::optional<std::size_t> rectangle, std::uint32_t instant);
  /// Of the block that was clicked; empty: none.
  const QString& note() const { return note_; }

 protected:
  void paintEvent(QPaintEvent* event) override;
  void showEvent(QShowEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void mousePressEvent(QMouseEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mouseReleaseEvent(QMouseEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;
  void leaveEvent(QEvent* event) override;
  bool event(QEvent* event) override;

 private:
  void make_map();
  void show_map(std::shared_ptr<const Answered> plan, std::shared_ptr<const MemoryMap> map, const QString& problem);
  bool has_segments() const { return map_ != nullptr && !map_->segments.empty(); }

  QRect plot() const;
  double x_of(SimTime time) const;
  double y_of(std::int64_t height_bytes) const;
  QRectF box_of(TimeSpan time, std::int64_t begin_bytes, std::int64_t end_bytes) const;
  std::optional<std::size_t> rectangle_at(QPoint point) const;
  QString words_at(QPoint point) const;
  void set_view(double from, double to, double low, double high);

  void draw_blocks();
  void draw_block_vectors(QPainter& painter) const;
  void draw_segments(QPainter& painter);
  void draw_heads(QPainter& painter);
  void draw_axes(QPainter& painter);
  void draw_repeats(QPainter& painter);
  void draw_legend(QPainter& painter);
  void draw_note(QPainter& painter);
  QColor stream_colour(Stream stream) const;

  const Look& look_;
  std::shared_ptr<const Answered> plan_, drawn_;  ///< what is asked for; what map_ is of
  std::shared_ptr<const MemoryMap> map_;
  QString problem_;
  double from_ratio_ = 0, to_ratio_ = 1;   // of the step
  double low_ratio_ = 0, high_ratio_ = 1;  // of the height
  std::optional<std::size_t> hovered_, selected_;
  std::uint32_t selected_at_ = 0;
  QString note_;
  QPoint pressed_;
  bool panning_ = false;
  QImage image_;
  bool image_is_current_ = false;
  QTimer late_;       ///< runs out when the drawn map has not been the plan's for long enough to be marked
  QThreadPool maker_;  ///< last: waits for what still runs, which posts to this object
};

}  // namespace zeroplan::gui
