#include "planner/core/torch_release.h"

#include <regex>
#include <string>

namespace zeroplan {

bool is_before(std::string_view torch, TorchChange change) {
  static const std::regex kDate(R"((20\d\d)-(\d\d)(?:-(\d\d))?)"), kCompact(R"(dev(20\d\d)(\d\d)(\d\d))"), kVersion(R"((?:^|[^\d.])(\d)\.(\d+))");
  const std::string text(torch);
  std::smatch found;
  if (std::regex_search(text, found, kDate) || std::regex_search(text, found, kCompact)) {
    const int day = found[3].matched ? std::stoi(found[3]) : 1;
    return std::stoi(found[1]) * 10000 + std::stoi(found[2]) * 100 + day < change.day;
  }
  if (!std::regex_search(text, found, kVersion)) return false;
  const int major = std::stoi(found[1]);
  return major < 2 || (major == 2 && std::stoi(found[2]) < change.minor);
}

}  // namespace zeroplan
