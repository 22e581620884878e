#include <algorithm>
#include <cassert>
#include <cmath>

#include "executor/kernels/rows.h"

namespace zeroplan::kernels {
namespace {

/// Loss of one row with a target; the row becomes (softmax − onehot)·scale. Exponentials are computed twice instead of being stored, which in
/// bf16 would round them.
template <class T>
ZEROPLAN_INLINE Acc<T> row_loss(T* row, std::int64_t columns, std::int32_t target, Acc<T> scale) {
  using A = Acc<T>;
  const A largest = max_element<A>(columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { return body::load(row[j]); });
  const A sum = sum_elements<A>(columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { return body::exp(body::load(row[j]) - largest); });
  const A shifted_target = body::load(row[target]) - largest;
  const A factor = scale / sum;
  for_elements(columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { row[j] = body::store<T>(body::exp(body::load(row[j]) - largest) * factor); });
  row[target] = body::store<T>((std::exp(shifted_target) / sum - A(1)) * scale);
  return std::log(sum) - shifted_target;
}

template <class T>
ZEROPLAN_CLONES void loss_rows(Matrix<T> logits, const std::int32_t* targets, Acc<T> scale, Acc<T>* losses) {
  for (std::int64_t i = 0; i < logits.rows; ++i) {
    assert(targets[i] < logits.columns);
    if (targets[i] >= 0) {
      losses[i] = row_loss(logits.row(i), logits.columns, targets[i], scale);
    } else {
      std::fill_n(logits.row(i), logits.columns, T(0));
      losses[i] = 0;
    }
  }
}

}  // namespace

template <class T>
void cross_entropy(Matrix<T> logits, const std::int32_t* targets, double scale, Acc<T>* losses) {
  loss_rows(logits, targets, static_cast<Acc<T>>(scale), losses);
}

template <class A>
double loss_sum(const A* losses, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(losses[i]);
  return sum;
}

template void cross_entropy<float>(Matrix<float>, const std::int32_t*, double, float*);
template void cross_entropy<double>(Matrix<double>, const std::int32_t*, double, double*);
template void cross_entropy<bf16>(Matrix<bf16>, const std::int32_t*, double, float*);
template double loss_sum(const float*, std::int64_t);
template double loss_sum(const double*, std::int64_t);

}  // namespace zeroplan::kernels
