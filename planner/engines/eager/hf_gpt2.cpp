#include "planner/engines/eager/hf_gpt2.h"

#include "planner/engines/eager/hf_attention.h"
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
  Attended made = attend(config_, q, k, v, arguments.positional.size() > 1 ? arguments.positional[1] : Tensor());
  made.out = contiguous(reshape(made.out, {hidden.size(0), hidden.size(1), -1}));
  return made.with(c_proj_.call(made.out));
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

Gpt2Block::Gpt2Block(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : DecoderBlock(owner, "GPT2Block", checkpoints), ln_1_(owner, config.hidden_size, config.type), attention_(owner, config), ln_2_(owner, config.hidden_size, config.type), mlp_(owner, config) {
  children = {{"ln_1", &ln_1_}, {"attn", &attention_}, {"ln_2", &ln_2_}, {"mlp", &mlp_}};
}

Tensors Gpt2Block::block(const Tensor& input, const Tensors& keyword) {
  Tensor residual = input;
  Tensor hidden = ln_1_.call(input);
  Tensors inputs{hidden};
  if (keyword.size() > 1) inputs.push_back(keyword[1]);
  const Tensors attended = attention_(Arguments{.positional = std::move(inputs), .keyword = {}});
  hidden = add(attended[0], residual);
  residual = hidden;
  hidden = ln_2_.call(hidden);
  const Tensor fed = mlp_.call(hidden);
  hidden = add(residual, fed);
  return {hidden};
}

Gpt2Model::Gpt2Model(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : Module(owner, "GPT2Model"), wte(owner, config.vocab_size, config.hidden_size, config.type), wpe(owner, config.max_positions, config.hidden_size, config.type),
      blocks(make_blocks<Gpt2Block>(owner, config, checkpoints)), ln_f(owner, config.hidden_size, config.type), config_(config) {
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
  Tensors keyword{positions};
  if (config_.attention == AttentionKernel::eager) keyword.push_back(causal_mask(*context, config_.attention, embedded));
  for (const auto& block : blocks) hidden = std::move((*block)(Arguments{.positional = {hidden}, .keyword = keyword})[0]);
  context->where = head_unit();
  hidden = ln_f.call(hidden);
  hidden = view(hidden, {hidden.size(0), hidden.size(1), hidden.size(2)});
  return {hidden};
}

Gpt2Lm::Gpt2Lm(Context& owner, const HfConfig& config)
    : CausalLm(owner, "GPT2LMHeadModel"), config_(config), model_((owner.where = embedding_unit(), owner), config, checkpoint_), lm_head_(owner, config.hidden_size, config.vocab_size, false, config.type) {
  where = embedding_unit();
  if (config.tie_embeddings) lm_head_.own_parameters[0].second = model_.wte.own_parameters[0].second;
  children = {{"transformer", &model_}, {"lm_head", &lm_head_}};
  embedding_ = &model_.wte;
  for (const auto& block : model_.blocks) blocks_.push_back(block.get());
  owner.where = {};
}

Tensors Gpt2Lm::forward(Arguments& arguments) {
  Tensor hidden = std::move(model_(Arguments{.positional = {}, .keyword = {arguments.keyword[0]}})[0]);
  context->where = head_unit();
  return head_and_loss(config_, lm_head_, std::move(hidden), arguments.keyword[1]);
}

}  // namespace zeroplan::eager
