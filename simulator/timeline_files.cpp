#include "simulator/timeline_files.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/format.h"

namespace zeroplan {
namespace {

/// From the bottom of the stack upwards, with the colours of the window's light theme (Okabe and Ito's, safe for colour-blind eyes).
struct Band {
  Category category;
  const char* colour;
  const char* words;
};
constexpr std::array<Band, kCategoryCount> kBands{{{Category::parameters, "#0072b2", "parameters"},
                                                   {Category::optimizer, "#56b4e9", "optimizer"},
                                                   {Category::gradients, "#009e73", "gradients"},
                                                   {Category::gathered_parameters, "#f0e442", "gathered parameters"},
                                                   {Category::communication_buffers, "#e69f00", "communication buffers"},
                                                   {Category::activations, "#d55e00", "activations"},
                                                   {Category::logits_and_loss, "#cc79a7", "logits and loss"},
                                                   {Category::scratch, "#999999", "scratch"}}};

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

// ---- the picture ----

constexpr int kWidth = 1200, kHeight = 520, kLeft = 84, kRight = 20, kTop = 62, kBottom = 76;
constexpr std::size_t kColumns = 1096;

class Picture {
 public:
  Picture(const Timeline& timeline, const PictureWords& words)
      : t_(timeline), words_(words), series_(category_series(timeline)), columns_(highest_instants(timeline, kColumns)) {
    const Bytes highest = t_.instants.empty() ? Bytes() : t_.instants[t_.peak()].live;
    top_ = 1.06 * static_cast<double>(std::max(highest, reaches_capacity(highest) ? t_.capacity : highest).value());
    top_ = std::max(top_, 1.0);
  }

  std::string svg() const {
    std::string out = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
                                  "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n", kWidth, kHeight);
    out += label(kLeft, 22, "start", words_.title, "font-size=\"14\" font-weight=\"bold\"") + label(kLeft, 42, "start", words_.verdict);
    for (std::size_t b = 0; b < kBands.size(); ++b) out += band(b);
    out += axis() + phases() + limits() + peak() + legend();
    return out + "</svg>\n";
  }

  double x_of(std::size_t column) const { return kLeft + (kWidth - kLeft - kRight) * static_cast<double>(column) / static_cast<double>(std::max<std::size_t>(columns_.size(), 1)); }
  const std::vector<std::size_t>& columns() const { return columns_; }

 private:
  /// The device's lines belong in the picture where the stack comes near them.
  bool reaches_capacity(Bytes highest) const { return 3 * highest.value() > t_.capacity.value(); }
  double y_of(double bytes) const { return kTop + (kHeight - kTop - kBottom) * (1 - bytes / top_); }

  static std::string label(double x, double y, const char* anchor, std::string_view text, const char* style = "") {
    return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" {}>{}</text>\n", x, y, anchor, style, escaped(text));
  }

  double below(std::size_t column, std::size_t bands) const {
    std::int64_t sum = 0;
    for (std::size_t b = 0; b < bands; ++b) sum += series_[columns_[column]][static_cast<std::size_t>(kBands[b].category)];
    return static_cast<double>(sum);
  }

