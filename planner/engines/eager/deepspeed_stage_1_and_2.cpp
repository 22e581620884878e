// DeepSpeedZeroOptimizer: it has the names, the methods and the order of statements of DeepSpeed's stage_1_and_2.py; read that beside this file.
// A local tensor that Python keeps until a function returns is a local variable here for the same reason. With one parameter group the index of the group is left out.
// The rank is 0: its partition begins at element 0, so that no parameter enters it from the left (first_offset is 0).
#include <algorithm>
#include <cassert>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "planner/engines/eager/deepspeed_optimizers.h"

namespace zeroplan::eager {

namespace {

constexpr int kThisRank = 0;

/// A rank whose partition holds a part of a parameter.
struct Owner {
  std::int64_t rank = 0;
  std::int64_t grad_start_offset = 0;                ///< first element of the parameter that lies there
  std::int64_t grad_partition_insertion_offset = 0;  ///< its place in the partition
};

/// A trained parameter and what DeepSpeed keeps about it in attributes and dictionaries.
struct ZeroParam {
  Tensor param;
  Tensor grad_accum;
  Shape shape;
  std::int64_t elems = 0;
  std::int64_t flat_offset = 0;
  std::int64_t padding = 0;
  std::vector<Owner> owners;
  bool in_current_partition = false;
  bool already_reduced = false;
  Tensor accumulated_grad_in_cpu;  ///< offload
  Tensor norm;                     ///< offload
};

struct IpgBucket {
  Tensors buffer;
  std::vector<ZeroParam*> params;
  Tensors grads;
  std::int64_t elements = 0;
  std::size_t index = 0;

  void clear() {
    params.clear();
    grads.clear();
    elements = 0;
  }
};

/// averaged_gradients of a group: a list of gradients, or views of one flat fp32 partition (GradPartitionBufferGroup).
struct AveragedGradients {
  Tensors grads;
  std::vector<bool> zero_padding;
  Tensor flat_partition;

  void push_back(Tensor grad, bool is_padding) {
    grads.push_back(std::move(grad));
    zero_padding.push_back(is_padding);
  }
};

/// A slice of a bucket that goes to one rank, and where it is added besides.
struct BucketSlice {
  std::int64_t rank = 0;
  std::int64_t elems = 0;
  Tensor tensor;
  Tensor grad_partition_output;  ///< undefined: none
};

class DeepSpeedZeroOptimizer : public ZeroOptimizer {
 public:
  DeepSpeedZeroOptimizer(Context& context, const Zero12Job& job, AdamW& optimizer);

  void clear_backward_seen_flag() override;
  Tensor scale_if_loss(const Tensor& loss) override { return mul_scalar(loss); }
  void after_backward() override;
  void step() override;
  void zero_grad() override;

 private:
  // initialization
  void flatten_parameters();
  void lay_out_parameters();
  Tensor flatten_dense_tensors_aligned(const Tensors& tensors, std::int64_t alignment) const;
  Tensor flatten_on_cpu(std::int64_t alignment);
  void update_model_bit16_weights();
  void make_fp32_partition();
  void make_offload_buffers();
  void find_owners();
  void initialize_optimizer_states();
  void create_gradient_handling_hooks();

  // buckets
  void setup_buckets();
  void release_ipg_buffers();
  void process_gradients(ZeroParam& p);
  void reduce_ready_partitions_and_remove_grads(ZeroParam& p);
  void reduce_independent_p_g_buckets_and_remove_grads(ZeroParam& p);
  void reduce_ipg_grads();
  void wait_for_producers();
  void average_tensor(const Tensor& tensor);
  std::vector<BucketSlice> slices_of_bucket(const Tensor& tensor);
  void allreduce_and_scatter(const std::vector<BucketSlice>& slices);
  void reduce_to_owners(const std::vector<BucketSlice>& slices);
  Tensor allreduce_bucket(const Tensors& bucket);
  void allreduce_and_copy(const std::vector<BucketSlice>& bucket, bool keeps_result);
  void gradient_reduction_w_predivide(const Tensor& tensor);
  void add_full_reduction_to_compact_grad_partition(const Tensor& reduced);
  void buffered_reduce_fallback();
  void copy_grads_in_partition(ZeroParam& p);

  // gradients
  void fill_param_grad_accum_attribute(ZeroParam& p);
  Tensor gradient_for_reduction(const ZeroParam& p) const { return use_grad_accum_attribute_ ? p.grad_accum : p.param.grad(); }
  void clear_grad_attribute(ZeroParam& p);
  void clear_previous_reduced_grads();
  void reduce_gradients();
  void independent_gradient_partition_epilogue();
  void gather_averaged_gradients(Tensors& avg_new);
  /// In place, to the earlier ones.
  void add_all_grad_tensors(const Tensors& grads) {
    for (const Tensor& grad : grads) context_.moves(3 * grad.bytes());
  }
  Tensors get_all_grad_tensors() const;
  std::unique_ptr<AveragedGradients> get_flat_partition() const;
  std::int64_t elems_in_partition(const ZeroParam& p, const Owner& owner) const;

