#include "planner/core/torch_release.h"

#include <catch2/catch.hpp>

using namespace zeroplan;

TEST_CASE("a PyTorch is told by date where there is one, else by version; unsaid is the newest", "[unit]") {
  constexpr TorchChange kFused{9, 20250801};
  for (const char* old : {"2.5", "2.8.0a0+5228986c39 (NVIDIA 25.05)", "nightly 2024-12-23 (1963fc8)", "2024-04/05", "1.13", "2.1 (NGC 23.09)", "2.4.0.dev20240324", "nightly, run of 2025-02-05", "2.0"})
    CHECK(is_before(old, kFused));
  for (const char* recent : {"2.11.0", "2.9", "nightly, 2025-10", "2.10.0.dev20251101", "", "main"}) CHECK_FALSE(is_before(recent, kFused));
  CHECK(is_before("nightly, run of 2024-06-05", {4, 20240612}));
  CHECK_FALSE(is_before("nightly, run of 2024-06-12", {4, 20240612}));
}
