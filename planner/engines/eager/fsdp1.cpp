// Methods, their names and the order of statements are those of _runtime_utils.py; read that beside this file.
// A local tensor that Python keeps until a function returns is a local variable here for the same reason.
#include "planner/engines/eager/fsdp1.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "planner/engines/eager/fsdp1_flat_param.h"
#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

namespace {

/// Of one rank nothing is sharded (_init_core_state).
Fsdp1Options options_of(const Fsdp1Job& job) {
  const bool hybrid = job.strategy == ShardingStrategy::hybrid_shard || job.strategy == ShardingStrategy::hybrid_shard_zero2;
  const std::int64_t ranks = hybrid ? job.shard_group_ranks.value_or(job.world_ranks) : job.world_ranks;
  const ScalarType param_type = job.param_type.value_or(job.model.type);
  return {.ranks = ranks,
          .copies = job.world_ranks / ranks,
          .strategy = ranks == 1 ? ShardingStrategy::no_shard : job.strategy,
          .param_type = param_type,
          .reduce_type = job.reduce_type.value_or(param_type),
          .keep_low_precision_grads = job.keep_low_precision_grads,
          .use_orig_params = job.use_orig_params,
          .cpu_offload = job.cpu_offload,
          .backward_prefetch = job.backward_prefetch,
          .forward_prefetch = job.forward_prefetch};
}

// ---- FullyShardedDataParallel -----------------------------------------------------------------------------------------------------------

class FsdpModule;

/// _ExecOrderData, and what the root's state shares with the others.
struct FsdpRootState {
  std::vector<std::unique_ptr<FsdpModule>> all;  ///< as modules() meets them, the root first
  std::vector<FsdpModule*> pre_forward_order;    ///< of the first iteration
  std::vector<FsdpModule*> post_forward_order;
  EventsInFlight free_events{2};  ///< of what was resharded; limit_all_gathers: at most two gathered units that are not known to be free again
  bool is_first_iter = true;
  bool lazily_initialised = false;
  bool sync_gradients = true;
  bool post_backward_callback_queued = false;
};

class FsdpModule {
 public:
  FsdpModule(FsdpRootState& root_state, Module& module, const Tensors& params, const Fsdp1Options& options, bool is_root);

  void register_hooks();
  FlatParamHandle& handle() { return handle_; }

 private:
  void lazy_init();
  void root_pre_forward();
  void pre_forward();
  void register_post_backward_reshard_only_hook(const Arguments& arguments);
  void reshard_only();
  void cast_forward_inputs(Arguments& arguments) const;
  void post_forward(Tensors& outputs);
  void pre_backward();
  void register_post_backward_hook();
  void post_backward();
  void post_backward_final_callback();
  void finalize();
  void unshard();
  void reshard(bool free_unsharded_flat_param);
  bool should_free_in_backward() const;
  FsdpModule* handle_to_prefetch() const;
  void prefetch(FlatParamState state);
  void reduce_grad();
  void reduce_grad_no_shard();
  void all_reduce(const Tensor& grad, std::int64_t ranks, std::int64_t stride);
  void accumulate_sharded_grad(const Tensor& sharded_grad);
  void post_reduce_grad_callback(const Tensor& grad_to_offload);

