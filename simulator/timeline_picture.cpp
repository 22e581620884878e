#include "simulator/timeline_picture.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "planner/core/format.h"

namespace zeroplan {
namespace {

constexpr double kCharacterRatio = 0.62;  // mean width of a sans-serif character, of its height; generous

struct TextStyle {
  double size = 12;
  const char* anchor = "start";
  const char* colour = "black";
  bool bold = false, halo = false;
};

std::size_t characters_of(std::string_view utf8) {
  return static_cast<std::size_t>(std::count_if(utf8.begin(), utf8.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

/// Text that stays within `room` pixels: smaller where it is long, cut where it would be unreadable.
std::string text(double x, double y, double room, std::string words, const TextStyle& style = {}) {
  constexpr double kSmallest = 9;
  const double bold = style.bold ? 1.08 : 1;
  double size = style.size;
  if (const double need = kCharacterRatio * bold * size * static_cast<double>(characters_of(words)); need > room) size = std::max(kSmallest, size * room / need);
  const auto fits = static_cast<std::size_t>(std::max(room, 0.0) / (kCharacterRatio * bold * size));
  if (characters_of(words) > fits + 1) {
    while (!words.empty() && characters_of(words) > fits) words.pop_back();
    while (!words.empty() && (static_cast<unsigned char>(words.back()) & 0xc0) == 0xc0) words.pop_back();  // half a character
    words += "…";
  }
  const std::string attributes = fmt::format("x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" font-size=\"{:.1f}\"{}", x, y, style.anchor, size, style.bold ? " font-weight=\"bold\"" : "");
  std::string out;
  if (style.halo) out = fmt::format("<text {} fill=\"white\" stroke=\"white\" stroke-width=\"3\" stroke-linejoin=\"round\">{}</text>\n", attributes, escaped(words));
  return out + fmt::format("<text {} fill=\"{}\">{}</text>\n", attributes, style.colour, escaped(words));
}

/// "steady.step", or "step" where that is too wide, or nothing.
std::string phase_label(const std::string& name, double left, double right) {
  constexpr double kLeast = 10;
  for (const std::string& words : {name, name.substr(name.find('.') + 1)})
    if (right - left > kCharacterRatio * kLeast * static_cast<double>(words.size())) return text((left + right) / 2, Picture::kHeight - Picture::kBottom + 18, right - left, words, {.anchor = "middle"});
  return "";
}

/// The steps of a staircase over columns, left to right, without points that change nothing.
class Staircase {
 public:
  void step(double left, double right, double y) {
    if (points_.empty() || points_.back().second != y) {
      points_.emplace_back(left, y);
      points_.emplace_back(right, y);
    } else {
      points_.back().first = right;
    }
  }
  std::string forwards() const { return write(points_.begin(), points_.end()); }
  std::string backwards() const { return write(points_.rbegin(), points_.rend()); }
  bool empty() const { return points_.empty(); }

 private:
  template <class Iterator>
  static std::string write(Iterator begin, Iterator end) {
    std::string out;
    for (auto i = begin; i != end; ++i) out += fmt::format("{:.1f},{:.1f} ", i->first, i->second);
    return out;
  }
  std::vector<std::pair<double, double>> points_;
};

double rounded(double y) { return static_cast<double>(static_cast<std::int64_t>(10 * y + 0.5)) / 10; }

}  // namespace

std::size_t band_of(Category category) {
  return static_cast<std::size_t>(std::find_if(kBands.begin(), kBands.end(), [&](const Band& band) { return band.category == category; }) - kBands.begin());
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

Picture::Picture(const Timeline& timeline, const PictureWords& words) : t_(timeline), words_(words), series_(category_series(timeline)), columns_(columns_of(timeline, kColumns)) {
  const Bytes highest = nears_capacity(t_) ? std::max(top_of(t_), t_.capacity) : top_of(t_);
  top_ = std::max(1.06 * static_cast<double>(highest.value()), 1.0);
}

std::string Picture::svg() const {
  std::string out = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
                                "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n", kWidth, kHeight);
  constexpr double kRoom = kWidth - kLeft - kRight;
  out += text(kLeft, 24, kRoom, words_.title, {.size = 15, .bold = true}) + text(kLeft, 44, kRoom, words_.verdict, {.size = 13});
  out += axis();
  for (std::size_t b = 0; b < kBands.size(); ++b) out += band(b);
  out += taken() + phases() + limits() + failure() + peak() + legend();
  return out + "</svg>\n";
}

double Picture::x_of(std::size_t column) const { return kLeft + (kWidth - kLeft - kRight) * static_cast<double>(column) / static_cast<double>(std::max<std::size_t>(columns_.size(), 1)); }
double Picture::y_of(double bytes) const { return rounded(kTop + (kHeight - kTop - kBottom) * (1 - bytes / top_)); }

std::string Picture::band(std::size_t b) const {
  Staircase upper, lower;
  bool any = false;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    std::int64_t low = 0;
    for (std::size_t below = 0; below < b; ++below) low += bytes(c, below);
    any = any || bytes(c, b) > 0;
    upper.step(x_of(c), x_of(c + 1), y_of(static_cast<double>(low + bytes(c, b))));
    lower.step(x_of(c), x_of(c + 1), y_of(static_cast<double>(low)));
  }
  return any ? fmt::format("<polygon fill=\"{}\" points=\"{}{}\"><title>{}</title></polygon>\n", kBands[b].colour, upper.forwards(), lower.backwards(), kBands[b].words) : "";
}

std::string Picture::taken() const {
  std::string out;
  Staircase line;
  const auto flush = [&] {
    if (!line.empty()) out += fmt::format("<polyline fill=\"none\" stroke=\"#222222\" stroke-width=\"1.2\" points=\"{}\"/>\n", line.forwards());
    line = {};
  };
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    if (columns_[c].most_taken) line.step(x_of(c), x_of(c + 1), y_of(static_cast<double>(columns_[c].most_taken->value())));
    else flush();
  }
  flush();
  return out;
}

std::string Picture::axis() const {
  std::string out;
  constexpr double kGib = 1 << 30;
  double step = kGib;
  while (top_ / step > 8) step *= 2;
  while (top_ / step < 3) step /= 2;
  for (double bytes = 0; bytes < top_; bytes += step) {
    out += fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#dddddd\"/>\n", kLeft, kWidth - kRight, y_of(bytes), y_of(bytes));
    out += text(kLeft - 8, y_of(bytes) + 4, kLeft - 8, bytes == 0 ? "0" : format_gib(Bytes(static_cast<std::int64_t>(bytes))), {.anchor = "end"});
  }
  return out;
}

std::string Picture::phases() const {
  constexpr double kWideEnough = 8;  // micro batches beyond counting get no separators
  std::string out;
  for (std::size_t begin = 0; begin < columns_.size();) {
    std::size_t end = begin;
    const std::string& name = t_.instants[columns_[begin].highest].phase;
    while (end < columns_.size() && t_.instants[columns_[end].highest].phase == name) ++end;
    const double left = x_of(begin), right = x_of(end);
    if (begin > 0 && right - left >= kWideEnough) out += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#666666\" stroke-dasharray=\"2 3\"/>\n", left, kTop, kHeight - kBottom + 6);
    out += phase_label(name, left, right);
    begin = end;
  }
  return out;
}

std::string Picture::limit(Bytes bytes, const char* words, const char* dash, bool label_at_left, bool label_above) const {
  const double y = y_of(static_cast<double>(bytes.value()));
  return fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"black\" stroke-dasharray=\"{}\"/>\n", kLeft, kWidth - kRight, y, y, dash) +
         text(label_at_left ? kLeft + 4 : kWidth - kRight - 4, label_above ? y - 4 : y + 13, 300, fmt::format("{} {}", words, format_gib(bytes)), {.anchor = label_at_left ? "start" : "end", .halo = true});
}

std::string Picture::limits() const {
  if (!nears_capacity(t_)) return "";
  const std::size_t peak = t_.peak();
  const auto column = std::find_if(columns_.begin(), columns_.end(), [&](const TimelineColumn& c) { return c.highest == peak; });
  const bool peak_at_left = 2 * (column - columns_.begin()) < static_cast<std::ptrdiff_t>(columns_.size());
  return limit(t_.capacity, "device", "6 3", !peak_at_left, true) + limit(t_.usable, "usable", "none", !peak_at_left, false);
}

std::string Picture::peak() const {
  if (t_.instants.empty()) return "";
  const std::size_t at = t_.peak();
  const auto column = static_cast<std::size_t>(std::find_if(columns_.begin(), columns_.end(), [&](const TimelineColumn& c) { return c.highest == at; }) - columns_.begin());
  if (column >= columns_.size()) return "";
  const double x = (x_of(column) + x_of(column + 1)) / 2, y = y_of(static_cast<double>(t_.instants[at].live.value()));
  const bool at_right = x > kWidth / 2.0;
  const double room = at_right ? x - 12 - kLeft : kWidth - kRight - x - 12;
  return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"black\" stroke=\"white\"/>\n", x, y) +
         text(at_right ? x - 8 : x + 8, std::max(y - 7, kTop + 10.0), room, fmt::format("peak {} in {}", format_gib(t_.instants[at].live), instant_line(t_, at)), {.anchor = at_right ? "end" : "start", .halo = true});
}

