// Suggestions for misspelt names: "did you mean". One edit distance for keys, models and GPUs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace zeroplan {

/// Insertions, deletions and substitutions of characters that turn a into b, ignoring case.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// Up to `most` of the names nearest to what was asked, nearest first (ties in the order given). A name that contains what was asked
/// counts as near; names with little in common are left out, so the result may be empty.
std::vector<std::string_view> nearest_names(const std::vector<std::string_view>& names, std::string_view asked, std::size_t most);

/// "Did you mean seq?" or "Did you mean a, b or c?"; empty if nothing is near.
std::string did_you_mean(const std::vector<std::string_view>& names, std::string_view asked, std::size_t most = 1);

}  // namespace zeroplan
