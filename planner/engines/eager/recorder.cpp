#include "planner/engines/eager/recorder.h"

#include <algorithm>
#include <cassert>
#include <map>
#include <utility>

namespace zeroplan::eager {

std::string unit_name(const Where& where) {
  if (!where.unit) return "whole model";
  return *where.unit == UnitKind::block ? "block[" + std::to_string(where.block) + "]" : std::string(name_of(*where.unit));
}

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
  record(MemoryEvent::Kind::phase, static_cast<StorageIndex>(current_phase_));
  for (int place = 0; place < kPlaceCount; ++place) note_peak(place);
}

void Recorder::forget_phases(std::string_view prefix) {
  record(MemoryEvent::Kind::forget);
  const auto is_forgotten = [&](std::size_t phase) { return std::string_view(phases_[phase].name).starts_with(prefix); };
  for (std::size_t i = 0; i < phases_.size(); ++i) {
    if (!is_forgotten(i)) continue;
    for (int place = 0; place < kPlaceCount; ++place) phases_[i].seen[place] = false;
    totals_[i] = {};
  }
  std::erase_if(activities_, [&](const Activity& activity) { return is_forgotten(activity.phase); });
  for (RepeatedStretch& stretch : repeated_)
    if (stretch.end_activity > activities_.size()) stretch.begin_activity = stretch.end_activity = 0;  // forgotten phases are the newest
}

RecorderMark Recorder::mark() const {
  return {.events = events_.size(), .ops = ops_.size(), .activities = activities_.size(), .storages = next_storage_, .event_ids = last_event_, .alive = {alive_[0], alive_[1]}, .totals = totals_};
}

/// Of the first step and of another: "first.forward", "steady.forward".
bool Recorder::same_phase(std::size_t a, std::size_t b) const {
  const auto part = [&](std::size_t phase) { return std::string_view(phases_[phase].name).substr(phases_[phase].name.find('.') + 1); };
  return a == b || part(a) == part(b);
}

bool Recorder::same_event(const MemoryEvent& a, const MemoryEvent& b, const RecorderMark& earlier, const RecorderMark& begin) const {
  if (a.kind != b.kind || a.bytes != b.bytes || a.op - earlier.ops != b.op - begin.ops || a.activity - earlier.activities != b.activity - begin.activities) return false;
  if (a.kind == MemoryEvent::Kind::phase) return same_phase(a.storage, b.storage);
  if (a.kind > MemoryEvent::Kind::phase && a.kind != MemoryEvent::Kind::use) return true;
  if (a.storage == b.storage) return a.storage < earlier.storages;
  const StorageIndex own = next_storage_ - begin.storages;
  if (b.storage - a.storage != begin.storages - earlier.storages || b.storage < begin.storages - own) return false;
  return tags_[a.storage] == tags_[b.storage];
}

bool Recorder::same_activity(const Activity& a, const Activity& b, const RecorderMark& earlier, const RecorderMark& begin) const {
  if (a.op - earlier.ops != b.op - begin.ops || !same_phase(a.phase, b.phase)) return false;
  const EventId own = last_event_ - begin.event_ids;
  const bool handed_on = b.event - a.event == begin.event_ids - earlier.event_ids && b.event > begin.event_ids - own;
  if (a.event != b.event && !handed_on) return false;
  Activity same = b;
  same.op = a.op;
  same.event = a.event;
  same.phase = a.phase;
  return same == a;
}

bool Recorder::repeats(const RecordedStretch& earlier, const RecorderMark& begin) const {
  const RecorderMark now = mark();
  const auto as_long = [&](auto member) { return now.*member - begin.*member == earlier.end.*member - earlier.begin.*member; };
  if (!as_long(&RecorderMark::events) || !as_long(&RecorderMark::ops) || !as_long(&RecorderMark::activities) || !as_long(&RecorderMark::storages) || !as_long(&RecorderMark::event_ids)) return false;
  if (earlier.begin.ops == 0 || begin.alive != now.alive) return false;
  const auto ops = [&](const RecorderMark& at) { return ops_.begin() + static_cast<std::ptrdiff_t>(at.ops); };
  if (!std::equal(ops(earlier.begin) - 1, ops(earlier.end), ops(begin) - 1)) return false;  // the first activities may be the last op's
  for (std::size_t i = 0; i < now.events - begin.events; ++i)
    if (!same_event(events_[earlier.begin.events + i], events_[begin.events + i], earlier.begin, begin)) return false;
  for (std::size_t i = 0; i < now.activities - begin.activities; ++i)
    if (!same_activity(activities_[earlier.begin.activities + i], activities_[begin.activities + i], earlier.begin, begin)) return false;
  return true;
}

