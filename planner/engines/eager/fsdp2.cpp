// The classes below have the names, the methods and the order of statements of _fsdp_param.py, _fsdp_param_group.py, _fsdp_collectives.py and _fsdp_state.py;
// read those beside this file. A local tensor that Python keeps until a function returns is a local variable here for the same reason.
#include "planner/engines/eager/fsdp2.h"

#include <algorithm>
#include <cassert>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

namespace {

enum class TrainingState : std::uint8_t { forward, pre_backward, post_backward, idle };

/// mesh and MixedPrecisionPolicy of a fully_shard call.
struct FsdpOptions {
  std::int64_t shard_ranks = 1;
  bool hybrid = false;           ///< HSDP: a second mesh axis replicates
  std::int64_t copies = 1;       ///< ranks of that axis
  bool has_divide_factor = false;  ///< set_gradient_divide_factor was called
  ScalarType param_type = ScalarType::bf16;
  ScalarType reduce_type = ScalarType::fp32;
  bool cpu_offload = false;
};

/// _get_dim0_padded_size
Shape padded_to(const Shape& shape, std::int64_t ranks) {
  Shape out = shape;
  out.sizes[0] = round_up(shape.sizes[0], ranks);
  return out.contiguous();
}

Tensor buffer(Context& context, std::int64_t elems, ScalarType type, const char* site, Category category, Stream stream) {
  Scoped in_category(context.category, category);
  Scoped on_stream(context.stream, stream);
  return empty(context, Shape{elems}, type, site);
}

// ---- FSDPParam --------------------------------------------------------------------------------------------------------------------------

class FsdpParam {
 public:
  FsdpParam(const Tensor& param, Module& root, const FsdpOptions& options);

  void init_all_gather_outputs(std::int64_t ranks, ScalarType type);
  void init_unsharded_param();
  void to_unsharded() { setattr_on_modules(unsharded_param); }
  void to_sharded();

  Tensor sharded_param_data;  ///< padded, 1-D
  Tensor sharded_param;
  Tensor all_gather_output;   ///< undefined before the first all-gather
  Tensor unsharded_param;

 private:
  struct Attribute {
    Module* module;
    std::size_t index;
  };
  void setattr_on_modules(const Tensor& param);

  std::vector<Attribute> attributes_;  ///< _get_param_module_infos: all that share it
  Shape orig_size_;
};

/// _init_sharded_param, for rank 0 of the shard group: its chunk is never short, so that the padded chunk and the shard have the same size.
FsdpParam::FsdpParam(const Tensor& param, Module& root, const FsdpOptions& options) : orig_size_(param.shape().contiguous()) {
  for (Module* module : root.modules())
    for (std::size_t i = 0; i < module->own_parameters.size(); ++i)
      if (module->own_parameters[i].second == param) attributes_.push_back({module, i});
  Context& context = param.context();
  Shape sharded_size = orig_size_;
  sharded_size.sizes[0] = divide_up(orig_size_.sizes[0], options.shard_ranks);
  Scoped category(context.category, Category::parameters);
  Tensor padded;
  if (!options.cpu_offload || param.storage().place != Place::meta) padded = empty(context, sharded_size.contiguous(), param.type(), "FSDP sharded parameter");
  if (options.cpu_offload) {
    Scoped on_host(context.place, context.host);
    context.copy_to_host(sharded_size.elems() * size_of(param.type()));
    padded = empty(context, sharded_size.contiguous(), param.type(), "FSDP sharded parameter");
  }
  sharded_param_data = alias(padded, Shape{padded.elems()});
  sharded_param = padded.detach();
  sharded_param.set_requires_grad(param.requires_grad());
  setattr_on_modules(sharded_param);
}

void FsdpParam::setattr_on_modules(const Tensor& param) {
  for (const Attribute& attribute : attributes_) attribute.module->own_parameters[attribute.index].second = param;
}

/// init_all_gather_outputs, alloc_all_gather_outputs
void FsdpParam::init_all_gather_outputs(std::int64_t ranks, ScalarType type) {
  Context& context = sharded_param.context();
  const std::int64_t elems = sharded_param_data.elems() * ranks;
  if (!all_gather_output.defined()) all_gather_output = buffer(context, elems, type, "FSDP unsharded parameter", Category::gathered_parameters, Stream::compute);
  if (all_gather_output.storage().bytes != all_gather_output.bytes()) all_gather_output.resize_storage(all_gather_output.bytes());
}

void FsdpParam::init_unsharded_param() {
  if (unsharded_param.defined()) return;
  unsharded_param = alias(all_gather_output, orig_size_);
  unsharded_param.set_requires_grad(sharded_param.requires_grad());
}

void FsdpParam::to_sharded() {
  setattr_on_modules(sharded_param);
  all_gather_output.resize_storage(0);
}

// ---- FSDPParamGroup ---------------------------------------------------------------------------------------------------------------------

class FsdpParamGroup;
class FsdpState;

/// FSDPCommContext and FSDPStateContext.
struct FsdpContext {
  Tensor all_gather_state;             ///< the last all-gather's output, in forward
  EventId all_gather_copied = 0;       ///< its copy-out, for which the next gather but one waits
  Tensor reduce_scatter_state;         ///< the last reduce-scatter's input
  EventId reduce_scattered = 0;        ///< the end of it
  std::vector<FsdpParamGroup*> post_forward_order;
  std::vector<std::unique_ptr<FsdpState>> all_states;  ///< as named_modules() meets them, the root first
  FsdpState* iter_forward_root = nullptr;
  bool post_backward_final_callback_queued = false;
};

class FsdpParamGroup {
 public:
  FsdpParamGroup(FsdpContext& shared, const Tensors& params, Module& root, const FsdpOptions& options, bool reshard_after_forward);

