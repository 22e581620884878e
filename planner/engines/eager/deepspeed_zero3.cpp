// Functions have the names and the order of statements of stage3.py; read it beside this file. A name that Python keeps until a function returns is a local variable here.
#include "planner/engines/eager/deepspeed_zero3.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <unordered_map>
#include <utility>

#include "planner/core/units.h"
#include "planner/engines/eager/deepspeed_zero3_hooks.h"
#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

Zero3Behaviour zero3_behaviour(const std::string& version) {
  int major = 0, minor = 0, patch = 0;
  const int parsed = std::sscanf(version.c_str(), "%d.%d.%d", &major, &minor, &patch);
  if (parsed < 2) return {};
  const int number = (major * 1000 + minor) * 1000 + patch;
  const bool leaks = number >= 16'002 && number <= 16'007;
  return {.resets_grads_remaining = !leaks,
          .counts_available_per_forward = !leaks,
          .gathers_in_place = number >= 18'000,
          .keeps_mean_loss = number < 18'000,
          .holds_last_mean_loss = number <= 16'007,
          .keeps_pinned_grad_buffer = number >= 15'000 && number < 16'000,
          .releases_recomputed = number >= 19'000,
          .replaces_linear_of_whole_models = number >= 19'000,
          .checks_group_norms = number >= 19'000};
}

namespace {

Tensor flat(Context& context, std::int64_t elems, ScalarType type, Place place, Category category, const char* site) {
  Scoped in_category(context.category, category);
  Scoped in_place(context.place, place);
  return empty(context, Shape{elems}, type, site);
}

Tensor scalar(Context& context, ScalarType type, Place place, const char* site) {
  Scoped in_category(context.category, Category::scratch);
  Scoped in_place(context.place, place);
  return empty(context, Shape{}, type, site);
}

Tensor narrow(const Tensor& base, std::int64_t elems) { return alias(base, Shape{elems}); }

constexpr ScalarType kNormType = ScalarType::fp64;  // get_norm_dtype

// ---- DeepSpeedZeroOptimizer_Stage3 ------------------------------------------------------------------------------------------------------

class Stage3Optimizer {
 public:
  Stage3Optimizer(Context& context, const Zero3Job& job, const Zero3Behaviour& behaviour, const Tensors& parameters, ZeroInit& init, PartitionedParameterCoordinator& coordinator);

  /// clear_backward_seen_flag, in the engine's forward.
  void begin_forward() { micro_step_id_ += epilogue_ran_ ? 1 : 0, epilogue_ran_ = false; }
  const Tensor& global_grad_norm() const { return global_grad_norm_; }
  void set_gradient_accumulation_boundary(bool boundary) { at_boundary_ = boundary; }
  void backward_epilogue();
  void step();

 private:
  struct SubGroup {
    std::vector<ZeroParam*> params;
    std::int64_t elems = 0;
    Tensor fp16;  ///< fp16_partitioned_groups_flat
    Tensor fp32;  ///< fp32_partitioned_groups_flat
    std::unique_ptr<AdamW> optimizer;
  };

  // construction
  void mark_persistent_parameters(const Tensors& parameters);
  void create_fp16_sub_groups(const Tensors& parameters);
  void create_fp16_partitions();
  void defragment(std::int64_t elems);
  void create_param_groups_fp16_flat_cpu_memory(std::int64_t elems);
  void create_fp32_partitions();
  void initialize_optimizer_states();
  void setup_for_real_optimizer();
  void create_reduce_and_remove_grad_hooks();

  // backward
  void reduce_ready_partitions_and_remove_grads(ZeroParam& param);
  void add_grad_to_ipg_bucket(ZeroParam& param);
  void reduce_and_partition_ipg_grads();
  Tensors avg_scatter_contiguous_grads();
  Tensors avg_scatter_grads();
  Tensors reduce_scatter_coalesced(const Tensors& gradients);
  std::int64_t pad_for_ranks(const Tensors& gradients, Tensors& paddings);
  void report_partition_kept(std::int64_t bytes);
  void partition_grads(const Tensors& grad_partitions);
  void offload_grad_partition_at_boundary(ZeroParam& param, const Tensor& grad_buffer);

  // step
  /// A copy in the norm's dtype, and the norm of it.
  void report_norm(std::int64_t elems, ScalarType type) {
    context_.moves(elems * (size_of(type) + size_of(kNormType)));
    context_.moves(elems * size_of(kNormType));
  }
  Tensor constant_buffered_norm2(const Tensor& gradient);
  void check_overflow();
  Tensor get_grad_norm_direct(const SubGroup& group);
  Tensor complete_grad_norm_calculation_for_cpu_offload(const SubGroup& group);
  Tensor combine_grad_norm_groups(const Tensors& norms);
  void prepare_fp32_grad(SubGroup& group);
  void unscale_and_clip_grads(const Tensor& total_norm);
  void optimizer_step(SubGroup& group);
  void reassign_partitioned_parameters(const SubGroup& group);

  Place optimizer_place() const { return job_.offload_optimizer ? Place::host : Place::device; }
  ScalarType communication_type() const { return job_.communication_type.value_or(job_.model.type); }
  ScalarType accumulation_type() const { return job_.grad_accum_type.value_or(job_.model.type); }

  Context& context_;
  const Zero3Job& job_;
  const Zero3Behaviour& behaviour_;
  ZeroInit& init_;
  PartitionedParameterCoordinator& coordinator_;
  std::vector<ZeroParam*> persistent_parameters_;
  std::vector<SubGroup> sub_groups_;
  Tensor inf_or_nan_tracker_, first_barrier_, lp_param_buffer_, grad_partitions_flat_buffer_, pinned_grad_buffer_;
  Tensor global_grad_norm_;

  struct IpgBucket {
    Tensor buffer;
    std::vector<ZeroParam*> params;
    std::int64_t elems = 0;
  } bucket_;
  EventsInFlight reductions_{3};  ///< max_param_reduce_events, and the one being issued

  std::unordered_map<const ZeroParam*, Tensor> norm_for_param_grads_;  ///< offload only
  std::int64_t micro_step_id_ = 0;
  bool epilogue_ran_ = false;
  bool at_boundary_ = true;
};

Stage3Optimizer::Stage3Optimizer(Context& context, const Zero3Job& job, const Zero3Behaviour& behaviour, const Tensors& parameters, ZeroInit& init, PartitionedParameterCoordinator& coordinator)
    : context_(context), job_(job), behaviour_(behaviour), init_(init), coordinator_(coordinator) {
  mark_persistent_parameters(parameters);
  inf_or_nan_tracker_ = flat(context, 1, ScalarType::boolean, optimizer_place(), Category::scratch, "inf_or_nan_tracker");
  first_barrier_ = flat(context, 1, ScalarType::uint8, Place::host, Category::scratch, "barrier");  // later barriers free theirs
  create_fp16_sub_groups(parameters);
  create_fp16_partitions();
  setup_for_real_optimizer();
  create_reduce_and_remove_grad_hooks();
}

// ---- construction -------------------------------------------------------------------------------------------------------------------------

void Stage3Optimizer::mark_persistent_parameters(const Tensors& parameters) {
  std::int64_t total_elems = 0;
  for (const Tensor& p : parameters) {
    ZeroParam& param = *init_.find(p);
    if (job_.fetching.model_persistence_threshold_elems && param.ds_numel + total_elems > *job_.fetching.model_persistence_threshold_elems) continue;
    if (param.ds_numel > job_.fetching.persistence_threshold_elems) continue;
    param.ds_persist = true;
    persistent_parameters_.push_back(&param);
    total_elems += param.ds_numel;
  }
}

void Stage3Optimizer::create_fp16_sub_groups(const Tensors& parameters) {
  std::vector<ZeroParam*> trainable;
  std::int64_t all_elems = 0;
  for (const Tensor& p : parameters) {
    if (!p.requires_grad()) continue;
    trainable.push_back(init_.find(p));
    all_elems += trainable.back()->partition_numel;
  }
  const bool one_group = job_.sub_group_elems >= all_elems;
  bool open = false;
  for (ZeroParam* param : trainable) {
    if (!open) sub_groups_.emplace_back();
    SubGroup& group = sub_groups_.back();
    group.params.push_back(param);
    group.elems += param->partition_numel;
    open = one_group || group.elems < job_.sub_group_elems;
  }
}

void Stage3Optimizer::create_fp16_partitions() {
  std::int64_t elems = 0;
  for (const SubGroup& group : sub_groups_) elems += group.elems;
  if (job_.offload_parameters) create_param_groups_fp16_flat_cpu_memory(elems);
  else defragment(elems);
  for (SubGroup& group : sub_groups_) group.fp16 = narrow(lp_param_buffer_, group.elems);
}

/// utils.py: through a host buffer, so that the device never holds both.
void Stage3Optimizer::defragment(std::int64_t elems) {
  const Tensor cpu_buffer = flat(context_, elems, job_.model.type, Place::host, Category::scratch, "defragment cpu_buffer");
  const Tensor nothing = flat(context_, 0, job_.model.type, Place::device, Category::scratch, "defragment");
  for (const SubGroup& group : sub_groups_)
    for (ZeroParam* param : group.params) param->ds_tensor.set_data(nothing);
  context_.recorder.empty_cache();
  lp_param_buffer_ = flat(context_, elems, job_.model.type, Place::device, Category::parameters, "lp_param_buffer");
  for (const SubGroup& group : sub_groups_)
    for (ZeroParam* param : group.params) param->ds_tensor.set_data(narrow(lp_param_buffer_, param->partition_numel));
}

void Stage3Optimizer::create_param_groups_fp16_flat_cpu_memory(std::int64_t elems) {
  lp_param_buffer_ = flat(context_, elems, job_.model.type, Place::host, Category::parameters, "param_groups_fp16_flat_cpu_memory");
  for (const SubGroup& group : sub_groups_)
    for (ZeroParam* param : group.params) param->ds_tensor.set_data(narrow(lp_param_buffer_, param->partition_numel));
}

void Stage3Optimizer::create_fp32_partitions() {
  Tensor converted;  // the last one lives until the next was made
  for (SubGroup& group : sub_groups_) {
    const bool same = group.fp16.type() == ScalarType::fp32 && group.fp16.storage().place == optimizer_place();
    converted = same ? group.fp16 : flat(context_, group.elems, ScalarType::fp32, optimizer_place(), Category::scratch, "_create_fp32_partitions converted");
    group.fp32 = flat(context_, group.elems, ScalarType::fp32, optimizer_place(), Category::optimizer, "fp32_partitioned_groups_flat");
    group.fp32.set_requires_grad(true);
  }
}

void Stage3Optimizer::initialize_optimizer_states() {
  std::int64_t largest_elems = 0;
  for (const SubGroup& group : sub_groups_) largest_elems = std::max(largest_elems, group.elems);
  const Tensor gradient_buffer = flat(context_, largest_elems, ScalarType::fp32, optimizer_place(), Category::scratch, "initialize_optimizer_states gradient_buffer");
  if (!job_.offload_optimizer) return;  // the gradients are set to views of it, then to None
  for (SubGroup& group : sub_groups_) group.fp32.set_grad(flat(context_, group.elems, ScalarType::fp32, Place::host, Category::gradients, "subgroup_gradient_buffer"));
}

void Stage3Optimizer::setup_for_real_optimizer() {
  create_fp32_partitions();
  initialize_optimizer_states();
  if (job_.contiguous_gradients) bucket_.buffer = flat(context_, job_.reduce_bucket_elems, communication_type(), Place::device, Category::communication_buffers, "ipg_bucket buffer");
  std::int64_t elems = 0;
  for (SubGroup& group : sub_groups_) {
    elems += group.elems;
    group.optimizer = std::make_unique<AdamW>(context_, job_.kernel, Tensors{group.fp32});
  }
  grad_partitions_flat_buffer_ = flat(context_, elems, accumulation_type(), optimizer_place(), Category::gradients, "grad_partitions_flat_buffer");
  if (job_.offload_optimizer && behaviour_.keeps_pinned_grad_buffer) {
    std::int64_t largest_elems = 0;
    for (const SubGroup& group : sub_groups_)
      for (const ZeroParam* param : group.params) largest_elems = std::max(largest_elems, param->partition_numel);
    pinned_grad_buffer_ = flat(context_, largest_elems, ScalarType::fp32, Place::host, Category::gradients, "pinned_grad_buffer");
  }
}

void Stage3Optimizer::create_reduce_and_remove_grad_hooks() {
  for (const SubGroup& group : sub_groups_)
    for (ZeroParam* param : group.params) {
      init_.all_gather({param});
      param->param.on_gradient_accumulated([this, param](Tensor&) { reduce_ready_partitions_and_remove_grads(*param); });
      init_.free_param(*param);
    }
}

// ---- backward -----------------------------------------------------------------------------------------------------------------------------

void Stage3Optimizer::reduce_ready_partitions_and_remove_grads(ZeroParam& param) {
  if (context_.gradients_incomplete) return;
  if (bucket_.elems + param.ds_numel > job_.reduce_bucket_elems && bucket_.elems > 0) reduce_and_partition_ipg_grads();
  add_grad_to_ipg_bucket(param);
}

void Stage3Optimizer::add_grad_to_ipg_bucket(ZeroParam& param) {
  const Tensor& gradient = param.param.grad();
  Scoped stream(context_.stream, Stream::reduce);
  context_.wait_stream(Stream::compute);
  if (job_.contiguous_gradients && bucket_.elems + gradient.elems() <= job_.reduce_bucket_elems) {
    context_.moves(2 * gradient.bytes());
    gradient.record_stream(context_.stream);
    gradient.set_data(alias(bucket_.buffer, gradient.shape()));
  }
  bucket_.params.push_back(&param);
  bucket_.elems += gradient.elems();
}

void Stage3Optimizer::reduce_and_partition_ipg_grads() {
  if (bucket_.params.empty()) return;
  context_.runs_reduction();
  reductions_.make_room(context_);
  Scoped stream(context_.stream, Stream::reduce);
  Scoped category(context_.category, Category::communication_buffers);
  const bool contiguous = job_.contiguous_gradients && bucket_.elems <= job_.reduce_bucket_elems && !job_.reduce_scatter;
  if (!contiguous) std::sort(bucket_.params.begin(), bucket_.params.end(), [](const ZeroParam* a, const ZeroParam* b) { return a->ds_id < b->ds_id; });
  const Tensors grad_partitions = contiguous ? avg_scatter_contiguous_grads() : avg_scatter_grads();
  partition_grads(grad_partitions);
  bucket_.params.clear();
  bucket_.elems = 0;
  reductions_.record(context_);
}

Tensors Stage3Optimizer::avg_scatter_contiguous_grads() {
  Tensor buffer_to_reduce = narrow(bucket_.buffer, bucket_.elems);
  if (job_.ranks != 1) buffer_to_reduce = empty(context_, Shape{bucket_.elems}, buffer_to_reduce.type(), "__avg_scatter_contiguous_grads mul");
  context_.moves(2 * buffer_to_reduce.bytes());  // divided by the ranks
  context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = buffer_to_reduce.bytes(), .ranks = job_.ranks});
  if (communication_type() != accumulation_type()) buffer_to_reduce = cast(buffer_to_reduce, accumulation_type());
  Tensors partitions;
  for (const ZeroParam* param : bucket_.params) {
    const std::int64_t elems = std::min(param->partition_numel, param->ds_numel);
    partitions.push_back(elems == param->partition_numel ? narrow(buffer_to_reduce, elems) : empty(context_, Shape{param->partition_numel}, accumulation_type(), "padded_partition"));
  }
  return partitions;
}

