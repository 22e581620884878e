#include "planner/engines/eager/hf_falcon.h"

#include "planner/engines/eager/hf_attention.h"
#include "planner/engines/eager/ops_attention.h"

namespace zeroplan::eager {

Tensors FalconLinear::forward(Arguments& arguments) {
  const Tensor product = matmul(arguments.positional[0], t(weight()));
  return {own_parameters.size() > 1 ? add(product, own_parameters[1].second) : product};
}

FalconAttention::FalconAttention(Context& owner, const HfConfig& config)
    : Module(owner, "FalconAttention"), config_(config),
      query_key_value_(owner, config.hidden_size, (config.num_heads + 2 * config.num_kv_heads) * config.head_dim, config.qkv_bias, config.type),
      dense_(owner, config.hidden_size, config.hidden_size, config.attn_out_bias, config.type) {
  where = owner.where;
  children = {{"query_key_value", &query_key_value_}, {"dense", &dense_}};
}

/// _split_heads: q, k, v as [batch, tokens, heads, head_dim].
Tensors FalconAttention::heads(const Tensor& fused) const {
  const std::int64_t batch = fused.size(0), tokens = fused.size(1), query_heads = config_.num_heads, head_dim = config_.head_dim;
  if (config_.num_kv_heads == query_heads) {
    const Tensor by_head = view(fused, {batch, tokens, query_heads, 3, head_dim});
    return {select(by_head, 3), select(by_head, 3), select(by_head, 3)};
  }
  if (config_.num_kv_heads == 1 && config_.norms_per_layer == 1) {
    const Tensor by_head = view(fused, {batch, tokens, query_heads + 2, head_dim});
    const Tensor q = narrow(by_head, 2, query_heads), k = index_one(by_head, 2), v = index_one(by_head, 2);
    return {q, k, v};
  }
  const std::int64_t group = query_heads / config_.num_kv_heads;
  const Tensor by_group = view(fused, {batch, tokens, -1, group + 2, head_dim});
  Tensor q = narrow(by_group, 3, group), k = index_one(by_group, 3), v = index_one(by_group, 3);
  k = expand(k, {-1, -1, -1, group, -1});
  v = expand(v, {-1, -1, -1, group, -1});
  Tensors out;
  for (const Tensor* x : {&q, &k, &v}) out.push_back(reshape(*x, {batch, tokens, query_heads, head_dim}));
  return out;
}

Tensors FalconAttention::forward(Arguments& arguments) {
  const Tensor& hidden = arguments.positional[0];
  const std::int64_t batch = hidden.size(0), tokens = hidden.size(1);
  const Tensor fused = query_key_value_.call(hidden);
  Tensors qkv = heads(fused);
  for (Tensor& x : qkv) x = reshape(transpose(x, 1, 2), {batch, x.size(2), tokens, config_.head_dim});
  rotate(config_, qkv[0], qkv[1], arguments.keyword[0], arguments.keyword[1]);
  const Tensor& mask = arguments.keyword[3];
  Tensor out;
  Tensor scores;
  if (config_.attention == AttentionKernel::eager) {
    scores = matmul(qkv[0], transpose(qkv[1], 2, 3));
    scores = div_in_place(scores);
    {
      const Tensor masked = add(scores, mask);
      scores = softmax_last(masked, hidden.type());
    }
    out = matmul(scores, qkv[2]);
  } else {
    out = sdpa(config_.attention, qkv[0], qkv[1], qkv[2], mask);
  }
  out = transpose(view(out, {batch, config_.num_heads, tokens, config_.head_dim}), 1, 2);
  out = reshape(out, {batch, tokens, config_.num_heads * config_.head_dim});
  out = dense_.call(out);
  return Attended{.out = {}, .weights = std::move(scores)}.with(out);
}

FalconMlp::FalconMlp(Context& owner, const HfConfig& config)
    : Module(owner, "FalconMLP"), dense_h_to_4h_(owner, config.hidden_size, config.intermediate_size, config.mlp_bias, config.type),
      dense_4h_to_h_(owner, config.intermediate_size, config.hidden_size, config.mlp_bias, config.type) {
  where = owner.where;
  children = {{"dense_h_to_4h", &dense_h_to_4h_}, {"dense_4h_to_h", &dense_4h_to_h_}};
}

Tensors FalconMlp::forward(Arguments& arguments) {
  Tensor hidden;
  {
    const Tensor wide = dense_h_to_4h_.call(arguments.positional[0]);
    hidden = gelu(wide);
  }
  hidden = dense_4h_to_h_.call(hidden);
  return {hidden};
}

FalconLayer::FalconLayer(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : DecoderBlock(owner, "FalconDecoderLayer", checkpoints), parallel_(config.parallel_residual), attention_(owner, config), mlp_(owner, config),
      attention_norm_(owner, config.hidden_size, config.type) {
  children = {{"self_attention", &attention_}, {"mlp", &mlp_}};
  if (config.norms_per_layer > 1) mlp_norm_ = std::make_unique<LayerNorm>(owner, config.hidden_size, config.type);
  if (!parallel_) {
    children.emplace_back("post_attention_layernorm", mlp_norm_.get());
    children.emplace_back("input_layernorm", &attention_norm_);
    return;
  }
  children.emplace_back(mlp_norm_ ? "ln_attn" : "input_layernorm", &attention_norm_);
  if (mlp_norm_) children.emplace_back("ln_mlp", mlp_norm_.get());
}

Tensors FalconLayer::block(const Tensor& input, const Tensors& keyword) {
  Tensor residual = input;
  const Tensor attention_input = attention_norm_.call(input);
  Tensor mlp_input = parallel_ && mlp_norm_ ? mlp_norm_->call(input) : attention_input;
  const Tensors attended = attention_(Arguments{.positional = {attention_input}, .keyword = keyword});
  if (!parallel_) {
    residual = add(residual, attended[0]);
    mlp_input = mlp_norm_->call(residual);
  }
  Tensor fed = mlp_.call(mlp_input);
  if (parallel_) fed = add_in_place(fed, attended[0]);
  Tensors outputs{add(residual, fed)};
  if (attended.size() > 1) outputs.push_back(attended[1]);
  return outputs;
}

FalconModel::FalconModel(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : Module(owner, "FalconModel"), word_embeddings(owner, config.vocab_size, config.hidden_size, config.type), layers(make_blocks<FalconLayer>(owner, config, checkpoints)),
      final_norm(owner, config.hidden_size, config.type), rotary(owner, config.head_dim), config_(config) {
  rotary.initialise_again();
  children.emplace_back("word_embeddings", &word_embeddings);
  for (std::size_t i = 0; i < layers.size(); ++i) children.emplace_back("h." + std::to_string(i), layers[i].get());
  children.emplace_back("ln_f", &final_norm);
  children.emplace_back("rotary_emb", &rotary);
}

Tensors FalconModel::forward(Arguments& arguments) {
  const Tensor embedded = word_embeddings.call(arguments.keyword[0]);
  Tensor range = empty(*context, Shape{embedded.size(1)}, ScalarType::int64, "arange");
  Tensor positions = add_scalar(range);
  range.reset();
  positions = unsqueeze(positions, 0);
  const Tensor mask = causal_mask(*context, config_.attention, embedded);
  Tensor hidden = embedded;
  Tensors keyword = rotary(Arguments{.positional = {hidden, positions}, .keyword = {}});
  keyword.push_back(positions);
  keyword.push_back(mask);
  Tensors outputs;
  for (const auto& layer : layers) {
    outputs = (*layer)(Arguments{.positional = {hidden}, .keyword = keyword});
    hidden = outputs[0];
  }
  context->where = {.unit = UnitKind::head};
  hidden = final_norm.call(hidden);
  return {hidden};
}

}  // namespace zeroplan::eager
