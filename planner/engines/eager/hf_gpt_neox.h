// transformers 5.24 modeling_gpt_neox.py: layer norms with biases, one matrix for q, k and v cut inside each head, partly rotated heads,
// attention and MLP beside or after each other.
#pragma once

#include "planner/engines/eager/hf_llama.h"

namespace zeroplan::eager {

class NeoxAttention : public Module {
 public:
  NeoxAttention(Context& context, const HfConfig& config);

 protected:
  /// keyword: hidden_states, cos, sin, mask if there is one.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
  Linear query_key_value_, dense_;
};

class NeoxMlp : public Module {
 public:
  NeoxMlp(Context& context, const HfConfig& config);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  Linear dense_h_to_4h_, dense_4h_to_h_;
};

class NeoxLayer : public DecoderBlock {
 public:
  NeoxLayer(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

 protected:
  /// keyword: cos, sin, position_ids, mask if there is one.
  Tensors block(const Tensor& input, const Tensors& keyword) override;

 private:
  bool parallel_residual_;
  LayerNorm input_norm_, post_attention_norm_;
  NeoxAttention attention_;
  NeoxMlp mlp_;
};

class NeoxModel : public Module {
 public:
  NeoxModel(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

  Embedding embed_in;
  std::vector<std::unique_ptr<NeoxLayer>> layers;
  LayerNorm final_norm;
  LlamaRotary rotary;

 protected:
  /// keyword: input_ids.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
};

}  // namespace zeroplan::eager