Tensors Stage3Optimizer::avg_scatter_grads() {
  Tensors full_grads;
  for (const ZeroParam* param : bucket_.params) full_grads.push_back(to(param->param.grad(), communication_type()));
  Tensors partitions = reduce_scatter_coalesced(full_grads);
  if (communication_type() != accumulation_type())
    for (Tensor& partition : partitions) partition = cast(partition, accumulation_type());
  return partitions;
}

/// The ranks' chunks of a gradient in the buffer, each filled up with a tensor of its own where the gradient ends before; rank by rank as coalesced_collectives.py makes them.
/// Where ranks are many, one tensor stands for what fills all of a gradient's empty chunks, with what an allocator rounds them to. Elements of the buffer.
std::int64_t Stage3Optimizer::pad_for_ranks(const Tensors& gradients, Tensors& paddings) {
  constexpr std::int64_t kMostRanksApart = 4096, kRounding = 512;
  const ScalarType type = gradients[0].type();
  const auto pad = [&](std::int64_t elems) { paddings.push_back(empty(context_, Shape{elems}, type, "reduce_scatter_coalesced padding")); };
  const bool apart = job_.ranks <= kMostRanksApart;
  for (std::int64_t rank = 0; apart && rank < job_.ranks; ++rank)
    for (const Tensor& gradient : gradients) {
      const std::int64_t chunk = divide_up(gradient.elems(), job_.ranks), real = std::clamp<std::int64_t>(gradient.elems() - rank * chunk, 0, chunk);
      if (real < chunk) pad(chunk - real);
    }
  std::int64_t elems = 0;
  for (const Tensor& gradient : gradients) {
    const std::int64_t chunk = divide_up(gradient.elems(), job_.ranks), filled = divide_up(gradient.elems(), chunk);
    elems += chunk * job_.ranks;
    if (apart) continue;
    if (filled * chunk > gradient.elems()) pad(filled * chunk - gradient.elems());
    if (filled < job_.ranks) pad((job_.ranks - filled) * (round_up(chunk * size_of(type), kRounding) / size_of(type)));
  }
  return elems;
}

