#include "gui/models/memory_map.h"

#include <algorithm>
#include <map>

namespace zeroplan::gui {
namespace {

// Where an instant's births are drawn, where its deaths are. `instants`: the end of the picture.
SimTime born_at(const StepPicture& picture, std::uint32_t instant) { return instant < picture.instructions.size() ? picture.instructions[instant].place.begin : picture.duration; }
SimTime gone_at(const StepPicture& picture, std::uint32_t instant) { return instant < picture.instructions.size() ? picture.instructions[instant].place.end : picture.duration; }

// Device addresses to heights: the ranges that segments ever hold, one upon the other.
class Heights {
 public:
  explicit Heights(const std::vector<TimelineStretch>& segments) {
    std::vector<std::pair<std::int64_t, std::int64_t>> spans;
    for (const TimelineStretch& segment : segments) spans.emplace_back(segment.address.value(), segment.address.value() + segment.bytes.value());
    std::sort(spans.begin(), spans.end());
    for (const auto& [begin, end] : spans) {
      if (ranges_.empty() || begin > ranges_.back().end) {
        ranges_.push_back({begin, end, height()});
      } else {
        ranges_.back().end = std::max(ranges_.back().end, end);
      }
    }
  }
  std::int64_t height() const { return ranges_.empty() ? 0 : ranges_.back().height + ranges_.back().end - ranges_.back().begin; }
  std::int64_t of(Bytes address) const {
    const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), address.value(), [](std::int64_t a, const Range& range) { return a < range.begin; });
    return after == ranges_.begin() ? 0 : std::prev(after)->height + address.value() - std::prev(after)->begin;
  }

 private:
  struct Range {
    std::int64_t begin = 0, end = 0, height = 0;
  };
  std::vector<Range> ranges_;
};

/// What of the segments is free, followed from instant to instant.
class FreeSpace {
 public:
  FreeSpace(const StepPicture& picture, std::vector<MapStretch>& gaps) : picture_(picture), gaps_(gaps) {}

  void add_segment(const MapSegment& segment, std::size_t index, std::uint32_t instant) {
    segments_[segment.begin_bytes] = {segment.end_bytes, index};
    free_[segment.begin_bytes] = {segment.end_bytes, index, instant, born_at(picture_, instant)};
  }
  void remove_segment(const MapSegment& segment, std::uint32_t instant) {
    segments_.erase(segment.begin_bytes);
    for (auto gap = free_.lower_bound(segment.begin_bytes); gap != free_.end() && gap->first < segment.end_bytes; gap = free_.erase(gap)) close(gap->first, gap->second, instant, gone_at(picture_, instant));
  }
  void take(std::int64_t begin, std::int64_t end, std::uint32_t instant) {
    auto gap = free_.upper_bound(begin);
    if (gap == free_.begin()) return;
    --gap;
    const std::int64_t from = gap->first;
    const Gap whole = gap->second;
    free_.erase(gap);
    close(from, whole, std::int64_t{instant} - 1, born_at(picture_, instant));
    if (from < begin) free_[from] = {begin, whole.segment, instant, born_at(picture_, instant)};
    if (end < whole.end) free_[end] = {whole.end, whole.segment, instant, born_at(picture_, instant)};
  }
  /// Free from the next instant on.
  void give_back(std::int64_t begin, std::int64_t end, std::uint32_t instant) {
    const auto segment = std::prev(segments_.upper_bound(begin));
    auto after = free_.lower_bound(begin);
    if (after != free_.begin() && std::prev(after)->second.end == begin && std::prev(after)->first >= segment->first) {
      const auto before = std::prev(after);
      begin = before->first;
      close(before->first, before->second, instant, gone_at(picture_, instant));
      free_.erase(before);
    }
    if (after != free_.end() && after->first == end && end < segment->second.first) {
      end = after->second.end;
      close(after->first, after->second, instant, gone_at(picture_, instant));
      free_.erase(after);
    }
    free_[begin] = {end, segment->second.second, instant + 1, gone_at(picture_, instant)};
  }
  void finish(std::uint32_t instants) {
    for (const auto& [begin, gap] : free_)
      if (gap.first < instants) close(begin, gap, instants - 1, picture_.duration);
  }

 private:
  struct Gap {
    std::int64_t end = 0;
    std::size_t segment = 0;
    std::uint32_t first = 0;
    SimTime since;
  };
  /// At no instant, but for a time: between what died at one and what is born at the next.
  void close(std::int64_t begin, const Gap& gap, std::int64_t last, SimTime until) {
    if (gap.first <= last || gap.since < until) gaps_.push_back({{gap.since, until}, begin, gap.end, gap.first, static_cast<std::uint32_t>(last), gap.segment});
  }

