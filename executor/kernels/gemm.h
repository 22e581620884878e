// Matrix products on planned memory, by ATen's mm and addmm on views (which allocate nothing for fp32 and fp64), and the conversions between bf16
// storage and the fp32 copies that are multiplied in its stead. Single precision comes from the BLAS that libtorch carries.
#pragma once

#include <cstdint>
#include <type_traits>

#include "executor/kernels/kernels.h"

namespace zeroplan::kernels {

/// One side of a product: a matrix as stored, or its transpose.
template <class A>
struct Factor {
  Matrix<const A> matrix;
  bool transposed = false;
};
template <class A> Factor<A> plain(Matrix<const A> m) { return {m, false}; }
template <class A> Factor<A> transposed(Matrix<const A> m) { return {m, true}; }

enum class Into : std::uint8_t { overwrite, add };

/// out = left·right, or out += left·right. A is float or double. Rows of out are dense; strides may exceed the columns.
template <class A> void gemm(Factor<A> left, Factor<A> right, Matrix<A> out, Into into);

/// The matrix as accumulators: itself where T is one, else a dense copy at `copy` (rows × columns).
template <class T> Matrix<const Acc<T>> widened(Matrix<const T> m, Acc<T>* copy);

/// Where a product that belongs into `m` is computed: m itself, or a dense matrix of the same shape at `copy` that narrow() brings home.
template <class T, class A>
Matrix<A> product_target(Matrix<T> m, A* copy) {
  if constexpr (std::is_same_v<T, A>) return m;
  else return {copy, m.rows, m.columns, m.columns};
}

/// m = rounded(product), or rounded(m + product). Nothing to do where product is m itself (product_target of an accumulator type).
template <class T, class A> void narrow(Matrix<const A> product, Matrix<T> m, Into into);

template <class T> Matrix<const T> read_only(Matrix<T> m) { return {m.data, m.rows, m.columns, m.stride}; }

}  // namespace zeroplan::kernels
