#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ostream>

#include <fmt/format.h>

#include "planner/core/descriptor.h"
#include "planner/core/error.h"
#include "simulator/memory_snapshot.h"

namespace zeroplan {
namespace {

constexpr std::array<const char*, 11> kActions{"alloc", "free_requested", "free_completed", "segment_alloc", "segment_free", "segment_map",
                                             "segment_unmap", "snapshot", "oom", "user_defined", "other"};
constexpr std::array<const char*, 3> kStates{"active_allocated", "active_pending_free", "inactive"};

class SnapshotWriter {
 public:
  SnapshotWriter(const MemorySnapshot& snapshot, std::function<void(std::string_view)> write)
      : snapshot_(snapshot), out_(std::move(write)), written_stacks_(snapshot.stacks.stack_count()), written_frames_(snapshot.stacks.frame_count()) {
    for (const std::vector<SnapshotEntry>& trace : snapshot.device_traces)
      for (const SnapshotEntry& entry : trace) (entry.category == kUnknownCategory ? has_unknown_ : has_categories_) = true;
  }

  void write() {
    out_.begin_dict();
    out_.string("segments");
    out_.begin_list();
    for (const SnapshotSegment& segment : snapshot_.segments) write(segment);
    out_.end();
    out_.string("device_traces");
    out_.begin_list();
    for (const std::vector<SnapshotEntry>& trace : snapshot_.device_traces) write(trace);
    out_.end();
    if (snapshot_.settings) write(*snapshot_.settings);
    out_.string("external_annotations");
    out_.begin_list();
    out_.end();
    out_.end();
    out_.finish();
  }

 private:
  void field(const char* key, std::int64_t value) {
    out_.string(key);
    out_.integer(value);
  }
  void field(const char* key, std::string_view value) {
    out_.string(key);
    out_.string(value);
  }
  void flag(const char* key, bool value) {
    out_.string(key);
    out_.boolean(value);
  }

  void frames_field(StackId stack) {
    out_.string("frames");
    std::optional<std::uint32_t>& written = written_stacks_[static_cast<std::size_t>(stack)];
    if (written) return out_.again(*written);
    out_.begin_list();
    for (const FrameId frame : snapshot_.stacks.frames_of(stack)) write(frame);
    out_.end();
    written = out_.remember();
  }

  void write(FrameId id) {
    std::optional<std::uint32_t>& written = written_frames_[static_cast<std::size_t>(id)];
    if (written) return out_.again(*written);
    const Frame& frame = snapshot_.stacks[id];
    out_.begin_dict();
    field("name", snapshot_.strings[frame.function]);
    field("filename", snapshot_.strings[frame.file]);
    field("line", frame.line);
    out_.end();
    written = out_.remember();
  }

  void write(const SnapshotSegment& segment) {
    std::int64_t allocated = 0, active = 0, requested = 0;
    for (const SnapshotBlock& block : segment.blocks) {
      if (!block.is_active()) continue;
      active += block.size_bytes;
      requested += block.requested_bytes;
      if (block.state == SnapshotBlock::State::active_allocated) allocated += block.size_bytes;
    }
    out_.begin_dict();
    field("device", segment.device);
    field("address", segment.address);
    field("total_size", segment.total_bytes);
    field("allocated_size", allocated);
    field("active_size", active);
    field("requested_size", requested);
    field("stream", segment.stream);
    field("segment_type", segment.is_large ? "large" : "small");
    out_.string("segment_pool_id");
    out_.begin_tuple();
    for (const std::int64_t part : segment.pool_id) out_.integer(part);
    out_.end();
    flag("is_expandable", segment.is_expandable);
    frames_field(segment.stack);
    out_.string("blocks");
    out_.begin_list();
    for (const SnapshotBlock& block : segment.blocks) write(block);
    out_.end();
    out_.end();
  }

  void write(const SnapshotBlock& block) {
    out_.begin_dict();
    field("address", block.address);
    field("size", block.size_bytes);
    field("requested_size", block.requested_bytes);
    field("state", kStates[static_cast<std::size_t>(block.state)]);
    frames_field(block.stack);
    out_.end();
  }

  void write(const std::vector<SnapshotEntry>& trace) {
    out_.begin_list();
    for (const SnapshotEntry& entry : trace) write(entry);
    if (has_categories_ && !has_unknown_ && !trace.empty()) {
      write(SnapshotEntry{.time_us = trace.back().time_us, .action = TraceAction::snapshot});
      has_unknown_ = true;
    }
    out_.end();
  }

  void write(const SnapshotEntry& entry) {
    out_.begin_dict();
    field("action", kActions[static_cast<std::size_t>(entry.action)]);
    field(entry.action == TraceAction::oom ? "device_free" : "addr", entry.address);
    field("size", entry.size_bytes);
    field("stream", entry.stream);
    field("time_us", entry.time_us);
    frames_field(entry.stack);
    if (has_categories_) field("category", snapshot_.strings[entry.category]);
    out_.end();
  }

  void write(const SnapshotSettings& settings) {
    out_.string("allocator_settings");
    out_.begin_dict();
    field("PYTORCH_CUDA_ALLOC_CONF", settings.alloc_conf);
    field("max_split_size", settings.max_split_bytes.value_or(-1));
    out_.string("garbage_collection_threshold");
    out_.real(settings.garbage_collection_threshold);
    flag("expandable_segments", settings.expandable_segments);
    out_.end();
  }

  const MemorySnapshot& snapshot_;
  PickleWriter out_;
  std::vector<std::optional<std::uint32_t>> written_stacks_, written_frames_;  ///< their memo numbers
  bool has_categories_ = false, has_unknown_ = false;
};

/// FILE.tmp until commit() renames it; removed if that never happens.
class PendingFile {
 public:
  explicit PendingFile(const std::string& file)
      : file_(file), temporary_(file + ".tmp"), out_(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
    if (!out_.is_open()) throw RunError(fmt::format("{}: cannot be created: {}", temporary_, std::strerror(errno)));
  }
  ~PendingFile() {
    if (!committed_) ::unlink(temporary_.c_str());
  }
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(out_.get(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("be written");
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
  }
  void commit() {
    if (::fsync(out_.get()) != 0) fail("be flushed to disk");
    if (!out_.close()) fail("be closed");
    if (::rename(temporary_.c_str(), file_.c_str()) != 0) fail("be replaced");
    committed_ = true;
  }

 private:
  [[noreturn]] void fail(const char* what) const { throw RunError(fmt::format("{}: cannot {}: {}", file_, what, std::strerror(errno))); }

  std::string file_, temporary_;
  Descriptor out_;
  bool committed_ = false;
};

}  // namespace

void write_memory_snapshot(const MemorySnapshot& snapshot, const std::function<void(std::string_view)>& write) { SnapshotWriter(snapshot, write).write(); }

void write_memory_snapshot(const MemorySnapshot& snapshot, std::ostream& out) {
  write_memory_snapshot(snapshot, [&](std::string_view piece) { out.write(piece.data(), static_cast<std::streamsize>(piece.size())); });
}

void write_memory_snapshot(const MemorySnapshot& snapshot, const std::string& file) {
  PendingFile out(file);
  write_memory_snapshot(snapshot, [&](std::string_view piece) { out.write(piece); });
  out.commit();
}

}  // namespace zeroplan
