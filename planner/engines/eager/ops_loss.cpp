#include "planner/engines/eager/ops_loss.h"

#include <algorithm>
#include <bit>

#include "planner/core/units.h"

namespace zeroplan::eager {

std::int64_t fused_loss_chunk_tokens(std::int64_t tokens, std::int64_t hidden_size, std::int64_t vocab_size) {
  const std::int64_t parts = divide_up(vocab_size, hidden_size);
  const auto chunk = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(divide_up(tokens, parts))));
  return std::min(chunk, tokens);
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target) {
  const Tensor in_fp32 = logits.context().autocast.enabled ? to(logits, ScalarType::fp32) : logits;
  return nll_loss(log_softmax(in_fp32), target);
}

namespace {
struct FusedLoss {
  Tensor loss, hidden_gradient, weight_gradient;
};

/// One chunk's logits, its kernel, and the two products of their gradient.
void report_chunk(const Tensor& hidden, const Tensor& weight, std::int64_t rows, ScalarType type) {
  Context& context = hidden.context();
  const std::int64_t columns = weight.size(1), vocab = weight.size(0);
  report_product(context, {.rows = rows, .inner = columns, .columns = vocab}, type);
  context.moves(2 * rows * vocab * size_of(type));
  report_product(context, {.rows = rows, .inner = vocab, .columns = columns}, type);
  if (weight.requires_grad()) report_product(context, {.rows = vocab, .inner = rows, .columns = columns}, type);
}

/// Logits, then their gradient, of every chunk in one buffer; products are written to where they belong.
void chunks_in_place(const Tensor& hidden, const Tensor& weight, std::int64_t chunk_tokens) {
  const Tensor logits = empty(hidden.context(), Shape{chunk_tokens, weight.size(0)}, hidden.type(), "fused loss: logits");
  for (std::int64_t start = 0; start < hidden.size(0); start += chunk_tokens) report_chunk(hidden, weight, std::min(chunk_tokens, hidden.size(0) - start), hidden.type());
}

/// Under autocast of fp32 tensors the matrices are cast anew for each chunk, but for the weight in the second product, whose cast autocast keeps.
void chunks_cast(const Tensor& hidden, const Tensor& weight, std::int64_t chunk_tokens) {
  Context& context = hidden.context();
  const ScalarType type = context.autocast.type;
  for (std::int64_t start = 0; start < hidden.size(0); start += chunk_tokens) {
    const std::int64_t rows = std::min(chunk_tokens, hidden.size(0) - start);
    const Shape chunk{rows, hidden.size(1)};
    report_chunk(hidden, weight, rows, type);
    Tensor logits;
    {
      const Tensor weight_cast = empty(context, weight.shape(), type, "_to_copy");
      const Tensor chunk_cast = empty(context, chunk, type, "_to_copy");
      logits = empty(context, Shape{rows, weight.size(0)}, type, "fused loss: logits");
    }
    if (weight.requires_grad() && start == 0) context.autocast.cache.emplace_back(weight, cast(weight, type));
    { const Tensor product = empty(context, chunk, type, "mm"); }
    const Tensor chunk_cast = empty(context, chunk, type, "_to_copy");
  }
}

/// fused_linear_cross_entropy_forward with accum_dtype None on sm80 and later.
FusedLoss fused_forward(const Tensor& hidden, const Tensor& weight) {
  Context& context = hidden.context();
  const std::int64_t tokens = hidden.size(0);
  const std::int64_t chunk_tokens = fused_loss_chunk_tokens(tokens, hidden.size(1), weight.size(0));
  FusedLoss out;
  out.hidden_gradient = empty_like(hidden, "fused loss: gradient of hidden");
  if (weight.requires_grad()) out.weight_gradient = empty_like(weight, "fused loss: gradient of weight");
  const Tensor losses = empty(context, Shape{tokens}, ScalarType::fp32, "fused loss: losses");
  const Tensor counted = empty(context, Shape{tokens}, ScalarType::boolean, "fused loss: target mask");
  if (context.autocast.enabled && hidden.type() != context.autocast.type) chunks_cast(hidden, weight, chunk_tokens);
  else chunks_in_place(hidden, weight, chunk_tokens);
  out.loss = empty(context, Shape{}, ScalarType::fp32, "sum");
  return out;
}
}  // namespace

Tensor fused_linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& target) {
  Context& context = hidden.context();
  Recording recording(context, "LigerFusedLinearCrossEntropyBackward", {&hidden, &weight});
  context.begin_op("fused_linear_cross_entropy");
  static_cast<void>(target);
  FusedLoss made = fused_forward(hidden, weight);
  if (recording) {
    recording->apply = [](BackwardCall& call) {
      { const Tensor one = empty(*call.node.context, Shape{}, ScalarType::fp32, "lift_fresh"); }
      call.results[0] = call.saved(0);
      if (call.needs(1)) call.results[1] = call.saved(1);
    };
    recording->save(made.hidden_gradient);
    if (made.weight_gradient.defined()) recording->save(made.weight_gradient);
  }
  recording.set_output(made.loss);
  return made.loss;
}

Tensor flash_cross_entropy(const Tensor& logits, const Tensor& target) {
  Context& context = logits.context();
  Recording recording(context, "CrossEntropyLossBackward", {&logits});
  context.begin_op("flash_cross_entropy");
  const Tensor log_sum_exp = empty(context, Shape{logits.size(0)}, ScalarType::fp32, "flash_cross_entropy");
  Tensor losses = empty(context, Shape{logits.size(0)}, ScalarType::fp32, "flash_cross_entropy");
  context.moves(logits.bytes() + 2 * losses.bytes());
  if (recording) {
    recording->save(logits);
    recording->save(log_sum_exp);
    recording->save(target);
    recording->apply = [](BackwardCall& call) {
      const Tensor saved = call.saved(0), sums = call.saved(1), targets = call.saved(2);
      call.results[0] = empty_like(saved, "flash_cross_entropy_backward");
      call.node.context->moves(2 * saved.bytes());
    };
  }
  recording.set_output(losses);
  return losses;
}

Tensor sum_all(const Tensor& x) {
  Recording recording(x.context(), "SumBackward", {&x});
  x.context().begin_op("sum");
  Tensor out = empty(x.context(), Shape{}, x.type(), "sum");
  if (recording)
    recording->apply = [](BackwardCall& call) {  // the gradient, expanded: a view
      Shape repeated = call.edge(0).expected;
      repeated.strides = {};
      call.results[0] = alias(call.gradient(), repeated);
    };
  recording.set_output(out);
  return out;
}

}  // namespace zeroplan::eager
