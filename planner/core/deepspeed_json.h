// A DeepSpeed JSON file as the answer to "what will DeepSpeed make of this": its settings go into the question, what it refuses is an InputError, and what it
// accepts without a word (unknown top-level keys, "auto" in zero_optimization, offload_param below stage 3, old spellings, trailing commas) becomes a note.
// Behaviour of DeepSpeed 0.19.8: runtime/config.py, runtime/zero/config.py, runtime/precision_config.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "planner/core/plan.h"

namespace zeroplan {

/// Reads the file's text (trailing commas allowed, duplicate keys refused) into the question, whose engine becomes deepspeed.
/// Batch keys: the file's numbers are taken, "auto" leaves the question's; micro × accumulation × data-parallel ranks must be train_batch_size.
/// A tool (question.plan.tool, set before) resolves "auto"; without one DeepSpeed's own rules hold. XTuner overwrites batch and clipping with its own.
std::vector<DeepSpeedNote> apply_deepspeed_text(Question& question, std::string_view text, const std::string& file);

/// The same for JSON that is parsed already (no notes on its form).
std::vector<DeepSpeedNote> apply_deepspeed_json(Question& question, const nlohmann::json& json, const std::string& file);

}  // namespace zeroplan
