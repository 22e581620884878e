#include "executor/kernels/gemm.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include "executor/kernels/rows.h"

namespace zeroplan::kernels {
namespace {

template <class A>
at::Tensor view(const A* data, std::int64_t rows, std::int64_t columns, std::int64_t row_stride, std::int64_t column_stride) {
  const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<A>::value);
  return at::from_blob(const_cast<A*>(data), {rows, columns}, {row_stride, column_stride}, options);
}

template <class A>
at::Tensor view(Factor<A> f) {
  const Matrix<const A>& m = f.matrix;
  return f.transposed ? view(m.data, m.columns, m.rows, 1, m.stride) : view(m.data, m.rows, m.columns, m.stride, 1);
}

template <class T, class A>
ZEROPLAN_CLONES void widen_rows(Matrix<const T> m, A* copy) {
  for (std::int64_t i = 0; i < m.rows; ++i) {
    const T* from = m.row(i);
    A* to = copy + i * m.columns;
    for_elements(m.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { to[j] = body::load(from[j]); });
  }
}

template <class T, class A>
ZEROPLAN_CLONES void narrow_rows(Matrix<const A> product, Matrix<T> m, bool accumulate) {
  for (std::int64_t i = 0; i < m.rows; ++i) add_or_store(product.row(i), m.row(i), m.columns, accumulate);
}

}  // namespace

template <class A>
void gemm(Factor<A> left, Factor<A> right, Matrix<A> out, Into into) {
  at::Tensor target = view(out.data, out.rows, out.columns, out.stride, 1);
  // at::cpu:: is the kernel behind at::mm_out without the dispatcher, whose autograd layers cost as much as a small attention tile.
  if (into == Into::overwrite) at::cpu::mm_out(target, view(left), view(right));
  else at::cpu::addmm_out(target, target, view(left), view(right), 1, 1);
}

template <class T>
Matrix<const Acc<T>> widened(Matrix<const T> m, [[maybe_unused]] Acc<T>* copy) {
  if constexpr (std::is_same_v<T, Acc<T>>) {
    return m;
  } else {
    widen_rows(m, copy);
    return {copy, m.rows, m.columns, m.columns};
  }
}

template <class T, class A>
void narrow(Matrix<const A> product, Matrix<T> m, Into into) {
  if constexpr (!std::is_same_v<T, A>) narrow_rows(product, m, into == Into::add);
}

template void gemm(Factor<float>, Factor<float>, Matrix<float>, Into);
template void gemm(Factor<double>, Factor<double>, Matrix<double>, Into);
template Matrix<const float> widened<float>(Matrix<const float>, float*);
template Matrix<const double> widened<double>(Matrix<const double>, double*);
template Matrix<const float> widened<bf16>(Matrix<const bf16>, float*);
template void narrow(Matrix<const float>, Matrix<float>, Into);
template void narrow(Matrix<const double>, Matrix<double>, Into);
template void narrow(Matrix<const float>, Matrix<bf16>, Into);

}  // namespace zeroplan::kernels
