// The arithmetic of every compute op of a Program, on raw planned memory. Kernels allocate nothing: what they need besides their operands
// is taken from Scratch, whose size the planner declared, to the byte. Storage types: float, double (tests), bf16 (c10::BFloat16); all sums are in
// Acc<T> (float, or double for double). G is the dtype of gradients (T or float).
// Elementwise and per-row arithmetic is written once in bodies.h, for a loop here and for a CUDA grid later; matrix products go through
// gemm.h (ATen mm_out/addmm_out on views of planned memory).
// Deterministic: same operands, same bits, independent of which rows are computed together in chunks of 64.
#pragma once

#include <cstdint>

#include <c10/util/BFloat16.h>

#include "planner/core/model.h"

namespace zeroplan::kernels {

using bf16 = c10::BFloat16;

template <class T> struct AccOf { using type = float; };
template <> struct AccOf<double> { using type = double; };
template <class T> using Acc = typename AccOf<T>::type;

/// Row-major view; `stride` elements between rows.
template <class T>
struct Matrix {
  T* data = nullptr;
  std::int64_t rows = 0, columns = 0, stride = 0;
  T* row(std::int64_t i) const { return data + i * stride; }
};

/// Declared scratch of one instruction. take() hands it out front to back (64-byte aligned) and throws RunError past its end. Sizes: planner/ops/scratch.h.
class Scratch {
 public:
  Scratch(void* begin, std::int64_t bytes) : begin_(static_cast<char*>(begin)), bytes_(bytes) {}
  template <class T> T* take(std::int64_t count) { return static_cast<T*>(take_bytes(count * static_cast<std::int64_t>(sizeof(T)))); }
  std::int64_t used() const { return used_; }

