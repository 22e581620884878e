#include "planner/engines/eager/liger.h"

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

namespace {
constexpr std::int64_t kMultiprocessors = 132;  ///< partial sums of the weight's gradient: one row each; of an H100, others have fewer

Shape rows_of(const Tensor& x) { return Shape{x.elems() / x.size(-1), x.size(-1)}; }
}  // namespace

Tensor liger_rms_norm(const Tensor& input, const Tensor& weight) {
  Context& context = input.context();
  Recording recording(context, "LigerRMSNormFunctionBackward", {&input, &weight});
  context.begin_op("liger_rms_norm");
  const Tensor x = contiguous(input.detach());
  const Tensor out = empty(context, x.shape(), x.type(), "liger rms norm");
  const Tensor root_mean_squares = empty(context, Shape{rows_of(x).sizes[0]}, ScalarType::fp32, "liger rms norm");
  context.moves(2 * x.bytes());
  if (recording) {
    recording->save(x);
    recording->save(weight);
    recording->save(root_mean_squares);
    recording->apply = [](BackwardCall& call) {
      const Tensor saved = call.saved(0), weight_saved = call.saved(1);
      call.saved(2);
      Context& here = *call.node.context;
      here.moves(3 * saved.bytes());
      const Tensor partial = empty(here, Shape{kMultiprocessors, saved.size(-1)}, ScalarType::fp32, "liger weight gradient");
      call.results[0] = call.gradient();
      const Tensor sum = empty(here, weight_saved.shape(), ScalarType::fp32, "liger weight gradient");
      if (call.needs(1)) call.results[1] = to(sum, call.edge(1).type);
    };
  }
  recording.set_output(out);
  return out;
}

Tensor liger_gated(const Tensor& gate, const Tensor& up) {
  Context& context = gate.context();
  Recording recording(context, "LigerSiLUMulFunctionBackward", {&gate, &up});
  context.begin_op("liger_silu_mul");
  const Tensor out = empty(context, gate.shape().contiguous(), gate.type(), "liger silu mul");
  context.moves(3 * out.bytes());
  if (recording) {
    recording->save(gate);
    recording->save(up);
    recording->apply = [](BackwardCall& call) {
      const Tensor gate_saved = call.saved(0), up_saved = call.saved(1);
      call.node.context->moves(5 * gate_saved.bytes());
      call.results[0] = gate_saved.detach();
      call.results[1] = up_saved.detach();
    };
  }
  recording.set_output(out);
  return out;
}

void liger_rotate(Tensor& q, Tensor& k, const Tensor& cos, const Tensor& sin) {
  Context& context = q.context();
  Recording recording(context, "LigerRopeFunctionBackward", {&q, &k});
  context.begin_op("liger_rope");
  const Tensor q_turned = q.detach(), k_turned = k.detach();
  context.moves(2 * (q.bytes() + k.bytes()));
  if (recording) {
    recording->save(cos);
    recording->save(sin);
    recording->apply = [](BackwardCall& call) {
      for (int i = 0; i < 2; ++i) {
        call.saved(i);
        const Tensor gradient = contiguous(transpose(call.gradient(static_cast<std::size_t>(i)), 1, 2));
        call.results[static_cast<std::size_t>(i)] = transpose(gradient, 1, 2);
        call.node.context->moves(2 * gradient.bytes());
      }
    };
  }
  recording.set_output(q_turned, 0);
  recording.set_output(k_turned, 1);
  q = q_turned;
  k = k_turned;
}

}  // namespace zeroplan::eager
