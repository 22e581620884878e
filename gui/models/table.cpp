#include "gui/models/table.h"

namespace zeroplan::gui {
namespace {

std::string field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

}  // namespace

std::string csv_line(const std::vector<Cell>& cells) {
  std::string out;
  for (std::size_t i = 0; i < cells.size(); ++i) out += (i ? "," : "") + field(cells[i].text);
  return out + "\r\n";
}

std::string csv_of(const Table& table) {
  std::string out;
  for (std::size_t i = 0; i < table.headers.size(); ++i) out += (i ? "," : "") + field(table.headers[i]);
  out += "\r\n";
  for (const Row& row : table.rows) out += csv_line(row.cells);
  return out;
}

}  // namespace zeroplan::gui
