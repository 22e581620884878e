// Remedies: changes of another engine's settings that make a job fit, or make it faster where it fits, each predicted in full. Ours are in planner/search/answer.h.
// Leaves out how a tool spells a change (cli).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "simulator/predictor.h"

namespace zeroplan {

using KeyChange = std::vector<std::pair<std::string, std::string>>;  ///< key, value as set_key takes them

struct Remedy {
  KeyChange change;
  Prediction prediction;
  bool changes_numerics = false;
};

/// Those that fit first, fastest first (by peak where no time is known). Keeps the global batch. At most `most`; none once `stop` is requested.
std::vector<Remedy> ranked_remedies(const Prediction& from, Predictor& predictor, std::size_t most = 5, std::stop_token stop = {});

}  // namespace zeroplan
