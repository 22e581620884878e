#include "gui/views/map_view.h"

#include <QHelpEvent>
#include <QPainter>
#include <QToolTip>
#include <QWheelEvent>
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "gui/models/raster.h"
#include "planner/core/format.h"

namespace zeroplan::gui {
namespace {

constexpr int kMarginLeft = 78, kMarginTop = 46, kMarginRight = 16, kMarginBottom = 52;

// Neighbours of one category stay apart: every other instance a little darker.
Pixel shade(Pixel colour, std::size_t instance) {
  const QColor base = QColor::fromRgb(colour);
  return (instance % 2 == 0 ? base : base.darker(114)).rgb();
}

}  // namespace

MapView::MapView(const Look& look, QWidget* parent) : QWidget(parent), look_(look) {
  setMouseTracking(true);
  setFocusPolicy(Qt::StrongFocus);
  setObjectName("map_view");
}

void MapView::set_plan(std::shared_ptr<const Answered> plan) {
  plan_ = std::move(plan);
  rectangles_.clear();
  hovered_.reset();
  setAccessibleName(plan_->ours ? look_.filled("arena {}", {format_gib(plan_->prediction.must_fit)}) : look_.filled("reserved {}", {format_gib(plan_->prediction.must_fit)}));
  update();
}

void MapView::fit() {
  from_ratio_ = low_ratio_ = 0;
  to_ratio_ = high_ratio_ = 1;
  update();
}

QRect MapView::plot() const { return rect().adjusted(kMarginLeft, kMarginTop, -kMarginRight, -kMarginBottom); }

double MapView::x_of(SimTime time) const {
  const double ratio = seconds(time) / std::max(seconds(plan_->picture.duration), 1e-12);
  return plot().left() + plot().width() * (ratio - from_ratio_) / (to_ratio_ - from_ratio_);
}

double MapView::y_of(std::int64_t address_bytes) const {
  const double ratio = static_cast<double>(address_bytes) / static_cast<double>(std::max<std::int64_t>(plan_->prediction.must_fit.value(), 1));
  return plot().bottom() + 1 - plot().height() * (ratio - low_ratio_) / (high_ratio_ - low_ratio_);
}

void MapView::draw_rectangles() {
  const double dpr = devicePixelRatioF();
  const QRect place = plot();
  const int w = std::max(1, static_cast<int>(place.width() * dpr)), h = std::max(1, static_cast<int>(place.height() * dpr));
  if (image_.width() != w || image_.height() != h) image_ = QImage(w, h, QImage::Format_RGB32);
  image_.fill(look_.theme.panel);
  for (std::size_t i = 0; i < rectangles_.size(); ++i) {
    const MapRectangle& r = rectangles_[i];
    const int left = std::clamp(static_cast<int>(std::floor((x_of(r.time.begin) - place.left()) * dpr)), 0, w), top = std::clamp(static_cast<int>(std::floor((y_of(r.end_bytes) - place.top()) * dpr)), 0, h);
    // What is too short or too small for a pixel still shows as one.
    const int right = std::clamp(std::max(left + 1, static_cast<int>(std::floor((x_of(r.time.end) - place.left()) * dpr))), 0, w);
    const int bottom = std::clamp(std::max(top + 1, static_cast<int>(std::floor((y_of(r.begin_bytes) - place.top()) * dpr))), 0, h);
    const Pixel colour = i == hovered_ ? look_.theme.text.rgb() : shade(look_.theme.palette[static_cast<std::size_t>(r.category)], static_cast<std::size_t>(plan_->picture.lives[r.life].instance));
    for (int y = top; y < bottom; ++y) {
      auto* row = reinterpret_cast<Pixel*>(image_.scanLine(y));
      std::fill(row + left, row + right, colour);
    }
  }
}

void MapView::draw_absence(QPainter& painter) {
  const Plan& plan = plan_->asked.question.plan;
  painter.setPen(look_.theme.faint);
  painter.drawText(rect().adjusted(40, 40, -40, -40), Qt::AlignCenter | Qt::TextWordWrap,
                   look_.filled("Addresses exist for the zeroplan engine only. {} takes memory from PyTorch's caching allocator, whose reserved bytes the verdict counts.", {engine_words(plan.engine, plan.tool)}));
}

void MapView::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  painter.fillRect(rect(), look_.theme.base);
  if (plan_ && !plan_->ours) draw_absence(painter);
  if (!plan_ || plan_->layout() == nullptr) return;
  const QRect place = plot();
  if (rectangles_.empty()) rectangles_ = map_of(*plan_);
  draw_rectangles();
  painter.drawImage(QRectF(place), image_, QRectF(0, 0, image_.width(), image_.height()));
  painter.setPen(look_.theme.text);
  const Layout& layout = *plan_->layout();
  const QRect head(kMarginLeft, 4, place.width(), 18);
  painter.drawText(head, Qt::AlignLeft | Qt::AlignVCenter, look_.filled("address × time of one step: every tensor at its planned address; the height is the arena, {}", {format_gib(layout.arena_bytes)}));
  painter.setPen(look_.theme.faint);
  painter.drawText(head.translated(0, 19), Qt::AlignLeft | Qt::AlignVCenter,
                   look_.filled("arena {}, live at most {}: {} % in gaps", {format_gib(layout.arena_bytes), format_gib(layout.max_live), fmt::format("{:.2f}", 100 * (layout.waste_ratio() - 1))}) + " · " +
                       look_("hover names a tensor; wheel zooms"));
  const auto arena = static_cast<double>(layout.arena_bytes.value());
  const std::int64_t tick = byte_tick(static_cast<std::int64_t>(arena * (high_ratio_ - low_ratio_)), std::max(2, place.height() / 60));
  for (std::int64_t bytes = static_cast<std::int64_t>(arena * low_ratio_) / tick * tick; static_cast<double>(bytes) <= arena * high_ratio_; bytes += tick) {
    const double y = y_of(bytes);
    if (y > place.bottom() + 2 || y < place.top()) continue;
    painter.drawText(QRectF(0, y - 9, kMarginLeft - 6, 18), Qt::AlignRight | Qt::AlignVCenter, bytes == 0 ? QString("0") : QString::fromStdString(format_gib(Bytes(bytes))));
    painter.drawLine(QPointF(place.left() - 4, y), QPointF(place.left(), y));
  }
  painter.save();
  painter.setClipRect(QRect(place.left(), place.bottom(), place.width(), 24));
  for (const PhaseSpan& span : plan_->picture.phases) {
    const QRectF box(x_of(span.time.begin), place.bottom() + 3, x_of(span.time.end) - x_of(span.time.begin), 18);
    painter.fillRect(box.adjusted(0.5, 0, -0.5, 0), look_.theme.grid);
    const QString name = look_.name(name_of(span.phase));
    if (painter.fontMetrics().horizontalAdvance(name) + 6 < box.width()) painter.drawText(box.intersected(QRectF(place.adjusted(0, 0, 0, 24))), Qt::AlignCenter, name);
  }
  painter.restore();
  int x = place.left();
  for (const Category category : kStackOrder) {
    const QString name = QString::fromStdString(category_words(category, look_.language));
    painter.fillRect(QRect(x, height() - 20, 11, 11), QColor::fromRgb(look_.theme.palette[static_cast<std::size_t>(category)]));
    painter.drawText(QPoint(x + 16, height() - 10), name);
    x += painter.fontMetrics().horizontalAdvance(name) + 30;
  }
}

