// What the attention modules of transformers' decoders share: the mask a model makes before its blocks (masking_utils.py), and the attention
// interfaces (integrations/sdpa_attention.py, and eager_attention_forward, which is alike in every modeling file).
#pragma once

#include "planner/engines/eager/hf_models.h"

namespace zeroplan::eager {

/// create_causal_mask, always made: [batch, 1, tokens, tokens]. eager: float in `type`; else bool, one for the whole batch.
/// `sliding`: create_sliding_window_causal_mask.
Tensor causal_mask(Context& context, AttentionKernel attention, const Tensor& embedded, bool sliding = false);

/// k or v with a head for every query head: repeat_kv.
Tensor repeat_kv(const Tensor& x, std::int64_t repeats);

/// torch.nn.functional.scaled_dot_product_attention. A mask (bool, or float to be added) rules the flash and cuDNN kernels out.
/// Without a mask fewer key than query heads are all right (enable_gqa); with one, heads that do not match take the math composition.
Tensor sdpa(AttentionKernel attention, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask);

struct Attended {
  Tensor out;      ///< [batch, tokens, heads, head_dim], contiguous
  Tensor weights;  ///< of eager attention: a block's frame keeps them until it returns; else undefined

  /// `out` as an attention module returns it.
  Tensors with(Tensor projected) const;
};

/// The attention interface: q, k, v as [batch, heads, tokens, head_dim]. `mask` may be undefined.
Attended attend(const HfConfig& config, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask);

/// _is_packed_sequence (modeling_flash_attention_utils.py), for q [batch, heads, tokens, head_dim]: the host waits for the device if `config` says so.
void read_positions(const HfConfig& config, const Tensor& q);

/// apply_rotary_pos_emb: q and k [batch, heads, tokens, head_dim], cos and sin [batch, tokens, rotary dims].
void rotate(const HfConfig& config, Tensor& q, Tensor& k, const Tensor& cos, const Tensor& sin);

}  // namespace zeroplan::eager
