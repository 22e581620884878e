#include "planner/engines/eager/hf_bloom.h"

#include "planner/engines/eager/hf_attention.h"
#include "planner/engines/eager/ops_attention.h"

namespace zeroplan::eager {

namespace {
/// 0.79788456 * x * (1 + 0.044715 * x * x), then tanh; without a graph
Tensor inner_tanh(const Tensor& x) {
  Tensor scaled = elementwise("mul.Tensor", x.type(), {&x});
  Tensor cubic = elementwise("mul.Tensor", x.type(), {&x});
  cubic = elementwise("mul.Tensor", x.type(), {&cubic, &x});
  cubic = elementwise("add.Tensor", x.type(), {&cubic});
  scaled = elementwise("mul.Tensor", x.type(), {&scaled, &cubic});
  cubic.reset();
  return elementwise("tanh", x.type(), {&scaled});
}

/// bloom_gelu_forward: x * 0.5 * (1.0 + tanh(...))
Tensor gelu_forward(const Tensor& x) {
  const Tensor half = elementwise("mul.Tensor", x.type(), {&x});
  Tensor wave = inner_tanh(x);
  wave = elementwise("add.Tensor", x.type(), {&wave});
  return elementwise("mul.Tensor", x.type(), {&half, &wave});
}

/// bloom_gelu_back: ff = 0.5 * x * ((1 - t * t) * (0.79788456 + 0.1070322243 * x * x)) + 0.5 * (1 + t); ff * g
Tensor gelu_back(const Tensor& gradient, const Tensor& x) {
  const ScalarType type = x.type();
  const auto of = [type](const char* site, const Tensor& a) { return elementwise(site, type, {&a}); };
  const auto with = [type](const char* site, const Tensor& a, const Tensor& b) { return elementwise(site, type, {&a, &b}); };
  const Tensor wave = inner_tanh(x);
  Tensor sum;
  {
    Tensor half = of("mul.Tensor", x);
    Tensor slope = with("mul.Tensor", wave, wave);
    slope = of("rsub.Scalar", slope);
    Tensor square = of("mul.Tensor", x);
    square = with("mul.Tensor", square, x);
    square = of("add.Tensor", square);
    slope = with("mul.Tensor", slope, square);
    square.reset();
    half = with("mul.Tensor", half, slope);
    slope.reset();
    Tensor rest = of("add.Tensor", wave);
    rest = of("mul.Tensor", rest);
    sum = with("add.Tensor", half, rest);
  }
  return elementwise("mul.Tensor", promoted(type, gradient.type()), {&sum, &gradient});
}

/// GeLUFunction
Tensor bloom_gelu(const Tensor& x) {
  Recording recording(x.context(), "GeLUFunctionBackward", {&x});
  x.context().begin_op("bloom_gelu");
  Tensor out = gelu_forward(x);
  if (recording) {
    recording->save(x);
    recording->apply = [](BackwardCall& call) {
      const Tensor saved = call.saved(0);
      call.results[0] = gelu_back(call.gradient(), saved);
    };
  }
  recording.set_output(out);
  return out;
}
}  // namespace

BloomAttention::BloomAttention(Context& owner, const HfConfig& config)
    : Module(owner, "BloomAttention"), config_(config), query_key_value_(owner, config.hidden_size, 3 * config.hidden_size, config.qkv_bias, config.type),
      dense_(owner, config.hidden_size, config.hidden_size, config.attn_out_bias, config.type) {
  where = owner.where;
  children = {{"query_key_value", &query_key_value_}, {"dense", &dense_}};
}

Tensors BloomAttention::forward(Arguments& arguments) {
  const Tensor& hidden = arguments.positional[0];
  const std::int64_t batch = hidden.size(0), tokens = hidden.size(1), heads = config_.num_heads;
  const Tensor fused = query_key_value_.call(hidden);
  const Tensor by_head = view(fused, {batch, tokens, heads, 3, config_.head_dim});
  const auto part = [&] { return transpose(select(by_head, 3), 1, 2); };
  Tensor q = part(), k = part(), v = part();
  q = reshape(q, {batch * heads, tokens, config_.head_dim});
  k = transpose(reshape(k, {batch * heads, tokens, config_.head_dim}), 1, 2);
  v = reshape(v, {batch * heads, tokens, config_.head_dim});
  const Tensor scores = baddbmm(arguments.keyword[1], q, k);
  Tensor weights = view(scores, {batch, heads, tokens, tokens});
  weights = add(weights, arguments.keyword[0]);
  Tensor probabilities = softmax_last(weights, ScalarType::fp32);
  probabilities = to(probabilities, q.type());
  const Tensor rows = view(probabilities, {batch * heads, tokens, tokens});
  Tensor out = bmm(rows, v);
  out = reshape(transpose(view(out, {batch, heads, tokens, config_.head_dim}), 1, 2), {batch, tokens, heads * config_.head_dim});
  out = dense_.call(out);
  out = add(arguments.positional[1], out);
  return {out, probabilities};
}

BloomMlp::BloomMlp(Context& owner, const HfConfig& config)
    : Module(owner, "BloomMLP"), dense_h_to_4h_(owner, config.hidden_size, config.intermediate_size, config.mlp_bias, config.type),
      dense_4h_to_h_(owner, config.intermediate_size, config.hidden_size, config.mlp_bias, config.type) {
  where = owner.where;
  children = {{"dense_h_to_4h", &dense_h_to_4h_}, {"dense_4h_to_h", &dense_4h_to_h_}};
}

Tensors BloomMlp::forward(Arguments& arguments) {
  Tensor hidden = dense_h_to_4h_.call(arguments.positional[0]);
  Tensor active = bloom_gelu(hidden);
  hidden = std::move(active);
  const Tensor out = dense_4h_to_h_.call(hidden);
  return {add(arguments.positional[1], out)};
}

BloomBlock::BloomBlock(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : DecoderBlock(owner, "BloomBlock", checkpoints), input_norm_(owner, config.hidden_size, config.type), attention_(owner, config),
      post_attention_norm_(owner, config.hidden_size, config.type), mlp_(owner, config) {
  children = {{"input_layernorm", &input_norm_}, {"self_attention", &attention_}, {"post_attention_layernorm", &post_attention_norm_}, {"mlp", &mlp_}};
}

Tensors BloomBlock::block(const Tensor& input, const Tensors& keyword) {
  Tensor normed = input_norm_.call(input);
  const Tensors attended = attention_(Arguments{.positional = {normed, input}, .keyword = keyword});
  normed = post_attention_norm_.call(attended[0]);
  Tensors outputs = mlp_(Arguments{.positional = {normed, attended[0]}, .keyword = {}});
  outputs.push_back(attended[1]);
  return outputs;
}

BloomModel::BloomModel(Context& owner, const HfConfig& config, const BlockCheckpoints& checkpoints)
    : Module(owner, "BloomModel"), word_embeddings(owner, config.vocab_size, config.hidden_size, config.type), embedding_norm(owner, config.hidden_size, config.type),
      layers(make_blocks<BloomBlock>(owner, config, checkpoints)), final_norm(owner, config.hidden_size, config.type), config_(config) {
  children = {{"word_embeddings", &word_embeddings}, {"word_embeddings_layernorm", &embedding_norm}};
  for (std::size_t i = 0; i < layers.size(); ++i) children.emplace_back("h." + std::to_string(i), layers[i].get());
  children.emplace_back("ln_f", &final_norm);
}

/// slopes[:, None, None] * arange(tokens), repeated for the batch: [batch × heads, 1, tokens].
Tensor BloomModel::alibi(const Tensor& slopes, const Tensor& hidden) const {
  const std::int64_t heads = slopes.size(0), tokens = hidden.size(1);
  Tensor biases;
  {
    const Tensor range = empty(*context, Shape{tokens}, ScalarType::int64, "arange");
    biases = empty(*context, Shape{heads, 1, tokens}, ScalarType::fp32, "mul.Tensor");
  }
  const Tensor repeated = empty(*context, Shape{hidden.size(0) * heads, 1, tokens}, ScalarType::fp32, "repeat");
  biases.reset();
  return to(repeated, hidden.type());
}

Tensors BloomModel::forward(Arguments& arguments) {
  const Tensor embedded = word_embeddings.call(arguments.keyword[0]);
  Tensor hidden = embedding_norm.call(embedded);
  const Tensor slopes = empty(*context, Shape{config_.num_heads}, ScalarType::fp32, "alibi slopes");
  const Tensor biases = alibi(slopes, hidden);
  const Tensor mask = causal_mask(*context, AttentionKernel::eager, embedded);
  Tensors outputs;
  for (const auto& layer : layers) {
    outputs = (*layer)(Arguments{.positional = {hidden}, .keyword = {mask, biases}});
    hidden = outputs[0];
  }
  context->where = {.unit = UnitKind::head};
  hidden = final_norm.call(hidden);
  return {hidden};
}

}  // namespace zeroplan::eager
