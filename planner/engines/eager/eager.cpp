#include "planner/engines/eager/eager.h"

#include <algorithm>
#include <limits>

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

// ---- storages, shapes ---------------------------------------------------------------------------------------------------------------

StorageImpl::StorageImpl(Context& owner, std::int64_t size_bytes, const char* site, Category category) : place(owner.place), context(&owner), bytes(size_bytes) {
  index = owner.recorder.allocate(bytes, {.site = site, .category = category, .place = place, .stream = owner.stream, .where = owner.where});
}

void StorageImpl::destroy(StorageImpl* self) { delete self; }
void TensorImpl::destroy(TensorImpl* self) { delete self; }

StorageImpl::~StorageImpl() { context->recorder.free(index, bytes, place); }

void Tensor::record_stream(Stream stream) const { context().recorder.use(storage().index, stream); }

void StorageImpl::resize(std::int64_t size_bytes) {
  if (size_bytes == bytes) return;
  context->recorder.resize(index, bytes, size_bytes, place);
  bytes = size_bytes;
}

namespace {
std::size_t at(int i) { return static_cast<std::size_t>(i); }
}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> contiguous_sizes) : dims(static_cast<int>(contiguous_sizes.size())) {
  assert(contiguous_sizes.size() <= at(kMaxDims));
  std::copy(contiguous_sizes.begin(), contiguous_sizes.end(), sizes.begin());
  *this = contiguous();
}

std::int64_t Shape::elems() const {
  std::int64_t n = 1;
  for (int i = 0; i < dims; ++i) n = checked_multiply(n, sizes[at(i)]);
  return n;
}

bool Shape::same_sizes(const Shape& other) const { return dims == other.dims && std::equal(sizes.begin(), sizes.begin() + dims, other.sizes.begin()); }

Shape Shape::contiguous() const {
  Shape out = *this;
  std::int64_t stride = 1;
  for (int i = dims - 1; i >= 0; --i) {
    out.strides[at(i)] = stride;
    stride *= std::max<std::int64_t>(sizes[at(i)], 1);
  }
  return out;
}

bool Shape::is_contiguous() const {
  std::int64_t stride = 1;
  for (int i = dims - 1; i >= 0; --i) {
    if (sizes[at(i)] == 1) continue;
    if (strides[at(i)] != stride) return false;
    stride *= sizes[at(i)];
  }
  return true;
}

bool Shape::is_dense() const {
  if (is_contiguous()) return true;
  std::int64_t stride = 1;  // of the next slower dim
  const std::int64_t all = elems();
  while (stride < all) {
    int next = 0;
    while (next < dims && (sizes[at(next)] == 1 || strides[at(next)] != stride)) ++next;
    if (next == dims) return false;
    stride *= sizes[at(next)];
  }
  return true;
}

// ---- tensors ------------------------------------------------------------------------------------------------------------------------

TensorImpl::~TensorImpl() = default;

Context& Tensor::context() const { return *impl_->context; }
const Shape& Tensor::shape() const { return impl_->shape; }
std::int64_t Tensor::size(int dim) const { return impl_->shape.sizes[at(dim < 0 ? dim + impl_->shape.dims : dim)]; }
ScalarType Tensor::type() const { return impl_->type; }
StorageImpl& Tensor::storage() const { return *impl_->storage; }
bool Tensor::requires_grad() const { return impl_->requires_grad; }
bool Tensor::is_leaf() const { return !impl_->grad_fn; }
Node* Tensor::grad_fn() const { return impl_->grad_fn.get(); }
const Tensor& Tensor::grad() const { return impl_->grad; }
void Tensor::set_grad(Tensor gradient) const { impl_->grad = std::move(gradient); }

void Tensor::set_requires_grad(bool value) const {
  assert(is_leaf() || value);
  impl_->requires_grad = value;
}

void Tensor::set_data(const Tensor& source) const {
  impl_->storage = source.impl_->storage;
  impl_->shape = source.impl_->shape;
  impl_->type = source.impl_->type;
}

