#include "gui/models/map_words.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/core/format.h"

namespace zeroplan::gui {
namespace {

// As the table of what is alive tells it.
Row row_of(const Answered& answered, std::size_t life, Language language) {
  for (Row& row : alive_table(answered, answered.picture.lives[life].first_event, "", {}, language).rows)
    if (row.tag == static_cast<std::int64_t>(life)) return row;
  return {{{}}, "", -1};
}

std::string address_words(const MemoryMap& map, std::int64_t begin, std::int64_t end) {
  const std::int64_t address = map.address_of(begin);
  return fmt::format("[{:#x}, {:#x})", address, address + end - begin);
}

std::string stream_words(const MemoryMap& map, std::size_t segment, Language language) { return std::string(say_name(name_of(lane_of(map.segments[segment].stream)), language)); }

std::string neighbour_name(const Answered& answered, const MemoryMap& map, const MapNeighbour& neighbour, Language language) {
  if (neighbour.workspace) return std::string(say("cuBLAS workspace", language));
  if (!neighbour.rectangle) return std::string(map.segments.empty() ? say("end of the arena", language) : say("end of the segment", language));
  const MapRectangle& r = map.rectangles[*neighbour.rectangle];
  return fmt::format("{} {}", row_of(answered, r.life, language).cells.front().text, format_gib(Bytes(r.asked_end_bytes - r.begin_bytes)));
}

std::string side_words(Text side, const Answered& answered, const MemoryMap& map, const MapNeighbour& neighbour, Language language) {
  const std::string name = neighbour_name(answered, map, neighbour, language);
  return fill(say(side, language), {neighbour.free_bytes > 0 ? fill(say("{} free, then {}", language), {format_gib(Bytes(neighbour.free_bytes)), name}) : name});
}

}  // namespace

std::string block_words(const Answered& answered, const MemoryMap& map, std::size_t rectangle, Language language) {
  const MapRectangle& r = map.rectangles[rectangle];
  std::string out = row_of(answered, r.life, language).note + "\n" + address_words(map, r.begin_bytes, r.end_bytes);
  if (r.asked_end_bytes < r.end_bytes)
    out += "\n" + fill(say("block of {}: {} beyond the request", language), {format_gib(Bytes(r.end_bytes - r.begin_bytes)), format_gib(Bytes(r.end_bytes - r.asked_end_bytes))});
  return out;
}

std::string neighbour_words(const Answered& answered, const MemoryMap& map, std::size_t rectangle, std::uint32_t instant, Language language) {
  const MapNeighbours next = neighbours_of(map, answered, rectangle, instant);
  std::string out = side_words("above: {}", answered, map, next.above, language) + "\n" + side_words("below: {}", answered, map, next.below, language);
  if (next.segment) {
    const MapSegment& segment = map.segments[*next.segment];
    out += "\n" + fill(say("{}: segment of {}, {} free", language), {stream_words(map, *next.segment, language), format_gib(Bytes(segment.end_bytes - segment.begin_bytes)), format_gib(Bytes(next.segment_free_bytes))});
  }
  const LifeSpan& life = answered.picture.lives[map.rectangles[rectangle].life];
  if (!answered.ours) return out + "\n" + std::string(say("what reads it next is not in the emulation", language));
  if (!life.storage) return out;
  const std::optional<std::uint32_t> reader = next_reader(answered, life, instant);
  return out + "\n" + (reader ? fill(say("read next by {}", language), {place_words(answered, *reader, language)}) : std::string(say("not read again", language)));
}

std::string gap_words(const MemoryMap& map, const MapStretch& gap, Language language) {
  const MapSegment& segment = map.segments[gap.segment];
  return fill(say("{}: {} free in a segment of {}", language), {stream_words(map, gap.segment, language), format_gib(Bytes(gap.end_bytes - gap.begin_bytes)), format_gib(Bytes(segment.end_bytes - segment.begin_bytes))}) +
         "\n" + address_words(map, gap.begin_bytes, gap.end_bytes);
}

std::string workspace_words(const MemoryMap& map, const MapStretch& workspace, Language language) {
  return fmt::format("{} {}\n{}", say("cuBLAS workspace", language), format_gib(Bytes(workspace.end_bytes - workspace.begin_bytes)), address_words(map, workspace.begin_bytes, workspace.end_bytes));
}

std::string map_headline(const Answered& answered, const MemoryMap& map, Language language) {
  if (answered.ours) return fill(say("address × time of one step: every tensor at its planned address; the height is the arena, {}", language), {format_gib(Bytes(map.height_bytes))});
  std::string out = fill(say("address × time of one step in a model of PyTorch's caching allocator; the height is reserved, {}", language), {format_gib(Bytes(map.height_bytes))});
  if (answered.timeline->endless) out += " · " + std::string(say("does not fit: on an endless device", language));
  return out;
}

std::string map_summary(const Answered& answered, const MemoryMap& map, Language language) {
  std::string out;
  if (const Layout* layout = answered.layout()) {
    out = fill(say("arena {}, live at most {}: {} % in gaps", language), {format_gib(layout->arena_bytes), format_gib(layout->max_live), fmt::format("{:.2f}", 100 * (layout->waste_ratio() - 1))});
  } else {
    const auto live = static_cast<double>(answered.picture.memory.total_after(answered.picture.peak_event)), height = static_cast<double>(std::max<std::int64_t>(map.height_bytes, 1));
    out = fill(say("{} segments; at the peak {} live, {} % free in segments or rounding", language),
               {std::to_string(map.segments.size()), format_gib(Bytes(static_cast<std::int64_t>(live))), fmt::format("{:.1f}", 100 * (1 - live / height))});
  }
  return out + " · " + std::string(say("hover names a tensor; a click names its neighbours; wheel zooms", language));
}

}  // namespace zeroplan::gui
