#include "planner/engines/eager/checkpoint.h"

#include <map>
#include <optional>

namespace zeroplan::eager {

namespace {

/// Stands for a tensor that was not saved. The recomputed tensor waits here for its user.
struct Holder {
  Tensor recomputed;
};

/// torch.autograd.graph.save_on_cpu(pin_memory=True)
class HostHooks : public SavedTensorHooks {
 public:
  explicit HostHooks(Context& context) : context_(context) {}

  std::shared_ptr<void> pack(const Tensor& tensor) override {
    Scoped on_host(context_.place, context_.host);
    Tensor packed = empty_like(tensor, "offloaded activation");
    context_.copy_to_host(tensor.bytes());
    context_.synchronize();  // tensor.cpu(), packed.copy_(tensor)
    packed.set_requires_grad(tensor.requires_grad());
    return std::make_shared<Tensor>(std::move(packed));
  }

  Tensor unpack(const std::shared_ptr<void>& packed) override {
    const Tensor& on_host = *static_cast<Tensor*>(packed.get());
    context_.begin_op("offload::copy_to_device");
    Tensor back = empty_like(on_host, "activation from the host");
    context_.copy_to_device(back.bytes());
    back.set_requires_grad(on_host.requires_grad());
    return back;
  }

 private:
  Context& context_;
};

struct Frame {
  CheckpointFunction function;
  Tensors arguments;
  std::shared_ptr<HostHooks> host;                      ///< where arguments wait on the host
  std::vector<std::shared_ptr<void>> packed_arguments;  ///< in the place of `arguments` then
  bool early_stop = true;

  void offload(Context& context) {
    host = std::make_shared<HostHooks>(context);
    for (const Tensor& argument : arguments) packed_arguments.push_back(argument.defined() ? host->pack(argument) : nullptr);
    arguments.clear();
  }
  Tensors arguments_again() const {
    if (!host) return arguments;
    Tensors out;
    for (const std::shared_ptr<void>& packed : packed_arguments) out.push_back(packed ? host->unpack(packed) : Tensor());
    return out;
  }
  bool autocast = false;
  ScalarType autocast_type = ScalarType::bf16;
  std::vector<std::weak_ptr<Holder>> holders;
  std::size_t packed_again = 0;
  std::uint64_t recomputed_for = 0;  ///< id of the backward that has recomputed
  std::unique_ptr<OpCache> kept;     ///< selective only
};

struct StopRecomputation {};

/// What an output of a checkpointed function looks like.
struct OutputKind {
  Shape shape;
  ScalarType type = ScalarType::fp32;
};

/// Runs the ops of forward again, in the autocast of forward.
Tensors run_again(Context& context, const CheckpointFunction& function, const Tensors& arguments, bool autocast, ScalarType type) {
  Scoped grad(context.grad_enabled, true);
  std::optional<AutocastScope> scope;
  if (autocast) scope.emplace(context, true, type);
  return function(arguments);
}

class RecomputationHooks : public SavedTensorHooks {
 public:
  explicit RecomputationHooks(Frame& frame) : frame_(frame) {}
  std::shared_ptr<void> pack(const Tensor& tensor) override {
    Tensor kept = tensor.requires_grad() ? tensor.detach() : tensor;
    if (const std::shared_ptr<Holder> holder = frame_.holders[frame_.packed_again].lock()) holder->recomputed = kept;
    if (++frame_.packed_again == frame_.holders.size() && frame_.early_stop) throw StopRecomputation{};
    return std::make_shared<Tensor>(std::move(kept));
  }
  Tensor unpack(const std::shared_ptr<void>& packed) override { return *static_cast<Tensor*>(packed.get()); }

 private:
  Frame& frame_;
};

class CheckpointHooks : public SavedTensorHooks {
 public:
  CheckpointHooks(Context& context, std::shared_ptr<Frame> frame) : context_(context), frame_(std::move(frame)) {}

  std::shared_ptr<void> pack(const Tensor&) override {
    auto holder = std::make_shared<Holder>();
    frame_->holders.push_back(holder);
    return holder;
  }

