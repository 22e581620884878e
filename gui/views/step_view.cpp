#include "gui/views/step_view.h"

#include <QKeyEvent>
#include <QPainter>
#include <QPainterPath>
#include <QWheelEvent>
#include <algorithm>
#include <cmath>
#include <span>

#include "gui/models/raster.h"
#include "planner/core/format.h"

namespace zeroplan::gui {
namespace {

constexpr int kMarginLeft = 92, kMarginRight = 12, kMarginTop = 10;
constexpr int kPhaseHeight = 20, kLaneHeight = 18, kLaneGap = 3, kAxisHeight = 20, kLegendRow = 18;
constexpr double kZoomStep = 1.25;
constexpr std::int64_t kShortestSpanNs = 1000;

// A label on a small plate, so that it can be read over any band.
void plate(QPainter& painter, QPointF right_bottom, const QString& text, const QColor& ink, const QColor& paper) {
  const QRectF size = painter.fontMetrics().boundingRect(text);
  QRectF box(right_bottom.x() - size.width() - 8, right_bottom.y() - size.height() - 1, size.width() + 8, size.height() + 2);
  QColor cover = paper;
  cover.setAlpha(215);
  painter.fillRect(box, cover);
  painter.setPen(ink);
  painter.drawText(box, Qt::AlignCenter, text);
}

}  // namespace

StepView::StepView(const Look& look, QWidget* parent) : QWidget(parent), look_(look) {
  setMouseTracking(true);
  setFocusPolicy(Qt::StrongFocus);
  setMinimumSize(360, 300);
  setObjectName("step_view");
}

void StepView::set_plan(std::shared_ptr<const Answered> plan, std::shared_ptr<const Answered> ghost) {
  // The same part of the step stays in view while a knob moves.
  const double whole = plan_ ? std::max(seconds(plan_->picture.duration), 1e-12) : 1;
  const double from = plan_ ? seconds(from_) / whole : 0, to = plan_ ? seconds(to_) / whole : 1;
  const bool at_peak = !plan_ || selected_ == plan_->picture.peak_event;
  const double selected_at = plan_ && !at_peak ? seconds(plan_->picture.memory.time(std::min(selected_, plan_->picture.memory.size() - 1))) / whole : 0;
  plan_ = std::move(plan);
  ghost_ = std::move(ghost);
  preview_.reset();
  place_parts();
  const auto part = [&](double ratio) { return SimTime(static_cast<std::int64_t>(ratio * static_cast<double>(plan_->picture.duration.value()))); };
  from_ = part(from);
  to_ = std::max(part(to), from_ + SimTime(1));
  selected_ = at_peak ? plan_->picture.peak_event : plan_->picture.memory.last_at(part(selected_at));
  setAccessibleName(spoken());
  update();
}

void StepView::set_preview(std::shared_ptr<const Answered> preview) {
  preview_ = std::move(preview);
  update();
}

void StepView::select_event(std::size_t event) {
  selected_ = event;
  update();
  emit selected(event);
}

QString StepView::spoken() const {
  if (!plan_) return {};
  QString repeats;
  for (const RepeatSpan& repeat : plan_->picture.repeats) repeats += ", " + look_.filled("×{} micro batches", {std::to_string(repeat.count)});
  return look_.filled("peak {}", {format_gib(Bytes(plan_->picture.memory.total_after(plan_->picture.peak_event)))}) + ", " + QString::fromStdString(verdict_lines(*plan_, look_.language).when) + repeats;
}

void StepView::resizeEvent(QResizeEvent*) { place_parts(); }

void StepView::place_parts() {
  const int lanes = plan_ ? static_cast<int>(plan_->picture.lanes.size()) * (kLaneHeight + kLaneGap) : 0;
  const std::vector<LegendEntry> entries = legend();
  const int legend_height = (entries.empty() ? 2 : entries.back().row + 1) * kLegendRow;
  const int width_left = std::max(width() - kMarginLeft - kMarginRight, 1);
  const int plot_height = std::max(height() - kMarginTop - kPhaseHeight - lanes - kAxisHeight - legend_height - 8, 40);
  Places& out = places_;
  out.plot = QRect(kMarginLeft, kMarginTop, width_left, plot_height);
  out.phases = QRect(kMarginLeft, out.plot.bottom() + 1, width_left, kPhaseHeight);
  out.lanes = QRect(kMarginLeft, out.phases.bottom() + 3, width_left, lanes);
  out.axis = QRect(kMarginLeft, out.lanes.bottom() + 1, width_left, kAxisHeight);
  out.legend = QRect(10, out.axis.bottom() + 4, width() - 20, legend_height);
}

std::optional<std::size_t> StepView::lane_at(QPoint point) const {
  const QRect place = places().lanes;
  if (!plan_ || !place.contains(point)) return std::nullopt;
  const auto lane = static_cast<std::size_t>((point.y() - place.top()) / (kLaneHeight + kLaneGap));
  return lane < plan_->picture.lanes.size() ? std::optional(lane) : std::nullopt;
}

double StepView::x_of(SimTime time) const {
  const QRect plot = places().plot;
  return plot.left() + plot.width() * static_cast<double>((time - from_).value()) / static_cast<double>((to_ - from_).value());
}

SimTime StepView::time_at(double x) const {
  const QRect plot = places().plot;
  const double ratio = std::clamp((x - plot.left()) / plot.width(), 0.0, 1.0);
  return from_ + SimTime(static_cast<std::int64_t>(ratio * static_cast<double>((to_ - from_).value())));
}

std::int64_t StepView::top_bytes() const {
  const Bytes highest = std::max(plan_->prediction.capacity, plan_->prediction.must_fit);
  const Bytes before = ghost_ ? std::min(ghost_->prediction.must_fit, highest * 2) : Bytes();
  return static_cast<std::int64_t>(1.06 * static_cast<double>(std::max(highest, before).value()));
}

double StepView::y_of(std::int64_t bytes) const {
  const QRect plot = places().plot;
  return plot.top() + plot.height() * (1 - static_cast<double>(bytes) / static_cast<double>(top_bytes()));
}

void StepView::set_span(SimTime from, SimTime to) {
  const std::int64_t whole = std::max<std::int64_t>(plan_->picture.duration.value(), 1);
  const std::int64_t span = std::clamp((to - from).value(), std::min(kShortestSpanNs, whole), whole);
  const std::int64_t begin = std::clamp<std::int64_t>(from.value(), 0, whole - span);
  from_ = SimTime(begin);
  to_ = SimTime(begin + span);
  update();
}

void StepView::zoom(double factor, double centre_ratio) {
  if (!plan_) return;
  const auto span = static_cast<double>((to_ - from_).value());
  const double centre = static_cast<double>(from_.value()) + span * centre_ratio, next = span / factor;
  const double begin = std::max(0.0, centre - next * centre_ratio);
  set_span(SimTime(static_cast<std::int64_t>(begin)), SimTime(static_cast<std::int64_t>(begin + next)));
}

std::pair<double, double> StepView::shown_part() const {
  if (!plan_) return {0, 1};
  const auto whole = static_cast<double>(std::max<std::int64_t>(plan_->picture.duration.value(), 1));
  return {static_cast<double>(from_.value()) / whole, static_cast<double>(to_.value()) / whole};
}

void StepView::show_part(double from, double to) {
  if (!plan_) return;
  const auto at = [&](double share) { return SimTime(static_cast<std::int64_t>(share * static_cast<double>(plan_->picture.duration.value()))); };
  set_span(at(from), at(to));
}

void StepView::fit() {
  if (plan_) set_span(SimTime(), plan_->picture.duration);
}

void StepView::go_to_peak() {
  if (!plan_) return;
  const SimTime at = plan_->picture.memory.time(plan_->picture.peak_event), half((to_ - from_).value() / 2);
  if (at < from_ || at > to_) set_span(std::max(at - half, SimTime()), std::max(at - half, SimTime()) + (to_ - from_));
  select_event(plan_->picture.peak_event);
}

void StepView::step_selection(int columns) {
  if (!plan_) return;
  const auto pixel = static_cast<std::int64_t>(static_cast<double>((to_ - from_).value()) / std::max(places().plot.width(), 1));
  const StackedSeries& memory = plan_->picture.memory;
  const std::int64_t at = memory.time(selected_).value();
  std::size_t next = memory.last_at(SimTime(std::max<std::int64_t>(0, at + columns * std::max<std::int64_t>(pixel, 1))));
  // A step always moves: to the neighbouring change where a pixel holds none.
  if (next == selected_ || (columns > 0) != (next > selected_)) next = columns > 0 ? std::min(selected_ + 1, memory.size() - 1) : selected_ - std::min<std::size_t>(selected_, 1);
  select_event(next);
}

void StepView::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  painter.fillRect(rect(), look_.theme.base);
  if (!plan_) return;
  draw_stack(painter);
  draw_sizes(painter);
  if (ghost_) draw_outline(painter, *ghost_, look_.theme.ghost, look_.filled("before: {}", {format_gib(ghost_->prediction.whole.requested)}));
  if (preview_) draw_outline(painter, *preview_, look_.theme.accent, look_("preview"));
  draw_phases(painter);
  draw_lanes(painter);
  draw_selection(painter);
  draw_limits(painter);
  draw_times(painter);
  draw_repeats(painter);
  draw_legend(painter);
  draw_hover(painter);
}