/// coalesced_collectives.py: one gradient that divides evenly is reduced in place, else all are concatenated rank by rank, padded.
Tensors Stage3Optimizer::reduce_scatter_coalesced(const Tensors& gradients) {
  const ScalarType type = gradients[0].type();
  Tensor buffer = gradients[0];
  Tensors paddings;
  if (gradients.size() > 1 || gradients[0].elems() % job_.ranks != 0) {
    const std::int64_t elems = pad_for_ranks(gradients, paddings);
    buffer = empty(context_, Shape{elems}, type, "reduce_scatter_coalesced cat");
    context_.moves(2 * buffer.bytes());
  }
  context_.moves(2 * buffer.bytes());  // divided by the ranks
  context_.collective({.kind = CollectiveKind::reduce_scatter, .payload_bytes = buffer.bytes(), .ranks = job_.ranks});
  Tensors partitions;
  for (const Tensor& gradient : gradients) partitions.push_back(narrow(buffer, std::min(gradient.elems(), (gradient.elems() + job_.ranks - 1) / job_.ranks)));
  return partitions;
}

/// A partition is copied into grad_partitions_flat_buffer, or added to what lies there. Offloaded, it comes back to the device either way.
void Stage3Optimizer::report_partition_kept(std::int64_t bytes) {
  const bool accumulates = micro_step_id_ > 0;
  if (accumulates) context_.moves(3 * bytes);
  if (!accumulates && !job_.offload_optimizer) context_.moves(2 * bytes);
  if (!job_.offload_optimizer) return;
  context_.copy_to_device(bytes);
  context_.copy_to_host(bytes);
}

