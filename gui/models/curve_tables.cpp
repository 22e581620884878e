#include "gui/models/curve_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "planner/core/format.h"

namespace zeroplan::gui {
namespace {

Cell size_cell(std::int64_t bytes) { return {format_gib(Bytes(bytes)), static_cast<double>(bytes), 0, true}; }
Cell signed_cell(std::int64_t bytes) { return {(bytes > 0 ? "+" : "") + format_gib(Bytes(bytes)), static_cast<double>(bytes), 0, true}; }

std::string unit_words(const std::string& unit, Language language) {
  if (unit.starts_with("block[")) {
    const std::int64_t number = std::strtoll(unit.c_str() + 6, nullptr, 10);
    return language == Language::english ? unit_name(UnitKind::block, number) : fmt::format("第 {} 层", number);
  }
  return unit.empty() ? std::string(say("no unit", language)) : std::string(say_name(unit, language));
}

std::string since_start(const Curve& curve, std::size_t event) {
  return event < curve.event_us.size() && curve.event_us[event] > 0 ? " · +" + format_seconds(static_cast<double>(curve.event_us[event]) * 1e-6) : "";
}

// "812", "812 · +1.23 s", "1.2 s".
std::string short_when(const Curve& curve, std::size_t event) {
  const SimTime time = curve.memory.time(event);
  return curve.has_clock ? format_seconds(seconds(time)) : std::to_string(time.value() / kInstant.value() + 1) + since_start(curve, event);
}

struct Both {
  std::int64_t a = 0, b = 0;
  bool in_a = false, in_b = false;
  std::uint8_t band = 0;
};

class Deltas {
 public:
  Deltas(const Palette& palette, Language language) : palette_(palette), language_(language) {
    out_.headers = {word("Name"), "A", "B", word("B − A"), word("Where")};
  }

  void row(std::string name, const Both& both, Pixel swatch) {
    const std::string where = word(both.in_a && both.in_b ? Text("both") : both.in_a ? Text("only A") : Text("only B"));
    out_.rows.push_back({{{std::move(name), 0, swatch, false}, size_cell(both.a), size_cell(both.b), signed_cell(both.b - both.a), {where, 0, 0, false}}, "", -1});
  }

  void whole(Text name, std::optional<Bytes> a, std::optional<Bytes> b) {
    if (a || b) row(word(name), {a ? a->value() : 0, b ? b->value() : 0, a.has_value(), b.has_value(), 0}, 0);
  }

  void time(std::optional<double> a, std::optional<double> b) {
    if (!a || !b) return;
    out_.rows.push_back({{{word("step time"), 0, 0, false}, {format_seconds(*a), *a, 0, true}, {format_seconds(*b), *b, 0, true}, {(*b > *a ? "+" : "") + format_seconds(*b - *a), *b - *a, 0, true},
                          {word("both"), 0, 0, false}}, "", -1});
  }

  // Those that differ most first.
  void differing(const std::map<std::string, Both>& groups) {
    std::vector<std::pair<std::string, Both>> sorted(groups.begin(), groups.end());
    std::erase_if(sorted, [](const auto& entry) { return entry.second.a == entry.second.b; });
    std::stable_sort(sorted.begin(), sorted.end(), [](const auto& x, const auto& y) { return std::abs(x.second.b - x.second.a) > std::abs(y.second.b - y.second.a); });
    for (const auto& [name, both] : sorted) row(name, both, palette_[both.band]);
  }

  Table done() { return std::move(out_); }

 private:
  std::string word(Text text) const { return std::string(say(text, language_)); }

