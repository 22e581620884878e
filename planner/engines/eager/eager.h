// Eager PyTorch at shape level: tensors without data, storages that are counted, autograd and its engine. No torch is needed.
//
// Problem. What a real training engine asks of memory follows from Python code: which temporaries die when a name is rebound, what autograd
// saves, in which order the backward engine runs and accumulates. Formulas miss that; here the code itself is written down again, line by line,
// and runs on tensors that have a shape, strides, a dtype and a storage, but no numbers. Every allocation and every end of a storage
// then happens at the same place as in the real run, and a Recorder hears of each.
//
// Terms. Storage: counted memory, reference counted; freed when its last Tensor dies, as in Python. Tensor: a handle (like a Python name);
// copying it is a new reference, `t.reset()` is `del t`. Node: a step of the autograd graph ("MulBackward") with edges to the nodes of its inputs, saved
// tensors and an `apply`. Context: all of torch's hidden state (grad mode, autocast, stream, saved-tensor hooks); there are no globals.
//
// How closely. As torch 2.11's ATen, derivatives.yaml and engine.cpp: a node gets its sequence number when its op starts, before the op's output is allocated;
// inputs are saved before the kernel runs, results after. The backward engine takes the ready node with the highest sequence number (AccumulateGrad
// counts as infinite, so it runs at once); a node's incoming gradients live until its outputs were reduced and cast to the shapes and dtypes of its inputs,
// its unpacked saved tensors until its formula ends, its saved tensors until after both. Gradients that meet are added out of place under fake tensors
// and in place on a GPU: Context::out_of_place_accumulation. AccumulateGrad takes a gradient that nobody else holds without a copy.
// Elementwise outputs get their strides by TensorIterator's rule, so that `contiguous()` and `reshape()` copy where torch copies.
// Not here: numbers, kernels' own scratch (but flash attention's), the allocator, double backward, views of views that are written to.
//
// Writing Python down. A Python temporary that is an argument lives until the call returns, then dies; a name lives until it is rebound or the function
// returns. In C++: give temporaries names and reset() them where Python drops them; `x = f(x)` behaves alike in both.
//
// How an engine hooks in. All of the following are as in torch: module pre and post hooks (modules.h: Module::pre_hooks, post_hooks) may replace inputs
// and outputs; pass_through() is a torch.autograd.Function that hands its tensors on and calls back in backward (DeepSpeed's and FSDP2's Pre/PostBackward functions);
// Tensor::register_hook runs before a tensor's gradient goes on; on_gradient_accumulated is register_post_accumulate_grad_hook;
// Tensor::set_data is `param.data = x`; Tensor::resize_storage is untyped_storage().resize_(); Context::queue_callback runs when the outermost backward ends.
//
//     Recorder recorder;
//     Context context(recorder);
//     const std::unique_ptr<CausalLm> model = CausalLm::make(context, config);                                  // hf_models.h
//     for (const Tensor& p : model->parameters())                                                               // reduce and drop each gradient
//       p.on_gradient_accumulated([&](Tensor& q) { copy_into_bucket(q.grad()); q.set_grad({}); });
//     for (Module* block : model->blocks()) {                                                                   // gather before use, release after backward
//       block->pre_hooks.push_back([&](Module& m, Arguments& in) { gather(m); in.positional = pass_through(context, "PostBackward", in.positional, [&] { release(m); }); });
//       block->post_hooks.push_back([&](Module& m, Arguments&, Tensors& out) { release(m); out = pass_through(context, "PreBackward", out, [&] { gather(m); }); });
//     }
//     recorder.begin_phase("first.forward");
//     Tensor loss = model->loss(ids);
//     recorder.begin_phase("first.backward");
//     backward(loss);
//     loss.reset();
// single.cpp is a whole engine in this manner.
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "planner/engines/eager/recorder.h"

