// The one formatter of sizes, times, rates and counts for people. Capacity is shown in GiB, bandwidth in GB/s.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "planner/core/units.h"

namespace zeroplan {

std::string format_gib(Bytes bytes);      ///< "41.93 GiB"; below 0.1 GiB in MiB, below 1 MiB in KiB or B
std::string format_seconds(double s);     ///< "1.52 s", "843 ms", "12.3 us"
std::string format_bandwidth(double bytes_per_s);  ///< "235.0 GB/s"
std::string format_count(double count);   ///< "19.86 B", "7.6 M", "512"

/// "80GiB", "80GB", "76000MiB", "1TB", "512" (bytes). nullopt if it is not a size or not positive or overflows.
std::optional<Bytes> parse_bytes(std::string_view text);

}  // namespace zeroplan