  void pre_forward(Arguments& arguments);
  void post_forward();
  void pre_backward();
  void post_backward();
  void finalize_backward();

  TrainingState training_state = TrainingState::idle;

 private:
  void unshard();
  void wait_for_unshard();
  void copy_without_gather();
  Tensor cast_of(const Tensor& shard);
  Tensors all_gather_inputs();
  void copy_out();
  void reshard();
  void register_post_backward_hook(Arguments& arguments);
  void backward_prefetch();
  Tensor foreach_all_gather();
  void foreach_reduce(std::vector<FsdpParam*>& params, Tensors& unsharded_grads);
  void accumulate_sharded_grads(const std::vector<FsdpParam*>& params, const Tensor& reduce_output);

  FsdpContext& shared_;
  Context& context_;
  FsdpOptions options_;
  bool reshard_after_forward_;
  std::vector<FsdpParam> params_;
  ScalarType orig_type_;  ///< of the trained parameters, which must agree
  bool unsharded_ = false;
  bool gather_pending_ = false;
  Tensor all_gather_result_;
  EventId gathered_ = 0;   ///< end of the all-gather
  EventId reduced_ = 0;    ///< post_reduce_event
  Tensor all_reduce_state_;
  std::vector<std::size_t> post_forward_indices_;
};

FsdpParamGroup::FsdpParamGroup(FsdpContext& shared, const Tensors& params, Module& root, const FsdpOptions& options, bool reshard_after_forward)
    : shared_(shared), context_(params[0].context()), options_(options), reshard_after_forward_(reshard_after_forward), orig_type_(params[0].type()) {
  for (const Tensor& param : params)
    if (param.requires_grad()) orig_type_ = param.type();
  params_.reserve(params.size());
  for (const Tensor& param : params) params_.emplace_back(param, root, options);
}

/// _get_param_all_gather_inputs: shards of another dtype are cast into one flat input; others are copied into the output as they are.
/// With CPU offload each is copied to the device and cast by itself.
Tensors FsdpParamGroup::all_gather_inputs() {
  Tensors made;
  std::int64_t cast_elems = 0, cast_bytes = 0;
  for (const FsdpParam& param : params_) {
    Tensor shard = param.sharded_param_data;
    const bool casts = shard.type() != options_.param_type;
    if (options_.cpu_offload) {
      context_.copy_to_device(shard.bytes());
      shard = buffer(context_, shard.elems(), shard.type(), "FSDP shard on the device", Category::communication_buffers, Stream::gather);
      if (casts) shard = cast_of(shard);
      made.push_back(shard);
    } else if (casts) {
      cast_elems += shard.elems();
      cast_bytes += shard.bytes();
    }
  }
  if (cast_elems == 0) return made;
  made.push_back(buffer(context_, cast_elems, options_.param_type, "FSDP all-gather input", Category::communication_buffers, Stream::gather));
  context_.moves(cast_bytes + made.back().bytes());
  return made;
}

/// foreach_all_gather
Tensor FsdpParamGroup::foreach_all_gather() {
  context_.begin_op("FSDP::all_gather");
  std::int64_t input_elems = 0;
  for (const FsdpParam& param : params_) input_elems += param.sharded_param_data.elems();
  Scoped on_stream(context_.stream, Stream::gather);
  const std::int64_t input_bytes = input_elems * size_of(options_.param_type);
  const Tensors inputs = all_gather_inputs();
  Tensor output = buffer(context_, input_elems * options_.shard_ranks, options_.param_type, "FSDP all-gather output", Category::communication_buffers, Stream::gather);
  context_.moves(2 * input_bytes);  // all_gather_copy_in
  context_.collective({.kind = CollectiveKind::all_gather, .payload_bytes = output.bytes(), .ranks = options_.shard_ranks});
  gathered_ = context_.record_event();
  return output;
}

void FsdpParamGroup::unshard() {
  if (gather_pending_ || unsharded_) return;
  gather_pending_ = true;
  if (options_.shard_ranks > 1) all_gather_result_ = foreach_all_gather();
}

Tensor FsdpParamGroup::cast_of(const Tensor& shard) {
  context_.moves(shard.elems() * (size_of(shard.type()) + size_of(options_.param_type)));
  return buffer(context_, shard.elems(), options_.param_type, "FSDP all-gather input", Category::communication_buffers, context_.stream);
}

/// split_with_sizes_copy, after the all-gather.
void FsdpParamGroup::copy_out() {
  context_.wait_event(gathered_);
  std::int64_t bytes = 0;
  for (FsdpParam& param : params_) {
    param.init_all_gather_outputs(options_.shard_ranks, options_.param_type);
    bytes += param.all_gather_output.bytes();
  }
  context_.moves(2 * bytes);
  const EventId copied = context_.record_event();
  Scoped on_stream(context_.stream, Stream::gather);
  if (training_state == TrainingState::forward) context_.wait_event(std::exchange(shared_.all_gather_copied, copied));  // lets this copy-out overlap the next gather
  else context_.wait_event(copied);
}

/// wait_for_unshard in a group of one rank. The last cast lives until the function returns.
void FsdpParamGroup::copy_without_gather() {
  Tensor all_gather_input;
  for (FsdpParam& param : params_) {
    Tensor input = param.sharded_param_data;
    if (options_.cpu_offload) {
      context_.copy_to_device(input.bytes());
      input = buffer(context_, input.elems(), input.type(), "FSDP shard on the device", Category::communication_buffers, Stream::compute);
    }
    if (input.type() != options_.param_type) input = cast_of(input);
    context_.moves(2 * input.bytes());
    all_gather_input = std::move(input);
    param.init_all_gather_outputs(1, options_.param_type);
  }
}

void FsdpParamGroup::wait_for_unshard() {
  if (!gather_pending_) return;
  context_.begin_op("FSDP::all_gather_copy_out");
  Tensor previous;  // dropped by the shared state before the copy-out, but the name lives until the function returns
  if (training_state == TrainingState::forward) previous = std::exchange(shared_.all_gather_state, Tensor());
  if (options_.shard_ranks == 1) copy_without_gather();
  else copy_out();
  for (FsdpParam& param : params_) param.init_unsharded_param();
  if (!unsharded_)
    for (FsdpParam& param : params_) param.to_unsharded();
  unsharded_ = true;
  if (training_state == TrainingState::forward && options_.shard_ranks > 1) shared_.all_gather_state = all_gather_result_;
  all_gather_result_.reset();
  gather_pending_ = false;
}

void FsdpParamGroup::reshard() {
  if (training_state == TrainingState::forward && !reshard_after_forward_) return;
  if (unsharded_)
    for (FsdpParam& param : params_) param.to_sharded();
  unsharded_ = false;
}

void FsdpParamGroup::pre_forward(Arguments& arguments) {
  training_state = TrainingState::forward;
  unshard();
  wait_for_unshard();
  register_post_backward_hook(arguments);
}

void FsdpParamGroup::post_forward() {
  reshard();
  post_forward_indices_.push_back(shared_.post_forward_order.size());
  shared_.post_forward_order.push_back(this);
  training_state = TrainingState::idle;
}

void FsdpParamGroup::register_post_backward_hook(Arguments& arguments) {
  if (!context_.grad_enabled) return;
  std::vector<Tensor*> with_gradients;
  Tensors inputs;
  for (Tensors* list : {&arguments.positional, &arguments.keyword})
    for (Tensor& tensor : *list)
      if (tensor.defined() && tensor.requires_grad()) {
        with_gradients.push_back(&tensor);
        inputs.push_back(tensor);
      }
  if (inputs.empty()) return;
  const Tensors outputs = pass_through(context_, "RegisterPostBackwardFunctionBackward", inputs, [this] { post_backward(); });
  for (std::size_t i = 0; i < outputs.size(); ++i) *with_gradients[i] = outputs[i];
}

void FsdpParamGroup::pre_backward() {
  if (training_state == TrainingState::pre_backward) return;
  training_state = TrainingState::pre_backward;
  unshard();
  wait_for_unshard();
  backward_prefetch();
}

void FsdpParamGroup::backward_prefetch() {
  if (post_forward_indices_.empty()) return;
  const std::size_t current = post_forward_indices_.back();
  post_forward_indices_.pop_back();
  if (current > 0) shared_.post_forward_order[current - 1]->unshard();
}

void FsdpParamGroup::post_backward() {
  training_state = TrainingState::post_backward;
  std::vector<FsdpParam*> params_with_grad;
  Tensors unsharded_grads;
  for (FsdpParam& param : params_) {
    if (!param.unsharded_param.defined() || !param.unsharded_param.grad().defined()) continue;
    params_with_grad.push_back(&param);
    unsharded_grads.push_back(param.unsharded_param.grad());
    param.unsharded_param.set_grad({});
  }
  reshard();
  if (params_with_grad.empty()) return;
  context_.wait_event(shared_.reduce_scattered);
  shared_.reduce_scatter_state.reset();
  all_reduce_state_.reset();
  foreach_reduce(params_with_grad, unsharded_grads);
}

/// foreach_reduce
void FsdpParamGroup::foreach_reduce(std::vector<FsdpParam*>& params, Tensors& unsharded_grads) {
  context_.begin_op("FSDP::post_backward_reduce");
  Tensor unsharded_grad;  // the loop over the gradients leaves its variable bound to the last one until the function returns
  if (options_.shard_ranks > 1) unsharded_grad = unsharded_grads.back();
  std::int64_t input_elems = 0;
  std::int64_t gradient_bytes = 0;
  for (const Tensor& grad : unsharded_grads) {
    input_elems += padded_to(grad.shape(), options_.shard_ranks).elems();
    gradient_bytes += grad.bytes();
  }
  const Tensor input = buffer(context_, input_elems, options_.reduce_type, "FSDP reduce-scatter input", Category::communication_buffers, Stream::compute);
  context_.moves(gradient_bytes + input.bytes());  // chunk_cat
  unsharded_grads.clear();
  Scoped on_stream(context_.stream, Stream::reduce);
  context_.wait_stream(Stream::compute);
  Tensor reduce_output = buffer(context_, input_elems / options_.shard_ranks, options_.reduce_type, "FSDP reduce-scatter output", Category::gradients, Stream::reduce);
  if (options_.shard_ranks == 1) context_.moves(2 * input.bytes());  // no collective: the input is copied, divided where a factor was set
  if (options_.shard_ranks == 1 && options_.has_divide_factor) buffer(context_, input_elems, options_.reduce_type, "FSDP divided gradients", Category::scratch, Stream::reduce);
  context_.collective({.kind = CollectiveKind::reduce_scatter, .payload_bytes = input.bytes(), .ranks = options_.shard_ranks});
  shared_.reduce_scattered = context_.record_event();
  Tensor all_reduce_input;
  if (options_.hybrid) {
    all_reduce_input = reduce_output;
    context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = reduce_output.bytes(), .ranks = options_.copies, .stride = options_.shard_ranks});
  }
  if (options_.reduce_type != orig_type_) {
    context_.moves(reduce_output.elems() * (size_of(options_.reduce_type) + size_of(orig_type_)));
    reduce_output = buffer(context_, reduce_output.elems(), orig_type_, "FSDP sharded gradients", Category::gradients, Stream::reduce);
  }
  accumulate_sharded_grads(params, reduce_output);
  reduced_ = context_.record_event();
  shared_.reduce_scatter_state = input;
  all_reduce_state_ = all_reduce_input;
}

