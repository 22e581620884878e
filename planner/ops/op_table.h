// The op table: each op described once. From it come the declared scratch (planner), the work that is timed (price, simulator), and the
// order of operands that the executor's kernels rely on. Shapes are those of the operands themselves; what an op needs besides (attention's S and h,
// the device) is in OpContext. Leaves out which ops a model needs: engines/.
//
// Letters: T tokens of a micro batch (B·S), H hidden, h heads, k key/value heads, D head dim, F feed-forward width, V vocabulary, C loss chunk.
#pragma once

#include <string_view>

#include "planner/core/program.h"
#include "planner/ops/scratch.h"

namespace zeroplan {

/// What sizes and times depend on besides operand shapes.
struct OpContext {
  DeviceKind device = DeviceKind::cuda;
  Dtype compute = Dtype::bf16;
  Dtype gradient = Dtype::bf16;
  AttentionShape attention;
};

OpContext op_context(const Question& question);

/// One row of the table. `operands` names them in order; [x] is optional. Access is said by each operand.
struct OpRow {
  std::string_view name;
  std::string_view operands;
};
const OpRow& op_row(Op op);
inline std::string_view name_of(Op op) { return op_row(op).name; }

/// Scratch that the op's kernel takes on this device, to the byte. 0 for collectives and, on CUDA, for everything: there library
/// workspaces are counted outside the arena (DeviceProfile::libraries_bytes) until measured per kernel (profiles/kernels/).
Bytes scratch_bytes(Op op, Fragment::Range operands, const OpContext& context);

/// Arithmetic and memory traffic of one instruction. flops counts a multiply-add as 2; causal attention counts half of S².
struct Work {
  double flops = 0;
  double moved_bytes = 0;  ///< every operand once, updates twice
  std::int64_t rows = 0, columns = 0;  ///< of a product's result
};
Work work_of(Op op, Fragment::Range operands, const OpContext& context);

/// Adds a collective's payload (operand `full`) to the traffic. Source of the convention: Rajbhandari et al., "ZeRO" (SC20), section 7.
void add_traffic(Traffic& traffic, Op op, Fragment::Range operands);

/// Time of one instruction alone: roofline (the longer of arithmetic and memory, at rates.h's rates) plus a launch; collectives: rates.h, collective_s.
SimTime duration_of(const Instruction& instruction, Fragment::Range operands, const OpContext& context, const Cluster& cluster);

}  // namespace zeroplan