Tensor alias(const Tensor& base, const Shape& shape) {
  auto* impl = new TensorImpl;
  impl->type = base.type();
  impl->context = &base.context();
  impl->storage = base.get()->storage;
  impl->shape = shape;
  return Tensor(Ref<TensorImpl>(impl));
}

Tensor Tensor::detach() const { return alias(*this, shape()); }

void Tensor::register_hook(GradientHook hook) const {
  if (impl_->grad_fn) {
    impl_->grad_fn->hooks().gradient_hooks.emplace_back(impl_->output_number, std::move(hook));
    return;
  }
  if (!impl_->leaf_hooks) impl_->leaf_hooks = std::make_unique<std::pair<std::vector<GradientHook>, std::vector<AccumulatedHook>>>();
  impl_->leaf_hooks->first.push_back(std::move(hook));
}

void Tensor::on_gradient_accumulated(AccumulatedHook hook) const {
  if (!impl_->leaf_hooks) impl_->leaf_hooks = std::make_unique<std::pair<std::vector<GradientHook>, std::vector<AccumulatedHook>>>();
  impl_->leaf_hooks->second.push_back(std::move(hook));
}

Tensor empty(Context& context, const Shape& shape, ScalarType type, const char* site) {
  // Beyond any device, and small enough that sums of a few tensors need no check.
  constexpr std::int64_t kLargestTensorBytes = std::int64_t{1} << 56;
  const std::int64_t bytes = checked_multiply(shape.elems(), size_of(type));
  if (bytes > kLargestTensorBytes) throw OverflowError("a single tensor is larger than 2^56 bytes: the model or batch is absurdly large");
  const Ref<TensorImpl> impl(new TensorImpl);
  impl->type = type;
  impl->context = &context;
  impl->shape = shape;
  impl->storage = Ref<StorageImpl>(new StorageImpl(context, bytes, site, context.category));
  return Tensor(impl);
}

Tensor empty_like(const Tensor& like, ScalarType type, const char* site) {
  return empty(like.context(), like.shape().is_dense() ? like.shape() : elementwise_shape({&like}), type, site);
}
Tensor empty_like(const Tensor& like, const char* site) { return empty_like(like, like.type(), site); }

Tensor parameter(Context& context, const Shape& shape, ScalarType type, const char* site) {
  Scoped category(context.category, Category::parameters);
  Tensor out = empty(context, shape, type, site);
  out.set_requires_grad(true);
  return out;
}

// ---- graph --------------------------------------------------------------------------------------------------------------------------

Node::Node(Context& owner, const char* node_name) : context(&owner), name(node_name), sequence(owner.next_sequence()), where(owner.where), stream(owner.stream) {}

Node::~Node() {
  if (variable != nullptr && variable->accumulator == this) variable->accumulator = nullptr;
}

void Node::destroy(Node* self) {
  Context& context = *self->context;
  context.doomed.push_back(self);
  if (context.destroying) return;
  context.destroying = true;
  while (!context.doomed.empty()) {
    Node* node = context.doomed.back();
    context.doomed.pop_back();
    delete node;  // may doom its neighbours
  }
  context.destroying = false;
}

int Node::save(const Tensor& tensor, bool is_result) {
  SavedTensor entry;
  if (!context->saved_tensor_hooks.empty()) {
    entry.hooks = context->saved_tensor_hooks.back();
    entry.packed = entry.hooks->pack(is_result ? tensor.detach() : tensor);
  } else {
    entry.tensor = is_result ? tensor.detach() : tensor;
  }
  saved.push_back(std::move(entry));
  return static_cast<int>(saved.size()) - 1;
}

void Node::release_saved() { saved.clear(); }

NodeHooks& Node::hooks() {
  if (!hook_lists) hook_lists = std::make_unique<NodeHooks>();
  return *hook_lists;
}

Recording::Recording(Context& context, const char* name, std::initializer_list<const Tensor*> inputs) {
  if (!context.grad_enabled || std::none_of(inputs.begin(), inputs.end(), [](const Tensor* t) { return t->defined() && t->requires_grad(); })) return;
  node_ = Ref<Node>(new Node(context, name));
  node_->edges.reserve(inputs.size());
  for (const Tensor* input : inputs) add_edge(*input);
}

