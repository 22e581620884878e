// A Timeline as files: SVG and a self-contained HTML page for people, CSV, JSON Lines and a Chrome trace for programs, and a snapshot that PyTorch's memory_viz opens.
// Every column of a picture shows the highest instant of its stretch, so no peak is lost. Deterministic: same timeline, same bytes.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "simulator/memory_snapshot.h"
#include "simulator/timeline.h"

namespace zeroplan {

/// Bytes by category at every instant; a row sums up to the instant's live bytes.
std::vector<std::array<std::int64_t, kCategoryCount>> category_series(const Timeline& timeline);

/// A column of a picture: instants [begin, end).
struct TimelineColumn {
  std::size_t begin = 0, end = 0;
  std::size_t highest = 0;           ///< the first of the highest instants
  std::optional<Bytes> most_taken;   ///< from the device
};

/// The timeline cut into `count` columns in its order. Phases are as wide as they have instants, but none so narrow that it cannot be seen; a short one repeats instants.
std::vector<TimelineColumn> columns_of(const Timeline& timeline, std::size_t count);

/// Their highest instants.
std::vector<std::size_t> highest_instants(const Timeline& timeline, std::size_t count);

/// The device's lines belong in a picture where the stack, or what is taken for it, comes near them: above a third of the capacity.
bool nears_capacity(const Timeline& timeline);

/// The highest of live and taken bytes.
Bytes top_of(const Timeline& timeline);

struct PictureWords {
  std::string title;    ///< the question
  std::string verdict;  ///< one line
};

std::string timeline_svg(const Timeline& timeline, const PictureWords& words);
/// The picture, which names the tensor under the pointer and outlines its life, and a table of what is live at the peak. Needs no network.
std::string timeline_html(const Timeline& timeline, const PictureWords& words);
/// One row an instant: index, phase, unit, instruction, stream, live bytes, bytes by category, bytes taken from the device, start and end; empty where not known.
std::string timeline_csv(const Timeline& timeline);
/// One JSON object a tensor: name, category, unit, bytes, born, dies, why.
std::string timeline_json_lines(const Timeline& timeline);
/// Counters over the instants (one "microsecond" each: emulated engines' instants have no times here).
std::string timeline_chrome(const Timeline& timeline);

/// As torch.cuda.memory._snapshot() would have recorded it: an alloc and a free a tensor, each with its category and, as frames, what it is, its birth and why. Addresses are the
/// lowest that are free, in one segment: PyTorch's allocator would choose others.
MemorySnapshot snapshot_of(const Timeline& timeline);
/// Its pickle.
std::string timeline_snapshot(const Timeline& timeline);

}  // namespace zeroplan