void StepView::draw_stack(QPainter& painter) {
  const QRect plot = places().plot;
  const double ratio = devicePixelRatioF();
  const int w = std::max(1, static_cast<int>(std::lround(plot.width() * ratio))), h = std::max(1, static_cast<int>(std::lround(plot.height() * ratio)));
  columns_ = plan_->picture.memory.columns(from_, to_, w);
  if (image_.width() != w || image_.height() != h) image_ = QImage(w, h, QImage::Format_RGB32);
  RasterStyle style{look_.theme.palette, look_.theme.base.rgb(), top_bytes(), h};
  raster(columns_, style, {reinterpret_cast<Pixel*>(image_.bits()), static_cast<std::size_t>(w) * static_cast<std::size_t>(h)});
  painter.drawImage(QRectF(plot), image_, QRectF(0, 0, w, h));
}

void StepView::draw_outline(QPainter& painter, const Answered& other, const QColor& colour, const QString& label) {
  const QRect plot = places().plot;
  // Without a clock on both sides the same part of the step is compared.
  const bool same_clock = plan_->picture.has_clock && other.picture.has_clock;
  const double scale = same_clock ? 1 : static_cast<double>(other.picture.duration.value()) / static_cast<double>(std::max<std::int64_t>(plan_->picture.duration.value(), 1));
  const auto scaled = [&](SimTime time) { return SimTime(static_cast<std::int64_t>(static_cast<double>(time.value()) * scale)); };
  const SimTime from = scaled(from_), to = std::max(scaled(to_), from + SimTime(1));
  if (other.picture.duration <= from) return;
  const auto columns = other.picture.memory.columns(from, to, plot.width());
  QPainterPath path;
  for (int c = 0; c < plot.width(); ++c) {
    if (scaled(time_at(plot.left() + c)) > other.picture.duration) break;
    const QPointF point(plot.left() + c, std::max<double>(y_of(columns[static_cast<std::size_t>(c)].total_bytes), plot.top()));
    if (c == 0) path.moveTo(point);
    else path.lineTo(point);
  }
  painter.setPen(QPen(look_.theme.base, 3));
  painter.drawPath(path);
  painter.setPen(QPen(colour, 1.4));
  painter.drawPath(path);
  if (path.elementCount() == 0) return;
  const double width = painter.fontMetrics().horizontalAdvance(label) + 8;
  const double leftmost = plot.left() + width + 4;
  QPointF place(std::max(path.currentPosition().x(), leftmost), std::max(path.currentPosition().y() + 22, plot.top() + 30.0));
  // Where the line lies on the floor: above it, on the side that the device's lines leave free.
  if (place.y() + 4 > plot.bottom()) place = {leftmost, path.currentPosition().y() - 8};
  plate(painter, place, label, colour, look_.theme.base);
}

