#include "planner/layout/linear.h"

#include <cassert>

namespace zeroplan {
namespace {

// What a node's children bear, less what they kill: 0 for the body of a loop over micro batches.
std::int64_t net_births(const Program& program, const std::vector<Node>& nodes, std::size_t at) {
  const Node& node = nodes[at];
  if (node.kind == Node::Kind::leaf) {
    const Fragment& fragment = *program.fragments[node.fragment];
    return static_cast<std::int64_t>(fragment.births.size()) - static_cast<std::int64_t>(fragment.deaths.size());
  }
  std::int64_t sum = 0;
  for (std::size_t child = at + 1; child < at + node.size; child += nodes[child].size) sum += net_births(program, nodes, child);
  return node.kind == Node::Kind::repeat ? sum * node.count : sum;
}

void append(const Program& program, const std::vector<Node>& nodes, std::vector<UnrolledInstruction>& out) {
  const std::vector<UnrolledInstruction> part = unroll(program, nodes);
  out.insert(out.end(), part.begin(), part.end());
}

}  // namespace

LinearProgram linearize(const Program& program) {
  LinearProgram out;
  append(program, program.init, out.instructions);
  out.step_begin = out.instructions.size();
  for (std::size_t at = 0; at < program.step.size(); at += program.step[at].size) {
    const Node& node = program.step[at];
    const auto child = [&](std::size_t offset) { return program.step.begin() + static_cast<std::ptrdiff_t>(at + offset); };
    const bool micro_batches = node.kind == Node::Kind::repeat && node.size > 2;
    if (!micro_batches) {
      append(program, {child(0), child(node.size)}, out.instructions);
      continue;
    }
    assert(net_births(program, program.step, at) == 0 && "a micro batch in the middle leaves nothing behind");
    const std::size_t begin = out.instructions.size();
    append(program, {child(1), child(node.size)}, out.instructions);
    out.loops.push_back({begin, out.instructions.size(), node.count});
  }
  return out;
}

}  // namespace zeroplan
