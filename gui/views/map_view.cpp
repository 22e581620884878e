#include "gui/views/map_view.h"

#include <QHelpEvent>
#include <QKeyEvent>
#include <QPainter>
#include <QToolTip>
#include <QWheelEvent>
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "gui/models/map_words.h"
#include "gui/models/raster.h"
#include "planner/core/format.h"

namespace zeroplan::gui {
namespace {

constexpr int kMarginLeft = 92, kMarginTop = 46, kMarginRight = 16, kMarginBottom = 70, kSegmentNames = 128, kStrip = 5;
constexpr int kHatch = 6;         // pixels from line to line, at a scale of 1
constexpr int kLeastOutlined = 4;  // pixels of a segment's height
constexpr double kLeastDrawn = 0.02;  // square pixels of a shape among vectors
constexpr int kMarkAfterMs = 100;  // that the map is not the plan's yet

struct Cells {
  int left = 0, top = 0, right = 0, bottom = 0;
  bool empty() const { return left >= right || top >= bottom; }
};

// Neighbours of one category stay apart: every other one is a little darker.
using Shades = std::array<Palette, 2>;
Shades shades_of(const Palette& palette) {
  Shades out{palette, palette};
  for (Pixel& colour : out[1]) colour = QColor::fromRgb(colour).darker(114).rgb();
  return out;
}

Pixel colour_of(const Answered& answered, const MapRectangle& r, const Shades& shades) {
  const std::size_t instance = answered.ours ? static_cast<std::size_t>(answered.picture.lives[r.life].instance) : r.life;
  return shades[instance % 2][static_cast<std::size_t>(r.category)];
}

}  // namespace

MapView::MapView(const Look& look, QWidget* parent) : QWidget(parent), look_(look) {
  setMouseTracking(true);
  setFocusPolicy(Qt::StrongFocus);
  setObjectName("map_view");
  maker_.setMaxThreadCount(1);
  late_.setSingleShot(true);
  connect(&late_, &QTimer::timeout, this, qOverload<>(&QWidget::update));
}

void MapView::set_plan(std::shared_ptr<const Answered> plan) {
  plan_ = std::move(plan);
  hovered_.reset();
  select(std::nullopt, 0);
  setAccessibleName(plan_->ours ? look_.filled("arena {}", {format_gib(plan_->prediction.must_fit)}) : look_.filled("reserved {}", {format_gib(plan_->prediction.must_fit)}));
  if (isVisible()) make_map();
}

void MapView::showEvent(QShowEvent*) {
  if (plan_) make_map();
}

void MapView::make_map() {
  if (is_current()) return;
  if (plan_->ours) return show_map(plan_, std::make_shared<MemoryMap>(map_of(*plan_)), {});
  late_.start(kMarkAfterMs);
  maker_.clear();
  maker_.start([this, of = plan_] {
    auto made = std::make_shared<MemoryMap>();
    QString problem;
    try {
      *made = emulated_map_of(*of);
    } catch (const std::exception& error) {
      problem = QString::fromUtf8(error.what());
    }
    QMetaObject::invokeMethod(this, [this, of, made, problem] { show_map(of, made, problem); }, Qt::QueuedConnection);
  });
}

// One that is late is still nearer to the plan than the one before it, but not where our own engine's has come in between.
void MapView::show_map(std::shared_ptr<const Answered> plan, std::shared_ptr<const MemoryMap> map, const QString& problem) {
  if (plan != plan_ && is_current()) return;
  drawn_ = std::move(plan);
  map_ = std::move(map);
  problem_ = problem;
  hovered_.reset();
  select(std::nullopt, 0);
  image_is_current_ = false;
  update();
}

void MapView::set_view(double from, double to, double low, double high) {
  from_ratio_ = from, to_ratio_ = to, low_ratio_ = low, high_ratio_ = high;
  image_is_current_ = false;
  update();
}

void MapView::fit() { set_view(0, 1, 0, 1); }

void MapView::select(std::optional<std::size_t> rectangle, std::uint32_t instant) {
  selected_ = rectangle;
  selected_at_ = instant;
  note_ = rectangle ? QString::fromStdString(block_words(*drawn_, *map_, *rectangle, look_.language) + "\n" + neighbour_words(*drawn_, *map_, *rectangle, instant, look_.language)) : QString();
  setAccessibleDescription(note_);
  update();
}

QRect MapView::plot() const { return rect().adjusted(kMarginLeft, kMarginTop, -kMarginRight - (has_segments() ? kSegmentNames : 0), -kMarginBottom); }

double MapView::x_of(SimTime time) const {
  const double ratio = seconds(time) / std::max(seconds(drawn_->picture.duration), 1e-12);
  return plot().left() + plot().width() * (ratio - from_ratio_) / (to_ratio_ - from_ratio_);
}

double MapView::y_of(std::int64_t height_bytes) const {
  const double ratio = static_cast<double>(height_bytes) / static_cast<double>(std::max<std::int64_t>(map_->height_bytes, 1));
  return plot().bottom() + 1 - plot().height() * (ratio - low_ratio_) / (high_ratio_ - low_ratio_);
}

QRectF MapView::box_of(TimeSpan time, std::int64_t begin_bytes, std::int64_t end_bytes) const { return QRectF(QPointF(x_of(time.begin), y_of(end_bytes)), QPointF(x_of(time.end), y_of(begin_bytes))); }

QColor MapView::stream_colour(Stream stream) const {
  switch (lane_of(stream)) {
    case Lane::gather: return QColor::fromRgb(look_.theme.palette[static_cast<std::size_t>(Category::gathered_parameters)]);
    case Lane::reduce: return QColor::fromRgb(look_.theme.palette[static_cast<std::size_t>(Category::gradients)]);
    case Lane::copies: return look_.theme.warning;
    case Lane::compute:
    case Lane::host: return look_.theme.faint;
  }
  return look_.theme.faint;
}

void MapView::draw_blocks() {
  const double dpr = devicePixelRatioF();
  const QRect place = plot();
  const int w = std::max(1, static_cast<int>(std::lround(place.width() * dpr))), h = std::max(1, static_cast<int>(std::lround(place.height() * dpr)));
  if (image_is_current_ && image_.width() == w && image_.height() == h) return;
  image_is_current_ = true;
  if (image_.width() != w || image_.height() != h) image_ = QImage(w, h, QImage::Format_RGB32);
  image_.fill(look_.theme.panel);
  const double columns_a_ns = w / ((to_ratio_ - from_ratio_) * std::max(static_cast<double>(drawn_->picture.duration.value()), 1.0)), first_column = w * from_ratio_ / (to_ratio_ - from_ratio_);
  const double rows_a_byte = h / ((high_ratio_ - low_ratio_) * std::max(static_cast<double>(map_->height_bytes), 1.0)), floor_row = h + h * low_ratio_ / (high_ratio_ - low_ratio_);
  // What is too short or too small for a pixel still shows as one, where it is wanted.
  const auto cells = [&](TimeSpan time, std::int64_t begin_bytes, std::int64_t end_bytes, int least) {
    const auto column = [&](SimTime t) { return static_cast<int>(std::floor(std::clamp(static_cast<double>(t.value()) * columns_a_ns - first_column, 0.0, static_cast<double>(w)))); };
    const auto row = [&](std::int64_t bytes) { return static_cast<int>(std::floor(std::clamp(floor_row - static_cast<double>(bytes) * rows_a_byte, 0.0, static_cast<double>(h)))); };
    const int left = column(time.begin), top = row(end_bytes);
    return Cells{left, top, std::min(std::max(left + least, column(time.end)), w), std::min(std::max(top + least, row(begin_bytes)), h)};
  };
  const auto fill = [&](const Cells& at, Pixel colour) {
    for (int y = at.top; y < at.bottom; ++y) {
      auto* row = reinterpret_cast<Pixel*>(image_.scanLine(y));
      std::fill(row + at.left, row + at.right, colour);
    }
  };
  const int period = std::max(3, static_cast<int>(std::lround(kHatch * dpr))), thick = std::max(1, static_cast<int>(std::lround(dpr)));
  std::vector<Pixel> lines(static_cast<std::size_t>(w + period));
  for (int x = 0; x < w + period; ++x) lines[static_cast<std::size_t>(x)] = (x % period < thick ? look_.theme.faint : look_.theme.base).rgb();
  const auto hatch = [&](const Cells& at) {
    for (int y = at.top; y < at.bottom; ++y) std::copy_n(lines.data() + at.left + y % period, at.right - at.left, reinterpret_cast<Pixel*>(image_.scanLine(y)) + at.left);
  };
  const Shades shades = shades_of(look_.theme.palette);
  for (const MapStretch& gap : map_->gaps)
    if (const Cells at = cells(gap.time, gap.begin_bytes, gap.end_bytes, 0); !at.empty()) hatch(at);
  for (const MapRectangle& r : map_->rectangles) {
    fill(cells(r.time, r.begin_bytes, r.asked_end_bytes, 1), colour_of(*drawn_, r, shades));
    if (r.asked_end_bytes == r.end_bytes) continue;
    if (const Cells at = cells(r.time, r.asked_end_bytes, r.end_bytes, 0); !at.empty()) hatch(at);
  }
  for (const MapStretch& workspace : map_->workspaces) fill(cells(workspace.time, workspace.begin_bytes, workspace.end_bytes, 1), look_.theme.text.rgb());
  const Pixel edge = look_.theme.dark ? look_.theme.faint.rgb() : look_.theme.faint.darker(160).rgb();
  for (std::size_t i = 0; i < map_->segments.size(); ++i) {
    const MapSegment& segment = map_->segments[i];
    const Cells at = cells(segment.time, segment.begin_bytes, segment.end_bytes, 0);
    if (at.bottom - at.top < kLeastOutlined * dpr || at.right <= at.left) continue;
    fill({at.left, at.top, at.right, at.top + thick}, edge);
    fill({at.left, at.top, std::min(at.left + thick, at.right), at.bottom}, edge);
    fill({std::max(at.left, at.right - thick), at.top, at.right, at.bottom}, edge);
    const bool stands_on_the_one_before = i > 0 && map_->segments[i - 1].end_bytes == segment.begin_bytes && map_->segments[i - 1].time == segment.time;
    if (!stands_on_the_one_before) fill({at.left, std::max(at.top, at.bottom - thick), at.right, at.bottom}, edge);
  }
}

// The same as shapes. What no eye finds at this scale is left out.
void MapView::draw_block_vectors(QPainter& painter) const {
  const QRectF place = plot();
  const QBrush hatch(look_.theme.faint, Qt::BDiagPattern);
  const Shades shades = shades_of(look_.theme.palette);
  painter.fillRect(place, look_.theme.panel);
  const auto fill = [&](TimeSpan time, std::int64_t begin_bytes, std::int64_t end_bytes, const QBrush& brush) {
    const QRectF box = box_of(time, begin_bytes, end_bytes).intersected(place);
    if (box.width() * box.height() >= kLeastDrawn) painter.fillRect(box, brush);
  };
  for (const MapStretch& gap : map_->gaps) fill(gap.time, gap.begin_bytes, gap.end_bytes, hatch);
  for (const MapRectangle& r : map_->rectangles) {
    fill(r.time, r.begin_bytes, r.asked_end_bytes, QColor::fromRgb(colour_of(*drawn_, r, shades)));
    fill(r.time, r.asked_end_bytes, r.end_bytes, hatch);
  }
  for (const MapStretch& workspace : map_->workspaces) fill(workspace.time, workspace.begin_bytes, workspace.end_bytes, look_.theme.text);
  painter.setPen(QPen(look_.theme.dark ? look_.theme.faint : look_.theme.faint.darker(160), 1));
  painter.setBrush(Qt::NoBrush);
  for (const MapSegment& segment : map_->segments)
    if (const QRectF box = box_of(segment.time, segment.begin_bytes, segment.end_bytes).intersected(place); box.height() >= kLeastOutlined) painter.drawRect(box);
}

// At the right edge the stream's colour, and beside it the stream's name and the size where there is room.
void MapView::draw_segments(QPainter& painter) {
  const QRect place = plot();
  double free_below = place.bottom() + 1.0;
  for (const MapSegment& segment : map_->segments) {
    const QRectF box = box_of(segment.time, segment.begin_bytes, segment.end_bytes).intersected(QRectF(place));
    if (box.isEmpty()) continue;
    const bool outlined = box.height() >= kLeastOutlined;
    painter.fillRect(QRect(place.right() + 2, static_cast<int>(box.top()), kStrip, std::max(1, static_cast<int>(box.height()) - (outlined ? 1 : 0))), stream_colour(segment.stream));
    const double middle = box.center().y(), half = painter.fontMetrics().height() / 2.0;
    if (middle + half > free_below || !outlined) continue;
    const QString words = QString("%1 · %2").arg(look_.name(name_of(lane_of(segment.stream))), QString::fromStdString(format_gib(Bytes(segment.end_bytes - segment.begin_bytes))));
    painter.setPen(look_.theme.faint);
    painter.drawText(QRectF(place.right() + 4 + kStrip, middle - half, kSegmentNames + kMarginRight - 8 - kStrip, 2 * half), Qt::AlignLeft | Qt::AlignVCenter, words);
    free_below = middle - half;
  }
}

void MapView::draw_heads(QPainter& painter) {
  const QRect head(kMarginLeft, 4, width() - kMarginLeft - kMarginRight, 18);
  const auto line = [&](const QRect& at, const std::string& words) {
    painter.drawText(at, Qt::AlignLeft | Qt::AlignVCenter, painter.fontMetrics().elidedText(QString::fromStdString(words), Qt::ElideRight, at.width()));
  };
  painter.setPen(look_.theme.text);
  line(head, map_headline(*drawn_, *map_, look_.language));
  painter.setPen(look_.theme.faint);
  line(head.translated(0, 19), map_summary(*drawn_, *map_, look_.language));
}

void MapView::draw_axes(QPainter& painter) {
  const QRect place = plot();
  painter.setPen(look_.theme.faint);
  const auto height = static_cast<double>(map_->height_bytes);
  const std::int64_t tick = byte_tick(static_cast<std::int64_t>(height * (high_ratio_ - low_ratio_)), std::max(2, place.height() / 60));
  for (std::int64_t bytes = static_cast<std::int64_t>(height * low_ratio_) / tick * tick; static_cast<double>(bytes) <= height * high_ratio_; bytes += tick) {
    const double y = y_of(bytes);
    if (y > place.bottom() + 2 || y < place.top()) continue;
    painter.drawText(QRectF(0, y - 9, kMarginLeft - 6, 18), Qt::AlignRight | Qt::AlignVCenter, bytes == 0 ? QString("0") : QString::fromStdString(format_gib(Bytes(bytes))));
    painter.drawLine(QPointF(place.left() - 4, y), QPointF(place.left(), y));
  }
  painter.save();
  painter.setClipRect(QRect(place.left(), place.bottom(), place.width(), 24));
  for (const PhaseSpan& span : drawn_->picture.phases) {
    const QRectF box(x_of(span.time.begin), place.bottom() + 3, x_of(span.time.end) - x_of(span.time.begin), 18);
    painter.fillRect(box.adjusted(0.5, 0, -0.5, 0), look_.theme.grid);
    const QString name = look_.name(name_of(span.phase));
    if (painter.fontMetrics().horizontalAdvance(name) + 6 < box.width()) painter.drawText(box.intersected(QRectF(place.adjusted(0, 0, 0, 24))), Qt::AlignCenter, name);
  }
  painter.restore();
}

void MapView::draw_repeats(QPainter& painter) {
  const QRect place = plot();
  for (const RepeatSpan& repeat : drawn_->picture.repeats) {
    const double left = std::max<double>(x_of(repeat.time.begin), place.left()), right = std::min<double>(x_of(repeat.time.end), place.right());
    if (right <= left) continue;
    painter.setPen(QPen(look_.theme.text, 1, Qt::DotLine));
    for (const double x : {left, right}) painter.drawLine(QPointF(x, place.top()), QPointF(x, place.bottom() + 21));
    const QString label = look_.filled("×{} micro batches", {std::to_string(repeat.count)});
    const QRectF plate(left + 4, place.top() + 4, painter.fontMetrics().horizontalAdvance(label) + 8, painter.fontMetrics().height() + 2);
    painter.fillRect(plate, look_.theme.base);
    painter.drawText(plate, Qt::AlignCenter, label);
  }
}

void MapView::draw_legend(QPainter& painter) {
  constexpr int kRow = 18;
  int x = kMarginLeft, y = height() - 2 * kRow - 4;
  const auto entry = [&](const QBrush& brush, const QString& words) {
    const int wide = painter.fontMetrics().horizontalAdvance(words) + 28;
    if (x + wide > width() - 4 && x > kMarginLeft) x = kMarginLeft, y += kRow;
    painter.fillRect(QRect(x, y + 3, 11, 11), brush);
    painter.setPen(look_.theme.faint);
    painter.drawText(QRect(x + 16, y, wide, kRow), Qt::AlignLeft | Qt::AlignVCenter, words);
    x += wide;
  };
  for (const Category category : kStackOrder) entry(QColor::fromRgb(look_.theme.palette[static_cast<std::size_t>(category)]), QString::fromStdString(category_words(category, look_.language)));
  if (!has_segments()) return;
  entry(QBrush(look_.theme.faint, Qt::BDiagPattern), look_("free in a segment"));
  if (!map_->workspaces.empty()) entry(look_.theme.text, look_("cuBLAS workspace"));
}

void MapView::draw_note(QPainter& painter) {
  if (!selected_) return;
  const MapRectangle& r = map_->rectangles[*selected_];
  const QRect place = plot();
  const QRectF box = box_of(r.time, r.begin_bytes, r.end_bytes).intersected(QRectF(place).adjusted(-1, -1, 1, 1));
  painter.setPen(QPen(look_.theme.text, 2));
  painter.setBrush(Qt::NoBrush);
  painter.drawRect(box);
  const QRect most(0, 0, std::max(120, place.width() - 40), place.height());
  const QRect size = painter.fontMetrics().boundingRect(most, Qt::AlignLeft | Qt::TextWordWrap, note_);
  // Beside the block's middle, on the side where there is more room.
  const double x = box.center().x() < place.center().x() ? std::min<double>(box.right() + 10, place.right() - size.width() - 20) : std::max<double>(box.left() - size.width() - 26, place.left() + 4);
  const double y = std::clamp<double>(box.center().y() - size.height() / 2.0, place.top() + 4, std::max(place.top() + 4, place.bottom() - size.height() - 14));
  const QRectF paper(std::max<double>(x, place.left() + 4), y, size.width() + 16, size.height() + 10);
  QColor cover = look_.theme.panel;
  cover.setAlpha(245);
  painter.setPen(look_.theme.grid);
  painter.setBrush(cover);
  painter.drawRect(paper);
  painter.setPen(look_.theme.text);
  painter.drawText(paper.adjusted(8, 5, -8, -5), Qt::AlignLeft | Qt::TextWordWrap, note_);
}

void MapView::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  draw(painter, Medium::screen);
}

