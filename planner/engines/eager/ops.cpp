#include "planner/engines/eager/ops.h"

#include <algorithm>
#include <utility>

namespace zeroplan::eager {

namespace {
std::size_t at(int i) { return static_cast<std::size_t>(i); }

int positive(int dim, int dims) { return dim < 0 ? dim + dims : dim; }

/// Stride of output dim `dim` in an operand that is broadcast to `dims` dims (0 where it is repeated).
std::int64_t broadcast_stride(const Shape& shape, int dim, int dims) {
  const int own = dim - (dims - shape.dims);
  if (own < 0 || shape.sizes[at(own)] == 1) return 0;
  return shape.strides[at(own)];
}

Shape broadcast_sizes(std::initializer_list<const Tensor*> inputs) {
  Shape out;
  for (const Tensor* input : inputs) out.dims = std::max(out.dims, input->dims());
  std::fill(out.sizes.begin(), out.sizes.begin() + out.dims, 1);
  for (const Tensor* input : inputs) {
    const Shape& shape = input->shape();
    for (int i = 0; i < shape.dims; ++i)
      if (shape.sizes[at(i)] != 1) out.sizes[at(i + out.dims - shape.dims)] = shape.sizes[at(i)];
  }
  return out;
}

/// TensorIterator::reorder_dimensions: -1 keep, 1 swap, 0 undecided by every operand.
int should_swap(std::initializer_list<const Tensor*> inputs, const Shape& out, int dim0, int dim1) {
  for (const Tensor* input : inputs) {
    const std::int64_t stride0 = broadcast_stride(input->shape(), dim0, out.dims);
    const std::int64_t stride1 = broadcast_stride(input->shape(), dim1, out.dims);
    if (stride0 == 0 || stride1 == 0) continue;
    if (stride0 < stride1) return -1;
    if (stride0 > stride1) return 1;
    if (out.sizes[at(dim0)] > out.sizes[at(dim1)]) return 1;
  }
  return 0;
}

/// view_as's strides where x can be seen with these sizes without a copy.
bool view_strides(const Shape& from, Shape& to) {
  if (from.is_contiguous()) {
    to = to.contiguous();
    return true;
  }
  int view_dim = to.dims - 1;
  std::int64_t chunk_base = from.strides[at(from.dims - 1)];
  std::int64_t chunk_elems = 1, view_elems = 1;
  for (int dim = from.dims - 1; dim >= 0; --dim) {
    chunk_elems *= from.sizes[at(dim)];
    if (dim != 0 && (from.sizes[at(dim - 1)] == 1 || from.strides[at(dim - 1)] == chunk_elems * chunk_base)) continue;
    while (view_dim >= 0 && (view_elems < chunk_elems || to.sizes[at(view_dim)] == 1)) {
      to.strides[at(view_dim)] = view_elems * chunk_base;
      view_elems *= to.sizes[at(view_dim)];
      --view_dim;
    }
    if (view_elems != chunk_elems) return false;
    if (dim > 0) {
      chunk_base = from.strides[at(dim - 1)];
      chunk_elems = view_elems = 1;
    }
  }
  return view_dim == -1;
}

Shape sizes_of(const Tensor& x, std::initializer_list<std::int64_t> sizes) {
  Shape out(sizes);
  std::int64_t known = 1;
  int open = -1;
  for (int i = 0; i < out.dims; ++i) {
    if (out.sizes[at(i)] == -1) open = i;
    else known *= out.sizes[at(i)];
  }
  if (open >= 0) out.sizes[at(open)] = x.elems() / known;
  assert(out.elems() == x.elems());
  return out.contiguous();
}

/// reshape of a gradient: no graph is recorded in backward.
Tensor reshaped(const Tensor& x, const Shape& sizes) {
  Shape shape = sizes;
  if (view_strides(x.shape(), shape)) return alias(x, shape);
  x.context().moves(2 * x.bytes());
  return empty(x.context(), sizes.contiguous(), x.type(), "clone");
}

Tensor viewed(const char* node_name, const Tensor& x, const Shape& sizes) {
  Shape shape = sizes;
  const bool possible = view_strides(x.shape(), shape);
  assert(possible);
  static_cast<void>(possible);
  Recording recording(x.context(), node_name, {&x});
  Tensor out = alias(x, shape);
  if (recording) recording->apply = [](BackwardCall& call) { call.results[0] = reshaped(call.gradient(), call.edge(0).expected); };
  recording.set_output(out);
  return out;
}

Tensor new_scalar(Context& context, ScalarType type, const char* site) { return empty(context, Shape{}, type, site); }
}  // namespace

// ---- building stones -----------------------------------------------------------------------------------------------------------------

Shape elementwise_shape(std::initializer_list<const Tensor*> inputs) {
  const Tensor& first = **inputs.begin();
  if (std::all_of(inputs.begin(), inputs.end(), [&](const Tensor* x) { return x->shape().same_sizes(first.shape()); }) &&
      std::all_of(inputs.begin(), inputs.end(), [&](const Tensor* x) { return x->shape().is_contiguous(); }))
    return first.shape().contiguous();
  Shape out = broadcast_sizes(inputs);
  std::array<int, kMaxDims> order{};  // fastest first
  for (int i = 0; i < out.dims; ++i) order[at(i)] = out.dims - 1 - i;
  for (int i = 1; i < out.dims; ++i) {
    int dim1 = i;
    for (int dim0 = i - 1; dim0 >= 0; --dim0) {
      const int decision = should_swap(inputs, out, order[at(dim0)], order[at(dim1)]);
      if (decision > 0) {
        std::swap(order[at(dim0)], order[at(dim1)]);
        dim1 = dim0;
      } else if (decision < 0) {
        break;
      }
    }
  }
  std::int64_t stride = 1;
  for (int i = 0; i < out.dims; ++i) {
    out.strides[at(order[at(i)])] = stride;
    stride *= out.sizes[at(order[at(i)])];
  }
  return out;
}

Tensor elementwise(const char* site, ScalarType type, std::initializer_list<const Tensor*> inputs) {
  Tensor out = empty((*inputs.begin())->context(), elementwise_shape(inputs), type, site);
  std::int64_t moved_bytes = out.bytes();
  for (const Tensor* input : inputs) moved_bytes += input->bytes();
  out.context().moves(moved_bytes);
  return out;
}

Tensor sum_to(const Tensor& tensor, const Shape& expected) {
  tensor.context().moves(tensor.bytes() + expected.elems() * size_of(tensor.type()));
  return empty(tensor.context(), expected.contiguous(), tensor.type(), "sum");
}

Tensor cast(const Tensor& tensor, ScalarType type) {
  tensor.context().moves(tensor.elems() * (size_of(tensor.type()) + size_of(type)));
  return empty_like(tensor, type, "_to_copy");
}

void report_product(Context& context, const ProductSize& size, ScalarType type) {
  const std::int64_t elems = size.rows * size.inner + size.inner * size.columns + size.rows * size.columns;
  context.computes({.arithmetic = size_of(type) == 2 ? Arithmetic::matmul_16_bit : Arithmetic::matmul_32_bit,
                    .flops = 2 * static_cast<double>(size.batch * size.rows) * static_cast<double>(size.inner) * static_cast<double>(size.columns),
                    .moved_bytes = size.batch * elems * size_of(type),
                    .rows = size.batch * size.rows,
                    .columns = size.columns});
}

double causal_attention_flops(const Tensor& q, const Tensor& k) { return 2 * static_cast<double>(q.elems()) * static_cast<double>(k.size(2)); }

Computation fused_attention(const Tensor& q, const Tensor& k, double flops, std::int64_t moved_bytes) {
  return {.arithmetic = Arithmetic::attention, .flops = flops, .moved_bytes = moved_bytes, .rows = q.size(3), .columns = k.size(2)};
}

ScalarType promoted(ScalarType a, ScalarType b) {
  if (a == b) return a;
  if (!is_floating(a)) return b;
  if (!is_floating(b)) return a;
  if (a == ScalarType::fp64 || b == ScalarType::fp64) return ScalarType::fp64;
  return ScalarType::fp32;  // bf16 with fp16, or either with fp32
}

// ---- views ---------------------------------------------------------------------------------------------------------------------------

Tensor view(const Tensor& x, std::initializer_list<std::int64_t> sizes) { return viewed("ViewBackward", x, sizes_of(x, sizes)); }

Tensor reshape(const Tensor& x, std::initializer_list<std::int64_t> sizes) {
  Shape shape = sizes_of(x, sizes);
  Shape strided = shape;
  if (view_strides(x.shape(), strided)) return viewed("ViewBackward", x, shape);
  return viewed("UnsafeViewBackward", clone(x, true), shape);
}

Tensor transpose(const Tensor& x, int dim0, int dim1) {
  const int a = positive(dim0, x.dims()), b = positive(dim1, x.dims());
  const auto swapped = [](const Tensor& y, int i, int j) {
    Shape shape = y.shape();
    std::swap(shape.sizes[at(i)], shape.sizes[at(j)]);
    std::swap(shape.strides[at(i)], shape.strides[at(j)]);
    return alias(y, shape);
  };
  Recording recording(x.context(), "TransposeBackward", {&x});
  Tensor out = swapped(x, a, b);
  if (recording) recording->apply = [a, b, swapped](BackwardCall& call) { call.results[0] = swapped(call.gradient(), a, b); };
  recording.set_output(out);
  return out;
}

Tensor t(const Tensor& x) { return transpose(x, 0, 1); }

Tensor slice_last(const Tensor& x, std::int64_t start, std::int64_t length) {
  static_cast<void>(start);  // no numbers: only the length matters
  Recording recording(x.context(), "SliceBackward", {&x});
  Shape shape = x.shape();
  shape.sizes[at(shape.dims - 1)] = length;
  Tensor out = alias(x, shape);
  if (recording)
    recording->apply = [](BackwardCall& call) {
      call.results[0] = empty(*call.node.context, call.edge(0).expected.contiguous(), call.gradient().type(), "slice_backward");
      call.node.context->moves(call.results[0].bytes());  // zeros
      call.node.context->moves(2 * call.gradient().bytes());
    };
  recording.set_output(out);
  return out;
}

Tensor unsqueeze(const Tensor& x, int dim) {
  Shape shape = x.shape();
  const int where = positive(dim, x.dims() + 1);
  for (int i = shape.dims; i > where; --i) {
    shape.sizes[at(i)] = shape.sizes[at(i - 1)];
    shape.strides[at(i)] = shape.strides[at(i - 1)];
  }
  shape.sizes[at(where)] = 1;
  shape.strides[at(where)] = where < x.dims() ? x.shape().sizes[at(where)] * x.shape().strides[at(where)] : 1;
  ++shape.dims;
  Recording recording(x.context(), "UnsqueezeBackward", {&x});
  Tensor out = alias(x, shape);
  if (recording) recording->apply = [](BackwardCall& call) { call.results[0] = reshaped(call.gradient(), call.edge(0).expected); };
  recording.set_output(out);
  return out;
}

Tensors split_last(const Tensor& x, std::int64_t length) {
  Recording recording(x.context(), "SplitBackward", {&x});
  Shape shape = x.shape();
  shape.sizes[at(shape.dims - 1)] = length;
  Tensors out;
  for (std::int64_t start = 0; start < x.size(-1); start += length) {
    out.push_back(alias(x, shape));
    recording.set_output(out.back(), static_cast<int>(out.size()) - 1);
  }
  if (recording)
    recording->apply = [](BackwardCall& call) {
      call.results[0] = empty(*call.node.context, call.edge(0).expected.contiguous(), call.edge(0).type, "cat");
      call.node.context->moves(2 * call.results[0].bytes());
    };
  return out;
}

Tensor clone(const Tensor& x, bool row_major) {
  Recording recording(x.context(), "CloneBackward", {&x});
  x.context().begin_op("clone");
  x.context().moves(2 * x.bytes());
  Tensor out = row_major ? empty(x.context(), x.shape().contiguous(), x.type(), "clone") : empty_like(x, "clone");
  if (recording) recording->apply = [](BackwardCall& call) { call.results[0] = call.gradient(); };
  recording.set_output(out);
  return out;
}

Tensor contiguous(const Tensor& x) { return x.shape().is_contiguous() ? x : clone(x, true); }

// ---- elementwise ---------------------------------------------------------------------------------------------------------------------

Tensor to(const Tensor& x, ScalarType type) {
  if (x.type() == type) return x;
  Recording recording(x.context(), "ToCopyBackward", {&x});
  x.context().begin_op("_to_copy");
  Tensor out = cast(x, type);
  if (recording) recording->apply = [](BackwardCall& call) { call.results[0] = cast(call.gradient(), call.edge(0).type); };
  if (is_floating(type)) recording.set_output(out);
  return out;
}

Tensor add(const Tensor& a, const Tensor& b) {
  Recording recording(a.context(), "AddBackward", {&a, &b});
  a.context().begin_op("add");
  Tensor out = elementwise("add.Tensor", promoted(a.type(), b.type()), {&a, &b});
  if (recording)
    recording->apply = [](BackwardCall& call) {
      if (call.needs(1)) call.results[1] = call.gradient();
      if (call.needs(0)) call.results[0] = call.gradient();
    };
  recording.set_output(out);
  return out;
}

namespace {
/// An elementwise op whose gradient is passed on as it is.
Tensor shifted(const Tensor& x, const char* site) {
  Recording recording(x.context(), "AddBackward", {&x});
  x.context().begin_op(site);
  Tensor out = elementwise(site, x.type(), {&x});
  if (recording) recording->apply = [](BackwardCall& call) { call.results[0] = call.gradient(); };
  recording.set_output(out);
  return out;
}

/// An elementwise op whose gradient is one elementwise op on the incoming gradient alone.
Tensor scaled(const Tensor& x, const char* name, const char* site) {
  Recording recording(x.context(), name, {&x});
  x.context().begin_op(site);
  Tensor out = elementwise(site, x.type(), {&x});
  if (recording) recording->apply = [site](BackwardCall& call) { call.results[0] = elementwise(site, call.gradient().type(), {&call.gradient()}); };
  recording.set_output(out);
  return out;
}

/// factor × (gradient × power of the saved tensor): three elementwise kernels.
void power_formula(BackwardCall& call) {
  const Tensor saved = call.saved(0);
  const Tensor power = elementwise("pow.Tensor_Scalar", saved.type(), {&saved});
  const Tensor scaled_power = elementwise("mul.Scalar", saved.type(), {&power});
  call.results[0] = elementwise("mul.Tensor", promoted(call.gradient().type(), saved.type()), {&call.gradient(), &scaled_power});
}
}  // namespace

Tensor fused_unary(const Tensor& x, const char* name, const char* site, const char* backward_site, bool saves_result) {
  Recording recording(x.context(), name, {&x});
  x.context().begin_op(site);
  if (recording && !saves_result) recording->save(x);
  Tensor out = elementwise(site, x.type(), {&x});
  if (recording) {
    recording->apply = [backward_site](BackwardCall& call) {
      const Tensor saved = call.saved(0);
      call.results[0] = elementwise(backward_site, call.gradient().type(), {&call.gradient(), &saved});
    };
    if (saves_result) recording->save(out, true);
  }
  recording.set_output(out);
  return out;
}

Tensor add_scalar(const Tensor& x) { return shifted(x, "add.Tensor"); }
Tensor mul_scalar(const Tensor& x) { return scaled(x, "MulBackward", "mul.Tensor"); }
Tensor div_scalar(const Tensor& x) { return scaled(x, "DivBackward", "div.Tensor"); }
Tensor neg(const Tensor& x) { return scaled(x, "NegBackward", "neg"); }

namespace {
/// math_silu_backward: gradient * (sigmoid * (1 + input * (1 - sigmoid)))
void composite_silu_formula(BackwardCall& call) {
  const Tensor input = call.saved(0);
  const Tensor sigmoid = elementwise("sigmoid", input.type(), {&input});
  const Tensor complement = elementwise("sub.Tensor", input.type(), {&sigmoid});
  const Tensor product = elementwise("mul.Tensor", input.type(), {&input, &complement});
  const Tensor shifted_product = elementwise("add.Scalar", input.type(), {&product});
  const Tensor slope = elementwise("mul.Tensor", input.type(), {&sigmoid, &shifted_product});
  call.results[0] = elementwise("mul.Tensor", call.gradient().type(), {&call.gradient(), &slope});
}
}  // namespace

Tensor silu(const Tensor& x) {
  Tensor out = fused_unary(x, "SiluBackward", "silu", "silu_backward", false);
  if (x.context().composite_silu_backward && out.grad_fn() != nullptr) out.grad_fn()->apply = composite_silu_formula;
  return out;
}
Tensor dropout(const Tensor& x) {
  Recording recording(x.context(), "NativeDropoutBackward", {&x});
  x.context().begin_op("native_dropout");
  Tensor out = elementwise("native_dropout", x.type(), {&x});
  const Tensor mask = elementwise("dropout mask", ScalarType::boolean, {&x});
  if (recording) {
    recording->save(mask, true);
    recording->apply = [](BackwardCall& call) {
      const Tensor kept = call.saved(0);
      call.results[0] = elementwise("native_dropout_backward", call.gradient().type(), {&call.gradient(), &kept});
    };
  }
  recording.set_output(out);
  return out;
}
Tensor gelu(const Tensor& x) { return fused_unary(x, "GeluBackward", "gelu", "gelu_backward", false); }
Tensor tanh(const Tensor& x) { return fused_unary(x, "TanhBackward", "tanh", "tanh_backward", true); }

Tensor cos(const Tensor& x) {
  assert(!x.requires_grad());
  return elementwise("cos", x.type(), {&x});
}
Tensor sin(const Tensor& x) {
  assert(!x.requires_grad());
  return elementwise("sin", x.type(), {&x});
}

Tensor mul(const Tensor& a, const Tensor& b) {
  Recording recording(a.context(), "MulBackward", {&a, &b});
  a.context().begin_op("mul");
  int saved_a = -1, saved_b = -1;
  if (recording.needs(0)) saved_b = recording->save(b);
  if (recording.needs(1)) saved_a = recording->save(a);
  Tensor out = elementwise("mul.Tensor", promoted(a.type(), b.type()), {&a, &b});
  if (recording)
    recording->apply = [saved_a, saved_b](BackwardCall& call) {
      const Tensor& gradient = call.gradient();
      const auto times = [&](int saved) {
        const Tensor factor = call.saved(saved);
        return elementwise("mul.Tensor", promoted(gradient.type(), factor.type()), {&gradient, &factor});
      };
      if (call.needs(1)) call.results[1] = times(saved_a);
      if (call.needs(0)) call.results[0] = times(saved_b);
    };
  recording.set_output(out);
  return out;
}

Tensor pow_scalar(const Tensor& x) {
  Recording recording(x.context(), "PowBackward", {&x});
  x.context().begin_op("pow");
  if (recording) recording->save(x);
  Tensor out = elementwise("pow.Tensor_Scalar", x.type(), {&x});
  if (recording) recording->apply = power_formula;
  recording.set_output(out);
  return out;
}

Tensor rsqrt(const Tensor& x) {
  Recording recording(x.context(), "RsqrtBackward", {&x});
  x.context().begin_op("rsqrt");
  Tensor out = elementwise("rsqrt", x.type(), {&x});
  if (recording) {
    recording->apply = power_formula;
    recording->save(out, true);
  }
  recording.set_output(out);
  return out;
}

// ---- reductions, joins ---------------------------------------------------------------------------------------------------------------

Tensor mean_last(const Tensor& x) {
  Recording recording(x.context(), "MeanBackward", {&x});
  x.context().begin_op("mean");
  Shape shape = elementwise_shape({&x});
  shape.sizes[at(shape.dims - 1)] = 1;
  Tensor out = empty(x.context(), shape.contiguous(), x.type(), "mean.dim");
  x.context().moves(x.bytes() + out.bytes());
  if (recording)
    recording->apply = [](BackwardCall& call) {  // the expanded gradient (a view) divided by the length
      call.results[0] = empty(*call.node.context, call.edge(0).expected.contiguous(), call.gradient().type(), "div.Scalar");
      call.node.context->moves(call.gradient().bytes() + call.results[0].bytes());
    };
  recording.set_output(out);
  return out;
}

Tensor cat_last(const Tensor& a, const Tensor& b) {
  Recording recording(a.context(), "CatBackward", {&a, &b});
  a.context().begin_op("cat");
  Shape shape = a.shape();
  shape.sizes[at(shape.dims - 1)] += b.size(-1);
  Tensor out = empty(a.context(), shape.contiguous(), promoted(a.type(), b.type()), "cat");
  a.context().moves(a.bytes() + b.bytes() + out.bytes());
  if (recording)
    recording->apply = [](BackwardCall& call) {  // narrow: views of the gradient
      for (std::size_t i = 0; i < 2; ++i) {
        Shape part = call.gradient().shape();
        part.sizes[at(part.dims - 1)] = call.edge(i).expected.dims > 0 ? call.edge(i).expected.last() : 0;
        if (call.needs(i)) call.results[i] = alias(call.gradient(), part);
      }
    };
  recording.set_output(out);
  return out;
}

// ---- matrices ------------------------------------------------------------------------------------------------------------------------

namespace {
bool is_column_major(const Shape& shape) { return shape.strides[0] == 1 && shape.strides[1] == shape.sizes[0]; }

/// Gradient of an operand of mm: of the operand's own layout. `inner`: the length that forward's product summed over.
Tensor operand_gradient(const Tensor& gradient, const Shape& operand, std::int64_t inner) {
  report_product(gradient.context(), {.rows = gradient.size(0), .inner = inner, .columns = gradient.size(1)}, gradient.type());
  Shape shape = Shape{operand.sizes[0], operand.sizes[1]};
  if (!is_column_major(operand)) return empty(gradient.context(), shape, gradient.type(), "mm");
  const Tensor transposed = empty(gradient.context(), Shape{operand.sizes[1], operand.sizes[0]}, gradient.type(), "mm");
  shape.strides = {1, operand.sizes[0]};
  return alias(transposed, shape);
}

/// at::autocast::cached_cast
Tensor autocasted(const Tensor& x) {
  if (!x.defined()) return x;
  Context& context = x.context();
  Autocast& autocast = context.autocast;
  if (!autocast.enabled || !is_floating(x.type()) || x.type() == ScalarType::fp64 || x.type() == autocast.type) return x;
  const bool cacheable = x.type() == ScalarType::fp32 && x.requires_grad() && x.is_leaf();
  if (!cacheable) return to(x, autocast.type);
  for (const auto& [leaf, casted] : autocast.cache)
    if (leaf == x) return casted;
  Tensor out = to(x, autocast.type);
  autocast.cache.emplace_back(x, out);
  return out;
}

Tensor addmm_without_autocast(const Tensor& bias, const Tensor& a, const Tensor& b) {
  Recording recording(a.context(), "AddmmBackward", {&bias, &a, &b});
  a.context().begin_op("addmm");
  int saved_a = -1, saved_b = -1;
  if (recording.needs(2)) saved_a = recording->save(a);
  if (recording.needs(1)) saved_b = recording->save(b);
  report_product(a.context(), {.rows = a.size(0), .inner = a.size(1), .columns = b.size(1)}, a.type());
  Tensor out = empty(a.context(), Shape{a.size(0), b.size(1)}, a.type(), "addmm");
  if (recording)
    recording->apply = [saved_a, saved_b](BackwardCall& call) {
      if (call.needs(1)) call.saved(saved_b), call.results[1] = operand_gradient(call.gradient(), call.edge(1).expected, call.edge(1).expected.sizes[1]);
      if (call.needs(2)) call.saved(saved_a), call.results[2] = operand_gradient(call.gradient(), call.edge(2).expected, call.edge(2).expected.sizes[0]);
      if (call.needs(0)) call.results[0] = call.gradient();
    };
  recording.set_output(out);
  return out;
}
}  // namespace

namespace {
/// Runs `make`, or takes its results from a selective checkpoint; `counted`: only every second call is kept.
template <class Make>
Tensors cached(Context& context, bool counted, const Make& make) {
  OpCache* cache = context.op_cache;
  if (cache == nullptr || (counted && ++cache->matrix_products[cache->recomputing] % 2 == 0)) return make();
  std::vector<Tensors>& kept = counted ? cache->products : cache->attentions;
  std::size_t& next = counted ? cache->next_product : cache->next_attention;
  if (cache->recomputing) return std::move(kept[next++]);
  Tensors results = make();
  kept.emplace_back();
  for (const Tensor& result : results) kept.back().push_back(result.detach());
  return results;
}
}  // namespace

Tensor mm(const Tensor& a, const Tensor& b) {
  Recording recording(a.context(), "MmBackward", {&a, &b});
  a.context().begin_op("mm");
  int saved_a = -1, saved_b = -1;
  if (recording.needs(0)) saved_b = recording->save(b);
  if (recording.needs(1)) saved_a = recording->save(a);
  Tensor out = std::move(cached(a.context(), true, [&] {
    report_product(a.context(), {.rows = a.size(0), .inner = a.size(1), .columns = b.size(1)}, a.type());
    return Tensors{empty(a.context(), Shape{a.size(0), b.size(1)}, a.type(), "mm")};
  })[0]);
  if (recording)
    recording->apply = [saved_a, saved_b](BackwardCall& call) {
      if (call.needs(1)) call.saved(saved_a), call.results[1] = operand_gradient(call.gradient(), call.edge(1).expected, call.edge(1).expected.sizes[0]);
      if (call.needs(0)) call.saved(saved_b), call.results[0] = operand_gradient(call.gradient(), call.edge(0).expected, call.edge(0).expected.sizes[1]);
    };
  recording.set_output(out);
  return out;
}

Tensor addmm(const Tensor& bias, const Tensor& a, const Tensor& b) {
  const Tensor b_cast = autocasted(b);  // C++ evaluates autocast's wrapped arguments from right to left
  const Tensor a_cast = autocasted(a);
  return addmm_without_autocast(autocasted(bias), a_cast, b_cast);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (x.context().linear_override) return x.context().linear_override(x, weight, bias);
  const Tensor bias_cast = autocasted(bias);
  const Tensor weight_cast = autocasted(weight);
  const Tensor x_cast = autocasted(x);
  const std::int64_t in = weight.size(1), out = weight.size(0);
  if (bias.defined()) {
    const Tensor rows = x.dims() == 2 ? x_cast : reshape(x_cast, {-1, in});
    Tensor y = addmm_without_autocast(bias_cast, rows, t(weight_cast));
    return x.dims() == 3 ? view(y, {x.size(0), x.size(1), out}) : y;
  }
  const Tensor weight_t = t(weight_cast);
  if (x.dims() == 2) return mm(x_cast, weight_t);
  const Tensor rows = reshape(x_cast, {-1, in});
  return view(mm(rows, weight_t), {x.size(0), x.size(1), out});
}

// ---- layers --------------------------------------------------------------------------------------------------------------------------

Tensor embedding(const Tensor& weight, const Tensor& ids) {
  Recording recording(weight.context(), "EmbeddingBackward", {&weight});
  weight.context().begin_op("embedding");
  if (recording) recording->save(ids);
  Tensor out = empty(weight.context(), Shape{ids.size(0), ids.size(1), weight.size(1)}, weight.type(), "embedding");
  out.context().moves(2 * out.bytes());
  if (recording)
    recording->apply = [](BackwardCall& call) {
      call.saved(0);
      call.results[0] = empty(*call.node.context, call.edge(0).expected.contiguous(), call.gradient().type(), "embedding_dense_backward");
      call.node.context->moves(call.results[0].bytes());  // zeros
      call.node.context->moves(3 * call.gradient().bytes());
    };
  recording.set_output(out);
  return out;
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  Context& context = x.context();
  Recording recording(context, "NativeLayerNormBackward", {&x, &weight, &bias});
  context.begin_op("native_layer_norm");
  if (recording) {
    if (bias.defined()) recording->save(bias);
    recording->save(x);
    recording->save(weight);
  }
  Shape rows = x.shape();
  rows.sizes[at(rows.dims - 1)] = 1;
  const ScalarType statistics = context.layer_norm_keeps_input_type ? x.type() : ScalarType::fp32;
  Tensor out = empty_like(x, "native_layer_norm");
  context.moves(2 * x.bytes());
  const Tensor mean = empty(context, rows.contiguous(), statistics, "native_layer_norm");
  const Tensor rstd = empty(context, rows.contiguous(), statistics, "native_layer_norm");
  if (recording) {
    recording->save(mean, true);
    recording->save(rstd, true);
    recording->apply = [x_index = bias.defined() ? 1 : 0](BackwardCall& call) {
      const Tensor x_saved = call.saved(x_index);
      for (int i = 1; i < 4; ++i) call.saved(x_index + i);
      call.node.context->moves(3 * x_saved.bytes());  // of the input
      call.node.context->moves(2 * x_saved.bytes());  // of weight and bias
      for (std::size_t i = 0; i < 3; ++i)
        if (call.needs(i)) call.results[i] = i == 0 ? empty_like(x_saved, "native_layer_norm_backward") : empty(*call.node.context, call.edge(i).expected, call.edge(i).type, "native_layer_norm_backward");
    };
  }
  recording.set_output(out);
  return out;
}

namespace {
/// FlashAttention-2's backward: buffers live until the gradients are returned.
void flash_formula(BackwardCall& call) {
  const Tensor q = call.saved(0), k = call.saved(1), v = call.saved(2), out = call.saved(3), log_sum_exp = call.saved(4);
  Context& context = *call.node.context;
  const std::int64_t batch = q.size(0), heads = q.size(1), tokens = round_up(q.size(2), 128), head_dim = round_up(q.size(3), 32);
  // Five products where forward has two. Reads q, k, v, out and its gradient, writes dq, dk, dv.
  context.computes(fused_attention(q, k, causal_attention_flops(q, k) * 5 / 2, 4 * q.bytes() + 2 * (k.bytes() + v.bytes())));
  call.results[0] = empty_like(q, "flash dq");
  call.results[1] = empty_like(k, "flash dk");
  call.results[2] = empty_like(v, "flash dv");
  const Tensor softmax_d = empty(context, Shape{batch, heads, tokens}, ScalarType::fp32, "flash softmax_d");
  const Tensor accumulator = empty(context, Shape{batch, heads, tokens, head_dim}, ScalarType::fp32, "flash dq accumulator");
  if (k.size(1) == heads) return;
  const Tensor expanded_k = empty_like(q, "flash expanded dk");
  const Tensor expanded_v = empty_like(q, "flash expanded dv");
  context.moves(2 * (expanded_k.bytes() + expanded_v.bytes()));  // written by the kernel, then summed over the heads that share
}
}  // namespace

Tensor flash_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  Context& context = q.context();
  Recording recording(context, "FlashBackward", {&q, &k, &v});
  context.begin_op("flash_attention");
  Tensors results = cached(context, false, [&] {
    context.computes(fused_attention(q, k, causal_attention_flops(q, k), 2 * q.bytes() + k.bytes() + v.bytes()));
    Tensors made{empty_like(q, "flash_attention")};
    made.push_back(empty(context, Shape{q.size(0), q.size(1), q.size(2)}, ScalarType::fp32, "flash_attention log-sum-exp"));
    return made;
  });
  Tensor out = std::move(results[0]);
  const Tensor log_sum_exp = std::move(results[1]);
  if (recording) {
    recording->apply = flash_formula;
    for (const Tensor* input : {&q, &k, &v}) recording->save(*input);
    recording->save(out, true);
    recording->save(log_sum_exp, true);
  }
  recording.set_output(out);
  return out;
}

