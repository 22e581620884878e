#include "executor/initialization.h"

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace zeroplan {
namespace {

constexpr double kStandardDeviation = 0.02;
constexpr double kTwoPi = 6.283185307179586;

double normal(std::uint64_t key) {
  const std::uint64_t a = splitmix64(key), b = splitmix64(a);
  const double u = (static_cast<double>(a >> 11) + 1.0) * 0x1p-53, v = static_cast<double>(b >> 11) * 0x1p-53;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(kTwoPi * v);
}

// Standard deviation of a matrix, or a constant for vectors.
struct Rule {
  double deviation = 0, constant = 0;
};
Rule rule_of(ParameterId id, std::int64_t layers) {
  switch (id) {
    case ParameterId::attention_norm:
    case ParameterId::ffn_norm:
    case ParameterId::final_norm:
    case ParameterId::query_norm:
    case ParameterId::key_norm: return {0, 1};
    case ParameterId::qkv_bias: return {0, 0};
    case ParameterId::attention_out:
    case ParameterId::down: return {kStandardDeviation / std::sqrt(2.0 * static_cast<double>(layers)), 0};
    case ParameterId::token_embedding:
    case ParameterId::qkv:
    case ParameterId::gate_up:
    case ParameterId::head_weight: return {kStandardDeviation, 0};
  }
  return {};
}

template <class T>
void fill(const Model& model, UnitKind unit, std::int64_t block, std::uint64_t seed, std::int64_t begin, std::int64_t count, T* out) {
  std::fill(out, out + count, T(0.0f));
  const std::uint64_t base = splitmix64(splitmix64(seed ^ static_cast<std::uint64_t>(unit) << 56) + static_cast<std::uint64_t>(block));
  for (const Parameter& p : unit_parameters(model, unit)) {
    const Rule rule = rule_of(p.id, model.num_layers);
    const std::int64_t first = std::max(begin, p.offset_elems), last = std::min(begin + count, p.offset_elems + p.elems());
    for (std::int64_t e = first; e < last; ++e)
      out[e - begin] = T(static_cast<float>(rule.deviation > 0 ? rule.deviation * normal(base + static_cast<std::uint64_t>(e)) : rule.constant));
  }
}

}  // namespace

std::uint64_t splitmix64(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15ull;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

void fill_initial(const Model& model, UnitKind unit, std::int64_t block, std::uint64_t seed, std::int64_t begin, std::int64_t count, Dtype dtype, void* out) {
  if (dtype == Dtype::bf16) fill(model, unit, block, seed, begin, count, static_cast<c10::BFloat16*>(out));
  else fill(model, unit, block, seed, begin, count, static_cast<float*>(out));
}

}  // namespace zeroplan
