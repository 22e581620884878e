#include "planner/engines/eager/hf_opt.h"

#include "planner/engines/eager/hf_attention.h"
#include "planner/engines/eager/ops_attention.h"

namespace zeroplan::eager {

namespace {
constexpr std::int64_t kPositionOffset = 2;
}

OptAttention::OptAttention(Context& owner, const HfConfig& config)
    : Module(owner, "OPTAttention"), config_(config), k_(owner, config.hidden_size, config.hidden_size, config.qkv_bias, config.type),
      v_(owner, config.hidden_size, config.hidden_size, config.qkv_bias, config.type), q_(owner, config.hidden_size, config.hidden_size, config.qkv_bias, config.type),
      out_(owner, config.hidden_size, config.hidden_size, config.attn_out_bias, config.type) {
  where = owner.where;
  children = {{"k_proj", &k_}, {"v_proj", &v_}, {"q_proj", &q_}, {"out_proj", &out_}};
}

Tensors OptAttention::forward(Arguments& arguments) {
  const Tensor& hidden = arguments.keyword[0];
  const auto heads = [&](const Tensor& x) { return transpose(view(x, {hidden.size(0), -1, config_.num_heads, config_.head_dim}), 1, 2); };
  Tensor q = q_.call(hidden);
  q = mul_scalar(q);
  q = heads(q);
  Tensor k = k_.call(hidden);
  Tensor v = v_.call(hidden);
  k = heads(k);
  v = heads(v);
  Attended made = attend(config_, q, k, v, arguments.keyword.size() > 1 ? arguments.keyword[1] : Tensor());
  made.out = contiguous(reshape(made.out, {hidden.size(0), hidden.size(1), -1}));
  return made.with(out_.call(made.out));
}

OptLayer::OptLayer(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : DecoderBlock(owner, "OPTDecoderLayer", checkpoints), norm_first_(!config.post_norm), attention_(owner, config), attention_norm_(owner, config.hidden_size, config.type),
      fc1_(owner, config.hidden_size, config.intermediate_size, config.mlp_bias, config.type), fc2_(owner, config.intermediate_size, config.hidden_size, config.mlp_bias, config.type),
      final_norm_(owner, config.hidden_size, config.type) {
  children = {{"self_attn", &attention_}, {"self_attn_layer_norm", &attention_norm_}, {"fc1", &fc1_}, {"fc2", &fc2_}, {"final_layer_norm", &final_norm_}};
}

Tensor OptLayer::fed(const Tensor& attended) {
  Tensor hidden = reshape(attended, {-1, attended.size(-1)});
  const Tensor residual = hidden;
  if (norm_first_) hidden = final_norm_.call(hidden);
  hidden = fc1_.call(hidden);
  hidden = relu(hidden);
  hidden = fc2_.call(hidden);
  hidden = view(add(residual, hidden), {attended.size(0), attended.size(1), attended.size(2)});
  return norm_first_ ? hidden : final_norm_.call(hidden);
}

Tensors OptLayer::block(const Tensor& input, const Tensors& keyword) {
  Tensor residual = input;
  Tensor hidden = norm_first_ ? attention_norm_.call(input) : input;
  Tensors attention_keyword{hidden};
  if (keyword.size() > 1) attention_keyword.push_back(keyword[1]);
  Tensors attended = attention_(Arguments{.positional = {}, .keyword = std::move(attention_keyword)});
  hidden = std::move(attended[0]);
  hidden = add(residual, hidden);
  residual.reset();
  if (!norm_first_) hidden = attention_norm_.call(hidden);
  return {fed(hidden)};
}

OptDecoder::OptDecoder(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : Module(owner, "OPTDecoder"), embed_tokens(owner, config.vocab_size, config.embedding_columns(), config.type), embed_positions(owner, config.max_positions + kPositionOffset, config.hidden_size, config.type),
      config_(config) {
  children = {{"embed_tokens", &embed_tokens}, {"embed_positions", &embed_positions}};
  if (config.embedding_columns() != config.hidden_size) {
    project_out = std::make_unique<Linear>(owner, config.hidden_size, config.embedding_columns(), false, config.type);
    project_in = std::make_unique<Linear>(owner, config.embedding_columns(), config.hidden_size, false, config.type);
    children.emplace_back("project_out", project_out.get());
    children.emplace_back("project_in", project_in.get());
  }
  if (config.final_norm) {
    final_norm = std::make_unique<LayerNorm>(owner, config.hidden_size, config.type);
    children.emplace_back("final_layer_norm", final_norm.get());
  }
  layers = make_blocks<OptLayer>(owner, config, checkpoints);
  for (std::size_t i = 0; i < layers.size(); ++i) children.emplace_back("layers." + std::to_string(i), layers[i].get());
}

/// (cumsum(ones) * ones - 1).long(), shifted when it is looked up
Tensor OptDecoder::position_ids(const Tensor& embedded) const {
  const Shape shape{embedded.size(0), embedded.size(1)};
  Tensor sums = empty(*context, shape, ScalarType::fp32, "cumsum");
  Tensor seen = mul_scalar(sums);
  Tensor before = add_scalar(seen);
  seen.reset();
  return to(before, ScalarType::int64);
}

Tensors OptDecoder::forward(Arguments& arguments) {
  Tensor embedded = embed_tokens.call(arguments.keyword[0]);
  const Tensor ones = empty(*context, Shape{embedded.size(0), embedded.size(1)}, ScalarType::fp32, "ones");
  const Tensor positions = position_ids(embedded);
  Tensors keyword{positions};
  if (config_.attention == AttentionKernel::eager) keyword.push_back(causal_mask(*context, config_.attention, embedded));
  Tensor shifted = add_scalar(positions);
  const Tensor position_embeds = embed_positions.call(shifted);
  shifted.reset();
  if (project_in) embedded = project_in->call(embedded);
  Tensor hidden = add(embedded, position_embeds);
  for (const auto& layer : layers) hidden = std::move((*layer)(Arguments{.positional = {hidden}, .keyword = keyword})[0]);
  context->where = {.unit = UnitKind::head};
  if (final_norm) hidden = final_norm->call(hidden);
  if (project_out) hidden = project_out->call(hidden);
  return {hidden};
}

}  // namespace zeroplan::eager
