// The catalogue: models, devices and presets that zeroplan knows by name, embedded in the program. Names are matched without regard to case.
// Leaves out what the JSON means: planner/core reads it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "planner/core/cluster.h"
#include "planner/core/deepspeed_json.h"
#include "planner/core/model.h"
#include "planner/core/plan.h"
#include "planner/core/question_row.h"

namespace zeroplan {

std::vector<std::string_view> model_names();   ///< sorted
std::vector<std::string_view> device_names();  ///< sorted
std::vector<std::string_view> preset_names();  ///< sorted

/// The text of a model's config.json or a device's profile; nullopt if there is none of that name.
std::optional<std::string_view> model_config_text(std::string_view name);
std::optional<std::string_view> device_text(std::string_view name);
std::optional<std::string_view> preset_text(std::string_view name);

/// The name of `names` nearest to what was asked; nullopt if none is near.
std::optional<std::string_view> nearest_name(const std::vector<std::string_view>& names, std::string_view asked);

/// By catalogue name. Throw UsageError with the nearest names.
Model catalogue_model(std::string_view name);
DeviceProfile catalogue_device(std::string_view name);

/// "8xa100-80g", "2x8xh100-80g", "2xcpu": a catalogue device, and between nodes the network below. Throws UsageError with what is
/// accepted and the nearest names.
Cluster cluster_from_name(const std::string& text);

/// Between nodes where only a name is given and its profile has no usual port: 400 Gb/s a GPU at 90 % (what published H100 clusters have); for a CPU 10 Gb/s.
/// A cluster file says otherwise. The latency is one of each step of a ring between nodes: 14 µs in NCCL's own model (src/graph/tuning.cc).
inline constexpr double kDefaultNetworkBytesPerS = 45e9;
inline constexpr double kDefaultCpuNetworkBytesPerS = 1.1e9;
inline constexpr double kDefaultNetworkLatencyS = 15e-6;

/// A catalogue name, else the path of a config.json or of a directory that holds one. Throws UsageError with the nearest names if it is
/// neither, InputError if the file is wrong.
Model load_model(const std::string& argument);

/// Sets what a tool sets where its user says nothing: engine, tool, versions, checkpointing, optimizer kernel and the tool's DeepSpeed JSON ("auto" by the
/// question's model). Keys set afterwards win. What the JSON has to be said of is in the notes. Throws UsageError with the nearest names.
/// A file of profiles/presets/: {"_source", "question": {keys of set_key}, "deepspeed": {a DeepSpeed JSON}}.
std::vector<DeepSpeedNote> apply_preset(Question& question, std::string_view name);

/// Makes `engine` the engine as most people meet it at the question's stage: DeepSpeed as XTuner sets it (its offload file where the optimizer is to be offloaded), FSDP2 as
/// Accelerate does, ours and DDP by their own defaults. Throws UsageError where that engine has no such stage.
void choose_engine(Question& question, Engine engine, bool offload_optimizer = false);

/// Rows of a question file with the catalogue's models, devices and network.
std::vector<QuestionRow> rows_from_json(const nlohmann::json& json, const std::string& file);

}  // namespace zeroplan
