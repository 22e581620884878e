// Rows of tests/data/engine_oracle_*.json: jobs that the engines' own code was run with, and what it asked of memory. A file may leave out the keys that its engine
// decides; they are filled in here, so that a row becomes a Question as any row of questions does.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "planner/core/plan.h"
#include "planner/engines/eager/training_loop.h"

namespace zeroplan {

struct OracleRow {
  std::string id;
  Question question;
  int steps = 3;
  nlohmann::json measured;
};

/// `name`: "fsdp2" for engine_oracle_fsdp2.json.
std::vector<OracleRow> oracle_rows(const std::string& name);

/// Every phase, what was alive after init and between steps, on the device and (where measured) on the host: equal to the byte.
void check_equal(const eager::PhasePeaks& peaks, const nlohmann::json& measured);

}  // namespace zeroplan
