#include "planner/core/program.h"

#include "planner/core/model.h"

namespace zeroplan {

std::int64_t padded_unit_elems(const Model& model, UnitKind kind, std::int64_t ranks) {
  return round_up(unit_flat_elems(model, kind), checked_multiply(ranks, kParameterAlignment));
}

std::int64_t Program::padded_elems(UnitKind kind) const {
  return padded_unit_elems(question.job.model, kind, question.cluster.world_size());
}

std::int64_t Program::shard_elems(UnitKind kind) const { return padded_elems(kind) / question.cluster.world_size(); }

std::vector<UnrolledInstruction> unroll(const Program& program, const std::vector<Node>& nodes) {
  std::vector<UnrolledInstruction> out;
  for_each_instruction(program, nodes,
                       [&](const Fragment&, std::uint16_t fragment, std::size_t instruction, std::int32_t block, std::int64_t counter, bool last) {
                         out.push_back({fragment, static_cast<std::uint16_t>(instruction), block, counter, last});
                       });
  return out;
}

}  // namespace zeroplan
