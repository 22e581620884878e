// torchtitan 0.2.2's own Llama (models/llama3/model/model.py), its activation checkpointing (distributed/activation_checkpoint.py) and its loss
// (components/loss.py), on the emulated framework. It differs from transformers' Llama in what it asks for: rotary embedding in complex numbers, torch.nn.RMSNorm,
// no copy of the logits beside the loss. Of torch.compile: what is kept from forward to backward.
// Not here: flex and varlen attention, float8, the temporaries that compiled blocks save, tensor and context parallelism.
//
// Letters: b sequences of a micro batch, s tokens of one, h heads, d elements of a head.
// torch.nn.RMSNorm is written as torch composes it of elementwise kernels (rms_norm_composite), which is what a device without a fused kernel runs.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "planner/engines/eager/hf_models.h"
#include "planner/engines/eager/modules.h"

namespace zeroplan::eager {

/// torchtitan's ActivationCheckpoint: mode full, selective with option op, or selective with a number (every block_frequency-th block).
struct TitanCheckpoint {
  enum class Mode : std::uint8_t { none, full, selective_op, every_blocks } mode = Mode::none;
  std::int64_t block_frequency = 1;  ///< every_blocks only; 0 and 1: each block
};

/// What torchtitan's code does around the model, and did at the time.
struct TitanTraining {
  TitanCheckpoint checkpoint;
  bool keeps_fp32_logits = false;  ///< before July 2024: the model returns fp32 logits, and train.py holds them until the next forward has ended
  bool compiled = false;           ///< torch.compile on each block: a selective checkpoint keeps nothing that backward does not read
  bool compiled_loss = false;      ///< torch.compile on the loss: one kernel reads the logits, and one writes their gradient
};

/// TransformerModelArgs. hidden_dim is FeedForward's. qk_norm: Qwen3 (models/qwen3), which turns queries and keys with cosines and sines as transformers does.
struct TitanConfig {
  std::int64_t dim = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, vocab_size = 0, hidden_dim = 0;
  std::int64_t max_seq_tokens = 0;
  ScalarType type = ScalarType::fp32;  ///< the model is made in
  TitanTraining training;
  std::int64_t head_dim = 0;
  bool qk_norm = false;
};

/// The config with a model's sizes. FeedForward takes its size from a factor in floating point, so that it may come out one less than asked (args.py, model.py: FeedForward).
TitanConfig titan_config(const HfConfig& sizes, std::int64_t max_seq_tokens, const TitanTraining& training);

/// torch.nn.RMSNorm: normed and scaled in fp32, cast back at the end.
class TitanRmsNorm : public Module {
 public:
  TitanRmsNorm(Context& context, std::int64_t size, ScalarType type);

 protected:
  Tensors forward(Arguments& arguments) override;
};

class TitanAttention : public Module {
 public:
  TitanAttention(Context& context, const TitanConfig& config);

 protected:
  /// positional: x, freqs_cis.
  Tensors forward(Arguments& arguments) override;

 private:
  std::int64_t head_dim_;
  std::unique_ptr<TitanRmsNorm> q_norm_, k_norm_;
  Linear wq_, wk_, wv_, wo_;
};

class TitanFeedForward : public Module {
 public:
  TitanFeedForward(Context& context, const TitanConfig& config);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  bool compiled_;
  Linear w1_, w2_, w3_;
};

/// TransformerBlock in its CheckpointWrapper, if apply_ac put it into one.
class TitanBlock : public Module {
 public:
  TitanBlock(Context& context, const TitanConfig& config, CheckpointMode mode);

 protected:
  /// positional: x, freqs_cis.
  Tensors forward(Arguments& arguments) override;

 private:
  Tensors block(const Tensor& x, const Tensor& freqs_cis);

  CheckpointMode mode_;
  bool compiled_;
  TitanAttention attention_;
  TitanFeedForward feed_forward_;
  TitanRmsNorm attention_norm_, ffn_norm_;
};

class TitanTransformer : public Module {
 public:
  TitanTransformer(Context& context, const TitanConfig& config);

  /// cross_entropy_loss(model(ids), ids) / tokens, as one training step calls them: the logits die here unless autograd keeps them.
  Tensor loss(const Tensor& ids);

  Module& tok_embeddings() { return tok_embeddings_; }
  const std::vector<std::unique_ptr<TitanBlock>>& layers() const { return layers_; }
  Module& norm() { return norm_; }
  Module& output() { return output_; }

 protected:
  /// positional: tokens; result logits.
  Tensors forward(Arguments& arguments) override;

 private:
  Tensor import_time_scalar_;
  Embedding tok_embeddings_;
  Tensor freqs_cis_;  ///< of Qwen3: rope_cache
  TitanTraining training_;
  Tensor kept_logits_;
  std::vector<std::unique_ptr<TitanBlock>> layers_;
  TitanRmsNorm norm_;
  Linear output_;
};

}  // namespace zeroplan::eager
