// llm-foundry's own MPT (llmfoundry/models/mpt/modeling_mpt.py, layers/), as its training code runs it: low-precision layer norms, flash attention by way of
// flash_attn's bert_padding, which copies q, k, v and the output even where nothing is padded, learned positions or ALiBi inside the kernel, tied head.
// Its code was read, not run: no oracle has counted it.
#pragma once

#include "planner/engines/eager/hf_decoder.h"

namespace zeroplan::eager {

/// LPLayerNorm: under autocast in the autocast's dtype.
class LowPrecisionNorm : public LayerNorm {
 public:
  LowPrecisionNorm(Context& context, const HfConfig& config);

 protected:
  Tensors forward(Arguments& arguments) override;
};

class FoundryAttention : public Module {
 public:
  FoundryAttention(Context& context, const HfConfig& config);

 protected:
  /// positional: x; keyword: indices of the tokens that are no padding.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
  Linear w_qkv_, out_proj_;
};

class FoundryBlock : public DecoderBlock {
 public:
  FoundryBlock(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

 protected:
  /// keyword: indices of the tokens that are no padding.
  Tensors block(const Tensor& input, const Tensors& keyword) override;

 private:
  LowPrecisionNorm norm_1_;
  FoundryAttention attention_;
  LowPrecisionNorm norm_2_;
  Linear up_proj_, down_proj_;
};

class FoundryModel : public Module {
 public:
  FoundryModel(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

  Embedding wte;
  std::unique_ptr<Embedding> wpe;  ///< learned positions
  std::vector<std::unique_ptr<FoundryBlock>> layers;
  LowPrecisionNorm norm_f;

 protected:
  /// keyword: input_ids.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
};

}  // namespace zeroplan::eager
