// What the question's keys (plan.cpp) and DeepSpeed's (deepspeed_options.cpp) share: accepted ranges and small readers. Not for others.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "planner/core/json_fields.h"
#include "planner/core/plan.h"

namespace zeroplan::plan_detail {

inline constexpr IntegerRange kStage{0, 3};
inline constexpr NumberRange kClipNorm{0, 1e9};
inline constexpr NumberRange kRatio{0, 1};
inline constexpr std::array<std::string_view, 3> kOffloadNames{"none", "cpu", "nvme"};

/// The whole of a text as a number; nullopt if there is anything else in it.
template <class Number>
std::optional<Number> parse_whole(const std::string& text) {
  Number out{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return out;
}

template <class Choice, std::size_t N>
nlohmann::json name_in(const std::array<std::string_view, N>& names, Choice choice) {
  return names[static_cast<std::size_t>(choice)];
}

template <std::size_t N>
bool holds(const std::array<std::string_view, N>& keys, std::string_view key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

/// What follows from the others is stored as unset, so that equal questions are equal.
template <class Of>
std::optional<Of> unless_implied(Of said, Of implied) {
  return said == implied ? std::nullopt : std::optional(said);
}

}  // namespace zeroplan::plan_detail
