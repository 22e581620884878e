// transformers 5.24 modeling_llama.py, and where they differ: modeling_qwen2.py (bias of q, k, v), modeling_qwen3.py (RMS norm of each query and key head),
// modeling_mistral.py (as Llama; a mask where a sequence is as long as the sliding window), modeling_gemma.py, modeling_gemma2.py and modeling_gemma3.py (scaled embedding,
// norms times 1 + weight, norms after each half, soft caps, one mask and rotary embedding for each kind of layer), modeling_phi3.py (fused q, k, v and gate, up; partly rotated heads),
// modeling_olmo2.py (norms after each half and over whole projections), modeling_glm.py (interleaved pairs of a partly rotated head, fused gate and up).
#pragma once

#include "planner/engines/eager/hf_decoder.h"

namespace zeroplan::eager {

class LlamaAttention : public Module {
 public:
  LlamaAttention(Context& context, const HfConfig& config);
  void add_lora(const LoraConfig& lora);

 protected:
  /// keyword: hidden_states, cos, sin, mask if there is one.
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor heads(Module& projection, Module* norm, const Tensor& hidden);
  Tensors projected(const Tensor& hidden);
  Tensors cut(const Tensor& hidden);

  HfConfig config_;
  std::unique_ptr<Module> q_, k_, v_, o_;  ///< fused_qkv: q_ is all three
  std::unique_ptr<RmsNorm> q_norm_, k_norm_;
};

class LlamaMlp : public Module {
 public:
  LlamaMlp(Context& context, const HfConfig& config);
  void add_lora(const LoraConfig& lora);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor feed(const Tensor& x);

  HfConfig config_;
  std::unique_ptr<Module> gate_, up_, down_;  ///< fused_gate_up: gate_ is both
};

class LlamaLayer : public DecoderBlock {
 public:
  LlamaLayer(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);
  void add_lora(const LoraConfig& lora);

 protected:
  /// keyword: cos, sin, position_ids, mask if there is one.
  Tensors block(const Tensor& input, const Tensors& keyword) override;

 private:
  LlamaAttention attention_;
  LlamaMlp mlp_;
  std::unique_ptr<Module> input_norm_, attention_out_norm_, mlp_norm_, mlp_out_norm_;  ///< those that the model has
};

class LlamaRotary : public Module {
 public:
  /// `in_fp32`: the waves are not cast to x's dtype.
  LlamaRotary(Context& context, std::int64_t head_dim, bool in_fp32 = false);
  void initialise_again();  ///< _init_weights of post_init

 protected:
  /// positional: x, position_ids; results cos, sin.
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor inverse_frequencies() const;
  std::int64_t head_dim_;
  bool in_fp32_;
  Tensor inv_freq_, original_inv_freq_;
};

class LlamaModel : public Module {
 public:
  LlamaModel(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints);

  Embedding embed_tokens;
  std::vector<std::unique_ptr<LlamaLayer>> layers;
  std::unique_ptr<Module> norm;
  LlamaRotary rotary;
  std::unique_ptr<LlamaRotary> local_rotary;  ///< of sliding layers, where they have their own

 protected:
  /// keyword: input_ids.
  Tensors forward(Arguments& arguments) override;

 private:
  struct Masks {
    Tensor full, sliding;  ///< undefined: not needed
  };
  Masks masks(const Tensor& embedded);

  HfConfig config_;
};

class LlamaLm : public CausalLm {
 public:
  LlamaLm(Context& context, const HfConfig& config);
  void add_lora(const LoraConfig& lora) override;

 protected:
  /// keyword: input_ids, labels; results loss, logits.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
  LlamaModel model_;
  Linear lm_head_;
};

}  // namespace zeroplan::eager