void StepView::draw_limits(QPainter& painter) {
  const QRect plot = places().plot;
  const Prediction& a = plan_->prediction;
  const auto line = [&](Bytes bytes, const QColor& colour, Qt::PenStyle pen, double width) {
    painter.setPen(QPen(colour, width, pen));
    painter.drawLine(QPointF(plot.left(), y_of(bytes.value())), QPointF(plot.right(), y_of(bytes.value())));
  };
  line(a.capacity, look_.theme.faint, Qt::SolidLine, 1);
  line(a.usable, look_.theme.text, Qt::SolidLine, 1.6);
  line(a.must_fit, look_.theme.of(a.verdict), Qt::DashLine, 1.6);
  // Labels of lines that lie close together stand side by side.
  const auto label = [&](Bytes bytes, Text text, const QColor& colour, double right) { plate(painter, QPointF(right, y_of(bytes.value()) - 1), look_.filled(text, {format_gib(bytes)}), colour, look_.theme.base); };
  label(a.capacity, "physical {}", look_.theme.faint, plot.right());
  label(a.usable, "usable {}", look_.theme.text, plot.right() - plot.width() * 0.36);
  label(a.must_fit, plan_->ours ? Text("arena {}") : Text("reserved {}"), look_.theme.of(a.verdict), plot.left() + plot.width() * 0.30);
}

