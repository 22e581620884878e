// PyTorch's memory snapshots: what torch.cuda.memory._dump_snapshot pickles and pytorch.org/memory_viz shows. Reading them (in one pass, in compact structs, without
// Python), writing them (so that simulated runs can be looked at in PyTorch's own viewer, coloured by category), and the lives of all blocks of one device.
// Read as well: snapshots without history, those of 2022 that are only a list of segments, with stacks in each block's "history", and torch's C++ pickler's files.
// Leaves out what the viewer does not draw: external annotations, user metadata, compile contexts, FX fields of frames, roundup_power2_divisions.
// Source: torch/csrc/cuda/memory_snapshot.cpp, torch/csrc/cuda/Module.cpp (shape), torch/cuda/memory.py (_snapshot), torch/utils/viz/MemoryViz.js (category).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "planner/core/units.h"
#include "simulator/interned.h"
#include "simulator/pickle.h"

namespace zeroplan {

/// other: an action that a later PyTorch has; it moves no memory here.
enum class TraceAction : std::uint8_t { alloc, free_requested, free_completed, segment_alloc, segment_free, segment_map, segment_unmap, snapshot, oom, user_defined, other };

/// The category "unknown" of whatever names none.
inline constexpr StringId kUnknownCategory{0};

/// One action of the allocator; 40 bytes.
struct SnapshotEntry {
  std::int64_t address = 0;     ///< oom: the bytes that the device had free (device_free)
  std::int64_t size_bytes = 0;  ///< alloc, free: as requested, not rounded. segment_*: of the segment. snapshot: what PyTorch says
  std::int64_t time_us = 0;     ///< since 1970; 0 in snapshots before PyTorch 2.1
  std::int64_t stream = 0;      ///< 0: the default stream; else a cudaStream_t as a number
  StackId stack = kEmptyStack;
  StringId category = kUnknownCategory;
  TraceAction action = TraceAction::alloc;
  friend bool operator==(const SnapshotEntry&, const SnapshotEntry&) = default;
};

struct SnapshotBlock {
  enum class State : std::uint8_t { active_allocated, active_pending_free, inactive };
  std::int64_t address = 0;
  std::int64_t size_bytes = 0;
  std::int64_t requested_bytes = 0;  ///< size_bytes where the snapshot is too old to say
  StackId stack = kEmptyStack;
  State state = State::inactive;
  bool is_active() const { return state != State::inactive; }
  friend bool operator==(const SnapshotBlock&, const SnapshotBlock&) = default;
};

struct SnapshotSegment {
  int device = 0;
  std::int64_t address = 0;
  std::int64_t total_bytes = 0;
  std::int64_t stream = 0;
  bool is_large = true;       ///< segment_type
  bool is_expandable = false;
  std::array<std::int64_t, 2> pool_id{};  ///< (0, 0): the default pool; else of a CUDA graph or a MemPool
  StackId stack = kEmptyStack;
  std::vector<SnapshotBlock> blocks = {}; ///< ascending
  friend bool operator==(const SnapshotSegment&, const SnapshotSegment&) = default;
};

struct SnapshotSettings {
  std::string alloc_conf = {};  ///< PYTORCH_CUDA_ALLOC_CONF as it was
  std::optional<std::int64_t> max_split_bytes = {};
  double garbage_collection_threshold = 0;
  bool expandable_segments = false;
  friend bool operator==(const SnapshotSettings&, const SnapshotSettings&) = default;
};

struct MemorySnapshot {
  MemorySnapshot() { strings.intern("unknown"); }

  std::vector<SnapshotSegment> segments;                  ///< of all devices
  std::vector<std::vector<SnapshotEntry>> device_traces;  ///< [device], oldest entry first; may be shorter than the number of devices
  std::optional<SnapshotSettings> settings;
  StringTable strings;  ///< categories and the names of frames; valid UTF-8
  StackTable stacks;

  std::span<const SnapshotEntry> trace_of(int device) const;
  int device_count() const;  ///< one more than the last device that has a segment or an entry
};

/// Reads FILE, mapped and let go of behind the reader: memory is that of the result and some 16 bytes an entry, for a file of 1.2 GB with 30 frames an entry
/// below 0.6 GB. The file must not be truncated meanwhile. nullopt: on_progress said stop. Throws InputError with the byte where the file is wrong.
std::optional<MemorySnapshot> read_memory_snapshot(const std::string& file, const OnReadProgress& on_progress = {});

/// The same from memory; `name` stands for the file in errors.
std::optional<MemorySnapshot> read_memory_snapshot(std::span<const unsigned char> bytes, const std::string& name, const OnReadProgress& on_progress = {});

/// Pickle of protocol 2. Categories are written if any entry has one, then with every entry, and "unknown" is among them: MemoryViz.js fails on a file whose
/// categories lack it. Where all entries are of known categories, an entry "snapshot" is added for that. Addresses should be below 2^53: JavaScript has doubles.
void write_memory_snapshot(const MemorySnapshot& snapshot, const std::function<void(std::string_view)>& write);
void write_memory_snapshot(const MemorySnapshot& snapshot, std::ostream& out);
/// To FILE.tmp, flushed and renamed: FILE is whole or untouched. Throws RunError with the cause.
void write_memory_snapshot(const MemorySnapshot& snapshot, const std::string& file);

/// One block from birth to death. Entries are indices into trace_of(device); an index of trace_of(device).size() means: no entry tells, the segments do.
struct LiveBlock {
  std::int64_t address = 0;
  Bytes size_bytes;  ///< as requested
  std::int64_t stream = 0;
  StackId stack = kEmptyStack;  ///< of the allocation; empty where that is not recorded (the death's entry has the stack of the free)
  StringId category = kUnknownCategory;
  std::optional<std::uint32_t> birth_entry;  ///< nullopt: alive before the first entry
  std::optional<std::uint32_t> death_entry;  ///< nullopt: alive at the end
  friend bool operator==(const LiveBlock&, const LiveBlock&) = default;
};

struct LiveStep {
  std::uint32_t entry = 0, block = 0;
  bool is_birth = false;
  Bytes live_bytes;  ///< after it
};

/// The live bytes of one device: requested bytes of active blocks, from alloc until free_completed (PyTorch's active bytes without rounding).
struct LiveTimeline {
  std::vector<LiveBlock> blocks;  ///< those alive before the first entry by address, then in order of birth
  std::vector<LiveStep> steps;    ///< in order of the trace
  Bytes start_bytes, peak_bytes, end_bytes;
  std::optional<std::uint32_t> peak_step;  ///< the first that reaches the peak; nullopt: it is the start
  std::int64_t unrecorded_deaths = 0, unrecorded_births = 0;  ///< what history must have missed while it was off
};

/// Works for a trace whose beginning the ring buffer lost: a block freed or alive at the end without an alloc entry was alive from the start. If the snapshot has
/// segments of the device, its active blocks decide what is alive at the end: end_bytes is the sum of their requested bytes. Linear in entries and blocks.
LiveTimeline timeline_of(const MemorySnapshot& snapshot, int device);

}  // namespace zeroplan
