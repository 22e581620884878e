// What the three targets share: the question as DeepSpeed would be asked it, the JSON that says it, and warnings for what is said elsewhere. Internal to planner/export.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "planner/export/export.h"

namespace zeroplan {

using Warnings = std::vector<ExportWarning>;

/// The question put to DeepSpeed: itself, or for a plan of our own engine the nearest setting, with warnings. Throws UsageError for other engines; `target` is in its words.
Question as_deepspeed(const Question& question, ExportTarget target, Warnings& warnings);

/// The DeepSpeed JSON of a question of that engine. Throws UsageError for what DeepSpeed refuses, or accepts and does not do.
nlohmann::ordered_json deepspeed_json(const Question& question, const ExportOptions& options);
std::string deepspeed_text(const nlohmann::ordered_json& json);

/// Whether the JSON makes the optimizer (export.h, "Who makes the optimizer").
bool has_deepspeed_optimizer(const Question& question);

/// A warning for every choice of the question that is made in the training script, unless its key is one that the target says itself.
void warn_of_script(const Question& question, ExportTarget target, std::initializer_list<std::string_view> said, Warnings& warnings);

bool recomputes(const Question& question);      ///< any block
bool recomputes_all(const Question& question);  ///< every block, whole

/// A JSON string literal, which YAML and Python read alike. Never throws.
std::string string_literal(std::string_view text);

}  // namespace zeroplan
