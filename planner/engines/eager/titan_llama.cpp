#include "planner/engines/eager/titan_llama.h"

#include <string>
#include <utility>

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

namespace {

/// complex64 as the emulator sees it: eight bytes, and not floating_point (FSDP casts floating inputs, but leaves complex ones).
constexpr ScalarType kComplex64 = ScalarType::int64;

Where embedding_unit() { return {.unit = UnitKind::embedding}; }
Where head_unit() { return {.unit = UnitKind::head}; }
Where block_unit(std::int64_t i) { return {.unit = UnitKind::block, .block = static_cast<std::int32_t>(i)}; }

// ---- complex numbers ------------------------------------------------------------------------------------------------------------------

/// Pairs of fp32 in the last dim seen as one complex number.
Tensor complex_alias(const Tensor& pairs) {
  Shape shape = pairs.shape();
  --shape.dims;
  for (int i = 0; i < shape.dims; ++i) shape.strides[static_cast<std::size_t>(i)] /= 2;
  Tensor out = alias(pairs, shape);
  out.get()->type = kComplex64;
  return out;
}

Tensor real_alias(const Tensor& numbers) {
  Shape shape = numbers.shape();
  for (int i = 0; i < shape.dims; ++i) shape.strides[static_cast<std::size_t>(i)] *= 2;
  shape.sizes[static_cast<std::size_t>(shape.dims)] = 2;
  shape.strides[static_cast<std::size_t>(shape.dims)] = 1;
  ++shape.dims;
  Tensor out = alias(numbers, shape);
  out.get()->type = ScalarType::fp32;
  return out;
}

Tensor view_as_complex(const Tensor& x) {
  Recording recording(x.context(), "ViewAsComplexBackward", {&x});
  Tensor out = complex_alias(x);
  if (recording) recording->apply = [](BackwardCall& call) { call.results[0] = real_alias(call.gradient()); };
  recording.set_output(out);
  return out;
}

Tensor view_as_real(const Tensor& x) {
  Recording recording(x.context(), "ViewAsRealBackward", {&x});
  Tensor out = real_alias(x);
  if (recording) recording->apply = [](BackwardCall& call) { call.results[0] = complex_alias(call.gradient()); };
  recording.set_output(out);
  return out;
}

/// x times a constant. Backward multiplies by the conjugate, which is lazy until mul makes it real: a copy of the constant.
Tensor complex_mul(const Tensor& x, const Tensor& constant) {
  Recording recording(x.context(), "MulBackward", {&x, &constant});
  x.context().begin_op("mul");
  if (recording) recording->save(constant);
  Tensor out = elementwise("mul.Tensor complex", kComplex64, {&x, &constant});
  if (recording)
    recording->apply = [](BackwardCall& call) {
      const Tensor factor = call.saved(0);
      const Tensor conjugate = elementwise("conjugate of freqs_cis", kComplex64, {&factor});
      call.results[0] = elementwise("mul.Tensor complex", kComplex64, {&call.gradient(), &conjugate});
    };
  recording.set_output(out);
  return out;
}

/// xq.float().reshape(*xq.shape[:-1], -1, 2) as complex numbers
Tensor as_complex(const Tensor& x) {
  const Tensor widened = to(x, ScalarType::fp32);
  return view_as_complex(reshape(widened, {x.size(0), x.size(1), x.size(2), -1, 2}));
}

Tensor turned(const Tensor& x, const Tensor& freqs_cis) {
  Tensor product = complex_mul(x, freqs_cis);
  const Tensor real = view_as_real(product);
  return reshape(real, {real.size(0), real.size(1), real.size(2), -1});
}

/// reshape_for_broadcast: the first s rows as [1, s, 1, d / 2].
Tensor reshape_for_broadcast(const Tensor& freqs_cis, std::int64_t seq_tokens) { return alias(freqs_cis, Shape{1, seq_tokens, 1, freqs_cis.size(-1)}); }

/// apply_rotary_emb
void apply_rotary_emb(Tensor& xq, Tensor& xk, const Tensor& freqs_cis) {
  const Tensor xq_complex = as_complex(xq);
  const Tensor xk_complex = as_complex(xk);
  const Tensor rows = reshape_for_broadcast(freqs_cis, xq.size(1));
  const Tensor xq_out = turned(xq_complex, rows);
  const Tensor xk_out = turned(xk_complex, rows);
  Tensor xq_cast = to(xq_out, xq.type());
  Tensor xk_cast = to(xk_out, xk.type());
  xq = std::move(xq_cast);
  xk = std::move(xk_cast);
}

/// rotate_half(x) * sin + x * cos, of models/qwen3
Tensor turned(const Tensor& x, const Tensor& cosines, const Tensor& sines) {
  const std::int64_t half = x.size(-1) / 2;
  const Tensor straight = mul(x, cosines);
  Tensor rotated;
  {
    const Tensor second = neg(slice_last(x, half, half));
    rotated = cat_last(second, slice_last(x, 0, half));
  }
  const Tensor product = mul(rotated, sines);
  rotated.reset();
  return add(straight, product);
}

/// apply_rotary_emb of models/qwen3
void apply_rope_cache(Tensor& xq, Tensor& xk, const Tensor& rope_cache) {
  const std::int64_t head_dim = xq.size(-1);
  const Tensor rows = alias(rope_cache, Shape{1, xq.size(1), 1, 2 * head_dim});
  const Tensor cosines = to(slice_last(rows, 0, head_dim), xq.type());
  const Tensor sines = to(slice_last(rows, head_dim, head_dim), xq.type());
  Tensor xq_out = turned(xq, cosines, sines);
  Tensor xk_out = turned(xk, cosines, sines);
  xq = std::move(xq_out);
  xk = std::move(xk_out);
}

/// precompute_rope_cache: cosines and sines side by side, each for both halves of a head.
Tensor precompute_rope_cache(Context& context, std::int64_t head_dim, std::int64_t max_seq_tokens) {
  const Tensor angles = empty(context, Shape{max_seq_tokens, head_dim}, ScalarType::fp32, "rotary angles");
  return empty(context, Shape{max_seq_tokens, 2 * head_dim}, ScalarType::fp32, "rope_cache");
}

/// precompute_freqs_cis. The d / 2 base frequencies are left out: they die before anything large is made.
Tensor precompute_freqs_cis(Context& context, std::int64_t head_dim, std::int64_t max_seq_tokens) {
  const Tensor angles = empty(context, Shape{max_seq_tokens, head_dim / 2}, ScalarType::fp32, "rotary angles");
  const Tensor ones = empty_like(angles, "rotary ones");
  return empty(context, angles.shape(), kComplex64, "freqs_cis");
}

/// torch.distributed.pipelining is imported while the model is made, and its microbatch.py makes a scalar of the default dtype on the default device, which stays.
Tensor sum_reducer(Context& context, ScalarType default_type) {
  context.where = embedding_unit();
  return empty(context, Shape{}, default_type, "torch.distributed.pipelining sum_reducer");
}

/// aten::_fused_rms_norm (torch 2.9 on): keeps its input and one fp32 number a row.
Tensor fused_rms_norm(const Tensor& x, const Tensor& weight) {
  Recording recording(x.context(), "FusedRmsNormBackward", {&x, &weight});
  x.context().begin_op("_fused_rms_norm");
  if (recording) {
    recording->save(x);
    recording->save(weight);
  }
  const Tensor out = empty_like(x, "_fused_rms_norm");
  x.context().moves(2 * x.bytes());
  Shape row = x.shape().contiguous();
  row.sizes[static_cast<std::size_t>(row.dims - 1)] = 1;
  const Tensor rstd = empty(x.context(), row.contiguous(), ScalarType::fp32, "_fused_rms_norm rstd");
  if (recording) {
    recording->save(rstd, true);
    recording->apply = [](BackwardCall& call) {
      const Tensor input = call.saved(0), scale = call.saved(1), reciprocal = call.saved(2);
      call.node.context->moves(3 * input.bytes());
      if (call.needs(0)) call.results[0] = empty_like(input, "_fused_rms_norm_backward");
      if (call.needs(1)) call.results[1] = empty_like(scale, "_fused_rms_norm_backward weight");
    };
  }
  recording.set_output(out);
  return out;
}

/// Inductor's cross_entropy(logits.float(), labels, reduction="sum"): two fp32 numbers a row are kept with the logits.
Tensor compiled_cross_entropy(const Tensor& logits, const Tensor& labels) {
  Context& context = labels.context();
  Recording recording(context, "CompiledCrossEntropyBackward", {&logits});
  context.begin_op("compiled cross_entropy");
  const Shape rows{logits.size(0)};
  const Tensor maxima = empty(context, rows, ScalarType::fp32, "compiled cross_entropy statistics"), sums = empty_like(maxima, "compiled cross_entropy statistics");
  context.moves(2 * logits.bytes());  // for the maximum and for the sum
  const Tensor out = empty(context, Shape{}, ScalarType::fp32, "compiled cross_entropy");
  if (recording) {
    for (const Tensor* kept : {&logits, &labels}) recording->save(*kept);
    for (const Tensor* kept : {&maxima, &sums}) recording->save(*kept, true);
    recording->apply = [](BackwardCall& call) {
      const Tensor read = call.saved(0);
      call.results[0] = empty_like(read, "gradient of the logits");
      call.node.context->moves(2 * read.bytes());
    };
  }
  recording.set_output(out);
  return out;
}

// ---- pieces -----------------------------------------------------------------------------------------------------------------------------

/// x.add_(eps): the same storage, a node of its own.
Tensor add_in_place(const Tensor& x) { return pass_through(x.context(), "AddBackward", {x}, [] {})[0]; }

/// _apply_ac_to_transformer_block; blocks count from 0, torchtitan's counter from 1.
CheckpointMode mode_of_block(const TitanCheckpoint& checkpoint, std::int64_t block) {
  switch (checkpoint.mode) {
    case TitanCheckpoint::Mode::none: return CheckpointMode::none;
    case TitanCheckpoint::Mode::full: return CheckpointMode::non_reentrant;
    case TitanCheckpoint::Mode::selective_op: return CheckpointMode::selective;
    case TitanCheckpoint::Mode::every_blocks: break;
  }
  const bool wrapped = checkpoint.block_frequency == 0 || (block + 1) % checkpoint.block_frequency == 0;
  return wrapped ? CheckpointMode::non_reentrant : CheckpointMode::none;
}

std::vector<std::unique_ptr<TitanBlock>> make_layers(Context& context, const TitanConfig& config) {
  std::vector<std::unique_ptr<TitanBlock>> out;
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    Scoped here(context.where, block_unit(i));
    out.push_back(std::make_unique<TitanBlock>(context, config, mode_of_block(config.training.checkpoint, i)));
  }
  context.where = head_unit();
  return out;
}

}  // namespace

