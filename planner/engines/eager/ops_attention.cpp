#include "planner/engines/eager/ops_attention.h"

#include <algorithm>

#include "planner/core/units.h"

namespace zeroplan::eager {

namespace {
std::size_t at(int i) { return static_cast<std::size_t>(i); }
int positive(int dim, int dims) { return dim < 0 ? dim + dims : dim; }

/// The gradient of a part: zeros of the whole, into which it is copied.
void whole_formula(BackwardCall& call) {
  call.results[0] = empty(*call.node.context, call.edge(0).expected.contiguous(), call.gradient().type(), "zeros of a view");
  call.node.context->moves(call.results[0].bytes());
  call.node.context->moves(2 * call.gradient().bytes());
}

Tensor part(const Tensor& x, const char* name, const Shape& shape) {
  Recording recording(x.context(), name, {&x});
  Tensor out = alias(x, shape);
  if (recording) recording->apply = whole_formula;
  recording.set_output(out);
  return out;
}

Shape without_dim(Shape shape, int dim) {
  for (int i = dim; i + 1 < shape.dims; ++i) {
    shape.sizes[at(i)] = shape.sizes[at(i + 1)];
    shape.strides[at(i)] = shape.strides[at(i + 1)];
  }
  --shape.dims;
  return shape;
}
}  // namespace

Tensor narrow(const Tensor& x, int dim, std::int64_t length) {
  Shape shape = x.shape();
  shape.sizes[at(positive(dim, shape.dims))] = length;
  return part(x, "SliceBackward", shape);
}

Tensor every_second(const Tensor& x) {
  Shape shape = x.shape();
  shape.sizes[at(shape.dims - 1)] /= 2;
  shape.strides[at(shape.dims - 1)] *= 2;
  return part(x, "SliceBackward", shape);
}

Tensor select(const Tensor& x, int dim) { return part(x, "SelectBackward", without_dim(x.shape(), positive(dim, x.dims()))); }

Tensor expand(const Tensor& x, std::initializer_list<std::int64_t> sizes) {
  Shape shape = x.shape();
  int dim = 0;
  bool changed = false;
  for (const std::int64_t size : sizes) {
    if (size != -1 && size != shape.sizes[at(dim)]) {
      assert(shape.sizes[at(dim)] == 1);
      shape.sizes[at(dim)] = size;
      shape.strides[at(dim)] = 0;
      changed = true;
    }
    ++dim;
  }
  if (!changed) return x;
  Recording recording(x.context(), "ExpandBackward", {&x});
  Tensor out = alias(x, shape);
  if (recording) recording->apply = [](BackwardCall& call) { call.results[0] = sum_to(call.gradient(), call.edge(0).expected); };
  recording.set_output(out);
  return out;
}

namespace {
/// A Python list used as an index: made on the host, copied where it is used.
Tensor list_of_one(Context& context) {
  Tensor listed;
  {
    Scoped on_host(context.place, context.host);
    listed = empty(context, Shape{1}, ScalarType::int64, "index");
  }
  return context.host == context.place ? listed : empty(context, Shape{1}, ScalarType::int64, "index");
}
}  // namespace

Tensor index_one(const Tensor& x, int dim) {
  Recording recording(x.context(), "IndexBackward", {&x});
  x.context().begin_op("index");
  Shape shape = x.shape();
  shape.sizes[at(positive(dim, shape.dims))] = 1;
  const Tensor indices = list_of_one(x.context());
  if (recording) recording->save(indices);
  Tensor out = empty(x.context(), shape.contiguous(), x.type(), "index");
  x.context().moves(2 * out.bytes());
  if (recording)
    recording->apply = [](BackwardCall& call) {
      const Tensor saved = call.saved(0);
      whole_formula(call);
    };
  recording.set_output(out);
  return out;
}

Tensor stack_last(const Tensor& a, const Tensor& b) {
  const Tensor a_wide = unsqueeze(a, -1);
  const Tensor b_wide = unsqueeze(b, -1);
  return cat_last(a_wide, b_wide);
}

Tensor add_in_place(const Tensor& a, const Tensor& b) {
  Recording recording(a.context(), "AddBackward", {&a, &b});
  a.context().begin_op("add_");
  a.context().moves(2 * a.bytes() + b.bytes());
  Tensor out = alias(a, a.shape());
  if (recording)
    recording->apply = [](BackwardCall& call) {
      if (call.needs(1)) call.results[1] = call.gradient();
      if (call.needs(0)) call.results[0] = call.gradient();
    };
  recording.set_output(out);
  return out;
}

Tensor div_in_place(const Tensor& x) {
  Recording recording(x.context(), "DivBackward", {&x});
  x.context().begin_op("div_");
  x.context().moves(2 * x.bytes());
  Tensor out = alias(x, x.shape());
  if (recording) recording->apply = [](BackwardCall& call) { call.results[0] = elementwise("div.Tensor", call.gradient().type(), {&call.gradient()}); };
  recording.set_output(out);
  return out;
}

Tensor masked_fill(const Tensor& x, const Tensor& mask) {
  Recording recording(x.context(), "MaskedFillBackward", {&x});
  x.context().begin_op("masked_fill");
  if (recording) recording->save(mask);
  Tensor out = elementwise("masked_fill.Scalar", x.type(), {&x, &mask});
  if (recording)
    recording->apply = [](BackwardCall& call) {
      const Tensor saved = call.saved(0);
      call.results[0] = elementwise("masked_fill.Scalar", call.gradient().type(), {&call.gradient(), &saved});
    };
  recording.set_output(out);
  return out;
}

Tensor relu(const Tensor& x) { return fused_unary(x, "ReluBackward", "relu", "threshold_backward", true); }

// ---- attention written out ---------------------------------------------------------------------------------------------------------------

namespace {
Tensor autocasted(const Tensor& x) {
  const Autocast& autocast = x.context().autocast;
  if (!autocast.enabled || !is_floating(x.type()) || x.type() == ScalarType::fp64) return x;
  return to(x, autocast.type);
}

/// The gradient of an operand; `inner`: the length that its product sums over.
Tensor product(const Tensor& gradient, const Shape& expected, std::int64_t inner) {
  report_product(gradient.context(), {.batch = expected.sizes[0], .rows = expected.sizes[1], .inner = inner, .columns = expected.sizes[2]}, gradient.type());
  return empty(gradient.context(), expected.contiguous(), gradient.type(), "bmm");
}

/// Formulas run in the order of their names: mat2 (batch2) and then self, or batch1, batch2, self.
Tensor batched(const Tensor* input, const Tensor& a, const Tensor& b) {
  Context& context = a.context();
  Recording recording = input != nullptr ? Recording(context, "BaddbmmBackward", {&a, &b, input}) : Recording(context, "BmmBackward", {&a, &b});
  const char* site = input != nullptr ? "baddbmm" : "bmm";
  context.begin_op(site);
  int saved_a = -1, saved_b = -1;
  if (recording.needs(1)) saved_a = recording->save(a);
  if (recording.needs(0)) saved_b = recording->save(b);
  report_product(context, {.batch = a.size(0), .rows = a.size(1), .inner = a.size(2), .columns = b.size(2)}, a.type());
  Tensor out = empty(context, Shape{a.size(0), a.size(1), b.size(2)}, a.type(), site);
  if (recording)
    recording->apply = [saved_a, saved_b, fused = input != nullptr](BackwardCall& call) {
      const auto gradient_of = [&](std::size_t edge) {
        if (!call.needs(edge)) return;
        const Tensor other = call.saved(edge == 0 ? saved_b : saved_a);
        call.results[edge] = product(call.gradient(), call.edge(edge).expected, call.gradient().size(edge == 0 ? 2 : 1));
      };
      gradient_of(fused ? 0 : 1);
      gradient_of(fused ? 1 : 0);
      if (fused && call.needs(2)) call.results[2] = call.gradient();
    };
  recording.set_output(out);
  return out;
}
}  // namespace

Tensor bmm(const Tensor& a, const Tensor& b) {
  const Tensor b_cast = autocasted(b);
  const Tensor a_cast = autocasted(a);
  return batched(nullptr, a_cast, b_cast);
}

Tensor baddbmm(const Tensor& input, const Tensor& a, const Tensor& b) {
  const Tensor b_cast = autocasted(b);
  const Tensor a_cast = autocasted(a);
  const Tensor input_cast = autocasted(input);
  return batched(&input_cast, a_cast, b_cast);
}

Tensor matmul(const Tensor& a, const Tensor& b) {
  const Tensor b_cast = autocasted(b);
  const Tensor a_cast = autocasted(a);
  if (b.dims() == 2) return view(mm(reshape(a_cast, {-1, b.size(0)}), b_cast), {a.size(0), a.size(1), b.size(1)});
  const std::int64_t batches = a.size(0) * a.size(1);
  const Tensor a_rows = reshape(a_cast, {batches, a.size(2), a.size(3)});
  const Tensor b_rows = reshape(expand(b_cast, {a.size(0), a.size(1), -1, -1}), {batches, b.size(2), b.size(3)});
  const Tensor out = batched(nullptr, a_rows, b_rows);
  return view(out, {a.size(0), a.size(1), a.size(2), b.size(3)});
}

Tensor softmax_last(const Tensor& x, ScalarType type) {
  const Tensor converted = to(x, type);
  Recording recording(x.context(), "SoftmaxBackward", {&converted});
  x.context().begin_op("_softmax");
  Tensor out = empty_like(converted, "_softmax");
  x.context().moves(2 * out.bytes());
  if (recording) {
    recording->apply = [](BackwardCall& call) {
      const Tensor saved = call.saved(0);
      call.results[0] = empty_like(call.gradient(), call.edge(0).type, "_softmax_backward_data");
      call.node.context->moves(2 * call.gradient().bytes() + call.results[0].bytes());
    };
    recording->save(out, true);
  }
  recording.set_output(out);
  return out;
}

// ---- fused kernels -----------------------------------------------------------------------------------------------------------------------

std::int64_t efficient_workspace_bytes(const Tensor& q, const Tensor& k) {
  const std::int64_t rows = q.size(0) * q.size(1), head_dim = q.size(3);
  const bool half = size_of(q.type()) == 2;
  const std::int64_t query_tile = head_dim <= 64 ? 64 : 128;
  const std::int64_t key_tile = half && head_dim > 96 && head_dim <= 128 ? 128 : 64;
  const std::int64_t dq_elems = divide_up(q.size(2), query_tile) * divide_up(head_dim, key_tile) * (query_tile * key_tile + 4);
  std::int64_t dkv_elems = 0;
  if (half && head_dim > 128) {
    const std::int64_t splits = std::max<std::int64_t>(1, std::min(divide_up(k.size(2), key_tile), 200 / rows));
    dkv_elems = 2 * splits * key_tile * round_up(head_dim, query_tile);
  }
  return rows * round_up(dq_elems + dkv_elems, 4) * size_of(ScalarType::fp32);
}

namespace {
/// New memory in [batch, tokens, heads, head_dim], seen as [batch, heads, tokens, head_dim].
Tensor by_tokens(const Tensor& like, std::int64_t head_dim, const char* site) {
  Shape shape{like.size(0), like.size(1), like.size(2), head_dim};
  shape.strides = {like.size(2) * like.size(1) * head_dim, head_dim, like.size(1) * head_dim, 1};
  return empty(like.context(), shape, like.type(), site);
}

/// The sums over head_dim of gradient × out, which the half-precision kernels compute themselves.
Tensor delta_of(const Tensor& gradient, const Tensor& out) {
  Context& context = out.context();
  const Shape sums{out.size(0), out.size(1), out.size(2)};
  if (size_of(out.type()) == 2) return empty(context, sums, ScalarType::fp32, "efficient delta");
  const Tensor product = elementwise("mul.Tensor", ScalarType::fp32, {&gradient, &out});
  const Tensor by_token = empty(context, Shape{out.size(0), out.size(2), out.size(1)}, ScalarType::fp32, "sum");
  return empty(context, sums, ScalarType::fp32, "clone");
}

/// Reports a fused kernel: forward two products, backward five. With a mask it computes both halves of the matrix.
void report_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool masked, bool backward) {
  const double flops = causal_attention_flops(q, k) * (masked ? 2 : 1);
  const std::int64_t inputs_bytes = k.bytes() + v.bytes();
  if (backward) q.context().computes(fused_attention(q, k, flops * 5 / 2, 4 * q.bytes() + 2 * inputs_bytes));
  else q.context().computes(fused_attention(q, k, flops, 2 * q.bytes() + inputs_bytes));
}

/// Runs `make`, or takes its results from a selective checkpoint, which keeps them.
template <class Make>
Tensors kept(Context& context, const Make& make) {
  OpCache* cache = context.op_cache;
  if (cache == nullptr) return make();
  if (cache->recomputing) return std::move(cache->attentions[cache->next_attention++]);
  Tensors results = make();
  cache->attentions.emplace_back();
  for (const Tensor& result : results) cache->attentions.back().push_back(result.detach());
  return results;
}

void efficient_formula(BackwardCall& call) {
  const Tensor q = call.saved(0), k = call.saved(1), v = call.saved(2), out = call.saved(3), log_sum_exp = call.saved(4);
  const Tensor bias = call.node.saved.size() > 5 ? call.saved(5) : Tensor();
  report_attention(q, k, v, bias.defined(), true);
  call.results[0] = by_tokens(q, q.size(3), "efficient dq");
  call.results[1] = by_tokens(k, k.size(3), "efficient dk");
  call.results[2] = by_tokens(v, v.size(3), "efficient dv");
  const Tensor delta = delta_of(call.gradient(), out);
  const Tensor workspace = empty(*call.node.context, Shape{efficient_workspace_bytes(q, k)}, ScalarType::uint8, "efficient workspace");
}

void cudnn_formula(BackwardCall& call) {
  const Tensor q = call.saved(0), k = call.saved(1), v = call.saved(2), out = call.saved(3), statistics = call.saved(4);
  report_attention(q, k, v, false, true);
  call.results[0] = empty_like(q, "cudnn dq");
  call.results[1] = empty_like(k, "cudnn dk");
  call.results[2] = empty_like(v, "cudnn dv");
  const Tensor workspace = empty(*call.node.context, Shape{q.size(0) * q.size(1) * q.size(2) * (q.size(3) + 1)}, ScalarType::fp32, "cudnn workspace");
}
}  // namespace

