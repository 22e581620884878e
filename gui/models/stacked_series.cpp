#include "gui/models/stacked_series.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <numeric>

namespace zeroplan::gui {
namespace {

__extension__ using Wide = unsigned __int128;  // a time times a column

constexpr std::int64_t kNothing = std::numeric_limits<std::int64_t>::min();

// from + (to − from) × part / parts without overflow and without rounding a column away.
std::int64_t split(SimTime from, SimTime to, int part, int parts) {
  const auto span = static_cast<Wide>((to - from).value());
  return from.value() + static_cast<std::int64_t>(span * static_cast<unsigned>(part) / static_cast<unsigned>(parts));
}

}  // namespace

std::int64_t total_of(const Stack& stack) { return std::accumulate(stack.begin(), stack.end(), std::int64_t{0}); }

void StackedSeries::reserve(std::size_t events) {
  times_ns_.reserve(events);
  deltas_bytes_.reserve(events);
  categories_.reserve(events);
  before_block_.reserve(events / kBlock + 1);
}

void StackedSeries::add(SimTime time, Category category, std::int64_t delta_bytes) {
  assert(times_ns_.empty() || time.value() >= times_ns_.back());
  if (times_ns_.size() % kBlock == 0) before_block_.push_back(last_);
  times_ns_.push_back(time.value());
  deltas_bytes_.push_back(delta_bytes);
  categories_.push_back(static_cast<std::uint8_t>(category));
  last_[static_cast<std::size_t>(category)] += delta_bytes;
  has_[static_cast<std::size_t>(category)] |= delta_bytes != 0;
}

void StackedSeries::finish(SimTime end) {
  end_ = times_ns_.empty() ? end : std::max(end, SimTime(times_ns_.back()));
  pyramid_.assign(1, {});
  for (std::size_t begin = 0; begin < size(); begin += kBlock) {
    Highest best{kNothing, 0};
    consider(best, begin, std::min(begin + kBlock, size()));
    pyramid_.front().push_back(best);
  }
  while (pyramid_.back().size() > 1) {
    const std::vector<Highest>& below = pyramid_.back();
    std::vector<Highest> level;
    for (std::size_t i = 0; i < below.size(); i += 2)
      level.push_back(i + 1 < below.size() && below[i + 1].total_bytes > below[i].total_bytes ? below[i + 1] : below[i]);
    pyramid_.push_back(std::move(level));
  }
}

Stack StackedSeries::stack_after(std::size_t event) const {
  Stack stack = before_block_[event / kBlock];
  for (std::size_t i = event / kBlock * kBlock; i <= event; ++i) stack[categories_[i]] += deltas_bytes_[i];
  return stack;
}

void StackedSeries::consider(Highest& best, std::size_t begin, std::size_t end) const {
  std::int64_t total = total_of(before_block_[begin / kBlock]);
  for (std::size_t i = begin / kBlock * kBlock; i < begin; ++i) total += deltas_bytes_[i];
  for (std::size_t i = begin; i < end; ++i) {
    total += deltas_bytes_[i];
    if (total > best.total_bytes) best = {total, static_cast<std::uint32_t>(i)};
  }
}

std::size_t StackedSeries::highest(std::size_t begin, std::size_t end) const {
  assert(begin < end && end <= size());
  Highest best{kNothing, 0};
  const std::size_t first_whole = std::min((begin + kBlock - 1) / kBlock * kBlock, end);
  if (begin < first_whole) consider(best, begin, first_whole);
  std::size_t block = first_whole / kBlock;
  const std::size_t block_end = end / kBlock;
  while (block < block_end) {
    std::size_t level = 0;
    while (level + 1 < pyramid_.size() && block % (std::size_t{2} << level) == 0 && block + (std::size_t{2} << level) <= block_end) ++level;
    const Highest& node = pyramid_[level][block >> level];
    if (node.total_bytes > best.total_bytes) best = node;
    block += std::size_t{1} << level;
  }
  const std::size_t tail = std::max(block_end * kBlock, first_whole);
  if (tail < end) consider(best, tail, end);
  return best.event;
}

std::size_t StackedSeries::first_at(SimTime time) const {
  return static_cast<std::size_t>(std::lower_bound(times_ns_.begin(), times_ns_.end(), time.value()) - times_ns_.begin());
}

std::size_t StackedSeries::last_at(SimTime time) const {
  const auto after = std::upper_bound(times_ns_.begin(), times_ns_.end(), time.value()) - times_ns_.begin();
  return after == 0 ? 0 : static_cast<std::size_t>(after - 1);
}

std::vector<StackedSeries::Column> StackedSeries::columns(SimTime from, SimTime to, int width) const {
  assert(from < to && width > 0 && !empty());
  std::vector<Column> out(static_cast<std::size_t>(width));
  std::size_t begin = first_at(from);
  for (int c = 0; c < width; ++c) {
    // The last stretch is closed, so that what happens at the very end of the step is in the picture.
    const bool last = c + 1 == width;
    const std::int64_t until = split(from, to, c + 1, width);
    const auto from_begin = times_ns_.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto stop = last ? std::upper_bound(from_begin, times_ns_.end(), until) : std::lower_bound(from_begin, times_ns_.end(), until);
    const auto end = static_cast<std::size_t>(stop - times_ns_.begin());
    Column& column = out[static_cast<std::size_t>(c)];
    const std::size_t carried = begin == 0 ? 0 : begin - 1;
    if (carried < end || begin > 0) {
      column.event = carried < end ? highest(carried, end) : carried;
      column.stack = stack_after(column.event);
      column.total_bytes = total_of(column.stack);
    }
    begin = end;
  }
  return out;
}

}  // namespace zeroplan::gui
