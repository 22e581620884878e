// What is fuzzed: every reader of what people, files and other programs write. A target takes any bytes. It may refuse them with one of the project's own exceptions
// (planner/core/error.h, OverflowError); what it accepts must survive being written and read, and where that is cheap be predicted.
// Anything else ends the process: a violated promise throws std::logic_error, a crash or a sanitizer's report speaks for itself.
// Leaves out where bytes come from: libfuzzer.cpp (clang's libFuzzer), smoke_test.cpp (a corpus and its mutations, with any compiler).
#pragma once

#include <span>
#include <string_view>

namespace zeroplan::fuzz {

struct Target {
  const char* name;    ///< folder of its corpus
  const char* more;    ///< another folder of seeds, from the project's root; empty if none
  void (*run)(std::string_view bytes);
};

std::span<const Target> targets();

}  // namespace zeroplan::fuzz