  std::string band(std::size_t b) const {
    std::string upper, lower;
    bool any = false;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const double low = below(c, b), high = below(c, b + 1);
      any = any || high > low;
      upper += fmt::format("{:.1f},{:.1f} {:.1f},{:.1f} ", x_of(c), y_of(high), x_of(c + 1), y_of(high));
      lower = fmt::format("{:.1f},{:.1f} {:.1f},{:.1f} ", x_of(c + 1), y_of(low), x_of(c), y_of(low)) + lower;
    }
    return any ? fmt::format("<polygon fill=\"{}\" points=\"{}{}\"><title>{}</title></polygon>\n", kBands[b].colour, upper, lower, kBands[b].words) : "";
  }

  std::string axis() const {
    std::string out;
    constexpr double kGib = 1 << 30;
    double step = kGib;
    while (top_ / step > 8) step *= 2;
    while (top_ / step < 3) step /= 2;
    for (double bytes = 0; bytes < top_; bytes += step) {
      out += fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#dddddd\" stroke-width=\"0.5\"/>\n", kLeft, kWidth - kRight, y_of(bytes), y_of(bytes));
      out += label(kLeft - 8, y_of(bytes) + 4, "end", format_gib(Bytes(static_cast<std::int64_t>(bytes))));
    }
    return out;
  }

  std::string phases() const {
    std::string out;
    for (std::size_t begin = 0; begin < columns_.size();) {
      std::size_t end = begin;
      while (end < columns_.size() && t_.instants[columns_[end]].phase == t_.instants[columns_[begin]].phase) ++end;
      const double left = x_of(begin), right = x_of(end);
      if (begin > 0) out += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#666666\" stroke-dasharray=\"2 3\"/>\n", left, kTop, kHeight - kBottom);
      const std::string& name = t_.instants[columns_[begin]].phase;
      if (right - left > 7.0 * static_cast<double>(name.size())) out += label((left + right) / 2, kHeight - kBottom + 18, "middle", name);
      begin = end;
    }
    return out;
  }

  std::string limits() const {
    if (!reaches_capacity(t_.instants.empty() ? Bytes() : t_.instants[t_.peak()].live)) return "";
    const auto line = [&](Bytes bytes, const char* dash, const std::string& text) {
      const double y = y_of(static_cast<double>(bytes.value()));
      return fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"black\" stroke-dasharray=\"{}\"/>\n", kLeft, kWidth - kRight, y, y, dash) + label(kWidth - kRight - 4, y - 4, "end", text);
    };
    return line(t_.usable, "none", "usable " + format_gib(t_.usable));
  }

  std::string peak() const {
    if (t_.instants.empty()) return "";
    const std::size_t at = t_.peak();
    const auto column = static_cast<std::size_t>(std::find(columns_.begin(), columns_.end(), at) - columns_.begin());
    if (column >= columns_.size()) return "";
    const TimelineInstant& instant = t_.instants[at];
    const double x = x_of(column), y = y_of(static_cast<double>(instant.live.value()));
    const bool at_right = x > kWidth / 2.0;
    const std::string words = fmt::format("peak {}: {}, {} {}", format_gib(instant.live), instant.phase, instant.name, instant.unit);
    return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"black\"/>\n", x, y) + label(at_right ? x - 8 : x + 8, std::max(y - 6, kTop - 4.0), at_right ? "end" : "start", words);
  }

  std::string legend() const {
    std::string out;
    double x = kLeft;
    for (const Band& band : kBands) {
      out += fmt::format("<rect x=\"{:.0f}\" y=\"{}\" width=\"11\" height=\"11\" fill=\"{}\"/>\n", x, kHeight - 34, band.colour) + label(x + 16, kHeight - 24, "start", band.words);
      x += 34 + 7.2 * static_cast<double>(std::string_view(band.words).size());
    }
    return out + label(kLeft, kHeight - 6, "start", "requested bytes of rank 0 in the order of issue; every column is the highest instant of its stretch", "fill=\"#555555\"");
  }

  const Timeline& t_;
  const PictureWords& words_;
  std::vector<std::array<std::int64_t, kCategoryCount>> series_;
  std::vector<std::size_t> columns_;
  double top_ = 1;
};

std::string instant_words(const Timeline& t, std::size_t instant) {
  if (instant >= t.instants.size()) return "stays";
  const TimelineInstant& i = t.instants[instant];
  return i.phase == "before" ? "before this step" : fmt::format("{}: {} {}", i.phase, i.name, i.unit);
}

std::string peak_table(const Timeline& t) {
  constexpr std::size_t kRows = 60;
  const std::vector<std::size_t> live = t.live_at(t.peak());
  std::string out = "<table><tr><th>bytes</th><th>size</th><th>what</th><th>category</th><th>unit</th><th>born</th><th>dies</th><th>why</th></tr>\n";
  for (std::size_t i = 0; i < live.size() && i < kRows; ++i) {
    const TimelineTensor& tensor = t.tensors[live[i]];
    out += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n", tensor.bytes.value(), format_gib(tensor.bytes), escaped(tensor.name),
                       name_of(tensor.category), escaped(tensor.unit), escaped(instant_words(t, tensor.birth)), escaped(instant_words(t, tensor.death)), escaped(tensor.why));
  }
  out += "</table>\n";
  if (live.size() > kRows) out += fmt::format("<p>{} smaller tensors are left out.</p>\n", live.size() - kRows);
  return out;
}

/// What the pointer reads off a column.
std::string hover_data(const Timeline& t, const std::vector<std::size_t>& columns) {
  const auto series = category_series(t);
  nlohmann::json list = nlohmann::json::array();
  for (const std::size_t at : columns) {
    nlohmann::json parts = nlohmann::json::array();
    for (const Band& band : kBands) parts.push_back(series[at][static_cast<std::size_t>(band.category)]);
    list.push_back({instant_words(t, at), t.instants[at].live.value(), parts});
  }
  std::string out = list.dump();
  for (std::size_t at = 0; (at = out.find("</", at)) != std::string::npos; at += 3) out.replace(at, 2, "<\\/");
  return out;
}

