// Methods, their names and the order of statements are those of _flat_param.py; read that beside this file.
#include "planner/engines/eager/fsdp1_flat_param.h"

#include <algorithm>
#include <utility>

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

Tensor flat_buffer(Context& context, std::int64_t elems, ScalarType type, const char* site, Category category) {
  Scoped in_category(context.category, category);
  return empty(context, Shape{elems}, type, site);
}

void cast_data(Tensor tensor, ScalarType type) {
  const Tensor data = tensor.detach();
  tensor.set_data(cast(data, type));
}

namespace {

/// A tensor whose storage is allocated later, from the pool of `stream`. Its first allocation, freed at once, is made on the stream that is current.
Tensor freed_buffer(Context& context, std::int64_t elems, ScalarType type, const char* site, Category category, Stream stream) {
  flat_buffer(context, elems, type, site, category);
  Scoped on_stream(context.stream, stream);
  return alias(flat_buffer(context, 0, type, site, category), Shape{elems});
}

// ---- autograd of the views --------------------------------------------------------------------------------------------------------------

/// torch.split of a 1-D tensor. Its backward is a cat; pieces without a gradient (padding) are zeros.
Tensors split_with_sizes(const Tensor& flat, const std::vector<std::int64_t>& pieces_elems) {
  Recording recording(flat.context(), "SplitWithSizesBackward", {&flat});
  Tensors out;
  for (const std::int64_t elems : pieces_elems) {
    out.push_back(alias(flat, Shape{elems}));
    recording.set_output(out.back(), static_cast<int>(out.size()) - 1);
  }
  if (!recording) return out;
  recording->apply = [pieces_elems](BackwardCall& call) {
    Context& context = *call.node.context;
    Tensors zeros;
    for (std::size_t i = 0; i < pieces_elems.size(); ++i)
      if (!call.gradients[i].defined()) zeros.push_back(flat_buffer(context, pieces_elems[i], call.edge(0).type, "zeros", Category::gradients));
    call.results[0] = flat_buffer(context, call.edge(0).expected.elems(), call.edge(0).type, "FSDP unsharded gradient", Category::gradients);
    context.moves(2 * call.results[0].bytes());
  };
  return out;
}

Tensor view_as(const Tensor& piece, const Shape& shape) {
  Recording recording(piece.context(), "ViewBackward", {&piece});
  Tensor out = alias(piece, shape);
  if (recording) recording->apply = [](BackwardCall& call) { call.results[0] = reshape(call.gradient(), {call.edge(0).expected.elems()}); };
  recording.set_output(out);
  return out;
}

}  // namespace

// ---- FlatParamHandle --------------------------------------------------------------------------------------------------------------------

FlatParamHandle::FlatParamHandle(const Tensors& params, Module& module, const Fsdp1Options& options)
    : context_(params[0].context()), options_(options), orig_type_(params[0].type()) {
  flatten(params, module);
  use_unsharded_views(false);
}

void FlatParamHandle::pad_to(std::int64_t elems, Tensors& padding) {
  const std::int64_t missing_elems = round_up(unsharded_elems_, elems) - unsharded_elems_;
  if (missing_elems == 0) return;
  const Tensor ones = flat_buffer(context_, missing_elems, orig_type_, "FSDP padding", Category::scratch);
  padding.push_back(elementwise("FSDP padding", orig_type_, {&ones}));
  pieces_elems_.push_back(missing_elems);
  unsharded_elems_ += missing_elems;
}

void FlatParamHandle::add(const Tensor& param, Attribute attribute, Tensors& padding) {
  for (OriginalParam& known : originals_)
    if (known.param == param) return known.attributes.push_back(attribute);
  if (options_.use_orig_params) pad_to(16 / size_of(options_.param_type), padding);
  originals_.push_back({.param = param, .tensor = {}, .shape = param.shape(), .piece = pieces_elems_.size(), .shard_elems = 0, .attributes = {attribute}});
  pieces_elems_.push_back(param.elems());
  unsharded_elems_ += param.elems();
}