void Stage3Optimizer::partition_grads(const Tensors& grad_partitions) {
  for (std::size_t i = 0; i < grad_partitions.size(); ++i) {
    ZeroParam& param = *bucket_.params[i];
    const Tensor& grad_partition = grad_partitions[i];
    Tensor grad_buffer;  // on the device
    report_partition_kept(grad_partition.elems() * size_of(accumulation_type()));
    if (job_.offload_optimizer) grad_buffer = empty(context_, Shape{grad_partition.elems()}, accumulation_type(), "partition_grads grad_buffer");
    if (micro_step_id_ > 0 && grad_partition.type() != accumulation_type()) cast(grad_partition, accumulation_type());
    if (job_.offload_optimizer && at_boundary_) offload_grad_partition_at_boundary(param, grad_buffer);
    param.param.set_grad({});
  }
}

Tensor Stage3Optimizer::constant_buffered_norm2(const Tensor& gradient) {
  constexpr std::int64_t kBufferElems = 250'000'000;
  Tensor norm;
  for (std::int64_t start = 0; start < gradient.elems(); start += kBufferElems) {
    Tensor part = empty(context_, Shape{std::min(kBufferElems, gradient.elems() - start)}, kNormType, "_constant_buffered_norm2");
    report_norm(part.elems(), gradient.type());
    Tensor length = scalar(context_, kNormType, Place::device, "gradient norm");
    part.reset();
    const Tensor square = scalar(context_, kNormType, Place::device, "gradient norm");
    length.reset();
    if (!norm.defined()) norm = square;
  }
  return scalar(context_, kNormType, Place::device, "gradient norm");
}