  const Palette& palette_;
  Language language_;
  Table out_;
};

void add_bands(Deltas& out, const Curve& a, const Curve& b, Instants at, const Palette& palette, Language language) {
  std::map<std::string, Both> foreign;
  const Stack in_a = a.memory.stack_after(at.a), in_b = b.memory.stack_after(at.b);
  for (auto it = kStackOrder.rbegin(); it != kStackOrder.rend(); ++it) {
    const auto c = static_cast<std::size_t>(*it);
    if (a.has_categories && b.has_categories && a.bands[c] == b.bands[c]) {
      if (in_a[c] != 0 || in_b[c] != 0) out.row(band_words(a, c, language), {in_a[c], in_b[c], in_a[c] != 0, in_b[c] != 0, 0}, palette[c]);
      continue;
    }
    const auto add = [&](const Curve& curve, std::int64_t bytes, std::int64_t Both::*side, bool Both::*is_in) {
      if (bytes == 0) return;
      Both& both = foreign[band_words(curve, c, language)];
      both.*side += bytes;
      both.*is_in = true;
      both.band = static_cast<std::uint8_t>(c);
    };
    add(a, in_a[c], &Both::a, &Both::in_a);
    add(b, in_b[c], &Both::b, &Both::in_b);
  }
  out.differing(foreign);
}

std::map<std::string, Both> groups_of(const Curve& a, const Curve& b, Instants at, DeltaBy by, Language language) {
  std::map<std::string, Both> out;
  const auto collect = [&](const Curve& curve, std::size_t event, std::int64_t Both::*side, bool Both::*is_in) {
    std::map<std::uint64_t, Both*> known;
    for (const CurveBlock& block : curve.blocks) {
      if (event < block.first_event || event >= block.last_event) continue;
      Both*& both = known[by == DeltaBy::unit ? static_cast<std::uint64_t>(block.unit) : static_cast<std::uint64_t>(block.name)];
      if (both == nullptr) both = &out[by == DeltaBy::unit ? unit_words(curve.strings[block.unit], language) : curve.strings[block.name].empty() ? std::string(say("not recorded", language)) : curve.strings[block.name]];
      both->*side += block.bytes;
      both->*is_in = true;
      both->band = block.band;
    }
  };
  collect(a, at.a, &Both::a, &Both::in_a);
  collect(b, at.b, &Both::b, &Both::in_b);
  return out;
}

}  // namespace

Table delta_table(const Curve& a, const Curve& b, Instants at, DeltaBy by, const Palette& palette, Language language) {
  Deltas out(palette, language);
  if (by == DeltaBy::category) {
    out.whole("must fit", a.must_fit, b.must_fit);
    out.whole("peak", Bytes(a.peak_bytes()), Bytes(b.peak_bytes()));
    if (at.a != a.peak_event || at.b != b.peak_event) out.whole("At the selection", Bytes(a.memory.total_after(at.a)), Bytes(b.memory.total_after(at.b)));
    out.time(a.step_s, b.step_s);
    add_bands(out, a, b, at, palette, language);
  }
  // A category's tensors are what its difference is made of.
  if (by != DeltaBy::category) out.differing(groups_of(a, b, at, by, language));
  return out.done();
}

std::string when_words(const Curve& curve, std::size_t event, Language language) {
  const SimTime time = curve.memory.time(event);
  if (curve.has_clock) return format_seconds(seconds(time));
  return fill(say("instant {} of {}", language), {std::to_string(time.value() / kInstant.value() + 1), std::to_string(curve.duration.value() / kInstant.value())}) + since_start(curve, event);
}

std::string band_words(const Curve& curve, std::size_t band, Language language) {
  std::string name = curve.bands[band];
  if (language == Language::english && curve.has_categories) std::replace(name.begin(), name.end(), '_', ' ');
  return std::string(say_name(name, language));
}

BlocksSource::BlocksSource(std::shared_ptr<const Curve> curve, std::vector<std::uint32_t> blocks, const Palette& palette, Language language)
    : curve_(std::move(curve)), blocks_(std::move(blocks)), palette_(palette), language_(language) {
  for (const Column c : {Column::size, Column::category, Column::name, Column::stream, Column::born, Column::dies})
    if (c != Column::category || curve_->has_categories) columns_.push_back(c);
}

std::vector<std::string> BlocksSource::headers() const {
  const auto head = [&](Column column) -> Text {
    switch (column) {
      case Column::size: return "Size";
      case Column::category: return "Category";
      case Column::name: return curve_->recording ? Text("Stack frame") : Text("Name");
      case Column::stream: return "Stream";
      case Column::born: return "Born";
      case Column::dies: return "Dies";
    }
    return "Name";
  };
  std::vector<std::string> out;
  for (const Column column : columns_) out.emplace_back(say(head(column), language_));
  return out;
}

Cell BlocksSource::cell(std::size_t row, std::size_t column) const {
  const CurveBlock& b = block(row);
  const auto event_cell = [&](std::uint32_t event) { return Cell{short_when(*curve_, event), static_cast<double>(event), 0, true}; };
  switch (columns_[column]) {
    case Column::size: return {format_gib(Bytes(b.bytes)), static_cast<double>(b.bytes), palette_[b.band], true};
    case Column::category: return {band_words(*curve_, b.band, language_), 0, 0, false};
    case Column::name: return {curve_->strings[b.name].empty() ? std::string(say("not recorded", language_)) : curve_->strings[b.name], 0, 0, false};
    case Column::stream:
      if (curve_->recording) return {b.stream == 0 ? std::string(say("default", language_)) : fmt::format("{:#x}", b.stream), static_cast<double>(b.stream), 0, false};
      return {std::string(say_name(name_of(static_cast<Stream>(b.stream)), language_)), static_cast<double>(b.stream), 0, false};
    case Column::born: return curve_->memory.time(b.first_event) == SimTime() ? Cell{std::string(say("at the start", language_)), -1, 0, true} : event_cell(b.first_event);
    case Column::dies: return b.last_event >= curve_->memory.size() ? Cell{std::string(say("alive at the end", language_)), 1e18, 0, true} : event_cell(b.last_event);
  }
  return {};
}

std::string BlocksSource::note(std::size_t row) const {
  const CurveBlock& b = block(row);
  std::string out = fmt::format("{} ({} B) · {}", format_gib(Bytes(b.bytes)), b.bytes, curve_->strings[b.name]);
  if (!curve_->recording) return out + " · " + unit_words(curve_->strings[b.unit], language_);
  const std::string stack = stack_words(curve_->recording->snapshot, b.stack);
  return stack.empty() ? out : out + "\n" + stack;
}

std::vector<double> BlocksSource::order(std::size_t column) const {
  std::vector<double> out(blocks_.size());
  std::vector<double> ranks;
  if (columns_[column] == Column::name) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < curve_->strings.size(); ++i) names.push_back(curve_->strings[StringId{static_cast<std::uint32_t>(i)}]);
    ranks = ranks_of(names);
  }
  for (std::size_t row = 0; row < out.size(); ++row) {
    const CurveBlock& b = block(row);
    switch (columns_[column]) {
      case Column::size: out[row] = static_cast<double>(b.bytes); break;
      case Column::category: out[row] = b.band; break;
      case Column::name: out[row] = ranks[static_cast<std::size_t>(b.name)]; break;
      case Column::stream: out[row] = static_cast<double>(b.stream); break;
      case Column::born: out[row] = b.first_event; break;
      case Column::dies: out[row] = b.last_event; break;
    }
  }
  return out;
}

// Names and bands are few, so each is looked at once.
std::vector<std::uint32_t> BlocksSource::matching(std::string_view part) const {
  std::vector<bool> names(curve_->strings.size()), bands(kCategoryCount);
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = contains_ignoring_case(curve_->strings[StringId{static_cast<std::uint32_t>(i)}], part);
  for (std::size_t i = 0; i < bands.size(); ++i) bands[i] = contains_ignoring_case(band_words(*curve_, i, language_), part);
  std::vector<std::uint32_t> out;
  for (std::uint32_t row = 0; row < blocks_.size(); ++row)
    if (const CurveBlock& b = block(row); names[static_cast<std::size_t>(b.name)] || bands[b.band]) out.push_back(row);
  return out;
}

}  // namespace zeroplan::gui