void FsdpParamGroup::accumulate_sharded_grads(const std::vector<FsdpParam*>& params, const Tensor& reduce_output) {
  for (FsdpParam* param : params) {
    const Tensor& sharded = param->sharded_param;
    Scoped place(context_.place, options_.cpu_offload ? context_.host : context_.place);
    Tensor grad = alias(reduce_output, sharded.shape());
    if (options_.cpu_offload) {
      context_.copy_to_host(grad.bytes());
      grad = alias(buffer(context_, grad.elems(), orig_type_, "FSDP sharded gradients", Category::gradients, Stream::reduce), sharded.shape());
    }
    if (!sharded.grad().defined()) sharded.set_grad(grad);
    else context_.moves(3 * grad.bytes());  // added in place
  }
}

void FsdpParamGroup::finalize_backward() {
  context_.wait_event(reduced_);
  all_reduce_state_.reset();
  all_gather_result_.reset();  // a prefetch that missed
  gather_pending_ = false;
  post_forward_indices_.clear();
}

// ---- FSDPState --------------------------------------------------------------------------------------------------------------------------

class FsdpState {
 public:
  FsdpState(FsdpContext& shared, const FsdpOptions& options, std::vector<Module*> modules, std::unique_ptr<FsdpParamGroup> group)
      : shared_(shared), options_(options), modules_(std::move(modules)), group_(std::move(group)) {}

