// RowIndex: which rows of a large table are shown, and in which order, as numbers beside the table: nothing of the table itself moves. A million rows are sorted in
// tens of milliseconds: their numbers as 64-bit keys, eleven bits a pass, passes in which all rows agree left out.
// Leaves out what rows hold (table.h) and threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gui/models/table.h"

namespace zeroplan::gui {

/// A table asked row by row, so that a million rows cost what is seen of them. Immutable: jobs read it beside the window.
class TableSource {
 public:
  virtual ~TableSource() = default;
  virtual std::vector<std::string> headers() const = 0;
  virtual std::size_t row_count() const = 0;
  virtual Cell cell(std::size_t row, std::size_t column) const = 0;
  virtual std::string note(std::size_t row) const = 0;
  virtual std::int64_t tag(std::size_t row) const = 0;
  /// What each row is sorted by in a column: equal texts have equal numbers.
  virtual std::vector<double> order(std::size_t column) const = 0;
  /// Rows that have `part` in one of their texts, without regard to case.
  virtual std::vector<std::uint32_t> matching(std::string_view part) const = 0;
};

/// A Table as a source.
class RowsSource : public TableSource {
 public:
  explicit RowsSource(Table table) : table_(std::move(table)) {}
  const Table& table() const { return table_; }
  std::vector<std::string> headers() const override { return table_.headers; }
  std::size_t row_count() const override { return table_.rows.size(); }
  Cell cell(std::size_t row, std::size_t column) const override { return column < table_.rows[row].cells.size() ? table_.rows[row].cells[column] : Cell{}; }
  std::string note(std::size_t row) const override { return table_.rows[row].note; }
  std::int64_t tag(std::size_t row) const override { return table_.rows[row].tag; }
  std::vector<double> order(std::size_t column) const override;
  std::vector<std::uint32_t> matching(std::string_view part) const override;

 private:
  Table table_;
};

struct RowOrder {
  int column = -1;  ///< −1: as the table has them
  bool descending = true;
  std::string filter = {};
  friend bool operator==(const RowOrder&, const RowOrder&) = default;
};

/// Rows in the order asked for; equal ones stay as they were.
std::vector<std::uint32_t> rows_in_order(const TableSource& source, const RowOrder& order);

/// Those rows as csv_of writes a table. Asks every few thousand rows, with the share that is done, whether to go on; nullopt: no.
std::optional<std::string> csv_of_rows(const TableSource& source, std::span<const std::uint32_t> rows, const std::function<bool(double done_ratio)>& goes_on = {});

/// Sorts `rows` by their numbers, stably.
void sort_rows(std::vector<std::uint32_t>& rows, std::span<const double> order, bool descending);

bool contains_ignoring_case(std::string_view text, std::string_view part);
/// Numbers that sort as the texts do.
std::vector<double> ranks_of(const std::vector<std::string>& texts);

}  // namespace zeroplan::gui
