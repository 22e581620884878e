// Recorder: what an emulated training process asks of memory, in order. Every storage is reported from its creation to its end;
// the Recorder keeps, per phase and place, the highest sum of requested bytes, and on request the whole stream of events, from which
// alive_at_peak() says what was alive at a peak and from which a Program can be cut (one op call = one instruction: births before it, deaths after it).
// Requested bytes: before any allocator rounds them. It also hears of the work that is done (work.h): sums per phase and stream always, the list on request.
// Leaves out addresses and seconds.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "planner/core/model.h"
#include "planner/core/program.h"
#include "planner/engines/eager/work.h"

namespace zeroplan::eager {

/// Where a storage lives, as the counting is done: the accelerator or the host's memory. meta: it has a shape only and is not counted.
enum class Place : std::uint8_t { device, host, meta };
inline constexpr int kPlaceCount = 2;  ///< that are counted

using StorageIndex = std::uint32_t;

/// Which part of the model caused something; no unit: what belongs to all of it, as an engine's buckets and the optimizer's state. block is meaningful for UnitKind::block only.
struct Where {
  std::optional<UnitKind> unit = std::nullopt;
  std::int32_t block = 0;
  friend bool operator==(Where, Where) = default;
};

/// "block[3]", "head", "whole model".
std::string unit_name(const Where& where);

/// Everything about a new storage but its bytes. `site` is a literal.
struct StorageTag {
  const char* site = "";
  Category category = Category::activations;
  Place place = Place::device;
  Stream stream = Stream::compute;
  Where where;
  friend bool operator==(const StorageTag&, const StorageTag&) = default;
};

/// One thing that happened to memory. For a resize `bytes` is the new size. use: Tensor.record_stream, `bytes` is the Stream. forget: forget_phases was called (a step begins). end: the last step is over; what follows is the process going down.
struct MemoryEvent {
  enum class Kind : std::uint8_t { birth, death, resize, phase, forget, empty_cache, end, use } kind = Kind::birth;
  StorageIndex storage = 0;  ///< for a phase: its index in phases()
  std::uint32_t op = 0;      ///< ops begun before it: ops()[op - 1] was running; 0: none
  std::uint32_t activity = 0;  ///< activities recorded before it, of those that were not forgotten by then
  std::int64_t bytes = 0;
};

/// One op call, forward, backward or of an engine.
struct OpEvent {
  const char* name = "";
  Stream stream = Stream::compute;
  Where where;
  bool backward = false;
  friend bool operator==(const OpEvent&, const OpEvent&) = default;
};

/// A place in all that was recorded.
struct RecorderMark {
  std::size_t events = 0, ops = 0, activities = 0;
  StorageIndex storages = 0;
  EventId event_ids = 0;
  std::array<std::int64_t, 2> alive{};  ///< by Place
  std::vector<std::array<WorkTotals, kStreamCount>> totals;
};

struct RecordedStretch {
  RecorderMark begin, end;
};

/// A recorded stretch (a micro batch) that stands for `count` equal ones in a row. Where it uses a storage or an event of the one before it, the next uses its own in that place:
/// indices are storages() and ids() higher from one to the next.
struct RepeatedStretch {
  std::int64_t count = 1;
  std::size_t begin_event = 0, end_event = 0;        ///< in events()
  std::size_t begin_activity = 0, end_activity = 0;  ///< in activities(); both 0: forgotten
  StorageIndex begin_storage = 0, end_storage = 0;   ///< born in it
  EventId begin_id = 0, end_id = 0;                  ///< recorded in it: begin_id + 1 … end_id

  StorageIndex storages() const { return end_storage - begin_storage; }
  EventId ids() const { return end_id - begin_id; }
};

/// A recorded optimizer step that stands for the next one too, in which all is asked for again.
struct SettledStep {
  std::size_t begin_event = 0, end_event = 0;                        ///< in events()
  std::vector<std::pair<StorageIndex, StorageIndex>> handed_on = {};  ///< what a step leaves to the next: the step ends the first, born before it, and leaves the second in its place
};

/// The highest requested bytes of one phase, by Place.
struct PhasePeak {
  std::string name;
  std::int64_t bytes[kPlaceCount] = {};
  std::size_t event[kPlaceCount] = {};  ///< number of events recorded when the peak was reached
  bool seen[kPlaceCount] = {};
};

/// A sum over storages of one site and category that were alive at a peak.
struct AliveBytes {
  const char* site = "";
  Category category = Category::activations;
  std::int64_t bytes = 0;
};

class Recorder {
 public:
  /// With record_events the stream of events and activities is kept; without it only peaks and sums of work are (faster).
  explicit Recorder(bool record_events = false) : record_events_(record_events), record_activities_(record_events) {}
  /// Keeps activities from now on, also without the events of memory.
  void record_activities() { record_activities_ = true; }
  /// Equal micro batches in a row are recorded once; so are equal steps (training_loop.h). Both need record_events.
  void fold_micro_batches() { folds_micro_batches_ = record_events_; }
  void fold_steps() { folds_steps_ = record_events_; }
  bool folds_micro_batches() const { return folds_micro_batches_; }
  bool folds_steps() const { return folds_steps_; }

