#include "gui/models/row_index.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <numeric>
#include <utility>

namespace zeroplan::gui {
namespace {

constexpr int kBits = 11, kPasses = 6;
constexpr std::size_t kRowsBetweenQuestions = 4096;
constexpr std::size_t kBuckets = std::size_t{1} << kBits;

struct Keyed {
  std::uint64_t key;
  std::uint32_t row;
};

// Unsigned keys in the order of the numbers; −0 is 0.
std::uint64_t key_of(double number, bool descending) {
  const auto bits = std::bit_cast<std::uint64_t>(number + 0.0);
  const std::uint64_t ascending = bits >> 63 != 0 ? ~bits : bits | std::uint64_t{1} << 63;
  return descending ? ~ascending : ascending;
}

std::vector<std::uint32_t> all_rows(std::size_t count) {
  std::vector<std::uint32_t> out(count);
  std::iota(out.begin(), out.end(), std::uint32_t{0});
  return out;
}

}  // namespace

bool contains_ignoring_case(std::string_view text, std::string_view part) {
  const auto same = [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b)); };
  return std::search(text.begin(), text.end(), part.begin(), part.end(), same) != text.end();
}

std::vector<double> ranks_of(const std::vector<std::string>& texts) {
  std::vector<std::uint32_t> order = all_rows(texts.size());
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return texts[a] < texts[b]; });
  std::vector<double> out(texts.size());
  double rank = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && texts[order[i]] != texts[order[i - 1]]) ++rank;
    out[order[i]] = rank;
  }
  return out;
}

void sort_rows(std::vector<std::uint32_t>& rows, std::span<const double> order, bool descending) {
  std::vector<Keyed> from(rows.size()), to(rows.size());
  std::array<std::vector<std::uint32_t>, kPasses> counts;
  for (auto& count : counts) count.assign(kBuckets, 0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    from[i] = {key_of(order[rows[i]], descending), rows[i]};
    for (int p = 0; p < kPasses; ++p) ++counts[static_cast<std::size_t>(p)][from[i].key >> (p * kBits) & (kBuckets - 1)];
  }
  for (int p = 0; p < kPasses; ++p) {
    std::vector<std::uint32_t>& count = counts[static_cast<std::size_t>(p)];
    if (rows.empty() || count[from[0].key >> (p * kBits) & (kBuckets - 1)] == rows.size()) continue;
    std::uint32_t at = 0;
    for (std::uint32_t& c : count) at += std::exchange(c, at);
    for (const Keyed& keyed : from) to[count[keyed.key >> (p * kBits) & (kBuckets - 1)]++] = keyed;
    from.swap(to);
  }
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = from[i].row;
}

std::vector<std::uint32_t> rows_in_order(const TableSource& source, const RowOrder& order) {
  std::vector<std::uint32_t> rows = order.filter.empty() ? all_rows(source.row_count()) : source.matching(order.filter);
  if (order.column >= 0 && static_cast<std::size_t>(order.column) < source.headers().size()) sort_rows(rows, source.order(static_cast<std::size_t>(order.column)), order.descending);
  return rows;
}

std::optional<std::string> csv_of_rows(const TableSource& source, std::span<const std::uint32_t> rows, const std::function<bool(double)>& goes_on) {
  const std::vector<std::string> headers = source.headers();
  std::string out = csv_of(Table{headers, {}});
  std::vector<Cell> cells(headers.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (goes_on && i % kRowsBetweenQuestions == 0 && !goes_on(static_cast<double>(i) / static_cast<double>(rows.size()))) return std::nullopt;
    for (std::size_t c = 0; c < cells.size(); ++c) cells[c] = source.cell(rows[i], c);
    out += csv_line(cells);
  }
  return out;
}

// By number where the cells have one, texts among equal numbers.
std::vector<double> RowsSource::order(std::size_t column) const {
  std::vector<std::uint32_t> by(table_.rows.size());
  std::iota(by.begin(), by.end(), std::uint32_t{0});
  static const Cell kNone;
  const auto at = [&](std::uint32_t row) -> const Cell& { return column < table_.rows[row].cells.size() ? table_.rows[row].cells[column] : kNone; };
  const auto less = [&](std::uint32_t a, std::uint32_t b) { return at(a).order != at(b).order ? at(a).order < at(b).order : at(a).text < at(b).text; };
  std::sort(by.begin(), by.end(), less);
  std::vector<double> out(by.size());
  double rank = 0;
  for (std::size_t i = 0; i < by.size(); ++i) {
    if (i > 0 && less(by[i - 1], by[i])) ++rank;
    out[by[i]] = rank;
  }
  return out;
}

std::vector<std::uint32_t> RowsSource::matching(std::string_view part) const {
  std::vector<std::uint32_t> out;
  for (std::uint32_t i = 0; i < table_.rows.size(); ++i) {
    const std::vector<Cell>& cells = table_.rows[i].cells;
    if (std::any_of(cells.begin(), cells.end(), [&](const Cell& cell) { return contains_ignoring_case(cell.text, part); })) out.push_back(i);
  }
  return out;
}

}  // namespace zeroplan::gui