  void register_hooks();

 private:
  void pre_forward(Arguments& arguments);
  void wait_for_optimizer();
  void post_forward(Tensors& outputs);
  void pre_backward();
  void root_post_backward_final_callback();

  FsdpContext& shared_;
  FsdpOptions options_;
  std::vector<Module*> modules_;
  std::unique_ptr<FsdpParamGroup> group_;  ///< null where all parameters belong to others
  TrainingState training_state_ = TrainingState::idle;
  std::size_t modules_to_run_forward_ = 0;
};

/// _register_group_forward_hooks: before the first module, after the last.
void FsdpState::register_hooks() {
  for (Module* module : modules_) {
    module->pre_hooks.insert(module->pre_hooks.begin(), [this](Module&, Arguments& arguments) {
      if (modules_to_run_forward_ > 0) return;
      modules_to_run_forward_ = modules_.size();
      pre_forward(arguments);
    });
    module->post_hooks.push_back([this](Module&, Arguments&, Tensors& outputs) {
      if (--modules_to_run_forward_ == 0) post_forward(outputs);
    });
  }
}

/// _root_pre_forward: no all-gather before the optimizer step has ended.
void FsdpState::wait_for_optimizer() {
  Context& context = *modules_[0]->context;
  Scoped on_stream(context.stream, Stream::gather);
  context.wait_stream(Stream::compute);
}

