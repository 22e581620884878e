// The decoders of transformers 5.24 as their forward code runs on eager PyTorch: Llama, Qwen2, Qwen3, Mistral (one code with switches) and GPT-2,
// with the causal language-model loss, gradient checkpointing of blocks and peft's LoRA. Attention is sdpa as one flash op; no mask is made.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "planner/engines/eager/modules.h"

namespace zeroplan::eager {

/// Sizes and switches of a model. `gpt2`: learned positions, LayerNorm, Conv1D, tanh GELU written out.
struct HfConfig {
  enum class Family : std::uint8_t { llama, gpt2 } family = Family::llama;
  std::int64_t hidden_size = 0, num_layers = 0, vocab_size = 0, intermediate_size = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::int64_t max_positions = 0;  ///< gpt2: rows of the position embedding
  bool tie_embeddings = false;
  bool qkv_bias = false;  ///< qwen2
  bool qk_norm = false;   ///< qwen3
  ScalarType type = ScalarType::bf16;  ///< the model is made in
};

/// The HfConfig of a planner Model (Llama-like; InternLM2 runs as Llama). `positions`: tokens of a sequence.
HfConfig hf_config(const Model& model, ScalarType type, std::int64_t positions);

struct LoraConfig {
  std::int64_t rank = 0;
  std::vector<std::string> targets;  ///< "q_proj", ...
};

/// A transformers model for causal language modelling.
class CausalLm : public Module {
 public:
  /// Allocates the parameters and buffers in the order of the model's __init__ (a tied head is made, then dropped).
  static std::unique_ptr<CausalLm> make(Context& context, const HfConfig& config);

  /// model(input_ids=ids, labels=ids).loss: logits die here, unless autograd keeps them.
  Tensor loss(const Tensor& ids);

  /// gradient_checkpointing_enable
  void enable_checkpointing(CheckpointMode mode);
  /// model.enable_input_require_grads(): the embedding's output becomes a leaf that needs gradients.
  void enable_input_require_grads();
  /// peft.get_peft_model: freezes everything, then wraps the targets. Llama family only.
  virtual void add_lora(const LoraConfig& lora);

  const std::vector<Module*>& blocks() const { return blocks_; }
  Module& input_embedding() const { return *embedding_; }

 protected:
  using Module::Module;

  std::vector<Module*> blocks_;
  Module* embedding_ = nullptr;
  std::vector<Tensor> extras_;  ///< small tensors that live with the model
  CheckpointMode checkpoint_ = CheckpointMode::none;
};

/// What the tools do to a model that was made: adapters, checkpointing, and the embedding's output as a leaf where they need it.
void set_up(CausalLm& model, const LoraConfig& lora, CheckpointMode checkpoint);
/// A model, made and set up.
std::unique_ptr<CausalLm> make_causal_lm(Context& context, const HfConfig& config, const LoraConfig& lora, CheckpointMode checkpoint);

/// ForCausalLMLoss: logits in fp32, labels shifted by padding, mean cross entropy.
Tensor causal_lm_loss(Tensor logits, Tensor labels);

}  // namespace zeroplan::eager
