#include "gui/views/compare_view.h"

#include <QKeyEvent>
#include <QPainter>
#include <QPainterPath>
#include <QWheelEvent>
#include <algorithm>
#include <cmath>
#include <functional>

#include "planner/core/format.h"

namespace zeroplan::gui {
namespace {

constexpr int kLeft = 92, kRight = 14, kTop = 12, kLegendRows = 3;
constexpr double kZoomStep = 1.25, kSmallestPart = 1e-6;

// The outline of one band over columns of equal width, upper edge first.
QPolygonF band_of(const std::vector<StackedSeries::Column>& columns, Category band, const QRectF& over, const std::function<double(double)>& y_of) {
  QPolygonF upper, lower;
  const double wide = over.width() / static_cast<double>(columns.size());
  for (std::size_t i = 0; i < columns.size(); ++i) {
    std::int64_t below = 0;
    for (const Category other : kStackOrder) {
      if (other == band) break;
      below += columns[i].stack[static_cast<std::size_t>(other)];
    }
    const double above = y_of(static_cast<double>(below + columns[i].stack[static_cast<std::size_t>(band)])), left = over.left() + wide * static_cast<double>(i);
    upper << QPointF(left, above) << QPointF(left + wide, above);
    lower << QPointF(left, y_of(static_cast<double>(below))) << QPointF(left + wide, y_of(static_cast<double>(below)));
  }
  std::reverse(lower.begin(), lower.end());
  return upper + lower;
}

}  // namespace

CompareView::CompareView(const Look& look, QWidget* parent) : QWidget(parent), look_(look) {
  setMinimumSize(360, 240);
  setMouseTracking(true);
  setFocusPolicy(Qt::StrongFocus);
  setObjectName("compare_view");
}

void CompareView::set_curves(std::shared_ptr<const Curve> a, std::shared_ptr<const Curve> b) {
  a_ = std::move(a);
  b_ = std::move(b);
  if (b_) setAccessibleName(look_.filled("peak {}", {format_gib(Bytes(b_->peak_bytes()))}));
  update();
}

void CompareView::select(std::optional<double> share) {
  selected_ = share;
  update();
  emit selected();
}

Instants CompareView::instants_at(double share) const {
  const AlignedColumn at = aligned_at(first(), *b_, share);
  return {at.a_event, at.b_event};
}

Instants CompareView::instants() const {
  if (!b_) return {};
  return selected_ ? instants_at(*selected_) : Instants{first().peak_event, b_->peak_event};
}

void CompareView::set_part(double from, double to) {
  const double part = std::clamp(to - from, kSmallestPart, 1.0);
  from_ = std::clamp(from, 0.0, 1 - part);
  to_ = from_ + part;
  update();
}

void CompareView::zoom(double factor, double centre_ratio) {
  const double part = to_ - from_, centre = from_ + part * centre_ratio, next = part / factor;
  set_part(centre - next * centre_ratio, centre + next * (1 - centre_ratio));
}

CompareView::Places CompareView::places() const {
  const int line = fontMetrics().height() + 4, legend = is_alone() ? kLegendRows * line : 0;
  const int wide = std::max(2, width() - kLeft - kRight), tall = std::max(40, height() - kTop - 2 * line - legend - 4);
  Places out;
  out.over = QRect(kLeft, kTop, wide, is_alone() ? tall : tall * 2 / 3);
  out.under = QRect(kLeft, out.over.bottom() + 2 * line, wide, is_alone() ? 0 : tall / 3);
  out.legend = QRect(10, out.over.bottom() + line + 4, width() - 20, legend);
  return out;
}

double CompareView::x_of(double share) const {
  const QRect over = places().over;
  return over.left() + over.width() * (share - from_) / (to_ - from_);
}

double CompareView::share_at(double x) const {
  const QRect over = places().over;
  return from_ + (to_ - from_) * std::clamp((x - over.left()) / over.width(), 0.0, 1.0);
}

// The device's lines belong in the picture where memory comes near them: above a third.
double CompareView::top_bytes() const {
  double top = static_cast<double>(std::max<std::int64_t>({first().peak_bytes(), b_->peak_bytes(), 1}));
  for (const Curve* curve : {&first(), b_.get()}) {
    if (curve->must_fit) top = std::max(top, static_cast<double>(curve->must_fit->value()));
    if (curve->usable && static_cast<double>(curve->usable->value()) < 3 * top) top = std::max(top, static_cast<double>(curve->usable->value()));
  }
  return 1.08 * top;
}

double CompareView::y_of(double bytes) const {
  const QRect over = places().over;
  return over.bottom() + 1 - over.height() * bytes / top_bytes();
}

void CompareView::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  draw(painter, Medium::screen);
}

