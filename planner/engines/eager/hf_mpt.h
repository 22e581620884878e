// transformers 5.24 modeling_mpt.py: ALiBi added to the scores, attention always written out, layer norms without bias, one matrix for q, k and v, no biases.
#pragma once

#include "planner/engines/eager/hf_decoder.h"

namespace zeroplan::eager {

class MptAttention : public Module {
 public:
  MptAttention(Context& context, const HfConfig& config);

 protected:
  /// positional: hidden_states; keyword: position_bias, attention_mask.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
  Linear w_qkv_, out_proj_;
};

class MptMlp : public Module {
 public:
  MptMlp(Context& context, const HfConfig& config);

 protected:
  /// positional: hidden_states, residual.
  Tensors forward(Arguments& arguments) override;

 private:
  Linear up_proj_, down_proj_;
};

class MptBlock : public DecoderBlock {
 public:
  MptBlock(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

 protected:
  /// keyword: position_bias, attention_mask.
  Tensors block(const Tensor& input, const Tensors& keyword) override;

 private:
  LayerNorm norm_1_;
  MptAttention attention_;
  LayerNorm norm_2_;
  MptMlp mlp_;
};

class MptModel : public Module {
 public:
  MptModel(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

  Embedding wte;
  std::vector<std::unique_ptr<MptBlock>> layers;
  LayerNorm norm_f;

 protected:
  /// keyword: input_ids.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
};

}  // namespace zeroplan::eager