// ---- pickle, protocol 2 ----

class Pickle {
 public:
  Pickle() { out_ = "\x80\x02"; }
  void begin_dict() { out_ += "}("; }
  void end_dict() { out_ += 'u'; }
  void begin_list() { out_ += "]("; }
  void end_list() { out_ += 'e'; }
  void text(std::string_view value) {
    out_ += 'X';
    little_endian(value.size(), 4);
    out_ += value;
  }
  void integer(std::int64_t value) {
    out_ += "\x8a\x08";
    little_endian(static_cast<std::uint64_t>(value), 8);
  }
  std::string take() { return std::move(out_ += '.'); }

 private:
  void little_endian(std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out_ += static_cast<char>(value >> (8 * i) & 0xff);
  }
  std::string out_;
};

void write_entry(Pickle& p, const char* action, std::int64_t address, const TimelineTensor& tensor, std::int64_t time) {
  p.begin_dict();
  p.text("action"), p.text(action);
  p.text("addr"), p.integer(address);
  p.text("size"), p.integer(tensor.bytes.value());
  p.text("stream"), p.integer(static_cast<std::int64_t>(tensor.stream));
  p.text("time_us"), p.integer(time);
  p.text("category"), p.text(name_of(tensor.category));
  p.text("frames"), p.begin_list();
  p.begin_dict();
  p.text("name"), p.text(tensor.name);
  p.text("filename"), p.text(tensor.unit);
  p.text("line"), p.integer(0);
  p.end_dict();
  p.end_list();
  p.end_dict();
}

}  // namespace

std::vector<std::array<std::int64_t, kCategoryCount>> category_series(const Timeline& t) {
  std::vector<std::array<std::int64_t, kCategoryCount>> out(t.instants.size() + 1);
  for (const TimelineTensor& tensor : t.tensors) {
    const auto category = static_cast<std::size_t>(tensor.category);
    out[tensor.birth][category] += tensor.bytes.value();
    if (tensor.death < t.instants.size()) out[tensor.death + 1][category] -= tensor.bytes.value();
  }
  for (std::size_t i = 1; i < out.size(); ++i)
    for (std::size_t c = 0; c < kCategoryCount; ++c) out[i][c] += out[i - 1][c];
  out.pop_back();
  return out;
}

std::vector<std::size_t> highest_instants(const Timeline& t, std::size_t count) {
  const std::size_t n = t.instants.size(), columns = std::min(count, n);
  std::vector<std::size_t> out;
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t begin = c * n / columns, end = (c + 1) * n / columns;
    std::size_t best = begin;
    for (std::size_t i = begin; i < end; ++i)
      if (t.instants[i].live > t.instants[best].live) best = i;
    out.push_back(best);
  }
  return out;
}

std::string timeline_svg(const Timeline& timeline, const PictureWords& words) { return Picture(timeline, words).svg(); }

std::string timeline_html(const Timeline& t, const PictureWords& words) {
  const Picture picture(t, words);
  nlohmann::json names = nlohmann::json::array();
  for (const Band& band : kBands) names.push_back(band.words);
  std::string out = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" + escaped(words.title) +
                    "</title>\n<style>body{font-family:sans-serif;margin:1em;max-width:1220px}#here{min-height:4.5em;white-space:pre-wrap}table{border-collapse:collapse;font-size:12px}"
                    "td,th{border-bottom:1px solid #ddd;padding:2px 8px;text-align:left}td:first-child,td:nth-child(2){text-align:right}svg{max-width:100%;height:auto}</style></head><body>\n";
  out += "<div id=\"picture\">" + picture.svg() + "</div>\n<p id=\"here\">Move the pointer over the picture.</p>\n<h3>Live at the peak</h3>\n" + peak_table(t);
  out += "<script>\nconst columns=" + hover_data(t, picture.columns()) + ",names=" + names.dump() + fmt::format(",left={},right={},width={};\n", kLeft, kWidth - kRight, kWidth);
  out += "const gib=b=>b>=1e8?(b/2**30).toFixed(2)+' GiB':(b/2**20).toFixed(1)+' MiB';\n"
         "document.querySelector('#picture svg').addEventListener('mousemove',e=>{const r=e.currentTarget.getBoundingClientRect();const x=(e.clientX-r.left)/r.width*width;"
         "const i=Math.floor((x-left)/(right-left)*columns.length);const c=columns[i];if(!c)return;"
         "document.querySelector('#here').textContent=c[0]+'\\n'+gib(c[1])+': '+names.map((n,k)=>c[2][k]?n+' '+gib(c[2][k]):'').filter(s=>s).join(' | ');});\n</script></body></html>\n";
  return out;
}