  FsdpRootState& root_state_;
  Module& module_;
  Context& context_;
  Fsdp1Options options_;
  FlatParamHandle handle_;
  bool is_root_;
  bool needs_pre_forward_unshard_ = false, needs_pre_backward_unshard_ = false, ran_pre_backward_hook_ = false, prefetched_ = false;
  std::optional<std::size_t> pre_forward_index_, post_forward_index_;
  struct ReshardOnlyHook {
    int missing = 0;  ///< gradients of inputs
  };
  Ref<Node> hooked_accumulator_;  ///< _post_backward_hook_state
  std::shared_ptr<ReshardOnlyHook> reshard_only_hook_;  ///< the same, of a frozen flat parameter
  Tensor incoming_gradient_;      ///< the engine holds what it gives to a node until the node's hooks have run
};

/// The whole parameters die when the constructor returns, unless they are the optimizer's.
FsdpModule::FsdpModule(FsdpRootState& root_state, Module& module, const Tensors& params, const Fsdp1Options& options, bool is_root)
    : root_state_(root_state), module_(module), context_(*module.context), options_(options), handle_(params, module, options), is_root_(is_root) {
  handle_.shard();
  if (options.cpu_offload) handle_.offload();
}

void FsdpModule::register_hooks() {
  module_.pre_hooks.insert(module_.pre_hooks.begin(), [this](Module&, Arguments& arguments) {
    if (is_root_) root_pre_forward();
    if (handle_.training_state == FlatParamState::backward_pre) return;  // recomputed after its own backward began
    pre_forward();
    if (is_root_) cast_forward_inputs(arguments);  // MixedPrecision.cast_root_forward_inputs
    register_post_backward_reshard_only_hook(arguments);
  });
  module_.post_hooks.push_back([this](Module&, Arguments&, Tensors& outputs) {
    if (handle_.training_state != FlatParamState::backward_pre) post_forward(outputs);
  });
}

void FsdpModule::lazy_init() {
  if (root_state_.lazily_initialised) return;
  root_state_.lazily_initialised = true;
  for (const auto& module : root_state_.all) {
    Scoped here(context_.where, module->module_.where);
    module->handle_.init_flat_param_attributes();
  }
}

void FsdpModule::root_pre_forward() {
  lazy_init();
  for (const auto& module : root_state_.all) {
    if (options_.forward_prefetch) {
      module->needs_pre_forward_unshard_ = true;
      module->prefetched_ = false;
    }
    module->handle_.reset_flat_param_grad_info_if_needed();
  }
  for (const Stream stream : {Stream::gather, Stream::h2d}) {
    Scoped on_stream(context_.stream, stream);
    context_.wait_stream(Stream::compute);
  }
}

void FsdpModule::pre_forward() {
  if (root_state_.is_first_iter && !pre_forward_index_) {
    pre_forward_index_ = root_state_.pre_forward_order.size();
    root_state_.pre_forward_order.push_back(this);
  }
  handle_.training_state = FlatParamState::forward;
  if (!prefetched_) unshard();
  needs_pre_forward_unshard_ = false;
  context_.wait_stream(Stream::gather);
  prefetch(FlatParamState::forward);
  register_post_backward_hook();
}

void FsdpModule::cast_forward_inputs(Arguments& arguments) const {
  for (Tensors* list : {&arguments.positional, &arguments.keyword})
    for (Tensor& tensor : *list)
      if (tensor.defined() && is_floating(tensor.type())) tensor = to(tensor, options_.param_type);
}

void FsdpModule::post_forward(Tensors& outputs) {
  if (!post_forward_index_.value_or(0)) post_forward_index_ = root_state_.post_forward_order.size();
  root_state_.post_forward_order.push_back(this);
  reshard(!is_root_ && options_.reshards_after_forward());
  if (context_.grad_enabled) {
    if (is_root_) root_state_.post_backward_callback_queued = false;
    needs_pre_backward_unshard_ = ran_pre_backward_hook_ = false;
    for (const Tensor& output : outputs) {
      if (!output.defined() || !output.requires_grad()) continue;
      output.register_hook([this](const Tensor&) {
        pre_backward();
        return Tensor();
      });
      needs_pre_backward_unshard_ = true;
    }
  }
  handle_.training_state = FlatParamState::idle;
}

void FsdpModule::pre_backward() {
  if (ran_pre_backward_hook_) return;
  Scoped here(context_.where, module_.where);
  if (is_root_ && !root_state_.post_backward_callback_queued) {
    root_state_.post_backward_callback_queued = true;
    context_.queue_callback([this] { post_backward_final_callback(); });
    for (const auto& module : root_state_.all) module->handle_.reset_flat_param_grad_info_if_needed();
  }
  handle_.training_state = FlatParamState::backward_pre;
  if (needs_pre_backward_unshard_) {
    if (!prefetched_) unshard();
    context_.wait_stream(Stream::gather);
  }
  needs_pre_backward_unshard_ = false;
  prefetch(FlatParamState::backward_pre);
  handle_.prepare_gradient_for_backward();
  ran_pre_backward_hook_ = true;
}

/// _unshard
void FsdpModule::unshard() {
  {
    Scoped pre_unshard_stream(context_.stream, Stream::h2d);
    handle_.pre_unshard();
  }
  root_state_.free_events.make_room(context_);
  Scoped unshard_stream(context_.stream, Stream::gather);
  context_.wait_stream(Stream::h2d);
  handle_.unshard();
  handle_.post_unshard();
}

void FsdpModule::reshard(bool free_unsharded_flat_param) {
  handle_.reshard(free_unsharded_flat_param);
  if (free_unsharded_flat_param) root_state_.free_events.record(context_);
  handle_.post_reshard();
  prefetched_ = false;
}

/// _get_handle_to_prefetch
FsdpModule* FsdpModule::handle_to_prefetch() const {
  FsdpModule* candidate = nullptr;
  if (handle_.training_state == FlatParamState::forward) {
    if (!options_.forward_prefetch || !pre_forward_index_ || *pre_forward_index_ + 1 >= root_state_.pre_forward_order.size()) return nullptr;
    candidate = root_state_.pre_forward_order[*pre_forward_index_ + 1];
    return candidate->needs_pre_forward_unshard_ && !candidate->prefetched_ ? candidate : nullptr;
  }
  const BackwardPrefetch now = handle_.training_state == FlatParamState::backward_pre ? BackwardPrefetch::pre : BackwardPrefetch::post;
  if (options_.backward_prefetch != now || post_forward_index_.value_or(0) == 0) return nullptr;
  candidate = root_state_.post_forward_order[*post_forward_index_ - 1];
  return candidate->needs_pre_backward_unshard_ && !candidate->prefetched_ ? candidate : nullptr;
}

/// _prefetch_handle; `state` is what the one that is gathered ahead takes for its own meanwhile.
void FsdpModule::prefetch(FlatParamState state) {
  FsdpModule* next = handle_to_prefetch();
  if (next == nullptr) return;
  Scoped here(context_.where, next->module_.where);
  const FlatParamState previous = std::exchange(next->handle_.training_state, state);
  next->unshard();
  next->handle_.training_state = previous;
  next->prefetched_ = true;
}

void FsdpModule::register_post_backward_hook() {
  if (!context_.grad_enabled || hooked_accumulator_ || !handle_.flat_param.requires_grad()) return;
  hooked_accumulator_ = handle_.flat_param.gradient_accumulator();
  NodeHooks& hooks = hooked_accumulator_->hooks();
  hooks.before.push_back([this](Tensors& gradients) {
    if (gradients[0].defined()) incoming_gradient_ = gradients[0].detach();
  });
  hooks.after.push_back([this](Tensors&, Tensors&) {
    post_backward();
    incoming_gradient_.reset();
  });
}

/// register_multi_grad_hook: once all inputs that need gradients have them. Without such inputs the end of backward reshards.
void FsdpModule::register_post_backward_reshard_only_hook(const Arguments& arguments) {
  if (!context_.grad_enabled || reshard_only_hook_ || handle_.flat_param.requires_grad()) return;
  reshard_only_hook_ = std::make_shared<ReshardOnlyHook>();
  const std::shared_ptr<ReshardOnlyHook> hook = reshard_only_hook_;
  for (const Tensors* list : {&arguments.positional, &arguments.keyword})
    for (const Tensor& tensor : *list) {
      if (!tensor.defined() || !tensor.requires_grad()) continue;
      ++hook->missing;
      tensor.register_hook([this, hook](const Tensor&) {
        if (--hook->missing == 0 && hook == reshard_only_hook_) reshard_only();
        return Tensor();
      });
    }
}

/// _post_backward_reshard_only_hook
void FsdpModule::reshard_only() {
  Scoped here(context_.where, module_.where);
  handle_.training_state = FlatParamState::backward_post;
  reshard(should_free_in_backward());
  prefetch(FlatParamState::backward_pre);
}

bool FsdpModule::should_free_in_backward() const { return options_.sharded() && (root_state_.sync_gradients || options_.reshards_after_forward()); }

void FsdpModule::post_backward() {
  Scoped here(context_.where, module_.where);
  Scoped category(context_.category, Category::gradients);
  handle_.training_state = FlatParamState::backward_post;
  const Tensor& flat_param = handle_.flat_param;
  if (!flat_param.grad().defined()) return;
  reshard(should_free_in_backward());
  prefetch(FlatParamState::backward_pre);
  if (!root_state_.sync_gradients) {
    if (options_.use_orig_params) handle_.use_unsharded_grad_views();
    return;
  }
  const Stream computed_on = context_.stream;
  Scoped post_backward_stream(context_.stream, Stream::reduce);
  context_.wait_stream(computed_on);
  context_.begin_op("FSDP1::reduce_gradients");
  const Tensor autograd_computed_grad = flat_param.grad().detach();
  autograd_computed_grad.record_stream(Stream::reduce);
  if (flat_param.grad().type() != options_.reduce_type) cast_data(flat_param.grad(), options_.reduce_type);
  if (options_.sharded()) reduce_grad();
  else reduce_grad_no_shard();
}

/// _reduce_grad, _get_reduce_scatter_tensors
void FsdpModule::reduce_grad() {
  const Tensor unsharded_grad = handle_.flat_param.grad().detach();
  handle_.flat_param.set_grad({});
  const std::int64_t chunk_elems = divide_up(unsharded_grad.elems(), options_.ranks), padded_elems = chunk_elems * options_.ranks;
  Tensor padded_unsharded_grad = unsharded_grad;
  if (padded_elems > unsharded_grad.elems()) {
    padded_unsharded_grad = flat_buffer(context_, padded_elems, unsharded_grad.type(), "FSDP padded gradient", Category::communication_buffers);
    context_.moves(2 * padded_unsharded_grad.bytes());
  }
  const Tensor new_sharded_grad = flat_buffer(context_, chunk_elems, unsharded_grad.type(), "FSDP sharded gradient", Category::gradients);
  context_.moves(2 * padded_unsharded_grad.bytes());  // divided in place
  context_.collective({.kind = CollectiveKind::reduce_scatter, .payload_bytes = padded_unsharded_grad.bytes(), .ranks = options_.ranks});
  all_reduce(new_sharded_grad, options_.copies, options_.ranks);
  accumulate_sharded_grad(new_sharded_grad);
  post_reduce_grad_callback(handle_.saved_grad_shard);
}

void FsdpModule::all_reduce(const Tensor& grad, std::int64_t ranks, std::int64_t stride) {
  context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = grad.bytes(), .ranks = ranks, .stride = stride});
  context_.moves(2 * grad.bytes());  // divided in place
}