void Stage3Optimizer::offload_grad_partition_at_boundary(ZeroParam& param, const Tensor& grad_buffer) {
  norm_for_param_grads_[&param] = constant_buffered_norm2(grad_buffer);
  const Tensor as_fp32 = to(grad_buffer, ScalarType::fp32);
  context_.copy_to_host(as_fp32.bytes());
}

void Stage3Optimizer::backward_epilogue() {
  reduce_and_partition_ipg_grads();
  {
    Scoped stream(context_.stream, Stream::reduce);
    context_.synchronize();
  }
  reductions_.forget();  // all are over by now
  coordinator_.forget_fetches();
  epilogue_ran_ = true;
  coordinator_.release_backward_leftovers();
}

// ---- step -----------------------------------------------------------------------------------------------------------------------------------

/// has_overflow (fp16)
void Stage3Optimizer::check_overflow() {
  const std::int64_t elems = grad_partitions_flat_buffer_.elems();
  for (int test = 0; test < 2; ++test) {
    const Tensor found = flat(context_, elems, ScalarType::boolean, optimizer_place(), Category::scratch, "has_overflow");
    const Tensor any = scalar(context_, ScalarType::boolean, optimizer_place(), "has_overflow");
  }
  const Tensor overflow = scalar(context_, ScalarType::uint8, Place::device, "has_overflow");
}

