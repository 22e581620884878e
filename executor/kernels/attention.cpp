// Causal attention in tiles of R query rows (Dao et al., FlashAttention, without splitting the keys: a row of scores is short enough to lie in
// scratch). A tile that begins at row r meets only the keys before r + R; its products run through gemm, its softmax here.
// Backward recomputes the probabilities P from lse (FlashAttention-2, eq. of algorithm 2): dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP − δ)·scale with
// δ = rowsum(dO∘O), dQ = dS·K, dK = dSᵀ·Q. dK and dV add up over the query heads of a group and their tiles. Tiles go from the last to the first:
// the last one meets every key, so it overwrites dK and dV and nothing needs zeroing.
// Half a tile's scores lie above the diagonal and are thrown away: 1 + R/S times the causal work.
#include <algorithm>
#include <cassert>
#include <cmath>

#include "executor/kernels/gemm.h"
#include "executor/kernels/rows.h"
#include "planner/ops/scratch.h"

namespace zeroplan::kernels {
namespace {

enum HeadKind : int { kQuery = 0, kKey = 1, kValue = 2 };

/// `rows` rows from `row` on of a head's D columns from `column` on.
template <class T>
Matrix<T> slice(Matrix<T> m, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
  return {m.row(row) + column, rows, columns, m.stride};
}
template <class T>
Matrix<T> top(Matrix<T> m, std::int64_t rows) {
  return {m.data, rows, m.columns, m.stride};
}

/// Where queries and keys are read: their own matrix or qkv.
template <class T>
struct Inputs {
  const AttentionDims& dims;
  Matrix<const T> qkv;
  const Matrix<const T>* qk;

  Matrix<const T> head(HeadKind kind, std::int64_t i, std::int64_t row, std::int64_t rows) const {
    if (!qk || kind == kValue) return slice(qkv, row, rows, head_column(dims, kind, i), dims.head_dim);
    return slice(*qk, row, rows, (kind == kQuery ? i : dims.heads + i) * dims.head_dim, dims.head_dim);
  }
};

/// Query rows [row, row + rows) of a sequence, whose keys are [0, row + rows).
struct Tile {
  std::int64_t row, rows;
  std::int64_t keys() const { return row + rows; }
};

template <class A>
A score_scale(const AttentionDims& dims) {
  return static_cast<A>(1 / std::sqrt(static_cast<double>(dims.head_dim)));
}

/// Row i of scores becomes exp(scale·(score − largest)) over its row + i + 1 keys and 0 behind them; the sum goes to sums, log-sum-exp to lse.
template <class A>
ZEROPLAN_CLONES void exponentials(Matrix<A> scores, Tile tile, A scale, A* sums, A* lse, std::int64_t lse_stride) {
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    A* s = scores.row(i);
    const std::int64_t valid = tile.row + i + 1;
    const A largest = max_element<A>(valid, [=](std::int64_t j) ZEROPLAN_LAMBDA { return s[j]; });
    sums[i] = sum_elements<A>(valid, [=](std::int64_t j) ZEROPLAN_LAMBDA { return s[j] = body::exp((s[j] - largest) * scale); });
    std::fill(s + valid, s + scores.columns, A(0));
    lse[i * lse_stride] = largest * scale + std::log(sums[i]);
  }
}

/// Row i of product over sums[i], rounded into out (which may be product).
template <class T, class A>
ZEROPLAN_CLONES void divide_rows(Matrix<const A> product, const A* sums, Matrix<T> out) {
  for (std::int64_t i = 0; i < product.rows; ++i) {
    const A* from = product.row(i);
    T* to = out.row(i);
    const A factor = A(1) / sums[i];
    for_elements(product.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { to[j] = body::store<T>(from[j] * factor); });
  }
}

template <class T>
ZEROPLAN_CLONES void row_dots(Matrix<const T> a, Matrix<const T> b, Acc<T>* dots) {
  for (std::int64_t i = 0; i < a.rows; ++i) {
    const T *x = a.row(i), *y = b.row(i);
    dots[i] = sum_elements<Acc<T>>(a.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { return body::load(x[j]) * body::load(y[j]); });
  }
}

/// scores become probabilities.
template <class A>
ZEROPLAN_CLONES void probabilities(Matrix<A> scores, Tile tile, A scale, const A* lse, std::int64_t lse_stride) {
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    A* s = scores.row(i);
    const std::int64_t valid = tile.row + i + 1;
    const A row_lse = lse[i * lse_stride];
    for_elements(valid, [=](std::int64_t j) ZEROPLAN_LAMBDA { s[j] = body::exp(s[j] * scale - row_lse); });
    std::fill(s + valid, s + scores.columns, A(0));
  }
}

