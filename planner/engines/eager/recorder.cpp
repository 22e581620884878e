#include "planner/engines/eager/recorder.h"

#include <algorithm>
#include <cassert>
#include <map>
#include <utility>

namespace zeroplan::eager {

void Recorder::note_peak(int place) {
  if (phases_.empty()) return;
  PhasePeak& phase = phases_[current_phase_];
  if (phase.seen[place] && alive_[place] <= phase.bytes[place]) return;
  phase.seen[place] = true;
  phase.bytes[place] = alive_[place];
  phase.event[place] = events_.size();
}

void Recorder::begin_phase(std::string_view name) {
  const auto found = std::find_if(phases_.begin(), phases_.end(), [&](const PhasePeak& p) { return p.name == name; });
  current_phase_ = static_cast<std::size_t>(found - phases_.begin());
  if (found == phases_.end()) {
    phases_.push_back(PhasePeak{.name = std::string(name)});
    totals_.emplace_back();
  }
  if (record_events_) events_.push_back({.kind = MemoryEvent::Kind::phase, .storage = static_cast<StorageIndex>(current_phase_), .op = static_cast<std::uint32_t>(ops_.size())});
  for (int place = 0; place < kPlaceCount; ++place) note_peak(place);
}

void Recorder::forget_phases(std::string_view prefix) {
  if (record_events_) events_.push_back({.kind = MemoryEvent::Kind::forget, .op = static_cast<std::uint32_t>(ops_.size())});
  const auto is_forgotten = [&](std::size_t phase) { return std::string_view(phases_[phase].name).starts_with(prefix); };
  for (std::size_t i = 0; i < phases_.size(); ++i) {
    if (!is_forgotten(i)) continue;
    for (int place = 0; place < kPlaceCount; ++place) phases_[i].seen[place] = false;
    totals_[i] = {};
  }
  std::erase_if(activities_, [&](const Activity& activity) { return is_forgotten(activity.phase); });
}

void Recorder::grow(Place place, std::int64_t bytes) {
  if (place == Place::meta) return;
  std::int64_t& alive = alive_[static_cast<int>(place)];
  alive = (Bytes(alive) + Bytes(bytes)).value();
  note_peak(static_cast<int>(place));
}

StorageIndex Recorder::allocate(std::int64_t bytes, const StorageTag& tag) {
  const StorageIndex index = next_storage_++;
  if (record_events_) {
    events_.push_back({.kind = MemoryEvent::Kind::birth, .storage = index, .op = static_cast<std::uint32_t>(ops_.size()), .bytes = bytes});
    tags_.push_back(tag);
  }
  grow(tag.place, bytes);
  return index;
}

void Recorder::free(StorageIndex index, std::int64_t bytes, Place place) {
  if (record_events_) events_.push_back({.kind = MemoryEvent::Kind::death, .storage = index, .op = static_cast<std::uint32_t>(ops_.size()), .bytes = bytes});
  if (place != Place::meta) alive_[static_cast<int>(place)] -= bytes;
}

void Recorder::resize(StorageIndex index, std::int64_t old_bytes, std::int64_t new_bytes, Place place) {
  if (record_events_) events_.push_back({.kind = MemoryEvent::Kind::resize, .storage = index, .op = static_cast<std::uint32_t>(ops_.size()), .bytes = new_bytes});
  grow(place, new_bytes - old_bytes);
}

void Recorder::set_category(StorageIndex index, Category category) {
  if (record_events_) tags_[index].category = category;
}

void Recorder::empty_cache() {
  if (record_events_) events_.push_back({.kind = MemoryEvent::Kind::empty_cache, .op = static_cast<std::uint32_t>(ops_.size())});
}

void Recorder::end() {
  if (record_events_) events_.push_back({.kind = MemoryEvent::Kind::end, .op = static_cast<std::uint32_t>(ops_.size())});
}

void Recorder::begin_op(const OpEvent& op) {
  if (record_events_) ops_.push_back(op);
}

WorkTotals Recorder::work_totals(std::string_view prefix, Stream stream) const {
  WorkTotals sum;
  for (std::size_t i = 0; i < phases_.size(); ++i)
    if (std::string_view(phases_[i].name).starts_with(prefix)) sum += totals_[i][static_cast<std::size_t>(stream)];
  return sum;
}

WorkTotals Recorder::work_totals(std::string_view prefix) const {
  WorkTotals sum;
  for (int stream = 0; stream < kStreamCount; ++stream) sum += work_totals(prefix, static_cast<Stream>(stream));
  return sum;
}

const PhasePeak* Recorder::phase(std::string_view name) const {
  for (const PhasePeak& p : phases_)
    if (p.name == name) return &p;
  return nullptr;
}

std::vector<AliveBytes> Recorder::alive_at_peak(std::string_view name, Place place) const {
  assert(record_events_);
  const PhasePeak* peak = phase(name);
  if (peak == nullptr) return {};
  std::vector<std::int64_t> bytes(tags_.size(), 0);
  for (std::size_t i = 0; i < peak->event[static_cast<int>(place)]; ++i) {
    const MemoryEvent& event = events_[i];
    if (event.kind >= MemoryEvent::Kind::phase) continue;
    bytes[event.storage] = event.kind == MemoryEvent::Kind::death ? 0 : event.bytes;
  }
  std::map<std::pair<std::string_view, Category>, AliveBytes> sums;
  for (std::size_t i = 0; i < tags_.size(); ++i) {
    if (bytes[i] == 0 || tags_[i].place != place) continue;
    AliveBytes& sum = sums[{tags_[i].site, tags_[i].category}];
    sum.site = tags_[i].site;
    sum.category = tags_[i].category;
    sum.bytes += bytes[i];
  }
  std::vector<AliveBytes> out;
  for (const auto& [key, sum] : sums) out.push_back(sum);
  std::stable_sort(out.begin(), out.end(), [](const AliveBytes& a, const AliveBytes& b) { return a.bytes > b.bytes; });
  return out;
}

}  // namespace zeroplan::eager
