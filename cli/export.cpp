#include "planner/export/export.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "cli/commands.h"

namespace zeroplan::cli {
namespace {

ExportTarget target_named(const std::string& name) {
  for (const ExportTarget target : {ExportTarget::accelerate, ExportTarget::xtuner})
    if (name == name_of(target)) return target;
  return ExportTarget::deepspeed;
}

/// "runs/job.yaml" -> "runs/job_deepspeed.json".
std::string deepspeed_file_beside(const std::string& out) {
  const std::filesystem::path path(out);
  return (path.parent_path() / (path.stem().string() + "_deepspeed.json")).string();
}

void warn(const Export& exported) {
  for (const ExportWarning& warning : exported.warnings) fmt::print(stderr, "zeroplan: {}: {}\n", warning.key, warning.text);
}

}  // namespace

int export_plan(const ExportCommandOptions& options) {
  ExportOptions wanted;
  wanted.nvme_path = options.nvme_path;
  if (!options.out.empty()) wanted.deepspeed_file = deepspeed_file_beside(options.out);
  Export exported = export_to(target_named(options.to), asked_or_usual(options.question), wanted);
  if (options.out.empty() && !exported.deepspeed_text.empty())
    exported.warnings.push_back({wanted.deepspeed_file, "the DeepSpeed JSON that the file names is written with -o FILE only"});
  warn(exported);
  if (options.out.empty()) {
    fmt::print("{}", exported.text);
    return 0;
  }
  if (!exported.deepspeed_text.empty()) {
    write_file_atomically(wanted.deepspeed_file, exported.deepspeed_text);
    fmt::print("wrote {}\n", wanted.deepspeed_file);
  }
  write_file_atomically(options.out, exported.text);
  fmt::print("wrote {}\n", options.out);
  return 0;
}

}  // namespace zeroplan::cli
