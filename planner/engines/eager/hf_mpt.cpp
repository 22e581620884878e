#include "planner/engines/eager/hf_mpt.h"

#include <bit>

#include "planner/engines/eager/hf_attention.h"
#include "planner/engines/eager/ops_attention.h"

namespace zeroplan::eager {

MptAttention::MptAttention(Context& owner, const HfConfig& config)
    : Module(owner, "MptAttention"), config_(config), w_qkv_(owner, config.hidden_size, 3 * config.hidden_size, false, config.type),
      out_proj_(owner, config.hidden_size, config.hidden_size, false, config.type) {
  where = owner.where;
  children = {{"Wqkv", &w_qkv_}, {"out_proj", &out_proj_}};
}

Tensors MptAttention::forward(Arguments& arguments) {
  const Tensor& hidden = arguments.positional[0];
  const std::int64_t batch = hidden.size(0), tokens = hidden.size(1);
  const Tensor mixed = w_qkv_.call(hidden);
  Tensors qkv = split_last(mixed, config_.hidden_size);
  for (Tensor& part : qkv) part = transpose(reshape(part, {batch, tokens, config_.num_heads, config_.head_dim}), 1, 2);
  Tensor scores;
  {
    const Tensor products = matmul(qkv[0], transpose(qkv[1], 2, 3));
    scores = mul_scalar(products);
  }
  scores = add(scores, arguments.keyword[0]);
  scores = masked_fill(scores, arguments.keyword[1]);
  Tensor weights;
  {
    const Tensor probabilities = softmax_last(scores, ScalarType::fp32);
    weights = to(probabilities, qkv[2].type());
  }
  Tensor out = matmul(weights, qkv[2]);
  out = view(contiguous(transpose(out, 1, 2)), {batch, tokens, -1});
  const Tensor projected = out_proj_.call(out);
  return {projected, weights};
}

MptMlp::MptMlp(Context& owner, const HfConfig& config)
    : Module(owner, "MptMLP"), up_proj_(owner, config.hidden_size, config.intermediate_size, false, config.type), down_proj_(owner, config.intermediate_size, config.hidden_size, false, config.type) {
  where = owner.where;
  children = {{"up_proj", &up_proj_}, {"down_proj", &down_proj_}};
}

Tensors MptMlp::forward(Arguments& arguments) {
  Tensor hidden;
  {
    const Tensor up = up_proj_.call(arguments.positional[0]);
    hidden = gelu(up);
  }
  const Tensor down = down_proj_.call(hidden);
  return {add(down, arguments.positional[1])};
}

MptBlock::MptBlock(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : DecoderBlock(owner, "MptBlock", checkpoints), norm_1_(owner, config.hidden_size, config.type), attention_(owner, config), norm_2_(owner, config.hidden_size, config.type), mlp_(owner, config) {
  norm_1_.drop_bias();
  norm_2_.drop_bias();
  children = {{"norm_1", &norm_1_}, {"attn", &attention_}, {"norm_2", &norm_2_}, {"ffn", &mlp_}};
}

Tensors MptBlock::block(const Tensor& input, const Tensors& keyword) {
  Tensor normed = norm_1_.call(input);
  const Tensors attended = attention_(Arguments{.positional = {normed}, .keyword = keyword});
  const Tensor hidden = add(attended[0], input);
  normed = norm_2_.call(hidden);
  Tensors outputs = mlp_(Arguments{.positional = {normed, hidden}, .keyword = {}});
  outputs.push_back(attended[1]);
  return outputs;
}

MptModel::MptModel(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : Module(owner, "MptModel"), wte(owner, config.vocab_size, config.hidden_size, config.type), layers(make_blocks<MptBlock>(owner, config, checkpoints)),
      norm_f(owner, config.hidden_size, config.type), config_(config) {
  norm_f.drop_bias();
  children.emplace_back("wte", &wte);
  for (std::size_t i = 0; i < layers.size(); ++i) children.emplace_back("blocks." + std::to_string(i), layers[i].get());
  children.emplace_back("norm_f", &norm_f);
}

namespace {
/// build_mpt_alibi_tensor: [heads, 1, tokens] in fp32.
Tensor alibi(Context& context, std::int64_t num_heads, std::int64_t tokens) {
  const auto heads = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(num_heads)));
  const Tensor range = empty(context, Shape{tokens}, ScalarType::int32, "arange");
  Tensor slopes = empty(context, Shape{heads}, ScalarType::fp32, "alibi slopes");
  if (heads != num_heads) slopes = empty(context, Shape{heads}, ScalarType::fp32, "cat");
  return empty(context, Shape{num_heads, 1, tokens}, ScalarType::fp32, "mul.Tensor");
}
}  // namespace

Tensors MptModel::forward(Arguments& arguments) {
  const Tensor embedded = wte.call(arguments.keyword[0]);
  Tensor hidden = embedded;
  const Tensor bias = alibi(*context, config_.num_heads, config_.max_positions);
  Tensor mask = causal_mask(*context, AttentionKernel::eager, embedded);
  mask = to(mask, ScalarType::boolean);
  Tensors outputs;
  for (const auto& layer : layers) {
    outputs = (*layer)(Arguments{.positional = {hidden}, .keyword = {bias, mask}});
    hidden = outputs[0];
  }
  context->where = {.unit = UnitKind::head};
  hidden = norm_f.call(hidden);
  return {hidden};
}

}  // namespace zeroplan::eager