namespace zeroplan::eager {

enum class ScalarType : std::uint8_t { bf16, fp16, fp32, fp64, int64, int32, uint8, boolean };

constexpr std::int64_t size_of(ScalarType type) {
  switch (type) {
    case ScalarType::bf16:
    case ScalarType::fp16: return 2;
    case ScalarType::fp32:
    case ScalarType::int32: return 4;
    case ScalarType::fp64:
    case ScalarType::int64: return 8;
    case ScalarType::uint8:
    case ScalarType::boolean: return 1;
  }
  return 0;
}

constexpr bool is_floating(ScalarType type) { return type <= ScalarType::fp64; }

class Context;
class Module;
class Node;
class Tensor;
using Tensors = std::vector<Tensor>;

/// Intrusive reference counting: the count is what decides whether a gradient may be taken without a copy.
template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* object) : object_(object) { if (object_ != nullptr) ++object_->references; }
  Ref(const Ref& other) : Ref(other.object_) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept { std::swap(object_, other.object_); return *this; }
  ~Ref() { reset(); }
  void reset() {
    T* old = std::exchange(object_, nullptr);
    if (old != nullptr && --old->references == 0) T::destroy(old);
  }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }
  friend bool operator==(const Ref&, const Ref&) = default;

 private:
  T* object_ = nullptr;
};

/// Objects that come and go in millions: the memory of one is kept for the next, by thread.
template <class T>
class Pooled {
 public:
  static void* operator new(std::size_t bytes) {
    std::vector<void*>& blocks = spare().blocks;
    if (blocks.empty()) return ::operator new(bytes);
    void* const block = blocks.back();
    blocks.pop_back();
    return block;
  }
  static void operator delete(void* block) noexcept {
    std::vector<void*>& blocks = spare().blocks;
    if (blocks.size() < blocks.capacity()) blocks.push_back(block);
    else ::operator delete(block);
  }

 private:
#ifdef __SANITIZE_ADDRESS__
  static constexpr std::size_t kMostSpare = 0;  // what is used after its end is to be seen
#else
  static constexpr std::size_t kMostSpare = 8192;
#endif
  struct Spare {
    Spare() { blocks.reserve(kMostSpare); }
    Spare(const Spare&) = delete;
    Spare& operator=(const Spare&) = delete;
    ~Spare() {
      for (void* block : blocks) ::operator delete(block);
    }
    std::vector<void*> blocks;
  };
  static Spare& spare() {
    static thread_local Spare spare;
    return spare;
  }
};

/// Counted memory.
struct StorageImpl : Pooled<StorageImpl> {
  StorageImpl(Context& owner, std::int64_t size_bytes, const char* site, Category category);
  StorageImpl(const StorageImpl&) = delete;
  StorageImpl& operator=(const StorageImpl&) = delete;
  ~StorageImpl();
  [[gnu::noinline]] static void destroy(StorageImpl* self);
  void resize(std::int64_t size_bytes);

  std::int32_t references = 0;
  Place place;
  Context* context;
  std::int64_t bytes;
  StorageIndex index;
};

inline constexpr int kMaxDims = 5;

/// Sizes and strides in elements. Dims beyond `dims` are unused.
struct Shape {
  std::array<std::int64_t, kMaxDims> sizes{};
  std::array<std::int64_t, kMaxDims> strides{};
  int dims = 0;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> contiguous_sizes);  ///< row-major
  std::int64_t elems() const;
  bool same_sizes(const Shape& other) const;
  bool is_contiguous() const;
  /// Every element has its own place and no place is left out (a permutation of a contiguous tensor).
  bool is_dense() const;
  /// Row-major strides for the same sizes.
  Shape contiguous() const;
  std::int64_t last() const { return sizes[static_cast<std::size_t>(dims - 1)]; }
};

struct TensorImpl;
using GradientHook = std::function<Tensor(const Tensor& gradient)>;  ///< an undefined result: the gradient stays as it is
using AccumulatedHook = std::function<void(Tensor& parameter)>;

