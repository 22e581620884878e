#include <fmt/format.h>

#include <cstdio>

#include "cli/commands.h"
#include "planner/core/error.h"
#include "planner/core/nearest.h"
#include "planner/export/export.h"

namespace zeroplan::cli {
namespace {

ExportTarget target_of(const std::string& text) {
  std::vector<std::string_view> names;
  for (const ExportTarget target : {ExportTarget::deepspeed, ExportTarget::accelerate, ExportTarget::xtuner}) {
    if (text == name_of(target)) return target;
    names.push_back(name_of(target));
  }
  throw UsageError(fmt::format("--to {}: is not known. {}. Accepted: deepspeed, accelerate, xtuner", text, did_you_mean(names, text)));
}

}  // namespace

int export_to(const ExportOptions& options) {
  const ExportTarget target = target_of(options.to);
  const Exported exported = export_plan(asked_or_usual(options.question), target);
  for (const ExportWarning& warning : exported.warnings) fmt::print(stderr, "zeroplan: {}: {}\n", warning.key, warning.text);
  if (options.out.empty()) fmt::print("{}", exported.text);
  else write_file_atomically(options.out, exported.text);
  return 0;
}

}  // namespace zeroplan::cli