Tensor Stage3Optimizer::get_grad_norm_direct(const SubGroup& group) {
  Tensors grad_norms;
  for (const ZeroParam* param : group.params) {
    const Tensor converted = empty(context_, Shape{param->partition_numel}, kNormType, "get_grad_norm_direct");
    report_norm(param->partition_numel, accumulation_type());
    grad_norms.push_back(scalar(context_, kNormType, Place::device, "gradient norm"));
  }
  context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = size_of(kNormType), .ranks = job_.ranks});
  const std::int64_t count = static_cast<std::int64_t>(grad_norms.size());
  Tensor stacked = empty(context_, Shape{count}, kNormType, "gradient norms");
  Tensor powers = empty(context_, Shape{count}, kNormType, "gradient norms");
  stacked.reset();
  const Tensor total_norm_cuda = scalar(context_, kNormType, Place::device, "gradient norm");
  powers.reset();
  const Tensor total_norm = scalar(context_, kNormType, Place::device, "gradient norm");
  const Tensor is_inf = scalar(context_, ScalarType::boolean, Place::device, "gradient norm");
  const Tensor is_nan = scalar(context_, ScalarType::boolean, Place::device, "gradient norm");
  const Tensor inf_or_nan = scalar(context_, ScalarType::boolean, Place::device, "gradient norm");
  Tensor host_err = scalar(context_, ScalarType::fp32, Place::host, "gradient norm");
  const Tensor err = scalar(context_, ScalarType::fp32, Place::device, "gradient norm");
  host_err.reset();
  return scalar(context_, kNormType, Place::device, "gradient norm");
}

Tensor Stage3Optimizer::complete_grad_norm_calculation_for_cpu_offload(const SubGroup& group) {
  context_.synchronize();  // float(total_norm)
  context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = size_of(ScalarType::fp32), .ranks = job_.ranks});
  context_.synchronize();
  Tensor total;
  for (std::size_t i = 0; i < group.params.size(); ++i) {
    const Tensor square = scalar(context_, kNormType, Place::device, "gradient norm");
    if (i == 0) total = scalar(context_, kNormType, Place::device, "gradient norm");  // then added in place
  }
  const Tensor total_norm_cuda = scalar(context_, ScalarType::fp32, Place::host, "gradient norm");  // FloatTensor of the simulated accelerator
  const Tensor total_norm = scalar(context_, ScalarType::fp32, Place::host, "gradient norm");
  {  // mask_nan_or_inf_with_val_inplace
    const Tensor masks = flat(context_, 3, ScalarType::boolean, Place::host, Category::scratch, "gradient norm");
    const Tensor error = scalar(context_, ScalarType::fp32, Place::host, "gradient norm");
  }
  return total_norm;
}

namespace {
/// (~torch.isfinite(x) | (x < 0)).any()
Tensor any_invalid(const Tensor& x) {
  const auto mask = [&] { return empty(x.context(), x.shape(), ScalarType::boolean, "gradient norm"); };
  Tensor absolute = empty_like(x, "gradient norm");
  Tensor is_finite = mask(), equal = mask();
  Tensor finite = mask();
  absolute.reset();
  is_finite.reset();
  equal.reset();
  Tensor not_finite = mask();
  finite.reset();
  Tensor negative = mask();
  const Tensor invalid = mask();
  not_finite.reset();
  negative.reset();
  return empty(x.context(), Shape{}, ScalarType::boolean, "gradient norm");
}
}  // namespace