/// _init_flat_param_and_metadata
void FlatParamHandle::flatten(const Tensors& params, Module& module) {
  Tensors padding;
  for (Module* below : module.modules())
    for (std::size_t i = 0; i < below->own_parameters.size(); ++i) {
      const Tensor param = below->own_parameters[i].second;
      if (std::find(params.begin(), params.end(), param) != params.end()) add(param, {below, i}, padding);
    }
  if (options_.use_orig_params) pad_to(options_.ranks, padding);
  flat_param = flat_buffer(context_, unsharded_elems_, orig_type_, "FSDP flat parameter", Category::parameters);
  context_.moves(2 * flat_param.bytes());
  flat_param.set_requires_grad(std::any_of(originals_.begin(), originals_.end(), [](const OriginalParam& original) { return original.param.requires_grad(); }));
  if (options_.use_orig_params) return;
  for (OriginalParam& original : originals_) original.param.reset();
}

/// Rank 0's piece is never short.
void FlatParamHandle::shard() {
  sharded_elems_ = unsharded_elems_;
  if (options_.sharded()) {
    sharded_elems_ = divide_up(unsharded_elems_, options_.ranks);
    const Tensor sharded = flat_buffer(context_, sharded_elems_, orig_type_, "FSDP sharded parameter", Category::parameters);
    context_.moves(2 * sharded.bytes());
    flat_param.resize_storage(0);
    flat_param.set_data(sharded);
  }
  init_shard_metadata();
  if (options_.use_orig_params) use_sharded_views();
}

void FlatParamHandle::init_shard_metadata() {
  std::int64_t start = 0;
  for (std::size_t piece = 0, i = 0; piece < pieces_elems_.size() && i < originals_.size(); start += pieces_elems_[piece++])
    if (originals_[i].piece == piece) originals_[i++].shard_elems = std::clamp<std::int64_t>(sharded_elems_ - start, 0, pieces_elems_[piece]);
}

/// flat_param_to(cpu)
void FlatParamHandle::offload() {
  Scoped on_host(context_.place, context_.host);
  flat_param.set_data(flat_buffer(context_, flat_param.elems(), orig_type_, "FSDP sharded parameter", Category::parameters));
  context_.copy_to_host(flat_param.bytes());
  if (options_.use_orig_params) use_sharded_views();
}

void FlatParamHandle::init_flat_param_attributes() {
  local_shard_ = flat_param.detach();
  if (options_.cpu_offload) {
    Scoped on_host(context_.place, context_.host);
    local_shard_ = flat_buffer(context_, local_shard_.elems(), orig_type_, "FSDP pinned shard", Category::parameters);
    const Tensor zeros = flat_buffer(context_, local_shard_.elems(), orig_type_, "FSDP host gradient", Category::gradients);
    cpu_grad = flat_buffer(context_, local_shard_.elems(), orig_type_, "FSDP pinned gradient", Category::gradients);
  }
  if (uses_param_mixed_precision()) {
    const Category category = options_.sharded() ? Category::communication_buffers : Category::gathered_parameters;
    mp_shard_ = freed_buffer(context_, sharded_elems_, options_.param_type, "FSDP low precision shard", category, Stream::h2d);
  }
  if (!options_.sharded()) return;
  const std::int64_t padded_elems = sharded_elems_ * options_.ranks;
  full_param_padded_ = freed_buffer(context_, padded_elems, options_.param_type, "FSDP unsharded parameter", Category::gathered_parameters, Stream::gather);
  if (uses_param_mixed_precision())
    full_prec_full_param_padded_ = freed_buffer(context_, padded_elems, orig_type_, "FSDP full precision parameter", Category::gathered_parameters, Stream::gather);
}

/// _writeback_orig_params. No parameter is ever replaced here, but of CPU offload forward shows cpu_grad as the parameters' gradients, which the flat parameter lacks: it is given zeros.
void FlatParamHandle::writeback_orig_gradients() {
  const bool unsharded = options_.sharded() && flat_param.elems() != sharded_elems_;
  if (!options_.use_orig_params || unsharded || skipped_use_sharded_views() || (options_.cpu_offload && !options_.sharded())) return;
  const bool given = std::any_of(originals_.begin(), originals_.end(), [](const OriginalParam& original) { return original.shard_elems > 0 && original.param.grad().defined(); });
  if (!given || flat_param.grad().defined()) return;
  Scoped place(context_.place, flat_param.storage().place);
  flat_param.set_grad(flat_buffer(context_, flat_param.elems(), flat_param.type(), "FSDP written back gradient", Category::gradients));
  context_.moves(flat_param.bytes());
}

