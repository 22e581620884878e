// CompareView: two curves over each other on a common axis with their difference below, or one curve as a stack of its bands. Wheel zooms, a drag pans, a click or
// Shift+arrow selects an instant; without a selection the peaks are looked at. Leaves out where curves come from.
#pragma once

#include <QImage>
#include <QWidget>
#include <memory>
#include <optional>

#include "gui/models/curve_tables.h"
#include "gui/views/look.h"
#include "gui/views/svg_device.h"

namespace zeroplan::gui {

class CompareView : public QWidget {
  Q_OBJECT

 public:
  explicit CompareView(const Look& look, QWidget* parent = nullptr);

  /// A null A: B alone.
  void set_curves(std::shared_ptr<const Curve> a, std::shared_ptr<const Curve> b);
  /// The selected instants; the peaks where nothing is selected. Alone: both are B's.
  Instants instants() const;
  void select(std::optional<double> share);
  void zoom(double factor, double centre_ratio);
  void fit() { set_part(0, 1); }
  double from() const { return from_; }
  double to() const { return to_; }
  void set_part(double from, double to);
  /// The picture as it is on the screen.
  void draw(QPainter& painter, Medium medium);

 signals:
  void selected();

 protected:
  void paintEvent(QPaintEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void mousePressEvent(QMouseEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mouseReleaseEvent(QMouseEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;
  void leaveEvent(QEvent* event) override;

 private:
  struct Places {
    QRect over, under, legend;
  };
  Places places() const;
  bool is_alone() const { return a_ == nullptr; }
  const Curve& first() const { return a_ ? *a_ : *b_; }
  double x_of(double share) const;
  double share_at(double x) const;
  Instants instants_at(double share) const;
  double top_bytes() const;
  double y_of(double bytes) const;

  void draw_sizes(QPainter& painter);
  void draw_stack(QPainter& painter, Medium medium);
  void draw_legend(QPainter& painter);
  void draw_curves(QPainter& painter);
  void draw_difference(QPainter& painter, const std::vector<AlignedColumn>& columns);
  void draw_phases(QPainter& painter);
  void draw_ends(QPainter& painter);
  void draw_limits(QPainter& painter);
  void draw_instant(QPainter& painter, double share, bool with_words);

  const Look& look_;
  std::shared_ptr<const Curve> a_, b_;
  double from_ = 0, to_ = 1;
  std::optional<double> selected_;
  std::optional<QPoint> hover_;
  QPoint pressed_;
  double pressed_from_ = 0, pressed_to_ = 1;
  bool panning_ = false;
  QImage image_;
};

}  // namespace zeroplan::gui