/// runtime/utils.py; older releases: linalg.vector_norm(stack(norm_groups))
Tensor Stage3Optimizer::combine_grad_norm_groups(const Tensors& norms) {
  const ScalarType type = norms[0].type();
  const Place place = norms[0].storage().place;
  Scoped in_place(context_.place, place);
  const Tensor stacked = empty(context_, Shape{static_cast<std::int64_t>(norms.size())}, type, "gradient norms");
  if (!behaviour_.checks_group_norms) return scalar(context_, type, place, "gradient norm");
  const Tensor invalid = any_invalid(stacked);
  const Tensor combined = scalar(context_, type, place, "gradient norm");
  const Tensor infinite = scalar(context_, type, place, "gradient norm");
  Tensor out = scalar(context_, type, place, "gradient norm");
  return out;
}

void Stage3Optimizer::prepare_fp32_grad(SubGroup& group) {
  Scoped category(context_.category, Category::gradients);
  Tensor flattened;  // _flatten_dense_tensors: a view of a single one
  if (group.params.size() > 1) {
    flattened = empty(context_, Shape{group.elems}, accumulation_type(), "_prepare_fp32_grad_for_sub_group flatten");
    context_.moves(2 * flattened.bytes());
  } else {
    flattened = narrow(grad_partitions_flat_buffer_, group.elems);
  }
  group.fp32.set_grad(to(flattened, ScalarType::fp32));
}

void Stage3Optimizer::unscale_and_clip_grads(const Tensor& total_norm) {
  const ScalarType type = total_norm.type();
  const Place place = total_norm.storage().place;
  const auto next = [&] { return scalar(context_, type, place, "clip coefficient"); };
  Tensor clip = next();
  clip = next();
  clip = next();
  clip = next();
  const Tensor combined_scale = next();
  const Tensor reciprocal = next();
  const Tensor factor = next();
}

void Stage3Optimizer::optimizer_step(SubGroup& group) {
  {
    Scoped place(context_.place, optimizer_place());
    context_.moves(2 * group.fp32.bytes());  // unscaled and clipped
  }
  group.optimizer->step();
  reassign_partitioned_parameters(group);
  if (!job_.offload_optimizer) group.fp32.set_grad({});
}

/// The master weights are cast where they are, then copied to where the parameters are.
void Stage3Optimizer::reassign_partitioned_parameters(const SubGroup& group) {
  {
    Scoped place(context_.place, optimizer_place());
    context_.moves(group.fp32.bytes() + group.fp16.bytes());
  }
  if (optimizer_place() == group.fp16.storage().place) return;
  context_.copy_to_device(group.fp16.bytes());
  context_.synchronize();
}

void Stage3Optimizer::step() {
  Scoped no_grad(context_.grad_enabled, false);
  Scoped category(context_.category, Category::scratch);
  micro_step_id_ = 0;
  epilogue_ran_ = false;
  coordinator_.release_and_reset_all();
  if (job_.model.type == ScalarType::fp16) check_overflow();
  Tensors norm_groups;
  for (const SubGroup& group : sub_groups_) norm_groups.push_back(job_.offload_optimizer ? complete_grad_norm_calculation_for_cpu_offload(group) : get_grad_norm_direct(group));
  const Tensor scaled_global_grad_norm = combine_grad_norm_groups(norm_groups);
  global_grad_norm_ = scalar(context_, scaled_global_grad_norm.type(), scaled_global_grad_norm.storage().place, "_global_grad_norm");
  for (SubGroup& group : sub_groups_) {
    if (!job_.offload_optimizer) prepare_fp32_grad(group);
    if (job_.clips_gradients) unscale_and_clip_grads(scaled_global_grad_norm);
    optimizer_step(group);
  }
  norm_for_param_grads_.clear();
  init_.all_gather(persistent_parameters_);
}

// ---- DeepSpeedEngine ------------------------------------------------------------------------------------------------------------------------

class Engine {
 public:
  Engine(Context& context, const Zero3Job& job);

  Tensor forward(const Tensor& ids);
  void backward(const Tensor& loss);
  void step();
  void skip_micro_batches(std::int64_t n) { micro_steps_ += n; }

