// Sizes, times, rates and counts for people.
#include "planner/core/format.h"

#include <array>
#include <cctype>
#include <cmath>
#include <cstdint>

#include <fmt/format.h>

namespace zeroplan {

namespace {

__extension__ using Wide = __int128;  // the digits of a size times its unit

constexpr double kKib = 1024.0, kMib = 1024.0 * kKib, kGib = 1024.0 * kMib;

/// Three significant digits without an exponent: 1.52, 12.3, 843, 4321.
std::string three_digits(double value) {
  if (value < 9.995) return fmt::format("{:.2f}", value);
  if (value < 99.95) return fmt::format("{:.1f}", value);
  return fmt::format("{:.0f}", value);
}

}  // namespace

std::string format_gib(Bytes bytes) {
  const double value = static_cast<double>(bytes.value());
  const double size = std::fabs(value);
  if (size >= 0.1 * kGib) return fmt::format("{:.2f} GiB", value / kGib);
  if (size >= kMib) return fmt::format("{:.1f} MiB", value / kMib);
  if (size >= kKib) return fmt::format("{:.1f} KiB", value / kKib);
  return fmt::format("{} B", bytes.value());
}

std::string format_seconds(double s) {
  if (!std::isfinite(s)) return fmt::format("{} s", s);
  const double size = std::fabs(s);
  const char* sign = s < 0 ? "-" : "";
  if (size == 0) return "0 s";
  if (size >= 0.9995) return fmt::format("{}{} s", sign, three_digits(size));  // what rounds to 1000 ms is 1.00 s
  if (size >= 0.9995e-3) return fmt::format("{}{} ms", sign, three_digits(size * 1e3));
  if (size >= 0.9995e-6) return fmt::format("{}{} us", sign, three_digits(size * 1e6));
  return fmt::format("{}{} ns", sign, three_digits(size * 1e9));
}

std::string format_bandwidth(double bytes_per_s) {
  if (std::fabs(bytes_per_s) >= 0.1e9) return fmt::format("{:.1f} GB/s", bytes_per_s / 1e9);
  return fmt::format("{:.1f} MB/s", bytes_per_s / 1e6);
}

std::string format_count(double count) {
  const double size = std::fabs(count);
  if (size >= 999.995e9) return fmt::format("{:.2f} T", count / 1e12);
  if (size >= 999.95e6) return fmt::format("{:.2f} B", count / 1e9);
  if (size >= 999.95e3) return fmt::format("{:.1f} M", count / 1e6);
  if (size >= 9999.5) return fmt::format("{:.1f} k", count / 1e3);
  return fmt::format("{:.0f}", count);
}

namespace {

std::optional<std::int64_t> unit_bytes(std::string_view unit) {
  struct Unit {
    std::string_view name;
    std::int64_t bytes;
  };
  static constexpr std::array<Unit, 10> kUnits{{{"", 1}, {"b", 1}, {"kib", 1LL << 10}, {"mib", 1LL << 20}, {"gib", 1LL << 30}, {"tib", 1LL << 40},
                                                {"kb", 1'000}, {"mb", 1'000'000}, {"gb", 1'000'000'000}, {"tb", 1'000'000'000'000}}};
  std::string lower;
  for (const char c : unit) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const Unit& known : kUnits)
    if (known.name == lower) return known.bytes;
  return std::nullopt;
}

}  // namespace

std::optional<Bytes> parse_bytes(std::string_view text) {
  // Decimal digits only ("1e3", "0x10" and "nan" are not sizes), kept exactly: value = digits / 10^decimals.
  Wide digits = 0;
  Wide scale = 1;
  std::size_t at = 0;
  bool point = false, any = false;
  constexpr Wide kLargest = Wide{1} << 62;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '.' && !point) {
      point = true;
    } else if (c >= '0' && c <= '9') {
      any = true;
      digits = digits * 10 + (c - '0');
      if (point) scale *= 10;
      if (digits > kLargest || scale > kLargest) return std::nullopt;
    } else {
      break;
    }
  }
  if (!any) return std::nullopt;
  while (at < text.size() && text[at] == ' ') ++at;
  const std::optional<std::int64_t> unit = unit_bytes(text.substr(at));
  if (!unit) return std::nullopt;
  const Wide bytes = digits * *unit / scale;
  if (bytes < 1 || bytes > INT64_MAX) return std::nullopt;
  return Bytes(static_cast<std::int64_t>(bytes));
}

}  // namespace zeroplan
