// transformers 5.24 modeling_bloom.py: ALiBi, which attention's scores start from; attention always written out, whatever attn_implementation says;
// one matrix for q, k and v cut inside each head; a GELU of its own; a layer norm after the embedding; residuals added inside attention and MLP.
#pragma once

#include "planner/engines/eager/hf_decoder.h"

namespace zeroplan::eager {

class BloomAttention : public Module {
 public:
  BloomAttention(Context& context, const HfConfig& config);

 protected:
  /// positional: hidden_states, residual; keyword: attention_mask, alibi.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
  Linear query_key_value_, dense_;
};

class BloomMlp : public Module {
 public:
  BloomMlp(Context& context, const HfConfig& config);

 protected:
  /// positional: hidden_states, residual.
  Tensors forward(Arguments& arguments) override;

 private:
  Linear dense_h_to_4h_, dense_4h_to_h_;
};

class BloomBlock : public DecoderBlock {
 public:
  BloomBlock(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

 protected:
  /// keyword: attention_mask, alibi.
  Tensors block(const Tensor& input, const Tensors& keyword) override;

 private:
  LayerNorm input_norm_;
  BloomAttention attention_;
  LayerNorm post_attention_norm_;
  BloomMlp mlp_;
};

class BloomModel : public Module {
 public:
  BloomModel(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

  Embedding word_embeddings;
  LayerNorm embedding_norm;
  std::vector<std::unique_ptr<BloomBlock>> layers;
  LayerNorm final_norm;

 protected:
  /// keyword: input_ids.
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor alibi(const Tensor& slopes, const Tensor& hidden) const;

  HfConfig config_;
};

}  // namespace zeroplan::eager
