// transformers 5.24 modeling_llama.py, and where they differ modeling_qwen2.py (bias of q, k, v), modeling_qwen3.py (RMS norm of each query and key head)
// and modeling_mistral.py (as Llama without a sliding window).
#pragma once

#include "planner/engines/eager/hf_models.h"

namespace zeroplan::eager {

class LlamaAttention : public Module {
 public:
  LlamaAttention(Context& context, const HfConfig& config);
  void add_lora(const LoraConfig& lora);

 protected:
  /// keyword: hidden_states, cos, sin.
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor heads(Module& projection, Module* norm, const Tensor& hidden);

  HfConfig config_;
  std::unique_ptr<Module> q_, k_, v_, o_;
  std::unique_ptr<RmsNorm> q_norm_, k_norm_;
};

class LlamaMlp : public Module {
 public:
  LlamaMlp(Context& context, const HfConfig& config);
  void add_lora(const LoraConfig& lora);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
  std::unique_ptr<Module> gate_, up_, down_;
};

class LlamaLayer : public Module {
 public:
  LlamaLayer(Context& context, const HfConfig& config, const CheckpointMode& mode);
  void add_lora(const LoraConfig& lora);

 protected:
  /// positional: hidden_states; keyword: cos, sin, position_ids (a checkpoint keeps them all).
  Tensors forward(Arguments& arguments) override;

 private:
  Tensors layer(const Tensor& input, const Tensors& keyword);

  const CheckpointMode& mode_;
  LlamaAttention attention_;
  LlamaMlp mlp_;
  RmsNorm input_norm_, post_attention_norm_;
};

class LlamaRotary : public Module {
 public:
  LlamaRotary(Context& context, std::int64_t head_dim);
  void initialise_again();  ///< _init_weights of post_init

 protected:
  /// positional: x, position_ids; results cos, sin.
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor inverse_frequencies() const;
  std::int64_t head_dim_;
  Tensor inv_freq_, original_inv_freq_;
};

class LlamaModel : public Module {
 public:
  LlamaModel(Context& context, const HfConfig& config, const CheckpointMode& mode);

  Embedding embed_tokens;
  std::vector<std::unique_ptr<LlamaLayer>> layers;
  RmsNorm norm;
  LlamaRotary rotary;

 protected:
  /// keyword: input_ids.
  Tensors forward(Arguments& arguments) override;
};

class LlamaLm : public CausalLm {
 public:
  LlamaLm(Context& context, const HfConfig& config);
  void add_lora(const LoraConfig& lora) override;

 protected:
  /// keyword: input_ids, labels; results loss, logits.
  Tensors forward(Arguments& arguments) override;

 private:
  LlamaModel model_;
  Linear lm_head_;
};

}  // namespace zeroplan::eager