std::optional<std::size_t> MapView::rectangle_at(QPoint point) const {
  if (!plan_ || !plot().contains(point)) return std::nullopt;
  std::optional<std::size_t> nearest;
  // The smallest that holds the point: a sliver over a long life is meant, not what lies beside it.
  double least = 0;
  for (std::size_t i = 0; i < rectangles_.size(); ++i) {
    const MapRectangle& r = rectangles_[i];
    const double left = x_of(r.time.begin), right = std::max(left + 1, x_of(r.time.end)), top = y_of(r.end_bytes), bottom = std::max(top + 1, y_of(r.begin_bytes));
    if (point.x() < left || point.x() >= right || point.y() < top || point.y() >= bottom) continue;
    const double area = (right - left) * (bottom - top);
    if (!nearest || area < least) nearest = i, least = area;
  }
  return nearest;
}

QString MapView::words_of(std::size_t rectangle) const {
  const MapRectangle& r = rectangles_[rectangle];
  const Table table = alive_table(*plan_, plan_->picture.lives[r.life].first_event, "", look_.theme.palette, look_.language);
  for (const Row& row : table.rows)
    if (row.tag == static_cast<std::int64_t>(r.life))
      return QString::fromStdString(fmt::format("{}\n[{:#x}, {:#x})", row.note, r.begin_bytes, r.end_bytes));
  return {};
}

void MapView::wheelEvent(QWheelEvent* event) {
  const double factor = std::pow(1.25, -event->angleDelta().y() / 120.0);
  const auto zoom = [&](double& low, double& high, double centre) {
    const double middle = low + (high - low) * centre, span = std::clamp((high - low) * factor, 1e-4, 1.0);
    low = std::clamp(middle - span * centre, 0.0, 1 - span);
    high = low + span;
  };
  zoom(from_ratio_, to_ratio_, std::clamp((event->position().x() - plot().left()) / plot().width(), 0.0, 1.0));
  zoom(low_ratio_, high_ratio_, std::clamp((plot().bottom() - event->position().y()) / plot().height(), 0.0, 1.0));
  update();
}

void MapView::mousePressEvent(QMouseEvent* event) { pressed_ = event->pos(); }

void MapView::mouseMoveEvent(QMouseEvent* event) {
  if (event->buttons() & Qt::LeftButton) {
    const QPoint by = event->pos() - pressed_;
    pressed_ = event->pos();
    const auto pan = [](double& low, double& high, double shift) {
      const double span = high - low;
      low = std::clamp(low + shift, 0.0, 1 - span);
      high = low + span;
    };
    pan(from_ratio_, to_ratio_, -by.x() * (to_ratio_ - from_ratio_) / plot().width());
    pan(low_ratio_, high_ratio_, by.y() * (high_ratio_ - low_ratio_) / plot().height());
  }
  hovered_ = rectangle_at(event->pos());
  update();
}

void MapView::leaveEvent(QEvent*) {
  hovered_.reset();
  update();
}

bool MapView::event(QEvent* event) {
  if (event->type() != QEvent::ToolTip) return QWidget::event(event);
  const auto* help = static_cast<QHelpEvent*>(event);
  if (const auto rectangle = rectangle_at(help->pos())) QToolTip::showText(help->globalPos(), words_of(*rectangle), this);
  else QToolTip::hideText();
  return true;
}

}  // namespace zeroplan::gui
