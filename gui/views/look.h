// Look: language and colours of the window, handed by reference to every view. Leaves out what is shown.
#pragma once

#include <QColor>
#include <QRect>
#include <QString>
#include <cstdint>
#include <functional>

#include "gui/models/plan_tables.h"

class QPainter;

namespace zeroplan::gui {

struct Theme {
  bool dark = false;
  QColor window, base, panel, text, faint, grid, accent, good, warning, bad, ghost;
  Palette palette{};  ///< category colours: told apart by colour-blind eyes (Tol, "muted" and "bright")

  static Theme light_theme();
  static Theme dark_theme();
  const QColor& of(Verdict verdict) const;
};

struct Look {
  Language language = Language::english;
  Theme theme = Theme::light_theme();

  QString operator()(Text text) const { return view(say(text, language)); }
  QString name(std::string_view english) const { return view(say_name(english, language)); }
  QString filled(Text text, std::initializer_list<std::string_view> values) const { return QString::fromStdString(fill(say(text, language), values)); }
  /// Round sizes left of a plot whose y axis is bytes from 0, with lines through it.
  void draw_sizes(QPainter& painter, const QRect& plot, std::int64_t top_bytes, const std::function<double(std::int64_t bytes)>& y_of) const;
  static QString view(std::string_view text) { return QString::fromUtf8(text.data(), static_cast<qsizetype>(text.size())); }
};

/// Fusion with the theme's palette and a short style sheet.
void apply(const Theme& theme);
/// Whether any installed font can show Chinese.
bool can_show_chinese();

}  // namespace zeroplan::gui
