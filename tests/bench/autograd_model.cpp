#include "tests/bench/autograd_model.h"

#include <cassert>

namespace zeroplan::bench {

AutogradModel::AutogradModel(const Question& question, const std::vector<const float*>& units) : question_(question) {
  const Model& m = question.job.model;
  assert(!m.qk_norm && !m.qkv_bias && !m.tie_embeddings && m.qkv_layout == QkvLayout::contiguous && question.plan.accumulate == 1);
  embedding_ = parameter(units.front(), unit_parameters(m, UnitKind::embedding).at(0));
  for (std::int64_t i = 0; i < m.num_layers; ++i) {
    const float* unit = units.at(static_cast<std::size_t>(i + 1));
    BlockWeights w;
    for (const Parameter& p : unit_parameters(m, UnitKind::block)) {
      const at::Tensor weight = parameter(unit, p);
      switch (p.id) {
        case ParameterId::attention_norm: w.attention_norm = weight; break;
        case ParameterId::qkv: w.qkv = weight; break;
        case ParameterId::attention_out: w.attention_out = weight; break;
        case ParameterId::ffn_norm: w.ffn_norm = weight; break;
        case ParameterId::gate_up: w.gate_up = weight; break;
        case ParameterId::down: w.down = weight; break;
        default: assert(false);
      }
    }
    blocks_.push_back(w);
  }
  for (const Parameter& p : unit_parameters(m, UnitKind::head)) (p.id == ParameterId::final_norm ? final_norm_ : head_) = parameter(units.back(), p);
  for (const at::Tensor& p : parameters_) {
    moments1_.push_back(at::zeros_like(p));
    moments2_.push_back(at::zeros_like(p));
    steps_.push_back(at::zeros({}));
  }
  // Hugging Face's rotate_half: the angles of a head's first half, twice.
  const at::Tensor frequencies = at::pow(m.rope_theta, at::arange(0, m.head_dim, 2, at::kDouble) / -static_cast<double>(m.head_dim));
  const at::Tensor angles = at::outer(at::arange(question.job.seq, at::kDouble), frequencies).repeat({1, 2});
  cosines_ = angles.cos().to(at::kFloat);
  sines_ = angles.sin().to(at::kFloat);
}

at::Tensor AutogradModel::parameter(const float* unit, const Parameter& p) {
  const std::vector<std::int64_t> shape = p.rows == 1 ? std::vector{p.columns} : std::vector{p.rows, p.columns};
  const at::Tensor weight = at::from_blob(const_cast<float*>(unit + p.offset_elems), shape, at::kFloat).clone().requires_grad_();
  parameters_.push_back(weight);
  return weight;
}

at::Tensor AutogradModel::norm(const at::Tensor& x, const at::Tensor& weight) const {
  return at::rms_norm(x, {question_.job.model.hidden_size}, weight, question_.job.model.norm_eps);
}

at::Tensor AutogradModel::rotated(const at::Tensor& x) const {
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  return x * cosines_ + at::cat({-halves[1], halves[0]}, -1) * sines_;
}

at::Tensor AutogradModel::block(const BlockWeights& w, const at::Tensor& x) const {
  const Model& m = question_.job.model;
  const std::int64_t batch = x.size(0), seq = x.size(1);
  const std::vector<at::Tensor> qkv = at::linear(norm(x, w.attention_norm), w.qkv).split_with_sizes({m.query_dim(), m.kv_dim(), m.kv_dim()}, -1);
  const auto heads = [&](const at::Tensor& t) { return t.view({batch, seq, -1, m.head_dim}).transpose(1, 2); };
  const at::Tensor attention = at::scaled_dot_product_attention(rotated(heads(qkv[0])), rotated(heads(qkv[1])), heads(qkv[2]), {}, 0.0, /*is_causal=*/true,
                                                                std::nullopt, /*enable_gqa=*/m.num_heads != m.num_kv_heads);
  const at::Tensor residual = x + at::linear(attention.transpose(1, 2).reshape({batch, seq, m.query_dim()}), w.attention_out);
  const std::vector<at::Tensor> gate_up = at::linear(norm(residual, w.ffn_norm), w.gate_up).chunk(2, -1);
  return residual + at::linear(at::silu(gate_up[0]) * gate_up[1], w.down);
}

at::Tensor AutogradModel::loss_of(const at::Tensor& x, const at::Tensor& targets) const {
  return at::cross_entropy_loss(at::linear(norm(x, final_norm_), head_).flatten(0, 1), targets.flatten());
}

double AutogradModel::forward_backward(const at::Tensor& tokens, const at::Tensor& targets) {
  at::Tensor x = at::embedding(embedding_, tokens);
  for (const BlockWeights& w : blocks_) x = block(w, x);
  const at::Tensor loss = loss_of(x, targets);
  loss.backward();
  return loss.item<double>();
}

// What torch.utils.checkpoint does of every block: forward keeps its input only, backward runs it again.
double AutogradModel::forward_backward_recomputing(const at::Tensor& tokens, const at::Tensor& targets) {
  const at::Tensor embedded = at::embedding(embedding_, tokens);
  std::vector<at::Tensor> inputs{embedded.detach()};
  {
    at::NoGradGuard no_grad;
    for (const BlockWeights& w : blocks_) inputs.push_back(block(w, inputs.back()));
  }
  for (at::Tensor& input : inputs) input.requires_grad_();
  const at::Tensor loss = loss_of(inputs.back(), targets);
  loss.backward();
  for (std::size_t i = blocks_.size(); i-- > 0;) {
    block(blocks_[i], inputs[i]).backward(inputs[i + 1].grad());
    inputs.pop_back();
  }
  embedded.backward(inputs.front().grad());
  return loss.item<double>();
}

void AutogradModel::update(std::int64_t number) {
  const Job& job = question_.job;
  torch::nn::utils::clip_grad_norm_(parameters_, job.clip_norm);
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& p : parameters_) gradients.push_back(p.grad());
  for (at::Tensor& step : steps_) step.fill_(number);
  at::_fused_adamw_(parameters_, gradients, moments1_, moments2_, {}, steps_, job.learning_rate, job.beta1, job.beta2, job.weight_decay, job.epsilon,
                    /*amsgrad=*/false, /*maximize=*/false);
  for (at::Tensor& p : parameters_) p.mutable_grad().reset();
}

double AutogradModel::step(std::int64_t number, const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& targets) {
  const auto tensor = [&](const std::vector<std::int32_t>& ids) {
    return at::from_blob(const_cast<std::int32_t*>(ids.data()), {question_.plan.micro_batch, question_.job.seq}, at::kInt).to(at::kLong);
  };
  const bool recompute = question_.plan.recomputed_blocks > 0;
  double loss = recompute ? forward_backward_recomputing(tensor(tokens), tensor(targets)) : forward_backward(tensor(tokens), tensor(targets));
  if (collectives != nullptr) loss = average_over_ranks(loss);
  update(number);
  return loss;
}

double AutogradModel::average_over_ranks(double loss) {
  const at::NoGradGuard no_grad;
  const auto ranks = static_cast<double>(collectives->world());
  for (const at::Tensor& parameter : parameters_) {
    at::Tensor gradient = parameter.grad();
    collectives->all_reduce(gradient.data_ptr<float>(), gradient.numel(), Dtype::fp32);
    gradient.div_(ranks);
  }
  collectives->all_reduce(&loss, 1, Dtype::fp64);
  return loss / ranks;
}

}  // namespace zeroplan::bench