void MapView::draw(QPainter& painter, Medium medium) {
  painter.fillRect(rect(), look_.theme.base);
  const bool late = !is_current() && !late_.isActive();
  if (map_ && !map_->empty()) {
    const QRect place = plot();
    if (medium == Medium::vectors) {
      draw_block_vectors(painter);
    } else {
      draw_blocks();
      painter.drawImage(QRectF(place), image_, QRectF(0, 0, image_.width(), image_.height()));
    }
    draw_segments(painter);
    if (hovered_) {
      const MapRectangle& r = map_->rectangles[*hovered_];
      const QRectF box = box_of(r.time, r.begin_bytes, r.end_bytes);
      painter.fillRect(QRectF(box.topLeft(), QSizeF(std::max(1.0, box.width()), std::max(1.0, box.height()))).intersected(QRectF(place)), look_.theme.text);
    }
    draw_heads(painter);
    draw_axes(painter);
    draw_repeats(painter);
    draw_legend(painter);
    draw_note(painter);
  }
  if (!late && problem_.isEmpty()) return;
  const QString words = problem_.isEmpty() ? look_("computing…") : problem_;
  const QRectF plate(rect().center().x() - 160, rect().center().y() - 24, 320, 48);
  painter.fillRect(plate, look_.theme.panel);
  painter.setPen(look_.theme.text);
  painter.drawText(plate, Qt::AlignCenter | Qt::TextWordWrap, words);
}