  Tensor unpack(const std::shared_ptr<void>& packed) override {
    if (frame_->recomputed_for != context_.backward_id) recompute();
    return std::move(static_cast<Holder*>(packed.get())->recomputed);
  }

 private:
  void recompute() {
    frame_->packed_again = 0;
    frame_->recomputed_for = context_.backward_id;
    if (frame_->kept) frame_->kept->recomputing = true;
    Scoped cache(context_.op_cache, frame_->kept.get());
    try {
      SavedTensorHooksScope hooks(context_, std::make_shared<RecomputationHooks>(*frame_));
      run_again(context_, frame_->function, frame_->arguments_again(), frame_->autocast, frame_->autocast_type);
    } catch (const StopRecomputation&) {
    }
  }

  Context& context_;
  std::shared_ptr<Frame> frame_;
};

Tensors non_reentrant(Context& context, CheckpointFunction function, const Tensors& arguments, bool selective, const CheckpointOptions& options) {
  auto frame = std::make_shared<Frame>();
  frame->early_stop = options.early_stop;
  if (selective) frame->kept = std::make_unique<OpCache>();
  Scoped cache(context.op_cache, frame->kept.get());
  frame->function = std::move(function);
  frame->arguments = arguments;
  if (options.offload_inputs) frame->offload(context);
  frame->autocast = context.autocast.enabled;
  frame->autocast_type = context.autocast.type;
  SavedTensorHooksScope hooks(context, std::make_shared<CheckpointHooks>(context, frame));
  return frame->function(arguments);
}

/// CheckpointFunction.backward. torch hands a Function zeros for an output that got no gradient.
void reentrant_formula(BackwardCall& call, const CheckpointFunction& function, bool autocast, ScalarType type, const std::vector<OutputKind>& kinds) {
  Context& context = *call.node.context;
  for (std::size_t i = 0; i < kinds.size(); ++i)
    if (!call.gradients[i].defined()) call.gradients[i] = empty(context, kinds[i].shape, kinds[i].type, "zeros for no gradient");
  Tensors inputs;
  for (std::size_t i = 0; i < call.node.edges.size(); ++i) {
    inputs.push_back(call.saved(static_cast<int>(i)).detach());
    inputs.back().set_requires_grad(call.needs(i));
  }
  const Tensors outputs = run_again(context, function, inputs, autocast, type);
  backward(outputs, call.gradients);
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (call.needs(i)) call.results[i] = inputs[i].grad();
}

std::vector<OutputKind> kinds_of(const Tensors& outputs) {
  std::vector<OutputKind> out;
  for (const Tensor& output : outputs) out.push_back({.shape = output.shape().contiguous(), .type = output.type()});
  return out;
}

Tensors reentrant(Context& context, CheckpointFunction function, const Tensors& arguments, bool offload_inputs) {
  Recording recording(context, "CheckpointFunctionBackward", std::span<const Tensor>(arguments));
  if (recording) {
    std::optional<SavedTensorHooksScope> to_host;
    if (offload_inputs) to_host.emplace(context, std::make_shared<HostHooks>(context));
    for (const Tensor& argument : arguments) recording->save(argument);
  }
  Tensors outputs;
  {
    Scoped no_grad(context.grad_enabled, false);
    outputs = function(arguments);
  }
  if (!recording) return outputs;
  for (std::size_t i = 0; i < outputs.size(); ++i) recording.set_output(outputs[i], static_cast<int>(i));
  recording->apply = [function = std::move(function), autocast = context.autocast.enabled, type = context.autocast.type, kinds = kinds_of(outputs)](BackwardCall& call) {
    reentrant_formula(call, function, autocast, type, kinds);
  };
  return outputs;
}

}  // namespace

Tensors checkpoint(Context& context, CheckpointMode mode, CheckpointFunction function, const Tensors& arguments, const CheckpointOptions& options) {
  assert(mode != CheckpointMode::none);
  if (mode == CheckpointMode::reentrant) return reentrant(context, std::move(function), arguments, options.offload_inputs);
  return non_reentrant(context, std::move(function), arguments, mode == CheckpointMode::selective, options);
}

}  // namespace zeroplan::eager
