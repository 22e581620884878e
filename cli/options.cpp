#include "cli/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/format.h"
#include "profiles/catalog.h"

namespace zeroplan::cli {
namespace {

std::string flag_name(std::string key) {
  std::replace(key.begin(), key.end(), '_', '-');
  return "--" + key;
}

bool is_file(const std::string& argument) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(argument, ignored);
}

// A word of the command line as the JSON value that set_key expects: quotes are not needed.
nlohmann::json value_of(const std::string& text) { return text == "null" ? nlohmann::json(nullptr) : nlohmann::json(text); }

// A key typed wrong on the command line is a usage error, whatever set_key calls it.
void set(Question& question, const std::string& key, const std::string& value) {
  try {
    set_key(question, key, value_of(value), "command line");
  } catch (const InputError& error) {
    throw UsageError(error.what());
  }
}

bool is_plan(const std::string& argument) {
  if (!is_file(argument)) return false;
  const nlohmann::json json = read_json_file(argument);
  return json.is_object() && json.value("format", nlohmann::json()) == "zeroplan-plan";
}

std::string read_text_file(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw InputError(file, "", "cannot be read", "Is it a DeepSpeed JSON file?");
  return {std::istreambuf_iterator<char>(in), {}};
}

Cluster load_cluster(const std::string& argument) {
  if (is_file(argument)) return cluster_from_json(read_json_file(argument), argument);
  return cluster_from_name(argument);
}

}  // namespace

void QuestionFlags::add_to(CLI::App& command) {
  command.add_option("MODEL", model, "catalogue name (zeroplan list models), config.json or its directory, or a plan.json")->required();
  command.add_option("--on", on, "cluster: 8xa100-80g, 2x8xh100-80g, 2xcpu or a cluster file; a plan.json has its own");
  command.add_option("--host-memory", host_memory, "memory of one node, as 1TB; unknown unless said");
  for (const QuestionKey& key : question_keys()) {
    std::string names = flag_name(std::string(key.name));
    if (key.name == "stage") names += ",--zero";
    command.add_option_function<std::string>(names, [this, name = std::string(key.name)](const std::string& value) { keys[name] = value; },
                                             fmt::format("{} [{}]", key.help, key.values));
  }
  command.add_option("--set", set, "key=value for any key")->expected(1, -1);
}

const std::string* QuestionFlags::typed(const std::string& key) const {
  const auto it = keys.find(key);
  return it == keys.end() ? nullptr : &it->second;
}

bool QuestionFlags::has_deepspeed_file() const {
  const std::string* value = typed("deepspeed");
  return value != nullptr && !value->empty() && value->front() != '{';
}

bool QuestionFlags::names_engine() const { return typed("engine") || typed("preset") || has_deepspeed_file() || is_plan(model); }

/// MODEL and --on, or a plan.
Question QuestionFlags::base() const {
  Question question;
  if (is_plan(model)) {
    question = plan_from_json(read_json_file(model), model);
    if (!on.empty()) question.cluster = load_cluster(on);
  } else {
    if (on.empty()) throw UsageError("--on is missing: name the cluster, as --on 8xa100-80g (zeroplan list gpus)");
    question = default_question(load_model(model), load_cluster(on));
  }
  if (!host_memory.empty()) {
    question.cluster.host_bytes = parse_bytes(host_memory);
    if (!question.cluster.host_bytes) throw UsageError(fmt::format("--host-memory {} is not a size; write 1TB, 512GiB", host_memory));
  }
  return question;
}

Cluster QuestionFlags::cluster() const { return base().cluster; }

/// Engine, tool and their defaults; every key that is typed wins afterwards. What a tool sets depends on the stage, so that comes first.
std::vector<DeepSpeedNote> QuestionFlags::set_engine_defaults(Question& question, std::optional<Engine> engine) const {
  if (const std::string* stage = typed("stage")) cli::set(question, "stage", *stage);
  if (const std::string* preset = typed("preset"); preset != nullptr && !engine) return apply_preset(question, *preset);
  if (has_deepspeed_file() && !engine) {
    set_engine(question, Engine::deepspeed);
    const std::string* tool = typed("tool");
    question.plan.tool = tool != nullptr ? *tool : "hf-trainer";  // who fills in "auto"
    return apply_deepspeed_text(question, read_text_file(*typed("deepspeed")), *typed("deepspeed"));
  }
  if (const std::string* named = typed("engine"); named != nullptr && !engine) {
    Question probe = question;
    cli::set(probe, "engine", *named);
    engine = probe.plan.engine;
  }
  const std::string* offload = typed("offload_optimizer");
  if (engine) choose_engine(question, *engine, offload != nullptr && *offload != "none");
  return {};
}

/// In the table's order, so that checkpoint=full means the layers that num_layers says.
void QuestionFlags::set_keys(Question& question) const {
  for (const QuestionKey& key : question_keys()) {
    if (key.name == "engine" || key.name == "preset" || (key.name == "deepspeed" && has_deepspeed_file())) continue;
    if (const std::string* value = typed(std::string(key.name))) cli::set(question, std::string(key.name), *value);
  }
  for (const std::string& assignment : set) {
    const std::size_t equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0) throw UsageError(fmt::format("--set {} is not key=value", assignment));
    cli::set(question, assignment.substr(0, equals), assignment.substr(equals + 1));
  }
}

Question QuestionFlags::question_on(std::optional<Engine> engine) const {
  Question question = base();
  const nlohmann::json planned_checkpoint = get_key(question, "checkpoint");
  set_engine_defaults(question, engine);
  if (is_plan(model)) set_key(question, "checkpoint", planned_checkpoint, model);  // a plan says it; a preset only supposes it
  set_keys(question);
  if (engine == Engine::ddp || engine == Engine::single) question.plan.stage = 0;  // asked of another engine
  check_question(question);
  return question;
}

std::vector<DeepSpeedNote> QuestionFlags::deepspeed_notes() const {
  Question question = base();
  return has_deepspeed_file() ? set_engine_defaults(question, std::nullopt) : std::vector<DeepSpeedNote>{};
}

std::string QuestionFlags::as_typed(const std::vector<std::pair<std::string, std::string>>& change) const {
  std::string out = model;
  if (!on.empty()) out += " --on " + on;
  std::map<std::string, std::string> changed = keys;
  for (const auto& [key, value] : change) changed[key] = value;
  for (const auto& [key, value] : changed) out += fmt::format(" {} {}", flag_name(key), value);
  for (const std::string& assignment : set) out += " --set " + assignment;
  return out;
}

Question asked_or_usual(const QuestionFlags& flags) {
  if (flags.names_engine() || flags.cluster().device.kind == DeviceKind::cpu) return flags.question();
  return flags.question_on(Engine::deepspeed);
}

}  // namespace zeroplan::cli
