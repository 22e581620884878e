#include "planner/engines/eager/hf_gpt_neox.h"

#include "planner/engines/eager/hf_attention.h"
#include "planner/engines/eager/ops_attention.h"

namespace zeroplan::eager {

NeoxAttention::NeoxAttention(Context& owner, const HfConfig& config)
    : Module(owner, "GPTNeoXAttention"), config_(config), query_key_value_(owner, config.hidden_size, 3 * config.hidden_size, config.qkv_bias, config.type),
      dense_(owner, config.hidden_size, config.hidden_size, config.attn_out_bias, config.type) {
  where = owner.where;
  children = {{"query_key_value", &query_key_value_}, {"dense", &dense_}};
}

Tensors NeoxAttention::forward(Arguments& arguments) {
  const Tensor& hidden = arguments.keyword[0];
  const Tensor qkv = transpose(view(query_key_value_.call(hidden), {hidden.size(0), hidden.size(1), -1, 3 * config_.head_dim}), 1, 2);
  Tensors parts = split_last(qkv, config_.head_dim);
  rotate(config_, parts[0], parts[1], arguments.keyword[1], arguments.keyword[2]);
  Attended made = attend(config_, parts[0], parts[1], parts[2], arguments.keyword.size() > 3 ? arguments.keyword[3] : Tensor());
  made.out = contiguous(reshape(made.out, {hidden.size(0), hidden.size(1), -1}));
  return made.with(dense_.call(made.out));
}

NeoxMlp::NeoxMlp(Context& owner, const HfConfig& config)
    : Module(owner, "GPTNeoXMLP"), dense_h_to_4h_(owner, config.hidden_size, config.intermediate_size, true, config.type), dense_4h_to_h_(owner, config.intermediate_size, config.hidden_size, true, config.type) {
  where = owner.where;
  children = {{"dense_h_to_4h", &dense_h_to_4h_}, {"dense_4h_to_h", &dense_4h_to_h_}};
}

Tensors NeoxMlp::forward(Arguments& arguments) {
  Tensor hidden = dense_h_to_4h_.call(arguments.positional[0]);
  hidden = gelu(hidden);
  hidden = dense_4h_to_h_.call(hidden);
  return {hidden};
}

NeoxLayer::NeoxLayer(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : DecoderBlock(owner, "GPTNeoXLayer", checkpoints), parallel_residual_(config.parallel_residual), input_norm_(owner, config.hidden_size, config.type),
      post_attention_norm_(owner, config.hidden_size, config.type), attention_(owner, config), mlp_(owner, config) {
  children = {{"input_layernorm", &input_norm_}, {"post_attention_layernorm", &post_attention_norm_}, {"attention", &attention_}, {"mlp", &mlp_}};
}

Tensors NeoxLayer::block(const Tensor& input, const Tensors& keyword) {
  Tensors outputs;
  {
    Tensors attention_keyword{input_norm_.call(input), keyword[0], keyword[1]};
    if (keyword.size() > 3) attention_keyword.push_back(keyword[3]);
    outputs = attention_(Arguments{.positional = {}, .keyword = std::move(attention_keyword)});
  }
  Tensor attended = std::move(outputs[0]);
  if (parallel_residual_) {
    const Tensor fed = mlp_.call(post_attention_norm_.call(input));
    const Tensor both = add(fed, attended);
    return {add(both, input)};
  }
  attended = add(attended, input);
  const Tensor fed = mlp_.call(post_attention_norm_.call(attended));
  return {add(fed, attended)};
}

NeoxModel::NeoxModel(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : Module(owner, "GPTNeoXModel"), embed_in(owner, config.vocab_size, config.hidden_size, config.type), layers(make_blocks<NeoxLayer>(owner, config, checkpoints)),
      final_norm(owner, config.hidden_size, config.type), rotary(owner, config.rotary_embedding_dims()), config_(config) {
  rotary.initialise_again();
  children.emplace_back("embed_in", &embed_in);
  for (std::size_t i = 0; i < layers.size(); ++i) children.emplace_back("layers." + std::to_string(i), layers[i].get());
  children.emplace_back("final_layer_norm", &final_norm);
  children.emplace_back("rotary_emb", &rotary);
}

Tensors NeoxModel::forward(Arguments& arguments) {
  const Tensor embedded = embed_in.call(arguments.keyword[0]);
  Tensor range = empty(*context, Shape{embedded.size(1)}, ScalarType::int64, "arange");
  Tensor positions = add_scalar(range);
  range.reset();
  positions = unsqueeze(positions, 0);
  Tensor mask;
  if (config_.attention == AttentionKernel::eager) mask = causal_mask(*context, config_.attention, embedded);
  Tensor hidden = embedded;
  Tensors keyword = rotary(Arguments{.positional = {hidden, positions}, .keyword = {}});
  keyword.push_back(positions);
  if (mask.defined()) keyword.push_back(mask);
  for (const auto& layer : layers) hidden = std::move((*layer)(Arguments{.positional = {hidden}, .keyword = keyword})[0]);
  context->where = {.unit = UnitKind::head};
  hidden = final_norm.call(hidden);
  return {hidden};
}

}  // namespace zeroplan::eager