std::optional<std::size_t> MapView::rectangle_at(QPoint point) const {
  if (!map_ || !plot().contains(point)) return std::nullopt;
  std::optional<std::size_t> nearest;
  // The smallest that holds the point: a sliver over a long life is meant, not what lies beside it.
  double least = 0;
  for (std::size_t i = 0; i < map_->rectangles.size(); ++i) {
    const MapRectangle& r = map_->rectangles[i];
    const double left = x_of(r.time.begin), right = std::max(left + 1, x_of(r.time.end)), top = y_of(r.end_bytes), bottom = std::max(top + 1, y_of(r.begin_bytes));
    if (point.x() < left || point.x() >= right || point.y() < top || point.y() >= bottom) continue;
    const double area = (right - left) * (bottom - top);
    if (!nearest || area < least) nearest = i, least = area;
  }
  return nearest;
}

QString MapView::words_at(QPoint point) const {
  if (!map_ || !plot().contains(point)) return {};
  const auto holds = [&](const MapStretch& s) { return box_of(s.time, s.begin_bytes, s.end_bytes).adjusted(0, 0, 0, 1).contains(point); };
  for (const MapStretch& workspace : map_->workspaces)
    if (holds(workspace)) return QString::fromStdString(workspace_words(*map_, workspace, look_.language));
  if (const auto rectangle = rectangle_at(point)) return QString::fromStdString(block_words(*drawn_, *map_, *rectangle, look_.language));
  for (const MapStretch& gap : map_->gaps)
    if (holds(gap)) return QString::fromStdString(gap_words(*map_, gap, look_.language));
  return {};
}