void StepView::draw_sizes(QPainter& painter) {
  look_.draw_sizes(painter, places().plot, top_bytes(), [&](std::int64_t bytes) { return y_of(bytes); });
}

void StepView::draw_phases(QPainter& painter) {
  const QRect place = places().phases;
  painter.save();
  painter.setClipRect(place);
  bool odd = false;
  for (const PhaseSpan& span : plan_->picture.phases) {
    const QRectF box(x_of(span.time.begin), place.top() + 1, x_of(span.time.end) - x_of(span.time.begin), place.height() - 2);
    odd = !odd;
    QColor fill = span.phase == Phase::backward ? look_.theme.accent : look_.theme.faint;
    fill.setAlpha(span.phase == Phase::step ? 90 : odd ? 50 : 34);
    painter.fillRect(box.adjusted(0.5, 0, -0.5, 0), fill);
    const QString name = look_.name(name_of(span.phase));
    const QRectF seen = box.intersected(QRectF(place));
    if (painter.fontMetrics().horizontalAdvance(name) + 6 < seen.width()) {
      painter.setPen(look_.theme.text);
      painter.drawText(seen, Qt::AlignCenter, name);
    }
  }
  painter.restore();
}

// On the plot, through the lanes and on the axis: what lies between the lines is drawn once.
void StepView::draw_repeats(QPainter& painter) {
  const QRect plot = places().plot, axis = places().axis;
  for (const RepeatSpan& repeat : plan_->picture.repeats) {
    const double left = std::max<double>(x_of(repeat.time.begin), plot.left()), right = std::min<double>(x_of(repeat.time.end), plot.right());
    if (right <= left) continue;
    painter.setPen(QPen(look_.theme.text, 1, Qt::DotLine));
    painter.drawLine(QPointF(left, plot.top()), QPointF(left, axis.top() + 4));
    painter.drawLine(QPointF(right, plot.top()), QPointF(right, axis.top() + 4));
    painter.setPen(QPen(look_.theme.accent, 2));
    painter.drawLine(QPointF(left, axis.top() + 1), QPointF(right, axis.top() + 1));
    const QString label = look_.filled("×{} micro batches", {std::to_string(repeat.count)}), rounds = QString("×%1").arg(repeat.count);
    plate(painter, QPointF(left + painter.fontMetrics().horizontalAdvance(label) + 14, plot.bottom() - 4), label, look_.theme.text, look_.theme.base);
    if (const double width = painter.fontMetrics().horizontalAdvance(rounds) + 8; width + 8 < right - left)
      for (std::size_t lane = 0; lane < plan_->picture.lanes.size(); ++lane)
        plate(painter, QPointF(right - 3, places().lanes.top() + static_cast<double>(lane) * (kLaneHeight + kLaneGap) + kLaneHeight), rounds, look_.theme.text, look_.theme.base);
  }
}