TitanConfig titan_config(const HfConfig& sizes, std::int64_t max_seq_tokens, const TitanTraining& training) {
  const std::int64_t two_thirds = 8 * sizes.hidden_size / 3;
  const double ffn_dim_multiplier = static_cast<double>(sizes.intermediate_size) / static_cast<double>(two_thirds);
  return {.dim = sizes.hidden_size,
          .num_layers = sizes.num_layers,
          .num_heads = sizes.num_heads,
          .num_kv_heads = sizes.num_kv_heads,
          .vocab_size = sizes.vocab_size,
          .hidden_dim = sizes.qk_norm ? sizes.intermediate_size : static_cast<std::int64_t>(ffn_dim_multiplier * static_cast<double>(two_thirds)),
          .max_seq_tokens = max_seq_tokens,
          .type = sizes.type,
          .training = training,
          .head_dim = sizes.head_dim,
          .qk_norm = sizes.qk_norm};
}

TitanRmsNorm::TitanRmsNorm(Context& owner, std::int64_t size, ScalarType type) : Module(owner, "RMSNorm") {
  where = owner.where;
  own_parameters.emplace_back("weight", parameter(owner, Shape{size}, type, "norm weight"));
  made();
}

/// rms_norm_composite of ATen/native/layer_norm.cpp: the upcast input dies before the result is cast back, unless autograd saved it.
Tensors TitanRmsNorm::forward(Arguments& arguments) {
  const Tensor& input = arguments.positional[0];
  if (context->fused_rms_norm) return {fused_rms_norm(input, own_parameters[0].second)};
  Tensor upcasted = to(input, ScalarType::fp32);
  const Tensor scale = rsqrt(add_in_place(mean_last(pow_scalar(upcasted))));
  Tensor result = mul(upcasted, scale);
  result = mul(result, own_parameters[0].second);
  upcasted.reset();
  return {to(result, input.type())};
}

