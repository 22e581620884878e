// Timeline: the memory of one rank as instants and tensors, the same form for every engine: what pictures are drawn from and questions after single tensors are answered from.
// An instant is a stretch of the issue order in which memory first only grows and then only shrinks: one instruction of our Program, or a part of one op of an emulated run.
// What is live at an instant was born at it or before and dies at it or after. So the highest instant is the peak of requested bytes.
// Leaves out times, addresses, and the host.
#pragma once

#include <array>
#include <cstdint>
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
  Bytes live;
};

struct Timeline {
  Question question;
  std::vector<TimelineInstant> instants;
  std::vector<TimelineTensor> tensors;
  Bytes capacity, usable;

  /// First of the highest instants among those whose phase begins with `phase`; all: "".
  std::size_t peak(const std::string& phase = "") const;
  /// Indices of the tensors that are live there, largest first.
  std::vector<std::size_t> live_at(std::size_t instant) const;
  std::array<std::int64_t, kCategoryCount> by_category(std::size_t instant) const;
};

/// Which part of the run. steady: one optimizer step as all later ones; first: the first one; whole: load, init and three steps (our own engine: init and a step).
enum class Span : std::uint8_t { steady, first, whole };

/// A tensor's size as a product of the question's letters (planner/README.md): "4·Ψ/n", "2·T·F"; empty where none of the usual products is it.
/// "≈": padding apart.
std::string size_formula(Bytes bytes, const Question& question);

/// Throws UsageError as predict() does.
Timeline timeline_of(const Question& question, Span span = Span::steady, EmulatedDevice device = EmulatedDevice::gpu);

}  // namespace zeroplan
