// The decoders of transformers 5.24 as their forward code runs on eager PyTorch, with the causal language-model loss, gradient checkpointing of blocks and
// peft's LoRA. One code with switches (hf_llama.h): Llama, Qwen2, Qwen3, Mistral, Gemma 1 to 3, Phi3, OLMo2, GLM; files of their own: GPT-2, GPT-NeoX, OPT,
// BLOOM, Falcon, MPT, and llm-foundry's own MPT. Remote code that transformers has no class for runs as its nearest: see hf_config.
// Attention is sdpa unless said: as one flash op, for which no mask is made. Where a model makes one all the same, sdpa takes its efficient kernel.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "planner/core/plan.h"
#include "planner/engines/eager/modules.h"

namespace zeroplan::eager {

/// How the loss comes from the last hidden states.
struct LossConfig {
  /// plain: all logits, then cross entropy. fused: liger_kernel's FusedLinearCrossEntropy, gradients made in forward, chunk by chunk.
  /// chunked: torchtune's CEWithChunkedOutputLoss, the head and an fp32 cross entropy on each of `chunks` parts of the tokens.
  /// flash: flash_attn's CrossEntropyLoss on logits of their own dtype, whose gradient is one more tensor of it (llm-foundry's default).
  enum class Kind : std::uint8_t { plain, fused, chunked, flash } kind = Kind::plain;
  bool logits_fp32 = true;  ///< plain: the logits are cast to fp32 first (transformers' ForCausalLMLoss)
  std::int64_t chunks = 8;  ///< chunked
  bool shifts_logits = false;  ///< plain, before transformers 4.50: the logits are shifted and copied instead of the labels

  friend bool operator==(const LossConfig&, const LossConfig&) = default;
};

/// bitsandbytes' 4-bit weights in the place of the blocks' projections (quantised.h); embeddings, norms and head stay as they are.
struct FourBitWeights {
  bool double_quantised = true;              ///< bnb_4bit_use_double_quant: block statistics in 8 bits
  ScalarType storage = ScalarType::uint8;    ///< bnb_4bit_quant_storage; FSDP flattens weights of one dtype, so tools that shard them store the same bits as the model's dtype
  friend bool operator==(const FourBitWeights&, const FourBitWeights&) = default;
};

/// Sizes and switches of a model. The defaults are Llama's; `gpt2`: learned positions, LayerNorm, Conv1D, tanh GELU written out.
struct HfConfig {
  enum class Family : std::uint8_t { llama, gpt2, gpt_neox, opt, bloom, falcon, mpt } family = Family::llama;
  std::int64_t hidden_size = 0, num_layers = 0, vocab_size = 0, intermediate_size = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::int64_t max_positions = 0;  ///< gpt2, opt, mpt: rows of the position embedding, or length of the ALiBi table
  bool tie_embeddings = false;
  bool qkv_bias = false;  ///< qwen2
  bool qk_norm = false;   ///< qwen3
  ScalarType type = ScalarType::bf16;  ///< the model is made in

  /// flash, efficient, cudnn: the kernel that sdpa takes. eager: products and softmax written out, matrices of tokens × tokens are saved.
  AttentionKernel attention = AttentionKernel::flash;
  LossConfig loss = {};
  /// FlashAttention's integration asks the device whether positions are those of packed samples: the host waits for it in every layer.
  enum class PositionsRead : std::uint8_t { never, batch_of_one, always } positions_read = PositionsRead::never;

  // What models unlike Llama have. Meanings of Model's fields of the same names (core/model.h).
  bool attn_out_bias = false, mlp_bias = false;
  bool norm_bias = true;       ///< of layer norms
  bool norm_in_fp32 = false;   ///< olmo2: an RMS norm's weight multiplies before the cast back, and the rotary embedding's waves stay fp32
  NormKind norm = NormKind::rmsnorm;
  MlpKind mlp = MlpKind::swiglu;
  PositionKind position = PositionKind::rope;
  bool qk_norm_full = false, post_norm = false, parallel_residual = false, final_norm = true;
  std::int64_t norms_per_layer = 2;
  std::int64_t rotary_dims = 0;      ///< dims of each head that are rotated and joined with the rest (phi3, gpt_neox, glm); 0: the whole head at once
  bool interleaved_rotary = false;   ///< neighbouring dims form a pair (glm)
  bool fused_qkv = false;            ///< q, k and v come from one matrix, cut by columns (phi3, baichuan)
  bool fused_gate_up = false;        ///< phi3, glm
  bool scaled_embedding = false;     ///< gemma: times the square root of hidden_size
  bool attn_softcap = false, logit_softcap = false;
  std::optional<std::int64_t> sliding_window = std::nullopt;  ///< only if a sequence is as long as it, so that it needs a mask
  std::int64_t full_attention_every = 0;       ///< of the sliding layers; 0: all slide
  bool local_rotary = false;                   ///< sliding layers have their own rotary embedding (gemma3)
  bool foundry = false;                        ///< mpt: llm-foundry's own model (hf_foundry.h) in place of transformers'
  std::int64_t sequence_ranks = 1;             ///< Llama: ranks that share a sequence (hf_ulysses.h); tokens are this rank's
  bool liger = false;                          ///< Llama: Liger's kernels for norms, rotary embedding and gated MLP (liger.h)
  bool tiled_mlp = false;                      ///< Llama: the MLP on one piece of the tokens after the other (tiled.h)
  std::optional<FourBitWeights> four_bit = std::nullopt;  ///< Llama
  std::int64_t embedding_dim = 0;              ///< where it is not hidden_size (opt-350m); 0: it is

  std::int64_t embedding_columns() const { return embedding_dim > 0 ? embedding_dim : hidden_size; }
  RmsNormKind rms_norm() const { return liger ? RmsNormKind::liger : norm == NormKind::rmsnorm_plus_one ? RmsNormKind::plus_one : norm_in_fp32 ? RmsNormKind::fp32_weight : RmsNormKind::llama; }
  std::int64_t rotary_embedding_dims() const { return rotary_dims > 0 ? rotary_dims : head_dim; }
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
  std::optional<ScalarType> type = std::nullopt;  ///< of the adapters, where it is not the base's (peft's autocast_adapter_dtype: fp32)
  bool dropout = false;  ///< each adapter drops some of its input: it has one of its own then, and a mask
};

inline ScalarType trained_type(const HfConfig& config, const LoraConfig& lora) { return lora.rank > 0 ? lora.type.value_or(config.type) : config.type; }

/// A transformers model for causal language modelling.
class CausalLm : public Module {
 public:
  /// Allocates the parameters and buffers in the order of the model's __init__ (a tied head is made, then dropped).
  static std::unique_ptr<CausalLm> make(Context& context, const HfConfig& config);

  /// model(input_ids=ids, labels=ids).loss: logits die here, unless autograd keeps them.
  Tensor loss(const Tensor& ids);

  /// gradient_checkpointing_enable
  void enable_checkpointing(CheckpointMode mode) { checkpoint_.mode = mode; }
  void enable_checkpointing(const BlockCheckpoints& checkpoints) { checkpoint_ = checkpoints; }
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
  BlockCheckpoints checkpoint_;
};

/// What the tools do to a model that was made: adapters, checkpointing, and the embedding's output as a leaf where they need it.
void set_up(CausalLm& model, const LoraConfig& lora, const BlockCheckpoints& checkpoints);
/// A model, made and set up.
std::unique_ptr<CausalLm> make_causal_lm(Context& context, const HfConfig& config, const LoraConfig& lora, const BlockCheckpoints& checkpoints);

}  // namespace zeroplan::eager
