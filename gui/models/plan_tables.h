// What the Plan screen says in words and tables, in either language, without widgets.
#pragma once

#include "gui/models/raster.h"
#include "gui/models/table.h"
#include "gui/models/words.h"
#include "gui/models/workbench.h"

namespace zeroplan::gui {

using Palette = std::array<Pixel, kCategoryCount>;  ///< by Category

std::string category_words(Category category, Language language);
std::string verdict_words(Verdict verdict, Language language);
/// As people call it: "DeepSpeed (XTuner)" by the tool that set it, "FSDP2", "zeroplan".
std::string engine_words(Engine engine, const std::string& tool);
/// "backward, block 17 (linear_wgrad)".
std::string place_words(const Answered& answered, std::uint32_t instruction, Language language);
/// When an event is: "1.2 s", or "instant 812 of 7614" where the picture has no clock.
std::string time_words(const Answered& answered, SimTime time, Language language);

/// Verdict strip: a headline and what follows it.
struct VerdictLines {
  std::string need;   ///< "needs 40.36 GiB of 75.90 GiB usable · 35.54 GiB spare · band ±1.2 %"
  std::string when;   ///< "peak in backward, block 3 (linear_wgrad) · every rank"; where it runs out of memory; what was not followed
  std::string speed;  ///< "3.1 s a step · 1320 tokens/s a GPU · MFU 51 %"
};
VerdictLines verdict_lines(const Answered& answered, Language language);

/// Columns: name, size, born, dies, why. `filter`: part of a name, without regard to case. Tag: index into picture.lives.
Table alive_table(const Answered& answered, std::size_t event, std::string_view filter, const Palette& palette, Language language);
/// Columns: category, at the peak, at the selection, share of the peak; below, what else takes the device's memory.
Table breakdown_table(const Answered& answered, std::size_t event, const Palette& palette, Language language);
/// Columns: change, peak, step against the plan's, ✓ fits, ~ tight or ✗ does not. Tag: index into fixes.
Table fixes_table(const std::vector<Remedy>& fixes, const Answered& from, Language language);
std::string change_words(const KeyChange& change);

}  // namespace zeroplan::gui
