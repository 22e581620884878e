#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>

namespace zeroplan::cli {
namespace {

std::string flag_name(std::string key) {
  std::replace(key.begin(), key.end(), '_', '-');
  return "--" + key;
}

}  // namespace

void QuestionFlags::add_to(CLI::App& command) {
  command.add_option("MODEL", model, "catalogue name (zeroplan list models), config.json or its directory, or a plan.json")->required();
  command.add_option("--on", on, "cluster: 8xa100-80g, 2x8xh100-80g, 2xcpu or a cluster file; a plan.json has its own");
  command.add_option("--host-memory", host_memory, "memory of one node, as 1TB; unknown unless said");
  for (const QuestionKey& key : question_keys()) {
    std::string names = flag_name(std::string(key.name));
    if (key.name == "stage") names += ",--zero";
    command.add_option_function<std::string>(names, [this, name = std::string(key.name)](const std::string& value) { keys[name] = value; },
                                             fmt::format("{} [{}]", key.help, key.values));
  }
  command.add_option("--set", set, "key=value for any key")->expected(1, -1);
}

std::string QuestionFlags::as_typed(const std::vector<std::pair<std::string, std::string>>& change) const {
  std::string out = model;
  if (!on.empty()) out += " --on " + on;
  std::map<std::string, std::string> changed = keys;
  for (const auto& [key, value] : change) changed[key] = value;
  for (const auto& [key, value] : changed) out += fmt::format(" {} {}", flag_name(key), value);
  for (const std::string& assignment : set) out += " --set " + assignment;
  return out;
}

}  // namespace zeroplan::cli
