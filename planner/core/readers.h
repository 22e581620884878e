// The readers behind model_from_config and cluster_from_json, for files that hold a model or a cluster as a part (plan.json), so that
// errors point into the whole file; and what makes a Model's sizes unusable, whether it came from a file or from code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "planner/core/cluster.h"
#include "planner/core/json_fields.h"
#include "planner/core/model.h"

namespace zeroplan {

inline constexpr std::int64_t kLargestSize = std::int64_t{1} << 31;    ///< of any one size of a model
inline constexpr std::int64_t kMostLayers = 1024;                      ///< no model is near; every layer is run, and has addresses
inline constexpr std::int64_t kMostParameters = 1'000'000'000'000'000; ///< 10^15; no model is near

inline constexpr IntegerRange kSizeRange{1, kLargestSize};
inline constexpr NumberRange kRopeThetaRange{1, 1e15};

/// The first of `names` (separated by '|') that the file has; the first name if it has none.
std::string_view key_present(const JsonFields& config, std::string_view names);
/// head_dim, the family's, or hidden_size / num_attention_heads.
std::int64_t read_head_dim(const JsonFields& config, const Model& model);

struct SizeProblem {
  std::string_view key;  ///< of config.json where it has one: "num_key_value_heads", else of model_zoo.json
  std::string problem;
};

/// The first thing wrong with the model's sizes; nullopt if every count and every product of them can be computed.
std::optional<SizeProblem> find_size_problem(const Model& model);

Model read_model(const JsonFields& config);
Model read_zoo_object(const JsonFields& fields);
Cluster read_cluster(const JsonFields& fields);

}  // namespace zeroplan