  // compact gradient partition
  bool use_compact_grad_partition_buffer() const { return gradient_accumulation_type_ == ScalarType::fp32 && gradient_accumulation_type_ != type_; }
  std::unique_ptr<AveragedGradients> build_compact_grad_partition_buffer() const;
  Tensor compact_grad_partition_slice(std::int64_t rank, std::int64_t elems);
  static void add_to_grad_partition_buffer(const Tensor& output, const Tensor& source);

  // offload
  void copy_grads_in_partition_for_offload(ZeroParam& p);
  void copy_compact_grads_for_offload(ZeroParam& p);
  void async_accumulate_grad_in_cpu_via_gpu(ZeroParam& p);
  Tensor complete_grad_norm_calculation_for_cpu_offload();

  // step
  Tensor scaled_global_norm();
  Tensor get_grad_norm_direct();
  void unscale_and_clip_grads(const Tensor& total_norm);
  void step_offloaded(const Tensor& total_norm);
  void step_on_device(const Tensor& total_norm);
  /// The trained partition is copied into the bit16 parameters.
  void report_cast_of_partition() {
    Scoped place(context_.place, fp32_partition_.storage().place);
    context_.moves(partition_elems_ * (size_of(master_type_) + size_of(type_)));
  }
  void free_grad_in_param_list(bool in_current_partition);

  Context& context_;
  AdamW& optimizer_;
  Zero12Options options_;
  bool partition_gradients_;
  bool cpu_offload_;
  bool contiguous_gradients_;
  std::int64_t world_ranks_;
  std::int64_t gpu_bytes_;
  ScalarType type_ = ScalarType::bf16;
  ScalarType gradient_accumulation_type_ = ScalarType::bf16;
  ScalarType communication_type_ = ScalarType::bf16;
  ScalarType master_type_ = ScalarType::fp32;
  bool use_grad_accum_attribute_ = false;

  std::vector<std::unique_ptr<ZeroParam>> group_;  ///< bit16_groups: in the order of the model
  std::vector<ZeroParam*> round_robin_group_;      ///< in the order of the flat buffer
  std::vector<ZeroParam*> params_in_partition_;
  Tensor bit16_flat_;
  Tensor fp32_partition_;
  Tensor param_buffer_of_bit16_for_cpu_offload_;
  Tensor temp_grad_buffer_for_cpu_offload_, temp_grad_buffer_for_gpu_offload_;
  std::int64_t partition_elems_ = 0;

