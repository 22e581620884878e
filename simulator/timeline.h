// Timeline: the memory of one rank as instants and tensors, the same form for every engine: what pictures are drawn from and questions after single tensors are answered from.
// An instant is a stretch of the issue order in which memory first only grows and then only shrinks: one instruction of our Program, or a part of one op of an emulated run.
// What is live at an instant was born at it or before and dies at it or after. So the highest instant is the peak of requested bytes.
// Equal micro batches of an emulated run stand there once, with how often they run. What runs when is a list of its own: an op may run on several streams at once.
// Leaves out what the host keeps; for our own engine, its addresses (planner/layout).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "planner/core/plan.h"
#include "planner/core/program.h"
#include "planner/core/units.h"
#include "planner/engines/emulation.h"
#include "simulator/prediction.h"

namespace zeroplan {

struct TimelineTensor {
  std::string name;  ///< what made it: "mm", "IPG bucket", "block.qkv"
  Category category = Category::activations;
  std::string unit;  ///< "embedding", "block[3]", "head"
  Stream stream = Stream::compute;
  Bytes bytes;
  std::uint32_t birth = 0, death = 0;  ///< first and last instant at which it is live; death = number of instants: it outlives them
  std::string_view why;                ///< why it is there, a clause: a literal
  std::optional<Bytes> address = {}, block_bytes = {};  ///< Detail::device, of an emulated run: the allocator's block
};

struct TimelineInstant {
  std::string name;   ///< instruction
  std::string unit;
  std::string phase;  ///< "init", "first.forward", … "steady.step"
  Stream stream = Stream::compute;
  Bytes live = {};
  std::optional<Bytes> taken = {};     ///< Detail::device: from the device, the most while the instant lasts: what PyTorch's allocator reserves, or our arena
  std::optional<SimTime> start = {}, end = {};  ///< Detail::device: on its stream's clock since the step began; where they are known
};

/// Something that runs: a kernel, a collective, a copy, work of the host. Detail::device, of an emulated run.
struct TimelineWork {
  enum class Kind : std::uint8_t { kernel, collective, copy, host } kind = Kind::kernel;
  const char* name = "";  ///< of the op
  Stream stream = Stream::compute;
  std::uint32_t instant = 0;  ///< the last one that had begun; what is issued in a repeated stretch belongs to one of it
  SimTime start = {}, end = {};  ///< since the step began
};

/// Instants [begin, end) stand for `count` equal micro batches. Times in them are the first one's; what follows stands `more` later than if it were the only one.
struct TimelineRepeat {
  std::size_t begin = 0, end = 0;
  std::int64_t count = 1;
  SimTime more = {};
};

struct TimelineSpan {
  SimTime start, end;
};

/// What the allocator has of the device, and its blocks that are no tensor's: cuBLAS workspaces. Live from birth to death as a tensor is: at every instant each block lies in exactly one
/// segment. Where the cache is emptied while an instant lasts, it shows what is left; of a repeated stretch what its last rounds have.
struct TimelineStretch {
  Bytes address, bytes;
  Stream stream = Stream::compute;
  std::uint32_t birth = 0, death = 0;
};

/// Where the allocator cannot serve a request on the question's device.
struct TimelineFailure {
  std::size_t instant = 0;
  Bytes tried;          ///< the segment that it asks the driver for: "Tried to allocate"
  std::string message;  ///< as torch.OutOfMemoryError puts it
};

struct Timeline {
  Question question;
  std::vector<TimelineInstant> instants;
  std::vector<TimelineTensor> tensors;
  Bytes capacity, usable;
  std::optional<TimelineFailure> failure = {};  ///< Detail::device; if the run dies in this span
  std::vector<TimelineRepeat> repeats = {};
  std::vector<TimelineWork> work = {};     ///< in the order of issue
  std::vector<TimelineSpan> exposed = {};  ///< the compute stream waits for collectives and copies; beside `work`
  std::optional<SimTime> step = {};        ///< Detail::device: how long the step takes whose times these are
  std::vector<TimelineStretch> segments = {}, workspaces = {};  ///< Detail::addresses
  bool endless = false;  ///< the run dies on this device: `taken` is what an endless one would have to give

  /// First of the highest instants among those whose phase begins with `phase`; all: "".
  std::size_t peak(const std::string& phase = "") const;
  /// Indices of the tensors that are live there, largest first.
  std::vector<std::size_t> live_at(std::size_t instant) const;
  std::array<std::int64_t, kCategoryCount> by_category(std::size_t instant) const;
};

/// Which part of the run. steady: one optimizer step as all later ones; first: the first one; init: load and init; whole: load, init and all steps, three where samples are packed (our own engine: init and a step).
enum class Span : std::uint8_t { steady, first, init, whole };

/// tensors: what is requested. device: also what of the device that takes, and when: the allocator is replayed, or our own Program laid out and walked. addresses: also the
/// allocator's segments.
enum class Detail : std::uint8_t { tensors, device, addresses };

/// "steady.backward: mm_wgrad block[3]"; "before this step"; past the last instant: "stays".
std::string instant_line(const Timeline& timeline, std::size_t instant);

/// A tensor's size as a product of the question's letters (planner/README.md): "4·Ψ/n", "2·T·F"; empty where none of the usual products is it.
/// "≈": padding apart.
std::string size_formula(Bytes bytes, const Question& question);

/// Throws UsageError as predict() does.
Timeline timeline_of(const Question& question, Span span = Span::steady, EmulatedDevice device = EmulatedDevice::gpu, Detail detail = Detail::tensors);

/// The part of a run that holds the peak of requested bytes: the steady step where it comes up to it.
Span span_of_peak(const Prediction& prediction);

struct PredictionAndTimeline {
  Prediction prediction;
  Timeline timeline;
};
/// predict() and timeline_of() with Detail::device from one emulation and one replay. `span`: none: span_of_peak. Throws UsageError as predict() does.
PredictionAndTimeline predict_with_timeline(const Question& question, std::optional<Span> span = std::nullopt);

}  // namespace zeroplan