void FsdpState::pre_forward(Arguments& arguments) {
  training_state_ = TrainingState::forward;
  if (shared_.iter_forward_root == nullptr) {
    shared_.iter_forward_root = this;
    wait_for_optimizer();
  }
  for (Tensors* list : {&arguments.positional, &arguments.keyword})  // cast_forward_inputs
    for (Tensor& tensor : *list)
      if (tensor.defined() && is_floating(tensor.type())) tensor = to(tensor, options_.param_type);
  if (group_) group_->pre_forward(arguments);
}

void FsdpState::post_forward(Tensors& outputs) {
  if (group_) group_->post_forward();
  for (const Tensor& output : outputs)
    if (modules_[0]->context->grad_enabled && output.defined() && output.requires_grad())
      output.register_hook([this](const Tensor&) {
        pre_backward();
        return Tensor();
      });
  training_state_ = TrainingState::idle;
  if (shared_.iter_forward_root != this) return;
  shared_.all_gather_state.reset();
  shared_.iter_forward_root = nullptr;
}

void FsdpState::pre_backward() {
  training_state_ = TrainingState::pre_backward;
  Context& context = *modules_[0]->context;
  if (!shared_.post_backward_final_callback_queued) {
    shared_.post_backward_final_callback_queued = true;
    context.queue_callback([this] { root_post_backward_final_callback(); });
  }
  Scoped here(context.where, modules_[0]->where);
  if (group_) group_->pre_backward();
}

