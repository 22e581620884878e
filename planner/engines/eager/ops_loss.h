// Losses that are more than torch's cross entropy.
#pragma once

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

/// liger_kernel 0.8 ops/fused_linear_cross_entropy.py on hidden [tokens, H] and weight [V, H]: the logits are made for next_power_of_2(tokens / (V / H)) tokens at a time,
/// their gradient takes their place, and the gradients of hidden and weight are made in forward; backward hands these on.
Tensor fused_linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& target);

/// Tokens of one chunk of it.
std::int64_t fused_loss_chunk_tokens(std::int64_t tokens, std::int64_t hidden_size, std::int64_t vocab_size);

/// F.cross_entropy(logits, target, reduction="sum")
Tensor cross_entropy(const Tensor& logits, const Tensor& target);

/// flash_attn.losses.cross_entropy.CrossEntropyLoss(reduction="none"): fp32 losses and log-sum-exps by row; backward: the logits' gradient in a new tensor.
Tensor flash_cross_entropy(const Tensor& logits, const Tensor& target);
/// x.sum()
Tensor sum_all(const Tensor& x);

}  // namespace zeroplan::eager
