// The class Reducer has the names, the methods and the order of statements of torch/csrc/distributed/c10d/reducer.cpp.
#include "planner/engines/eager/ddp.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

namespace {

constexpr std::int64_t kFirstBucketBytes = 1 << 20, kBucketCapBytes = 25 << 20, kBroadcastBucketBytes = 250 << 20;

/// compute_bucket_assignment_by_size for tensors of one dtype, in this order: a bucket is closed by the tensor that reaches its limit; the last limit goes on.
std::vector<std::vector<std::size_t>> assign_to_buckets(const std::vector<std::int64_t>& tensors_bytes, const std::vector<std::int64_t>& limits_bytes) {
  std::vector<std::vector<std::size_t>> buckets;
  std::size_t limit = 0;
  std::int64_t bucket_bytes = 0;
  bool open = false;
  for (std::size_t i = 0; i < tensors_bytes.size(); ++i) {
    if (!open) buckets.emplace_back();
    buckets.back().push_back(i);
    bucket_bytes += tensors_bytes[i];
    open = bucket_bytes < limits_bytes[limit];
    if (open) continue;
    bucket_bytes = 0;
    if (limit + 1 < limits_bytes.size()) ++limit;
  }
  return buckets;
}

struct ReducerOptions {
  std::int64_t ranks = 1;
  std::int64_t first_bucket_bytes = kFirstBucketBytes;
  std::int64_t bucket_cap_bytes = kBucketCapBytes;
  bool gradient_as_bucket_view = false;
  bool static_graph = false;
};

ReducerOptions options_of(const DdpJob& job) {
  return {.ranks = job.world_ranks,
          .first_bucket_bytes = job.bucket_cap_bytes.value_or(kFirstBucketBytes),
          .bucket_cap_bytes = job.bucket_cap_bytes.value_or(kBucketCapBytes),
          .gradient_as_bucket_view = job.gradient_as_bucket_view,
          .static_graph = job.static_graph};
}

class Reducer {
 public:
  Reducer(Context& context, Tensors params, const ReducerOptions& options);
  Reducer(const Reducer&) = delete;
  Reducer& operator=(const Reducer&) = delete;

  /// At the start of a forward; once in a training.
  void rebuild_buckets();
  /// At the end of a forward. Without `sync` hooks are not expected.
  void prepare_for_backward(bool sync);
  /// True once: the outputs of this forward go through DDP's sink, whose backward has all gradients reduced at the end.
  bool delays_all_reduce() const { return options_.static_graph && !delay_all_reduce_enqueued_; }
  void enqueue_delay_all_reduce();

 private:
  struct Bucket {
    Tensor gradients;
    std::vector<std::size_t> variables;
    std::size_t pending = 0;
  };

  void register_hook(std::size_t variable);
  void initialize_buckets(std::vector<std::vector<std::size_t>> variables_by_bucket);
  void autograd_hook(std::size_t variable);
  void delay_all_reduce();
  void mark_variable_ready(std::size_t variable);
  void copy_into_bucket(const Tensor& param, const Bucket& bucket);
  void all_reduce_bucket(const Bucket& bucket);
  void finalize_backward();

