#include "gui/views/svg_device.h"

#include <QPaintDevice>
#include <QPaintEngine>
#include <QPainter>
#include <QPainterPath>
#include <QWidget>
#include <algorithm>
#include <cassert>
#include <map>

#include <fmt/format.h>

namespace zeroplan::gui {
namespace {

std::string escaped(const QString& text) { return text.toHtmlEscaped().toStdString(); }

std::string path_data(const QPainterPath& path) {
  std::string out;
  for (int i = 0; i < path.elementCount(); ++i) {
    const QPainterPath::Element e = path.elementAt(i);
    // A curve's element is followed by its other two points.
    const char* letter = e.type == QPainterPath::MoveToElement ? "M" : e.type == QPainterPath::LineToElement ? "L" : e.type == QPainterPath::CurveToElement ? "C" : "";
    out += fmt::format("{}{:.2f} {:.2f} ", letter, e.x, e.y);
  }
  return out;
}

std::string paint_of(const char* name, const QColor& colour) {
  std::string out = fmt::format(" {}=\"{}\"", name, colour.name().toStdString());
  if (colour.alpha() < 255) out += fmt::format(" {}-opacity=\"{:.3f}\"", name, colour.alphaF());
  return out;
}

class SvgEngine : public QPaintEngine {
 public:
  SvgEngine() : QPaintEngine(AllFeatures & ~(PatternTransform | PerspectiveTransform | LinearGradientFill | RadialGradientFill | ConicalGradientFill | PorterDuff | BlendModes | ObjectBoundingModeGradients)) {}
  const std::string& body() const { return body_; }

  bool begin(QPaintDevice*) override { return true; }
  bool end() override { return true; }
  Type type() const override { return User; }

  void updateState(const QPaintEngineState& to) override {
    const DirtyFlags dirty = to.state();
    if (dirty & DirtyPen) pen_ = to.pen();
    if (dirty & DirtyBrush) brush_ = to.brush();
    if (dirty & DirtyHints) is_smooth_ = to.renderHints().testFlag(QPainter::Antialiasing);
    if (dirty & DirtyTransform) transform_ = to.transform();
    if (dirty & (DirtyClipPath | DirtyClipRegion | DirtyClipEnabled)) take_clip(to);
  }

  void drawPath(const QPainterPath& path) override { add_path(path_data(path), brush_, path.fillRule()); }

  void drawPolygon(const QPointF* points, int count, PolygonDrawMode mode) override {
    std::string data;
    for (int i = 0; i < count; ++i) data += fmt::format("{}{:.2f} {:.2f} ", i == 0 ? "M" : "L", points[i].x(), points[i].y());
    if (mode != PolylineMode) data += "Z";
    add_path(data, mode == PolylineMode ? QBrush(Qt::NoBrush) : brush_, mode == WindingMode ? Qt::WindingFill : Qt::OddEvenFill);
  }

  void drawTextItem(const QPointF& at, const QTextItem& item) override {
    const QFont font = item.font();
    const double pixels = font.pixelSize() > 0 ? font.pixelSize() : font.pointSizeF() * paintDevice()->logicalDpiY() / 72;
    add(fmt::format("<text x=\"{:.2f}\" y=\"{:.2f}\" font-family=\"{}, sans-serif\" font-size=\"{:.2f}px\"{}{}{}>{}</text>\n", at.x(), at.y(), escaped(font.family()), pixels, font.bold() ? " font-weight=\"bold\"" : "",
                         paint_of("fill", pen_.color()), place(), escaped(item.text())));
  }

  void drawPixmap(const QRectF&, const QPixmap&, const QRectF&) override { assert(false); }  // Medium::vectors has none
  void drawImage(const QRectF&, const QImage&, const QRectF&, Qt::ImageConversionFlags) override { assert(false); }  // Medium::vectors has none

 private:
  // Clips are in device coordinates, and so outside of what the transform is applied to.
  void take_clip(const QPaintEngineState& to) {
    if (to.state() & (DirtyClipPath | DirtyClipRegion)) {
      QPainterPath clip;
      if (to.state() & DirtyClipPath) clip = to.clipPath();
      else clip.addRegion(to.clipRegion());
      clip_ = to.clipOperation() == Qt::NoClip ? QPainterPath() : to.transform().map(clip);
    }
    const bool is_clipped = to.clipOperation() != Qt::NoClip && (!(to.state() & DirtyClipEnabled) || to.isClipEnabled()) && !clip_.isEmpty();
    if (!is_clipped) return clip_name_.clear();
    clip_name_ = fmt::format("clip{}", ++clips_);
    body_ += fmt::format("<clipPath id=\"{}\"><path d=\"{}\"/></clipPath>\n", clip_name_, path_data(clip_));
  }