Recording::Recording(Context& context, const char* name, std::span<const Tensor> inputs) {
  if (!context.grad_enabled || std::none_of(inputs.begin(), inputs.end(), [](const Tensor& t) { return t.defined() && t.requires_grad(); })) return;
  node_ = Ref<Node>(new Node(context, name));
  node_->edges.reserve(inputs.size());
  for (const Tensor& input : inputs) add_edge(input);
}

void Recording::add_edge(const Tensor& input) {
  Edge edge;
  if (input.defined() && input.requires_grad()) {
    TensorImpl* impl = input.get();
    edge.node = impl->grad_fn ? impl->grad_fn : input.gradient_accumulator();
    edge.input = impl->grad_fn ? impl->output_number : 0;
    edge.expected = impl->shape;
    edge.type = impl->type;
  }
  node_->edges.push_back(std::move(edge));
}

void Recording::set_output(const Tensor& output, int number) const {
  if (!node_) return;
  output.get()->requires_grad = true;
  output.get()->grad_fn = node_;
  output.get()->output_number = number;
  node_->outputs = std::max(node_->outputs, number + 1);
}

bool BackwardCall::needs(std::size_t edge) const { return static_cast<bool>(node.edges[edge].node); }
const Edge& BackwardCall::edge(std::size_t i) const { return node.edges[i]; }

Tensor BackwardCall::saved(int index) {
  const SavedTensor& entry = node.saved[at(index)];
  if (!entry.hooks) return entry.tensor;
  unpacked.push_back(entry.hooks->unpack(entry.packed));
  return unpacked.back();
}

Tensors pass_through(Context& context, const char* name, const Tensors& inputs, std::function<void()> on_backward) {
  Recording recording(context, name, std::span<const Tensor>(inputs));
  Tensors outputs;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    outputs.push_back(inputs[i].defined() ? alias(inputs[i], inputs[i].shape()) : Tensor());
    if (recording && outputs.back().defined() && is_floating(inputs[i].type())) recording.set_output(outputs.back(), static_cast<int>(i));
  }
  if (recording)
    recording->apply = [callback = std::move(on_backward)](BackwardCall& call) {
      callback();
      for (std::size_t i = 0; i < call.results.size(); ++i)
        if (call.needs(i) && i < call.gradients.size()) call.results[i] = call.gradients[i];
    };
  return outputs;
}

// ---- AccumulateGrad -----------------------------------------------------------------------------------------------------------------

namespace {

/// accumulate_grad.h: may new_gradient become .grad as it is?
bool obeys_layout(const Tensor& gradient, const TensorImpl& variable) {
  if (!variable.shape.is_dense()) return gradient.shape().is_contiguous();
  if (gradient.dims() != variable.shape.dims) return false;
  for (int i = 0; i < gradient.dims(); ++i)
    if (gradient.shape().sizes[at(i)] != 1 && gradient.shape().strides[at(i)] != variable.shape.strides[at(i)]) return false;
  return true;
}

void accumulate(BackwardCall& call) {
  TensorImpl& variable = *call.node.variable;
  Context& context = *call.node.context;
  Tensor gradient = std::move(call.gradients[0]);
  if (!gradient.defined()) return;
  Scoped category(context.category, Category::gradients);
  if (!variable.grad.defined()) {
    if (gradient.get()->references == 1 && obeys_layout(gradient, variable)) {
      context.recorder.set_category(gradient.storage().index, Category::gradients);
      variable.grad = gradient.detach();
    } else {
      variable.grad = empty(context, variable.shape.is_dense() ? variable.shape : variable.shape.contiguous(), gradient.type(), "clone of a gradient");
      context.moves(2 * gradient.bytes());
    }
  } else {  // added in place: nothing is allocated
    context.moves(gradient.bytes() + 2 * variable.grad.bytes());
  }
  gradient.reset();
  if (!variable.leaf_hooks) return;
  for (std::size_t i = 0; i < variable.leaf_hooks->second.size(); ++i) variable.leaf_hooks->second[i](call.node.leaf);
}

}  // namespace