void FsdpState::root_post_backward_final_callback() {
  for (const auto& state : shared_.all_states) {
    Scoped here(state->modules_[0]->context->where, state->modules_[0]->where);
    if (state->group_ && state->group_->training_state != TrainingState::post_backward) state->group_->post_backward();  // inputs without gradients
    state->training_state_ = TrainingState::idle;
    if (!state->group_) continue;
    state->group_->training_state = TrainingState::idle;
    state->group_->finalize_backward();
  }
  shared_.post_forward_order.clear();
  shared_.reduce_scatter_state.reset();
  shared_.post_backward_final_callback_queued = false;
}

// ---- fully_shard ------------------------------------------------------------------------------------------------------------------------

/// A model under FSDP: fully_shard calls in the order in which the tool makes them, the root last.
class Wrapping {
 public:
  Wrapping(FsdpContext& shared, Module& root, const FsdpOptions& options) : shared_(shared), root_(root), options_(options) {}
  Wrapping(const Wrapping&) = delete;
  Wrapping& operator=(const Wrapping&) = delete;

  void fully_shard(std::vector<Module*> modules, bool reshard_after_forward);

 private:
  void collect(Module& module, Tensors& params) const;

  FsdpContext& shared_;
  Module& root_;
  FsdpOptions options_;
  std::vector<Module*> wrapped_;
};

/// _get_managed_modules (children before their parent, wrapped ones left out), _get_managed_states
void Wrapping::collect(Module& module, Tensors& params) const {
  for (const auto& [name, child] : module.children)
    if (std::find(wrapped_.begin(), wrapped_.end(), child) == wrapped_.end()) collect(*child, params);
  for (const auto& [name, param] : module.own_parameters)
    if (std::find(params.begin(), params.end(), param) == params.end()) params.push_back(param);
}

/// The whole parameters die when the call returns.
void Wrapping::fully_shard(std::vector<Module*> modules, bool reshard_after_forward) {
  Tensors params;
  for (Module* module : modules) collect(*module, params);
  wrapped_.insert(wrapped_.end(), modules.begin(), modules.end());
  Context& context = *root_.context;
  Scoped here(context.where, modules[0]->where);
  std::unique_ptr<FsdpParamGroup> group;
  Module& owner = modules.size() == 1 ? *modules[0] : root_;
  if (!params.empty()) group = std::make_unique<FsdpParamGroup>(shared_, params, owner, options_, reshard_after_forward);
  const bool is_root = modules[0] == &root_;
  auto state = std::make_unique<FsdpState>(shared_, options_, std::move(modules), std::move(group));
  state->register_hooks();
  shared_.all_states.insert(is_root ? shared_.all_states.begin() : shared_.all_states.end(), std::move(state));
}

// ---- the two tools ----------------------------------------------------------------------------------------------------------------------

using Forward = std::function<Tensor(const Tensor& ids)>;

/// What a tool made: the model and how one micro batch is run. The shared state dies first: its parameters are the model's.
struct Trainee {
  std::unique_ptr<Module> model;
  Forward loss;
  FsdpContext fsdp;
};

FsdpOptions options_of(const Fsdp2Job& job) {
  return {.shard_ranks = job.shard_group_ranks,
          .hybrid = job.shard_group_ranks != job.world_ranks,
          .copies = job.world_ranks / job.shard_group_ranks,
          .has_divide_factor = job.tool == Fsdp2Job::Tool::torchtitan,  // disable_fsdp_gradient_division
          .param_type = job.compute_type,
          .reduce_type = job.reduce_type,
          .cpu_offload = job.cpu_offload};
}

