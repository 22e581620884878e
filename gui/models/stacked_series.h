// StackedSeries: bytes by category over time as a list of signed changes, with an arg-max pyramid over it, so that a picture of any width asks for each
// pixel column where its total is highest. The column then shows the whole stack of that one instant: bands always add up to a total that was really there,
// and no spike is lost at any zoom. Bytes stay 64-bit integers. Leaves out pixels (raster.h) and what the bytes are (step_picture.h).
//
// Method: changes are kept in blocks of kBlock events, each with the stack before it. The pyramid holds for every 2^n blocks the highest total and the event
// where it is reached first. A range query scans at most two partial blocks and climbs: O(kBlock + log n). Space: 17 B an event and about 5 B of pyramid.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "planner/core/program.h"

namespace zeroplan::gui {

using Stack = std::array<std::int64_t, kCategoryCount>;  ///< bytes by Category

std::int64_t total_of(const Stack& stack);

class StackedSeries {
 public:
  void reserve(std::size_t events);
  /// Appends a change. `time` never decreases.
  void add(SimTime time, Category category, std::int64_t delta_bytes);
  /// Builds the pyramid; no more add() afterwards. `end`: until when the last stack lasts.
  void finish(SimTime end);

  std::size_t size() const { return times_ns_.size(); }
  bool empty() const { return times_ns_.empty(); }
  /// Whether there ever is any of it.
  bool has(Category category) const { return has_[static_cast<std::size_t>(category)]; }
  SimTime time(std::size_t event) const { return SimTime(times_ns_[event]); }
  SimTime end() const { return end_; }
  Stack stack_after(std::size_t event) const;
  std::int64_t total_after(std::size_t event) const { return total_of(stack_after(event)); }

  /// First event of [begin, end) with the highest total after it. begin < end ≤ size().
  std::size_t highest(std::size_t begin, std::size_t end) const;

  /// First event at or after a time; size() if there is none.
  std::size_t first_at(SimTime time) const;
  /// Last event at or before a time; 0 if there is none.
  std::size_t last_at(SimTime time) const;

  /// The widest moment of a stretch of time, the value carried in from its left included.
  struct Column {
    std::size_t event = 0;
    Stack stack{};
    std::int64_t total_bytes = 0;
  };
  /// `width` equal stretches of [from, to). from < to, width > 0, series not empty.
  std::vector<Column> columns(SimTime from, SimTime to, int width) const;

 private:
  static constexpr std::size_t kBlock = 32;
  struct Highest {
    std::int64_t total_bytes = 0;
    std::uint32_t event = 0;
  };
  void consider(Highest& best, std::size_t begin, std::size_t end) const;  // within one block

  std::vector<std::int64_t> times_ns_, deltas_bytes_;
  std::vector<std::uint8_t> categories_;
  std::vector<Stack> before_block_;
  std::vector<std::vector<Highest>> pyramid_;  // [level][node]: 2^level blocks
  Stack last_{};
  std::array<bool, kCategoryCount> has_{};
  SimTime end_;
};

}  // namespace zeroplan::gui
