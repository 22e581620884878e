#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "cli/commands.h"
#include "cli/executor_process.h"
#include "planner/core/error.h"

namespace zeroplan::cli {

int gui(const std::vector<std::string>& words) {
  const std::optional<std::string> path = program_path("zeroplan-gui");
  if (!path) throw EnvironmentError("zeroplan-gui is not built: apt install qt6-base-dev, then configure and build again");
  const auto set = [](const char* name) { const char* value = std::getenv(name); return value != nullptr && *value != 0; };
  if (!set("DISPLAY") && !set("WAYLAND_DISPLAY") && !set("QT_QPA_PLATFORM"))
    throw EnvironmentError("no display can be used here. `zeroplan timeline MODEL --on CLUSTER -o step.html` writes the picture as a page for a browser; or write a plan with zeroplan fit --save plan.json and open it on your own machine: zeroplan gui plan.json");
  std::vector<char*> argv{const_cast<char*>(path->c_str())};
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  throw EnvironmentError(fmt::format("cannot start {}: {}", *path, std::strerror(errno)));
}

}  // namespace zeroplan::cli
