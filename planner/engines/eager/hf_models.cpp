#include "planner/engines/eager/hf_models.h"

#include <algorithm>

#include "planner/engines/eager/hf_gpt2.h"
#include "planner/engines/eager/hf_llama.h"
#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

HfConfig hf_config(const Model& model, ScalarType type, std::int64_t positions) {
  return {.family = model.model_type == "gpt2" ? HfConfig::Family::gpt2 : HfConfig::Family::llama,
          .hidden_size = model.hidden_size,
          .num_layers = model.num_layers,
          .vocab_size = model.vocab_size,
          .intermediate_size = model.intermediate_size,
          .num_heads = model.num_heads,
          .num_kv_heads = model.num_kv_heads,
          .head_dim = model.head_dim,
          .max_positions = positions,
          .tie_embeddings = model.tie_embeddings,
          .qkv_bias = model.qkv_bias,
          .qk_norm = model.qk_norm,
          .type = type};
}

Tensor causal_lm_loss(Tensor logits, Tensor labels) {
  logits = to(logits, ScalarType::fp32);
  labels = pad_last(labels);
  Tensor shifted = contiguous(slice_last(labels, 1, labels.size(-1) - 1));
  logits = view(logits, {-1, logits.size(-1)});
  shifted = view(shifted, {-1});
  return nll_loss(log_softmax(logits), shifted);
}

Tensor CausalLm::loss(const Tensor& ids) {
  Tensors outputs = (*this)(Arguments{.positional = {}, .keyword = {ids, ids}});
  return std::move(outputs[0]);
}

void CausalLm::enable_checkpointing(CheckpointMode mode) { checkpoint_ = mode; }

void CausalLm::enable_input_require_grads() {
  embedding_->post_hooks.push_back([](Module&, Arguments&, Tensors& outputs) { outputs[0].set_requires_grad(true); });
}

void CausalLm::add_lora(const LoraConfig&) { assert(false && "LoRA is written down for the Llama family only"); }

std::unique_ptr<CausalLm> CausalLm::make(Context& context, const HfConfig& config) {
  if (config.family == HfConfig::Family::gpt2) return std::make_unique<Gpt2Lm>(context, config);
  return std::make_unique<LlamaLm>(context, config);
}

void set_up(CausalLm& model, const LoraConfig& lora, CheckpointMode checkpoint) {
  if (lora.rank > 0) model.add_lora(lora);
  model.enable_checkpointing(checkpoint);
  if (checkpoint == CheckpointMode::reentrant || lora.rank > 0) model.enable_input_require_grads();
}

std::unique_ptr<CausalLm> make_causal_lm(Context& context, const HfConfig& config, const LoraConfig& lora, CheckpointMode checkpoint) {
  std::unique_ptr<CausalLm> model = CausalLm::make(context, config);
  set_up(*model, lora, checkpoint);
  return model;
}

}  // namespace zeroplan::eager