/// A handle on a tensor, as a Python name is. Undefined when default made.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Ref<TensorImpl> impl) : impl_(std::move(impl)) {}

  bool defined() const { return static_cast<bool>(impl_); }
  void reset() { impl_.reset(); }
  TensorImpl* get() const { return impl_.get(); }
  friend bool operator==(const Tensor& a, const Tensor& b) { return a.get() == b.get(); }  ///< Python's `is`

  Context& context() const;
  const Shape& shape() const;
  std::int64_t size(int dim) const;  ///< negative dims count from the end
  int dims() const { return shape().dims; }
  std::int64_t elems() const { return shape().elems(); }
  ScalarType type() const;
  std::int64_t bytes() const { return elems() * size_of(type()); }
  StorageImpl& storage() const;
  int storage_references() const { return storage().references; }

  bool requires_grad() const;
  void set_requires_grad(bool value) const;  ///< requires_grad_(): makes a tensor without a graph a leaf
  bool is_leaf() const;
  Node* grad_fn() const;
  const Tensor& grad() const;
  void set_grad(Tensor gradient) const;

  /// `self.data = source`: this tensor takes source's storage, sizes and dtype; what saved this very tensor sees it.
  void set_data(const Tensor& source) const;
  /// untyped_storage().resize_(bytes)
  void resize_storage(std::int64_t size_bytes) const { storage().resize(size_bytes); }
  /// Tensor.record_stream
  void record_stream(Stream stream) const;
  /// A new tensor on the same storage, outside the graph.
  Tensor detach() const;

  /// Tensor.register_hook: runs before the gradient of this tensor goes on (for a leaf: before it is accumulated).
  void register_hook(GradientHook hook) const;
  /// register_post_accumulate_grad_hook of a leaf.
  void on_gradient_accumulated(AccumulatedHook hook) const;
  /// The leaf's AccumulateGrad node (`p.expand_as(p).grad_fn.next_functions[0][0]`); alive while somebody or a graph holds it.
  Ref<Node> gradient_accumulator() const;

 private:
  Ref<TensorImpl> impl_;
};

/// Packs what autograd saves into something else and back (torch.autograd.graph.saved_tensors_hooks).
class SavedTensorHooks {
 public:
  virtual ~SavedTensorHooks() = default;
  virtual std::shared_ptr<void> pack(const Tensor& tensor) = 0;
  virtual Tensor unpack(const std::shared_ptr<void>& packed) = 0;
};

struct SavedTensor {
  Tensor tensor;                            ///< undefined where hooks packed it
  std::shared_ptr<SavedTensorHooks> hooks;
  std::shared_ptr<void> packed;
};

/// Where a gradient goes on: the input `input` of `node`, which expects these sizes and this dtype.
struct Edge {
  Ref<Node> node;
  int input = 0;
  Shape expected;
  ScalarType type = ScalarType::fp32;
};

/// One run of a node in backward.
struct BackwardCall {
  Node& node;
  Tensors& gradients;        ///< incoming, by output of the forward op; may be undefined
  Tensors results;           ///< outgoing, by edge; undefined = none
  Tensors unpacked;          ///< saved tensors in use, until the formula ends

  bool needs(std::size_t edge) const;
  /// A saved tensor; hooks run here (recomputation).
  Tensor saved(int index);
  const Tensor& gradient(std::size_t i = 0) const { return gradients[i]; }
  const Edge& edge(std::size_t i) const;
};

using Formula = std::function<void(BackwardCall&)>;

/// Hooks of a node. Pre-hooks of tensors are kept with the output they belong to.
struct NodeHooks {
  std::vector<std::pair<int, GradientHook>> gradient_hooks;                        ///< by output
  std::vector<std::function<void(Tensors& gradients)>> before;                    ///< Node.register_prehook
  std::vector<std::function<void(Tensors& results, Tensors& gradients)>> after;  ///< Node.register_hook
};

/// A step of the autograd graph.
class Node : public Pooled<Node> {
 public:
  Node(Context& owner, const char* node_name);
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  ~Node();
  static void destroy(Node* self);

  /// Index for BackwardCall::saved. `is_result`: a tensor made by this node (kept without its graph, so that no cycle arises).
  int save(const Tensor& tensor, bool is_result = false);
  void release_saved();
  NodeHooks& hooks();