void StepView::draw_lanes(QPainter& painter) {
  const QRect place = places().lanes;
  const auto category = [&](Category c) { return QColor::fromRgb(look_.theme.palette[static_cast<std::size_t>(c)]); };
  const QColor colours[kLaneCount] = {look_.theme.faint, category(Category::gathered_parameters), category(Category::gradients), look_.theme.warning, category(Category::optimizer)};
  const int width = std::max(1, static_cast<int>(std::lround(place.width() * devicePixelRatioF())));
  QImage strip(width, 1, QImage::Format_ARGB32_Premultiplied);
  const auto draw = [&](const std::vector<TimeSpan>& spans, const QColor& colour, const QRect& row, float most) {
    const std::vector<float> covered = covered_ratios(spans, from_, to_, width);
    auto* pixels = reinterpret_cast<QRgb*>(strip.bits());
    for (int x = 0; x < width; ++x) pixels[x] = qPremultiply(qRgba(colour.red(), colour.green(), colour.blue(), static_cast<int>(std::min(1.0f, covered[static_cast<std::size_t>(x)] * most) * 255)));
    painter.drawImage(row, strip);
  };
  for (std::size_t i = 0; i < plan_->picture.lanes.size(); ++i) {
    const StreamLane& lane = plan_->picture.lanes[i];
    const QRect row(place.left(), place.top() + static_cast<int>(i) * (kLaneHeight + kLaneGap), place.width(), kLaneHeight);
    painter.fillRect(row, look_.theme.panel);
    painter.setPen(look_.theme.faint);
    painter.drawText(QRect(0, row.top(), kMarginLeft - 6, row.height()), Qt::AlignRight | Qt::AlignVCenter, look_.name(name_of(lane.lane)));
    // How busy each pixel is: short works add up instead of painting over each other.
    draw(lane.busy, colours[static_cast<std::size_t>(lane.lane)], row.adjusted(0, 2, 0, -2), 0.95f);
    if (lane.lane == Lane::compute) draw(plan_->picture.exposed, look_.theme.bad, row.adjusted(0, 2, 0, -2), 1);
  }
}

// Ticks are round times of the step. Where rounds are not drawn they go on after them.
void StepView::draw_times(QPainter& painter) {
  const QRect place = places().axis;
  const StepPicture& picture = plan_->picture;
  const std::int64_t tick = time_tick((to_ - from_).value(), std::max(2, place.width() / 110));
  painter.setPen(look_.theme.faint);
  double taken_until = place.left() - 1.0;  // by labels
  const auto label_at = [&](SimTime drawn, const QString& label) {
    const double x = x_of(drawn), width = painter.fontMetrics().horizontalAdvance(label), left = std::clamp(x - width / 2, place.left() + 0.0, place.right() - width);
    painter.drawLine(QPointF(x, place.top()), QPointF(x, place.top() + 4));
    if (left <= taken_until) return;
    painter.drawText(QPointF(left, place.bottom() - 2), label);
    taken_until = left + width + 6;
  };
  const auto stretch = [&](SimTime from, SimTime to, SimTime skipped, double right) {
    const SimTime begin = std::max(from, from_), end = std::min(to, to_);
    for (std::int64_t t = ((begin + skipped).value() + tick - 1) / tick * tick; t <= (end + skipped).value(); t += tick) {
      const QString label = t == 0 ? QString("0") : picture.has_clock ? QString::fromStdString(format_seconds(seconds(SimTime(t)))) : QString::number(t / kInstant.value());
      if (x_of(SimTime(t) - skipped) + painter.fontMetrics().horizontalAdvance(label) / 2.0 < right) label_at(SimTime(t) - skipped, label);
    }
  };
  SimTime from, skipped;
  for (const RepeatSpan& repeat : picture.repeats) {
    const QString rounds = QString("×%1").arg(repeat.count);
    const double end = x_of(repeat.time.end), width = painter.fontMetrics().horizontalAdvance(rounds) + 6;
    stretch(from, repeat.time.end, skipped, end - width);
    if (end > place.left() + width && end < place.right() + 1) {
      painter.setPen(look_.theme.accent);
      painter.drawText(QPointF(end - width, place.bottom() - 2), rounds);
      painter.setPen(look_.theme.faint);
      taken_until = end + 4;
    }
    from = repeat.time.end;
    skipped = skipped + repeat.more;
  }
  stretch(from, picture.duration, skipped, place.right() + 100.0);
}

// From left to right, in as many rows as it takes.
std::vector<StepView::LegendEntry> StepView::legend() const {
  std::vector<LegendEntry> out;
  if (!plan_) return out;
  const int left = 10, right = width() - 10;
  int x = left, row = 0;
  const auto add = [&](const QColor& colour, const QString& label) {
    const int wide = fontMetrics().horizontalAdvance(label) + 26;
    if (x + wide > right && x > left) x = left, ++row;
    out.push_back({colour, label, x, row});
    x += wide;
  };
  if (!plan_->picture.has_clock) add(Qt::transparent, look_("across: issue order, no clock"));
  for (const Category category : kStackOrder)
    if (plan_->picture.memory.has(category))
      add(QColor::fromRgb(look_.theme.palette[static_cast<std::size_t>(category)]), QString::fromStdString(category_words(category, look_.language)));
  if (!plan_->picture.exposed.empty()) add(look_.theme.bad, look_("exposed"));
  return out;
}

