#include "planner/ops/op_table.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "planner/ops/rates.h"

namespace zeroplan {
namespace {

constexpr std::array<OpRow, kOpCount> kRows = {{
    {"load_batch", "tokens, targets"},
    {"embedding", "tokens, weight, out"},
    {"rms_norm", "x, weight, out, rstd"},
    {"rms_norm_apply", "x, weight, rstd, out"},
    {"linear", "in, weight, [bias], [residual if accumulate], out"},
    {"rope", "qkv, table"},
    {"qk_norm_rope", "qkv, query_weight, key_weight, table, out, rstd"},
    {"attention", "qkv, [qk], out, lse"},
    {"swiglu", "gate_up, act"},
    {"cross_entropy", "logits, targets, losses"},
    {"loss_sum", "losses, sum"},
    {"embedding_backward", "tokens, dout, dweight"},
    {"rms_norm_backward", "x, weight, rstd, dout, dx (accumulates if update), dweight"},
    {"linear_dgrad", "dout, weight, din"},
    {"linear_wgrad", "dout, in, dweight, [dbias]"},
    {"rope_backward", "dqkv, table"},
    {"qk_norm_rope_backward", "qkv, rstd, query_weight, key_weight, table, dqkv, dquery_weight, dkey_weight"},
    {"attention_backward", "qkv, [qk], out, lse, dout, dqkv"},
    {"swiglu_backward", "gate_up (becomes its gradient), dact (becomes act)"},
    {"zero_gaps", "flat gradient"},
    {"accumulate_shard", "slice, shard"},
    {"grad_norm", "gradient, sum"},
    {"clip_coefficient", "sum, coefficient"},
    {"adamw", "gradient, master, moment1, moment2, coefficient, [parameters if not the master]"},
    {"initialize", "parameters, [master], moments | table, scalars"},
    {"all_gather", "shard, full"},
    {"reduce_scatter", "full"},
    {"all_reduce", "data"},
    {"boundary", ""},
}};

double moved_bytes(Fragment::Range operands) {
  double bytes = 0;
  for (const Operand& o : operands) bytes += (o.access == Access::update ? 2.0 : 1.0) * static_cast<double>(o.elems()) * static_cast<double>(size_of(o.dtype));
  return bytes;
}

double d(std::int64_t value) { return static_cast<double>(value); }

/// The last operand of the ops whose gathered or reduced buffer it is.
const Operand& payload(Fragment::Range operands) { return operands[operands.size() - 1]; }

std::int64_t payload_bytes(Fragment::Range operands) { return checked_multiply(payload(operands).elems(), size_of(payload(operands).dtype)); }

bool has_bias(Fragment::Range operands) { return operands.size() == 4; }

CollectiveKind collective_kind(Op op) {
  if (op == Op::all_gather) return CollectiveKind::all_gather;
  return op == Op::reduce_scatter ? CollectiveKind::reduce_scatter : CollectiveKind::all_reduce;
}

/// 0: not bound by arithmetic.
double flops_per_s(Op op, const Work& work, const OpContext& context, const DeviceProfile& device) {
  if (work.flops == 0) return 0;
  if (context.compute != Dtype::bf16) return device.matmul_fp32_flops_per_s * wave_ratio(work.rows, work.columns, device);
  const bool fused_attention = (op == Op::attention || op == Op::attention_backward) && device.kind == DeviceKind::cuda;
  return fused_attention ? attention_flops_per_s(device, context.attention.seq) : device.matmul_bf16_flops_per_s * wave_ratio(work.rows, work.columns, device);
}

}  // namespace

const OpRow& op_row(Op op) { return kRows[static_cast<std::size_t>(op)]; }

OpContext op_context(const Question& question) {
  return {question.cluster.device.kind, question.job.compute_dtype, question.job.gradient_dtype, {question.job.seq, question.job.model.head_dim}};
}

Bytes scratch_bytes(Op op, Fragment::Range o, const OpContext& c) {
  if (c.device != DeviceKind::cpu) return Bytes();
  switch (op) {
    case Op::linear: return Bytes(linear_scratch_bytes(c.compute, {o[0].rows, o[0].columns, o[1].rows}));
    case Op::linear_dgrad: return Bytes(linear_dgrad_scratch_bytes(c.compute, {o[0].rows, o[1].columns, o[1].rows}));
    case Op::linear_wgrad:
      return Bytes(linear_wgrad_scratch_bytes(c.compute, c.gradient, {o[0].rows, o[1].columns, o[0].columns}, has_bias(o)));
    case Op::attention: return Bytes(attention_scratch_bytes(c.compute, c.attention));
    case Op::attention_backward: return Bytes(attention_backward_scratch_bytes(c.compute, c.attention));
    case Op::rms_norm_backward: return Bytes(rms_norm_backward_scratch_bytes(c.compute, o[0].columns));
    case Op::qk_norm_rope_backward: return Bytes(qk_norm_rope_backward_scratch_bytes(c.compute, c.attention.head_dim));
    default: return Bytes();
  }
}

namespace {
Work product(Work work, std::int64_t rows, std::int64_t inner, std::int64_t columns) {
  work.flops = 2 * d(rows) * d(inner) * d(columns);
  work.rows = rows;
  work.columns = columns;
  return work;
}
}  // namespace

Work work_of(Op op, Fragment::Range o, const OpContext& c) {
  Work work;
  work.moved_bytes = moved_bytes(o);
  switch (op) {
    case Op::linear: return product(work, o[0].rows, o[0].columns, o[1].rows);
    case Op::linear_dgrad: return product(work, o[0].rows, o[1].rows, o[1].columns);
    case Op::linear_wgrad: return product(work, o[0].columns, o[0].rows, o[1].columns);
    // Causal: two products of S²/2 per head forward; five backward (scores again, dP, dV, dQ, dK).
    case Op::attention: work.flops = 2 * d(o[o.size() - 2].elems()) * d(c.attention.seq); break;
    case Op::attention_backward: work.flops = 5 * d(o[o.size() - 4].elems()) * d(c.attention.seq); break;
    // A look-up touches as many rows as there are tokens, not the whole table.
    case Op::embedding: work.moved_bytes = 2 * d(o[2].elems()) * d(size_of(o[2].dtype)); break;
    case Op::embedding_backward: work.moved_bytes = 3 * d(o[1].elems()) * d(size_of(o[1].dtype)) + (o[2].access == Access::write ? d(o[2].elems()) * d(size_of(o[2].dtype)) : 0); break;
    case Op::zero_gaps:
    case Op::boundary:
    case Op::load_batch: work.moved_bytes = 0; break;
    default: break;
  }
  return work;
}

void add_traffic(Traffic& traffic, Op op, Fragment::Range operands) {
  const std::int64_t bytes = payload_bytes(operands);
  switch (op) {
    case Op::all_gather: traffic.all_gather_bytes += bytes; break;
    case Op::reduce_scatter: traffic.reduce_scatter_bytes += bytes; break;
    case Op::all_reduce: traffic.all_reduce_bytes += 2 * bytes; break;
    default: break;
  }
}

SimTime duration_of(const Instruction& instruction, Fragment::Range operands, const OpContext& context, const Cluster& cluster) {
  const DeviceProfile& device = cluster.device;
  const auto ns = [](double s) { return SimTime(static_cast<std::int64_t>(std::llround(std::min(s, 1e9) * 1e9))); };
  if (instruction.op == Op::boundary) return SimTime();
  if (is_collective(instruction.op)) {
    if (cluster.world_size() <= 1) return ns(device.launch_s);
    return ns(collective_s({.kind = collective_kind(instruction.op), .payload_bytes = payload_bytes(operands), .ranks = cluster.world_size()}, cluster));
  }
  const Work work = work_of(instruction.op, operands, context);
  const double rate = flops_per_s(instruction.op, work, context, device);
  const double arithmetic = rate > 0 ? work.flops / rate : 0;
  const double memory = device.memory_bytes_per_s > 0 ? work.moved_bytes / device.memory_bytes_per_s : 0;
  return ns(device.launch_s + std::max(arithmetic, memory));
}

}  // namespace zeroplan