// ---- loss ----------------------------------------------------------------------------------------------------------------------------

Tensor log_softmax(const Tensor& x) {
  Recording recording(x.context(), "LogSoftmaxBackward", {&x});
  x.context().begin_op("_log_softmax");
  Tensor out = empty_like(x, "_log_softmax");
  x.context().moves(2 * x.bytes());
  if (recording) {
    recording->apply = [](BackwardCall& call) {
      call.saved(0);
      call.results[0] = empty_like(call.gradient(), call.edge(0).type, "_log_softmax_backward_data");
      call.node.context->moves(2 * call.gradient().bytes() + call.results[0].bytes());
    };
    recording->save(out, true);
  }
  recording.set_output(out);
  return out;
}

Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target) {
  Context& context = target.context();
  Recording recording(context, "NllLossBackward", {&log_probabilities});
  context.begin_op("nll_loss_forward");
  if (recording) {
    recording->save(log_probabilities);
    recording->save(target);
  }
  Tensor out = new_scalar(context, log_probabilities.type(), "nll_loss_forward");
  const Tensor total_weight = new_scalar(context, log_probabilities.type(), "nll_loss_forward");
  context.moves(target.bytes());  // and one number a token
  if (recording) {
    recording->apply = [](BackwardCall& call) {
      const Tensor saved = call.saved(0);
      const Tensor labels = call.saved(1);
      call.saved(2);
      call.results[0] = empty_like(saved, "nll_loss_backward");
      call.node.context->moves(call.results[0].bytes());  // zeros
      call.node.context->moves(labels.bytes());           // and one number a token
    };
    recording->save(total_weight, true);
  }
  recording.set_output(out);
  return out;
}

Tensor pad_last(const Tensor& x) {
  Shape shape = x.shape();
  shape.sizes[at(shape.dims - 1)] += 1;
  x.context().moves(2 * x.bytes());
  return empty(x.context(), shape.contiguous(), x.type(), "constant_pad_nd");
}

}  // namespace zeroplan::eager