  Context& context_;
  Tensors params_;
  ReducerOptions options_;
  std::vector<Ref<Node>> grad_accumulators_;
  std::vector<Bucket> buckets_;
  std::vector<std::size_t> bucket_of_;
  std::vector<std::size_t> rebuilt_params_;  ///< in the order in which gradients came
  std::size_t next_bucket_ = 0;
  bool has_rebuilt_bucket_ = false, expect_autograd_hooks_ = false, delay_all_reduce_enqueued_ = false, delaying_ = false, static_graph_first_iteration_ = true;
  Tensor incoming_gradient_;  ///< the engine holds what it gives to a node until the node's hooks have run
  Tensor local_used_map_, local_used_map_dev_;
};

Reducer::Reducer(Context& context, Tensors params, const ReducerOptions& options) : context_(context), params_(std::move(params)), options_(options) {
  std::vector<std::size_t> all(params_.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  initialize_buckets({all});
  for (std::size_t i = 0; i < params_.size(); ++i) register_hook(i);
  if (!options_.static_graph) return;
  const Shape used{static_cast<std::int64_t>(params_.size())};
  local_used_map_dev_ = empty(context_, used, ScalarType::int32, "DDP used parameters");
  Scoped on_host(context_.place, context_.host);
  local_used_map_ = empty(context_, used, ScalarType::int32, "DDP used parameters");
}

void Reducer::register_hook(std::size_t variable) {
  grad_accumulators_.push_back(params_[variable].gradient_accumulator());
  NodeHooks& hooks = grad_accumulators_.back()->hooks();
  hooks.before.push_back([this](Tensors& gradients) {
    if (gradients[0].defined()) incoming_gradient_ = gradients[0].detach();
  });
  hooks.after.push_back([this, variable](Tensors&, Tensors&) {
    autograd_hook(variable);
    incoming_gradient_.reset();
  });
}

/// Gradients that exist move into the new buckets where they are views.
void Reducer::initialize_buckets(std::vector<std::vector<std::size_t>> variables_by_bucket) {
  Scoped category(context_.category, Category::communication_buffers);
  buckets_.clear();
  bucket_of_.assign(params_.size(), 0);
  for (std::vector<std::size_t>& variables : variables_by_bucket) {
    std::int64_t elems = 0;
    for (const std::size_t variable : variables) {
      bucket_of_[variable] = buckets_.size();
      elems += params_[variable].elems();
    }
    buckets_.push_back({.gradients = empty(context_, Shape{elems}, params_[0].type(), "DDP bucket"), .variables = std::move(variables), .pending = 0});
    if (!options_.gradient_as_bucket_view) continue;
    for (const std::size_t variable : buckets_.back().variables)
      if (params_[variable].grad().defined()) params_[variable].set_grad(alias(buckets_.back().gradients, params_[variable].shape()));
  }
}

void Reducer::rebuild_buckets() {
  if (has_rebuilt_bucket_ || rebuilt_params_.empty()) return;
  std::vector<std::int64_t> params_bytes;
  for (const std::size_t variable : rebuilt_params_) params_bytes.push_back(params_[variable].bytes());
  std::vector<std::vector<std::size_t>> buckets = assign_to_buckets(params_bytes, {options_.first_bucket_bytes, options_.bucket_cap_bytes});
  for (std::vector<std::size_t>& bucket : buckets)
    for (std::size_t& variable : bucket) variable = rebuilt_params_[variable];
  has_rebuilt_bucket_ = true;
  rebuilt_params_.clear();
  initialize_buckets(std::move(buckets));
}

void Reducer::prepare_for_backward(bool sync) {
  expect_autograd_hooks_ = sync;
  if (!sync) return;
  next_bucket_ = 0;
  for (Bucket& bucket : buckets_) bucket.pending = bucket.variables.size();
}

void Reducer::enqueue_delay_all_reduce() {
  if (delay_all_reduce_enqueued_) return;
  delay_all_reduce_enqueued_ = true;
  context_.queue_callback([this] { delay_all_reduce(); });
}

void Reducer::delay_all_reduce() {
  static_graph_first_iteration_ = false;
  delaying_ = true;
  for (std::size_t i = 0; i < params_.size(); ++i) autograd_hook(i);
  delaying_ = false;
  finalize_backward();
}

void Reducer::autograd_hook(std::size_t variable) {
  if (!expect_autograd_hooks_ || (options_.static_graph && static_graph_first_iteration_)) return;
  if (!has_rebuilt_bucket_) rebuilt_params_.push_back(variable);
  mark_variable_ready(variable);
}

void Reducer::mark_variable_ready(std::size_t variable) {
  Bucket& bucket = buckets_[bucket_of_[variable]];
  copy_into_bucket(params_[variable], bucket);
  if (--bucket.pending > 0) return;
  for (; next_bucket_ < buckets_.size() && buckets_[next_bucket_].pending == 0; ++next_bucket_) all_reduce_bucket(buckets_[next_bucket_]);
  if (next_bucket_ == buckets_.size() && !delaying_) context_.queue_callback([this] { finalize_backward(); });
}

/// mark_variable_ready_dense
void Reducer::copy_into_bucket(const Tensor& param, const Bucket& bucket) {
  if (&param.grad().storage() == &bucket.gradients.storage()) return context_.moves(2 * param.bytes());  // divided in place
  context_.begin_op("DDP::copy_into_bucket");
  Scoped on_host(context_.place, context_.host);
  const Tensor factor = empty(context_, Shape{}, ScalarType::fp64, "DDP division factor");
  Scoped on_device(context_.place, on_host.old());
  context_.moves(param.grad().bytes() + param.bytes());
  if (options_.gradient_as_bucket_view) param.set_grad(alias(bucket.gradients, param.shape()));
}

void Reducer::all_reduce_bucket(const Bucket& bucket) {
  Scoped on_stream(context_.stream, Stream::reduce);
  context_.wait_stream(Stream::compute);
  context_.begin_op("DDP::all_reduce");
  context_.collective({.kind = CollectiveKind::all_reduce, .payload_bytes = bucket.gradients.bytes(), .ranks = options_.ranks});
}

void Reducer::finalize_backward() {
  expect_autograd_hooks_ = false;
  context_.wait_stream(Stream::reduce);
  if (options_.gradient_as_bucket_view) return;
  for (const Bucket& bucket : buckets_) context_.moves(2 * bucket.gradients.bytes());  // copied back
}

/// _broadcast_coalesced: two flat pieces are in flight; one tensor alone is not copied. Buffers of another dtype travel apart.
void broadcast_model(Context& context, const Module& model, std::int64_t buffers_bytes, std::int64_t ranks) {
  const Tensors params = model.parameters();
  std::vector<std::int64_t> tensors_bytes;
  for (const Tensor& p : params) tensors_bytes.push_back(p.bytes());
  const bool together = params[0].type() == ScalarType::fp32 && buffers_bytes > 0;
  if (together) tensors_bytes.push_back(buffers_bytes);
  std::vector<std::int64_t> pieces_bytes;
  for (const std::vector<std::size_t>& piece : assign_to_buckets(tensors_bytes, {kBroadcastBucketBytes})) {
    pieces_bytes.push_back(0);
    if (piece.size() == 1 && !(together && piece[0] + 1 == tensors_bytes.size())) continue;
    for (const std::size_t i : piece) pieces_bytes.back() += tensors_bytes[i];
  }
  if (!together && buffers_bytes > 0) pieces_bytes.push_back(buffers_bytes);
  Scoped category(context.category, Category::communication_buffers);
  Tensors in_flight;
  for (const std::int64_t bytes : pieces_bytes) {
    if (in_flight.size() == 2) in_flight.erase(in_flight.begin());
    in_flight.push_back(empty(context, Shape{bytes}, ScalarType::uint8, "DDP broadcast"));
    context.collective({.kind = CollectiveKind::broadcast, .payload_bytes = bytes, .ranks = ranks});
  }
}

/// _DDPSink: clones that tell the Reducer when backward begins.
Tensors through_sink(Context& context, Reducer& reducer, const Tensors& outputs) {
  Recording recording(context, "_DDPSinkBackward", std::span<const Tensor>(outputs));
  Tensors clones;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    clones.push_back(outputs[i].defined() ? empty_like(outputs[i], "DDP sink") : Tensor());
    if (!clones[i].defined()) continue;
    context.moves(2 * clones[i].bytes());
    recording.set_output(clones[i], static_cast<int>(i));
  }
  if (recording)
    recording->apply = [&reducer](BackwardCall& call) {
      reducer.enqueue_delay_all_reduce();
      for (std::size_t i = 0; i < call.results.size() && i < call.gradients.size(); ++i) call.results[i] = call.gradients[i];
    };
  return clones;
}

class DdpEngine {
 public:
  DdpEngine(Context& context, const DdpJob& job);