  /// Peaks are counted for `name` from now on, starting at what is alive. A phase that was seen before goes on with its old peak (micro batches).
  void begin_phase(std::string_view name);
  /// Forgets the peaks and the work of phases whose name starts with prefix (a steady step counts alone).
  void forget_phases(std::string_view prefix);

  StorageIndex allocate(std::int64_t bytes, const StorageTag& tag);
  void free(StorageIndex index, std::int64_t bytes, Place place);
  void resize(StorageIndex index, std::int64_t old_bytes, std::int64_t new_bytes, Place place);
  void set_category(StorageIndex index, Category category);
  /// Work on `stream` uses it too: an allocator must not hand it out again before that is over.
  void use(StorageIndex index, Stream stream);
  bool has_uses() const { return has_uses_; }
  /// torch.cuda.empty_cache(): frees nothing that is asked for; an allocator gives back what it keeps.
  void empty_cache();
  void end();
  void begin_op(const OpEvent& op);
  /// Phase and op are filled in here.
  void work(Activity activity) {
    activity.phase = static_cast<std::uint16_t>(current_phase_);
    if (current_phase_ < totals_.size()) totals_[current_phase_][static_cast<std::size_t>(activity.stream)].add(activity);
    if (!record_activities_) return;
    activity.op = static_cast<std::uint32_t>(ops_.size());
    activities_.push_back(activity);
  }
  EventId next_event() { return ++last_event_; }
  EventId event_ids() const { return last_event_; }  ///< the last one given

  RecorderMark mark() const;
  /// What was recorded since `begin` is what was recorded in `earlier`, of this step or another: event by event, with storages born in it, kept from outside, or handed on from one to
  /// the next in the same way, and as much is alive at its end as at its begin. Then the next one is the same again.
  bool repeats(const RecordedStretch& earlier, const RecorderMark& begin) const;
  /// What was recorded since `begin` happens `count` times in a row. Its work counts as often.
  void stands_for(const RecorderMark& begin, std::int64_t count);
  const std::vector<RepeatedStretch>& repeated() const { return repeated_; }

  /// Takes the step since `begin` for the next one too, if it leaves as much as it found: every storage from before it as large as it was, and one of its own, of the same tag and size,
  /// for each that it ended. False: it does not. What an engine knows by heart is not looked at.
  bool settles(const RecorderMark& begin);
  const std::optional<SettledStep>& settled_step() const { return settled_step_; }

  std::int64_t alive_bytes(Place place) const { return alive_[static_cast<int>(place)]; }
  const std::vector<PhasePeak>& phases() const { return phases_; }
  /// Null if the phase was never begun.
  const PhasePeak* phase(std::string_view name) const;

  bool records_events() const { return record_events_; }
  const std::vector<MemoryEvent>& events() const { return events_; }
  const std::vector<OpEvent>& ops() const { return ops_; }
  const std::vector<StorageTag>& tags() const { return tags_; }  ///< by StorageIndex; categories are the last ones set
  bool has_activities() const { return record_activities_; }
  const std::vector<Activity>& activities() const { return activities_; }  ///< of phases that were not forgotten
  /// Sums over the phases whose name starts with prefix: of one stream, of all.
  WorkTotals work_totals(std::string_view prefix, Stream stream) const;
  WorkTotals work_totals(std::string_view prefix) const;

  /// What was alive when the phase reached its peak, largest first. Needs record_events.
  std::vector<AliveBytes> alive_at_peak(std::string_view name, Place place = Place::device) const;

 private:
  bool same_phase(std::size_t a, std::size_t b) const;
  bool same_event(const MemoryEvent& a, const MemoryEvent& b, const RecorderMark& earlier, const RecorderMark& begin) const;
  bool same_activity(const Activity& a, const Activity& b, const RecorderMark& earlier, const RecorderMark& begin) const;
  void record(MemoryEvent::Kind kind, StorageIndex storage = 0, std::int64_t bytes = 0);
  void grow(Place place, std::int64_t bytes);
  void note_peak(int place);

  bool record_events_, record_activities_, has_uses_ = false, folds_micro_batches_ = false, folds_steps_ = false;
  std::int64_t alive_[kPlaceCount] = {};
  std::size_t current_phase_ = 0;
  StorageIndex next_storage_ = 0;
  std::vector<PhasePeak> phases_;
  std::vector<MemoryEvent> events_;
  std::vector<OpEvent> ops_;
  std::vector<StorageTag> tags_;
  std::vector<Activity> activities_;
  std::vector<RepeatedStretch> repeated_;
  std::optional<SettledStep> settled_step_;
  std::vector<std::array<WorkTotals, kStreamCount>> totals_;  ///< by phase and stream
  EventId last_event_ = 0;
};

}  // namespace zeroplan::eager
