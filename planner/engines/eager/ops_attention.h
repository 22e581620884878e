// Ops that attention is made of where it is not one flash kernel: batched products, softmax, masks; and the other fused kernels of
// torch.nn.functional.scaled_dot_product_attention. As in ops.h; autocast applies to the matrix products.
#pragma once

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

// ---- views and small ops -----------------------------------------------------------------------------------------------------------------

/// x[..., start : start + length, ...] along `dim`; only the length matters here.
Tensor narrow(const Tensor& x, int dim, std::int64_t length);
/// x[..., ::2] (or 1::2)
Tensor every_second(const Tensor& x);
/// x.select(dim, index)
Tensor select(const Tensor& x, int dim);
/// A size of 1 may become any; -1 keeps it.
Tensor expand(const Tensor& x, std::initializer_list<std::int64_t> sizes);
/// x[:, ..., [index]] along `dim`: a copy of one slice, the dim stays with size 1.
Tensor index_one(const Tensor& x, int dim);
/// torch.stack((a, b), dim=-1)
Tensor stack_last(const Tensor& a, const Tensor& b);
/// `a += b`: a's storage goes on under a new name.
Tensor add_in_place(const Tensor& a, const Tensor& b);
/// `x /= number`
Tensor div_in_place(const Tensor& x);
/// x.masked_fill(mask, number)
Tensor masked_fill(const Tensor& x, const Tensor& mask);
Tensor relu(const Tensor& x);

// ---- attention written out ---------------------------------------------------------------------------------------------------------------

/// torch.bmm on [n, a, b] and [n, b, c].
Tensor bmm(const Tensor& a, const Tensor& b);
/// input.baddbmm(a, b): input is broadcast over the rows.
Tensor baddbmm(const Tensor& input, const Tensor& a, const Tensor& b);
/// torch.matmul of two tensors of 4 dims with equal batches (b's may be 1): operands that cannot be seen as [n, a, b] are copied.
/// Or of [n, a, b] and [b, c]; unlike linear's weight, b is cast anew each time under autocast if it is a view.
Tensor matmul(const Tensor& a, const Tensor& b);
/// softmax(x, dim=-1, dtype=fp32) where `type` is fp32: a cast, then one kernel.
Tensor softmax_last(const Tensor& x, ScalarType type);

// ---- fused kernels, on [batch, heads, tokens, head_dim] ------------------------------------------------------------------------------------

/// aten::_scaled_dot_product_efficient_attention on sm80 and later. `bias` is a float mask that is added, or undefined. Backward: dq, dk, dv, delta and the
/// kernel's workspace: fp32 tiles of dq, and of dk and dv where head_dim exceeds 128 (attention_backward.cu, mem_eff_attention/kernel_backward.h).
Tensor efficient_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias);
/// aten::_scaled_dot_product_cudnn_attention: out and fp32 statistics. Backward: dq, dk, dv and a workspace taken as dq and one row sum in fp32; cuDNN does not say.
Tensor cudnn_attention(const Tensor& q, const Tensor& k, const Tensor& v);

/// Bytes of efficient attention's backward workspace.
std::int64_t efficient_workspace_bytes(const Tensor& q, const Tensor& k);

}  // namespace zeroplan::eager