TitanAttention::TitanAttention(Context& owner, const TitanConfig& config)
    : Module(owner, "Attention"), head_dim_(config.head_dim), wq_(owner, config.dim, config.num_heads * head_dim_, false, config.type),
      wk_(owner, config.dim, config.num_kv_heads * head_dim_, false, config.type), wv_(owner, config.dim, config.num_kv_heads * head_dim_, false, config.type),
      wo_(owner, config.num_heads * head_dim_, config.dim, false, config.type) {
  where = owner.where;
  if (config.qk_norm) {
    q_norm_ = std::make_unique<TitanRmsNorm>(owner, head_dim_, config.type);
    k_norm_ = std::make_unique<TitanRmsNorm>(owner, head_dim_, config.type);
    children = {{"q_norm", q_norm_.get()}, {"k_norm", k_norm_.get()}};
  }
  for (const auto& [name, projection] : std::initializer_list<std::pair<const char*, Linear*>>{{"wq", &wq_}, {"wk", &wk_}, {"wv", &wv_}, {"wo", &wo_}}) children.emplace_back(name, projection);
}

Tensors TitanAttention::forward(Arguments& arguments) {
  const Tensor& x = arguments.positional[0];
  Tensor xq = wq_.call(x);
  Tensor xk = wk_.call(x);
  Tensor xv = wv_.call(x);
  for (Tensor* heads : {&xq, &xk, &xv}) *heads = view(*heads, {x.size(0), x.size(1), -1, head_dim_});
  if (q_norm_) {
    xq = q_norm_->call(xq);
    xk = k_norm_->call(xk);
    apply_rope_cache(xq, xk, arguments.positional[1]);
  } else {
    apply_rotary_emb(xq, xk, arguments.positional[1]);
  }
  for (Tensor* heads : {&xq, &xk, &xv}) *heads = transpose(*heads, 1, 2);
  Tensor output = contiguous(transpose(flash_attention(xq, xk, xv), 1, 2));
  output = view(output, {x.size(0), x.size(1), -1});
  return {wo_.call(output)};
}

