#include "gui/views/compare_screen.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QPainter>
#include <QPainterPath>
#include <QPushButton>
#include <QVBoxLayout>
#include <algorithm>

#include "gui/models/raster.h"
#include "gui/views/table_view.h"
#include "planner/core/format.h"

namespace zeroplan::gui {
namespace {

constexpr int kLeft = 78, kRight = 14, kTop = 12, kBetween = 30, kBottom = 24;

std::vector<std::int64_t> totals(const Answered& plan, int width) {
  std::vector<std::int64_t> out;
  for (const auto& column : plan.picture.memory.columns(SimTime(), std::max(plan.picture.duration, SimTime(1)), width)) out.push_back(column.total_bytes);
  return out;
}

}  // namespace

OverlayView::OverlayView(const Look& look, QWidget* parent) : QWidget(parent), look_(look) { setMinimumSize(400, 260); }

void OverlayView::set_plans(std::shared_ptr<const Answered> a, std::shared_ptr<const Answered> b) {
  a_ = std::move(a);
  b_ = std::move(b);
  update();
}

void OverlayView::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  painter.fillRect(rect(), look_.theme.base);
  if (!a_ || !b_) return;
  const int width_left = std::max(2, width() - kLeft - kRight), heights = std::max(2, height() - kTop - kBetween - kBottom);
  const QRect over(kLeft, kTop, width_left, heights * 2 / 3), under(kLeft, over.bottom() + kBetween, width_left, heights / 3);
  const std::vector<std::int64_t> a = totals(*a_, width_left), b = totals(*b_, width_left);
  const Bytes capacity = std::max(a_->prediction.capacity, b_->prediction.capacity), arena = std::max(a_->prediction.must_fit, b_->prediction.must_fit);
  const double top = 1.06 * static_cast<double>(std::max(capacity, arena).value());
  const auto y_of = [&](std::int64_t bytes) { return over.bottom() - over.height() * static_cast<double>(bytes) / top; };
  const std::int64_t tick = byte_tick(static_cast<std::int64_t>(top), std::max(2, over.height() / 50));
  for (std::int64_t bytes = 0; static_cast<double>(bytes) < top; bytes += tick) {
    painter.setPen(look_.theme.grid);
    painter.drawLine(QPointF(over.left(), y_of(bytes)), QPointF(over.right(), y_of(bytes)));
    painter.setPen(look_.theme.faint);
    painter.drawText(QRectF(0, y_of(bytes) - 9, kLeft - 6, 18), Qt::AlignRight | Qt::AlignVCenter, bytes == 0 ? QString("0") : QString::fromStdString(format_gib(Bytes(bytes))));
  }
  const auto curve = [&](const std::vector<std::int64_t>& values, const QColor& colour, bool filled) {
    QPainterPath path(QPointF(over.left(), y_of(values.front())));
    for (std::size_t i = 1; i < values.size(); ++i) path.lineTo(over.left() + static_cast<double>(i), y_of(values[i]));
    if (filled) {
      QPainterPath area = path;
      area.lineTo(over.right(), over.bottom());
      area.lineTo(over.left(), over.bottom());
      QColor paint = colour;
      paint.setAlpha(50);
      painter.fillPath(area, paint);
    }
    painter.setPen(QPen(colour, 1.6, filled ? Qt::SolidLine : Qt::DashLine));
    painter.drawPath(path);
  };
  curve(b, look_.theme.accent, true);
  curve(a, look_.theme.text, false);
  painter.setPen(QPen(look_.theme.text, 1.4));
  painter.drawLine(QPointF(over.left(), y_of(b_->prediction.usable.value())), QPointF(over.right(), y_of(b_->prediction.usable.value())));
  painter.drawText(QRectF(over.left(), y_of(b_->prediction.usable.value()) - 18, over.width() - 4, 17), Qt::AlignRight | Qt::AlignVCenter, look_.filled("usable {}", {format_gib(b_->prediction.usable)}));