Ref<Node> Tensor::gradient_accumulator() const {
  assert(is_leaf() && requires_grad());
  if (impl_->accumulator != nullptr) return Ref<Node>(impl_->accumulator);
  Ref<Node> node(new Node(*impl_->context, "AccumulateGrad"));
  node->sequence = std::numeric_limits<std::uint64_t>::max();
  node->variable = impl_.get();
  node->leaf = *this;
  node->apply = accumulate;
  impl_->accumulator = node.get();
  return node;
}

// ---- backward engine ----------------------------------------------------------------------------------------------------------------

/// What one backward knows of a node. A nested backward meets the same AccumulateGrad nodes: states are stacked.
struct BackwardState {
  Node* node = nullptr;
  BackwardState* previous = nullptr;
  std::uint64_t backward = 0;
  int missing = 0;  ///< gradients still to come
  Tensors buffer;
};

namespace {

class GraphTask {
 public:
  explicit GraphTask(Context& context) : context_(context), id_(++context.backwards_started) {}
  GraphTask(const GraphTask&) = delete;
  GraphTask& operator=(const GraphTask&) = delete;
  ~GraphTask() {
    for (const auto& state : states_) state->node->state = state->previous;
  }

  void run(const Tensors& roots, const Tensors& gradients);

 private:
  BackwardState& state_of(Node& node);
  void count_dependencies(const Tensors& roots);
  void add(Node& node, int input, Tensor gradient);
  void evaluate(Node& node, Tensors gradients);
  void validate(BackwardCall& call);
  void make_ready(Node& node);

  struct LessReady {
    bool operator()(const Node* a, const Node* b) const { return a->sequence < b->sequence; }
  };

  Context& context_;
  std::uint64_t id_;
  std::vector<std::unique_ptr<BackwardState>> states_;
  std::vector<Node*> ready_;  ///< a heap by sequence
};

BackwardState& GraphTask::state_of(Node& node) {
  if (node.state != nullptr && node.state->backward == id_) return *node.state;
  states_.push_back(std::make_unique<BackwardState>());
  BackwardState& state = *states_.back();
  state.node = &node;
  state.previous = node.state;
  state.backward = id_;
  node.state = &state;
  return state;
}

void GraphTask::count_dependencies(const Tensors& roots) {
  std::vector<Node*> open;
  const auto visit = [&](Node& node) {
    if (node.state != nullptr && node.state->backward == id_) return;
    state_of(node);
    open.push_back(&node);
  };
  for (const Tensor& root : roots)
    if (root.grad_fn() != nullptr) visit(*root.grad_fn());
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    for (const Edge& edge : node->edges) {
      if (!edge.node) continue;
      visit(*edge.node);
      ++edge.node->state->missing;
    }
  }
}

void GraphTask::make_ready(Node& node) {
  ready_.push_back(&node);
  std::push_heap(ready_.begin(), ready_.end(), LessReady{});
}

/// InputBuffer::add
void GraphTask::add(Node& node, int input, Tensor gradient) {
  BackwardState& state = *node.state;
  if (state.buffer.empty()) state.buffer.resize(at(std::max(node.outputs, input + 1)));
  if (!gradient.defined()) return;
  Tensor& old = state.buffer[at(input)];
  if (!old.defined()) {
    old = std::move(gradient);
    return;
  }
  const bool in_place = !context_.out_of_place_accumulation && old.get()->references == 1 && old.storage_references() == 1 && old.shape().is_dense();
  if (in_place) {
    context_.moves(2 * old.bytes() + gradient.bytes());
  } else {
    Scoped where(context_.where, node.where);
    context_.begin_op("accumulate");
    old = elementwise("add.Tensor", old.type(), {&old, &gradient});
  }
}

/// validate_outputs: sums to the shape that was broadcast and casts to the dtype that was promoted.
void GraphTask::validate(BackwardCall& call) {
  for (std::size_t i = 0; i < call.results.size(); ++i) {
    Tensor& result = call.results[i];
    if (!result.defined() || !call.needs(i)) continue;
    const Edge& edge = call.edge(i);
    if (!result.shape().same_sizes(edge.expected)) result = sum_to(result, edge.expected);
    if (result.type() != edge.type) result = cast(result, edge.type);
  }
}