  IpgBucket bucket_;
  ZeroParam* extra_large_param_to_reduce_ = nullptr;
  std::vector<ZeroParam*> previous_reduced_grads_;
  Tensor grads_in_partition_;
  std::unique_ptr<Tensors> all_grad_tensors_;
  std::unique_ptr<AveragedGradients> averaged_gradients_;
  bool ready_for_gradients_ = false;
  bool epilogue_ran_this_backward_ = false;
  int micro_step_id_ = -1;
};

// ---- initialization

DeepSpeedZeroOptimizer::DeepSpeedZeroOptimizer(Context& context, const Zero12Job& job, AdamW& optimizer)
    : context_(context),
      optimizer_(optimizer),
      options_(job.zero),
      partition_gradients_(job.stage == 2),
      cpu_offload_(job.offload_optimizer),
      contiguous_gradients_(job.zero.contiguous_gradients || job.offload_optimizer),
      world_ranks_(job.world_ranks),
      gpu_bytes_(job.gpu_bytes) {
  type_ = optimizer.parameters().at(0).type();
  gradient_accumulation_type_ = options_.grad_accum_dtype.value_or(type_);
  communication_type_ = options_.communication_data_type.value_or(type_);
  if (options_.bf16_master_weights_and_grads) master_type_ = ScalarType::bf16;
  use_grad_accum_attribute_ = type_ != gradient_accumulation_type_ && !partition_gradients_;
  for (const Tensor& param : optimizer.parameters()) {
    group_.push_back(std::make_unique<ZeroParam>());
    group_.back()->param = param;
    group_.back()->shape = param.shape();
    group_.back()->elems = param.elems();
  }
  lay_out_parameters();
  flatten_parameters();
  make_fp32_partition();
  find_owners();
  if (cpu_offload_) make_offload_buffers();
  if (partition_gradients_ || options_.overlap_comm || use_grad_accum_attribute_ || contiguous_gradients_) create_gradient_handling_hooks();
  initialize_optimizer_states();
}

/// _round_robin_reorder, and the offsets that __init__ computes from it.
void DeepSpeedZeroOptimizer::lay_out_parameters() {
  const std::size_t stride = options_.round_robin_gradients ? static_cast<std::size_t>(world_ranks_) : 1;
  for (std::size_t first = 0; first < std::min(stride, group_.size()); ++first)
    for (std::size_t i = first; i < group_.size(); i += stride) round_robin_group_.push_back(group_[i].get());
  const std::int64_t alignment = options_.parameter_alignment ? 16 / std::gcd(std::int64_t{16}, size_of(type_)) : 1;
  std::int64_t offset = 0;
  for (ZeroParam* p : round_robin_group_) {
    p->flat_offset = offset;
    offset += p->elems;
    p->padding = p == round_robin_group_.back() ? 0 : round_up(offset, alignment) - offset;
    offset += p->padding;
  }
}

Tensor DeepSpeedZeroOptimizer::flatten_dense_tensors_aligned(const Tensors& tensors, std::int64_t alignment) const {
  return flatten(align_dense_tensors(tensors, alignment), "flat buffer of the parameters", Category::parameters);
}

void DeepSpeedZeroOptimizer::flatten_parameters() {
  const std::int64_t alignment = kNcclStartAlignmentFactor * world_ranks_;
  const std::int64_t param_alignment = options_.parameter_alignment ? 16 / std::gcd(std::int64_t{16}, size_of(type_)) : 1;
  std::int64_t most_elems = 0;  // with the largest padding that alignment may ask for
  for (const auto& p : group_) most_elems += round_up(p->elems, param_alignment);
  context_.recorder.empty_cache();
  const std::int64_t available_bytes = gpu_bytes_ - context_.recorder.alive_bytes(Place::device);
  const bool flatten_on_accelerator = available_bytes >= round_up(most_elems, alignment) * size_of(type_);
  if (flatten_on_accelerator) {
    Tensors tensors;
    for (const ZeroParam* p : round_robin_group_) {
      tensors.push_back(p->param);
      if (p->padding > 0) tensors.push_back(new_flat(context_, p->padding, type_, "parameter alignment padding", Category::scratch));
    }
    bit16_flat_ = flatten_dense_tensors_aligned(tensors, alignment).detach();
  } else {
    bit16_flat_ = flatten_on_cpu(alignment);
  }
  update_model_bit16_weights();
}

/// The parameters go to the host, are flattened there, and the flat buffer comes back.
Tensor DeepSpeedZeroOptimizer::flatten_on_cpu(std::int64_t alignment) {
  std::map<const ZeroParam*, Tensor> cpu_data;
  for (const auto& p : group_) {
    {
      Scoped place(context_.place, Place::host);
      cpu_data[p.get()] = new_flat(context_, p->elems, type_, "parameter on its way to the flat buffer", Category::parameters);
    }
    Scoped place(context_.place, Place::host);
    const Tensor one = new_flat(context_, 1, ScalarType::fp32, "stand-in for a parameter", Category::scratch);
    Scoped back(context_.place, Place::device);
    p->param.set_data(new_flat(context_, 1, ScalarType::fp32, "stand-in for a parameter", Category::scratch));
  }
  context_.recorder.empty_cache();
  Tensor flattened;
  {
    Scoped place(context_.place, Place::host);
    Tensors tensors;
    for (const ZeroParam* p : round_robin_group_) {
      tensors.push_back(cpu_data[p]);
      if (p->padding > 0) tensors.push_back(new_flat(context_, p->padding, type_, "parameter alignment padding", Category::scratch));
    }
    flattened = flatten_dense_tensors_aligned(tensors, alignment);
  }
  cpu_data.clear();
  return new_flat(context_, flattened.elems(), type_, "flat buffer of the parameters", Category::parameters);
}

void DeepSpeedZeroOptimizer::update_model_bit16_weights() {
  for (const auto& p : group_) p->param.set_data(view_of(bit16_flat_, p->shape));
}

void DeepSpeedZeroOptimizer::make_fp32_partition() {
  assert(bit16_flat_.elems() % world_ranks_ == 0);
  partition_elems_ = bit16_flat_.elems() / world_ranks_;
  Tensor clone = new_flat(context_, partition_elems_, type_, "clone of the bit16 partition", Category::scratch);
  Scoped place(context_.place, cpu_offload_ ? Place::host : Place::device);
  const bool same = clone.type() == master_type_ && !cpu_offload_;
  if (same) context_.recorder.set_category(clone.storage().index, Category::optimizer);
  fp32_partition_ = same ? clone : new_flat(context_, partition_elems_, master_type_, "fp32 partition", Category::optimizer);
  clone.reset();
  if (cpu_offload_) param_buffer_of_bit16_for_cpu_offload_ = new_flat(context_, partition_elems_, type_, "param_buffer_of_bit16_for_cpu_offload", Category::parameters);
  fp32_partition_.set_requires_grad(true);
  optimizer_.parameters() = {fp32_partition_};
}

void DeepSpeedZeroOptimizer::make_offload_buffers() {
  std::int64_t largest_elems = 0;
  for (const auto& p : group_) largest_elems = std::max(largest_elems, p->elems);
  Scoped place(context_.place, Place::host);
  temp_grad_buffer_for_cpu_offload_ = new_flat(context_, largest_elems, type_, "temp_grad_buffer_for_cpu_offload", Category::gradients);
  Scoped back(context_.place, Place::device);
  temp_grad_buffer_for_gpu_offload_ = new_flat(context_, largest_elems, type_, "temp_grad_buffer_for_gpu_offload", Category::gradients);
}

/// initialize_gradient_partition for every rank, and get_partition_info for this one.
void DeepSpeedZeroOptimizer::find_owners() {
  for (ZeroParam* p : round_robin_group_) {
    const std::int64_t begin = p->flat_offset, end = begin + p->elems;
    for (std::int64_t rank = begin / partition_elems_; rank * partition_elems_ < end; ++rank) {
      const std::int64_t start = rank * partition_elems_;
      p->owners.push_back({.rank = rank, .grad_start_offset = std::max<std::int64_t>(start - begin, 0), .grad_partition_insertion_offset = std::max<std::int64_t>(begin - start, 0)});
    }
    p->in_current_partition = p->owners.front().rank == kThisRank;
    if (p->in_current_partition) params_in_partition_.push_back(p);
  }
}

void DeepSpeedZeroOptimizer::initialize_optimizer_states() {
  Scoped place(context_.place, cpu_offload_ ? Place::host : Place::device);
  const Tensor single_grad_partition = new_flat(context_, partition_elems_, master_type_, "fp32 gradient partition", Category::gradients);
  if (cpu_offload_) fp32_partition_.set_grad(single_grad_partition);
}

void DeepSpeedZeroOptimizer::create_gradient_handling_hooks() {
  for (const auto& p : group_) p->param.on_gradient_accumulated([this, one = p.get()](Tensor&) {
      if (!context_.gradients_incomplete) process_gradients(*one);
    });
}

// ---- buckets

void DeepSpeedZeroOptimizer::setup_buckets() {
  if (ready_for_gradients_) return;
  ++micro_step_id_;
  const Scoped whole_model(context_.where, Where{});
  if (contiguous_gradients_) {
    bucket_.buffer.clear();
    bucket_.index = 0;
    const ScalarType buffer_type = use_grad_accum_attribute_ ? gradient_accumulation_type_ : type_;
    for (int i = 0; i < (options_.overlap_comm ? 2 : 1); ++i)
      bucket_.buffer.push_back(new_flat(context_, options_.reduce_bucket_size, buffer_type, "IPG bucket", Category::communication_buffers));
  }
  ready_for_gradients_ = true;
}

void DeepSpeedZeroOptimizer::release_ipg_buffers() {
  if (contiguous_gradients_) {
    bucket_.buffer.clear();
    grads_in_partition_.reset();
  }
  ready_for_gradients_ = false;
}

/// The hook of a parameter: its gradient is complete for this micro batch.
void DeepSpeedZeroOptimizer::process_gradients(ZeroParam& p) {
  setup_buckets();
  if (use_grad_accum_attribute_) fill_param_grad_accum_attribute(p);
  if (partition_gradients_ || options_.overlap_comm) reduce_ready_partitions_and_remove_grads(p);
}

void DeepSpeedZeroOptimizer::reduce_ready_partitions_and_remove_grads(ZeroParam& p) {
  if (partition_gradients_ || is_boundary_) reduce_independent_p_g_buckets_and_remove_grads(p);
}

void DeepSpeedZeroOptimizer::reduce_independent_p_g_buckets_and_remove_grads(ZeroParam& p) {
  const Tensor grad_reduc = gradient_for_reduction(p);
  if (bucket_.elements + p.elems > options_.reduce_bucket_size) {
    reduce_ipg_grads();
    if (contiguous_gradients_ && options_.overlap_comm) bucket_.index = 1 - bucket_.index;
  }
  assert(!p.already_reduced);
  if (contiguous_gradients_) {
    if (p.elems > options_.reduce_bucket_size) {
      if (cpu_offload_) {
        context_.moves(2 * grad_reduc.bytes());
        grad_reduc.set_data(view_of(new_flat(context_, p.elems, grad_reduc.type(), "clone of an oversized gradient", Category::gradients), p.shape));
      }
      extra_large_param_to_reduce_ = &p;
    } else {
      context_.moves(2 * grad_reduc.bytes());
      grad_reduc.set_data(view_of(bucket_.buffer[bucket_.index], p.shape));
    }
  }
  bucket_.elements += p.elems;
  bucket_.grads.push_back(grad_reduc);
  bucket_.params.push_back(&p);
}

void DeepSpeedZeroOptimizer::reduce_ipg_grads() {
  Scoped stream(context_.stream, options_.overlap_comm ? Stream::reduce : Stream::compute);
  context_.begin_op("reduce_ipg_grads");
  Tensor extra_large_grad_reduc_for_average;  // keeps an oversized gradient until this function returns
  if (!contiguous_gradients_) {
    buffered_reduce_fallback();
  } else if (extra_large_param_to_reduce_ != nullptr) {
    assert(bucket_.params.size() == 1);
    extra_large_grad_reduc_for_average = narrow(gradient_for_reduction(*extra_large_param_to_reduce_), extra_large_param_to_reduce_->elems);
    average_tensor(extra_large_grad_reduc_for_average);
    extra_large_param_to_reduce_ = nullptr;
  } else {
    average_tensor(narrow(bucket_.buffer[bucket_.index], bucket_.elements));
  }
  for (ZeroParam* p : bucket_.params) {
    p->already_reduced = true;
    if (contiguous_gradients_ && p->in_current_partition) copy_grads_in_partition(*p);
    if (!partition_gradients_ || p->in_current_partition) continue;
    if (options_.overlap_comm && !contiguous_gradients_) previous_reduced_grads_.push_back(p);
    else clear_grad_attribute(*p);
  }
  bucket_.clear();
}

/// A reduction begins when the bucket is filled, and backward goes on when the one before has ended.
void DeepSpeedZeroOptimizer::wait_for_producers() {
  if (!options_.overlap_comm) return;
  const EventId reduced_before = context_.record_event();
  context_.wait_stream(Stream::compute);
  Scoped on_stream(context_.stream, Stream::compute);
  context_.wait_event(reduced_before);
}

void DeepSpeedZeroOptimizer::average_tensor(const Tensor& tensor) {
  wait_for_producers();
  if (!options_.reduce_scatter) return gradient_reduction_w_predivide(tensor);
  const std::vector<BucketSlice> slices = slices_of_bucket(tensor);
  context_.moves(2 * tensor.bytes());  // div_ by the ranks
  if (options_.use_multi_rank_bucket_allreduce) allreduce_and_scatter(slices);
  else reduce_to_owners(slices);
}

/// rank_and_offsets: neighbours in the bucket that go to the same rank are one slice.
std::vector<BucketSlice> DeepSpeedZeroOptimizer::slices_of_bucket(const Tensor& tensor) {
  std::vector<BucketSlice> slices;
  for (const ZeroParam* p : bucket_.params) {
    for (std::size_t i = 0; i < p->owners.size(); ++i) {
      const Owner& owner = p->owners[i];
      const std::int64_t end = i + 1 < p->owners.size() ? p->owners[i + 1].grad_start_offset : p->elems;
      const std::int64_t elems = end - owner.grad_start_offset;
      Tensor output = compact_grad_partition_slice(owner.rank, elems);
      if (!output.defined() && !slices.empty() && slices.back().rank == owner.rank) slices.back().elems += elems;
      else slices.push_back({.rank = owner.rank, .elems = elems, .tensor = {}, .grad_partition_output = std::move(output)});
    }
  }
  for (BucketSlice& slice : slices) slice.tensor = narrow(tensor, slice.elems);
  return slices;
}

void DeepSpeedZeroOptimizer::allreduce_and_scatter(const std::vector<BucketSlice>& slices) {
  std::vector<BucketSlice> small_bucket;
  std::int64_t elems = 0;
  for (const BucketSlice& slice : slices) {
    small_bucket.push_back(slice);
    elems += slice.elems;
    if (elems <= options_.reduce_bucket_size) continue;
    allreduce_and_copy(small_bucket, true);
    small_bucket.clear();
    elems = 0;
  }
  if (!small_bucket.empty()) allreduce_and_copy(small_bucket, true);
}

/// Without use_multi_rank_bucket_allreduce: one reduction a rank (allreduce_no_retain), in the order in which ranks first appear.
void DeepSpeedZeroOptimizer::reduce_to_owners(const std::vector<BucketSlice>& slices) {
  std::vector<std::vector<BucketSlice>> buckets;
  for (const BucketSlice& slice : slices) {
    const auto found = std::find_if(buckets.begin(), buckets.end(), [&](const auto& bucket) { return bucket.front().rank == slice.rank; });
    if (found != buckets.end()) found->push_back(slice);
    else buckets.push_back({slice});
  }
  for (const std::vector<BucketSlice>& bucket : buckets) {
    std::vector<BucketSlice> small_bucket;
    std::int64_t elems = 0;
    for (const BucketSlice& slice : bucket) {
      small_bucket.push_back(slice);
      elems += slice.elems;
      if (elems <= options_.reduce_bucket_size && &slice != &bucket.back()) continue;
      if (options_.overlap_comm) clear_previous_reduced_grads();
      allreduce_and_copy(small_bucket, slice.rank == kThisRank);
      small_bucket.clear();
      elems = 0;
    }
  }
}

/// The result in the dtype of communication: a view, or a copy of the bucket's tensors.
Tensor DeepSpeedZeroOptimizer::allreduce_bucket(const Tensors& bucket) {
  const Tensor tensor = flatten(bucket, "flat copy for all-reduce", Category::communication_buffers);
  return converted(tensor, communication_type_, "copy in the dtype of communication", Category::communication_buffers);
}

/// allreduce_and_copy_with_multiple_ranks and allreduce_and_copy: results are copied back into the slices, and those of this rank are added to the compact partition.
void DeepSpeedZeroOptimizer::allreduce_and_copy(const std::vector<BucketSlice>& bucket, bool keeps_result) {
  Tensors tensors;
  for (const BucketSlice& slice : bucket) tensors.push_back(slice.tensor);
  const Tensor allreduced = allreduce_bucket(tensors);
  const bool to_one_rank = !options_.use_multi_rank_bucket_allreduce;
  context_.collective({.kind = to_one_rank ? CollectiveKind::reduce : CollectiveKind::all_reduce, .payload_bytes = allreduced.bytes(), .ranks = world_ranks_});
  if (!keeps_result) return;
  for (const BucketSlice& slice : bucket)
    if (slice.rank == kThisRank && allreduced.storage().index != slice.tensor.storage().index) context_.moves(slice.elems * (size_of(allreduced.type()) + size_of(slice.tensor.type())));
  for (const BucketSlice& slice : bucket)
    if (slice.rank == kThisRank) add_to_grad_partition_buffer(slice.grad_partition_output, narrow(allreduced, slice.elems));
}

void DeepSpeedZeroOptimizer::gradient_reduction_w_predivide(const Tensor& tensor) {
  if (tensor.elems() == 0) return;
  const Tensor reduced = converted(tensor, communication_type_, "copy in the dtype of communication", Category::communication_buffers);
  context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = reduced.bytes(), .ranks = world_ranks_});
  if (reduced.type() != tensor.type()) context_.moves(reduced.bytes() + tensor.bytes());
  add_full_reduction_to_compact_grad_partition(reduced);
}

