// StepView: the stacked timeline of one step with its phases, capacity lines, ghost and stream lanes on one axis. Wheel zooms, a drag pans, a click or
// Shift+arrow selects an instant. Draws in device pixels from its own image (raster.h). Leaves out where the numbers come from.
#pragma once

#include <QImage>
#include <QWidget>
#include <memory>
#include <optional>
#include <vector>

#include "gui/views/look.h"

namespace zeroplan::gui {

class StepView : public QWidget {
  Q_OBJECT

 public:
  explicit StepView(const Look& look, QWidget* parent = nullptr);

  void set_plan(std::shared_ptr<const Answered> plan, std::shared_ptr<const Answered> ghost);
  void set_preview(std::shared_ptr<const Answered> preview);
  void select_event(std::size_t event);
  std::size_t selected_event() const { return selected_; }

  /// The part of the step that is shown, as shares of its duration.
  std::pair<double, double> shown_part() const;
  void show_part(double from, double to);

  void zoom(double factor, double centre_ratio);
  void fit();
  void go_to_peak();
  void step_selection(int columns);

  QSize sizeHint() const override { return {640, 480}; }
  /// What a screen reader is told.
  QString spoken() const;

 signals:
  void selected(std::size_t event);

 protected:
  void paintEvent(QPaintEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void mousePressEvent(QMouseEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mouseReleaseEvent(QMouseEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;
  void leaveEvent(QEvent* event) override;
  void resizeEvent(QResizeEvent* event) override;

 private:
  struct Places {
    QRect plot, phases, lanes, axis, legend;
  };
  struct LegendEntry {
    QColor colour;
    QString label;
    int left = 0, row = 0;
  };
  const Places& places() const { return places_; }
  void place_parts();
  std::vector<LegendEntry> legend() const;
  std::optional<std::size_t> lane_at(QPoint point) const;
  double x_of(SimTime time) const;
  SimTime time_at(double x) const;
  double y_of(std::int64_t bytes) const;
  std::int64_t top_bytes() const;
  void set_span(SimTime from, SimTime to);

  void draw_stack(QPainter& painter);
  void draw_outline(QPainter& painter, const Answered& other, const QColor& colour, const QString& label);
  void draw_limits(QPainter& painter);
  void draw_sizes(QPainter& painter);
  void draw_phases(QPainter& painter);
  void draw_lanes(QPainter& painter);
  void draw_times(QPainter& painter);
  void draw_legend(QPainter& painter);
  void draw_selection(QPainter& painter);
  void draw_repeats(QPainter& painter);
  void draw_hover(QPainter& painter);
  void draw_lane_hover(QPainter& painter, std::size_t lane);
  void draw_note(QPainter& painter, const std::vector<std::pair<QString, QColor>>& lines);

  const Look& look_;
  std::shared_ptr<const Answered> plan_, ghost_, preview_;
  Places places_;  ///< of this size and plan
  SimTime from_, to_;
  std::size_t selected_ = 0;
  std::optional<QPoint> hover_;
  QPoint pressed_;
  SimTime pressed_from_;
  bool panning_ = false;
  std::vector<StackedSeries::Column> columns_;
  QImage image_;
};

}  // namespace zeroplan::gui
