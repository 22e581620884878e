#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/commands.h"
#include "cli/executor_process.h"
#include "planner/core/format.h"
#include "profiles/catalog.h"

namespace zeroplan::cli {
namespace {

struct Finding {
  std::string name, value, remedy;
  bool ok = true;
};

Bytes memory_available() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key, unit; meminfo >> key;) {
    std::int64_t kib = 0;
    meminfo >> kib;
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") return Bytes(kib) * 1024;
  }
  return Bytes();
}

// Asks the executor for its help: that loads libtorch and nothing else.
Finding executor() {
  const std::optional<std::string> path = executor_path();
  if (!path) return {"executor", "zeroplan-run is not built", "executor/get_torch.sh, then cmake --preset release and build again; fit, timeline and prove --no-run work without", false};
  int code = 70;
  try {
    code = run_executor({"--help"}, [](const std::string&) {});
  } catch (const std::exception& error) {
    return {"executor", error.what(), "executor/get_torch.sh, then build again", false};
  }
  return code == 0 ? Finding{"executor", *path + " starts", "", true} : Finding{"executor", fmt::format("{} ends with code {}", *path, code), "executor/get_torch.sh, then build again", false};
}

}  // namespace

int doctor(bool json) {
  const std::vector<Finding> findings{
      {"planner", fmt::format("{} models, {} devices in the catalogue", model_names().size(), device_names().size()), "", true},
      {"cores", std::to_string(std::thread::hardware_concurrency()), "", true},
      {"memory available", format_gib(memory_available()), "", true},
      executor(),
      {"GPU", ::access("/dev/nvidiactl", F_OK) == 0 ? "a driver is here; zeroplan-run has CPU ranks only so far" : "none; plans for GPUs are answered and proved, runs are on CPU ranks", "", true}};
  bool all = true;
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& f : findings) {
    all = all && f.ok;
    if (json) list.push_back({{"name", f.name}, {"ok", f.ok}, {"value", f.value}, {"remedy", f.remedy}});
    else fmt::print("{}  {:<18} {}{}\n", f.ok ? "ok  " : "MISS", f.name, f.value, f.remedy.empty() ? "" : "\n      " + f.remedy);
  }
  if (json) fmt::print("{}\n", nlohmann::json{{"format", "zeroplan-doctor"}, {"version", 1}, {"findings", list}}.dump(2));
  return all ? 0 : 4;
}

}  // namespace zeroplan::cli