void DeepSpeedZeroOptimizer::add_full_reduction_to_compact_grad_partition(const Tensor& reduced) {
  if (!use_compact_grad_partition_buffer()) return;
  for (const ZeroParam* p : bucket_.params) {
    if (!p->in_current_partition) continue;
    const std::int64_t elems = elems_in_partition(*p, p->owners.front());
    add_to_grad_partition_buffer(compact_grad_partition_slice(kThisRank, elems), narrow(reduced, elems));
  }
}

/// Without contiguous_gradients: the gradients themselves are joined and reduced (buffered_reduce_fallback, _buffered_reduce_fallback_preserving_fp32).
void DeepSpeedZeroOptimizer::buffered_reduce_fallback() {
  if (bucket_.grads.empty()) return;
  if (options_.overlap_comm) clear_previous_reduced_grads();
  wait_for_producers();
  const Tensor allreduced = allreduce_bucket(bucket_.grads);
  context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = allreduced.bytes(), .ranks = world_ranks_});
  context_.moves(2 * allreduced.bytes());  // back into the gradients
  if (use_compact_grad_partition_buffer()) add_full_reduction_to_compact_grad_partition(allreduced);
}

std::int64_t DeepSpeedZeroOptimizer::elems_in_partition(const ZeroParam& p, const Owner& owner) const {
  return std::min(p.elems - owner.grad_start_offset, partition_elems_ - owner.grad_partition_insertion_offset);
}