void CompareView::draw(QPainter& painter, Medium medium) {
  painter.fillRect(rect(), look_.theme.base);
  if (!b_ || b_->memory.empty() || first().memory.empty()) return;
  if (is_alone()) draw_stack(painter, medium);
  draw_sizes(painter);
  draw_phases(painter);
  if (is_alone()) draw_legend(painter);
  else draw_curves(painter);
  draw_limits(painter);
  if (selected_) draw_instant(painter, *selected_, !hover_);
  if (hover_ && places().over.contains(*hover_)) draw_instant(painter, share_at(hover_->x()), true);
}

void CompareView::draw_sizes(QPainter& painter) {
  look_.draw_sizes(painter, places().over, static_cast<std::int64_t>(top_bytes()), [&](std::int64_t bytes) { return y_of(static_cast<double>(bytes)); });
}

void CompareView::draw_stack(QPainter& painter, Medium medium) {
  const QRect over = places().over;
  const double ratio = devicePixelRatioF();
  const int w = std::max(1, static_cast<int>(std::lround(over.width() * ratio))), h = std::max(1, static_cast<int>(std::lround(over.height() * ratio)));
  const auto time = [&](double share) { return SimTime(static_cast<std::int64_t>(share * static_cast<double>(b_->duration.value()))); };
  const auto columns = b_->memory.columns(time(from_), std::max(time(to_), time(from_) + SimTime(1)), medium == Medium::vectors ? over.width() : w);
  if (medium == Medium::vectors) {
    painter.setPen(Qt::NoPen);
    for (const Category band : kStackOrder) {
      if (b_->bands[static_cast<std::size_t>(band)].empty()) continue;
      painter.setBrush(QColor::fromRgb(look_.theme.palette[static_cast<std::size_t>(band)]));
      painter.drawPolygon(band_of(columns, band, over, [this](double bytes) { return y_of(bytes); }));
    }
    painter.setBrush(Qt::NoBrush);
    return;
  }
  if (image_.width() != w || image_.height() != h) image_ = QImage(w, h, QImage::Format_RGB32);
  const RasterStyle style{look_.theme.palette, look_.theme.base.rgb(), std::max<std::int64_t>(1, static_cast<std::int64_t>(top_bytes())), h};
  raster(columns, style, {reinterpret_cast<Pixel*>(image_.bits()), static_cast<std::size_t>(w) * static_cast<std::size_t>(h)});
  painter.drawImage(QRectF(over), image_, QRectF(0, 0, w, h));
}

// Bands at the selected instant, the top one first; names are cut where they are long.
void CompareView::draw_legend(QPainter& painter) {
  const QRect legend = places().legend;
  const int line = fontMetrics().height() + 4;
  const Stack stack = b_->memory.stack_after(instants().b);
  int x = legend.left(), y = legend.top();
  for (auto it = kStackOrder.rbegin(); it != kStackOrder.rend(); ++it) {
    const auto band = static_cast<std::size_t>(*it);
    if (b_->bands[band].empty() || (stack[band] == 0 && b_->has_categories)) continue;
    const QString size = " " + QString::fromStdString(format_gib(Bytes(stack[band])));
    const QString words = fontMetrics().elidedText(QString::fromStdString(band_words(*b_, band, look_.language)), Qt::ElideMiddle, 220) + size;
    const int wide = fontMetrics().horizontalAdvance(words) + 30;
    if (x + wide > legend.right() && x > legend.left()) x = legend.left(), y += line;
    if (y + line > legend.bottom() + 2) return;
    painter.fillRect(QRect(x, y + line / 2 - 5, 10, 10), QColor::fromRgb(look_.theme.palette[band]));
    painter.setPen(look_.theme.text);
    painter.drawText(QRect(x + 14, y, wide, line), Qt::AlignLeft | Qt::AlignVCenter, words);
    x += wide;
  }
}