  void add(const std::string& shape) { body_ += clip_name_.empty() ? shape : fmt::format("<g clip-path=\"url(#{})\">{}</g>\n", clip_name_, shape); }

  std::string place() const {
    std::string out;
    if (!transform_.isIdentity())
      out += fmt::format(" transform=\"matrix({:.4f} {:.4f} {:.4f} {:.4f} {:.2f} {:.2f})\"", transform_.m11(), transform_.m12(), transform_.m21(), transform_.m22(), transform_.dx(), transform_.dy());
    return out;
  }

  // A patterned brush is hatched, whatever its pattern.
  std::string fill_of(const QBrush& brush) {
    if (brush.style() == Qt::NoBrush) return " fill=\"none\"";
    if (brush.style() == Qt::SolidPattern) return paint_of("fill", brush.color());
    std::string& name = hatches_[brush.color().rgba()];
    if (name.empty()) {
      name = fmt::format("hatch{}", hatches_.size());
      body_ += fmt::format("<pattern id=\"{}\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\"><path d=\"M0 6 L6 0\" fill=\"none\"{}/></pattern>\n", name, paint_of("stroke", brush.color()));
    }
    return fmt::format(" fill=\"url(#{})\"", name);
  }

  void add_path(const std::string& data, const QBrush& brush, Qt::FillRule rule) {
    if (data.empty() || (pen_.style() == Qt::NoPen && brush.style() == Qt::NoBrush)) return;
    std::string line = fmt::format("<path d=\"{}\"", data);
    line += fill_of(brush);
    if (brush.style() != Qt::NoBrush && rule == Qt::OddEvenFill) line += " fill-rule=\"evenodd\"";
    if (pen_.style() == Qt::NoPen && !is_smooth_) line += " shape-rendering=\"crispEdges\"";  // neighbours meet without a gap
    if (pen_.style() != Qt::NoPen) {
      const double width = pen_.widthF() > 0 ? pen_.widthF() : 1;
      line += paint_of("stroke", pen_.color()) + fmt::format(" stroke-width=\"{:.2f}\"", width);
      std::string dashes;
      for (const double dash : pen_.dashPattern()) dashes += fmt::format("{:.2f} ", dash * width);
      if (!dashes.empty()) line += fmt::format(" stroke-dasharray=\"{}\"", dashes);
    }
    add(line + place() + "/>\n");
  }

  std::string body_, clip_name_;
  QPen pen_;
  QBrush brush_;
  QTransform transform_;
  QPainterPath clip_;
  bool is_smooth_ = false;
  int clips_ = 0;
  std::map<QRgb, std::string> hatches_;  ///< by colour: the name of its pattern
};

class SvgDevice : public QPaintDevice {
 public:
  SvgDevice(QSize size, int dpi) : size_(size), dpi_(dpi) {}
  QPaintEngine* paintEngine() const override { return &engine_; }
  std::string text() const {
    return fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\">\n{2}</svg>\n", size_.width(), size_.height(), engine_.body());
  }

 protected:
  int metric(PaintDeviceMetric what) const override {
    switch (what) {
      case PdmWidth: return size_.width();
      case PdmHeight: return size_.height();
      case PdmWidthMM: return static_cast<int>(size_.width() * 25.4 / dpi_);
      case PdmHeightMM: return static_cast<int>(size_.height() * 25.4 / dpi_);
      case PdmDpiX:
      case PdmDpiY:
      case PdmPhysicalDpiX:
      case PdmPhysicalDpiY: return dpi_;
      case PdmDepth: return 24;
      case PdmDevicePixelRatio: return 1;
      default: return QPaintDevice::metric(what);
    }
  }

 private:
  QSize size_;
  int dpi_;
  mutable SvgEngine engine_;
};

}  // namespace

std::string svg_of_drawings(const std::vector<Drawing>& drawings, const QWidget& like) {
  QSize whole;
  for (const Drawing& drawing : drawings) whole = {std::max(whole.width(), drawing.size.width()), whole.height() + drawing.size.height()};
  SvgDevice device(whole, like.logicalDpiY());
  QPainter painter(&device);
  int top = 0;
  for (const Drawing& drawing : drawings) {
    painter.save();
    painter.setFont(like.font());
    painter.translate(0, top);
    drawing.draw(painter);
    painter.restore();
    top += drawing.size.height();
  }
  painter.end();
  return device.text();
}

}  // namespace zeroplan::gui