void FsdpModule::accumulate_sharded_grad(const Tensor& sharded_grad) {
  if (sharded_grad.type() != handle_.flat_param.type()) cast_data(sharded_grad, handle_.flat_param.type());
  if (handle_.saved_grad_shard.defined()) context_.moves(3 * sharded_grad.bytes());
  else handle_.saved_grad_shard = sharded_grad;
}

void FsdpModule::reduce_grad_no_shard() {
  const Tensor& grad = handle_.flat_param.grad();
  all_reduce(grad, options_.copies * options_.ranks, 1);
  if (!options_.keep_low_precision_grads && grad.type() != handle_.flat_param.type()) cast_data(grad, handle_.flat_param.type());
  post_reduce_grad_callback(grad.detach());
}

void FsdpModule::post_reduce_grad_callback(const Tensor& grad_to_offload) {
  if (options_.cpu_offload) context_.copy_to_host(grad_to_offload.bytes());
  if (options_.use_orig_params) handle_.use_sharded_grad_views();
}

void FsdpModule::post_backward_final_callback() {
  Scoped no_grad(context_.grad_enabled, false);
  if (root_state_.sync_gradients) context_.wait_stream(Stream::reduce);
  if (root_state_.sync_gradients && options_.cpu_offload) context_.synchronize();
  root_state_.is_first_iter = false;
  root_state_.post_forward_order.clear();
  for (const auto& module : root_state_.all) module->finalize();
  root_state_.post_backward_callback_queued = false;
}

