// Timeline: the memory of one rank as instants and tensors, the same form for every engine: what pictures are drawn from and questions after single tensors are answered from.
// An instant is a stretch of the issue order in which memory first only grows and then only shrinks: one instruction of our Program, or a part of one op of an emulated run.
// What is live at an instant was born at it or before and dies at it or after. So the highest instant is the peak of requested bytes.
// Leaves out addresses and the host; times of emulated engines, which have none here.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "planner/core/plan.h"
#include "planner/core/program.h"
#include "planner/core/units.h"
#include "planner/engines/emulation.h"

namespace zeroplan {

struct TimelineTensor {
  std::string name;  ///< what made it: "mm", "IPG bucket", "block.qkv"
  Category category = Category::activations;
  std::string unit;  ///< "embedding", "block[3]", "head"
  Stream stream = Stream::compute;
  Bytes bytes;
  std::uint32_t birth = 0, death = 0;  ///< first and last instant at which it is live; death = number of instants: it outlives them
  std::string why;                     ///< why it is there, a clause
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
  bool endless = false;  ///< the run dies on this device: `taken` is what an endless one would have to give

  /// First of the highest instants among those whose phase begins with `phase`; all: "".
  std::size_t peak(const std::string& phase = "") const;
  /// Indices of the tensors that are live there, largest first.
  std::vector<std::size_t> live_at(std::size_t instant) const;
  std::array<std::int64_t, kCategoryCount> by_category(std::size_t instant) const;
};

/// Which part of the run. steady: one optimizer step as all later ones; first: the first one; init: load and init; whole: load, init and three steps (our own engine: init and a step).
enum class Span : std::uint8_t { steady, first, init, whole };

/// tensors: what is requested. device: also what of the device that takes, and when: the allocator is replayed, or our own Program laid out and walked.
enum class Detail : std::uint8_t { tensors, device };

/// "steady.backward: mm_wgrad block[3]"; "before this step"; past the last instant: "stays".
std::string instant_line(const Timeline& timeline, std::size_t instant);

/// A tensor's size as a product of the question's letters (planner/README.md): "4·Ψ/n", "2·T·F"; empty where none of the usual products is it.
/// "≈": padding apart.
std::string size_formula(Bytes bytes, const Question& question);

/// Throws UsageError as predict() does.
Timeline timeline_of(const Question& question, Span span = Span::steady, EmulatedDevice device = EmulatedDevice::gpu, Detail detail = Detail::tensors);

}  // namespace zeroplan