void FlatParamHandle::pre_unshard() {
  writeback_orig_gradients();
  if (options_.sharded() && !options_.cpu_offload && !needs_unshard()) return;
  if (uses_param_mixed_precision()) return use_low_precision_shard();
  if (!options_.cpu_offload || flat_param.storage().place == context_.place) return;
  flat_param.set_data(flat_buffer(context_, flat_param.elems(), orig_type_, "FSDP shard on the device", Category::communication_buffers));
  context_.copy_to_device(flat_param.bytes());
  if (options_.use_orig_params) use_sharded_views();
}

void FlatParamHandle::use_low_precision_shard() {
  mp_shard_.resize_storage(mp_shard_.bytes());
  Tensor on_device = local_shard_;
  if (options_.cpu_offload) {
    on_device = flat_buffer(context_, local_shard_.elems(), orig_type_, "FSDP shard on the device", Category::communication_buffers);
    context_.copy_to_device(on_device.bytes());
  }
  context_.moves(on_device.bytes() + mp_shard_.bytes());
  flat_param.set_data(mp_shard_);
}

void FlatParamHandle::unshard() {
  if (!needs_unshard()) return use_unsharded_flat_param(options_.sharded() ? full_param_padded_ : flat_param);
  all_gather();
  use_unsharded_flat_param(full_param_padded_);
}

void FlatParamHandle::all_gather() {
  context_.begin_op("FSDP1::all_gather");
  full_param_padded_.resize_storage(full_param_padded_.bytes());
  context_.collective({.kind = CollectiveKind::all_gather, .payload_bytes = full_param_padded_.bytes(), .ranks = options_.ranks});
}

void FlatParamHandle::use_unsharded_flat_param(const Tensor& padded) {
  flat_param.set_data(alias(padded, Shape{unsharded_elems_}));
  const bool in_forward = training_state == FlatParamState::forward, in_pre_backward = training_state == FlatParamState::backward_pre;
  if (!options_.use_orig_params) {
    if (in_forward) use_unsharded_views(false);
    return;
  }
  if (skipped_use_sharded_views() && in_pre_backward) return;
  use_unsharded_views(!in_forward && !in_pre_backward);
}

void FlatParamHandle::post_unshard() {
  if (!uses_param_mixed_precision() || !options_.sharded()) return;
  mp_shard_.record_stream(context_.stream);
  mp_shard_.resize_storage(0);
}

void FlatParamHandle::reshard(bool free_unsharded_flat_param) {
  use_sharded_flat_param();
  if (!free_unsharded_flat_param) return;
  full_param_padded_.record_stream(context_.stream);
  full_param_padded_.resize_storage(0);
}

void FlatParamHandle::post_reshard() {
  if (uses_param_mixed_precision() && !options_.sharded()) mp_shard_.resize_storage(0);
}

void FlatParamHandle::use_sharded_flat_param() {
  const bool in_forward = training_state == FlatParamState::forward;
  const bool skip = options_.use_orig_params && context_.grad_enabled && in_forward && options_.sharded() && !options_.reshards_after_forward();
  Tensor unsharded_flat_param;
  if (skip) unsharded_flat_param = flat_param.detach();
  flat_param.set_data(local_shard_);
  if (!options_.use_orig_params) return;
  if (skip) unsharded_flat_param_for_skipped_views_ = std::move(unsharded_flat_param);
  else use_sharded_views();
  if (!in_forward || skipped_use_sharded_views()) return;
  const bool accumulated_grad_in_no_sync = flat_param.grad().defined() && options_.sharded() && flat_param.grad().elems() == unsharded_elems_;
  if (accumulated_grad_in_no_sync) use_unsharded_grad_views();
  else use_sharded_grad_views();
}

void FlatParamHandle::setattr(const OriginalParam& original, const Tensor& tensor) {
  for (const Attribute& attribute : original.attributes) attribute.module->own_parameters[attribute.index].second = tensor;
}

void FlatParamHandle::use_unsharded_views(bool as_params) {
  Scoped grad(context_.grad_enabled, true);
  const Tensors pieces = split_with_sizes(flat_param, pieces_elems_);
  for (OriginalParam& original : originals_) {
    Tensor view = view_as(pieces[original.piece], original.shape);
    if (options_.use_orig_params && as_params) {
      original.param.set_data(view);
      view = original.param;
    } else if (options_.use_orig_params && training_state == FlatParamState::forward) {
      original.tensor = view;
    } else if (options_.use_orig_params && training_state == FlatParamState::backward_pre) {
      original.tensor.set_data(view);  // keeps the graph of forward, for recomputation
      view = original.tensor;
    }
    setattr(original, view);
  }
}

