#include <algorithm>
#include <cmath>
#include <cstring>

#include "executor/kernels/rows.h"

namespace zeroplan::kernels {
namespace {

template <class G>
ZEROPLAN_CLONES void add_elements(const G* slice, G* shard, std::int64_t count) {
  for_elements(count, [=](std::int64_t i) ZEROPLAN_LAMBDA { shard[i] = body::store<G>(body::load(shard[i]) + body::load(slice[i])); });
}

template <class G>
ZEROPLAN_CLONES double sum_squares(const G* gradient, std::int64_t count) {
  return sum_elements<double>(count, [=](std::int64_t i) ZEROPLAN_LAMBDA {
    const double value = static_cast<double>(body::load(gradient[i]));
    return value * value;
  });
}

body::AdamWConstants constants_of(const AdamW& o) {
  const double step = static_cast<double>(o.step);
  const double correction1 = 1 - std::pow(o.beta1, step), correction2 = 1 - std::pow(o.beta2, step);
  return {.gradient_scale = static_cast<float>(o.gradient_scale),
          .keep = static_cast<float>(1 - o.learning_rate * o.weight_decay),
          .one_minus_beta1 = static_cast<float>(1 - o.beta1),
          .beta2 = static_cast<float>(o.beta2),
          .one_minus_beta2 = static_cast<float>(1 - o.beta2),
          .step_size = static_cast<float>(o.learning_rate / correction1),
          .inverse_root_correction = static_cast<float>(1 / std::sqrt(correction2)),
          .epsilon = static_cast<float>(o.epsilon)};
}

template <class T, class G>
struct Block {
  const G* gradient;
  float *master, *m, *v;
  T* parameters;
};

/// kLanes elements at `at`.
template <class T, class G>
ZEROPLAN_INLINE void update_block(const body::AdamWConstants& constants, const Block<T, G>& at) {
  const body::AdamWConstants c = constants;
  const Block<T, G> b = at;
  for_elements(kLanes, [=](std::int64_t i) ZEROPLAN_LAMBDA {
    const body::AdamWState s = body::adamw(c, {b.master[i], b.m[i], b.v[i]}, static_cast<float>(body::load(b.gradient[i])));
    b.m[i] = s.m;
    b.v[i] = s.v;
    b.master[i] = s.master;
    b.parameters[i] = body::store<T>(s.master);
  });
}

/// The rest of a shard is computed in padded copies by the very instructions of a whole block: vector code and a scalar tail would round
/// differently where one of them fuses a multiplication with an addition.
template <class T, class G>
ZEROPLAN_CLONES void update_shard(const body::AdamWConstants& constants, const Block<T, G>& shard, std::int64_t count) {
  G gradient[kLanes] = {};
  float master[kLanes] = {}, m[kLanes] = {}, v[kLanes] = {};
  T parameters[kLanes] = {};
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const std::int64_t n = std::min(kLanes, count - i);
    const Block<T, G> here = {shard.gradient + i, shard.master + i, shard.m + i, shard.v + i, shard.parameters + i};
    if (n < kLanes) {
      std::copy_n(here.gradient, n, gradient);
      std::copy_n(here.master, n, master);
      std::copy_n(here.m, n, m);
      std::copy_n(here.v, n, v);
    }
    update_block(constants, n < kLanes ? Block<T, G>{gradient, master, m, v, parameters} : here);
    if (n < kLanes) {
      std::copy_n(master, n, here.master);
      std::copy_n(m, n, here.m);
      std::copy_n(v, n, here.v);
      std::copy_n(parameters, n, here.parameters);
    }
  }
}

}  // namespace

template <class G>
void accumulate_shard(const G* slice, G* shard, std::int64_t count, bool accumulate) {
  if (accumulate) add_elements(slice, shard, count);
  else std::memmove(shard, slice, static_cast<std::size_t>(count) * sizeof(G));
}

template <class G>
double sum_of_squares(const G* gradient, std::int64_t count) {
  return sum_squares(gradient, count);
}

template <class T, class G>
void adamw(const AdamW& options, const G* gradient, float* master, float* m, float* v, T* parameters, std::int64_t count) {
  update_shard<T, G>(constants_of(options), {gradient, master, m, v, parameters}, count);
}

template void accumulate_shard(const float*, float*, std::int64_t, bool);
template void accumulate_shard(const double*, double*, std::int64_t, bool);
template void accumulate_shard(const bf16*, bf16*, std::int64_t, bool);
template double sum_of_squares(const float*, std::int64_t);
template double sum_of_squares(const double*, std::int64_t);
template double sum_of_squares(const bf16*, std::int64_t);
template void adamw(const AdamW&, const float*, float*, float*, float*, float*, std::int64_t);
template void adamw(const AdamW&, const double*, float*, float*, float*, double*, std::int64_t);
template void adamw(const AdamW&, const bf16*, float*, float*, float*, bf16*, std::int64_t);
template void adamw(const AdamW&, const float*, float*, float*, float*, bf16*, std::int64_t);

}  // namespace zeroplan::kernels