TitanFeedForward::TitanFeedForward(Context& owner, const TitanConfig& config)
    : Module(owner, "FeedForward"), compiled_(config.training.compiled), w1_(owner, config.dim, config.hidden_dim, false, config.type), w2_(owner, config.hidden_dim, config.dim, false, config.type),
      w3_(owner, config.dim, config.hidden_dim, false, config.type) {
  where = owner.where;
  children = {{"w1", &w1_}, {"w2", &w2_}, {"w3", &w3_}};
}

Tensors TitanFeedForward::forward(Arguments& arguments) {
  const Tensor& x = arguments.positional[0];
  Tensor gate = w1_.call(x);
  Tensor activated = silu(gate);
  gate.reset();
  Tensor up = w3_.call(x);
  const Tensor product = mul(activated, up);
  activated.reset();
  up.reset();
  Scoped cache(context->op_cache, compiled_ ? nullptr : context->op_cache);  // nothing in backward reads the last product
  return {w2_.call(product)};
}

TitanBlock::TitanBlock(Context& owner, const TitanConfig& config, CheckpointMode mode)
    : Module(owner, "TransformerBlock"), mode_(mode), compiled_(config.training.compiled), attention_(owner, config), feed_forward_(owner, config), attention_norm_(owner, config.dim, config.type),
      ffn_norm_(owner, config.dim, config.type) {
  where = owner.where;
  children = {{"attention", &attention_}, {"feed_forward", &feed_forward_}, {"attention_norm", &attention_norm_}, {"ffn_norm", &ffn_norm_}};
}

