#include "cli/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
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

Question QuestionFlags::question() const {
  Question question;
  if (is_file(model)) {
    const nlohmann::json json = read_json_file(model);
    if (json.is_object() && json.value("format", nlohmann::json()) == "zeroplan-plan") {
      question = plan_from_json(json, model);
      if (!on.empty()) question.cluster = load_cluster(on);
    }
  }
  if (question.job.model.hidden_size == 0) {
    if (on.empty()) throw UsageError("--on is missing: name the cluster, as --on 8xa100-80g (zeroplan list gpus)");
    question = default_question(load_model(model), load_cluster(on));
  }
  if (!host_memory.empty()) {
    question.cluster.host_bytes = parse_bytes(host_memory);
    if (!question.cluster.host_bytes) throw UsageError(fmt::format("--host-memory {} is not a size; write 1TB, 512GiB", host_memory));
  }
  // In the table's order, so that checkpoint=full means the layers that num_layers says.
  for (const QuestionKey& key : question_keys())
    if (const auto it = keys.find(std::string(key.name)); it != keys.end()) cli::set(question, it->first, it->second);
  for (const std::string& assignment : set) {
    const std::size_t equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0) throw UsageError(fmt::format("--set {} is not key=value", assignment));
    cli::set(question, assignment.substr(0, equals), assignment.substr(equals + 1));
  }
  check_question(question);
  return question;
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

}  // namespace zeroplan::cli