 private:
  Tensor loss_by_accumulation(const Tensor& loss) const;
  Tensor log_mean_loss(const Tensor& loss);
  std::unique_ptr<CausalLm> make_model();
  void convert_to_zero_parameters();

  Context& context_;
  const Zero3Job& job_;
  Zero3Behaviour behaviour_;
  ZeroInit init_;
  std::unique_ptr<CausalLm> model_;
  PartitionedParameterCoordinator coordinator_;
  std::unique_ptr<Zero3Hooks> hooks_;
  std::unique_ptr<Stage3Optimizer> optimizer_;
  std::int64_t micro_steps_ = 0;
  Tensor losses_, global_grad_norm_;
};

Engine::Engine(Context& context, const Zero3Job& job)
    : context_(context), job_(job), behaviour_(zero3_behaviour(job.version)),
      init_(context, job.ranks, job.offload_parameters ? Place::host : Place::device, job.fetching, behaviour_), model_(make_model()),
      coordinator_(context, init_, job.fetching, behaviour_) {
  convert_to_zero_parameters();
  hooks_ = std::make_unique<Zero3Hooks>(context, *model_, job.lora.rank > 0, init_, coordinator_, behaviour_);
  if (job.memory_efficient_linear && (job.zero_init || behaviour_.replaces_linear_of_whole_models))
    context.linear_override = [this](const Tensor& x, const Tensor& weight, const Tensor& bias) { return zero3_linear(init_, x, weight, bias); };
  optimizer_ = std::make_unique<Stage3Optimizer>(context, job, behaviour_, model_->parameters(), init_, coordinator_);
}

std::unique_ptr<CausalLm> Engine::make_model() {
  if (job_.zero_init) {
    context_.constructor_type = job_.model.type;
    context_.after_module_init = [this](Module& module) {
      for (const auto& [name, tensor] : module.own_parameters) init_.convert(tensor);
    };
  }
  std::unique_ptr<CausalLm> model = CausalLm::make(context_, job_.model);
  context_.constructor_type.reset();
  context_.after_module_init = {};
  set_up(*model, job_.lora, job_.checkpoint);
  return model;
}

void Engine::convert_to_zero_parameters() {
  const Tensors parameters = model_->parameters();
  init_.keep_only(parameters);
  for (const Tensor& p : parameters) init_.convert(p);
}

Tensor Engine::forward(const Tensor& ids) {
  optimizer_->begin_forward();
  hooks_->in_forward = true;
  Tensor loss = model_->loss(ids);
  hooks_->in_forward = false;
  return loss;
}

Tensor Engine::loss_by_accumulation(const Tensor& loss) const { return behaviour_.keeps_mean_loss && job_.size.accumulate == 1 ? loss : div_scalar(loss); }

/// What the caller's frame holds of it.
Tensor Engine::log_mean_loss(const Tensor& loss) {
  if (!behaviour_.keeps_mean_loss) return {};
  const Tensor mean = scalar(context_, loss.type(), Place::device, "mean loss");
  losses_ = losses_.defined() ? scalar(context_, loss.type(), Place::device, "mean loss") : mean;
  return behaviour_.holds_last_mean_loss ? mean : Tensor();
}

void Engine::backward(const Tensor& loss) {
  const Tensor divided = loss_by_accumulation(loss);
  const Tensor mean_loss = log_mean_loss(divided);
  Tensor scaled = mul_scalar(divided);  // LossScaler.scale_loss
  optimizer_->set_gradient_accumulation_boundary((micro_steps_ + 1) % job_.size.accumulate == 0);
  eager::backward(scaled);
  if (behaviour_.keeps_mean_loss) scaled.reset();
  Scoped no_grad(context_.grad_enabled, false);
  optimizer_->backward_epilogue();
}

void Engine::step() {
  if (++micro_steps_ % job_.size.accumulate != 0) return;
  optimizer_->step();
  global_grad_norm_ = optimizer_->global_grad_norm();
  losses_.reset();
}

}  // namespace

PhasePeaks run_zero3(const Zero3Job& job, Recorder& recorder, const MachineBehaviour& machine) {
  Context context(recorder);
  machine.apply_to(context);
  recorder.begin_phase("init");
  Engine engine(context, job);
  return train(context, job.size, engine);
}

}  // namespace zeroplan::eager
