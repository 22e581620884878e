#include "planner/engines/eager/hf_models.h"

#include <string_view>

#include <fmt/format.h>

#include "planner/core/error.h"
#include "planner/engines/eager/hf_bloom.h"
#include "planner/engines/eager/hf_falcon.h"
#include "planner/engines/eager/hf_foundry.h"
#include "planner/engines/eager/hf_gpt2.h"
#include "planner/engines/eager/hf_gpt_neox.h"
#include "planner/engines/eager/hf_llama.h"
#include "planner/engines/eager/hf_mpt.h"
#include "planner/engines/eager/hf_opt.h"

namespace zeroplan::eager {

namespace {
struct FamilyEntry {
  std::string_view model_type;
  HfConfig::Family family;
};
constexpr FamilyEntry kFamilies[] = {
    {"llama", HfConfig::Family::llama},       {"qwen2", HfConfig::Family::llama},     {"qwen3", HfConfig::Family::llama},     {"mistral", HfConfig::Family::llama},
    {"gemma", HfConfig::Family::llama},       {"gemma2", HfConfig::Family::llama},    {"gemma3_text", HfConfig::Family::llama}, {"phi3", HfConfig::Family::llama},
    {"olmo2", HfConfig::Family::llama},       {"glm", HfConfig::Family::llama},       {"chatglm", HfConfig::Family::llama},   {"baichuan", HfConfig::Family::llama},
    {"internlm", HfConfig::Family::llama},    {"internlm2", HfConfig::Family::llama}, {"internlm3", HfConfig::Family::llama}, {"yi", HfConfig::Family::llama},
    {"gpt2", HfConfig::Family::gpt2},         {"gpt_neox", HfConfig::Family::gpt_neox}, {"opt", HfConfig::Family::opt},       {"bloom", HfConfig::Family::bloom},
    {"falcon", HfConfig::Family::falcon},     {"mpt", HfConfig::Family::mpt},
};

HfConfig::Family family_of(const Model& model) {
  const auto refuse = [&](const std::string& what) {
    std::string modelled;
    for (const FamilyEntry& entry : kFamilies) modelled += (modelled.empty() ? "" : ", ") + std::string(entry.model_type);
    throw UsageError(model.model_type + ": " + what + " not modelled on emulated PyTorch. Modelled: " + modelled);
  };
  if (model.num_experts > 0) refuse("mixtures of experts are");
  if (model.kv_lora_rank > 0) refuse("latent attention is");
  if (model.vision_params > 0) refuse("vision towers are");
  if (model.model_type == "falcon" && model.position == PositionKind::alibi) refuse("ALiBi of this family is");
  for (const FamilyEntry& entry : kFamilies)
    if (entry.model_type == model.model_type) return entry.family;
  refuse("this architecture is");
  return HfConfig::Family::llama;
}

/// Families but Llama's cut their hidden size into heads, each with keys and values of its own (falcon's may share them): other sizes have no such class.
void require_heads_of_family(const Model& model, HfConfig::Family family) {
  if (family == HfConfig::Family::llama) return;
  if (model.query_dim() != model.hidden_size)
    throw UsageError(fmt::format("{}: num_heads × head_dim = {} × {} is not the hidden size {}, as this family has it", model.model_type, model.num_heads, model.head_dim, model.hidden_size));
  if (family != HfConfig::Family::falcon && model.num_kv_heads != model.num_heads)
    throw UsageError(fmt::format("{}: num_kv_heads={} of {} heads: this family shares no keys and values", model.model_type, model.num_kv_heads, model.num_heads));
}

/// What the real classes do without saying so in a config.json.
void add_family_traits(const Model& model, HfConfig& config) {
  const std::string& type = model.model_type;
  const bool chatglm = type == "chatglm";
  config.norm_in_fp32 = type == "olmo2";
  config.interleaved_rotary = type == "glm" || chatglm;
  config.fused_gate_up = type == "phi3" || config.interleaved_rotary;
  config.fused_qkv = type == "phi3" || type == "baichuan" || chatglm;
  config.scaled_embedding = type.starts_with("gemma");
  config.local_rotary = model.rope_local_theta.has_value();
  if (config.attn_softcap || config.family == HfConfig::Family::bloom || config.family == HfConfig::Family::mpt) config.attention = AttentionKernel::eager;
}
}  // namespace

HfConfig hf_config(const Model& model, ScalarType type, std::int64_t positions) {
  HfConfig config{.family = family_of(model),
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
                  .type = type,
                  .attn_out_bias = model.attn_out_bias,
                  .mlp_bias = model.mlp_bias,
                  .norm_bias = model.norm_bias,
                  .norm = model.norm,
                  .mlp = model.mlp,
                  .position = model.position,
                  .qk_norm_full = model.qk_norm_full,
                  .post_norm = model.post_norm,
                  .parallel_residual = model.parallel_residual,
                  .final_norm = model.final_norm,
                  .norms_per_layer = model.norms_per_layer,
                  .attn_softcap = model.attn_logit_softcapping.has_value(),
                  .logit_softcap = model.final_logit_softcapping.has_value(),
                  .full_attention_every = model.full_attention_every,
                  .embedding_dim = model.word_embed_proj_dim.value_or(0)};
  if (model.model_type == "phi3" || model.model_type == "gpt_neox" || model.model_type == "glm" || model.model_type == "chatglm") config.rotary_dims = static_cast<std::int64_t>(static_cast<double>(model.head_dim) * model.partial_rotary_factor);
  if (model.sliding_window && positions >= *model.sliding_window) config.sliding_window = model.sliding_window;
  if (config.family == HfConfig::Family::opt) config.max_positions = model.max_position;
  require_heads_of_family(model, config.family);
  add_family_traits(model, config);
  return config;
}

Tensors DecoderBlock::forward(Arguments& arguments) {
  const CheckpointMode mode = checkpoints_.of_block(where.block);
  if (mode == CheckpointMode::none || !context->grad_enabled) return block(arguments.positional[0], arguments.keyword);
  return checkpoint(*context, mode, [this, keyword = arguments.keyword](const Tensors& inputs) {
    Scoped here(context->where, where);
    return block(inputs[0], keyword);
  }, {arguments.positional[0]}, {.offload_inputs = checkpoints_.offload_inputs});
}

Tensor CausalLm::loss(const Tensor& ids) {
  Tensors outputs = (*this)(Arguments{.positional = {}, .keyword = {ids, ids}});
  return std::move(outputs[0]);
}

void CausalLm::enable_input_require_grads() {
  embedding_->post_hooks.push_back([](Module&, Arguments&, Tensors& outputs) { outputs[0].set_requires_grad(true); });
}

void CausalLm::add_lora(const LoraConfig&) { assert(false && "LoRA is written down for the Llama family only"); }

std::unique_ptr<CausalLm> CausalLm::make(Context& context, const HfConfig& config) {
  switch (config.family) {
    case HfConfig::Family::llama: return std::make_unique<LlamaLm>(context, config);
    case HfConfig::Family::gpt2: return std::make_unique<Gpt2Lm>(context, config);
    case HfConfig::Family::gpt_neox:
      return std::make_unique<DecoderLm<NeoxModel>>(context, config, DecoderLm<NeoxModel>::Names{"GPTNeoXForCausalLM", "gpt_neox"}, &NeoxModel::embed_in, config.hidden_size);
    case HfConfig::Family::opt:
      return std::make_unique<DecoderLm<OptDecoder>>(context, config, DecoderLm<OptDecoder>::Names{"OPTForCausalLM", "model.decoder"}, &OptDecoder::embed_tokens, config.embedding_columns());
    case HfConfig::Family::bloom:
      return std::make_unique<DecoderLm<BloomModel>>(context, config, DecoderLm<BloomModel>::Names{"BloomForCausalLM", "transformer"}, &BloomModel::word_embeddings, config.hidden_size);
    case HfConfig::Family::falcon:
      return std::make_unique<DecoderLm<FalconModel>>(context, config, DecoderLm<FalconModel>::Names{"FalconForCausalLM", "transformer"}, &FalconModel::word_embeddings, config.hidden_size);
    case HfConfig::Family::mpt:
      if (config.foundry) return std::make_unique<DecoderLm<FoundryModel>>(context, config, DecoderLm<FoundryModel>::Names{"MPTForCausalLM", "transformer"}, &FoundryModel::wte, config.hidden_size);
      return std::make_unique<DecoderLm<MptModel>>(context, config, DecoderLm<MptModel>::Names{"MptForCausalLM", "transformer"}, &MptModel::wte, config.hidden_size);
  }
  return nullptr;
}

void set_up(CausalLm& model, const LoraConfig& lora, const BlockCheckpoints& checkpoints) {
  if (lora.rank > 0) model.add_lora(lora);
  model.enable_checkpointing(checkpoints);
  if (checkpoints.mode == CheckpointMode::reentrant || lora.rank > 0) model.enable_input_require_grads();
}

std::unique_ptr<CausalLm> make_causal_lm(Context& context, const HfConfig& config, const LoraConfig& lora, const BlockCheckpoints& checkpoints) {
  std::unique_ptr<CausalLm> model = CausalLm::make(context, config);
  set_up(*model, lora, checkpoints);
  return model;
}

}  // namespace zeroplan::eager