void DeepSpeedZeroOptimizer::copy_grads_in_partition(ZeroParam& p) {
  if (cpu_offload_) return copy_grads_in_partition_for_offload(p);
  if (use_compact_grad_partition_buffer()) {
    if (use_grad_accum_attribute_) clear_grad_attribute(p);
    return;
  }
  if (!grads_in_partition_.defined()) {
    std::int64_t total_elems = 0;
    for (const ZeroParam* in_partition : params_in_partition_) total_elems += in_partition->elems;
    const Scoped whole_model(context_.where, Where{});
    grads_in_partition_ = new_flat(context_, total_elems, type_, "grads_in_partition", Category::gradients);
  }
  context_.moves(2 * gradient_for_reduction(p).bytes());
  gradient_for_reduction(p).set_data(view_of(grads_in_partition_, p.shape));
}

// ---- gradients

void DeepSpeedZeroOptimizer::fill_param_grad_accum_attribute(ZeroParam& p) {
  if (!p.param.grad().defined()) return;
  Tensor wide = converted(p.param.grad(), gradient_accumulation_type_, "grad_accum", Category::gradients);
  if (!p.grad_accum.defined()) p.grad_accum = std::move(wide);
  else context_.moves(3 * wide.bytes());  // added in place
  wide.reset();
  p.param.set_grad({});
}

