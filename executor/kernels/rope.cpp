#include <algorithm>
#include <cmath>

#include "executor/kernels/rows.h"
#include "planner/ops/scratch.h"

namespace zeroplan::kernels {

std::int64_t head_column(const AttentionDims& dims, int kind, std::int64_t i) {
  const std::int64_t group = dims.heads / dims.kv_heads;
  if (dims.layout == QkvLayout::contiguous) {
    const std::int64_t first = kind == 0 ? 0 : kind == 1 ? dims.heads : dims.heads + dims.kv_heads;
    return (first + i) * dims.head_dim;
  }
  const std::int64_t head = kind == 0 ? i / group * (group + 2) + i % group : i * (group + 2) + group + kind - 1;
  return head * dims.head_dim;
}

namespace {

/// visit(column in qkv, index) for every query and key head in the order of the columns; index counts query heads then key heads.
template <class Visit>
ZEROPLAN_INLINE void for_rotated_heads(const AttentionDims& dims, Visit visit) {
  if (dims.layout == QkvLayout::contiguous) {
    for (std::int64_t i = 0; i < dims.heads + dims.kv_heads; ++i) visit(i * dims.head_dim, i);
    return;
  }
  const std::int64_t group = dims.heads / dims.kv_heads;
  std::int64_t column = 0;
  for (std::int64_t k = 0; k < dims.kv_heads; ++k, column += 2 * dims.head_dim) {
    for (std::int64_t q = 0; q < group; ++q, column += dims.head_dim) visit(column, k * group + q);
    visit(column, dims.heads + k);
  }
}

/// Cosines and sines of one position.
struct Angles { const float* cosines; const float* sines; };
ZEROPLAN_INLINE Angles angles_at(const float* table, std::int64_t position, std::int64_t head_dim) {
  return {table + position * head_dim, table + position * head_dim + head_dim / 2};
}

template <class T>
ZEROPLAN_CLONES void rotate_rows(const AttentionDims& dims, Matrix<T> qkv, const float* table, float sign) {
  using A = Acc<T>;
  const std::int64_t half = dims.head_dim / 2;
  for (std::int64_t row = 0; row < qkv.rows; ++row) {
    const Angles at = angles_at(table, row % dims.seq, dims.head_dim);
    for_rotated_heads(dims, [&](std::int64_t column, std::int64_t) ZEROPLAN_LAMBDA {
      T* x = qkv.row(row) + column;
      for_elements(half, [=](std::int64_t i) ZEROPLAN_LAMBDA {
        const body::Pair<A> y = body::rotate<A>({body::load(x[i]), body::load(x[i + half])}, at.cosines[i], sign * at.sines[i]);
        x[i] = body::store<T>(y.first);
        x[i + half] = body::store<T>(y.second);
      });
    });
  }
}

template <class T>
ZEROPLAN_CLONES void norm_rotate_rows(const AttentionDims& dims, Matrix<const T> qkv, const T* query_weight, const T* key_weight, double eps,
                                      const float* table, Matrix<T> out, Acc<T>* rstd) {
  using A = Acc<T>;
  const std::int64_t head_dim = dims.head_dim, half = head_dim / 2, heads = dims.heads + dims.kv_heads;
  for (std::int64_t row = 0; row < qkv.rows; ++row) {
    const Angles at = angles_at(table, row % dims.seq, head_dim);
    for_rotated_heads(dims, [&](std::int64_t column, std::int64_t index) ZEROPLAN_LAMBDA {
      const T* x = qkv.row(row) + column;
      const T* w = index < dims.heads ? query_weight : key_weight;
      T* y = out.row(row) + index * head_dim;
      const A squares = sum_elements<A>(head_dim, [=](std::int64_t j) ZEROPLAN_LAMBDA { return body::load(x[j]) * body::load(x[j]); });
      const A r = A(1) / std::sqrt(squares / static_cast<A>(head_dim) + static_cast<A>(eps));
      rstd[row * heads + index] = r;
      for_elements(half, [=](std::int64_t i) ZEROPLAN_LAMBDA {
        const body::Pair<A> normed = {body::rms_norm(body::load(x[i]), r, body::load(w[i])),
                                      body::rms_norm(body::load(x[i + half]), r, body::load(w[i + half]))};
        const body::Pair<A> rotated = body::rotate<A>(normed, at.cosines[i], at.sines[i]);
        y[i] = body::store<T>(rotated.first);
        y[i + half] = body::store<T>(rotated.second);
      });
    });
  }
}

/// Gradient of one head before norm and rope. The rotation back is computed twice (for the sum, then for the result) instead of being stored: a
/// bf16 head has no room for the unrounded value.
template <class T>
ZEROPLAN_INLINE void norm_rotate_backward_head(const T* x, const T* w, Acc<T> r, Angles at, T* d, Acc<T>* dweight_sums, std::int64_t half) {
  using A = Acc<T>;
  const auto unrotated = [=](std::int64_t i) ZEROPLAN_LAMBDA {
    return body::rotate<A>({body::load(d[i]), body::load(d[i + half])}, at.cosines[i], -at.sines[i]);
  };
  const A total = sum_elements<A>(half, [=](std::int64_t i) ZEROPLAN_LAMBDA {
    const body::Pair<A> dnormed = unrotated(i);
    const A first = dnormed.first * body::load(x[i]), second = dnormed.second * body::load(x[i + half]);
    dweight_sums[i] += first * r;
    dweight_sums[i + half] += second * r;
    return first * body::load(w[i]) + second * body::load(w[i + half]);
  });
  const A slope = total * r * r / static_cast<A>(2 * half);
  for_elements(half, [=](std::int64_t i) ZEROPLAN_LAMBDA {
    const body::Pair<A> dnormed = unrotated(i);
    d[i] = body::store<T>(body::rms_norm_gradient(body::load(x[i]), r, body::load(w[i]), dnormed.first, slope));
    d[i + half] = body::store<T>(body::rms_norm_gradient(body::load(x[i + half]), r, body::load(w[i + half]), dnormed.second, slope));
  });
}

template <class T>
ZEROPLAN_CLONES void norm_rotate_backward_rows(const AttentionDims& dims, Matrix<const T> qkv, const Acc<T>* rstd, const T* query_weight,
                                               const T* key_weight, const float* table, Matrix<T> dqkv, Acc<T>* dquery_sums, Acc<T>* dkey_sums) {
  const std::int64_t head_dim = dims.head_dim, heads = dims.heads + dims.kv_heads;
  std::fill_n(dquery_sums, head_dim, Acc<T>(0));
  std::fill_n(dkey_sums, head_dim, Acc<T>(0));
  for (std::int64_t row = 0; row < qkv.rows; ++row) {
    const Angles at = angles_at(table, row % dims.seq, head_dim);
    for_rotated_heads(dims, [&](std::int64_t column, std::int64_t index) ZEROPLAN_LAMBDA {
      const bool query = index < dims.heads;
      norm_rotate_backward_head(qkv.row(row) + column, query ? query_weight : key_weight, rstd[row * heads + index], at, dqkv.row(row) + column,
                                query ? dquery_sums : dkey_sums, head_dim / 2);
    });
  }
}

}  // namespace

void rope_table(std::int64_t seq, std::int64_t head_dim, double theta, float* table) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    for (std::int64_t position = 0; position < seq; ++position) {
      const double angle = static_cast<double>(position) * frequency;
      table[position * head_dim + i] = static_cast<float>(std::cos(angle));
      table[position * head_dim + half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

template <class T>
void rope(const AttentionDims& dims, Matrix<T> qkv, const float* table, int direction) {
  rotate_rows(dims, qkv, table, static_cast<float>(direction));
}

template <class T>
void qk_norm_rope(const AttentionDims& dims, Matrix<const T> qkv, const T* query_weight, const T* key_weight, double eps, const float* table, Matrix<T> out,
                  Acc<T>* rstd) {
  norm_rotate_rows(dims, qkv, query_weight, key_weight, eps, table, out, rstd);
}

template <class T, class G>
void qk_norm_rope_backward(const AttentionDims& dims, Matrix<const T> qkv, const Acc<T>* rstd, const T* query_weight, const T* key_weight, const float* table,
                           Matrix<T> dqkv, G* dquery_weight, G* dkey_weight, bool accumulate, Scratch scratch) {
  const auto [query_elems, key_elems] = qk_norm_rope_backward_takes(dims.head_dim);
  Acc<T>* dquery_sums = scratch.take<Acc<T>>(query_elems);
  Acc<T>* dkey_sums = scratch.take<Acc<T>>(key_elems);
  norm_rotate_backward_rows(dims, qkv, rstd, query_weight, key_weight, table, dqkv, dquery_sums, dkey_sums);
  add_or_store(dquery_sums, dquery_weight, dims.head_dim, accumulate);
  add_or_store(dkey_sums, dkey_weight, dims.head_dim, accumulate);
}

#define ZEROPLAN_ROPE(T)                                                                                                                    \
  template void rope<T>(const AttentionDims&, Matrix<T>, const float*, int);                                                               \
  template void qk_norm_rope<T>(const AttentionDims&, Matrix<const T>, const T*, const T*, double, const float*, Matrix<T>, Acc<T>*);
#define ZEROPLAN_ROPE_BACKWARD(T, G)                                                                                                        \
  template void qk_norm_rope_backward<T, G>(const AttentionDims&, Matrix<const T>, const Acc<T>*, const T*, const T*, const float*, Matrix<T>, G*, G*, bool, \
                                            Scratch);
ZEROPLAN_ROPE(float)
ZEROPLAN_ROPE(double)
ZEROPLAN_ROPE(bf16)
ZEROPLAN_ROPE_BACKWARD(float, float)
ZEROPLAN_ROPE_BACKWARD(double, double)
ZEROPLAN_ROPE_BACKWARD(bf16, bf16)
ZEROPLAN_ROPE_BACKWARD(bf16, float)
#undef ZEROPLAN_ROPE
#undef ZEROPLAN_ROPE_BACKWARD

}  // namespace zeroplan::kernels
