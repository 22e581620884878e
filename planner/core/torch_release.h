// Which PyTorch a question means: text such as "2.5", "2.8.0a0+5228986c39 (NVIDIA 25.05)", "nightly 2024-12-23 (1963fc8)", "2024-04/05".
#pragma once

#include <string_view>

namespace zeroplan {

/// A release of PyTorch 2 and the day from which nightlies had what it brought.
struct TorchChange {
  int minor = 0;  ///< 2.minor
  int day = 0;    ///< 20250801
};

/// Whether the text means a PyTorch from before the change. A date counts before a version; a text that says neither, or nothing, means the newest.
bool is_before(std::string_view torch, TorchChange change);

}  // namespace zeroplan
