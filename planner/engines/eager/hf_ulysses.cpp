#include "planner/engines/eager/hf_ulysses.h"

#include "planner/engines/eager/ops_attention.h"

namespace zeroplan::eager {

namespace {
void exchange(const Tensor& sent, std::int64_t ranks) {
  sent.context().collective({.kind = CollectiveKind::all_to_all, .payload_bytes = sent.bytes(), .ranks = ranks});
}

/// _dim_zero_all_to_all: `x` is contiguous, its first dim is the ranks.
Tensor all_to_all(const Tensor& x, std::int64_t ranks) {
  Recording recording(x.context(), "AllToAllBackward", {&x});
  x.context().begin_op("all_to_all");
  Tensor out = empty_like(x, "all_to_all");
  exchange(x, ranks);
  if (recording)
    recording->apply = [ranks](BackwardCall& call) {
      const Tensor sent = contiguous(call.gradient());
      call.results[0] = empty_like(sent, "all_to_all");
      exchange(sent, ranks);
    };
  recording.set_output(out);
  return out;
}

/// repeat_interleave(repeats, dim=2) on [tokens, batch, heads, head_dim]
Tensor repeat_heads(const Tensor& x, std::int64_t repeats) {
  const Tensor repeated = clone(expand(unsqueeze(x, 3), {-1, -1, -1, repeats, -1}), true);
  return reshape(repeated, {x.size(0), x.size(1), x.size(2) * repeats, x.size(3)});
}

/// [tokens here, batch, heads, head_dim] to [all tokens, batch, heads here, head_dim]
Tensor combine_sequence(Tensor input, std::int64_t ranks) {
  if (input.size(2) < ranks) input = repeat_heads(input, ranks / input.size(2));
  const std::int64_t tokens = input.size(0), batch = input.size(1), heads = input.size(2) / ranks, head_dim = input.size(3);
  input = reshape(input, {tokens, batch, ranks, heads, head_dim});
  input = contiguous(transpose(transpose(input, 1, 2), 0, 1));
  const Tensor output = all_to_all(input, ranks);
  return reshape(output, {ranks * tokens, batch, heads, head_dim});
}

/// [all tokens, batch, columns here] to [tokens here, batch, all columns]
Tensor partition_sequence(const Tensor& input, std::int64_t ranks) {
  const std::int64_t tokens = input.size(0) / ranks, batch = input.size(1), columns = input.size(2);
  const Tensor sent = contiguous(reshape(input, {ranks, tokens, batch, columns}));
  Tensor output = all_to_all(sent, ranks);
  output = transpose(transpose(output, 0, 1), 1, 2);
  return contiguous(reshape(output, {tokens, batch, ranks * columns}));
}

/// position_ids of all ranks, and their cat.
Tensors gathered_positions(Context& context, std::int64_t tokens, std::int64_t ranks) {
  Tensors out;
  for (std::int64_t i = 0; i < ranks; ++i) out.push_back(empty(context, Shape{1, tokens}, ScalarType::int64, "position ids"));
  out.push_back(empty(context, Shape{1, ranks * tokens}, ScalarType::int64, "position ids"));
  context.collective({.kind = CollectiveKind::all_gather, .payload_bytes = out.back().bytes(), .ranks = ranks});
  return out;
}

Tensor tokens_first(const Tensor& x) { return transpose(transpose(x, 1, 2), 0, 1); }
Tensor heads_first(const Tensor& x) { return contiguous(transpose(transpose(x, 0, 1), 1, 2)); }
}  // namespace

bool shares_heads(const HfConfig& config) {
  const std::int64_t ranks = config.sequence_ranks, kv_heads = config.num_kv_heads;
  return config.num_heads % ranks == 0 && (kv_heads % ranks == 0 || ranks % kv_heads == 0);
}

Attended ulysses_attend(const HfConfig& config, Tensors qkv) {
  const std::int64_t ranks = config.sequence_ranks;
  Tensors whole;
  for (Tensor& x : qkv) x = tokens_first(x);
  const Tensors positions = gathered_positions(qkv[0].context(), qkv[0].size(0), ranks);
  for (const Tensor& x : qkv) whole.push_back(combine_sequence(x, ranks));
  for (Tensor& x : whole) x = heads_first(x);
  Attended made = attend(config, whole[0], whole[1], whole[2], {});
  Tensor context_layer = transpose(made.out, 0, 1);
  context_layer = reshape(context_layer, {context_layer.size(0), context_layer.size(1), -1});
  const Tensor output = partition_sequence(context_layer, ranks);
  made.out = unsqueeze(transpose(output, 0, 1), 2);
  return made;
}

}  // namespace zeroplan::eager