/// _catch_all_reshard, _finalize_params and what follows it
void FsdpModule::finalize() {
  Scoped here(context_.where, module_.where);
  if (!handle_.is_resharded()) reshard(should_free_in_backward());
  reshard_only_hook_.reset();
  if (hooked_accumulator_) hooked_accumulator_->hook_lists.reset();
  hooked_accumulator_.reset();
  if (root_state_.sync_gradients && handle_.flat_param.requires_grad()) handle_.prepare_gradient_for_optim();
  ran_pre_backward_hook_ = needs_pre_backward_unshard_ = prefetched_ = false;
  post_forward_index_.reset();
  handle_.training_state = FlatParamState::idle;
}

// ---- the tool ---------------------------------------------------------------------------------------------------------------------------

/// _get_grad_norm: on the gradients' device, then on the compute device. Undefined where there are no gradients.
Tensor local_grad_norm(Context& context, const Tensors& parameters) {
  Tensors norms;
  Place place = context.place;
  for (const Tensor& p : parameters) {
    if (!p.grad().defined()) continue;
    place = p.grad().storage().place;
    Scoped there(context.place, place);
    norms.push_back(empty(context, Shape{}, ScalarType::fp32, "gradient norm"));
    context.moves(p.grad().bytes());
  }
  if (norms.empty()) return {};
  const bool moved = place != context.place;
  Tensor norm;
  {
    Scoped there(context.place, place);
    const Tensor stacked = empty(context, Shape{static_cast<std::int64_t>(norms.size())}, ScalarType::fp32, "gradient norms");
    norms.clear();
    norm = empty(context, Shape{}, ScalarType::fp32, "gradient norm");
  }
  return moved ? empty(context, Shape{}, ScalarType::fp32, "gradient norm") : norm;
}

