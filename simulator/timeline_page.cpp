#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/format.h"
#include "simulator/timeline_picture.h"

namespace zeroplan {
namespace {

using nlohmann::json;

constexpr std::size_t kRows = 60;

constexpr const char* kStyle = R"css(
body{font-family:sans-serif;margin:1em auto;max-width:1240px;padding:0 1em;color:#111;background:#fff}
#picture{position:relative}
#picture svg{width:100%;height:auto;display:block}
#here{min-height:5.2em;margin:.4em 0;padding:.5em .7em;background:#f4f4f4;border-left:4px solid #ccc;line-height:1.35}
.rows{overflow-x:auto}
table{border-collapse:collapse;font-size:12px}
td,th{border-bottom:1px solid #ddd;padding:3px 8px;text-align:left;vertical-align:top}
td:first-child,th:first-child{text-align:right;white-space:nowrap}
tr[data-tensor]:hover{background:#eef4ff}
.swatch{display:inline-block;width:.8em;height:.8em;margin-right:.4em}
.note{color:#555;font-size:12px}
)css";

// The stack is rebuilt from columns and tensors: bands from the bottom, in each its tensors by birth, then what is too small to be listed.
constexpr const char* kScript = R"js(
(() => {
const d = JSON.parse(document.getElementById('timeline').textContent);
const svg = document.querySelector('#picture svg'), here = document.getElementById('here');
const ns = 'http://www.w3.org/2000/svg';
const add = (name, attributes) => {
  const e = document.createElementNS(ns, name);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  return svg.appendChild(e);
};
const outline = add('polygon', {fill: 'white', 'fill-opacity': '0.35', stroke: 'black', 'stroke-width': '1.5', 'pointer-events': 'none', points: ''});
const cursor = add('line', {stroke: 'black', 'stroke-opacity': '0.5', 'pointer-events': 'none', x1: -9, x2: -9, y1: d.top, y2: d.top + d.height});
const tensors = d.tensors.map(([name, unit, band, bytes, first, last, born, dies, why]) =>
  ({name: d.strings[name], unit: d.strings[unit], band, bytes, first, last, born: d.strings[born], dies: d.strings[dies], why: d.strings[why]}));
const columns = d.columns.map(([words, device, start, parts]) => ({words: d.strings[words], device, start, parts, live: parts.reduce((a, b) => a + b, 0)}));
const inBand = d.bands.map((_, k) => tensors.filter(t => t.band === k));
const size = b => b >= 1e8 ? (b / 2 ** 30).toFixed(2) + ' GiB' : b >= 2 ** 20 ? (b / 2 ** 20).toFixed(1) + ' MiB' : b >= 1024 ? (b / 1024).toFixed(1) + ' KiB' : b + ' B';
const isLive = (t, c) => t.first <= c && c <= t.last;
const bottomOf = (t, c) => {
  let sum = 0;
  for (let k = 0; k < t.band; ++k) sum += columns[c].parts[k];
  for (const other of inBand[t.band]) {
    if (other === t) break;
    if (isLive(other, c)) sum += other.bytes;
  }
  return sum;
};
const x = c => d.left + d.width * c / columns.length, y = b => d.top + d.height * (1 - b / d.topBytes);
const find = (c, bytes) => {
  let low = 0;
  for (let k = 0; k < d.bands.length; low += columns[c].parts[k], ++k) {
    if (bytes >= low + columns[c].parts[k]) continue;
    for (const t of inBand[k]) {
      if (!isLive(t, c)) continue;
      if (bytes < low + t.bytes) return {band: k, tensor: t};
      low += t.bytes;
    }
    return {band: k};
  }
  return {};
};
let outlined;
const show = t => {
  if (t === outlined) return;
  outlined = t;
  if (!t) return outline.setAttribute('points', '');
  const upper = [], lower = [];
  for (let c = t.first; c <= t.last; ++c) {
    const b = bottomOf(t, c);
    upper.push(x(c) + ',' + y(b + t.bytes), x(c + 1) + ',' + y(b + t.bytes));
    lower.push(x(c) + ',' + y(b), x(c + 1) + ',' + y(b));
  }
  outline.setAttribute('points', upper.concat(lower.reverse()).join(' '));
};
const line = (text, bold) => {
  const e = document.createElement(bold ? 'b' : 'div');
  e.textContent = text;
  return e;
};
const describe = t => {
  here.style.borderColor = d.bands[t.band][1];
  here.replaceChildren(line(t.name + (t.unit ? ', ' + t.unit : '') + ': ' + size(t.bytes) + ' (' + t.bytes + ' bytes)', true), line(d.bands[t.band][0] + '; ' + t.why), line('born ' + t.born + ' | dies ' + t.dies));
};
const describeColumn = (c, band) => {
  const column = columns[c];
  here.style.borderColor = band === undefined ? '#ccc' : d.bands[band][1];
  here.replaceChildren(line(column.words + ': ' + size(column.live) + ' live' + (column.device === null ? '' : ', ' + size(column.device) + ' ' + d.device) + (column.start === null ? '' : ', ' + (1e3 * column.start).toFixed(2) + ' ms'), true),
    line(d.bands.map((b, k) => column.parts[k] ? b[0] + ' ' + size(column.parts[k]) : '').filter(s => s).join(' | ')), line(band === undefined ? '' : 'here: small tensors of ' + d.bands[band][0]));
};
const point = e => {
  const r = svg.getBoundingClientRect();
  const c = Math.floor(((e.clientX - r.left) / r.width * d.svgWidth - d.left) / d.width * columns.length);
  const bytes = (1 - ((e.clientY - r.top) / r.height * d.svgHeight - d.top) / d.height) * d.topBytes;
  if (c < 0 || c >= columns.length || bytes < 0) return show(undefined);
  cursor.setAttribute('x1', x(c + 0.5));
  cursor.setAttribute('x2', x(c + 0.5));
  const {band, tensor} = find(c, bytes);
  show(tensor);
  if (tensor) describe(tensor); else describeColumn(c, band);
};
svg.addEventListener('mousemove', point);
svg.addEventListener('click', point);
svg.addEventListener('mouseleave', () => { show(undefined); cursor.setAttribute('x1', -9); cursor.setAttribute('x2', -9); });
for (const row of document.querySelectorAll('tr[data-tensor]'))
  row.addEventListener('mouseenter', () => { const t = tensors[row.dataset.tensor]; show(t); describe(t); });
})();
)js";

/// Numbers for strings, in the order in which they are first used.
class Strings {
 public:
  std::size_t operator()(const std::string& text) {
    const auto [at, is_new] = number_.emplace(text, number_.size());
    if (is_new) list_.push_back(text);
    return at->second;
  }
  const json& list() const { return list_; }

 private:
  std::map<std::string, std::size_t> number_;
  json list_ = json::array();
};

/// JSON that may stand inside a script element.
std::string embedded(const json& value) {
  std::string out = value.dump();
  for (std::size_t at = 0; (at = out.find("</", at)) != std::string::npos; at += 3) out.replace(at, 2, "<\\/");
  return out;
}

class Page {
 public:
  Page(const Timeline& timeline, const PictureWords& words) : t_(timeline), words_(words), picture_(timeline, words), listed_(timeline.tensors.size()) {}

  std::string html() {
    const std::string data = embedded(data_of_picture());
    return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" + escaped(words_.title) + "</title>\n<style>" + kStyle + "</style></head><body>\n<div id=\"picture\">" + picture_.svg() +
           "</div>\n<div id=\"here\">Point at the picture: it names the tensor, its bytes, its birth and its death.</div>\n" + failure() + peak_table() +
           "<script type=\"application/json\" id=\"timeline\">" + data + "</script>\n<script>" + kScript + "</script>\n</body></html>\n";
  }

 private:
  json data_of_picture() {
    Strings strings;
    json tensors = tensors_of(strings), columns = columns_of_picture(strings), bands = json::array();
    for (const Band& band : kBands) bands.push_back({band.words, band.colour});
    const bool ours = t_.question.plan.engine == Engine::zeroplan;
    return {{"strings", strings.list()}, {"bands", bands}, {"columns", columns}, {"tensors", tensors}, {"device", ours ? "arena" : "reserved"}, {"left", Picture::kLeft}, {"top", Picture::kTop},
            {"width", Picture::kWidth - Picture::kLeft - Picture::kRight}, {"height", Picture::kHeight - Picture::kTop - Picture::kBottom}, {"svgWidth", Picture::kWidth}, {"svgHeight", Picture::kHeight},
            {"topBytes", picture_.top_bytes()}};
  }

  json columns_of_picture(Strings& strings) const {
    json out = json::array();
    for (std::size_t c = 0; c < picture_.columns().size(); ++c) {
      const TimelineColumn& column = picture_.columns()[c];
      const TimelineInstant& instant = t_.instants[column.highest];
      json parts = json::array();
      for (std::size_t b = 0; b < kBands.size(); ++b) parts.push_back(picture_.bytes(c, b));
      out.push_back({strings(instant_line(t_, column.highest)), column.most_taken ? json(column.most_taken->value()) : json(), instant.start ? json(seconds(*instant.start)) : json(), parts});
    }
    return out;
  }

  /// Those that are large enough to be pointed at and live in a column.
  json tensors_of(Strings& strings) {
    constexpr double kSmallest = 1.0 / 4000;  // of the picture's height
    json out = json::array();
    const auto& columns = picture_.columns();
    for (std::size_t i = 0; i < t_.tensors.size(); ++i) {
      const TimelineTensor& tensor = t_.tensors[i];
      if (static_cast<double>(tensor.bytes.value()) < kSmallest * picture_.top_bytes()) continue;
      const auto first = std::partition_point(columns.begin(), columns.end(), [&](const TimelineColumn& c) { return c.highest < tensor.birth; });
      const auto after = std::partition_point(columns.begin(), columns.end(), [&](const TimelineColumn& c) { return c.highest <= tensor.death; });
      if (first >= after) continue;
      listed_[i] = out.size();
      out.push_back({strings(tensor.name), strings(tensor.unit), band_of(tensor.category), tensor.bytes.value(), first - columns.begin(), after - columns.begin() - 1, strings(instant_line(t_, tensor.birth)),
                     strings(instant_line(t_, tensor.death)), strings(std::string(tensor.why))});
    }
    return out;
  }

  std::string failure() const {
    return t_.failure ? fmt::format("<p>Out of memory in {}. As PyTorch would put it: <q>{}</q></p>\n", escaped(instant_line(t_, t_.failure->instant)), escaped(t_.failure->message)) : "";
  }

  std::string row(std::size_t index) const {
    const TimelineTensor& tensor = t_.tensors[index];
    const std::string point = listed_[index] ? fmt::format(" data-tensor=\"{}\"", *listed_[index]) : "";
    const std::string cells[] = {tensor.name, std::string(kBands[band_of(tensor.category)].words), tensor.unit, instant_line(t_, tensor.birth), instant_line(t_, tensor.death), std::string(tensor.why)};
    std::string out = fmt::format("<tr{}><td title=\"{} bytes\">{}</td>", point, tensor.bytes.value(), format_gib(tensor.bytes));
    for (std::size_t i = 0; i < std::size(cells); ++i) {
      const std::string swatch = i == 1 ? fmt::format("<span class=\"swatch\" style=\"background:{}\"></span>", kBands[band_of(tensor.category)].colour) : "";
      out += "<td>" + swatch + escaped(cells[i]) + "</td>";
    }
    return out + "</tr>\n";
  }

  std::string peak_table() const {
    const std::size_t peak = t_.peak();
    const std::vector<std::size_t> live = t_.live_at(peak);
    std::string out = fmt::format("<h3>Live at the peak: {} in {}</h3>\n<div class=\"rows\"><table><tr><th>size</th><th>what</th><th>category</th><th>unit</th><th>born</th><th>dies</th><th>why</th></tr>\n",
                                  format_gib(t_.instants.empty() ? Bytes() : t_.instants[peak].live), escaped(instant_line(t_, peak)));
    Bytes rest;
    for (std::size_t i = 0; i < live.size(); ++i) {
      if (i < kRows) out += row(live[i]);
      else rest += t_.tensors[live[i]].bytes;
    }
    out += "</table></div>\n";
    if (live.size() > kRows) out += fmt::format("<p class=\"note\">and {} smaller tensors, {} together</p>\n", live.size() - kRows, format_gib(rest));
    return out;
  }

  const Timeline& t_;
  const PictureWords& words_;
  Picture picture_;
  std::vector<std::optional<std::size_t>> listed_;  ///< by tensor: its place in the page's list
};

}  // namespace

std::string timeline_html(const Timeline& timeline, const PictureWords& words) { return Page(timeline, words).html(); }

}  // namespace zeroplan