 private:
  void* take_bytes(std::int64_t bytes);
  char* begin_;
  std::int64_t bytes_;
  std::int64_t used_ = 0;
};

/// Shapes of attention: B sequences of S tokens; row b·S + s of a matrix is token s of sequence b.
struct AttentionDims {
  std::int64_t batch, seq, heads, kv_heads, head_dim;
  QkvLayout layout;  ///< of the qkv matrix [B·S, (h + 2k)·D]
};

/// First column of head `i` of kind 0 query, 1 key, 2 value in a [*, (h+2k)·D] matrix of the given layout.
std::int64_t head_column(const AttentionDims& dims, int kind, std::int64_t i);

template <class T> void embedding(const std::int32_t* tokens, Matrix<const T> weight, Matrix<T> out);
/// dweight[token] += dout; zeroed first unless accumulate.
template <class T, class G> void embedding_backward(const std::int32_t* tokens, Matrix<const T> dout, Matrix<G> dweight, bool accumulate);

/// out = x·rstd·weight, rstd = 1/sqrt(mean(x²) + eps) per row.
template <class T> void rms_norm(Matrix<const T> x, const T* weight, double eps, Matrix<T> out, Acc<T>* rstd);
template <class T> void rms_norm_apply(Matrix<const T> x, const T* weight, const Acc<T>* rstd, Matrix<T> out);
/// dx (+)= gradient of the input (dx may be the same memory as dout or x where accumulate_dx is false), dweight (+)= Σ rows. Scratch: columns × Acc.
template <class T, class G>
void rms_norm_backward(Matrix<const T> x, const T* weight, const Acc<T>* rstd, Matrix<const T> dout, Matrix<T> dx, bool accumulate_dx, G* dweight,
                       bool accumulate_dweight, Scratch scratch);

/// out = in·weightᵀ [+ bias] [+ residual]; weight [out columns, in columns]. Scratch: 4 bytes per element of each bf16 matrix (in, weight, out), 0 otherwise.
template <class T>
void linear(Matrix<const T> in, Matrix<const T> weight, const T* bias, const Matrix<const T>* residual, Matrix<T> out, Scratch scratch);
/// din = dout·weight. Same scratch rule over (dout, weight, din).
template <class T> void linear_dgrad(Matrix<const T> dout, Matrix<const T> weight, Matrix<T> din, Scratch scratch);
/// dweight (+)= doutᵀ·in, dbias (+)= column sums of dout. Same scratch rule over (dout, in, dweight), plus dbias columns × Acc where there is a bias.
template <class T, class G>
void linear_wgrad(Matrix<const T> dout, Matrix<const T> in, Matrix<G> dweight, G* dbias, bool accumulate, Scratch scratch);

/// Rotary embedding in place on the query and key heads of qkv (pairs (i, i + D/2), Hugging Face's rotate_half); direction −1 is the transpose (backward).
/// table: [S, D] fp32: D/2 cosines then D/2 sines of each position.
template <class T> void rope(const AttentionDims& dims, Matrix<T> qkv, const float* table, int direction);
/// Fills the table: angle = position × theta^(−2i/D).
void rope_table(std::int64_t seq, std::int64_t head_dim, double theta, float* table);

/// qwen3: out [B·S, (h + k)·D] (query heads then key heads, contiguous) = rope(rms_norm over each head of qkv's q and k). rstd: [B·S, h + k].
template <class T>
void qk_norm_rope(const AttentionDims& dims, Matrix<const T> qkv, const T* query_weight, const T* key_weight, double eps, const float* table, Matrix<T> out,
                  Acc<T>* rstd);
/// In place on the q and k columns of dqkv (which hold the gradient of out, in qkv's columns): gradient of qkv before norm and rope.
/// dquery_weight, dkey_weight (+)=. Scratch: 2·D × Acc.
template <class T, class G>
void qk_norm_rope_backward(const AttentionDims& dims, Matrix<const T> qkv, const Acc<T>* rstd, const T* query_weight, const T* key_weight, const float* table,
                           Matrix<T> dqkv, G* dquery_weight, G* dkey_weight, bool accumulate, Scratch scratch);

/// Causal grouped-query attention. q and k come from `qk` where not null ([B·S, (h + k)·D], query heads then key heads), else from qkv; v always from qkv.
/// out [B·S, h·D], lse [B·S, h] = log-sum-exp of the scaled scores. Query tiles of R = min(64, S) rows.
/// Scratch: R·S × Acc; bf16 adds 4·(2·R·D + 2·S·D) (q, out tiles; k, v).
template <class T>
void attention(const AttentionDims& dims, Matrix<const T> qkv, const Matrix<const T>* qk, Matrix<T> out, Acc<T>* lse, Scratch scratch);
/// dqkv [B·S, (h + 2k)·D] in qkv's columns, overwritten. Scratch: 2·R·S × Acc + R × Acc;
/// bf16 adds 4·(3·R·D + 4·S·D) (q, dout, dq tiles; k, v, dk, dv).
template <class T>
void attention_backward(const AttentionDims& dims, Matrix<const T> qkv, const Matrix<const T>* qk, Matrix<const T> out, const Acc<T>* lse,
                        Matrix<const T> dout, Matrix<T> dqkv, Scratch scratch);

/// act = silu(gate)·up; gate_up [T, 2F] = gate | up.
template <class T> void swiglu(Matrix<const T> gate_up, Matrix<T> act);
/// In place: dact becomes act (recomputed), gate_up becomes its own gradient.
template <class T> void swiglu_backward(Matrix<T> gate_up, Matrix<T> dact);

/// losses[t] = −log softmax(logits[t])[target]; logits become (softmax − onehot)·scale. A target < 0 is ignored: loss 0, gradient 0.
template <class T> void cross_entropy(Matrix<T> logits, const std::int32_t* targets, double scale, Acc<T>* losses);
/// Σ losses in fp64, in order.
template <class A> double loss_sum(const A* losses, std::int64_t count);

/// shard (+)= full gradient slice.
template <class G> void accumulate_shard(const G* slice, G* shard, std::int64_t count, bool accumulate);
/// Σ x² in fp64, in order of fixed blocks.
template <class G> double sum_of_squares(const G* gradient, std::int64_t count);

struct AdamW {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  std::int64_t step;           ///< 1 for the first
  double gradient_scale;       ///< clip coefficient
};
/// One pass over a flat shard: master, m, v (fp32) updated; parameters written from master (may be the same memory as master for fp32). No scratch.
/// Per element independent of its neighbours: the same bits however a buffer is cut into shards of multiples of 16.
template <class T, class G>
void adamw(const AdamW& options, const G* gradient, float* master, float* m, float* v, T* parameters, std::int64_t count);

}  // namespace zeroplan::kernels