void FlatParamHandle::use_sharded_views() {
  unsharded_flat_param_for_skipped_views_.reset();
  if (!options_.sharded()) return use_unsharded_views(true);
  const Tensor size_0_empty_tensor = flat_buffer(context_, 0, orig_type_, "FSDP empty parameter", Category::parameters);
  for (OriginalParam& original : originals_) {
    setattr(original, original.param);
    original.param.set_data(original.shard_elems == 0 ? size_0_empty_tensor : alias(flat_param, Shape{original.shard_elems}));
    if (training_state == FlatParamState::backward_post) original.tensor.reset();
  }
}

Tensor FlatParamHandle::sharded_grad() const {
  if (cpu_grad.defined()) return cpu_grad;
  return saved_grad_shard.defined() ? saved_grad_shard : flat_param.grad();
}

/// A gradient of another shape or dtype than its parameter's is put into one that fits: `param.grad = empty_like(param); param.grad.data = view`.
void FlatParamHandle::use_sharded_grad_views() {
  const Tensor grad = sharded_grad();
  for (OriginalParam& original : originals_) {
    const Tensor& param = original.param;
    if (!grad.defined() || original.shard_elems == 0 || !param.requires_grad()) {
      param.set_grad({});
      continue;
    }
    const Tensor view = alias(grad, param.shape());
    if (!options_.keep_low_precision_grads && param.type() == grad.type()) {
      param.set_grad(view);
      continue;
    }
    if (!param.grad().defined()) param.set_grad(empty_like(param, "FSDP gradient placeholder"));
    param.grad().set_data(view);
  }
}

void FlatParamHandle::use_unsharded_grad_views() {
  for (OriginalParam& original : originals_) {
    const Tensor& param = original.param;
    const Tensor view = alias(flat_param.grad(), original.shape);
    if (param.shape().same_sizes(view.shape()) && param.type() == view.type() && param.storage().place == view.storage().place) {
      param.set_grad(view);
      continue;
    }
    if (!param.grad().defined()) param.set_grad(empty_like(param, "FSDP gradient placeholder"));
    param.grad().set_data(view);
  }
}

/// As soon as zero_grad has dropped all the views of a gradient, the next forward or backward drops the gradient.
void FlatParamHandle::reset_flat_param_grad_info_if_needed() {
  if (!options_.use_orig_params) return;
  if (std::none_of(originals_.begin(), originals_.end(), [](const OriginalParam& original) { return original.param.grad().defined(); })) flat_param.set_grad({});
}

void FlatParamHandle::prepare_gradient_for_backward() {
  const Tensor grad = flat_param.grad();
  if (!grad.defined()) return;
  const bool offloaded = grad.storage().place != flat_param.storage().place;
  if (grad.elems() == unsharded_elems_ && !offloaded) return;
  if (grad.elems() == sharded_elems_) {
    if (!offloaded) saved_grad_shard = grad.detach();
    const Tensor& sharded = offloaded ? cpu_grad : saved_grad_shard;
    if (options_.keep_low_precision_grads && sharded.type() != orig_type_) cast_data(sharded, orig_type_);
  }
  flat_param.set_grad({});
}

void FlatParamHandle::prepare_gradient_for_optim() {
  if (cpu_grad.defined()) flat_param.set_grad(cpu_grad);
  else if (saved_grad_shard.defined()) flat_param.set_grad(saved_grad_shard);
  const bool from_shard = cpu_grad.defined() || saved_grad_shard.defined();
  if (from_shard && options_.keep_low_precision_grads && flat_param.grad().type() != options_.param_type) {
    cast_data(flat_param.grad(), options_.param_type);
    if (options_.use_orig_params) use_sharded_grad_views();
  }
  saved_grad_shard.reset();
}

void FlatParamHandle::collect_parameters(Tensors& out) const {
  if (!options_.use_orig_params) out.push_back(flat_param);
  else
    for (const OriginalParam& original : originals_) out.push_back(original.param);
}

}  // namespace zeroplan::eager