void Recorder::stands_for(const RecorderMark& begin, std::int64_t count) {
  repeated_.push_back({.count = count, .begin_event = begin.events, .end_event = events_.size(), .begin_activity = begin.activities, .end_activity = activities_.size(),
                       .begin_storage = begin.storages, .end_storage = next_storage_, .begin_id = begin.event_ids, .end_id = last_event_});
  for (std::size_t phase = 0; phase < begin.totals.size(); ++phase)
    for (std::size_t stream = 0; stream < kStreamCount; ++stream) totals_[phase][stream].repeat(begin.totals[phase][stream], count - 1);
}

bool Recorder::settles(const RecorderMark& begin) {
  struct Size {
    std::int64_t before = 0, now = 0;  // of `begin`, of this moment
    bool ended = false;
  };
  std::vector<Size> sizes(tags_.size());
  for (std::size_t i = 0; i < events_.size(); ++i) {
    const MemoryEvent& event = events_[i];
    if (event.kind >= MemoryEvent::Kind::phase) continue;
    Size& size = sizes[event.storage];
    size.ended = event.kind == MemoryEvent::Kind::death;
    size.now = size.ended ? 0 : event.bytes;
    if (i < begin.events) size.before = size.now;
  }
  std::vector<StorageIndex> left;
  for (StorageIndex own = begin.storages; own < sizes.size(); ++own)
    if (sizes[own].now > 0) left.push_back(own);
  SettledStep step{begin.events, events_.size()};
  for (StorageIndex old = 0; old < begin.storages; ++old) {
    if (sizes[old].before == sizes[old].now) continue;
    const auto its = std::find_if(left.begin(), left.end(), [&](StorageIndex own) { return sizes[own].now == sizes[old].before && tags_[own] == tags_[old]; });
    if (!sizes[old].ended || its == left.end()) return false;
    step.handed_on.emplace_back(old, *its);
    left.erase(its);
  }
  if (!left.empty()) return false;
  settled_step_ = std::move(step);
  return true;
}

void Recorder::record(MemoryEvent::Kind kind, StorageIndex storage, std::int64_t bytes) {
  if (!record_events_) return;
  events_.push_back({.kind = kind, .storage = storage, .op = static_cast<std::uint32_t>(ops_.size()), .activity = static_cast<std::uint32_t>(activities_.size()), .bytes = bytes});
}

void Recorder::grow(Place place, std::int64_t bytes) {
  if (place == Place::meta) return;
  std::int64_t& alive = alive_[static_cast<int>(place)];
  alive = (Bytes(alive) + Bytes(bytes)).value();
  note_peak(static_cast<int>(place));
}

StorageIndex Recorder::allocate(std::int64_t bytes, const StorageTag& tag) {
  const StorageIndex index = next_storage_++;
  record(MemoryEvent::Kind::birth, index, bytes);
  if (record_events_) tags_.push_back(tag);
  grow(tag.place, bytes);
  return index;
}

void Recorder::free(StorageIndex index, std::int64_t bytes, Place place) {
  record(MemoryEvent::Kind::death, index, bytes);
  if (place != Place::meta) alive_[static_cast<int>(place)] -= bytes;
}

void Recorder::resize(StorageIndex index, std::int64_t old_bytes, std::int64_t new_bytes, Place place) {
  record(MemoryEvent::Kind::resize, index, new_bytes);
  grow(place, new_bytes - old_bytes);
}

void Recorder::set_category(StorageIndex index, Category category) {
  if (record_events_) tags_[index].category = category;
}

void Recorder::use(StorageIndex index, Stream stream) {
  if (!record_events_ || tags_[index].stream == stream || tags_[index].place != Place::device) return;
  has_uses_ = true;
  record(MemoryEvent::Kind::use, index, static_cast<std::int64_t>(stream));
}

void Recorder::empty_cache() {
  record(MemoryEvent::Kind::empty_cache);
}

void Recorder::end() {
  record(MemoryEvent::Kind::end);
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
