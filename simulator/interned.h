// Tables that keep one copy of equal things and give each a small id: strings, frames, stacks of frames.
// Ids count from 0 in the order of first sight, so equal inputs give equal ids. Nothing is ever taken out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace zeroplan {

enum class StringId : std::uint32_t {};
enum class FrameId : std::uint32_t {};
enum class StackId : std::uint32_t {};

inline constexpr StackId kEmptyStack{0};

/// Open addressing from hash to number; the numbered things lie elsewhere.
class InternIndex {
 public:
  /// The number whose thing is `same`, if one was added with this hash.
  template <class Same>
  std::optional<std::uint32_t> find(std::uint64_t hash, Same&& same) const {
    if (slots_.empty()) return std::nullopt;
    const std::uint32_t tag = tag_of(hash);
    for (std::size_t i = tag & mask();; i = (i + 1) & mask()) {
      if (slots_[i].number_plus_1 == 0) return std::nullopt;
      if (slots_[i].tag == tag && same(slots_[i].number_plus_1 - 1)) return slots_[i].number_plus_1 - 1;
    }
  }

  void add(std::uint64_t hash, std::uint32_t number) {
    if (2 * (used_ + 1) > slots_.size()) grow();
    place({tag_of(hash), number + 1});
    ++used_;
  }

 private:
  struct Slot {
    std::uint32_t tag = 0, number_plus_1 = 0;
  };

  static std::uint32_t tag_of(std::uint64_t hash) { return static_cast<std::uint32_t>(hash ^ (hash >> 32)); }
  std::size_t mask() const { return slots_.size() - 1; }
  void place(Slot slot) {
    std::size_t i = slot.tag & mask();
    while (slots_[i].number_plus_1 != 0) i = (i + 1) & mask();
    slots_[i] = slot;
  }
  void grow() {
    std::vector<Slot> old(slots_.empty() ? 64 : 2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.number_plus_1 != 0) place(slot);
  }

  std::vector<Slot> slots_;
  std::size_t used_ = 0;
};

class StringTable {
 public:
  StringId intern(std::string_view text) {
    const std::uint64_t hash = std::hash<std::string_view>{}(text);
    if (const auto found = index_.find(hash, [&](std::uint32_t i) { return texts_[i] == text; })) return StringId{*found};
    const auto number = static_cast<std::uint32_t>(texts_.size());
    texts_.emplace_back(text);
    index_.add(hash, number);
    return StringId{number};
  }
  const std::string& operator[](StringId id) const { return texts_[static_cast<std::size_t>(id)]; }
  std::size_t size() const { return texts_.size(); }

 private:
  std::vector<std::string> texts_;
  InternIndex index_;
};

/// One line of a stack trace; names are ids of the StringTable beside it.
struct Frame {
  StringId function{}, file{};
  std::int64_t line = 0;
  friend bool operator==(const Frame&, const Frame&) = default;
};

/// Frames and stacks (innermost frame first). kEmptyStack is always there.
class StackTable {
 public:
  FrameId intern_frame(const Frame& frame) {
    const std::uint64_t names = mix(mix(0, static_cast<std::uint64_t>(frame.function)), static_cast<std::uint64_t>(frame.file));
    const std::uint64_t hash = mix(names, static_cast<std::uint64_t>(frame.line));
    if (const auto found = frame_index_.find(hash, [&](std::uint32_t i) { return frames_[i] == frame; })) return FrameId{*found};
    const auto number = static_cast<std::uint32_t>(frames_.size());
    frames_.push_back(frame);
    frame_index_.add(hash, number);
    return FrameId{number};
  }

  StackId intern_stack(std::span<const FrameId> stack) {
    if (stack.empty()) return kEmptyStack;
    std::uint64_t hash = stack.size();
    for (const FrameId frame : stack) hash = mix(hash, static_cast<std::uint64_t>(frame));
    const auto same = [&](std::uint32_t i) {
      const std::span<const FrameId> other = frames_of(StackId{i});
      return other.size() == stack.size() && std::equal(other.begin(), other.end(), stack.begin());
    };
    if (const auto found = stack_index_.find(hash, same)) return StackId{*found};
    const auto number = static_cast<std::uint32_t>(stack_ends_.size());
    stacked_.insert(stacked_.end(), stack.begin(), stack.end());
    stack_ends_.push_back(stacked_.size());
    stack_index_.add(hash, number);
    return StackId{number};
  }

  std::span<const FrameId> frames_of(StackId id) const {
    const auto i = static_cast<std::size_t>(id);
    const std::size_t begin = i == 0 ? 0 : stack_ends_[i - 1];
    return {stacked_.data() + begin, stack_ends_[i] - begin};
  }
  const Frame& operator[](FrameId id) const { return frames_[static_cast<std::size_t>(id)]; }
  std::size_t frame_count() const { return frames_.size(); }
  std::size_t stack_count() const { return stack_ends_.size(); }

 private:
  static std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
    return hash ^ (hash >> 32);
  }

  std::vector<Frame> frames_;
  std::vector<FrameId> stacked_;
  std::vector<std::size_t> stack_ends_ = {0};  ///< stack i is what of stacked_ lies before its end and after the end of i − 1
  InternIndex frame_index_, stack_index_;
};

}  // namespace zeroplan
