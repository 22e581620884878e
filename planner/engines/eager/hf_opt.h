// transformers 5.24 modeling_opt.py: learned positions behind two unused rows, layer norms before or (350m) after each half, biases everywhere,
// an MLP on rows of tokens, and (350m) an embedding of another width that is projected in and out.
#pragma once

#include "planner/engines/eager/hf_decoder.h"

namespace zeroplan::eager {

class OptAttention : public Module {
 public:
  OptAttention(Context& context, const HfConfig& config);

 protected:
  /// keyword: hidden_states, mask if there is one.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
  Linear k_, v_, q_, out_;
};

class OptLayer : public DecoderBlock {
 public:
  OptLayer(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

 protected:
  /// keyword: position_ids, mask if there is one.
  Tensors block(const Tensor& input, const Tensors& keyword) override;

 private:
  Tensor fed(const Tensor& attended);

  bool norm_first_;
  OptAttention attention_;
  LayerNorm attention_norm_;
  Linear fc1_, fc2_;
  LayerNorm final_norm_;
};

class OptDecoder : public Module {
 public:
  OptDecoder(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

  Embedding embed_tokens, embed_positions;
  std::unique_ptr<Linear> project_out, project_in;
  std::unique_ptr<LayerNorm> final_norm;
  std::vector<std::unique_ptr<OptLayer>> layers;

 protected:
  /// keyword: input_ids.
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor position_ids(const Tensor& embedded) const;

  HfConfig config_;
};

}  // namespace zeroplan::eager
