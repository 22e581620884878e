#include "planner/engines/eager/hf_attention.h"

#include "planner/engines/eager/ops_attention.h"

namespace zeroplan::eager {

namespace {
Tensor indices(Context& context, std::int64_t count) { return empty(context, Shape{count}, ScalarType::int64, "arange"); }

/// arange + offset
Tensor shifted_indices(Context& context, std::int64_t count) {
  const Tensor range = indices(context, count);
  return add_scalar(range);
}

/// sdpa_mask: True where a token is seen. Of the causal rule alone one row of the batch is made.
Tensor seen_mask(Context& context, std::int64_t batch, std::int64_t tokens, bool sliding) {
  const Tensor batch_range = indices(context, batch);
  const Tensor head_range = indices(context, 1);
  const Tensor queries = shifted_indices(context, tokens);
  const Tensor keys = shifted_indices(context, tokens);
  const auto pairs = [&](std::int64_t first, ScalarType type, const char* site) { return empty(context, Shape{first, 1, tokens, tokens}, type, site); };
  if (!sliding) return expand(pairs(1, ScalarType::boolean, "le.Tensor"), {batch, -1, -1, -1});
  Tensor result = empty(context, Shape{1, 1, 1, 1}, ScalarType::boolean, "new_ones");
  {
    const Tensor earliest = empty(context, Shape{1, 1, tokens, 1}, ScalarType::int64, "sub.Tensor");
    const Tensor within = pairs(1, ScalarType::boolean, "gt.Tensor");
    Tensor both = pairs(1, ScalarType::boolean, "bitwise_and.Tensor");
    result = std::move(both);
  }
  const Tensor causal = pairs(1, ScalarType::boolean, "le.Tensor");
  result = pairs(1, ScalarType::boolean, "bitwise_and.Tensor");
  return expand(result, {batch, -1, -1, -1});
}

/// torch.where(mask, 0, -inf) in `type`: the whole batch.
Tensor float_mask(const Tensor& mask, ScalarType type) {
  Context& context = mask.context();
  const Tensor zero = empty(context, Shape{}, type, "zeros");
  const Tensor lowest = empty(context, Shape{}, type, "scalar_tensor");
  return empty(context, mask.shape().contiguous(), type, "where.self");
}

/// eager_attention_forward's softmax is in fp32; gpt2's only where autocast makes it so.
ScalarType gpt2_softmax_type(const Tensor& q) { return q.context().autocast.enabled ? ScalarType::fp32 : q.type(); }

/// eager_attention_forward up to its transpose.
Attended written_out(const HfConfig& config, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
  Tensor weights = matmul(q, transpose(k, 2, 3));
  weights = mul_scalar(weights);
  if (config.attn_softcap) {
    weights = div_scalar(weights);
    weights = eager::tanh(weights);
    weights = mul_scalar(weights);
  }
  if (mask.defined()) weights = add(weights, mask);
  if (config.family == HfConfig::Family::gpt2) {
    weights = softmax_last(weights, gpt2_softmax_type(q));
    weights = to(weights, v.type());
  } else {
    const Tensor probabilities = softmax_last(weights, ScalarType::fp32);
    weights = to(probabilities, q.type());
  }
  Tensor out = matmul(weights, v);
  return {.out = std::move(out), .weights = std::move(weights)};
}

/// aten::_scaled_dot_product_attention_math: in fp32 where the inputs are half precision.
Tensor math(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
  const ScalarType type = q.type();
  const ScalarType inner = size_of(type) == 2 ? ScalarType::fp32 : type;
  const Tensor query = to(q, inner), key = to(k, inner), value = to(v, inner);
  const Tensor scaled_query = mul_scalar(query);
  Tensor weights;
  {
    const Tensor scaled_key = mul_scalar(transpose(key, 2, 3));
    weights = matmul(scaled_query, scaled_key);
  }
  if (mask.defined()) weights = add(weights, mask);
  weights = softmax_last(weights, inner);
  const Tensor returned_weights = to(weights, type);
  return to(matmul(weights, value), type);
}
}  // namespace

Tensor causal_mask(Context& context, AttentionKernel attention, const Tensor& embedded, bool sliding) {
  const Tensor seen = seen_mask(context, embedded.size(0), embedded.size(1), sliding);
  return attention == AttentionKernel::eager ? float_mask(seen, embedded.type()) : seen;
}

Tensor repeat_kv(const Tensor& x, std::int64_t repeats) {
  if (repeats == 1) return x;
  const Tensor repeated = expand(unsqueeze(x, 2), {-1, -1, repeats, -1, -1});
  return reshape(repeated, {x.size(0), x.size(1) * repeats, x.size(2), x.size(3)});
}

Tensor sdpa(AttentionKernel attention, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
  if (mask.defined()) {
    Tensor bias = mask.type() == ScalarType::boolean ? float_mask(mask, q.type()) : mask;
    return q.size(1) == k.size(1) ? efficient_attention(q, k, v, bias) : math(q, k, v, bias);
  }
  if (attention == AttentionKernel::efficient) return efficient_attention(q, k, v, {});
  if (attention == AttentionKernel::cudnn) return cudnn_attention(q, k, v);
  return flash_attention(q, k, v);
}

Tensors Attended::with(Tensor projected) const {
  Tensors outputs{std::move(projected)};
  if (weights.defined()) outputs.push_back(weights);
  return outputs;
}

Attended attend(const HfConfig& config, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
  const std::int64_t groups = q.size(1) / k.size(1);
  const bool eager = config.attention == AttentionKernel::eager;
  const bool repeats = groups > 1 && (eager || mask.defined() || config.attention == AttentionKernel::efficient);
  const Tensor key = repeats ? repeat_kv(k, groups) : k;
  const Tensor value = repeats ? repeat_kv(v, groups) : v;
  if (eager) {
    Attended made = written_out(config, q, key, value, mask);
    made.out = contiguous(transpose(made.out, 1, 2));
    return made;
  }
  Tensor out = sdpa(config.attention, q, key, value, mask);
  out = reshape(out, {out.size(0), -1, q.size(2), v.size(-1)});
  return {.out = contiguous(transpose(out, 1, 2)), .weights = {}};
}

void read_positions(const HfConfig& config, const Tensor& q) {
  using Read = HfConfig::PositionsRead;
  if (config.attention != AttentionKernel::flash || config.positions_read == Read::never) return;
  if (config.positions_read == Read::always || q.size(0) == 1) q.context().synchronize();
}

namespace {
Tensor rotate_half(const Tensor& x, bool interleaved) {
  const std::int64_t half = x.size(-1) / 2;
  const Tensor x1 = interleaved ? every_second(x) : slice_last(x, 0, half);
  const Tensor x2 = interleaved ? every_second(x) : slice_last(x, half, half);
  const Tensor negated = neg(x2);
  if (!interleaved) return cat_last(negated, x1);
  const Tensor pairs = stack_last(negated, x1);
  return reshape(pairs, {x.size(0), x.size(1), x.size(2), x.size(3)});
}

Tensor turned(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved) {
  const Tensor straight = mul(x, cos);
  Tensor half = rotate_half(x, interleaved);
  const Tensor crossed = mul(half, sin);
  half.reset();
  return add(straight, crossed);
}

/// cos[..., : dims / 2].repeat_interleave(2, dim=-1): index_select by the repeated indices.
Tensor interleaved_waves(const Tensor& waves) {
  Context& context = waves.context();
  const Tensor positions = indices(context, waves.size(-1));
  return empty(context, waves.shape().contiguous(), waves.type(), "index_select");
}

/// Rotates the first dims of each head. gpt_neox and glm join them with the rest when both q and k are rotated, phi3 at once.
void rotate_part(const HfConfig& config, Tensor& q, Tensor& k, const Tensor& cos, const Tensor& sin) {
  const std::int64_t dims = cos.size(-1), rest = q.size(-1) - dims;
  const Tensor q_part = narrow(q, -1, dims), q_rest = narrow(q, -1, rest);
  const Tensor k_part = narrow(k, -1, dims), k_rest = narrow(k, -1, rest);
  Tensor q_turned = turned(q_part, cos, sin, config.interleaved_rotary);
  const bool at_once = config.family == HfConfig::Family::llama && !config.interleaved_rotary;
  if (at_once) q_turned = cat_last(q_turned, q_rest);
  Tensor k_turned = turned(k_part, cos, sin, config.interleaved_rotary);
  if (!at_once) q_turned = cat_last(q_turned, q_rest);
  k_turned = cat_last(k_turned, k_rest);
  q = std::move(q_turned);
  k = std::move(k_turned);
}
}  // namespace

void rotate(const HfConfig& config, Tensor& q, Tensor& k, const Tensor& cosine, const Tensor& sine) {
  Tensor cos = unsqueeze(cosine, 1);
  Tensor sin = unsqueeze(sine, 1);
  if (config.interleaved_rotary) {
    cos = interleaved_waves(cos);
    sin = interleaved_waves(sin);
  }
  if (config.rotary_dims > 0) return rotate_part(config, q, k, cos, sin);
  Tensor q_turned = turned(q, cos, sin, false);
  Tensor k_turned = turned(k, cos, sin, false);
  if (config.norm_in_fp32) {
    q_turned = to(q_turned, q.type());
    k_turned = to(k_turned, k.type());
  }
  q = std::move(q_turned);
  k = std::move(k_turned);
}

}  // namespace zeroplan::eager
