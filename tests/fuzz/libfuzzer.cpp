// One target as a libFuzzer program: ZEROPLAN_FUZZ_TARGET names it.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace zeroplan::fuzz;
  static const Target* const target = [] {
    for (const Target& t : targets())
      if (std::string_view(t.name) == ZEROPLAN_FUZZ_TARGET) return &t;
    return static_cast<const Target*>(nullptr);
  }();
  target->run({reinterpret_cast<const char*>(data), size});
  return 0;
}