  const StepPicture& picture_;
  std::vector<MapStretch>& gaps_;
  std::map<std::int64_t, std::pair<std::int64_t, std::size_t>> segments_;  // by begin: end, index
  std::map<std::int64_t, Gap> free_;                                      // by begin
};

void find_gaps(MemoryMap& map, const StepPicture& picture) {
  const auto instants = static_cast<std::uint32_t>(picture.instructions.size());
  struct Change {
    std::vector<std::size_t> segments;
    std::vector<std::pair<std::int64_t, std::int64_t>> blocks;
  };
  std::vector<Change> born(instants), gone(instants);
  for (std::size_t i = 0; i < map.segments.size(); ++i) {
    born[map.segments[i].first].segments.push_back(i);
    if (map.segments[i].last < instants) gone[map.segments[i].last].segments.push_back(i);
  }
  const auto add = [&](std::int64_t begin, std::int64_t end, std::uint32_t first, std::uint32_t last) {
    born[first].blocks.emplace_back(begin, end);
    if (last < instants) gone[last].blocks.emplace_back(begin, end);
  };
  for (const MapRectangle& r : map.rectangles) add(r.begin_bytes, r.end_bytes, picture.lives[r.life].born, picture.lives[r.life].dies);
  for (const MapStretch& w : map.workspaces) add(w.begin_bytes, w.end_bytes, w.first, w.last);
  FreeSpace space(picture, map.gaps);
  for (std::uint32_t i = 0; i < instants; ++i) {
    // A run of mapped pages that grows is another segment from the next instant on: what lies in it stays.
    std::vector<std::pair<std::int64_t, std::int64_t>> taken = std::move(born[i].blocks);
    const auto stays = [&](std::int64_t begin, std::int64_t end, std::uint32_t first, std::uint32_t last) {
      const auto holds = [&](std::size_t s) { return map.segments[s].begin_bytes <= begin && end <= map.segments[s].end_bytes; };
      if (first < i && i <= last && std::any_of(born[i].segments.begin(), born[i].segments.end(), holds)) taken.emplace_back(begin, end);
    };
    if (!born[i].segments.empty()) {
      for (const MapRectangle& r : map.rectangles) stays(r.begin_bytes, r.end_bytes, picture.lives[r.life].born, picture.lives[r.life].dies);
      for (const MapStretch& w : map.workspaces) stays(w.begin_bytes, w.end_bytes, w.first, w.last);
    }
    for (const std::size_t s : born[i].segments) space.add_segment(map.segments[s], s, i);
    for (const auto& [begin, end] : taken) space.take(begin, end, i);
    for (const auto& [begin, end] : gone[i].blocks) space.give_back(begin, end, i);
    for (const std::size_t s : gone[i].segments) space.remove_segment(map.segments[s], i);
  }
  space.finish(instants);
}

}  // namespace

std::int64_t MemoryMap::address_of(std::int64_t height) const {
  for (const MapSegment& segment : segments)
    if (segment.begin_bytes <= height && height < segment.end_bytes) return segment.address.value() + height - segment.begin_bytes;
  return height;
}

MemoryMap map_of(const Answered& answered) {
  MemoryMap out;
  const Layout* layout = answered.layout();
  if (layout == nullptr) return out;
  const StepPicture& picture = answered.picture;
  const auto when = [&](std::size_t event) { return event < picture.memory.size() ? picture.memory.time(event) : picture.duration; };
  out.height_bytes = layout->arena_bytes.value();
  out.rectangles.reserve(picture.lives.size());
  for (std::size_t i = 0; i < picture.lives.size(); ++i) {
    const LifeSpan& life = picture.lives[i];
    const std::int64_t offset = life.storage ? layout->birth_offset[i] : layout->scratch_offset[life.born];
    const Category category = life.storage ? answered.ours->program.storages[*life.storage].category : Category::scratch;
    out.rectangles.push_back({{when(life.first_event), when(life.last_event)}, offset, offset + life.bytes, offset + life.bytes, category, i});
  }
  return out;
}