void StepView::draw_legend(QPainter& painter) {
  const int top = places().legend.top();
  for (const LegendEntry& entry : legend()) {
    const int y = top + entry.row * kLegendRow;
    painter.fillRect(QRect(entry.left, y + 3, 11, 11), entry.colour);
    painter.setPen(look_.theme.text);
    painter.drawText(QRect(entry.left + 16, y, width(), kLegendRow), Qt::AlignLeft | Qt::AlignVCenter, entry.label);
  }
}

void StepView::draw_selection(QPainter& painter) {
  const QRect plot = places().plot;
  const StackedSeries& memory = plan_->picture.memory;
  const double x = x_of(memory.time(selected_));
  if (x < plot.left() - 1 || x > plot.right() + 1) return;
  painter.setPen(QPen(look_.theme.text, 1));
  painter.drawLine(QPointF(x, plot.top()), QPointF(x, places().lanes.bottom()));
  const double y = y_of(memory.total_after(selected_));
  painter.setRenderHint(QPainter::Antialiasing);
  painter.setBrush(look_.theme.base);
  painter.drawEllipse(QPointF(x, y), 4, 4);
  painter.setRenderHint(QPainter::Antialiasing, false);
}

void StepView::draw_hover(QPainter& painter) {
  const QRect plot = places().plot;
  if (!hover_) return;
  if (const auto lane = lane_at(*hover_)) return draw_lane_hover(painter, *lane);
  if (!plot.contains(*hover_) || columns_.empty()) return;
  const auto at = static_cast<std::size_t>(std::clamp<double>((hover_->x() - plot.left()) * static_cast<double>(columns_.size()) / plot.width(), 0, static_cast<double>(columns_.size()) - 1));
  const StackedSeries::Column& column = columns_[at];
  painter.setPen(QPen(look_.theme.faint, 1, Qt::DotLine));
  painter.drawLine(hover_->x(), plot.top(), hover_->x(), places().lanes.bottom());
  std::vector<std::pair<QString, QColor>> lines;
  lines.emplace_back(QString::fromStdString(time_words(*plan_, plan_->picture.memory.time(column.event), look_.language) + "   " + format_gib(Bytes(column.total_bytes))), look_.theme.text);
  lines.emplace_back(QString::fromStdString(place_words(*plan_, instruction_at(plan_->picture, column.event), look_.language)), look_.theme.faint);
  for (auto it = kStackOrder.rbegin(); it != kStackOrder.rend(); ++it)
    if (const std::int64_t bytes = column.stack[static_cast<std::size_t>(*it)]; bytes > 0)
      lines.emplace_back(QString::fromStdString(category_words(*it, look_.language) + "  " + format_gib(Bytes(bytes))), QColor::fromRgb(look_.theme.palette[static_cast<std::size_t>(*it)]));
  draw_note(painter, lines);
}

void StepView::draw_lane_hover(QPainter& painter, std::size_t index) {
  const StreamLane& lane = plan_->picture.lanes[index];
  const SimTime at = time_at(hover_->x());
  std::vector<std::pair<QString, QColor>> lines;
  lines.emplace_back(look_.name(name_of(lane.lane)) + "   " + QString::fromStdString(time_words(*plan_, at, look_.language)), look_.theme.text);
  if (const LaneWork* work = work_at(lane, at)) {
    const bool ours = plan_->ours.has_value();
    const QString place = QString::fromStdString(place_words(*plan_, ours ? work->index : plan_->timeline->work[work->index].instant, look_.language));
    const QString name = ours ? QString() : QString::fromUtf8(plan_->timeline->work[work->index].name) + " · ";
    lines.emplace_back(name + QString::fromStdString(format_seconds(seconds(work->time.end - work->time.begin))), look_.theme.faint);
    lines.emplace_back(place, QColor());
  } else {
    lines.emplace_back(look_("idle"), look_.theme.faint);
  }
  draw_note(painter, lines);
}