Tensor efficient_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias) {
  Context& context = q.context();
  Recording recording(context, "EfficientAttentionBackward", {&q, &k, &v});
  context.begin_op("efficient_attention");
  Tensors results = kept(context, [&] {
    report_attention(q, k, v, bias.defined(), false);
    Tensors made{by_tokens(q, v.size(3), "efficient_attention")};
    made.push_back(empty(context, Shape{q.size(0), q.size(1), round_up(q.size(2), 32)}, ScalarType::fp32, "efficient_attention log-sum-exp"));
    return made;
  });
  Tensor out = std::move(results[0]);
  const Tensor log_sum_exp = std::move(results[1]);
  if (recording) {
    recording->apply = efficient_formula;
    for (const Tensor* input : {&q, &k, &v}) recording->save(*input);
    recording->save(out, true);
    recording->save(log_sum_exp, true);
    if (bias.defined()) recording->save(bias);
  }
  recording.set_output(out);
  return out;
}

Tensor cudnn_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  Context& context = q.context();
  Recording recording(context, "CudnnAttentionBackward", {&q, &k, &v});
  context.begin_op("cudnn_attention");
  Tensors results = kept(context, [&] {
    report_attention(q, k, v, false, false);
    Tensors made{empty_like(q, "cudnn_attention")};
    made.push_back(empty(context, Shape{q.size(0), q.size(1), q.size(2), 1}, ScalarType::fp32, "cudnn_attention statistics"));
    return made;
  });
  Tensor out = std::move(results[0]);
  const Tensor statistics = std::move(results[1]);
  if (recording) {
    recording->apply = cudnn_formula;
    for (const Tensor* input : {&q, &k, &v}) recording->save(*input);
    recording->save(out, true);
    recording->save(statistics, true);
  }
  recording.set_output(out);
  return out;
}

}  // namespace zeroplan::eager
