#include "planner/engines/eager/tiled.h"

#include <algorithm>

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

namespace {
/// torch.chunk along the dim of the tokens; no graph.
Tensors chunks(const Tensor& x, int dim, std::int64_t count) {
  const std::int64_t length = x.size(dim), step = divide_up(length, count);
  Tensors out;
  for (std::int64_t start = 0; start < length; start += step) {
    Shape shape = x.shape();
    shape.sizes[static_cast<std::size_t>(dim)] = std::min(step, length - start);
    out.push_back(alias(x, shape));
  }
  return out;
}

/// Nothing makes the host wait for a tile. Yet if it ran ahead, the parameters that a first step under ZeRO-3 gathers anew for each would add up to more than published runs took
/// (docs/validation.md): it is taken to keep pace.
void keep_pace(Context& context) { context.synchronize(); }

Tensor forward(const Tensor& x, std::int64_t tiles, const std::function<Tensor(const Tensor&)>& function) {
  Context& context = x.context();
  Scoped no_grad(context.grad_enabled, false);
  Tensors outputs;
  for (const Tensor& tile : chunks(x, 1, tiles)) {
    outputs.push_back(function(tile));
    keep_pace(context);
  }
  context.begin_op("cat");
  context.moves(2 * x.bytes());
  return empty(context, x.shape().contiguous(), outputs[0].type(), "cat");
}

void formula(BackwardCall& call, std::int64_t tiles, const std::function<Tensor(const Tensor&)>& function) {
  Context& context = *call.node.context;
  const Tensor x = call.saved(0).detach();
  const Tensor rows = alias(x, Shape{1, x.size(0) * x.size(1), x.size(2)});
  const Tensor x_grad = empty(context, rows.shape(), x.type(), "zeros_like");
  context.moves(x_grad.bytes());
  const Tensor gradient = alias(call.gradient(), rows.shape());
  const Tensors tiles_of_x = chunks(rows, 1, tiles), tiles_of_x_grad = chunks(x_grad, 1, tiles), tiles_of_gradient = chunks(gradient, 1, tiles);
  Tensor output;  // the name lives until the next tile is computed
  for (std::size_t i = 0; i < tiles_of_x.size(); ++i) {
    Scoped incomplete(context.gradients_incomplete, i + 1 < tiles_of_x.size());
    const Tensor& tile = tiles_of_x[i];
    tile.set_requires_grad(true);
    tile.set_grad(tiles_of_x_grad[i]);
    {
      Scoped grad(context.grad_enabled, true);
      output = function(tile);
    }
    backward(Tensors{output}, Tensors{tiles_of_gradient[i]});
    keep_pace(context);
  }
  call.results[0] = alias(x_grad, call.edge(0).expected);
}
}  // namespace

std::int64_t mlp_tiles(const Tensor& x) { return divide_up(x.size(1), x.size(-1)); }

Tensor in_tiles(const Tensor& x, std::int64_t tiles, std::function<Tensor(const Tensor& tile)> function) {
  x.context().synchronize();  // the ranks agree on the number of tiles: item()
  Recording recording(x.context(), "TiledMLPBackward", {&x});
  Tensor out = forward(x, tiles, function);
  if (recording) recording->save(x);  // a torch.autograd.Function saves when its forward has run
  recording.set_output(out);
  if (recording) recording->apply = [tiles, function = std::move(function)](BackwardCall& call) { formula(call, tiles, function); };
  return out;
}

}  // namespace zeroplan::eager