void MapView::wheelEvent(QWheelEvent* event) {
  const double factor = std::pow(1.25, -event->angleDelta().y() / 120.0);
  const auto zoom = [&](double low, double high, double centre) {
    const double middle = low + (high - low) * centre, span = std::clamp((high - low) * factor, 1e-4, 1.0), begin = std::clamp(middle - span * centre, 0.0, 1 - span);
    return std::pair(begin, begin + span);
  };
  const auto [from, to] = zoom(from_ratio_, to_ratio_, std::clamp((event->position().x() - plot().left()) / plot().width(), 0.0, 1.0));
  const auto [low, high] = zoom(low_ratio_, high_ratio_, std::clamp((plot().bottom() - event->position().y()) / plot().height(), 0.0, 1.0));
  set_view(from, to, low, high);
}

void MapView::mousePressEvent(QMouseEvent* event) {
  pressed_ = event->pos();
  panning_ = false;
}

void MapView::mouseMoveEvent(QMouseEvent* event) {
  const QPoint by = event->pos() - pressed_;
  if ((event->buttons() & Qt::LeftButton) && (panning_ || by.manhattanLength() > 3)) {
    panning_ = true;
    pressed_ = event->pos();
    const auto pan = [](double low, double high, double shift) { return std::clamp(low + shift, 0.0, 1 - (high - low)); };
    const double from = pan(from_ratio_, to_ratio_, -by.x() * (to_ratio_ - from_ratio_) / plot().width()), low = pan(low_ratio_, high_ratio_, by.y() * (high_ratio_ - low_ratio_) / plot().height());
    set_view(from, from + to_ratio_ - from_ratio_, low, low + high_ratio_ - low_ratio_);
  }
  const auto at = rectangle_at(event->pos());
  if (at == hovered_) return;
  hovered_ = at;
  update();
}