/// dprobabilities become the gradient of the unscaled scores.
template <class A>
ZEROPLAN_CLONES void score_gradients(Matrix<const A> probability, Matrix<A> gradient, const A* delta, A scale) {
  for (std::int64_t i = 0; i < gradient.rows; ++i) {
    const A* p = probability.row(i);
    A* g = gradient.row(i);
    const A di = delta[i];
    for_elements(gradient.columns, [=](std::int64_t j) ZEROPLAN_LAMBDA { g[j] = p[j] * (g[j] - di) * scale; });
  }
}

template <class T>
struct Forward {
  using A = Acc<T>;
  Inputs<T> inputs;
  Matrix<T> out;
  A* lse;
  A *scores, *q_copy, *out_copy, *k_copy, *v_copy;

  void run_tile(std::int64_t first_row, std::int64_t head, Tile tile, Matrix<const A> k, Matrix<const A> v) const {
    const AttentionDims& dims = inputs.dims;
    const std::int64_t row = first_row + tile.row, keys = tile.keys();
    const Matrix<const A> q = widened(inputs.head(kQuery, head, row, tile.rows), q_copy);
    const Matrix<A> s = {scores, tile.rows, keys, keys};
    gemm(plain(q), transposed(top(k, keys)), s, Into::overwrite);
    A sums[kAttentionTileRows];
    exponentials(s, tile, score_scale<A>(dims), sums, lse + row * dims.heads + head, dims.heads);
    const Matrix<T> target = slice(out, row, tile.rows, head * dims.head_dim, dims.head_dim);
    const Matrix<A> product = product_target(target, out_copy);
    gemm(plain(read_only(s)), plain(top(v, keys)), product, Into::overwrite);
    divide_rows(read_only(product), sums, target);
  }

  void run_group(std::int64_t sequence, std::int64_t kv_head) const {
    const AttentionDims& dims = inputs.dims;
    const std::int64_t first_row = sequence * dims.seq, group = dims.heads / dims.kv_heads;
    const Matrix<const A> k = widened(inputs.head(kKey, kv_head, first_row, dims.seq), k_copy);
    const Matrix<const A> v = widened(inputs.head(kValue, kv_head, first_row, dims.seq), v_copy);
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
      for (std::int64_t row = 0; row < dims.seq; row += kAttentionTileRows)
        run_tile(first_row, head, {row, std::min(kAttentionTileRows, dims.seq - row)}, k, v);
  }
};

template <class T>
struct Backward {
  using A = Acc<T>;
  Inputs<T> inputs;
  Matrix<const T> out, dout;
  const A* lse;
  Matrix<T> dqkv;
  A *probability, *gradient, *delta, *q_copy, *dout_copy, *dq_copy, *k_copy, *v_copy, *dk_copy, *dv_copy;

  struct KeysAndValues {
    Matrix<const A> k, v;
    Matrix<A> dk, dv;
  };

  Matrix<T> gradient_of(HeadKind kind, std::int64_t i, std::int64_t row, std::int64_t rows) const {
    return slice(dqkv, row, rows, head_column(inputs.dims, kind, i), inputs.dims.head_dim);
  }

  void run_tile(std::int64_t first_row, std::int64_t head, Tile tile, const KeysAndValues& kv, Into into) const {
    const AttentionDims& dims = inputs.dims;
    const std::int64_t row = first_row + tile.row, keys = tile.keys();
    const A scale = score_scale<A>(dims);
    const Matrix<const T> dout_tile = slice(dout, row, tile.rows, head * dims.head_dim, dims.head_dim);
    const Matrix<const A> q = widened(inputs.head(kQuery, head, row, tile.rows), q_copy);
    const Matrix<const A> d = widened(dout_tile, dout_copy);
    const Matrix<A> p = {probability, tile.rows, keys, keys}, ds = {gradient, tile.rows, keys, keys};

    gemm(plain(q), transposed(top(kv.k, keys)), p, Into::overwrite);
    probabilities(p, tile, scale, lse + row * dims.heads + head, dims.heads);
    gemm(transposed(read_only(p)), plain(d), top(kv.dv, keys), into);
    gemm(plain(d), transposed(top(kv.v, keys)), ds, Into::overwrite);
    row_dots(slice(out, row, tile.rows, head * dims.head_dim, dims.head_dim), dout_tile, delta);
    score_gradients(read_only(p), ds, delta, scale);
    gemm(transposed(read_only(ds)), plain(q), top(kv.dk, keys), into);
    const Matrix<T> dq = gradient_of(kQuery, head, row, tile.rows);
    const Matrix<A> dq_product = product_target(dq, dq_copy);
    gemm(plain(read_only(ds)), plain(top(kv.k, keys)), dq_product, Into::overwrite);
    narrow(read_only(dq_product), dq, Into::overwrite);
  }

