#include "profiles/question_words.h"

#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/deepspeed_json.h"
#include "planner/core/format.h"
#include "planner/core/json_fields.h"
#include "profiles/catalog.h"

namespace zeroplan {
namespace {

bool is_file(const std::string& argument) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(argument, ignored);
}

}  // namespace

void set_key_word(Question& question, const std::string& key, const std::string& value) {
  try {
    set_key(question, key, value == "null" ? nlohmann::json(nullptr) : nlohmann::json(value), "command line");
  } catch (const InputError& error) {  // typed wrong: a usage error, whatever set_key calls it
    throw WordError(key, error.what());
  }
}

bool is_plan_file(const std::string& argument) {
  if (!is_file(argument)) return false;
  const nlohmann::json json = read_json_file(argument);
  return json.is_object() && json.value("format", nlohmann::json()) == "zeroplan-plan";
}

Cluster load_cluster(const std::string& argument) {
  if (is_file(argument)) return cluster_from_json(read_json_file(argument), argument);
  return cluster_from_name(argument);
}

const std::string* QuestionWords::typed(const std::string& key) const {
  const auto it = keys.find(key);
  return it == keys.end() ? nullptr : &it->second;
}

bool QuestionWords::has_deepspeed_file() const {
  const std::string* value = typed("deepspeed");
  return value != nullptr && !value->empty() && value->front() != '{';
}

bool QuestionWords::names_engine() const { return typed("engine") || typed("preset") || has_deepspeed_file() || is_plan_file(model); }

/// MODEL and --on, or a plan.
Question QuestionWords::base() const {
  Question question;
  if (is_plan_file(model)) {
    question = plan_from_json(read_json_file(model), model);
    if (!on.empty()) question.cluster = load_cluster(on);
  } else {
    if (on.empty()) throw WordError("on", "--on is missing: name the cluster, as --on 8xa100-80g (zeroplan list gpus)");
    question = default_question(load_model(model), load_cluster(on));
  }
  if (!host_memory.empty()) {
    question.cluster.host_bytes = parse_bytes(host_memory);
    if (!question.cluster.host_bytes) throw WordError("host_memory", fmt::format("--host-memory {} is not a size; write 1TB, 512GiB", host_memory));
  }
  return question;
}

/// Engine, tool and their defaults; every key that is typed wins afterwards. What a tool sets depends on the stage, so that comes first.
std::vector<DeepSpeedNote> QuestionWords::set_engine_defaults(Question& question, std::optional<Engine> engine) const {
  if (const std::string* stage = typed("stage")) set_key_word(question, "stage", *stage);
  if (const std::string* preset = typed("preset"); preset != nullptr && !engine) return apply_preset(question, *preset);
  if (has_deepspeed_file() && !engine) {
    set_engine(question, Engine::deepspeed);
    const std::string* tool = typed("tool");
    question.plan.tool = tool != nullptr ? *tool : "hf-trainer";  // who fills in "auto"
    return apply_deepspeed_text(question, read_text_file(*typed("deepspeed")), *typed("deepspeed"));
  }
  if (const std::string* named = typed("engine"); named != nullptr && !engine) {
    Question probe = question;
    set_key_word(probe, "engine", *named);
    engine = probe.plan.engine;
  }
  const std::string* offload = typed("offload_optimizer");
  if (engine) choose_engine(question, *engine, offload != nullptr && *offload != "none");
  return {};
}

/// In the table's order, so that checkpoint=full means the layers that num_layers says.
void QuestionWords::set_keys(Question& question) const {
  for (const QuestionKey& key : question_keys()) {
    if (key.name == "engine" || key.name == "preset" || (key.name == "deepspeed" && has_deepspeed_file())) continue;
    if (const std::string* value = typed(std::string(key.name))) set_key_word(question, std::string(key.name), *value);
  }
  for (const std::string& assignment : set) {
    const std::size_t equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0) throw UsageError(fmt::format("--set {} is not key=value", assignment));
    set_key_word(question, assignment.substr(0, equals), assignment.substr(equals + 1));
  }
}

Question QuestionWords::question_on(std::optional<Engine> engine) const {
  Question question = base();
  const nlohmann::json planned_checkpoint = get_key(question, "checkpoint");
  set_engine_defaults(question, engine);
  if (is_plan_file(model)) set_key(question, "checkpoint", planned_checkpoint, model);  // a plan says it; a preset only supposes it
  set_keys(question);
  if (engine == Engine::ddp || engine == Engine::single) question.plan.stage = 0;  // asked of another engine
  check_question(question);
  return question;
}

std::vector<DeepSpeedNote> QuestionWords::deepspeed_notes() const {
  Question question = base();
  return has_deepspeed_file() ? set_engine_defaults(question, std::nullopt) : std::vector<DeepSpeedNote>{};
}

Question asked_or_usual(const QuestionWords& words) {
  if (words.names_engine() || words.cluster().device.kind == DeviceKind::cpu) return words.question();
  return words.question_on(Engine::deepspeed);
}

}  // namespace zeroplan