std::string Picture::failure() const {
  if (!t_.failure) return "";
  const auto column = static_cast<std::size_t>(std::find_if(columns_.begin(), columns_.end(), [&](const TimelineColumn& c) { return t_.failure->instant < c.end; }) - columns_.begin());
  const double x = (x_of(column) + x_of(column + 1)) / 2;
  const bool at_right = x > kWidth / 2.0;
  return fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#b00000\" stroke-width=\"1.5\"/>\n", x, kTop, kHeight - kBottom) +
         text(at_right ? x - 6 : x + 6, kHeight - kBottom - 8, at_right ? x - 6 - kLeft : kWidth - kRight - x - 6, fmt::format("out of memory here: {} more in {}", format_gib(t_.failure->tried), instant_line(t_, t_.failure->instant)),
              {.anchor = at_right ? "end" : "start", .colour = "#b00000", .bold = true, .halo = true});
}

std::string Picture::legend() const {
  constexpr int kRow = kHeight - kBottom + 46;
  std::string out;
  double x = kLeft;
  for (std::size_t b = 0; b < kBands.size(); ++b) {
    bool any = false;
    for (const auto& row : series_) any = any || row[static_cast<std::size_t>(kBands[b].category)] > 0;
    if (!any) continue;
    const double room = kCharacterRatio * 12 * static_cast<double>(std::string_view(kBands[b].words).size());
    out += fmt::format("<rect x=\"{:.0f}\" y=\"{}\" width=\"11\" height=\"11\" fill=\"{}\"/>\n", x, kRow - 10, kBands[b].colour) + text(x + 16, kRow, room, kBands[b].words);
    x += 30 + room;
  }
  const bool ours = t_.question.plan.engine == Engine::zeroplan;
  std::optional<Bytes> most;
  for (const TimelineColumn& column : columns_)
    if (column.most_taken) most = std::max(most.value_or(*column.most_taken), *column.most_taken);
  if (most) {
    out += fmt::format("<line x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\" stroke=\"#222222\" stroke-width=\"1.2\"/>\n", kLeft, kLeft + 11, kRow + 16);
    out += text(kLeft + 16, kRow + 20, kWidth - kRight - kLeft - 16,
                fmt::format("{}: {}{}", ours ? "arena, one allocation for the whole run" : t_.endless ? "what PyTorch's allocator would reserve on a device without end" : "reserved by PyTorch's allocator", ours ? "" : "at most ", format_gib(*most)));
  }
  const std::string beyond = nears_capacity(t_) ? "" : fmt::format("; {} are usable, far above the picture", format_gib(t_.usable));
  return out + text(kLeft, kRow + 42, kWidth - kRight - kLeft, "requested bytes of rank 0 in the order of issue; every column is the highest instant of its stretch" + beyond, {.size = 11, .colour = "#555555"});
}

std::string timeline_svg(const Timeline& timeline, const PictureWords& words) { return Picture(timeline, words).svg(); }

}  // namespace zeroplan