  Tensor forward(const Tensor& ids) {
    std::optional<AutocastScope> autocast;
    if (trained_type(job_.model, job_.lora) == ScalarType::fp32 && job_.compute_type != ScalarType::fp32) autocast.emplace(context_, true, job_.compute_type);
    sync_ = !job_.no_sync || ++micro_steps_ % job_.size.accumulate == 0;
    return model_->loss(ids);
  }

  void backward(const Tensor& loss) { eager::backward(loss); }

  void step() {
    if (!boundary_.reached()) return;
    Scoped no_grad(context_.grad_enabled, false);
    clip_grad_norm(context_, parameters_);
    optimizer_->step();
    optimizer_->zero_grad();
  }

  void skip_micro_batches(std::int64_t n) {
    boundary_.skip(n);
    micro_steps_ += n;
  }

 private:
  void wrap();

  Context& context_;
  const DdpJob& job_;
  StepBoundary boundary_;
  std::int64_t micro_steps_ = 0;
  bool sync_ = true;
  std::unique_ptr<CausalLm> model_;
  Tensors parameters_;
  std::optional<Reducer> reducer_;
  std::optional<AdamW> optimizer_;
};

DdpEngine::DdpEngine(Context& context, const DdpJob& job) : context_(context), job_(job), boundary_(job.size.accumulate), model_(CausalLm::make(context, job.model)) {
  std::int64_t buffers_bytes = context.recorder.alive_bytes(context.place);
  for (const Tensor& p : model_->parameters()) buffers_bytes -= p.bytes();
  set_up(*model_, job.lora, job.checkpoint);
  broadcast_model(context, *model_, buffers_bytes, job.world_ranks);
  parameters_ = model_->parameters();
  Tensors trained;
  std::copy_if(parameters_.begin(), parameters_.end(), std::back_inserter(trained), [](const Tensor& p) { return p.requires_grad(); });
  reducer_.emplace(context, std::move(trained), options_of(job));
  optimizer_.emplace(context, job.kernel, parameters_, job.rule, job.fp32_masters);
  wrap();
}

/// DistributedDataParallel.forward
void DdpEngine::wrap() {
  model_->pre_hooks.insert(model_->pre_hooks.begin(), [this](Module&, Arguments&) { reducer_->rebuild_buckets(); });
  model_->post_hooks.push_back([this](Module&, Arguments&, Tensors& outputs) {
    reducer_->prepare_for_backward(sync_);
    if (reducer_->delays_all_reduce()) outputs = through_sink(context_, *reducer_, outputs);
  });
}

}  // namespace

PhasePeaks run_ddp(const DdpJob& job, Recorder& recorder, const MachineBehaviour& machine) {
  Context context(recorder);
  machine.apply_to(context);
  recorder.begin_phase("init");
  DdpEngine engine(context, job);
  return train(context, job.size, engine);
}

}  // namespace zeroplan::eager
