// What the decoders are built of: blocks that run under checkpoints, a decoder under a head, and the loss.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "planner/engines/eager/hf_models.h"

namespace zeroplan::eager {

/// A block of a decoder, run under the model's checkpoints. positional: hidden_states; keyword: what else the model hands it (a checkpoint keeps it all).
class DecoderBlock : public Module {
 public:
  /// `owner.where` names the block.
  DecoderBlock(Context& owner, const char* kind_name, const BlockCheckpoints& checkpoints) : Module(owner, kind_name), checkpoints_(checkpoints) { where = owner.where; }

 protected:
  Tensors forward(Arguments& arguments) override;
  /// Hidden states, then what else the real block returns (its attention weights): the model's loop keeps those until the next block has run.
  virtual Tensors block(const Tensor& input, const Tensors& keyword) = 0;

 private:
  const BlockCheckpoints& checkpoints_;
};

/// Makes config.num_layers blocks, each at its own place; then the place is the head.
template <class Block>
std::vector<std::unique_ptr<Block>> make_blocks(Context& context, const HfConfig& config, const BlockCheckpoints& checkpoints) {
  std::vector<std::unique_ptr<Block>> out;
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    Scoped here(context.where, Where{.unit = UnitKind::block, .block = static_cast<std::int32_t>(i)});
    out.push_back(std::make_unique<Block>(context, config, checkpoints));
  }
  context.where = {.unit = UnitKind::head};
  return out;
}

/// ForCausalLMLoss: logits in fp32 (if said), labels shifted by padding, mean cross entropy.
Tensor causal_lm_loss(Tensor logits, Tensor labels, const LossConfig& loss = {});

/// Head and loss as config.loss says: {loss, logits}; logits are undefined where they were never whole.
Tensors head_and_loss(const HfConfig& config, Linear& head, Tensor hidden, const Tensor& labels);

/// A Decoder (a module with parameters in torch's order, made from (context, config, checkpoints); keyword: input_ids; result: hidden states) under a head.
/// It has `layers`. head_columns: width of the hidden states.
template <class Decoder>
class DecoderLm : public CausalLm {
 public:
  struct Names {
    const char* kind;   ///< the class
    const char* model;  ///< the attribute that holds the decoder
  };
  DecoderLm(Context& owner, const HfConfig& config, Names names, Embedding Decoder::* embedding, std::int64_t head_columns);

 protected:
  /// keyword: input_ids, labels; results loss, logits.
  Tensors forward(Arguments& arguments) override;

 private:
  HfConfig config_;
  Decoder model_;
  Linear lm_head_;
};

template <class Decoder>
DecoderLm<Decoder>::DecoderLm(Context& owner, const HfConfig& config, Names names, Embedding Decoder::* embedding, std::int64_t head_columns)
    : CausalLm(owner, names.kind), config_(config), model_((owner.where = {.unit = UnitKind::embedding}, owner), config, checkpoint_),
      lm_head_(owner, head_columns, config.vocab_size, false, config.type) {
  where = {.unit = UnitKind::embedding};
  if (config.tie_embeddings) lm_head_.own_parameters[0].second = (model_.*embedding).own_parameters[0].second;
  children = {{names.model, &model_}, {"lm_head", &lm_head_}};
  embedding_ = &(model_.*embedding);
  for (const auto& layer : model_.layers) blocks_.push_back(layer.get());
  owner.where = {};
}

template <class Decoder>
Tensors DecoderLm<Decoder>::forward(Arguments& arguments) {
  Tensor hidden = std::move(model_(Arguments{.positional = {}, .keyword = {arguments.keyword[0]}})[0]);
  context->where = {.unit = UnitKind::head};
  return head_and_loss(config_, lm_head_, std::move(hidden), arguments.keyword[1]);
}

}  // namespace zeroplan::eager