std::string timeline_csv(const Timeline& t) {
  std::string out = "index,phase,unit,instruction,stream,live_bytes";
  for (int c = 0; c < kCategoryCount; ++c) out += fmt::format(",{}_bytes", name_of(static_cast<Category>(c)));
  out += "\n";
  const auto series = category_series(t);
  for (std::size_t i = 0; i < t.instants.size(); ++i) {
    const TimelineInstant& instant = t.instants[i];
    out += fmt::format("{},{},{},\"{}\",{},{}", i, instant.phase, instant.unit, instant.name, name_of(instant.stream), instant.live.value());
    for (const std::int64_t bytes : series[i]) out += fmt::format(",{}", bytes);
    out += "\n";
  }
  return out;
}

std::string timeline_json_lines(const Timeline& t) {
  std::string out;
  for (const TimelineTensor& tensor : t.tensors)
    out += nlohmann::json{{"name", tensor.name}, {"category", name_of(tensor.category)}, {"unit", tensor.unit}, {"stream", name_of(tensor.stream)}, {"bytes", tensor.bytes.value()}, {"birth", tensor.birth},
                          {"death", tensor.death}, {"born", instant_words(t, tensor.birth)}, {"dies", instant_words(t, tensor.death)}, {"why", tensor.why}}.dump() + "\n";
  return out;
}

std::string timeline_chrome(const Timeline& t) {
  std::string out = "{\"traceEvents\":[\n";
  const auto series = category_series(t);
  for (std::size_t i = 0; i < t.instants.size(); ++i) {
    const TimelineInstant& instant = t.instants[i];
    nlohmann::json parts = nlohmann::json::object();
    for (int c = 0; c < kCategoryCount; ++c) parts[std::string(name_of(static_cast<Category>(c)))] = series[i][static_cast<std::size_t>(c)];
    out += nlohmann::json{{"ph", "C"}, {"pid", 0}, {"ts", i}, {"name", "live bytes"}, {"args", parts}}.dump() + ",\n";
    out += nlohmann::json{{"ph", "X"}, {"pid", 0}, {"tid", static_cast<int>(instant.stream)}, {"ts", i}, {"dur", 1}, {"name", instant.name}, {"args", {{"unit", instant.unit}, {"phase", instant.phase}}}}.dump() + ",\n";
  }
  return out + "{\"ph\":\"M\",\"pid\":0,\"name\":\"process_name\",\"args\":{\"name\":\"rank 0, one microsecond an instant\"}}\n]}\n";
}

std::string timeline_snapshot(const Timeline& t) {
  constexpr std::int64_t kBase = std::int64_t{1} << 40, kGrain = 512;
  std::vector<std::int64_t> address(t.tensors.size());
  std::int64_t next = kBase;
  for (std::size_t i = 0; i < t.tensors.size(); ++i) {  // every tensor has addresses of its own: the viewer only tells them apart
    address[i] = next;
    next += round_up(std::max<std::int64_t>(t.tensors[i].bytes.value(), 1), kGrain);
    if (next > std::int64_t{1} << 52) next = kBase;  // its numbers are doubles
  }
  std::vector<std::size_t> by_death;
  for (std::size_t i = 0; i < t.tensors.size(); ++i)
    if (t.tensors[i].death < t.instants.size()) by_death.push_back(i);
  std::stable_sort(by_death.begin(), by_death.end(), [&](std::size_t a, std::size_t b) { return t.tensors[a].death < t.tensors[b].death; });
  Pickle p;
  p.begin_dict();
  p.text("segments"), p.begin_list(), p.end_list();
  p.text("device_traces"), p.begin_list(), p.begin_list();
  std::size_t freed = 0;
  const auto free_before = [&](std::size_t instant) {
    for (; freed < by_death.size() && t.tensors[by_death[freed]].death < instant; ++freed)
      for (const char* action : {"free_requested", "free_completed"}) write_entry(p, action, address[by_death[freed]], t.tensors[by_death[freed]], t.tensors[by_death[freed]].death);
  };
  for (std::size_t i = 0; i < t.tensors.size(); ++i) {  // tensors are in the order of birth
    free_before(t.tensors[i].birth);
    write_entry(p, "alloc", address[i], t.tensors[i], t.tensors[i].birth);
  }
  free_before(t.instants.size());
  p.end_list(), p.end_list();
  p.text("allocator_settings"), p.begin_dict(), p.end_dict();
  p.text("external_annotations"), p.begin_list(), p.end_list();
  p.end_dict();
  return p.take();
}

}  // namespace zeroplan
