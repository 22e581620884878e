#include "planner/engines/eager/hf_foundry.h"

#include "planner/engines/eager/ops_attention.h"

namespace zeroplan::eager {

namespace {
/// A row of the result for each index, and back: torch.gather with a scatter into zeros, or an assignment into zeros with a lookup. One copy each way.
Tensor copied_rows(const char* name, const Tensor& x, const Tensor& indices) {
  Recording recording(x.context(), name, {&x});
  x.context().begin_op(name);
  Tensor out = empty(x.context(), x.shape().contiguous(), x.type(), name);
  x.context().moves(2 * out.bytes());
  if (recording) {
    recording->save(indices);
    recording->apply = [](BackwardCall& call) {
      const Tensor saved = call.saved(0);
      call.results[0] = empty(*call.node.context, call.edge(0).expected.contiguous(), call.gradient().type(), "rows");
      call.node.context->moves(3 * call.results[0].bytes());
    };
  }
  recording.set_output(out);
  return out;
}

std::unique_ptr<Embedding> position_table(Context& owner, const HfConfig& config) {
  if (config.position != PositionKind::learned) return nullptr;
  return std::make_unique<Embedding>(owner, config.max_positions, config.hidden_size, config.type);
}
}  // namespace

LowPrecisionNorm::LowPrecisionNorm(Context& owner, const HfConfig& config) : LayerNorm(owner, config.hidden_size, config.type) {
  if (!config.norm_bias) drop_bias();
}

Tensors LowPrecisionNorm::forward(Arguments& arguments) {
  const Autocast& autocast = context->autocast;
  const auto lowered = [&](const Tensor& x) { return autocast.enabled ? to(x, autocast.type) : x; };
  const Tensor x = lowered(arguments.positional[0]);
  const Tensor weight = lowered(own_parameters[0].second);
  const Tensor bias = own_parameters.size() > 1 ? lowered(own_parameters[1].second) : Tensor();
  return {layer_norm(x, weight, bias)};
}

FoundryAttention::FoundryAttention(Context& owner, const HfConfig& config)
    : Module(owner, "MultiheadAttention"), config_(config), w_qkv_(owner, config.hidden_size, 3 * config.hidden_size, config.qkv_bias, config.type),
      out_proj_(owner, config.hidden_size, config.hidden_size, config.attn_out_bias, config.type) {
  where = owner.where;
  children = {{"Wqkv", &w_qkv_}, {"out_proj", &out_proj_}};
}

Tensors FoundryAttention::forward(Arguments& arguments) {
  const Tensor& x = arguments.positional[0];
  const Tensor& indices = arguments.keyword[0];
  const std::int64_t batch = x.size(0), tokens = x.size(1);
  Tensors qkv = split_last(w_qkv_.call(x), config_.hidden_size);
  Tensors heads;
  for (const Tensor& part : qkv) {
    const Tensor rows = copied_rows("index_first_axis", reshape(part, {batch * tokens, config_.hidden_size}), indices);
    heads.push_back(transpose(view(rows, {batch, tokens, config_.num_heads, config_.head_dim}), 1, 2));
  }
  const Tensor out = transpose(flash_attention(heads[0], heads[1], heads[2]), 1, 2);
  const Tensor padded = copied_rows("pad_input", reshape(out, {batch * tokens, config_.hidden_size}), indices);
  return {out_proj_.call(view(padded, {batch, tokens, config_.hidden_size}))};
}

FoundryBlock::FoundryBlock(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : DecoderBlock(owner, "MPTBlock", checkpoints), norm_1_(owner, config), attention_(owner, config), norm_2_(owner, config),
      up_proj_(owner, config.hidden_size, config.intermediate_size, config.mlp_bias, config.type), down_proj_(owner, config.intermediate_size, config.hidden_size, config.mlp_bias, config.type) {
  children = {{"norm_1", &norm_1_}, {"attn", &attention_}, {"norm_2", &norm_2_}, {"ffn.up_proj", &up_proj_}, {"ffn.down_proj", &down_proj_}};
}

Tensors FoundryBlock::block(const Tensor& input, const Tensors& keyword) {
  const Tensor normed = norm_1_.call(input);
  const Tensors attended = attention_(Arguments{.positional = {normed}, .keyword = keyword});
  const Tensor x = add(input, attended[0]);
  const Tensor m = norm_2_.call(x);
  Tensor n;
  {
    const Tensor up = up_proj_.call(m);
    const Tensor active = gelu(up);
    n = down_proj_.call(active);
  }
  return {add(x, n)};
}

FoundryModel::FoundryModel(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : Module(owner, "MPTModel"), wte(owner, config.vocab_size, config.hidden_size, config.type), wpe(position_table(owner, config)),
      layers(make_blocks<FoundryBlock>(owner, config, checkpoints)), norm_f(owner, config), config_(config) {
  children.emplace_back("wte", &wte);
  if (wpe) children.emplace_back("wpe", wpe.get());
  for (std::size_t i = 0; i < layers.size(); ++i) children.emplace_back("blocks." + std::to_string(i), layers[i].get());
  children.emplace_back("norm_f", &norm_f);
}

Tensors FoundryModel::forward(Arguments& arguments) {
  Tensor hidden = wte.call(arguments.keyword[0]);
  const Tensor positions = unsqueeze(empty(*context, Shape{hidden.size(1)}, ScalarType::int64, "arange"), 0);
  if (wpe) {
    const Tensor position_embeds = wpe->call(positions);
    hidden = add(hidden, position_embeds);
  }
  const Tensor indices = empty(*context, Shape{hidden.size(0) * hidden.size(1)}, ScalarType::int64, "unpad indices");
  for (const auto& layer : layers) hidden = std::move((*layer)(Arguments{.positional = {hidden}, .keyword = {indices}})[0]);
  context->where = {.unit = UnitKind::head};
  hidden = norm_f.call(hidden);
  return {hidden};
}

}  // namespace zeroplan::eager