  std::int32_t references = 0;
  Context* context;
  const char* name;
  std::uint64_t sequence;
  std::vector<Edge> edges;
  std::vector<SavedTensor> saved;
  Formula apply;
  TensorImpl* variable = nullptr;  ///< AccumulateGrad only: its leaf, held by leaf
  Tensor leaf;
  int outputs = 1;
  Where where;
  Stream stream;
  std::unique_ptr<NodeHooks> hook_lists;
  struct BackwardState* state = nullptr;  ///< of the backward that runs
};

/// torch.autocast with its cache of casted leaves.
struct Autocast {
  bool enabled = false;
  ScalarType type = ScalarType::bf16;
  int nesting = 0;
  std::vector<std::pair<Tensor, Tensor>> cache;  ///< leaf, its cast
};

/// What a selective checkpoint keeps of its forward run (create_selective_checkpoint_contexts with torchtitan's policy: attention and every second mm).
/// While a Context points to one, those ops store their results, or in recomputation take them from here instead of allocating.
struct OpCache {
  bool recomputing = false;
  int matrix_products[2] = {};  ///< seen in forward and in recomputation: odd ones are kept
  std::vector<Tensors> products, attentions;
  std::size_t next_product = 0, next_attention = 0;
};

/// torch's hidden state, and what the counting needs.
class Context {
 public:
  explicit Context(Recorder& events) : recorder(events) {}
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Recorder& recorder;
  /// Gradients that meet are added into a new tensor (fake and meta tensors) instead of into the first one (real devices).
  bool out_of_place_accumulation = true;
  /// layer_norm keeps mean and rstd in its input's dtype (CPU) and not in fp32 (CUDA).
  bool layer_norm_keeps_input_type = false;
  /// silu's backward is composed of elementwise kernels (math_silu_backward), as on a device that has no kernel of its own for it (the oracle's simulated one).
  bool composite_silu_backward = false;
  /// torch.nn.RMSNorm is one kernel on a device that has it (CUDA from torch 2.9 on), else composed of elementwise ones.
  bool fused_rms_norm = false;
  /// Where plain host tensors are counted (the oracle's plain-PyTorch rows run on one CPU device).
  Place host = Place::host;
  Place place = Place::device;
  Stream stream = Stream::compute;
  Category category = Category::activations;
  Where where;
  bool grad_enabled = true;
  bool in_backward = false;
  bool gradients_incomplete = false;  ///< of parameters that a tiled function accumulates into (DeepSpeed's ds_grad_is_ready is false)
  Autocast autocast;
  std::vector<std::shared_ptr<SavedTensorHooks>> saved_tensor_hooks;
  OpCache* op_cache = nullptr;
  /// Put in the place of torch.nn.functional.linear where set (DeepSpeed's LinearFunctionForZeroStage3).
  std::function<Tensor(const Tensor& x, const Tensor& weight, const Tensor& bias)> linear_override;
  /// Runs when a module's own parameters were made (deepspeed.zero.Init).
  std::function<void(Module&)> after_module_init;
  /// Floating-point tensors that torch.arange and its like make are cast to this (deepspeed.zero.Init replaces these constructors).
  std::optional<ScalarType> constructor_type;

  std::uint64_t next_sequence() { return sequence_++; }
  /// Variable._execution_engine.queue_callback: runs when the backward that runs now (the outermost) ends.
  void queue_callback(std::function<void()> callback) { callbacks.push_back(std::move(callback)); }
  /// Names the op that runs now.
  void begin_op(const char* name) { recorder.begin_op({.name = name, .stream = stream, .where = where, .backward = in_backward}); }

