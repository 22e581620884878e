// Starts zeroplan-run, which lies beside this program, and hands its lines over as they come. A failure there never takes this program down.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace zeroplan::cli {

/// A program of ours beside this one or on PATH.
std::optional<std::string> program_path(const std::string& name);

/// Path of zeroplan-run beside this program or on PATH; nullopt where it is not installed.
std::optional<std::string> executor_path();

/// Runs it and calls `line` for each line of its stdout; its stderr is ours. Returns its exit code (5 if a signal ended it). An interrupt reaches both.
/// Throws EnvironmentError where it is not installed, saying how to get it.
int run_executor(const std::vector<std::string>& arguments, const std::function<void(const std::string&)>& line);

}  // namespace zeroplan::cli
