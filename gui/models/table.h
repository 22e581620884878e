// A table as values: what a view shows, a screen reader reads and a CSV file holds is the same. Leaves out widgets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace zeroplan::gui {

struct Cell {
  std::string text;
  double order = 0;       ///< what a column of numbers is sorted by
  std::uint32_t swatch = 0;  ///< a small square of this colour before the text; 0: none
  bool number = false;
  friend bool operator==(const Cell&, const Cell&) = default;
};

struct Row {
  std::vector<Cell> cells;
  std::string note;       ///< the whole story of the row, as its tool tip
  std::int64_t tag = -1;  ///< what it stands for: an index of its maker
};

struct Table {
  std::vector<std::string> headers;
  std::vector<Row> rows;
};

/// RFC 4180: commas, CRLF, quotes doubled. Cells as shown.
std::string csv_line(const std::vector<Cell>& cells);
std::string csv_of(const Table& table);

}  // namespace zeroplan::gui
