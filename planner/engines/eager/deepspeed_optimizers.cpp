#include "planner/engines/eager/deepspeed_optimizers.h"

#include <numeric>

namespace zeroplan::eager {

namespace {
std::int64_t elems_of(const Tensors& tensors) {
  return std::accumulate(tensors.begin(), tensors.end(), std::int64_t{0}, [](std::int64_t sum, const Tensor& t) { return sum + t.elems(); });
}
}  // namespace

Tensor narrow(const Tensor& flat, std::int64_t elems) { return alias(flat, Shape{elems}); }
Tensor view_of(const Tensor& flat, const Shape& shape) { return alias(flat, shape.contiguous()); }

Tensor new_flat(Context& context, std::int64_t elems, ScalarType type, const char* site, Category category) {
  Scoped in_category(context.category, category);
  return empty(context, Shape{elems}, type, site);
}

Tensor new_scalar(Context& context, ScalarType type, const char* site) {
  Scoped in_category(context.category, Category::scratch);
  return empty(context, Shape{}, type, site);
}

Tensor converted(const Tensor& tensor, ScalarType type, const char* site, Category category) {
  if (tensor.type() == type) return tensor;
  Scoped in_category(tensor.context().category, category);
  tensor.context().moves(tensor.elems() * (size_of(tensor.type()) + size_of(type)));
  return empty_like(tensor, type, site);
}

Tensor flatten(const Tensors& tensors, const char* site, Category category) {
  Tensors rows;
  for (const Tensor& t : tensors) {
    Scoped in_category(t.context().category, Category::scratch);
    rows.push_back(t.shape().is_contiguous() ? narrow(t, t.elems()) : empty(t.context(), Shape{t.elems()}, t.type(), "contiguous copy for flatten"));
  }
  if (rows.size() == 1) return rows[0];
  Tensor out = new_flat(rows[0].context(), elems_of(rows), rows[0].type(), site, category);
  out.context().moves(2 * out.bytes());
  return out;
}

Tensors align_dense_tensors(Tensors tensors, std::int64_t alignment) {
  const std::int64_t remaining = elems_of(tensors) % alignment;
  if (remaining > 0) tensors.push_back(new_flat(tensors[0].context(), alignment - remaining, tensors[0].type(), "alignment padding", Category::scratch));
  return tensors;
}

Tensor norm_in(const Tensor& tensor, ScalarType type) {
  const Tensor wide = converted(tensor, type, "copy of a gradient for its norm", Category::scratch);
  wide.context().moves(wide.bytes());
  return new_scalar(tensor.context(), type, "gradient norm");
}

Tensor sum_of_squares(Context& context, const Tensors& norms, ScalarType type) {
  Scoped in_category(context.category, Category::scratch);
  Tensor stacked = empty(context, Shape{static_cast<std::int64_t>(norms.size())}, type, "gradient norms");
  const Tensor squares = empty_like(stacked, "gradient norms");
  stacked.reset();
  return new_scalar(context, type, "gradient norm");
}

void mask_nan_or_inf_with_val_inplace(Context& context) {
  Scoped place(context.place, Place::host);
  const Tensor err = new_scalar(context, ScalarType::fp32, "replacement for an invalid norm");
}

}  // namespace zeroplan::eager
