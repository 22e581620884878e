#include <algorithm>
#include <cmath>

#include "executor/kernels/rows.h"
#include "planner/ops/scratch.h"

namespace zeroplan::kernels {
namespace {

template <class T>
ZEROPLAN_INLINE void scale_row(const T* x, const T* weight, Acc<T> rstd, T* out, std::int64_t columns) {
  for_elements(columns, [=](std::int64_t j) ZEROPLAN_LAMBDA {
    out[j] = body::store<T>(body::rms_norm(body::load(x[j]), rstd, body::load(weight[j])));
  });
}

template <class T>
ZEROPLAN_CLONES void norm_rows(Matrix<const T> x, const T* weight, double eps, Matrix<T> out, Acc<T>* rstd) {
  using A = Acc<T>;
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const T* row = x.row(i);
    const A squares = sum_elements<A>(x.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { return body::load(row[j]) * body::load(row[j]); });
    rstd[i] = A(1) / std::sqrt(squares / static_cast<A>(x.columns) + static_cast<A>(eps));
    scale_row(row, weight, rstd[i], out.row(i), x.columns);
  }
}

template <class T>
ZEROPLAN_CLONES void scale_rows(Matrix<const T> x, const T* weight, const Acc<T>* rstd, Matrix<T> out) {
  for (std::int64_t i = 0; i < x.rows; ++i) scale_row(x.row(i), weight, rstd[i], out.row(i), x.columns);
}

/// Adds one row to dweight_sums and returns Σ dout·weight·x of the row. Reads all of x and dout before dx, which may be either, is written.
template <class T>
ZEROPLAN_INLINE Acc<T> gather_row(const T* x, const T* weight, Acc<T> rstd, const T* dout, Acc<T>* dweight_sums, std::int64_t columns) {
  using A = Acc<T>;
  return sum_elements<A>(columns, [=](std::int64_t j) ZEROPLAN_LAMBDA {
    const A product = body::load(dout[j]) * body::load(x[j]);
    dweight_sums[j] += product * rstd;
    return product * body::load(weight[j]);
  });
}

template <class T, class G>
ZEROPLAN_CLONES void norm_backward_rows(Matrix<const T> x, const T* weight, const Acc<T>* rstd, Matrix<const T> dout, Matrix<T> dx, bool accumulate_dx,
                                        G* dweight, bool accumulate_dweight, Acc<T>* dweight_sums) {
  using A = Acc<T>;
  std::fill_n(dweight_sums, x.columns, A(0));
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const T* xi = x.row(i);
    const T* douti = dout.row(i);
    T* dxi = dx.row(i);
    const A r = rstd[i];
    const A slope = gather_row(xi, weight, r, douti, dweight_sums, x.columns) * r * r / static_cast<A>(x.columns);
    const auto gradient = [=](std::int64_t j) ZEROPLAN_LAMBDA {
      return body::rms_norm_gradient(body::load(xi[j]), r, body::load(weight[j]), body::load(douti[j]), slope);
    };
    if (accumulate_dx)
      for_elements(x.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { dxi[j] = body::store<T>(body::load(dxi[j]) + gradient(j)); });
    else
      for_elements(x.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { dxi[j] = body::store<T>(gradient(j)); });
  }
  add_or_store(dweight_sums, dweight, x.columns, accumulate_dweight);
}

}  // namespace

template <class T>
void rms_norm(Matrix<const T> x, const T* weight, double eps, Matrix<T> out, Acc<T>* rstd) {
  norm_rows(x, weight, eps, out, rstd);
}

template <class T>
void rms_norm_apply(Matrix<const T> x, const T* weight, const Acc<T>* rstd, Matrix<T> out) {
  scale_rows(x, weight, rstd, out);
}

template <class T, class G>
void rms_norm_backward(Matrix<const T> x, const T* weight, const Acc<T>* rstd, Matrix<const T> dout, Matrix<T> dx, bool accumulate_dx, G* dweight,
                       bool accumulate_dweight, Scratch scratch) {
  const auto [dweight_elems] = rms_norm_backward_takes(x.columns);
  norm_backward_rows(x, weight, rstd, dout, dx, accumulate_dx, dweight, accumulate_dweight, scratch.take<Acc<T>>(dweight_elems));
}

#define ZEROPLAN_NORM(T)                                                                       \
  template void rms_norm<T>(Matrix<const T>, const T*, double, Matrix<T>, Acc<T>*);            \
  template void rms_norm_apply<T>(Matrix<const T>, const T*, const Acc<T>*, Matrix<T>);
#define ZEROPLAN_NORM_BACKWARD(T, G) \
  template void rms_norm_backward<T, G>(Matrix<const T>, const T*, const Acc<T>*, Matrix<const T>, Matrix<T>, bool, G*, bool, Scratch);
ZEROPLAN_NORM(float)
ZEROPLAN_NORM(double)
ZEROPLAN_NORM(bf16)
ZEROPLAN_NORM_BACKWARD(float, float)
ZEROPLAN_NORM_BACKWARD(double, double)
ZEROPLAN_NORM_BACKWARD(bf16, bf16)
ZEROPLAN_NORM_BACKWARD(bf16, float)
#undef ZEROPLAN_NORM
#undef ZEROPLAN_NORM_BACKWARD

}  // namespace zeroplan::kernels