  std::int64_t widest = 1;
  for (std::size_t i = 0; i < a.size(); ++i) widest = std::max(widest, std::abs(b[i] - a[i]));
  const double middle = under.center().y();
  painter.setPen(look_.theme.faint);
  painter.drawText(QRectF(under.left(), under.top() - 20, under.width(), 18), Qt::AlignLeft | Qt::AlignVCenter, look_("difference (B − A)"));
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double tall = (under.height() / 2.0) * static_cast<double>(b[i] - a[i]) / static_cast<double>(widest);
    painter.fillRect(QRectF(under.left() + static_cast<double>(i), tall > 0 ? middle - tall : middle, 1, std::abs(tall)), tall > 0 ? look_.theme.bad : look_.theme.good);
  }
  painter.setPen(look_.theme.faint);
  painter.drawLine(QPointF(under.left(), middle), QPointF(under.right(), middle));
  painter.drawText(QRectF(0, under.top() - 2, kLeft - 6, 18), Qt::AlignRight | Qt::AlignVCenter, QString::fromStdString("+" + format_gib(Bytes(widest))));
  painter.drawText(QRectF(0, under.bottom() - 16, kLeft - 6, 18), Qt::AlignRight | Qt::AlignVCenter, QString::fromStdString("-" + format_gib(Bytes(widest))));
}

CompareScreen::CompareScreen(PlanSession& session, const Look& look, QWidget* parent)
    : QWidget(parent), session_(session), look_(look), head_(new QLabel), a_line_(new QLabel), b_line_(new QLabel), overlay_(new OverlayView(look)), table_(new TableView) {
  auto* swap_button = new QPushButton(look_("Swap"));
  auto* top = new QHBoxLayout;
  top->addWidget(head_, 1);
  top->addWidget(swap_button);
  for (QLabel* label : {a_line_, b_line_}) {
    label->setTextInteractionFlags(Qt::TextSelectableByMouse);
    label->setWordWrap(true);
  }
  auto* left = new QVBoxLayout;
  left->addLayout(top);
  left->addWidget(a_line_);
  left->addWidget(b_line_);
  left->addWidget(overlay_, 1);
  auto* all = new QHBoxLayout(this);
  all->addLayout(left, 3);
  all->addWidget(table_, 2);
  table_->setObjectName("compare");
  table_->set_fitting();
  connect(swap_button, &QPushButton::clicked, this, &CompareScreen::swap);
  connect(&session_, &PlanSession::answered, this, &CompareScreen::follow);
  follow();
}

void CompareScreen::pin(std::shared_ptr<const Answered> plan) {
  pinned_ = std::move(plan);
  follow();
}

void CompareScreen::swap() {
  swapped_ = !swapped_;
  follow();
}

void CompareScreen::showEvent(QShowEvent*) { follow(); }

void CompareScreen::follow() {
  if (!isVisible()) return;
  std::shared_ptr<const Answered> a = pinned_ ? pinned_ : session_.ghost(), b = session_.shared_now();
  head_->setText(a ? look_("A is the plan before (or the pinned one), B the current plan") : look_("move a knob first: Compare shows the plan before and the plan now"));
  if (!a) a = b;
  if (swapped_) std::swap(a, b);
  const auto line = [&](Text name, const Answered& plan, const QColor& colour) {
    return QString("<b><span style='color:%1'>%2</span></b> &nbsp;%3").arg(colour.name(), look_(name), QString::fromStdString(print_command_line(plan.asked)).toHtmlEscaped());
  };
  a_line_->setText(line("Plan A", *a, look_.theme.text));
  b_line_->setText(line("Plan B", *b, look_.theme.accent));
  overlay_->set_plans(a, b);
  table_->set(compare_table(*a, *b, look_.theme.palette, look_.language));
}

}  // namespace zeroplan::gui
