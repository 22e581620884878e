#include "planner/engines/eager/hf_gpt2.h"

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

namespace {
Where embedding_unit() { return {.unit = UnitKind::embedding}; }
Where head_unit() { return {.unit = UnitKind::head}; }

/// NewGELUActivation: 0.5 * x * (1 + tanh(c * (x + d * x^3)))
Tensor new_gelu(const Tensor& x) {
  const Tensor half = mul_scalar(x);
  Tensor inner = pow_scalar(x);
  inner = mul_scalar(inner);
  inner = add(x, inner);
  inner = mul_scalar(inner);
  inner = eager::tanh(inner);
  inner = add_scalar(inner);
  return mul(half, inner);
}
}  // namespace

Conv1d::Conv1d(Context& owner, std::int64_t in, std::int64_t out, ScalarType type) : Module(owner, "Conv1D") {
  where = owner.where;
  own_parameters.emplace_back("weight", parameter(owner, Shape{in, out}, type, "linear weight"));
  own_parameters.emplace_back("bias", parameter(owner, Shape{out}, type, "linear bias"));
  made();
}

Tensors Conv1d::forward(Arguments& arguments) {
  const Tensor& input = arguments.positional[0];
  const Tensor& weight = own_parameters[0].second;
  const Tensor x = addmm(own_parameters[1].second, view(input, {-1, input.size(-1)}), weight);
  return {view(x, {input.size(0), input.size(1), weight.size(1)})};
}

Gpt2Attention::Gpt2Attention(Context& owner, const HfConfig& config)
    : Module(owner, "GPT2Attention"), config_(config), c_attn_(owner, config.hidden_size, 3 * config.hidden_size, config.type), c_proj_(owner, config.hidden_size, config.hidden_size, config.type) {
  where = owner.where;
  children = {{"c_attn", &c_attn_}, {"c_proj", &c_proj_}};
}

Tensors Gpt2Attention::forward(Arguments& arguments) {
  const Tensor& hidden = arguments.positional[0];
  const auto heads = [&](const Tensor& x) { return transpose(view(x, {hidden.size(0), hidden.size(1), -1, config_.head_dim}), 1, 2); };
  Tensors qkv = split_last(c_attn_.call(hidden), config_.hidden_size);
  const Tensor k = heads(qkv[1]);
  const Tensor v = heads(qkv[2]);
  const Tensor q = heads(qkv[0]);
  qkv.clear();
  Tensor out = flash_attention(q, k, v);
  out = reshape(out, {out.size(0), -1, q.size(2), v.size(-1)});
  out = contiguous(transpose(out, 1, 2));
  out = contiguous(reshape(out, {hidden.size(0), hidden.size(1), -1}));
  out = c_proj_.call(out);
  return {out};
}

Gpt2Mlp::Gpt2Mlp(Context& owner, const HfConfig& config)
    : Module(owner, "GPT2MLP"), c_fc_(owner, config.hidden_size, config.intermediate_size, config.type), c_proj_(owner, config.intermediate_size, config.hidden_size, config.type) {
  where = owner.where;
  children = {{"c_fc", &c_fc_}, {"c_proj", &c_proj_}};
}

Tensors Gpt2Mlp::forward(Arguments& arguments) {
  Tensor hidden = c_fc_.call(arguments.positional[0]);
  hidden = new_gelu(hidden);
  hidden = c_proj_.call(hidden);
  return {hidden};
}

Gpt2Block::Gpt2Block(Context& owner, const HfConfig& config, const CheckpointMode& mode)
    : Module(owner, "GPT2Block"), mode_(mode), ln_1_(owner, config.hidden_size, config.type), attention_(owner, config), ln_2_(owner, config.hidden_size, config.type), mlp_(owner, config) {
  where = owner.where;
  children = {{"ln_1", &ln_1_}, {"attn", &attention_}, {"ln_2", &ln_2_}, {"mlp", &mlp_}};
}