void CompareView::draw_phases(QPainter& painter) {
  const Places place = places();
  const int line = fontMetrics().height() + 4;
  double free_from = place.over.left();
  const std::vector<Stretch> stretches = aligned(first(), *b_);
  for (const Stretch& s : stretches) {
    const double left = std::max<double>(x_of(s.from), place.over.left()), right = std::min<double>(x_of(s.to), place.over.right());
    if (right <= left) continue;
    if (left > place.over.left()) {
      QColor grid = look_.theme.faint;
      grid.setAlpha(90);
      painter.setPen(QPen(grid, 1, Qt::DotLine));
      painter.drawLine(QPointF(left, place.over.top()), QPointF(left, place.over.bottom()));
    }
    if (!s.phase && stretches.size() == 1) continue;
    const QString name = s.phase ? look_.name(name_of(*s.phase)) : look_("the other micro batches");
    const int wide = fontMetrics().horizontalAdvance(name) + 8;
    if (right - left < wide || left < free_from) continue;
    painter.setPen(look_.theme.faint);
    painter.drawText(QRectF(left, place.over.bottom() + 2, right - left, line), Qt::AlignCenter, name);
    free_from = left + wide;
  }
  if (stretches.size() == 1 && !stretches.front().phase) draw_ends(painter);
}

// Without phases: where the picture begins and ends.
void CompareView::draw_ends(QPainter& painter) {
  const QRect over = places().over;
  const int line = fontMetrics().height() + 4;
  painter.setPen(look_.theme.faint);
  const QRectF left(over.left(), over.bottom() + 2, over.width() / 2.0 - 6, line), right(over.center().x() + 6, over.bottom() + 2, over.width() / 2.0 - 6, line);
  if (!is_alone()) return painter.drawText(QRectF(over.left(), over.bottom() + 2, over.width(), line), Qt::AlignCenter, look_("across: each curve's share of its own span"));
  const auto at = [&](double share) { return QString::fromStdString(when_words(*b_, b_->memory.last_at(SimTime(static_cast<std::int64_t>(share * static_cast<double>(b_->duration.value())))), look_.language)); };
  painter.drawText(left, Qt::AlignLeft | Qt::AlignVCenter, at(from_));
  painter.drawText(right, Qt::AlignRight | Qt::AlignVCenter, at(to_));
}

void CompareView::draw_curves(QPainter& painter) {
  const QRect over = places().over;
  const std::vector<AlignedColumn> columns = aligned_columns(*a_, *b_, from_, to_, over.width());
  const auto curve = [&](std::int64_t AlignedColumn::*side, const QColor& colour, bool filled) {
    QPainterPath path(QPointF(over.left(), y_of(static_cast<double>(columns.front().*side))));
    for (std::size_t i = 1; i < columns.size(); ++i) path.lineTo(over.left() + static_cast<double>(i), y_of(static_cast<double>(columns[i].*side)));
    if (filled) {
      QPainterPath area = path;
      area.lineTo(over.right(), over.bottom() + 1);
      area.lineTo(over.left(), over.bottom() + 1);
      QColor paint = colour;
      paint.setAlpha(50);
      painter.fillPath(area, paint);
    }
    painter.setPen(QPen(colour, 1.6, filled ? Qt::SolidLine : Qt::DashLine));
    painter.drawPath(path);
  };
  curve(&AlignedColumn::b_bytes, look_.theme.accent, true);
  curve(&AlignedColumn::a_bytes, look_.theme.text, false);
  draw_difference(painter, columns);
}

void CompareView::draw_difference(QPainter& painter, const std::vector<AlignedColumn>& columns) {
  const QRect under = places().under;
  const int line = fontMetrics().height() + 4;
  std::int64_t widest = 1;
  for (const AlignedColumn& c : columns) widest = std::max(widest, std::abs(c.b_bytes - c.a_bytes));
  const double middle = under.center().y();
  painter.setPen(look_.theme.faint);
  painter.drawText(QRectF(under.left(), under.top() - line, under.width(), line), Qt::AlignLeft | Qt::AlignVCenter, look_("difference (B − A)"));
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const double tall = (under.height() / 2.0) * static_cast<double>(columns[i].b_bytes - columns[i].a_bytes) / static_cast<double>(widest);
    painter.fillRect(QRectF(under.left() + static_cast<double>(i), tall > 0 ? middle - tall : middle, 1, std::abs(tall)), tall > 0 ? look_.theme.bad : look_.theme.good);
  }
  painter.setPen(look_.theme.faint);
  painter.drawLine(QPointF(under.left(), middle), QPointF(under.right(), middle));
  painter.drawText(QRectF(0, under.top() - 2, kLeft - 6, 18), Qt::AlignRight | Qt::AlignVCenter, QString::fromStdString("+" + format_gib(Bytes(widest))));
  painter.drawText(QRectF(0, under.bottom() - 16, kLeft - 6, 18), Qt::AlignRight | Qt::AlignVCenter, QString::fromStdString("-" + format_gib(Bytes(widest))));
}