void DeepSpeedZeroOptimizer::clear_grad_attribute(ZeroParam& p) {
  if (use_grad_accum_attribute_) p.grad_accum.reset();
  else p.param.set_grad({});
}

void DeepSpeedZeroOptimizer::clear_previous_reduced_grads() {
  for (ZeroParam* p : previous_reduced_grads_) clear_grad_attribute(*p);
  previous_reduced_grads_.clear();
}

/// Stage 1, at the boundary of accumulation.
void DeepSpeedZeroOptimizer::reduce_gradients() {
  Tensor grad_reduc;  // a Python name: the last one lives until this function returns
  if (!options_.overlap_comm) {
    for (const auto& p : group_) {
      grad_reduc = gradient_for_reduction(*p);
      if (grad_reduc.defined()) reduce_ready_partitions_and_remove_grads(*p);
    }
  }
  independent_gradient_partition_epilogue();
}

/// engine.py: allreduce_gradients, then ZeROOptimizer.backward_epilogue.
void DeepSpeedZeroOptimizer::after_backward() {
  if (partition_gradients_) independent_gradient_partition_epilogue();
  else if (is_boundary_) reduce_gradients();
  if (!use_grad_accum_attribute_) return;
  for (const auto& p : group_) fill_param_grad_accum_attribute(*p);
}

void DeepSpeedZeroOptimizer::independent_gradient_partition_epilogue() {
  reduce_ipg_grads();
  for (const auto& p : group_) p->already_reduced = false;
  if (options_.overlap_comm) {
    Scoped on_stream(context_.stream, Stream::reduce);
    context_.synchronize();
    clear_previous_reduced_grads();
  }
  Tensors avg_new;
  if (!cpu_offload_) gather_averaged_gradients(avg_new);
  release_ipg_buffers();
  for (const auto& p : group_) p->param.set_grad({});
  epilogue_ran_this_backward_ = true;
}

void DeepSpeedZeroOptimizer::gather_averaged_gradients(Tensors& avg_new) {
  if (use_compact_grad_partition_buffer()) {
    if (is_boundary_ && !averaged_gradients_) averaged_gradients_ = build_compact_grad_partition_buffer();
    return;
  }
  if (!all_grad_tensors_) all_grad_tensors_ = std::make_unique<Tensors>(get_all_grad_tensors());
  else add_all_grad_tensors(avg_new = get_all_grad_tensors());
  if (!is_boundary_) return;
  averaged_gradients_ = get_flat_partition();
  all_grad_tensors_.reset();
}

