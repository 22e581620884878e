// The exit code of a program that an exception ends (README, "Exit codes"), for every main.
#pragma once

#include <string>

namespace zeroplan {

struct Failure {
  int code = 70;
  std::string message;
};

/// Of the exception that is being handled. Our own mistakes ask to be reported.
Failure current_failure();

}  // namespace zeroplan
