// Strong units of the whole project: Bytes, SimTime and tagged ids.
// Bytes and SimTime refuse to overflow (they throw OverflowError), so a hostile size ends as a sentence and never as a
// wrapped number. Leaves out rates (bytes per second, flops per second): those are doubles whose names carry the unit.
#pragma once

#include <compare>
#include <cstdint>
#include <stdexcept>

namespace zeroplan {

/// A size or a time left the range of int64. Bad input by definition: no machine has 8 EiB or 292 years.
struct OverflowError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {
[[noreturn]] inline void overflow() { throw OverflowError("a size overflows 2^63: the model or batch is absurdly large"); }

/// An int64 with checked + - ×; Tag makes bytes and nanoseconds different types.
template <class Tag>
class Checked {
 public:
  constexpr Checked() = default;
  constexpr explicit Checked(std::int64_t value) : value_(value) {}
  constexpr std::int64_t value() const { return value_; }

  friend constexpr Checked operator+(Checked a, Checked b) {
    std::int64_t out = 0;
    if (__builtin_add_overflow(a.value_, b.value_, &out)) overflow();
    return Checked(out);
  }
  friend constexpr Checked operator-(Checked a, Checked b) {
    std::int64_t out = 0;
    if (__builtin_sub_overflow(a.value_, b.value_, &out)) overflow();
    return Checked(out);
  }
  friend constexpr Checked operator*(Checked a, std::int64_t times) {
    std::int64_t out = 0;
    if (__builtin_mul_overflow(a.value_, times, &out)) overflow();
    return Checked(out);
  }
  friend constexpr Checked operator*(std::int64_t times, Checked a) { return a * times; }
  constexpr Checked& operator+=(Checked b) { return *this = *this + b; }
  constexpr Checked& operator-=(Checked b) { return *this = *this - b; }
  friend constexpr auto operator<=>(Checked, Checked) = default;

 private:
  std::int64_t value_ = 0;
};
}  // namespace detail

using Bytes = detail::Checked<struct BytesTag>;      ///< a count of bytes; may be negative as a difference
using SimTime = detail::Checked<struct SimTimeTag>;  ///< nanoseconds; integer so that two runs are identical

/// a × b, checked. For element counts on their way to becoming Bytes.
constexpr std::int64_t checked_multiply(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  if (__builtin_mul_overflow(a, b, &out)) detail::overflow();
  return out;
}

/// Smallest multiple of `unit` that is ≥ value. value ≥ 0, unit > 0.
constexpr std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  std::int64_t out = 0;
  if (__builtin_add_overflow(value, unit - 1, &out)) detail::overflow();
  return out / unit * unit;
}

constexpr std::int64_t divide_up(std::int64_t value, std::int64_t unit) { return round_up(value, unit) / unit; }

constexpr double gib(Bytes bytes) { return static_cast<double>(bytes.value()) / (1024.0 * 1024.0 * 1024.0); }
constexpr double seconds(SimTime time) { return static_cast<double>(time.value()) * 1e-9; }

}  // namespace zeroplan
