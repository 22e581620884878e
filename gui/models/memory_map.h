// The memory map: address × time of one step. Of our own engine the arena with every tensor at its planned address; of every other what the model of PyTorch's caching allocator gives:
// segments of the device, each of a stream, the tensors' blocks in them, and what of a segment is free.
// Addresses that no segment ever holds are left out: segments stand upon each other in the order of their addresses. Where none is given back while the step lasts, the picture's height
// is the reserved bytes. What is free is known instant by instant: blocks + gaps + workspaces = segments. Leaves out pixels and words (map_words.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "gui/models/workbench.h"

namespace zeroplan::gui {

/// One life of picture.lives at its place. Bytes are heights in the picture; ours: addresses in the arena.
struct MapRectangle {
  TimeSpan time;
  std::int64_t begin_bytes = 0, end_bytes = 0;  ///< of the block
  std::int64_t asked_end_bytes = 0;             ///< what was requested of it ends here; the rest is the allocator's rounding
  Category category = Category::scratch;
  std::size_t life = 0;  ///< index into picture.lives
};

/// A stretch that is no tensor's, at instants [first, last].
struct MapStretch {
  TimeSpan time;
  std::int64_t begin_bytes = 0, end_bytes = 0;
  std::uint32_t first = 0, last = 0;
  std::size_t segment = 0;  ///< index into MemoryMap::segments
};

struct MapSegment {
  TimeSpan time;
  std::int64_t begin_bytes = 0, end_bytes = 0;
  std::uint32_t first = 0, last = 0;
  Stream stream = Stream::compute;
  Bytes address;  ///< on the device, of begin_bytes
};

struct MemoryMap {
  std::vector<MapRectangle> rectangles;  ///< one a life, in the order of picture.lives
  std::vector<MapSegment> segments;      ///< by address; none of our own engine
  std::vector<MapStretch> gaps;          ///< free parts of segments
  std::vector<MapStretch> workspaces;    ///< cuBLAS
  std::int64_t height_bytes = 0;

  bool empty() const { return rectangles.empty(); }
  /// On the device (of ours: in the arena), of a height inside a segment that holds it.
  std::int64_t address_of(std::int64_t height) const;
};

/// Of our own engine: empty without a layout.
MemoryMap map_of(const Answered& answered);
/// `addressed`: answered.timeline with Detail::addresses, the same span.
MemoryMap map_of(const Answered& answered, const Timeline& addressed);
/// Emulates and replays once more, with addresses: not for the thread that draws. Throws as Workbench::compute.
MemoryMap emulated_map_of(const Answered& answered);

/// What lies next to a block at an instant.
struct MapNeighbour {
  std::int64_t free_bytes = 0;            ///< between them
  std::optional<std::size_t> rectangle;   ///< none: a workspace, or the end of the segment (the arena)
  bool workspace = false;
};
struct MapNeighbours {
  MapNeighbour below, above;
  std::optional<std::size_t> segment;
  std::int64_t segment_free_bytes = 0;
};
/// Rectangle `of` is alive at `instant`.
MapNeighbours neighbours_of(const MemoryMap& map, const Answered& answered, std::size_t of, std::uint32_t instant);

/// The last instruction that has been issued where `time` is drawn.
std::uint32_t instruction_drawn_at(const StepPicture& picture, SimTime time);
/// The first instruction after `instruction` that reads the life's storage. Of our own engine: what reads a tensor is not in a Timeline.
std::optional<std::uint32_t> next_reader(const Answered& answered, const LifeSpan& life, std::uint32_t instruction);

}  // namespace zeroplan::gui
