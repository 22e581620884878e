#include "planner/engines/eager/hf_llama.h"

#include <algorithm>

#include "planner/engines/eager/hf_attention.h"
#include "planner/engines/eager/hf_ulysses.h"
#include "planner/engines/eager/liger.h"
#include "planner/engines/eager/ops_attention.h"
#include "planner/engines/eager/quantised.h"
#include "planner/engines/eager/tiled.h"

namespace zeroplan::eager {

namespace {
Where embedding_unit() { return {.unit = UnitKind::embedding}; }
Where head_unit() { return {.unit = UnitKind::head}; }

void wrap(std::unique_ptr<Module>& projection, const char* name, std::int64_t in, std::int64_t out, const HfConfig& config, const LoraConfig& lora, Module& owner) {
  if (std::find(lora.targets.begin(), lora.targets.end(), name) == lora.targets.end()) return;
  projection = std::make_unique<LoraLinear>(std::move(projection), in, out, lora.rank, lora.type.value_or(config.type), lora.dropout);
  for (auto& [child_name, child] : owner.children)
    if (child_name == name) child = projection.get();
}

struct Width {
  std::int64_t in = 0, out = 0;
};

std::unique_ptr<Module> projection(Context& context, Width width, bool has_bias, const HfConfig& config) {
  if (config.four_bit) return std::make_unique<Linear4bit>(context, width.in, width.out, has_bias, config.type, *config.four_bit);
  return std::make_unique<Linear>(context, width.in, width.out, has_bias, config.type);
}
}  // namespace

LlamaAttention::LlamaAttention(Context& owner, const HfConfig& config) : Module(owner, "LlamaAttention"), config_(config) {
  where = owner.where;
  const std::int64_t hidden = config.hidden_size, q_dim = config.num_heads * config.head_dim, kv_dim = config.num_kv_heads * config.head_dim;
  q_ = projection(owner, {hidden, config.fused_qkv ? q_dim + 2 * kv_dim : q_dim}, config.qkv_bias, config);
  if (!config.fused_qkv) {
    k_ = projection(owner, {hidden, kv_dim}, config.qkv_bias, config);
    v_ = projection(owner, {hidden, kv_dim}, config.qkv_bias, config);
  }
  o_ = projection(owner, {q_dim, hidden}, config.attn_out_bias, config);
  const bool phi3 = config.fused_qkv && config.fused_gate_up && !config.interleaved_rotary;
  if (phi3) children = {{"o_proj", o_.get()}, {"qkv_proj", q_.get()}};
  else if (config.fused_qkv) children = {{"qkv_proj", q_.get()}, {"o_proj", o_.get()}};
  else children = {{"q_proj", q_.get()}, {"k_proj", k_.get()}, {"v_proj", v_.get()}, {"o_proj", o_.get()}};
  if (!config.qk_norm && !config.qk_norm_full) return;
  q_norm_ = std::make_unique<RmsNorm>(owner, config.qk_norm_full ? q_dim : config.head_dim, config.type, config.rms_norm());
  k_norm_ = std::make_unique<RmsNorm>(owner, config.qk_norm_full ? kv_dim : config.head_dim, config.type, config.rms_norm());
  children.emplace_back("q_norm", q_norm_.get());
  children.emplace_back("k_norm", k_norm_.get());
}

void LlamaAttention::add_lora(const LoraConfig& lora) {
  const std::int64_t hidden = config_.hidden_size, q_dim = config_.num_heads * config_.head_dim, kv_dim = config_.num_kv_heads * config_.head_dim;
  if (config_.fused_qkv) {
    wrap(q_, "qkv_proj", hidden, q_dim + 2 * kv_dim, config_, lora, *this);
    wrap(o_, "o_proj", q_dim, hidden, config_, lora, *this);
    return;
  }
  wrap(q_, "q_proj", hidden, q_dim, config_, lora, *this);
  wrap(k_, "k_proj", hidden, kv_dim, config_, lora, *this);
  wrap(v_, "v_proj", hidden, kv_dim, config_, lora, *this);
  wrap(o_, "o_proj", q_dim, hidden, config_, lora, *this);
}

Tensor LlamaAttention::heads(Module& projection, Module* norm, const Tensor& hidden) {
  const bool norm_last = config_.norm == NormKind::rmsnorm_plus_one;  // gemma3's norms come after the transpose
  Tensor x = projection.call(hidden);
  if (norm != nullptr && config_.qk_norm_full) x = norm->call(x);
  x = view(x, {hidden.size(0), hidden.size(1), -1, config_.head_dim});
  if (norm != nullptr && !config_.qk_norm_full && !norm_last) x = norm->call(x);
  return transpose(x, 1, 2);
}

/// q, k and v as parts of one projection.
Tensors LlamaAttention::cut(const Tensor& hidden) {
  const Tensor all = q_->call(hidden);
  const auto part = [&](std::int64_t num_heads) {
    const Tensor columns = narrow(all, -1, num_heads * config_.head_dim);
    return transpose(view(columns, {hidden.size(0), hidden.size(1), -1, config_.head_dim}), 1, 2);
  };
  const Tensor q = part(config_.num_heads), k = part(config_.num_kv_heads), v = part(config_.num_kv_heads);
  return {q, k, v};
}

Tensors LlamaAttention::projected(const Tensor& hidden) {
  if (config_.fused_qkv) return cut(hidden);
  Tensor q = heads(*q_, q_norm_.get(), hidden);
  Tensor k = heads(*k_, k_norm_.get(), hidden);
  Tensor v = heads(*v_, nullptr, hidden);
  if (config_.qk_norm && config_.norm == NormKind::rmsnorm_plus_one) {
    q = q_norm_->call(q);
    k = k_norm_->call(k);
  }
  return {std::move(q), std::move(k), std::move(v)};
}

Tensors LlamaAttention::forward(Arguments& arguments) {
  const Tensor& hidden = arguments.keyword[0];
  Tensors qkv = projected(hidden);
  if (config_.position == PositionKind::rope && config_.liger && config_.rotary_dims == 0) liger_rotate(qkv[0], qkv[1], arguments.keyword[1], arguments.keyword[2]);
  else if (config_.position == PositionKind::rope) rotate(config_, qkv[0], qkv[1], arguments.keyword[1], arguments.keyword[2]);
  const Tensor mask = arguments.keyword.size() > 3 ? arguments.keyword[3] : Tensor();
  read_positions(config_, qkv[0]);
  Attended made = config_.sequence_ranks > 1 ? ulysses_attend(config_, qkv) : attend(config_, qkv[0], qkv[1], qkv[2], mask);
  made.out = contiguous(reshape(made.out, {hidden.size(0), hidden.size(1), -1}));
  return made.with(o_->call(made.out));
}

LlamaMlp::LlamaMlp(Context& owner, const HfConfig& config) : Module(owner, config.fused_gate_up ? "Phi3MLP" : "LlamaMLP"), config_(config) {
  where = owner.where;
  gate_ = projection(owner, {config.hidden_size, (config.fused_gate_up ? 2 : 1) * config.intermediate_size}, config.mlp_bias, config);
  if (!config.fused_gate_up) up_ = projection(owner, {config.hidden_size, config.intermediate_size}, config.mlp_bias, config);
  down_ = projection(owner, {config.intermediate_size, config.hidden_size}, config.mlp_bias, config);
  if (config.fused_gate_up) children = {{"gate_up_proj", gate_.get()}, {"down_proj", down_.get()}};
  else children = {{"gate_proj", gate_.get()}, {"up_proj", up_.get()}, {"down_proj", down_.get()}};
}

void LlamaMlp::add_lora(const LoraConfig& lora) {
  if (config_.fused_gate_up) {
    wrap(gate_, "gate_up_proj", config_.hidden_size, 2 * config_.intermediate_size, config_, lora, *this);
  } else {
    wrap(gate_, "gate_proj", config_.hidden_size, config_.intermediate_size, config_, lora, *this);
  }
  if (up_) wrap(up_, "up_proj", config_.hidden_size, config_.intermediate_size, config_, lora, *this);
  wrap(down_, "down_proj", config_.intermediate_size, config_.hidden_size, config_, lora, *this);
}

namespace {
Tensor activated(const HfConfig& config, const Tensor& x) { return config.mlp == MlpKind::geglu_tanh ? gelu(x) : silu(x); }
}  // namespace

Tensor LlamaMlp::feed(const Tensor& x) {
  if (config_.fused_gate_up) {
    const Tensor both = gate_->call(x);
    Tensors halves = split_last(both, config_.intermediate_size);
    Tensor active = activated(config_, halves[0]);
    halves[1] = mul(halves[1], active);
    active.reset();
    return down_->call(halves[1]);
  }
  if (config_.liger) {
    Tensor gate = gate_->call(x);
    Tensor up = up_->call(x);
    const Tensor product = liger_gated(gate, up);
    gate.reset();
    up.reset();
    return down_->call(product);
  }
  Tensor gate = gate_->call(x);
  Tensor active = activated(config_, gate);
  gate.reset();
  Tensor up = up_->call(x);
  const Tensor product = mul(active, up);
  active.reset();
  up.reset();
  return down_->call(product);
}

Tensors LlamaMlp::forward(Arguments& arguments) {
  const Tensor& x = arguments.positional[0];
  if (!config_.tiled_mlp) return {feed(x)};
  return {in_tiles(x, mlp_tiles(x), [this](const Tensor& tile) {
    Scoped here(context->where, where);
    return feed(tile);
  })};
}

namespace {
/// Of the hidden size. Layer norms: StableLM's, and what Megatron's GPT has without --normalization RMSNorm.
std::unique_ptr<Module> make_norm(Context& owner, const HfConfig& config) {
  if (config.norm != NormKind::layernorm) return std::make_unique<RmsNorm>(owner, config.hidden_size, config.type, config.rms_norm());
  auto norm = std::make_unique<LayerNorm>(owner, config.hidden_size, config.type);
  if (!config.norm_bias) norm->drop_bias();
  return norm;
}
}  // namespace

LlamaLayer::LlamaLayer(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : DecoderBlock(owner, "LlamaDecoderLayer", checkpoints), attention_(owner, config), mlp_(owner, config) {
  children = {{"self_attn", &attention_}, {"mlp", &mlp_}};
  const auto add_norm = [&](std::unique_ptr<Module>& norm, const char* name) {
    norm = make_norm(owner, config);
    children.emplace_back(name, norm.get());
  };
  const bool after = config.post_norm || config.norms_per_layer == 4;
  if (!config.post_norm) add_norm(input_norm_, "input_layernorm");
  if (after) add_norm(attention_out_norm_, "post_attention_layernorm");
  if (!config.post_norm) add_norm(mlp_norm_, after ? "pre_feedforward_layernorm" : "post_attention_layernorm");
  if (after) add_norm(mlp_out_norm_, "post_feedforward_layernorm");
}

void LlamaLayer::add_lora(const LoraConfig& lora) {
  attention_.add_lora(lora);
  mlp_.add_lora(lora);
}

Tensors LlamaLayer::block(const Tensor& input, const Tensors& keyword) {
  Tensor residual = input;
  Tensor hidden = input_norm_ ? input_norm_->call(residual) : input;
  Tensors attention_keyword{hidden, keyword[0], keyword[1]};
  if (keyword.size() > 3) attention_keyword.push_back(keyword[3]);
  Tensors attended = attention_(Arguments{.positional = {}, .keyword = std::move(attention_keyword)});
  hidden = std::move(attended[0]);
  if (attention_out_norm_) hidden = attention_out_norm_->call(hidden);
  hidden = add(residual, hidden);
  residual = hidden;
  if (mlp_norm_) hidden = mlp_norm_->call(hidden);
  hidden = mlp_.call(hidden);
  if (mlp_out_norm_) hidden = mlp_out_norm_->call(hidden);
  hidden = add(residual, hidden);
  return {hidden};
}

LlamaRotary::LlamaRotary(Context& owner, std::int64_t head_dim, bool in_fp32) : Module(owner, "LlamaRotaryEmbedding"), head_dim_(head_dim), in_fp32_(in_fp32) {
  inv_freq_ = inverse_frequencies();
  original_inv_freq_ = empty_like(inv_freq_, "rotary buffer");
  own_buffers = {inv_freq_, original_inv_freq_};
}

Tensor LlamaRotary::inverse_frequencies() const {
  Tensor x = empty(*context, Shape{head_dim_ / 2}, ScalarType::fp32, "arange");
  if (context->constructor_type) x = to(x, *context->constructor_type);
  x = div_scalar(x);
  x = elementwise("pow.Scalar", x.type(), {&x});
  const Tensor inverse = elementwise("reciprocal", x.type(), {&x});
  return mul_scalar(inverse);
}

void LlamaRotary::initialise_again() { inverse_frequencies(); }

Tensors LlamaRotary::forward(Arguments& arguments) {
  const ScalarType type = in_fp32_ ? ScalarType::fp32 : arguments.positional[0].type();
  Tensor positions = to(unsqueeze(arguments.positional[1], 2), ScalarType::fp32);
  Tensor inverse = to(inv_freq_, ScalarType::fp32);
  const Tensor frequencies = mul(positions, inverse);
  inverse.reset();
  positions.reset();
  const Tensor both = cat_last(frequencies, frequencies);
  Tensor wave = eager::cos(both);
  const Tensor cosine = mul_scalar(wave);
  wave.reset();
  wave = eager::sin(both);
  const Tensor sine = mul_scalar(wave);
  wave.reset();
  return {to(cosine, type), to(sine, type)};
}

LlamaModel::LlamaModel(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : Module(owner, "LlamaModel"), embed_tokens(owner, config.vocab_size, config.hidden_size, config.type, config.scaled_embedding),
      layers(make_blocks<LlamaLayer>(owner, config, checkpoints)), norm(make_norm(owner, config)),
      rotary(owner, config.rotary_embedding_dims(), config.norm_in_fp32), config_(config) {
  if (config.local_rotary) local_rotary = std::make_unique<LlamaRotary>(owner, config.rotary_embedding_dims());
  if (local_rotary) local_rotary->initialise_again();
  rotary.initialise_again();
  children.emplace_back("embed_tokens", &embed_tokens);
  for (std::size_t i = 0; i < layers.size(); ++i) children.emplace_back("layers." + std::to_string(i), layers[i].get());
  children.emplace_back("norm", norm.get());
  children.emplace_back("rotary_emb", &rotary);
}

/// Eager attention always has a mask; sdpa where a window needs one.
LlamaModel::Masks LlamaModel::masks(const Tensor& embedded) {
  const bool eager = config_.attention == AttentionKernel::eager;
  Masks out;
  if (config_.position == PositionKind::alibi) {
    out.full = empty(*context, Shape{config_.num_heads, embedded.size(1), embedded.size(1)}, embedded.type(), "alibi mask");
    return out;
  }
  const bool windowed = config_.sliding_window.has_value();
  if (eager && (!windowed || config_.full_attention_every > 0)) out.full = causal_mask(*context, config_.attention, embedded);
  if (windowed) out.sliding = causal_mask(*context, config_.attention, embedded, true);
  else if (eager && config_.full_attention_every > 0) out.sliding = causal_mask(*context, config_.attention, embedded);
  return out;
}

Tensors LlamaModel::forward(Arguments& arguments) {
  const Tensor embedded = embed_tokens.call(arguments.keyword[0]);
  Tensor range = empty(*context, Shape{embedded.size(1)}, ScalarType::int64, "arange");
  Tensor positions = add_scalar(range);
  range.reset();
  positions = unsqueeze(positions, 0);
  const Masks made = masks(embedded);
  Tensor hidden = embedded;
  Tensors waves = rotary(Arguments{.positional = {hidden, positions}, .keyword = {}});
  Tensors local_waves = local_rotary ? (*local_rotary)(Arguments{.positional = {hidden, positions}, .keyword = {}}) : waves;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const bool slides = config_.slides(static_cast<std::int64_t>(i)) && made.sliding.defined();
    Tensors keyword = config_.slides(static_cast<std::int64_t>(i)) ? local_waves : waves;
    keyword.push_back(positions);
    const Tensor& mask = slides ? made.sliding : made.full;
    if (mask.defined()) keyword.push_back(mask);
    hidden = std::move((*layers[i])(Arguments{.positional = {hidden}, .keyword = std::move(keyword)})[0]);
  }
  context->where = head_unit();
  hidden = norm->call(hidden);
  return {hidden};
}

LlamaLm::LlamaLm(Context& owner, const HfConfig& config)
    : CausalLm(owner, "LlamaForCausalLM"), config_(config), model_((owner.where = embedding_unit(), owner), config, checkpoint_), lm_head_(owner, config.hidden_size, config.vocab_size, false, config.type) {
  where = embedding_unit();
  if (config.tie_embeddings) lm_head_.own_parameters[0].second = model_.embed_tokens.own_parameters[0].second;
  children = {{"model", &model_}, {"lm_head", &lm_head_}};
  embedding_ = &model_.embed_tokens;
  for (const auto& layer : model_.layers) blocks_.push_back(layer.get());
  owner.where = {};
}

void LlamaLm::add_lora(const LoraConfig& lora) {
  for (const Tensor& p : parameters()) p.set_requires_grad(false);
  {
    Scoped on_host(context->place, context->host);
    for (int i = 0; i < 2; ++i) extras_.push_back(empty(*context, Shape{}, ScalarType::int64, "peft"));
  }
  for (const auto& layer : model_.layers) {
    Scoped here(context->where, layer->where);
    layer->add_lora(lora);
  }
}

Tensors LlamaLm::forward(Arguments& arguments) {
  Tensor hidden = std::move(model_(Arguments{.positional = {}, .keyword = {arguments.keyword[0]}})[0]);
  context->where = head_unit();
  return head_and_loss(config_, lm_head_, std::move(hidden), arguments.keyword[1]);
}

}  // namespace zeroplan::eager
