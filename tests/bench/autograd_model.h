// The peer of executor_bench: the same model and optimizer step, written plainly with libtorch's operators and autograd, as one would without zeroplan.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "executor/collectives.h"
#include "planner/core/plan.h"

namespace zeroplan::bench {

class AutogradModel {
 public:
  /// Parameters as one flat fp32 buffer a unit, in the order embedding, blocks, head (copied). fp32, no biases, no q/k norm, untied, one micro batch.
  AutogradModel(const Question& question, const std::vector<const float*>& units);

  /// One optimizer step over B·S tokens: forward, backward, clip, AdamW. Returns the mean loss.
  double step(std::int64_t number, const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& targets);

  /// Data parallel: gradients and loss are averaged over ranks after backward, as DDP does, by the same collectives as ours.
  Collectives* collectives = nullptr;

 private:
  struct BlockWeights { at::Tensor attention_norm, qkv, attention_out, ffn_norm, gate_up, down; };

  at::Tensor parameter(const float* unit, const Parameter& description);
  at::Tensor norm(const at::Tensor& x, const at::Tensor& weight) const;
  at::Tensor rotated(const at::Tensor& x) const;
  at::Tensor block(const BlockWeights& w, const at::Tensor& x) const;
  at::Tensor loss_of(const at::Tensor& x, const at::Tensor& targets) const;
  double forward_backward(const at::Tensor& tokens, const at::Tensor& targets);
  double forward_backward_recomputing(const at::Tensor& tokens, const at::Tensor& targets);
  double average_over_ranks(double loss);
  void update(std::int64_t number);

  Question question_;
  at::Tensor cosines_, sines_;
  at::Tensor embedding_, final_norm_, head_;
  std::vector<BlockWeights> blocks_;
  std::vector<at::Tensor> parameters_, moments1_, moments2_, steps_;
};

}  // namespace zeroplan::bench