void GraphTask::evaluate(Node& node, Tensors gradients) {
  Scoped where(context_.where, node.where);
  Scoped stream(context_.stream, node.stream);
  Scoped autograd(context_.grad_enabled, false);
  BackwardCall call{node, gradients, Tensors(node.edges.size()), {}};
  if (node.variable != nullptr && node.variable->leaf_hooks) {
    for (std::size_t i = 0; i < node.variable->leaf_hooks->first.size(); ++i)
      if (Tensor changed = node.variable->leaf_hooks->first[i](gradients[0]); changed.defined()) gradients[0] = std::move(changed);
  }
  if (node.hook_lists) {
    for (std::size_t i = 0; i < node.hook_lists->gradient_hooks.size(); ++i) {
      auto& [output, hook] = node.hook_lists->gradient_hooks[i];
      if (Tensor changed = hook(gradients[at(output)]); changed.defined()) gradients[at(output)] = std::move(changed);
    }
    for (std::size_t i = 0; i < node.hook_lists->before.size(); ++i) node.hook_lists->before[i](gradients);
  }
  context_.begin_op(node.name);
  node.apply(call);
  call.unpacked.clear();
  validate(call);
  if (node.hook_lists)
    for (std::size_t i = 0; i < node.hook_lists->after.size(); ++i) node.hook_lists->after[i](call.results, gradients);
  gradients.clear();
  node.release_saved();
  for (std::size_t i = 0; i < node.edges.size(); ++i) {
    const Edge& edge = node.edges[i];
    if (!edge.node) continue;
    add(*edge.node, edge.input, std::move(call.results[i]));
    if (--edge.node->state->missing == 0) make_ready(*edge.node);
  }
}

void GraphTask::run(const Tensors& roots, const Tensors& gradients) {
  Scoped id(context_.backward_id, id_);
  Scoped in_backward(context_.in_backward, true);
  ++context_.backward_depth;
  count_dependencies(roots);
  std::vector<Node*> starts;
  for (std::size_t i = 0; i < roots.size(); ++i) {
    Node* node = roots[i].grad_fn();
    if (node == nullptr) continue;
    add(*node, roots[i].get()->output_number, gradients[i]);
    if (node->state->missing == 0 && std::find(starts.begin(), starts.end(), node) == starts.end()) starts.push_back(node);
  }
  for (Node* node : starts) make_ready(*node);
  while (!ready_.empty()) {
    std::pop_heap(ready_.begin(), ready_.end(), LessReady{});
    Node* node = ready_.back();
    ready_.pop_back();
    evaluate(*node, std::move(node->state->buffer));
  }
  if (--context_.backward_depth > 0) return;
  for (std::size_t i = 0; i < context_.callbacks.size(); ++i) {
    const std::function<void()> callback = std::move(context_.callbacks[i]);  // it may queue another one
    callback();
  }
  context_.callbacks.clear();
}

}  // namespace

void backward(const Tensors& roots, const Tensors& gradients) {
  assert(!roots.empty() && roots[0].requires_grad());
  GraphTask(roots[0].context()).run(roots, gradients);
}

void backward(const Tensor& loss) {
  Context& context = loss.context();
  Scoped in_backward(context.in_backward, true);
  const Tensor ones = empty_like(loss, "ones_like");
  backward(Tensors{loss}, Tensors{ones});
}

// ---- autocast -----------------------------------------------------------------------------------------------------------------------

AutocastScope::AutocastScope(Context& context, bool enabled, ScalarType type) : context_(context), old_enabled_(context.autocast.enabled), old_type_(context.autocast.type) {
  context.autocast.enabled = enabled;
  context.autocast.type = type;
  ++context.autocast.nesting;
}

AutocastScope::~AutocastScope() {
  if (--context_.autocast.nesting == 0) context_.autocast.cache.clear();
  context_.autocast.enabled = old_enabled_;
  context_.autocast.type = old_type_;
}

}  // namespace zeroplan::eager
