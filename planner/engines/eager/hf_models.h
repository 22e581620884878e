// The decoders of transformers 5.24 as their forward code runs on eager PyTorch, with the causal language-model loss, gradient checkpointing of blocks and
// peft's LoRA. One code with switches (hf_llama.h): Llama, Qwen2, Qwen3, Mistral, Gemma 1 to 3, Phi3, OLMo2, GLM; files of their own: GPT-2, GPT-NeoX, OPT,
// BLOOM, Falcon, MPT. Remote code that transformers has no class for runs as its nearest: see hf_config.
// Attention is sdpa unless said: as one flash op, for which no mask is made. Where a model makes one all the same, sdpa takes its efficient kernel.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "planner/engines/eager/modules.h"

namespace zeroplan::eager {

/// attn_implementation. flash, efficient, cudnn: the kernel that sdpa takes; eager: products and softmax written out, tokens × tokens matrices are saved.
enum class AttentionKernel : std::uint8_t { flash, eager, efficient, cudnn };

/// How the loss comes from the last hidden states.
struct LossConfig {
  /// plain: all logits, then cross entropy. fused: liger_kernel's FusedLinearCrossEntropy, gradients made in forward, chunk by chunk.
  /// chunked: torchtune's CEWithChunkedOutputLoss, the head and an fp32 cross entropy on each of `chunks` parts of the tokens.
  enum class Kind : std::uint8_t { plain, fused, chunked } kind = Kind::plain;
  bool logits_fp32 = true;  ///< plain: the logits are cast to fp32 first (transformers' ForCausalLMLoss)
  std::int64_t chunks = 8;  ///< chunked

  friend bool operator==(const LossConfig&, const LossConfig&) = default;
};

/// Sizes and switches of a model. The defaults are Llama's; `gpt2`: learned positions, LayerNorm, Conv1D, tanh GELU written out.
struct HfConfig {
  enum class Family : std::uint8_t { llama, gpt2, gpt_neox, opt, bloom, falcon, mpt } family = Family::llama;
  std::int64_t hidden_size = 0, num_layers = 0, vocab_size = 0, intermediate_size = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::int64_t max_positions = 0;  ///< gpt2: rows of the position embedding
  bool tie_embeddings = false;
  bool qkv_bias = false;  ///< qwen2
  bool qk_norm = false;   ///< qwen3
  ScalarType type = ScalarType::bf16;  ///< the model is made in

  AttentionKernel attention = AttentionKernel::flash;
  LossConfig loss;

  // What models unlike Llama have. Meanings of Model's fields of the same names (core/model.h).
  bool attn_out_bias = false, mlp_bias = false;
  bool norm_bias = true;       ///< of layer norms
  bool norm_in_fp32 = false;   ///< the RMS norm's weight multiplies before the cast back (olmo2)
  NormKind norm = NormKind::rmsnorm;
  MlpKind mlp = MlpKind::swiglu;
  PositionKind position = PositionKind::rope;
  bool qk_norm_full = false, post_norm = false, parallel_residual = false, final_norm = true;
  std::int64_t norms_per_layer = 2;
  std::int64_t rotary_dims = 0;      ///< dims of each head that are rotated; 0: all
  bool interleaved_rotary = false;   ///< neighbouring dims form a pair (glm)
  bool fused_qkv = false;            ///< q, k and v come from one matrix, cut by columns (phi3, baichuan)
  bool fused_gate_up = false;        ///< phi3, glm
  bool scaled_embedding = false;     ///< gemma: times the square root of hidden_size
  bool attn_softcap = false, logit_softcap = false;
  std::optional<std::int64_t> sliding_window;  ///< only if a sequence is as long as it, so that it needs a mask
  std::int64_t full_attention_every = 0;       ///< of the sliding layers; 0: all slide
  bool local_rotary = false;                   ///< sliding layers have their own rotary embedding (gemma3)
  std::int64_t embedding_dim = 0;              ///< where it is not hidden_size (opt-350m); 0: it is

  bool slides(std::int64_t layer) const { return full_attention_every == 0 || (layer + 1) % full_attention_every != 0; }
};

/// The HfConfig of a planner Model, as transformers configures it by default (gemma2, bloom and mpt: eager attention). `positions`: tokens of a sequence.
/// Of transformers: llama, qwen2, qwen3, mistral, gemma, gemma2, gemma3_text, phi3, olmo2, glm, gpt2, gpt_neox, opt, bloom, falcon, mpt.
/// Assumed, for want of a class there: internlm, internlm2, internlm3 run as Llama with their biases; baichuan as Llama with one matrix for q, k, v
/// (its 13B: ALiBi as a float mask of heads × tokens × tokens to sdpa); chatglm as glm with one matrix for q, k, v.
/// Throws UsageError for mixtures of experts, latent attention and vision towers.
HfConfig hf_config(const Model& model, ScalarType type, std::int64_t positions);

struct LoraConfig {
  std::int64_t rank = 0;
  std::vector<std::string> targets;  ///< "q_proj", ...
};

/// A block of a decoder, run under the model's checkpoint policy. positional: hidden_states; keyword: what else the model hands it (a checkpoint keeps it all).
class DecoderBlock : public Module {
 public:
  /// `owner.where` names the block.
  DecoderBlock(Context& owner, const char* kind, const CheckpointPolicy& policy) : Module(owner, kind), policy_(policy) { where = owner.where; }

 protected:
  Tensors forward(Arguments& arguments) override;
  virtual Tensor block(const Tensor& input, const Tensors& keyword) = 0;

 private:
  const CheckpointPolicy& policy_;
};

/// Makes config.num_layers blocks, each at its own place; then the place is the head.
template <class Block>
std::vector<std::unique_ptr<Block>> make_blocks(Context& context, const HfConfig& config, const CheckpointPolicy& policy) {
  std::vector<std::unique_ptr<Block>> out;
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    Scoped here(context.where, Where{.unit = UnitKind::block, .block = static_cast<std::int32_t>(i)});
    out.push_back(std::make_unique<Block>(context, config, policy));
  }
  context.where = {.unit = UnitKind::head};
  return out;
}

/// A transformers model for causal language modelling.
class CausalLm : public Module {
 public:
  /// Allocates the parameters and buffers in the order of the model's __init__ (a tied head is made, then dropped).
  static std::unique_ptr<CausalLm> make(Context& context, const HfConfig& config);

  /// model(input_ids=ids, labels=ids).loss: logits die here, unless autograd keeps them.
  Tensor loss(const Tensor& ids);

  /// gradient_checkpointing_enable
  void enable_checkpointing(CheckpointMode mode) { checkpoint_.mode = mode; }
  void enable_checkpointing(const CheckpointPolicy& policy) { checkpoint_ = policy; }
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
  CheckpointPolicy checkpoint_;
};

/// What the tools do to a model that was made: adapters, checkpointing, and the embedding's output as a leaf where they need it.
void set_up(CausalLm& model, const LoraConfig& lora, CheckpointMode checkpoint);
/// A model, made and set up.
std::unique_ptr<CausalLm> make_causal_lm(Context& context, const HfConfig& config, const LoraConfig& lora, CheckpointMode checkpoint);

/// ForCausalLMLoss: logits in fp32 (if said), labels shifted by padding, mean cross entropy.
Tensor causal_lm_loss(Tensor logits, Tensor labels, bool logits_fp32 = true);
/// Head and loss as config.loss says: {loss, logits}; logits are undefined where they were never whole.
Tensors head_and_loss(const HfConfig& config, Linear& head, const Tensor& hidden, const Tensor& labels);

}  // namespace zeroplan::eager
