#include <algorithm>

#include "executor/kernels/gemm.h"
#include "executor/kernels/rows.h"
#include "planner/ops/scratch.h"

namespace zeroplan::kernels {
namespace {

/// target = residual + bias, either of which may be absent (not both).
template <class T, class A>
ZEROPLAN_CLONES void start_rows(const T* bias, const Matrix<const T>* residual, Matrix<A> target) {
  for (std::int64_t i = 0; i < target.rows; ++i) {
    A* to = target.row(i);
    const T* from = residual ? residual->row(i) : nullptr;
    if (from && bias)
      for_elements(target.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { to[j] = body::load(from[j]) + body::load(bias[j]); });
    else
      for_elements(target.columns, [=, source = from ? from : bias](std::int64_t j) ZEROPLAN_LAMBDA { to[j] = body::load(source[j]); });
  }
}

template <class T, class G>
ZEROPLAN_CLONES void column_sums(Matrix<const T> m, Acc<T>* sums, G* total, bool accumulate) {
  std::fill_n(sums, m.columns, Acc<T>(0));
  for (std::int64_t i = 0; i < m.rows; ++i) {
    const T* row = m.row(i);
    for_elements(m.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { sums[j] += body::load(row[j]); });
  }
  add_or_store(sums, total, m.columns, accumulate);
}

}  // namespace

template <class T>
void linear(Matrix<const T> in, Matrix<const T> weight, const T* bias, const Matrix<const T>* residual, Matrix<T> out, Scratch scratch) {
  using A = Acc<T>;
  const auto [in_elems, weight_elems, out_elems] =
      linear_takes(kDtypeOf<T>, {.rows = in.rows, .in_columns = in.columns, .out_columns = weight.rows});
  const auto a = widened(in, scratch.take<A>(in_elems));
  const auto b = widened(weight, scratch.take<A>(weight_elems));
  const Matrix<A> product = product_target(out, scratch.take<A>(out_elems));
  const bool starts = bias || residual;
  if (starts) start_rows(bias, residual, product);
  gemm(plain(a), transposed(b), product, starts ? Into::add : Into::overwrite);
  narrow(read_only(product), out, Into::overwrite);
}

template <class T>
void linear_dgrad(Matrix<const T> dout, Matrix<const T> weight, Matrix<T> din, Scratch scratch) {
  using A = Acc<T>;
  const auto [dout_elems, weight_elems, din_elems] =
      linear_dgrad_takes(kDtypeOf<T>, {.rows = dout.rows, .in_columns = weight.columns, .out_columns = weight.rows});
  const auto a = widened(dout, scratch.take<A>(dout_elems));
  const auto b = widened(weight, scratch.take<A>(weight_elems));
  const Matrix<A> product = product_target(din, scratch.take<A>(din_elems));
  gemm(plain(a), plain(b), product, Into::overwrite);
  narrow(read_only(product), din, Into::overwrite);
}

template <class T, class G>
void linear_wgrad(Matrix<const T> dout, Matrix<const T> in, Matrix<G> dweight, G* dbias, bool accumulate, Scratch scratch) {
  using A = Acc<T>;
  const auto [dout_elems, in_elems, dweight_elems, dbias_elems] = linear_wgrad_takes(
      kDtypeOf<T>, kDtypeOf<G>, {.rows = dout.rows, .in_columns = in.columns, .out_columns = dout.columns}, dbias != nullptr);
  const auto a = widened(dout, scratch.take<A>(dout_elems));
  const auto b = widened(in, scratch.take<A>(in_elems));
  const Matrix<A> product = product_target(dweight, scratch.take<A>(dweight_elems));
  A* sums = scratch.take<A>(dbias_elems);
  const Into into = accumulate ? Into::add : Into::overwrite;
  // A bf16 gradient is added where the product comes home, so that the sum is rounded once.
  gemm(transposed(a), plain(b), product, std::is_same_v<G, A> ? into : Into::overwrite);
  narrow(read_only(product), dweight, into);
  if (dbias) column_sums(dout, sums, dbias, accumulate);
}

#define ZEROPLAN_LINEAR(T)                                                                                               \
  template void linear<T>(Matrix<const T>, Matrix<const T>, const T*, const Matrix<const T>*, Matrix<T>, Scratch);       \
  template void linear_dgrad<T>(Matrix<const T>, Matrix<const T>, Matrix<T>, Scratch);
#define ZEROPLAN_WGRAD(T, G) template void linear_wgrad<T, G>(Matrix<const T>, Matrix<const T>, Matrix<G>, G*, bool, Scratch);
ZEROPLAN_LINEAR(float)
ZEROPLAN_LINEAR(double)
ZEROPLAN_LINEAR(bf16)
ZEROPLAN_WGRAD(float, float)
ZEROPLAN_WGRAD(double, double)
ZEROPLAN_WGRAD(bf16, bf16)
ZEROPLAN_WGRAD(bf16, float)
#undef ZEROPLAN_LINEAR
#undef ZEROPLAN_WGRAD

}  // namespace zeroplan::kernels