/// engine_fake.py: blocks in checkpoint_wrapper, then fully_shard(block), fully_shard(model). By default the root is not resharded (_lazy_init).
void make_transformers(Context& context, const Fsdp2Job& job, Trainee& trainee) {
  Scoped place(context.place, job.made_on_meta ? Place::meta : context.place);
  std::unique_ptr<CausalLm> model = CausalLm::make(context, job.model);
  context.place = place.old();
  {
    Scoped adapters(context.place, job.made_on_meta ? Place::meta : context.place);
    set_up(*model, job.lora, job.checkpoint);
  }
  Wrapping wrapping(trainee.fsdp, *model, options_of(job));
  for (Module* block : model->blocks()) wrapping.fully_shard({block}, job.reshard != Reshard::never);
  wrapping.fully_shard({model.get()}, job.reshard == Reshard::always);
  trainee.loss = [model = model.get()](const Tensor& ids) { return model->loss(ids); };
  trainee.model = std::move(model);
}

/// apply_fsdp of torchtitan's models/llama3/infra/parallelize.py. The root has no parameters of its own left; before pytorch/torchtitan#1094 it had the embedding, the last norm and the
/// head, gathered from the first forward hook to the end of backward, and the last block was not resharded by default.
void make_torchtitan(Context& context, const Fsdp2Job& job, Trainee& trainee) {
  Scoped place(context.place, job.made_on_meta ? Place::meta : context.place);
  auto model = std::make_unique<TitanTransformer>(context, titan_config(job.model, job.size.seq_tokens, job.titan));
  context.place = place.old();
  Wrapping wrapping(trainee.fsdp, *model, options_of(job));
  const bool reshard_after_forward = job.reshard != Reshard::never;
  if (!job.root_has_ends) wrapping.fully_shard({&model->tok_embeddings()}, reshard_after_forward);
  for (const auto& layer : model->layers()) {
    const bool kept_for_backward = job.root_has_ends && job.reshard == Reshard::by_default && layer == model->layers().back();
    wrapping.fully_shard({layer.get()}, reshard_after_forward && !kept_for_backward);
  }
  if (!job.root_has_ends) wrapping.fully_shard({&model->norm(), &model->output()}, job.reshard == Reshard::always);
  wrapping.fully_shard({model.get()}, false);
  trainee.loss = [model = model.get()](const Tensor& ids) { return model->loss(ids); };
  trainee.model = std::move(model);
}

class Fsdp2Engine {
 public:
  Fsdp2Engine(Context& context, const Fsdp2Job& job) : context_(context), boundary_(job.size.accumulate), world_ranks_(job.world_ranks) {
    if (job.tool == Fsdp2Job::Tool::transformers) make_transformers(context, job, trainee_);
    else make_torchtitan(context, job, trainee_);
    parameters_ = trainee_.model->parameters();
    optimizer_.emplace(context, job.kernel, parameters_, job.rule, job.fp32_masters);
  }

  Tensor forward(const Tensor& ids) { return trainee_.loss(ids); }
  void backward(const Tensor& loss) { eager::backward(loss); }

  void step() {
    if (!boundary_.reached()) return;
    Scoped no_grad(context_.grad_enabled, false);
    context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = size_of(ScalarType::fp32), .ranks = world_ranks_});  // of the norm
    clip();
    optimizer_->step();
    optimizer_->zero_grad();
  }

  void skip_micro_batches(std::int64_t n) { boundary_.skip(n); }

 private:
  /// The host waits for the gradients' copies.
  void clip() {
    Scoped place(context_.place, parameters_.front().storage().place);
    if (context_.place != place.old()) context_.synchronize();
    clip_grad_norm(context_, parameters_);
  }

  Context& context_;
  StepBoundary boundary_;
  std::int64_t world_ranks_;
  Trainee trainee_;
  Tensors parameters_;
  std::optional<AdamW> optimizer_;
};

}  // namespace

PhasePeaks run_fsdp2(const Fsdp2Job& job, Recorder& recorder, const MachineBehaviour& machine) {
  Context context(recorder);
  machine.apply_to(context);
  recorder.begin_phase("init");
  Fsdp2Engine engine(context, job);
  return train(context, job.size, engine);
}

}  // namespace zeroplan::eager
