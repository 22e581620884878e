// A plan in the words of the tools that people train with: a DeepSpeed JSON, an Accelerate YAML, an XTuner (v0.1) Python configuration.
// Every value is written out, defaults too: they differ between versions of these tools, and a plan is exact. What a target cannot say is a warning
// (text for people, key of planner/core/plan.h); where leaving it out would make another job of it, export refuses with UsageError and a remedy.
// Leaves out writing files and the training script itself: model, data and, mostly, the optimizer are made there.
//
// Engines: deepspeed goes to all three; fsdp2, ddp and single to Accelerate. A plan of our own engine becomes the nearest DeepSpeed setting of its stage, with a
// warning for each choice that DeepSpeed has not (kept tensors, some blocks recomputed, chunks of the loss).
// Who makes the optimizer: a DeepSpeed JSON has an `optimizer` block only where DeepSpeed's own is asked for, that is where no tool is named and the kernel is
// fused (FusedAdam) or, with the optimizer offloaded, cpu (DeepSpeedCPUAdam). Otherwise torch's comes from the caller: zero_allow_untested_optimizer is true then, and
// zero_force_ds_cpu_optimizer false unless the kernel is cpu (Accelerate exchanges torch's AdamW for DeepSpeedCPUAdam where it is true).
// Source of keys and defaults: DeepSpeed 0.19.8 runtime/config.py, runtime/zero/config.py, offload_config.py, precision_config.py; Accelerate 1.15.0
// commands/config/config_args.py, commands/launch.py, utils/dataclasses.py; XTuner tools/train.py and model/sft.py at b934f46. tests/data/export_accepted.json has
// what the real parsers made of such files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "planner/core/plan.h"

namespace zeroplan {

/// What the target cannot say, or what its user must still say elsewhere.
struct ExportWarning {
  std::string key;   ///< of the question; of the target where the question has none (main_process_ip)
  std::string text;  ///< a sentence for people
  friend bool operator==(const ExportWarning&, const ExportWarning&) = default;
};

struct Export {
  std::string text;            ///< the file, whole
  std::string deepspeed_text;  ///< the DeepSpeed JSON that the file is used with; empty if none
  std::vector<ExportWarning> warnings;
};

struct ExportOptions {
  std::string deepspeed_file = "deepspeed.json";  ///< by what name an Accelerate or XTuner file calls its DeepSpeed JSON
  std::string nvme_path;                          ///< directory for what is offloaded to NVMe; empty: none
};

enum class ExportTarget : std::uint8_t { deepspeed, accelerate, xtuner };
std::string_view name_of(ExportTarget target);

// Each throws UsageError for a question that the target cannot run: another engine, NVMe without a path, what DeepSpeed refuses or drops in silence.
Export deepspeed_config(const Question& question, const ExportOptions& options = {});
Export accelerate_config(const Question& question, const ExportOptions& options = {});
Export xtuner_config(const Question& question, const ExportOptions& options = {});

Export export_to(ExportTarget target, const Question& question, const ExportOptions& options = {});

}  // namespace zeroplan
