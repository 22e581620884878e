#include "planner/engines/eager/quantised.h"

#include "planner/engines/eager/ops.h"

namespace zeroplan::eager {

namespace {
/// dequantize_4bit: the maxima first, then the weight.
Tensor dequantised(const QuantStatistics& statistics, std::int64_t packed_bytes) {
  Context& context = statistics.maxima.context();
  Tensor maxima = statistics.maxima;
  if (statistics.offset.defined()) {
    maxima = empty(context, statistics.maxima.shape(), ScalarType::fp32, "dequantised maxima");
    context.moves(statistics.maxima.bytes() + maxima.bytes());
    context.moves(2 * maxima.bytes());  // += offset
  }
  Tensor weight = empty(context, statistics.shape, statistics.type, "dequantised weight");
  context.moves(packed_bytes + maxima.bytes() + weight.bytes());
  return weight;
}

std::int64_t rows_of(const Tensor& x) { return x.elems() / x.size(-1); }
}  // namespace

Tensor matmul_4bit(const Tensor& x, const Tensor& packed, const QuantStatistics& statistics, const Tensor& bias) {
  Context& context = x.context();
  const std::int64_t out_columns = statistics.shape.sizes[0], in_columns = statistics.shape.sizes[1];
  Recording recording(context, "MatMul4BitBackward", {&x});
  context.begin_op("matmul_4bit");
  Shape shape = x.shape().contiguous();
  shape.sizes[static_cast<std::size_t>(shape.dims - 1)] = out_columns;
  const Tensor kept = alias(packed, Shape{packed.elems()});
  Tensor out;
  {
    const Tensor weight = to(dequantised(statistics, packed.bytes()), x.type());
    report_product(context, {.rows = rows_of(x), .inner = in_columns, .columns = out_columns}, x.type());
    out = empty(context, shape.contiguous(), x.type(), bias.defined() ? "addmm" : "mm");
  }
  if (recording)
    recording->apply = [kept, &statistics, out_columns](BackwardCall& call) {
      const Tensor& gradient = call.gradient();
      const Tensor weight = to(dequantised(statistics, kept.bytes()), gradient.type());
      report_product(*call.node.context, {.rows = rows_of(gradient), .inner = out_columns, .columns = call.edge(0).expected.last()}, gradient.type());
      call.results[0] = empty(*call.node.context, call.edge(0).expected.contiguous(), gradient.type(), "mm");
    };
  recording.set_output(out);
  return out;
}

namespace {
Tensor table(Context& context, std::int64_t entries) { return empty(context, Shape{entries}, ScalarType::fp32, "quantisation codes"); }

QuantStatistics statistics_of(Context& context, const Shape& shape, ScalarType type, bool double_quantised) {
  const std::int64_t blocks = divide_up(shape.elems(), kQuantisedBlockElems);
  QuantStatistics out;
  out.maxima = empty(context, Shape{blocks}, double_quantised ? ScalarType::uint8 : ScalarType::fp32, "quantisation maxima");
  out.codes = table(context, kFourBitCodes);
  out.shape = shape;
  out.type = type;
  if (!double_quantised) return out;
  out.outer_maxima = empty(context, Shape{divide_up(blocks, kStatisticsBlockElems)}, ScalarType::fp32, "quantisation maxima");
  out.outer_codes = table(context, kEightBitCodes);
  out.offset = empty(context, Shape{}, ScalarType::fp32, "quantisation offset");
  return out;
}
}  // namespace

Linear4bit::Linear4bit(Context& owner, std::int64_t in, std::int64_t out, bool has_bias, ScalarType type, const FourBitWeights& weights) : Module(owner, "Linear4bit") {
  where = owner.where;
  Scoped category(owner.category, Category::parameters);
  const Tensor packed = empty(owner, Shape{in * out / 2 / size_of(weights.storage), 1}, weights.storage, "packed 4-bit weight");
  own_parameters.emplace_back("weight", packed);
  if (has_bias) own_parameters.emplace_back("bias", parameter(owner, Shape{out}, type, "linear bias"));
  statistics_ = statistics_of(owner, Shape{out, in}, type, weights.double_quantised);
  made();
}

Tensors Linear4bit::forward(Arguments& arguments) {
  const Tensor& x = arguments.positional[0];
  const ScalarType input_type = x.type();
  const Tensor computed = matmul_4bit(to(x, statistics_.type), own_parameters[0].second, statistics_, own_parameters.size() > 1 ? own_parameters[1].second : Tensor());
  return {to(computed, input_type)};
}

}  // namespace zeroplan::eager