Tensors TitanBlock::block(const Tensor& x, const Tensor& freqs_cis) {
  Tensor attended;
  {
    const Tensor normed = attention_norm_.call(x);
    attended = std::move(attention_(Arguments{.positional = {normed, freqs_cis}, .keyword = {}})[0]);
  }
  const Tensor h = add(x, attended);
  attended.reset();
  Tensor fed;
  {
    const Tensor normed = ffn_norm_.call(h);
    fed = feed_forward_.call(normed);
  }
  return {add(h, fed)};
}

Tensors TitanBlock::forward(Arguments& arguments) {
  if (mode_ == CheckpointMode::none || !context->grad_enabled) return block(arguments.positional[0], arguments.positional[1]);
  return checkpoint(*context, mode_, [this](const Tensors& inputs) {
    Scoped here(context->where, where);
    return block(inputs[0], inputs[1]);
  }, arguments.positional, {.early_stop = compiled_});  // ActivationCheckpoint.early_stop of job_config.py; a compiled backward has nothing that it does not need
}

TitanTransformer::TitanTransformer(Context& owner, const TitanConfig& config)
    : Module(owner, "Transformer"), import_time_scalar_(sum_reducer(owner, config.type)), tok_embeddings_(owner, config.vocab_size, config.dim, config.type),
      freqs_cis_(config.qk_norm ? precompute_rope_cache(owner, config.head_dim, config.max_seq_tokens) : precompute_freqs_cis(owner, config.head_dim, config.max_seq_tokens)),
      training_(config.training), layers_(make_layers(owner, config)), norm_(owner, config.dim, config.type),
      output_(owner, config.dim, config.vocab_size, false, config.type) {
  where = embedding_unit();
  children.emplace_back("tok_embeddings", &tok_embeddings_);
  for (std::size_t i = 0; i < layers_.size(); ++i) children.emplace_back("layers." + std::to_string(i), layers_[i].get());
  children.emplace_back("norm", &norm_);
  children.emplace_back("output", &output_);
  owner.where = {};
}

Tensors TitanTransformer::forward(Arguments& arguments) {
  Tensor h = tok_embeddings_.call(arguments.positional[0]);
  for (const auto& layer : layers_) h = std::move((*layer)(Arguments{.positional = {h, freqs_cis_}, .keyword = {}})[0]);
  context->where = head_unit();
  h = norm_.call(h);
  Tensor logits = output_.call(h);
  if (training_.keeps_fp32_logits) logits = to(logits, ScalarType::fp32);
  return {logits};
}

Tensor TitanTransformer::loss(const Tensor& ids) {
  const Tensor logits = call(ids);
  if (training_.keeps_fp32_logits) kept_logits_ = logits;
  Tensor summed;
  if (training_.compiled_loss) {
    summed = compiled_cross_entropy(view(logits, {-1, logits.size(-1)}), view(ids, {-1}));
  } else {
    const Tensor widened = to(view(logits, {-1, logits.size(-1)}), ScalarType::fp32);
    summed = nll_loss(log_softmax(widened), view(ids, {-1}));
  }
  return div_scalar(summed);
}

}  // namespace zeroplan::eager
