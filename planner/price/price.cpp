#include "planner/price/price.h"

namespace zeroplan {

Estimate price(const Program& program) { return Pricer().price(program); }

double model_flops_per_token(const Model& model, std::int64_t seq) {
  const double matmul = 6.0 * static_cast<double>(matmul_parameter_elems(model));
  const double attention = 6.0 * static_cast<double>(model.num_layers) * static_cast<double>(model.query_dim()) * static_cast<double>(seq);
  return matmul + attention;
}

}  // namespace zeroplan