void MapView::mouseReleaseEvent(QMouseEvent* event) {
  if (event->button() != Qt::LeftButton || panning_ || !map_) return;
  const auto rectangle = rectangle_at(event->pos());
  if (!rectangle) return select(std::nullopt, 0);
  const double ratio = from_ratio_ + (event->position().x() - plot().left()) / plot().width() * (to_ratio_ - from_ratio_);
  const LifeSpan& life = drawn_->picture.lives[map_->rectangles[*rectangle].life];
  const std::uint32_t at = instruction_drawn_at(drawn_->picture, SimTime(static_cast<std::int64_t>(ratio * static_cast<double>(drawn_->picture.duration.value()))));
  select(rectangle, std::clamp(at, life.born, std::max(life.born, std::min(life.dies, static_cast<std::uint32_t>(drawn_->picture.instructions.size() - 1)))));
}

void MapView::keyPressEvent(QKeyEvent* event) {
  const bool up = event->key() == Qt::Key_Up;
  if (event->key() == Qt::Key_Escape) return select(std::nullopt, 0);
  if (!selected_ || (!up && event->key() != Qt::Key_Down)) return QWidget::keyPressEvent(event);
  const MapNeighbours next = neighbours_of(*map_, *drawn_, *selected_, selected_at_);
  if (const auto to = up ? next.above.rectangle : next.below.rectangle) select(to, selected_at_);
}

void MapView::leaveEvent(QEvent*) {
  hovered_.reset();
  update();
}

bool MapView::event(QEvent* event) {
  if (event->type() != QEvent::ToolTip) return QWidget::event(event);
  const auto* help = static_cast<QHelpEvent*>(event);
  if (const QString words = words_at(help->pos()); !words.isEmpty()) QToolTip::showText(help->globalPos(), words, this);
  else QToolTip::hideText();
  return true;
}

}  // namespace zeroplan::gui