Tensors DeepSpeedZeroOptimizer::get_all_grad_tensors() const {
  Tensors all;
  for (const ZeroParam* p : params_in_partition_) {
    Tensor grad = gradient_for_reduction(*p);
    if (!grad.defined()) {
      Scoped in_category(context_.category, Category::gradients);
      grad = empty(context_, p->shape, gradient_accumulation_type_, "zeros for an unused parameter");
    }
    all.push_back(std::move(grad));
  }
  return all;
}

std::unique_ptr<AveragedGradients> DeepSpeedZeroOptimizer::get_flat_partition() const {
  auto out = std::make_unique<AveragedGradients>();
  std::int64_t current_elems = 0;
  const auto pad_to = [&](std::int64_t elems) {
    if (elems <= current_elems) return;
    out->push_back(new_flat(context_, elems - current_elems, gradient_accumulation_type_, "zero padding of the gradient partition", Category::gradients), true);
    current_elems = elems;
  };
  for (std::size_t i = 0; i < params_in_partition_.size(); ++i) {
    const ZeroParam& p = *params_in_partition_[i];
    const Tensor& grad = (*all_grad_tensors_)[i];
    const Owner& owner = p.owners.front();
    pad_to(owner.grad_partition_insertion_offset);
    const std::int64_t elems = elems_in_partition(p, owner);
    out->push_back(elems < p.elems ? narrow(contiguous(grad), elems) : grad, false);
    current_elems += elems;
  }
  pad_to(partition_elems_);
  return out;
}

void DeepSpeedZeroOptimizer::clear_backward_seen_flag() {
  if (epilogue_ran_this_backward_)
    for (const auto& p : group_) p->grad_accum.reset();
  epilogue_ran_this_backward_ = false;
}

void DeepSpeedZeroOptimizer::free_grad_in_param_list(bool in_current_partition) {
  for (const auto& p : group_) {
    if (p->in_current_partition != in_current_partition) continue;
    p->param.set_grad({});
    p->grad_accum.reset();
  }
}

void DeepSpeedZeroOptimizer::zero_grad() {
  free_grad_in_param_list(false);
  free_grad_in_param_list(true);
}

// ---- compact gradient partition

std::unique_ptr<AveragedGradients> DeepSpeedZeroOptimizer::build_compact_grad_partition_buffer() const {
  auto out = std::make_unique<AveragedGradients>();
  const Scoped whole_model(context_.where, Where{});
  out->flat_partition = new_flat(context_, partition_elems_, gradient_accumulation_type_, "compact gradient partition", Category::gradients);
  for (const ZeroParam* p : params_in_partition_) out->push_back(narrow(out->flat_partition, elems_in_partition(*p, p->owners.front())), false);
  return out;
}

Tensor DeepSpeedZeroOptimizer::compact_grad_partition_slice(std::int64_t rank, std::int64_t elems) {
  if (!use_compact_grad_partition_buffer() || rank != kThisRank) return {};
  if (!averaged_gradients_) averaged_gradients_ = build_compact_grad_partition_buffer();
  return narrow(averaged_gradients_->flat_partition, elems);
}

void DeepSpeedZeroOptimizer::add_to_grad_partition_buffer(const Tensor& output, const Tensor& source) {
  if (!output.defined()) return;
  const Tensor wide = converted(source, output.type(), "reduced gradients in fp32", Category::gradients);
  wide.context().moves(3 * wide.bytes());
}

// ---- offload

void DeepSpeedZeroOptimizer::copy_grads_in_partition_for_offload(ZeroParam& p) {
  if (use_compact_grad_partition_buffer()) return copy_compact_grads_for_offload(p);
  if (micro_step_id_ > 0 || !is_boundary_) async_accumulate_grad_in_cpu_via_gpu(p);
  if (!is_boundary_) return;
  const std::int64_t elems = elems_in_partition(p, p.owners.front());
  const Tensor grad = gradient_for_reduction(p);
  p.norm = norm_in(narrow(grad, elems), ScalarType::fp64);
  const Tensor source = converted(narrow(grad, elems), master_type_, "fp32 copy of a gradient for the host", Category::gradients);
  context_.copy_to_host(source.bytes());
  clear_grad_attribute(p);
}

void DeepSpeedZeroOptimizer::copy_compact_grads_for_offload(ZeroParam& p) {
  if (!is_boundary_) return;
  const Tensor source = compact_grad_partition_slice(kThisRank, elems_in_partition(p, p.owners.front()));
  p.norm = norm_in(source, ScalarType::fp64);
  context_.copy_to_host(source.bytes());
  clear_grad_attribute(p);
}

