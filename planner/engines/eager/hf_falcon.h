// transformers 5.24 modeling_falcon.py: products with biases added after them, attention and MLP beside each other under one or two layer norms,
// one key and value head for all query heads (7b) or for a group of them (40b, 180b), a mask always made, rotary embeddings.
// Its sdpa with a mask takes the efficient kernel where key heads are repeated (40b), and the math composition where they are not (7b).
#pragma once

#include "planner/engines/eager/hf_llama.h"

namespace zeroplan::eager {

/// FalconLinear: x @ weight.T + bias
class FalconLinear : public Linear {
 public:
  using Linear::Linear;

 protected:
  Tensors forward(Arguments& arguments) override;
};

class FalconAttention : public Module {
 public:
  FalconAttention(Context& context, const HfConfig& config);

 protected:
  /// positional: hidden_states; keyword: cos, sin, position_ids, attention_mask.
  Tensors forward(Arguments& arguments) override;

 private:
  Tensors heads(const Tensor& fused) const;

  HfConfig config_;
  FalconLinear query_key_value_, dense_;
};

class FalconMlp : public Module {
 public:
  FalconMlp(Context& context, const HfConfig& config);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  FalconLinear dense_h_to_4h_, dense_4h_to_h_;
};

class FalconLayer : public DecoderBlock {
 public:
  FalconLayer(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

 protected:
  /// keyword: cos, sin, position_ids, attention_mask.
  Tensors block(const Tensor& input, const Tensors& keyword) override;

 private:
  bool parallel_;
  FalconAttention attention_;
  FalconMlp mlp_;
  LayerNorm attention_norm_;
  std::unique_ptr<LayerNorm> mlp_norm_;  ///< undefined: the MLP reads what attention reads
};

class FalconModel : public Module {
 public:
  FalconModel(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

  Embedding word_embeddings;
  std::vector<std::unique_ptr<FalconLayer>> layers;
  LayerNorm final_norm;
  LlamaRotary rotary;

 protected:
  /// keyword: input_ids.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
};

}  // namespace zeroplan::eager