MemoryMap map_of(const Answered& answered, const Timeline& addressed) {
  MemoryMap out;
  const StepPicture& picture = answered.picture;
  const Heights heights(addressed.segments);
  out.height_bytes = heights.height();
  const auto time = [&](std::uint32_t first, std::uint32_t last) { return TimeSpan{born_at(picture, first), gone_at(picture, last)}; };
  for (const TimelineStretch& segment : addressed.segments) {
    const std::int64_t begin = heights.of(segment.address);
    out.segments.push_back({time(segment.birth, segment.death), begin, begin + segment.bytes.value(), segment.birth, segment.death, segment.stream, segment.address});
  }
  std::stable_sort(out.segments.begin(), out.segments.end(), [](const MapSegment& a, const MapSegment& b) { return a.begin_bytes < b.begin_bytes; });
  for (const TimelineStretch& workspace : addressed.workspaces) {
    const std::int64_t begin = heights.of(workspace.address), end = begin + workspace.bytes.value();
    const auto in = std::find_if(out.segments.begin(), out.segments.end(), [&](const MapSegment& s) { return s.begin_bytes <= begin && end <= s.end_bytes && s.first <= workspace.birth && workspace.birth <= s.last; });
    out.workspaces.push_back({time(workspace.birth, workspace.death), begin, end, workspace.birth, workspace.death, static_cast<std::size_t>(in - out.segments.begin())});
  }
  out.rectangles.reserve(addressed.tensors.size());
  for (std::size_t i = 0; i < addressed.tensors.size(); ++i) {
    const TimelineTensor& tensor = addressed.tensors[i];
    const std::int64_t begin = heights.of(*tensor.address);
    out.rectangles.push_back({time(tensor.birth, tensor.death), begin, begin + tensor.block_bytes->value(), begin + tensor.bytes.value(), tensor.category, i});
  }
  find_gaps(out, picture);
  return out;
}

MemoryMap emulated_map_of(const Answered& answered) {
  return map_of(answered, timeline_of(answered.asked.question, span_of_peak(answered.prediction), EmulatedDevice::gpu, Detail::addresses));
}

MapNeighbours neighbours_of(const MemoryMap& map, const Answered& answered, std::size_t of, std::uint32_t instant) {
  const MapRectangle& own = map.rectangles[of];
  MapNeighbours out;
  std::int64_t low = 0, high = map.height_bytes;
  for (std::size_t s = 0; s < map.segments.size(); ++s) {
    const MapSegment& segment = map.segments[s];
    if (segment.begin_bytes > own.begin_bytes || own.end_bytes > segment.end_bytes || instant < segment.first || instant > segment.last) continue;
    out.segment = s;
    low = segment.begin_bytes;
    high = segment.end_bytes;
  }
  std::int64_t taken = 0;
  const std::int64_t floor = low, ceiling = high;
  const auto consider = [&](std::int64_t begin, std::int64_t end, std::optional<std::size_t> rectangle) {
    if (begin < floor || end > ceiling) return;
    taken += end - begin;
    const bool workspace = !rectangle;
    if (end <= own.begin_bytes && end >= low) low = end, out.below = {0, rectangle, workspace};
    else if (begin >= own.end_bytes && begin <= high) high = begin, out.above = {0, rectangle, workspace};
  };
  for (std::size_t i = 0; i < map.rectangles.size(); ++i) {
    const LifeSpan& life = answered.picture.lives[map.rectangles[i].life];
    if (life.born <= instant && instant <= life.dies) consider(map.rectangles[i].begin_bytes, map.rectangles[i].end_bytes, i);
  }
  for (const MapStretch& workspace : map.workspaces)
    if (workspace.first <= instant && instant <= workspace.last) consider(workspace.begin_bytes, workspace.end_bytes, std::nullopt);
  out.below.free_bytes = own.begin_bytes - low;
  out.above.free_bytes = high - own.end_bytes;
  out.segment_free_bytes = ceiling - floor - taken;
  return out;
}

std::uint32_t instruction_drawn_at(const StepPicture& picture, SimTime time) {
  const auto after = std::upper_bound(picture.instructions.begin(), picture.instructions.end(), time, [](SimTime t, const InstructionSpan& i) { return t < i.place.begin; });
  return static_cast<std::uint32_t>(std::max<std::ptrdiff_t>(1, after - picture.instructions.begin()) - 1);
}

std::optional<std::uint32_t> next_reader(const Answered& answered, const LifeSpan& life, std::uint32_t instruction) {
  if (!answered.ours || !life.storage) return std::nullopt;
  const Program& program = answered.ours->program;
  const bool per_block = program.storages[*life.storage].per_block;
  const auto& instructions = answered.picture.instructions;
  for (std::size_t i = instruction + 1; i < instructions.size() && i <= life.dies; ++i) {
    const Fragment& fragment = *program.fragments[instructions[i].fragment];
    for (const Operand& operand : fragment.operands_of(fragment.instructions[instructions[i].instruction])) {
      const bool same = operand.instance.storage == *life.storage && (!per_block || instructions[i].block + operand.instance.delta == life.instance);
      if (same && operand.access != Access::write) return static_cast<std::uint32_t>(i);
    }
  }
  return std::nullopt;
}

}  // namespace zeroplan::gui