/// Whole gradients of earlier micro batches wait on the host; only there is memory asked for.
void DeepSpeedZeroOptimizer::async_accumulate_grad_in_cpu_via_gpu(ZeroParam& p) {
  const std::int64_t grad_bytes = p.elems * size_of(p.param.type());
  if (micro_step_id_ > 0) {
    context_.copy_to_device(grad_bytes);
    context_.moves(3 * grad_bytes);
  }
  context_.copy_to_host(grad_bytes);
  if (p.accumulated_grad_in_cpu.defined()) return;
  Scoped place(context_.place, Place::host);
  p.accumulated_grad_in_cpu = new_flat(context_, p.elems, p.param.type(), "accumulated_grads_in_cpu", Category::gradients);
}

Tensor DeepSpeedZeroOptimizer::complete_grad_norm_calculation_for_cpu_offload() {
  context_.synchronize();  // item() of each norm
  context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = size_of(ScalarType::fp32), .ranks = world_ranks_});
  context_.synchronize();
  Scoped place(context_.place, Place::host);
  const Tensor total_dev_norm = new_scalar(context_, ScalarType::fp32, "gradient norm");
  return new_scalar(context_, ScalarType::fp32, "gradient norm");
}

// ---- step

Tensor DeepSpeedZeroOptimizer::get_grad_norm_direct() {
  Tensors all_norms;
  for (std::size_t i = 0; i < averaged_gradients_->grads.size() && all_norms.size() < params_in_partition_.size(); ++i)
    if (!averaged_gradients_->zero_padding[i]) all_norms.push_back(norm_in(averaged_gradients_->grads[i], ScalarType::fp64));
  const Tensor sum = sum_of_squares(context_, all_norms, ScalarType::fp64);
  context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = size_of(ScalarType::fp64), .ranks = world_ranks_});
  mask_nan_or_inf_with_val_inplace(context_);
  return new_scalar(context_, ScalarType::fp32, "gradient norm");
}

/// combine_grad_norm_groups makes a scalar of its own of the group's.
Tensor DeepSpeedZeroOptimizer::scaled_global_norm() {
  const Tensor norm = cpu_offload_ ? complete_grad_norm_calculation_for_cpu_offload() : get_grad_norm_direct();
  Scoped place(context_.place, norm.storage().place);
  return new_scalar(context_, ScalarType::fp32, "gradient norm");
}

void DeepSpeedZeroOptimizer::unscale_and_clip_grads(const Tensor& total_norm) {
  {
    Scoped place(context_.place, fp32_partition_.storage().place);
    context_.moves(2 * fp32_partition_.bytes());
  }
  if (options_.gradient_clipping == 0.0) return;
  Scoped place(context_.place, total_norm.storage().place);
  const Tensor clip = new_scalar(context_, ScalarType::fp32, "clip coefficient");
  const Tensor combined_scale = new_scalar(context_, ScalarType::fp32, "clip coefficient");
  const Tensor reciprocal = new_scalar(context_, ScalarType::fp32, "clip coefficient");
  const Tensor scaled_reciprocal = new_scalar(context_, ScalarType::fp32, "clip coefficient");
}

void DeepSpeedZeroOptimizer::step() {
  Scoped no_grad(context_.grad_enabled, false);
  context_.begin_op("ZeRO step");
  micro_step_id_ = -1;
  Tensor scaled_global_grad_norm;
  if (options_.compute_grad_norm) {
    scaled_global_grad_norm = scaled_global_norm();
    Scoped place(context_.place, scaled_global_grad_norm.storage().place);
    global_grad_norm_ = new_scalar(context_, ScalarType::fp32, "global gradient norm");
  }
  if (cpu_offload_) step_offloaded(scaled_global_grad_norm);
  else step_on_device(scaled_global_grad_norm);
  for (const auto& p : group_) p->norm.reset();
  context_.collective({.kind = CollectiveKind::all_gather, .payload_bytes = bit16_flat_.bytes(), .ranks = world_ranks_});
  update_model_bit16_weights();
}

void DeepSpeedZeroOptimizer::step_offloaded(const Tensor& total_norm) {
  unscale_and_clip_grads(total_norm);
  optimizer_.step();
  report_cast_of_partition();
  context_.copy_to_device(partition_elems_ * size_of(type_));
  averaged_gradients_.reset();
}

void DeepSpeedZeroOptimizer::step_on_device(const Tensor& total_norm) {
  free_grad_in_param_list(false);
  Tensor flat_grad_partition = averaged_gradients_->flat_partition;
  if (!flat_grad_partition.defined()) {
    const Tensors grads = kThisRank == world_ranks_ - 1 ? align_dense_tensors(averaged_gradients_->grads, partition_elems_) : averaged_gradients_->grads;
    flat_grad_partition = flatten(grads, "flat gradient partition", Category::gradients);
  }
  Tensor single_grad_partition = converted(flat_grad_partition, master_type_, "fp32 gradient partition", Category::gradients);
  flat_grad_partition.reset();
  fp32_partition_.set_grad(single_grad_partition);
  free_grad_in_param_list(true);
  averaged_gradients_.reset();
  all_grad_tensors_.reset();
  unscale_and_clip_grads(total_norm);
  optimizer_.step();
  fp32_partition_.set_grad({});
  report_cast_of_partition();
}

}  // namespace

std::unique_ptr<ZeroOptimizer> make_zero_optimizer(Context& context, const Zero12Job& job, AdamW& optimizer) { return std::make_unique<DeepSpeedZeroOptimizer>(context, job, optimizer); }

}  // namespace zeroplan::eager
