// From the last hidden states to the loss: transformers' ForCausalLMLoss, Liger's fused loss and torchtune's chunked one.
#include <algorithm>

#include "planner/engines/eager/hf_decoder.h"
#include "planner/engines/eager/ops_attention.h"
#include "planner/engines/eager/ops_loss.h"

namespace zeroplan::eager {

namespace {
/// LigerForCausalLMLoss
Tensor fused_loss(Linear& head, const Tensor& hidden, const Tensor& labels) {
  const Tensor padded = pad_last(labels);
  const Tensor target = view(contiguous(slice_last(padded, 1, padded.size(-1) - 1)), {-1});
  const Tensor rows = view(hidden, {-1, hidden.size(-1)});
  return head.call_with(rows, [&](const Tensor& x) { return fused_linear_cross_entropy(x, head.weight(), target); });
}

/// The lengths of tensor_split.
std::vector<std::int64_t> chunk_lengths(std::int64_t tokens, std::int64_t chunks) {
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < chunks; ++i) out.push_back(tokens / chunks + (i < tokens % chunks ? 1 : 0));
  return out;
}

/// TransformerDecoder.chunked_output, then CEWithChunkedOutputLoss: all chunks' logits are there at once, in fp32 one after the other.
Tensor chunked_loss(std::int64_t chunks, Linear& head, Tensor hidden, const Tensor& labels) {
  const std::vector<std::int64_t> lengths = chunk_lengths(hidden.size(1), chunks);
  Tensors parts, logits, targets;
  for (const std::int64_t length : lengths) parts.push_back(narrow(hidden, 1, length));
  for (const Tensor& part : parts) logits.push_back(head.call(part));
  parts.clear();
  hidden.reset();
  Tensor shifted = pad_last(labels);
  shifted = contiguous(slice_last(shifted, 1, shifted.size(-1) - 1));
  const Tensor counted = empty(*head.context, Shape{}, ScalarType::int64, "sum");
  for (const std::int64_t length : lengths) targets.push_back(reshape(narrow(shifted, 1, length), {-1}));
  shifted.reset();
  for (Tensor& chunk : logits) chunk = reshape(chunk, {-1, chunk.size(-1)});
  Tensor total;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const Tensor one = cross_entropy(to(logits[i], ScalarType::fp32), targets[i]);
    total = total.defined() ? add_in_place(total, one) : add_scalar(one);
  }
  return div_scalar(total);
}

/// compute_loss_from_logits of llm-foundry: labels rolled by one, a loss for each token, their sum over the count.
Tensors flash_loss(Linear& head, const Tensor& hidden, const Tensor& labels) {
  const Tensor logits = head.call(hidden);
  const Tensor targets = clone(labels);
  const Tensor losses = flash_cross_entropy(view(logits, {-1, logits.size(-1)}), view(targets, {-1}));
  return {div_scalar(sum_all(losses)), logits};
}

/// logits / cap, tanh, × cap (gemma2)
Tensor capped(Tensor logits) {
  logits = div_scalar(logits);
  logits = eager::tanh(logits);
  return mul_scalar(logits);
}
}  // namespace

namespace {
/// shift_logits = logits[..., :-1, :].contiguous(). Both live until the model returns.
Tensor shifted_logits_loss(const Tensor& logits, const Tensor& labels) {
  const Tensor shift_logits = contiguous(narrow(logits, 1, logits.size(1) - 1));
  const Tensor shift_labels = contiguous(slice_last(labels, 1, labels.size(-1) - 1));
  return cross_entropy(view(shift_logits, {-1, logits.size(-1)}), view(shift_labels, {-1}));
}
}  // namespace

Tensor causal_lm_loss(Tensor logits, Tensor labels, const LossConfig& loss) {
  if (loss.logits_fp32) logits = to(logits, ScalarType::fp32);
  if (loss.shifts_logits) return shifted_logits_loss(logits, labels);
  labels = pad_last(labels);
  Tensor shifted = contiguous(slice_last(labels, 1, labels.size(-1) - 1));
  logits = view(logits, {-1, logits.size(-1)});
  shifted = view(shifted, {-1});
  return cross_entropy(logits, shifted);
}

Tensors head_and_loss(const HfConfig& config, Linear& head, Tensor hidden, const Tensor& labels) {
  switch (config.loss.kind) {
    case LossConfig::Kind::fused: return {fused_loss(head, hidden, labels), Tensor()};
    case LossConfig::Kind::chunked: return {chunked_loss(config.loss.chunks, head, std::move(hidden), labels), Tensor()};
    case LossConfig::Kind::flash: return flash_loss(head, hidden, labels);
    case LossConfig::Kind::plain: break;
  }
  Tensor logits = head.call(hidden);
  if (config.logit_softcap) logits = capped(std::move(logits));
  Tensor loss = causal_lm_loss(logits, labels, config.loss);
  return {loss, logits};
}

}  // namespace zeroplan::eager