  // What takes time (work.h), all on `stream`; kernels run where `place` says.
  /// A kernel that reads and writes so many bytes.
  void moves(std::int64_t bytes) { recorder.work({.kind = kernel_kind(), .stream = stream, .bytes = bytes}); }
  /// A kernel with arithmetic that counts.
  void computes(const Computation& c) {
    const auto most = [](std::int64_t value) { return static_cast<std::int32_t>(std::min<std::int64_t>(value, INT32_MAX)); };  // more rows are as good as endless
    recorder.work({.kind = kernel_kind(), .stream = stream, .arithmetic = c.arithmetic, .rows = most(c.rows), .columns = most(c.columns), .count = c.flops, .bytes = c.moved_bytes});
  }
  /// Nothing where the group is one rank.
  void collective(const Collective& c) {
    if (c.ranks <= 1) return;
    recorder.work({.kind = Activity::Kind::collective, .stream = stream, .collective = c.kind, .ranks = static_cast<std::int32_t>(c.ranks),
                   .stride = static_cast<std::int32_t>(c.stride), .bytes = c.payload_bytes});
  }
  /// async_op=True: the stream goes on at once; wait_event(the result) is work.wait().
  EventId collective_async(const Collective& c) {
    if (c.ranks <= 1) return 0;
    const EventId event = recorder.next_event();
    recorder.work({.kind = Activity::Kind::collective, .stream = stream, .collective = c.kind, .event = event, .ranks = static_cast<std::int32_t>(c.ranks),
                   .stride = static_cast<std::int32_t>(c.stride), .bytes = c.payload_bytes});
    return event;
  }
  void copy_to_device(std::int64_t bytes) { recorder.work({.kind = Activity::Kind::copy_to_device, .stream = stream, .bytes = bytes}); }
  void copy_to_host(std::int64_t bytes) { recorder.work({.kind = Activity::Kind::copy_to_host, .stream = stream, .bytes = bytes}); }
  /// Python that runs around a module's forward or backward.
  void runs_hooks() { recorder.work({.kind = Activity::Kind::host_hooks, .stream = stream}); }
  void runs_fetch() { recorder.work({.kind = Activity::Kind::host_fetch, .stream = stream}); }
  void runs_reduction() { recorder.work({.kind = Activity::Kind::host_reduction, .stream = stream}); }
  /// AdamW on the CPU.
  void update_on_host(std::int64_t elems) { recorder.work({.kind = Activity::Kind::host_update, .stream = stream, .count = static_cast<double>(elems)}); }
  /// stream.record_event()
  EventId record_event() {
    const EventId event = recorder.next_event();
    recorder.work({.kind = Activity::Kind::record, .stream = stream, .event = event});
    return event;
  }
  /// stream.wait_event(event)
  void wait_event(EventId event) { recorder.work({.kind = Activity::Kind::wait, .stream = stream, .event = event}); }
  /// stream.wait_stream(other): for all that was issued to it so far.
  void wait_stream(Stream other);
  /// The host waits for `stream`: item(), stream.synchronize().
  void synchronize() { recorder.work({.kind = Activity::Kind::synchronize, .stream = stream}); }
  /// event.synchronize()
  void synchronize(EventId event) { recorder.work({.kind = Activity::Kind::synchronize, .stream = stream, .event = event}); }

  std::vector<std::function<void()>> callbacks;
  int backward_depth = 0;
  std::uint64_t backward_id = 0;       ///< id of the backward that runs (a nested one has its own); 0: none
  std::uint64_t backwards_started = 0;
  std::vector<Node*> doomed;           ///< nodes being destroyed, so that long graphs end without deep recursion
  bool destroying = false;

 private:
  Activity::Kind kernel_kind() const { return place == Place::device ? Activity::Kind::kernel : Activity::Kind::host_kernel; }

  std::uint64_t sequence_ = 0;
};

/// Sets a value until the end of the scope: `Scoped no_grad(context.grad_enabled, false);`
template <class T>
class Scoped {
 public:
  Scoped(T& place, T value) : place_(place), old_(std::exchange(place, std::move(value))) {}
  Scoped(const Scoped&) = delete;
  Scoped& operator=(const Scoped&) = delete;
  ~Scoped() { place_ = std::move(old_); }
  const T& old() const { return old_; }

 private:
  T& place_;
  T old_;
};

