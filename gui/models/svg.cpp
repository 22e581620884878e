#include "gui/models/svg.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/core/format.h"

namespace zeroplan::gui {
namespace {

constexpr int kLeft = 90, kTop = 44, kRight = 16, kBottom = 64;

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else out += c;
  }
  return out;
}

std::string hex(Pixel colour) { return fmt::format("#{:06x}", colour & 0xffffffu); }

std::string label(double x, double y, std::string_view anchor, std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, escaped(text));
}

}  // namespace

std::string svg_of(const Answered& answered, const SvgStyle& style) {
  const StepPicture& picture = answered.picture;
  const int plot_width = std::max(style.width - kLeft - kRight, 1), plot_height = std::max(style.height - kTop - kBottom, 1);
  const Prediction& a = answered.prediction;
  const double top = 1.05 * static_cast<double>(std::max(a.capacity, a.must_fit).value());
  const auto y_of = [&](std::int64_t bytes) { return kTop + plot_height * (1 - static_cast<double>(bytes) / top); };
  const auto x_of = [&](SimTime t) { return kLeft + plot_width * seconds(t) / std::max(seconds(picture.duration), 1e-12); };
  std::string out = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
                                "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n", style.width, style.height);
  out += label(kLeft, 18, "start", print_command_line(answered.asked));
  out += label(kLeft, 34, "start", verdict_words(a.verdict, style.language) + " · " + verdict_lines(answered, style.language).need);
  const auto columns = picture.memory.columns(SimTime(), std::max(picture.duration, SimTime(1)), plot_width);
  for (const Category category : kStackOrder) {
    const auto c = static_cast<std::size_t>(category);
    std::string upper, lower;
    bool any = false;
    for (std::size_t i = 0; i < columns.size(); ++i) {
      std::int64_t below = 0;
      for (const Category other : kStackOrder) {
        if (other == category) break;
        below += columns[i].stack[static_cast<std::size_t>(other)];
      }
      any = any || columns[i].stack[c] != 0;
      upper += fmt::format("{},{:.1f} {},{:.1f} ", kLeft + i, y_of(below + columns[i].stack[c]), kLeft + i + 1, y_of(below + columns[i].stack[c]));
      lower = fmt::format("{},{:.1f} {},{:.1f} ", kLeft + i + 1, y_of(below), kLeft + i, y_of(below)) + lower;
    }
    if (any) out += fmt::format("<polygon fill=\"{}\" points=\"{}{}\"><title>{}</title></polygon>\n", hex(style.palette[c]), upper, lower, escaped(category_words(category, style.language)));
  }
  const std::int64_t tick = byte_tick(static_cast<std::int64_t>(top), 6);
  for (std::int64_t bytes = 0; static_cast<double>(bytes) < top; bytes += tick) out += label(kLeft - 6, y_of(bytes) + 4, "end", format_gib(Bytes(bytes)));
  const auto line = [&](Bytes bytes, std::string_view dash, const std::string& text) {
    out += fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"black\" stroke-dasharray=\"{}\"/>\n", kLeft, kLeft + plot_width, y_of(bytes.value()), y_of(bytes.value()), dash);
    out += label(kLeft + plot_width - 4, y_of(bytes.value()) - 3, "end", text);
  };
  line(a.usable, "", fill(say("usable {}", style.language), {format_gib(a.usable)}));
  line(a.must_fit, "4 3", fill(answered.ours ? say("arena {}", style.language) : say("reserved {}", style.language), {format_gib(a.must_fit)}));
  for (const PhaseSpan& span : picture.phases)
    if (x_of(span.time.end) - x_of(span.time.begin) > 40) out += label((x_of(span.time.begin) + x_of(span.time.end)) / 2, style.height - kBottom + 16, "middle", say_name(name_of(span.phase), style.language));
  out += label(kLeft, style.height - kBottom + 32, "middle", "0");
  out += label(kLeft + plot_width, style.height - kBottom + 32, "end", time_words(answered, picture.duration, style.language));
  double x = kLeft;
  for (const Category category : kStackOrder) {
    const auto c = static_cast<std::size_t>(category);
    const std::string words = category_words(category, style.language);
    out += fmt::format("<rect x=\"{:.0f}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{}\"/>\n", x, style.height - 18, hex(style.palette[c])) + label(x + 14, style.height - 9, "start", words);
    x += 26 + 7.0 * static_cast<double>(words.size());
  }
  return out + "</svg>\n";
}

}  // namespace zeroplan::gui