// The first line in ink, the second faint; the others with a square of their colour, where they have one.
void StepView::draw_note(QPainter& painter, const std::vector<std::pair<QString, QColor>>& lines) {
  const QRect plot = places().plot;
  int width = 0;
  for (const auto& line : lines) width = std::max(width, painter.fontMetrics().horizontalAdvance(line.first) + 34);
  const int row = painter.fontMetrics().height() + 1, height = row * static_cast<int>(lines.size()) + 10;
  int x = hover_->x() + 14;
  if (x + width > plot.right()) x = std::max(plot.left(), hover_->x() - 14 - width);
  const int y = std::clamp(hover_->y() - height / 2, plot.top(), std::max(plot.top(), plot.bottom() - height));
  QColor paper = look_.theme.panel;
  paper.setAlpha(240);
  painter.setPen(look_.theme.grid);
  painter.setBrush(paper);
  painter.drawRect(QRect(x, y, width, height));
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const int top = y + 5 + row * static_cast<int>(i);
    const bool square = i >= 2 && lines[i].second.isValid();
    if (square) painter.fillRect(QRect(x + 8, top + row / 2 - 5, 9, 9), lines[i].second);
    painter.setPen(i == 1 ? look_.theme.faint : look_.theme.text);
    painter.drawText(QRect(x + (square ? 23 : 8), top, width, row), Qt::AlignVCenter, lines[i].first);
  }
}

void StepView::wheelEvent(QWheelEvent* event) {
  const QRect plot = places().plot;
  const double ratio = std::clamp((event->position().x() - plot.left()) / plot.width(), 0.0, 1.0);
  zoom(std::pow(kZoomStep, event->angleDelta().y() / 120.0), ratio);
  event->accept();
}

void StepView::mousePressEvent(QMouseEvent* event) {
  if (event->button() != Qt::LeftButton || !plan_) return;
  pressed_ = event->pos();
  pressed_from_ = from_;
  panning_ = false;
}

void StepView::mouseMoveEvent(QMouseEvent* event) {
  hover_ = event->pos();
  if (plan_ && (event->buttons() & Qt::LeftButton) && (panning_ || std::abs(event->pos().x() - pressed_.x()) > 3)) {
    panning_ = true;
    const auto span = static_cast<double>((to_ - from_).value());
    const double shift = (pressed_.x() - event->pos().x()) * span / std::max(places().plot.width(), 1);
    const auto begin = std::max<std::int64_t>(0, pressed_from_.value() + static_cast<std::int64_t>(shift));
    set_span(SimTime(begin), SimTime(begin) + (to_ - from_));
  }
  update();
}

void StepView::mouseReleaseEvent(QMouseEvent* event) {
  const QRect plot = places().plot;
  if (event->button() == Qt::LeftButton && plan_ && !panning_ && !columns_.empty() && event->pos().x() >= plot.left()) {
    const double x = (event->position().x() - plot.left()) * static_cast<double>(columns_.size()) / plot.width();
    select_event(columns_[static_cast<std::size_t>(std::clamp<double>(x, 0, static_cast<double>(columns_.size()) - 1))].event);
  }
  panning_ = false;
}

void StepView::keyPressEvent(QKeyEvent* event) {
  const bool shift = event->modifiers() & Qt::ShiftModifier;
  const auto span = SimTime((to_ - from_).value() / 10);
  switch (event->key()) {
    case Qt::Key_Left: shift ? step_selection(-1) : set_span(SimTime(std::max<std::int64_t>(0, (from_ - span).value())), std::max(to_ - span, to_ - from_)); return;
    case Qt::Key_Right: shift ? step_selection(1) : set_span(from_ + span, to_ + span); return;
    case Qt::Key_Plus:
    case Qt::Key_Equal: zoom(kZoomStep, 0.5); return;
    case Qt::Key_Minus: zoom(1 / kZoomStep, 0.5); return;
    case Qt::Key_F: fit(); return;
    case Qt::Key_P: go_to_peak(); return;
    default: QWidget::keyPressEvent(event);
  }
}

void StepView::leaveEvent(QEvent*) {
  hover_.reset();
  update();
}

}  // namespace zeroplan::gui
