// The small family of exceptions for bad input and broken machines. An expected no (does not fit, not divisible) is a
// value with a reason and never one of these; our own mistake is an assert. main and a rank's top function catch them
// and turn each into its exit code (docs: README, "Exit codes").
#pragma once

#include <stdexcept>
#include <string>

namespace zeroplan {

/// The words of the command line are wrong: unknown flag, value out of range, options that exclude each other. Exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A file or JSON text is wrong. Exit code 3. what() reads "FILE: PLACE: PROBLEM. REMEDY".
struct InputError : std::runtime_error {
  InputError(const std::string& file, const std::string& place, const std::string& problem, const std::string& remedy)
      : std::runtime_error(file + ": " + (place.empty() ? "" : place + ": ") + problem + (remedy.empty() ? "" : ". " + remedy)) {}
};

/// Something this machine lacks: the executor program, a device, memory of the machine itself. Exit code 4.
struct EnvironmentError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A run that had started failed: dead or stuck rank, NaN, full disk. Exit code 5.
struct RunError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace zeroplan
