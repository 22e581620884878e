#include "gui/views/look.h"

#include <QApplication>
#include <QFontDatabase>
#include <QPainter>
#include <QPalette>
#include <QStyleFactory>
#include <algorithm>

#include "gui/models/raster.h"
#include "planner/core/format.h"

namespace zeroplan::gui {
namespace {

// By Category: parameters, gradients, optimizer, activations, logits and loss, gathered parameters, communication buffers, scratch.
constexpr Palette kColours{0xffddaa33, 0xffcc6677, 0xff4c5fa8, 0xff44aa99, 0xffee8866, 0xff88ccee, 0xffaa4499, 0xff999933};
constexpr Palette kColoursOnDark{0xffd9ad4a, 0xffdd7f8e, 0xff6f83d6, 0xff4fbfad, 0xfff29c7d, 0xff9ad8f5, 0xffc466b3, 0xffb8b84a};

}  // namespace

Theme Theme::light_theme() {
  return {false, "#f3f4f7", "#ffffff", "#fafbfc", "#1c2430", "#6a7484", "#e3e6ec", "#2f6fde", "#1f8a4c", "#b97800", "#c8323c", "#5d6675", kColours};
}

Theme Theme::dark_theme() {
  return {true, "#16191f", "#1d2128", "#1a1e25", "#e4e8ef", "#939db0", "#2d333e", "#6ea3ff", "#4cc27f", "#e0a93b", "#f0707a", "#aab3c2", kColoursOnDark};
}

void Look::draw_sizes(QPainter& painter, const QRect& plot, std::int64_t top_bytes, const std::function<double(std::int64_t bytes)>& y_of) const {
  constexpr int kApart = 54, kGap = 6, kHeight = 18;  // pixels
  QColor line = theme.faint;
  line.setAlpha(45);
  const std::int64_t tick = byte_tick(top_bytes, std::max(2, plot.height() / kApart));
  for (std::int64_t bytes = 0; bytes <= top_bytes; bytes += tick) {
    const double y = y_of(bytes);
    painter.setPen(line);
    painter.drawLine(QPointF(plot.left(), y), QPointF(plot.right(), y));
    painter.setPen(theme.faint);
    painter.drawText(QRectF(0, y - kHeight / 2, plot.left() - kGap, kHeight), Qt::AlignRight | Qt::AlignVCenter, bytes == 0 ? QString("0") : QString::fromStdString(format_gib(Bytes(bytes))));
  }
}

const QColor& Theme::of(Verdict verdict) const {
  switch (verdict) {
    case Verdict::fits: return good;
    case Verdict::tight: return warning;
    case Verdict::does_not_fit: return bad;
  }
  return bad;
}

void apply(const Theme& theme) {
  QApplication::setStyle(QStyleFactory::create("Fusion"));
  QPalette palette;
  palette.setColor(QPalette::Window, theme.window);
  palette.setColor(QPalette::WindowText, theme.text);
  palette.setColor(QPalette::Base, theme.base);
  palette.setColor(QPalette::AlternateBase, theme.panel);
  palette.setColor(QPalette::Text, theme.text);
  palette.setColor(QPalette::PlaceholderText, theme.faint);
  palette.setColor(QPalette::Button, theme.panel);
  palette.setColor(QPalette::ButtonText, theme.text);
  palette.setColor(QPalette::ToolTipBase, theme.base);
  palette.setColor(QPalette::ToolTipText, theme.text);
  palette.setColor(QPalette::Highlight, theme.accent);
  palette.setColor(QPalette::HighlightedText, theme.dark ? QColor("#10131a") : QColor(Qt::white));
  palette.setColor(QPalette::Link, theme.accent);
  for (const QPalette::ColorRole role : {QPalette::Text, QPalette::ButtonText, QPalette::WindowText}) palette.setColor(QPalette::Disabled, role, theme.faint);
  QApplication::setPalette(palette);
  // Fusion hardly shows which of several buttons is down.
  qApp->setStyleSheet(QString("QPushButton:checked, QToolButton:checked { background: %1; color: %2; border: 1px solid %1; border-radius: 3px; }")
                          .arg(theme.accent.name(), theme.dark ? "#10131a" : "#ffffff"));
}

bool can_show_chinese() { return !QFontDatabase::families(QFontDatabase::SimplifiedChinese).isEmpty(); }

}  // namespace zeroplan::gui