void CompareView::draw_limits(QPainter& painter) {
  const QRect over = places().over;
  const std::optional<Bytes> usable = b_->usable ? b_->usable : first().usable;
  if (!usable || static_cast<double>(usable->value()) > top_bytes()) return;
  const double y = y_of(static_cast<double>(usable->value()));
  painter.setPen(QPen(look_.theme.text, 1.4));
  painter.drawLine(QPointF(over.left(), y), QPointF(over.right(), y));
  const QString words = look_.filled("usable {}", {format_gib(*usable)});
  // Above the line and at the left, where few curves are: peaks come late.
  const int wide = fontMetrics().horizontalAdvance(words) + 8, high = fontMetrics().height() + 2;
  const QRectF box(over.left() + 4, y - high - 2 > over.top() ? y - high - 2 : y + 2, wide, high);
  QColor cover = look_.theme.base;
  cover.setAlpha(225);
  painter.fillRect(box, cover);
  painter.drawText(box, Qt::AlignCenter, words);
}

void CompareView::draw_instant(QPainter& painter, double share, bool with_words) {
  const Places place = places();
  const double x = x_of(share);
  if (x < place.over.left() || x > place.over.right()) return;
  painter.setPen(QPen(look_.theme.text, 1));
  painter.drawLine(QPointF(x, place.over.top()), QPointF(x, is_alone() ? place.over.bottom() : place.under.bottom()));
  if (!with_words) return;
  const Instants at = instants_at(share);
  const auto size = [](const Curve& curve, std::size_t event) { return QString::fromStdString(format_gib(Bytes(curve.memory.total_after(event)))); };
  const QString when = QString::fromStdString(when_words(*b_, at.b, look_.language));
  const QString words = is_alone() ? size(*b_, at.b) + " · " + when : "A " + size(*a_, at.a) + " · B " + size(*b_, at.b) + " · " + when;
  const double wide = fontMetrics().horizontalAdvance(words) + 12, left = std::clamp<double>(x + 8, place.over.left(), std::max<double>(place.over.left(), place.over.right() - wide));
  const QRectF box(left, place.over.top() + 4, wide, fontMetrics().height() + 6);
  painter.fillRect(box, look_.theme.panel);
  painter.setPen(look_.theme.grid);
  painter.drawRect(box);
  painter.setPen(look_.theme.text);
  painter.drawText(box, Qt::AlignCenter, words);
}

void CompareView::wheelEvent(QWheelEvent* event) {
  const QRect over = places().over;
  zoom(std::pow(kZoomStep, event->angleDelta().y() / 120.0), std::clamp((event->position().x() - over.left()) / over.width(), 0.0, 1.0));
  event->accept();
}

void CompareView::mousePressEvent(QMouseEvent* event) {
  pressed_ = event->pos();
  pressed_from_ = from_;
  pressed_to_ = to_;
  panning_ = false;
}

void CompareView::mouseMoveEvent(QMouseEvent* event) {
  hover_ = event->pos();
  if ((event->buttons() & Qt::LeftButton) != 0 && (panning_ || std::abs(event->pos().x() - pressed_.x()) > 4)) {
    panning_ = true;
    const double moved = (pressed_to_ - pressed_from_) * (event->pos().x() - pressed_.x()) / std::max(1, places().over.width());
    set_part(pressed_from_ - moved, pressed_to_ - moved);
  }
  update();
}

void CompareView::mouseReleaseEvent(QMouseEvent* event) {
  if (!panning_ && b_ && event->button() == Qt::LeftButton) select(share_at(event->pos().x()));
  panning_ = false;
}

void CompareView::leaveEvent(QEvent*) {
  hover_.reset();
  update();
}

void CompareView::keyPressEvent(QKeyEvent* event) {
  if (!b_ || b_->memory.empty()) return;
  const double part = to_ - from_, pixel = part / std::max(1, places().over.width());
  const double here = selected_.value_or(share_of(first(), *b_, Side::b, b_->peak_event));
  const int way = event->key() == Qt::Key_Left ? -1 : 1;
  switch (event->key()) {
    case Qt::Key_Left:
    case Qt::Key_Right:
      if ((event->modifiers() & Qt::ShiftModifier) != 0) return select(std::clamp(here + way * pixel, 0.0, 1.0));
      return set_part(from_ + way * part * 0.1, to_ + way * part * 0.1);
    case Qt::Key_Plus:
    case Qt::Key_Equal: return zoom(kZoomStep, 0.5);
    case Qt::Key_Minus: return zoom(1 / kZoomStep, 0.5);
    case Qt::Key_F: return fit();
    case Qt::Key_P: return select(std::nullopt);
    default: QWidget::keyPressEvent(event);
  }
}

}  // namespace zeroplan::gui