inline void Context::wait_stream(Stream other) {
  if (other == stream) return;
  Scoped there(stream, other);
  const EventId event = record_event();
  Scoped back(stream, there.old());
  wait_event(event);
}

/// Events of work that may still run: the host waits for the oldest when `most` are in flight and another is to come.
class EventsInFlight {
 public:
  explicit EventsInFlight(std::size_t most) : most_(most) {}
  void make_room(Context& context) {
    if (events_.size() < most_) return;
    context.synchronize(events_.front());
    events_.pop_front();
  }
  void record(Context& context) { events_.push_back(context.record_event()); }
  /// They are known to be over.
  void forget() { events_.clear(); }

 private:
  std::size_t most_;
  std::deque<EventId> events_;
};

/// `with torch.autocast(...)`. Leaving the outermost one drops the cache.
class AutocastScope {
 public:
  AutocastScope(Context& context, bool enabled, ScalarType type);
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;
  ~AutocastScope();

 private:
  Context& context_;
  bool old_enabled_;
  ScalarType old_type_;
};

/// Pushes saved-tensor hooks until the end of the scope.
class SavedTensorHooksScope {
 public:
  SavedTensorHooksScope(Context& context, std::shared_ptr<SavedTensorHooks> hooks) : context_(context) { context.saved_tensor_hooks.push_back(std::move(hooks)); }
  SavedTensorHooksScope(const SavedTensorHooksScope&) = delete;
  SavedTensorHooksScope& operator=(const SavedTensorHooksScope&) = delete;
  ~SavedTensorHooksScope() { context_.saved_tensor_hooks.pop_back(); }

 private:
  Context& context_;
};

/// torch.empty / zeros: a new storage in context.place, of context.category. `site` is a literal that names it in reports.
Tensor empty(Context& context, const Shape& shape, ScalarType type, const char* site);
/// The same sizes, row-major or (where like is dense) like's strides.
Tensor empty_like(const Tensor& like, const char* site);
Tensor empty_like(const Tensor& like, ScalarType type, const char* site);
/// A leaf that is trained: category parameters.
Tensor parameter(Context& context, const Shape& shape, ScalarType type, const char* site);

/// Makes a node for an op on `inputs` if one of them needs gradients; the op then saves, computes and calls set_output.
class Recording {
 public:
  Recording(Context& context, const char* name, std::initializer_list<const Tensor*> inputs);
  Recording(Context& context, const char* name, std::span<const Tensor> inputs);
  explicit operator bool() const { return static_cast<bool>(node_); }
  bool needs(std::size_t input) const { return node_ && static_cast<bool>(node_->edges[input].node); }
  Node* operator->() const { return node_.get(); }
  Node* node() const { return node_.get(); }
  void set_output(const Tensor& output, int number = 0) const;

 private:
  void add_edge(const Tensor& input);
  Ref<Node> node_;
};

/// A tensor on the same storage with other sizes, strides and (if recorded) graph.
Tensor alias(const Tensor& base, const Shape& shape);

/// A torch.autograd.Function that returns its inputs: new tensors on the same storages; `on_backward` runs when their gradients pass.
Tensors pass_through(Context& context, const char* name, const Tensors& inputs, std::function<void()> on_backward);

/// loss.backward(): allocates ones for the gradient.
void backward(const Tensor& loss);
/// torch.autograd.backward(roots, gradients).
void backward(const Tensors& roots, const Tensors& gradients);

struct TensorImpl : Pooled<TensorImpl> {
  [[gnu::noinline]] static void destroy(TensorImpl* self);
  ~TensorImpl();

  std::int32_t references = 0;
  ScalarType type = ScalarType::fp32;
  bool requires_grad = false;
  int output_number = 0;
  Context* context = nullptr;
  Ref<StorageImpl> storage;
  Shape shape;
  Ref<Node> grad_fn;
  Tensor grad;
  Node* accumulator = nullptr;  ///< not owned: dies with the last graph that needs it, as in torch
  std::unique_ptr<std::pair<std::vector<GradientHook>, std::vector<AccumulatedHook>>> leaf_hooks;
};

}  // namespace zeroplan::eager