  void run_group(std::int64_t sequence, std::int64_t kv_head) const {
    const AttentionDims& dims = inputs.dims;
    const std::int64_t first_row = sequence * dims.seq, group = dims.heads / dims.kv_heads;
    const Matrix<T> dk = gradient_of(kKey, kv_head, first_row, dims.seq), dv = gradient_of(kValue, kv_head, first_row, dims.seq);
    const KeysAndValues kv = {widened(inputs.head(kKey, kv_head, first_row, dims.seq), k_copy),
                              widened(inputs.head(kValue, kv_head, first_row, dims.seq), v_copy), product_target(dk, dk_copy),
                              product_target(dv, dv_copy)};
    Into into = Into::overwrite;
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
      for (std::int64_t row = (dims.seq - 1) / kAttentionTileRows * kAttentionTileRows; row >= 0; row -= kAttentionTileRows) {
        run_tile(first_row, head, {row, std::min(kAttentionTileRows, dims.seq - row)}, kv, into);
        into = Into::add;
      }
    narrow(read_only(kv.dk), dk, Into::overwrite);
    narrow(read_only(kv.dv), dv, Into::overwrite);
  }
};

template <class Pass>
void run_groups(const AttentionDims& dims, const Pass& pass) {
  assert(dims.heads % dims.kv_heads == 0);
  for (std::int64_t sequence = 0; sequence < dims.batch; ++sequence)
    for (std::int64_t kv_head = 0; kv_head < dims.kv_heads; ++kv_head) pass.run_group(sequence, kv_head);
}

}  // namespace

template <class T>
void attention(const AttentionDims& dims, Matrix<const T> qkv, const Matrix<const T>* qk, Matrix<T> out, Acc<T>* lse, Scratch scratch) {
  using A = Acc<T>;
  const auto [scores, q, out_tile, k, v] = attention_takes(kDtypeOf<T>, {.seq = dims.seq, .head_dim = dims.head_dim});
  // The braces take in the order of the list.
  run_groups(dims, Forward<T>{{dims, qkv, qk}, out, lse, scratch.take<A>(scores), scratch.take<A>(q), scratch.take<A>(out_tile), scratch.take<A>(k),
                              scratch.take<A>(v)});
}

template <class T>
void attention_backward(const AttentionDims& dims, Matrix<const T> qkv, const Matrix<const T>* qk, Matrix<const T> out, const Acc<T>* lse,
                        Matrix<const T> dout, Matrix<T> dqkv, Scratch scratch) {
  using A = Acc<T>;
  const auto [probability, gradient, delta, q, dout_tile, dq, k, v, dk, dv] =
      attention_backward_takes(kDtypeOf<T>, {.seq = dims.seq, .head_dim = dims.head_dim});
  run_groups(dims, Backward<T>{{dims, qkv, qk}, out, dout, lse, dqkv, scratch.take<A>(probability), scratch.take<A>(gradient), scratch.take<A>(delta),
                               scratch.take<A>(q), scratch.take<A>(dout_tile), scratch.take<A>(dq), scratch.take<A>(k), scratch.take<A>(v),
                               scratch.take<A>(dk), scratch.take<A>(dv)});
}

#define ZEROPLAN_ATTENTION(T)                                                                                                    \
  template void attention<T>(const AttentionDims&, Matrix<const T>, const Matrix<const T>*, Matrix<T>, Acc<T>*, Scratch);        \
  template void attention_backward<T>(const AttentionDims&, Matrix<const T>, const Matrix<const T>*, Matrix<const T>, const Acc<T>*, Matrix<const T>, \
                                      Matrix<T>, Scratch);
ZEROPLAN_ATTENTION(float)
ZEROPLAN_ATTENTION(double)
ZEROPLAN_ATTENTION(bf16)
#undef ZEROPLAN_ATTENTION

}  // namespace zeroplan::kernels
