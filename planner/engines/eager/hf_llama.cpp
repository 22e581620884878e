#include "planner/engines/eager/hf_llama.h"

#include <algorithm>

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

namespace {
Where embedding_unit() { return {.unit = UnitKind::embedding}; }
Where head_unit() { return {.unit = UnitKind::head}; }

void wrap(std::unique_ptr<Module>& projection, const char* name, std::int64_t in, std::int64_t out, const HfConfig& config, const LoraConfig& lora, Module& owner) {
  if (std::find(lora.targets.begin(), lora.targets.end(), name) == lora.targets.end()) return;
  projection = std::make_unique<LoraLinear>(std::move(projection), in, out, lora.rank, config.type);
  for (auto& [child_name, child] : owner.children)
    if (child_name == name) child = projection.get();
}

Tensor rotate_half(const Tensor& x) {
  const std::int64_t half = x.size(-1) / 2;
  const Tensor x1 = slice_last(x, 0, half);
  const Tensor x2 = slice_last(x, half, half);
  const Tensor negated = neg(x2);
  return cat_last(negated, x1);
}

Tensor rotated(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const Tensor straight = mul(x, cos);
  Tensor half = rotate_half(x);
  const Tensor turned = mul(half, sin);
  half.reset();
  return add(straight, turned);
}

/// sdpa_attention_forward
Tensor sdpa(const Tensor& q, const Tensor& k, const Tensor& v) {
  Tensor out = flash_attention(q, k, v);
  out = reshape(out, {out.size(0), -1, q.size(2), v.size(-1)});
  out = contiguous(transpose(out, 1, 2));
  return out;
}
}  // namespace

LlamaAttention::LlamaAttention(Context& owner, const HfConfig& config) : Module(owner, "LlamaAttention"), config_(config) {
  where = owner.where;
  const std::int64_t hidden = config.hidden_size, q_dim = config.num_heads * config.head_dim, kv_dim = config.num_kv_heads * config.head_dim;
  q_ = std::make_unique<Linear>(owner, hidden, q_dim, config.qkv_bias, config.type);
  k_ = std::make_unique<Linear>(owner, hidden, kv_dim, config.qkv_bias, config.type);
  v_ = std::make_unique<Linear>(owner, hidden, kv_dim, config.qkv_bias, config.type);
  o_ = std::make_unique<Linear>(owner, q_dim, hidden, false, config.type);
  children = {{"q_proj", q_.get()}, {"k_proj", k_.get()}, {"v_proj", v_.get()}, {"o_proj", o_.get()}};
  if (!config.qk_norm) return;
  q_norm_ = std::make_unique<RmsNorm>(owner, config.head_dim, config.type);
  k_norm_ = std::make_unique<RmsNorm>(owner, config.head_dim, config.type);
  children.emplace_back("q_norm", q_norm_.get());
  children.emplace_back("k_norm", k_norm_.get());
}

void LlamaAttention::add_lora(const LoraConfig& lora) {
  const std::int64_t hidden = config_.hidden_size, q_dim = config_.num_heads * config_.head_dim, kv_dim = config_.num_kv_heads * config_.head_dim;
  wrap(q_, "q_proj", hidden, q_dim, config_, lora, *this);
  wrap(k_, "k_proj", hidden, kv_dim, config_, lora, *this);
  wrap(v_, "v_proj", hidden, kv_dim, config_, lora, *this);
  wrap(o_, "o_proj", q_dim, hidden, config_, lora, *this);
}

Tensor LlamaAttention::heads(Module& projection, Module* norm, const Tensor& hidden) {
  Tensor x = projection.call(hidden);
  x = view(x, {hidden.size(0), hidden.size(1), -1, config_.head_dim});
  if (norm != nullptr) x = norm->call(x);
  return transpose(x, 1, 2);
}

Tensors LlamaAttention::forward(Arguments& arguments) {
  const Tensor& hidden = arguments.keyword[0];
  Tensor q = heads(*q_, q_norm_.get(), hidden);
  Tensor k = heads(*k_, k_norm_.get(), hidden);
  const Tensor v = heads(*v_, nullptr, hidden);
  {
    const Tensor cos = unsqueeze(arguments.keyword[1], 1);
    const Tensor sin = unsqueeze(arguments.keyword[2], 1);
    Tensor q_turned = rotated(q, cos, sin);
    Tensor k_turned = rotated(k, cos, sin);
    q = std::move(q_turned);
    k = std::move(k_turned);
  }
  Tensor out = sdpa(q, k, v);
  out = contiguous(reshape(out, {hidden.size(0), hidden.size(1), -1}));
  out = o_->call(out);
  return {out};
}

LlamaMlp::LlamaMlp(Context& owner, const HfConfig& config) : Module(owner, "LlamaMLP"), config_(config) {
  where = owner.where;
  gate_ = std::make_unique<Linear>(owner, config.hidden_size, config.intermediate_size, false, config.type);
  up_ = std::make_unique<Linear>(owner, config.hidden_size, config.intermediate_size, false, config.type);
  down_ = std::make_unique<Linear>(owner, config.intermediate_size, config.hidden_size, false, config.type);
  children = {{"gate_proj", gate_.get()}, {"up_proj", up_.get()}, {"down_proj", down_.get()}};
}

void LlamaMlp::add_lora(const LoraConfig& lora) {
  wrap(gate_, "gate_proj", config_.hidden_size, config_.intermediate_size, config_, lora, *this);
  wrap(up_, "up_proj", config_.hidden_size, config_.intermediate_size, config_, lora, *this);
  wrap(down_, "down_proj", config_.intermediate_size, config_.hidden_size, config_, lora, *this);
}