/// The local norm in fp32, summed over the ranks, then every gradient scaled.
void clip_sharded_grad_norm(Context& context, const Tensors& parameters, const Fsdp1Options& options) {
  Scoped category(context.category, Category::scratch);
  context.begin_op("clip_grad_norm");
  const Tensor local_norm = local_grad_norm(context, parameters);
  if (!local_norm.defined()) return;
  const auto scalar = [&](const Tensor& of) { return elementwise("clip coefficient", ScalarType::fp32, {&of}); };
  Tensor total_norm = scalar(local_norm);
  context.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = total_norm.bytes(), .ranks = options.ranks});
  total_norm = scalar(total_norm);
  Scoped place(context.place, options.cpu_offload ? context.host : context.place);
  if (options.cpu_offload) {
    context.synchronize();
    total_norm = empty(context, Shape{}, ScalarType::fp32, "gradient norm");
  }
  Tensor shifted = scalar(total_norm);
  Tensor reciprocal = scalar(shifted);
  const Tensor coefficient = scalar(reciprocal);
  reciprocal.reset();
  shifted.reset();
  const Tensor clamped = scalar(coefficient);
  for (const Tensor& p : parameters) {
    if (!p.grad().defined()) continue;
    const Tensor factor = p.grad().type() == ScalarType::fp32 ? clamped : cast(clamped, p.grad().type());
    context.moves(2 * p.grad().bytes());
  }
}

class Fsdp1Engine {
 public:
  Fsdp1Engine(Context& context, const Fsdp1Job& job) : context_(context), job_(job), boundary_(job.size.accumulate) {
    make_model();
    wrap();
    for (const auto& module : state_.all) module->handle().collect_parameters(parameters_);
    optimizer_.emplace(context, job.kernel, parameters_, job.rule, job.fp32_masters);
  }

  Tensor forward(const Tensor& ids) {
    state_.sync_gradients = !job_.no_sync || ++micro_steps_ % job_.size.accumulate == 0;
    std::optional<AutocastScope> autocast;
    if (job_.autocast_type) autocast.emplace(context_, true, *job_.autocast_type);
    return model_->loss(ids);
  }

  void backward(const Tensor& loss) { eager::backward(loss); }

  void step() {
    if (!boundary_.reached()) return;
    Scoped no_grad(context_.grad_enabled, false);
    clip();
    optimizer_->step();
    optimizer_->zero_grad();
  }

  void skip_micro_batches(std::int64_t n) {
    boundary_.skip(n);
    micro_steps_ += n;
  }

