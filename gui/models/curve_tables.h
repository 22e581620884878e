// What the Compare screen says of curves as tables: what of two differs, by category, unit or tensor; which blocks of one are alive at an instant, any number of them.
#pragma once

#include "gui/models/curve.h"
#include "gui/models/plan_tables.h"
#include "gui/models/row_index.h"

namespace zeroplan::gui {

enum class DeltaBy : unsigned char { category, unit, tensor };

/// Two instants, one of each curve; as a rule their peaks.
struct Instants {
  std::size_t a = 0, b = 0;
};

/// Columns: name, A, B, B − A, where (only A, both, only B). By category the whole and what both plans have come first; units and tensors with the largest difference first,
/// equal ones left out.
Table delta_table(const Curve& a, const Curve& b, Instants at, DeltaBy by, const Palette& palette, Language language);

/// "instant 812 of 7614", "1.2 s", "entry 812 of 7614 · +1.234 s".
std::string when_words(const Curve& curve, std::size_t event, Language language);

/// Band names as shown: categories in the language, stack frames as they are.
std::string band_words(const Curve& curve, std::size_t band, Language language);

/// Blocks alive after an event, largest first. Columns: size, category if there are any, stack frame or name, stream, born, dies. Tag: index into curve.blocks. Notes: the whole stack.
class BlocksSource : public TableSource {
 public:
  BlocksSource(std::shared_ptr<const Curve> curve, std::vector<std::uint32_t> blocks, const Palette& palette, Language language);
  std::vector<std::string> headers() const override;
  std::size_t row_count() const override { return blocks_.size(); }
  Cell cell(std::size_t row, std::size_t column) const override;
  std::string note(std::size_t row) const override;
  std::int64_t tag(std::size_t row) const override { return blocks_[row]; }
  std::vector<double> order(std::size_t column) const override;
  std::vector<std::uint32_t> matching(std::string_view part) const override;

 private:
  enum class Column : unsigned char { size, category, name, stream, born, dies };
  const CurveBlock& block(std::size_t row) const { return curve_->blocks[blocks_[row]]; }

  std::shared_ptr<const Curve> curve_;
  std::vector<std::uint32_t> blocks_;
  std::vector<Column> columns_;  ///< no category where the file has none: its bands are the frames
  Palette palette_;
  Language language_;
};

}  // namespace zeroplan::gui
