// transformers 5.24 modeling_gpt2.py: learned positions, LayerNorm, Conv1D (addmm), the tanh GELU as separate ops, tied head.
#pragma once

#include "planner/engines/eager/hf_decoder.h"

namespace zeroplan::eager {

class Conv1d : public Module {
 public:
  Conv1d(Context& context, std::int64_t in, std::int64_t out, ScalarType type);

 protected:
  Tensors forward(Arguments& arguments) override;
};

class Gpt2Attention : public Module {
 public:
  Gpt2Attention(Context& context, const HfConfig& config);

 protected:
  /// positional: hidden_states, mask if there is one.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
  Conv1d c_attn_, c_proj_;
};

class Gpt2Mlp : public Module {
 public:
  Gpt2Mlp(Context& context, const HfConfig& config);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  Conv1d c_fc_, c_proj_;
};

class Gpt2Block : public DecoderBlock {
 public:
  Gpt2Block(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

 protected:
  /// keyword: position_ids, mask if there is one.
  Tensors block(const Tensor& input, const Tensors& keyword) override;

 private:
  LayerNorm ln_1_;
  Gpt2Attention attention_;
  LayerNorm ln_2_;
  Gpt2Mlp mlp_;
};

class Gpt2Model : public Module {
 public:
  Gpt2Model(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

  Embedding wte, wpe;
  std::vector<std::unique_ptr<Gpt2Block>> blocks;
  LayerNorm ln_f;

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
};

class Gpt2Lm : public CausalLm {
 public:
  Gpt2Lm(Context& context, const HfConfig& config);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
  Gpt2Model model_;
  Linear lm_head_;
};

}  // namespace zeroplan::eager