Tensors LlamaMlp::forward(Arguments& arguments) {
  const Tensor& x = arguments.positional[0];
  Tensor gate = gate_->call(x);
  Tensor activated = silu(gate);
  gate.reset();
  Tensor up = up_->call(x);
  const Tensor product = mul(activated, up);
  activated.reset();
  up.reset();
  return {down_->call(product)};
}

LlamaLayer::LlamaLayer(Context& owner, const HfConfig& config, const CheckpointMode& mode)
    : Module(owner, "LlamaDecoderLayer"), mode_(mode), attention_(owner, config), mlp_(owner, config), input_norm_(owner, config.hidden_size, config.type),
      post_attention_norm_(owner, config.hidden_size, config.type) {
  where = owner.where;
  children = {{"self_attn", &attention_}, {"mlp", &mlp_}, {"input_layernorm", &input_norm_}, {"post_attention_layernorm", &post_attention_norm_}};
}

void LlamaLayer::add_lora(const LoraConfig& lora) {
  attention_.add_lora(lora);
  mlp_.add_lora(lora);
}

Tensors LlamaLayer::layer(const Tensor& input, const Tensors& keyword) {
  Tensor residual = input;
  Tensor hidden = input_norm_.call(residual);
  hidden = std::move(attention_(Arguments{.positional = {}, .keyword = {hidden, keyword[0], keyword[1]}})[0]);
  hidden = add(residual, hidden);
  residual = hidden;
  hidden = post_attention_norm_.call(hidden);
  hidden = mlp_.call(hidden);
  hidden = add(residual, hidden);
  return {hidden};
}

Tensors LlamaLayer::forward(Arguments& arguments) {
  if (mode_ == CheckpointMode::none || !context->grad_enabled) return layer(arguments.positional[0], arguments.keyword);
  return checkpoint(*context, mode_, [this, keyword = arguments.keyword](const Tensors& inputs) {
    Scoped here(context->where, where);
    return layer(inputs[0], keyword);
  }, {arguments.positional[0]});
}

LlamaRotary::LlamaRotary(Context& owner, std::int64_t head_dim) : Module(owner, "LlamaRotaryEmbedding"), head_dim_(head_dim) {
  inv_freq_ = inverse_frequencies();
  original_inv_freq_ = empty_like(inv_freq_, "rotary buffer");
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
  const ScalarType type = arguments.positional[0].type();
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

namespace {
std::vector<std::unique_ptr<LlamaLayer>> make_layers(Context& context, const HfConfig& config, const CheckpointMode& mode) {
  std::vector<std::unique_ptr<LlamaLayer>> out;
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    Scoped here(context.where, Where{.unit = UnitKind::block, .block = static_cast<std::int32_t>(i)});
    out.push_back(std::make_unique<LlamaLayer>(context, config, mode));
  }
  context.where = head_unit();
  return out;
}
}  // namespace

LlamaModel::LlamaModel(Context& owner, const HfConfig& config, const CheckpointMode& mode)
    : Module(owner, "LlamaModel"), embed_tokens(owner, config.vocab_size, config.hidden_size, config.type), layers(make_layers(owner, config, mode)),
      norm(owner, config.hidden_size, config.type), rotary(owner, config.head_dim) {
  rotary.initialise_again();
  children.emplace_back("embed_tokens", &embed_tokens);
  for (std::size_t i = 0; i < layers.size(); ++i) children.emplace_back("layers." + std::to_string(i), layers[i].get());
  children.emplace_back("norm", &norm);
  children.emplace_back("rotary_emb", &rotary);
}

Tensors LlamaModel::forward(Arguments& arguments) {
  const Tensor embedded = embed_tokens.call(arguments.keyword[0]);
  Tensor range = empty(*context, Shape{embedded.size(1)}, ScalarType::int64, "arange");
  Tensor positions = add_scalar(range);
  range.reset();
  positions = unsqueeze(positions, 0);
  Tensor hidden = embedded;
  Tensors keyword = rotary(Arguments{.positional = {hidden, positions}, .keyword = {}});
  keyword.push_back(positions);
  for (const auto& layer : layers) hidden = std::move((*layer)(Arguments{.positional = {hidden}, .keyword = keyword})[0]);
  context->where = head_unit();
  hidden = norm.call(hidden);
  return {hidden};
}

LlamaLm::LlamaLm(Context& owner, const HfConfig& config)
    : CausalLm(owner, "LlamaForCausalLM"), model_((owner.where = embedding_unit(), owner), config, checkpoint_), lm_head_(owner, config.hidden_size, config.vocab_size, false, config.type) {
  where = embedding_unit();
  if (config.tie_embeddings) lm_head_.own_parameters[0].second = model_.embed_tokens.own_parameters[0].second;
  children = {{"model", &model_}, {"lm_head", &lm_head_}};
  embedding_ = &model_.embed_tokens;
  for (const auto& layer : model_.layers) blocks_.push_back(layer.get());
  owner.where = embedding_unit();
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
  const Tensor hidden = std::move(model_(Arguments{.positional = {}, .keyword = {arguments.keyword[0]}})[0]);
  context->where = head_unit();
  const Tensor logits = lm_head_.call(hidden);
  Tensor loss = causal_lm_loss(logits, arguments.keyword[1]);
  return {loss, logits};
}

}  // namespace zeroplan::eager