 private:
  void clip();
  void make_model();
  /// auto_wrap: each block after the adapters in it, then what is left.
  void wrap();
  void wrap_module(Module& module, Tensors& flattened);

  Context& context_;
  const Fsdp1Job& job_;
  StepBoundary boundary_;
  std::int64_t micro_steps_ = 0;
  std::unique_ptr<CausalLm> model_;
  FsdpRootState state_;
  Tensors parameters_;
  Tensor zero_scalar_;
  std::optional<AdamW> optimizer_;
};

/// FullyShardedDataParallel.clip_grad_norm_
void Fsdp1Engine::clip() {
  if (!zero_scalar_.defined()) {
    const Place device = context_.place;
    Scoped on_host(context_.place, context_.host);  // torch.tensor(0.0, device=...)
    const Tensor zero = empty(context_, Shape{}, ScalarType::fp32, "FSDP zero");
    Scoped on_device(context_.place, device);
    zero_scalar_ = empty(context_, Shape{}, ScalarType::fp32, "FSDP zero");
  }
  const Fsdp1Options options = options_of(job_);
  if (options.sharded()) return clip_sharded_grad_norm(context_, parameters_, options);
  Scoped place(context_.place, parameters_[0].storage().place);
  clip_grad_norm(context_, parameters_);
}

void Fsdp1Engine::make_model() {
  Scoped place(context_.place, job_.made_on_meta ? Place::meta : context_.place);
  model_ = CausalLm::make(context_, job_.model);
  set_up(*model_, job_.lora, job_.checkpoint);
}

namespace {
/// lambda_policy_fn: leaves with a weight that is trained.
bool is_adapter(const Module& module) { return module.children.empty() && !module.own_parameters.empty() && module.own_parameters[0].second.requires_grad(); }

/// Where a unit was made without memory, it gets it now.
void materialise(Context& context, Module& module, const Tensors& params) {
  Scoped category(context.category, Category::parameters);
  Tensors tensors = params;
  for (Module* below : module.modules()) tensors.insert(tensors.end(), below->own_buffers.begin(), below->own_buffers.end());
  for (const Tensor& tensor : tensors)
    if (tensor.storage().place == Place::meta) tensor.set_data(empty_like(tensor, "FSDP materialised parameter"));
}
}  // namespace

void Fsdp1Engine::wrap_module(Module& module, Tensors& flattened) {
  Scoped here(context_.where, module.where);
  Tensors params;
  for (const Tensor& p : module.parameters())
    if (std::find(flattened.begin(), flattened.end(), p) == flattened.end()) params.push_back(p);
  materialise(context_, module, params);
  auto wrapped = std::make_unique<FsdpModule>(state_, module, params, options_of(job_), &module == model_.get());
  wrapped->register_hooks();
  for (const Tensor& p : module.parameters()) flattened.push_back(p);  // views of the flat parameter by now, without use_orig_params
  state_.all.push_back(std::move(wrapped));
}

void Fsdp1Engine::wrap() {
  if (job_.use_orig_params) {  // _get_dtype_size asks a tensor
    Scoped on_host(context_.place, context_.host);
    empty(context_, Shape{}, options_of(job_).param_type, "FSDP element size");
  }
  Tensors flattened;
  for (Module* block : model_->blocks()) {
    const auto first_below = static_cast<std::ptrdiff_t>(state_.all.size());
    if (job_.lora.rank > 0 && job_.wraps_adapters)
      for (Module* below : block->modules())
        if (is_adapter(*below)) wrap_module(*below, flattened);
    wrap_module(*block, flattened);
    std::rotate(state_.all.begin() + first_below, state_.all.end() - 1, state_.all.end());  // modules(): parents first
  }
  wrap_module(*model_, flattened);
  std::rotate(state_.all.begin(), state_.all.end() - 1, state_.all.end());
}

}  // namespace

PhasePeaks run_fsdp1(const Fsdp1Job& job, Recorder& recorder, const MachineBehaviour& machine) {
  Context context(recorder);
  machine.apply_to(context);
  recorder.begin_phase("init");
  Fsdp1Engine engine(context, job);
  return train(context, job.size, engine);
}

}  // namespace zeroplan::eager
