// A Timeline as files: SVG and a self-contained HTML page for people, CSV, JSON Lines and a Chrome trace for programs, and a snapshot that PyTorch's memory_viz opens.
// Every column of a picture shows the highest instant of its stretch, so no peak is lost. Deterministic: same timeline, same bytes.
#pragma once

#include <string>
#include <vector>

#include "simulator/timeline.h"

namespace zeroplan {

/// Bytes by category at every instant; a row sums up to the instant's live bytes.
std::vector<std::array<std::int64_t, kCategoryCount>> category_series(const Timeline& timeline);

/// The highest instant of each of at most `count` equal stretches.
std::vector<std::size_t> highest_instants(const Timeline& timeline, std::size_t count);

struct PictureWords {
  std::string title;    ///< the question
  std::string verdict;  ///< one line
};

std::string timeline_svg(const Timeline& timeline, const PictureWords& words);
/// The picture with a line that follows the pointer, and a table of what is live at the peak. Needs no network.
std::string timeline_html(const Timeline& timeline, const PictureWords& words);
/// One row an instant: index, phase, unit, instruction, stream, live bytes, bytes by category.
std::string timeline_csv(const Timeline& timeline);
/// One JSON object a tensor: name, category, unit, bytes, born, dies, why.
std::string timeline_json_lines(const Timeline& timeline);
/// Counters over the instants (one "microsecond" each: emulated engines' instants have no times here).
std::string timeline_chrome(const Timeline& timeline);
/// torch.cuda.memory._snapshot() as pytorch.org/memory_viz reads it: a pickle of protocol 2 with one alloc and one free a tensor, each with its category.
std::string timeline_snapshot(const Timeline& timeline);

}  // namespace zeroplan