Tensors Gpt2Block::block(const Tensor& input) {
  Tensor residual = input;
  Tensor hidden = ln_1_.call(input);
  Tensor attended = attention_.call(hidden);
  hidden = add(attended, residual);
  residual = hidden;
  hidden = ln_2_.call(hidden);
  const Tensor fed = mlp_.call(hidden);
  hidden = add(residual, fed);
  return {hidden};
}

Tensors Gpt2Block::forward(Arguments& arguments) {
  if (mode_ == CheckpointMode::none || !context->grad_enabled) return block(arguments.positional[0]);
  return checkpoint(*context, mode_, [this, keyword = arguments.keyword](const Tensors& inputs) {
    Scoped here(context->where, where);
    return block(inputs[0]);
  }, {arguments.positional[0]});
}

namespace {
std::vector<std::unique_ptr<Gpt2Block>> make_blocks(Context& context, const HfConfig& config, const CheckpointMode& mode) {
  std::vector<std::unique_ptr<Gpt2Block>> out;
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    Scoped here(context.where, Where{.unit = UnitKind::block, .block = static_cast<std::int32_t>(i)});
    out.push_back(std::make_unique<Gpt2Block>(context, config, mode));
  }
  context.where = head_unit();
  return out;
}
}  // namespace

Gpt2Model::Gpt2Model(Context& owner, const HfConfig& config, const CheckpointMode& mode)
    : Module(owner, "GPT2Model"), wte(owner, config.vocab_size, config.hidden_size, config.type), wpe(owner, config.max_positions, config.hidden_size, config.type),
      blocks(make_blocks(owner, config, mode)), ln_f(owner, config.hidden_size, config.type) {
  children = {{"wte", &wte}, {"wpe", &wpe}};
  for (std::size_t i = 0; i < blocks.size(); ++i) children.emplace_back("h." + std::to_string(i), blocks[i].get());
  children.emplace_back("ln_f", &ln_f);
}

Tensors Gpt2Model::forward(Arguments& arguments) {
  const Tensor embedded = wte.call(arguments.keyword[0]);
  Tensor range = empty(*context, Shape{embedded.size(1)}, ScalarType::int64, "arange");
  Tensor positions = add_scalar(range);
  range.reset();
  positions = unsqueeze(positions, 0);
  const Tensor position_embeds = wpe.call(positions);
  Tensor hidden = add(embedded, position_embeds);
  for (const auto& block : blocks) hidden = std::move((*block)(Arguments{.positional = {hidden}, .keyword = {positions}})[0]);
  context->where = head_unit();
  hidden = ln_f.call(hidden);
  hidden = view(hidden, {hidden.size(0), hidden.size(1), hidden.size(2)});
  return {hidden};
}

Gpt2Lm::Gpt2Lm(Context& owner, const HfConfig& config)
    : CausalLm(owner, "GPT2LMHeadModel"), model_((owner.where = embedding_unit(), owner), config, checkpoint_), lm_head_(owner, config.hidden_size, config.vocab_size, false, config.type) {
  where = embedding_unit();
  if (config.tie_embeddings) lm_head_.own_parameters[0].second = model_.wte.own_parameters[0].second;
  children = {{"transformer", &model_}, {"lm_head", &lm_head_}};
  embedding_ = &model_.wte;
  for (const auto& block : model_.blocks) blocks_.push_back(block.get());
  owner.where = embedding_unit();
}

Tensors Gpt2Lm::forward(Arguments& arguments) {
  const Tensor hidden = std::move(model_(Arguments{.positional = {}, .keyword = {arguments.keyword[0]}})[0]);
  context->where = head_unit();
  const Tensor logits = lm_head_.call(hidden);
  Tensor loss = causal_lm_loss(logits, arguments.keyword[1]);
  return {loss, logits};
}

}  // namespace zeroplan::eager
