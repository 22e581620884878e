// The ops of transformers' decoders as torch 2.11 runs them: what each allocates forward, what autograd saves, what its backward formula
// allocates and in which order (derivatives.yaml, FunctionsManual.cpp). An op that torch composes of others (linear, reshape, cross_entropy) is composed of the
// same ones here, because each of them is a node of its own in the backward engine's order. Numbers are not computed.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>

#include "planner/engines/eager/eager.h"

namespace zeroplan::eager {

// ---- building stones -----------------------------------------------------------------------------------------------------------------

/// Sizes by broadcasting, strides by TensorIterator (reorder_dimensions over the operands in order).
Shape elementwise_shape(std::initializer_list<const Tensor*> inputs);
/// One new tensor as an elementwise kernel makes it; records no graph.
Tensor elementwise(const char* site, ScalarType type, std::initializer_list<const Tensor*> inputs);
/// sum_to: one reduction to the expected sizes.
Tensor sum_to(const Tensor& tensor, const Shape& expected);
/// _to_copy without a graph.
Tensor cast(const Tensor& tensor, ScalarType type);
/// What a matrix product [batch] rows × inner × columns computes and moves, reported as one kernel (work.h).
struct ProductSize {
  std::int64_t batch = 1, rows = 0, inner = 0, columns = 0;
};
void report_product(Context& context, const ProductSize& size, ScalarType type);
/// FLOPs of a fused causal attention forward on [batch, heads, tokens, head_dim]: two products of half the tokens × tokens matrix.
double causal_attention_flops(const Tensor& q, const Tensor& k);
/// A fused attention kernel on them, as work.
Computation fused_attention(const Tensor& q, const Tensor& k, double flops, std::int64_t moved_bytes);
/// The dtype of an op on both.
ScalarType promoted(ScalarType a, ScalarType b);

// ---- views (no memory; reshape and contiguous copy where they must) --------------------------------------------------------------------

Tensor view(const Tensor& x, std::initializer_list<std::int64_t> sizes);
Tensor reshape(const Tensor& x, std::initializer_list<std::int64_t> sizes);
Tensor transpose(const Tensor& x, int dim0, int dim1);
Tensor t(const Tensor& x);
Tensor slice_last(const Tensor& x, std::int64_t start, std::int64_t length);
Tensor unsqueeze(const Tensor& x, int dim);
Tensors split_last(const Tensor& x, std::int64_t length);
Tensor contiguous(const Tensor& x);
Tensor clone(const Tensor& x, bool row_major = false);

// ---- elementwise -----------------------------------------------------------------------------------------------------------------------

Tensor to(const Tensor& x, ScalarType type);  ///< x itself where it has the type
Tensor add(const Tensor& a, const Tensor& b);
Tensor add_scalar(const Tensor& x);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor mul_scalar(const Tensor& x);
Tensor div_scalar(const Tensor& x);
Tensor pow_scalar(const Tensor& x);  ///< exponents other than 0 and 1
Tensor rsqrt(const Tensor& x);
Tensor neg(const Tensor& x);
/// One kernel forward and one backward, of the gradient and what is saved: the input or the result.
Tensor fused_unary(const Tensor& x, const char* name, const char* site, const char* backward_site, bool saves_result);
Tensor silu(const Tensor& x);
/// torch.nn.Dropout while training: a mask of one byte an element is kept.
Tensor dropout(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor gelu(const Tensor& x);
Tensor cos(const Tensor& x);
Tensor sin(const Tensor& x);

// ---- reductions, joins -------------------------------------------------------------------------------------------------------------------

Tensor mean_last(const Tensor& x);  ///< keepdim
Tensor cat_last(const Tensor& a, const Tensor& b);

// ---- matrices (autocast applies to linear, addmm and matmul-like ops) --------------------------------------------------------------------

Tensor mm(const Tensor& a, const Tensor& b);
/// aten::addmm, 2-D. bias may be a row.
Tensor addmm(const Tensor& bias, const Tensor& a, const Tensor& b);
/// torch.nn.functional.linear; bias may be undefined.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias);

// ---- layers ------------------------------------------------------------------------------------------------------------------------------

Tensor embedding(const Tensor& weight, const Tensor& ids);
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias);  ///< bias may be undefined
/// Flash attention as one op on [batch, heads, tokens, head_dim]: out and log-sum-exp; backward dq, dk, dv and FlashAttention-2's buffers.
Tensor flash_attention(const Tensor& q, const Tensor& k, const Tensor& v);

// ---- loss ----------------------------------------------------------------------------------------------------------------------------------

Tensor log_softmax(const Tensor& x);
Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target);
/// constant_pad_nd by one at the end of the last dim.
Tensor pad_last(const Tensor& x);

}  // namespace zeroplan::eager
