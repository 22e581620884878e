#include <algorithm>

#include "planner/price/price.h"

namespace zeroplan {
namespace {

using Categories = std::array<std::int64_t, kCategoryCount>;

/// A subtree seen from outside. Places are relative: `node` is the leaf, counters are those of the loops inside the subtree.
struct Summary {
  std::int64_t net = 0;
  std::int64_t peak = 0;
  bool empty = true;
  Categories net_by{}, peak_by{};
  std::size_t leaf = 0;
  std::uint16_t instruction = 0;
  std::int64_t inner = 0, outer = 0;  // counters of the innermost loop around the leaf, and of the loop around that
};

void append(Summary& sum, const Summary& next) {
  const std::int64_t above = sum.net + next.peak;
  if (sum.empty || above > sum.peak) {
    Categories net_by = sum.net_by;
    for (int c = 0; c < kCategoryCount; ++c) net_by[c] += next.peak_by[c];
    sum.peak = above;
    sum.peak_by = net_by;
    sum.leaf = next.leaf;
    sum.instruction = next.instruction;
    sum.inner = next.inner;
    sum.outer = next.outer;
    sum.empty = false;
  }
  sum.net += next.net;
  for (int c = 0; c < kCategoryCount; ++c) sum.net_by[c] += next.net_by[c];
}

Summary fold(const Program& program, const std::vector<Node>& nodes, std::size_t at);

Summary fold_children(const Program& program, const std::vector<Node>& nodes, std::size_t first, std::size_t end) {
  Summary sum;
  for (std::size_t child = first; child < end; child += nodes[child].size) append(sum, fold(program, nodes, child));
  return sum;
}

Summary fold(const Program& program, const std::vector<Node>& nodes, std::size_t at) {
  const Node& node = nodes[at];
  if (node.kind == Node::Kind::leaf) {
    const FragmentMemory& memory = program.fragments[node.fragment]->memory;
    Summary leaf;
    leaf.net = memory.net.value();
    leaf.peak = memory.peak.value();
    leaf.empty = false;
    std::copy(std::begin(memory.net_by_category), std::end(memory.net_by_category), leaf.net_by.begin());
    std::copy(std::begin(memory.peak_by_category), std::end(memory.peak_by_category), leaf.peak_by.begin());
    leaf.leaf = at;
    leaf.instruction = memory.peak_instruction;
    return leaf;
  }
  Summary body = fold_children(program, nodes, at + 1, at + node.size);
  if (node.kind == Node::Kind::sequence) return body;
  const bool body_is_leaf = nodes[at + 1].kind == Node::Kind::leaf && node.size == 2;
  const std::int64_t last = body.net > 0 ? node.count - 1 : 0;
  body.peak += last * body.net;
  for (int c = 0; c < kCategoryCount; ++c) {
    body.peak_by[c] += last * body.net_by[c];
    body.net_by[c] *= node.count;
  }
  body.net = checked_multiply(body.net, node.count);
  (body_is_leaf ? body.inner : body.outer) = last;
  return body;
}

}  // namespace

MemoryEstimate fold_memory(const Program& program) {
  MemoryEstimate out;
  Summary init = fold_children(program, program.init, 0, program.init.size());
  out.between_steps = Bytes(init.net);
  std::array<std::int64_t, 4> phases{init.peak, 0, 0, 0};

  Summary sum = init;
  bool peak_in_init = true;
  for (std::size_t at = 0; at < program.step.size(); at += program.step[at].size) {
    const std::int64_t before = sum.peak;
    const Summary next = fold(program, program.step, at);
    const std::int64_t start = sum.net;
    append(sum, next);
    if (sum.peak > before) peak_in_init = false;
    // Phases: a leaf or a loop over one leaf has one phase; a loop over micro batches is looked into.
    const auto raise = [&](std::size_t leaf, std::int64_t peak) {
      auto& phase = phases[static_cast<int>(program.fragments[program.step[leaf].fragment]->phase)];
      phase = std::max(phase, peak);
    };
    const Node& node = program.step[at];
    if (node.kind == Node::Kind::leaf || node.size == 2) {
      raise(next.leaf, start + next.peak);
    } else {
      std::int64_t net = start;
      for (std::size_t child = at + 1; child < at + node.size; child += program.step[child].size) {
        const Summary part = fold(program, program.step, child);
        raise(part.leaf, net + part.peak);
        net += part.net;
      }
    }
  }
  out.peak_live = Bytes(sum.peak);
  out.by_category = sum.peak_by;
  for (int p = 0; p < 4; ++p) out.phase_peak[p] = Bytes(phases[p]);
  const Node& leaf = (peak_in_init ? program.init : program.step)[sum.leaf];
  out.peak = {.in_init = peak_in_init, .fragment = leaf.fragment, .instruction = sum.instruction,
              .block = leaf.first + leaf.step * sum.inner, .micro_batch = sum.outer};
  return out;
}

namespace {
void add(Traffic& sum, const Traffic& part, std::int64_t times) {
  sum.all_gather_bytes += checked_multiply(part.all_gather_bytes, times);
  sum.reduce_scatter_bytes += checked_multiply(part.reduce_scatter_bytes, times);
  sum.all_reduce_bytes += checked_multiply(part.all_reduce_bytes, times);
}
void add_subtree(const Program& program, std::size_t at, std::int64_t times, Traffic& sum) {
  const Node& node = program.step[at];
  if (node.kind == Node::Kind::leaf) return add(sum, program.fragments[node.fragment]->traffic, times);
  const std::int64_t inner = node.kind == Node::Kind::repeat ? checked_multiply(times, node.count) : times;
  for (std::size_t child = at + 1; child < at + node.size; child += program.step[child].size) add_subtree(program, child, inner, sum);
}
}  // namespace

Traffic fold_traffic(const Program& program) {
  Traffic sum;
  for (std::size_t at = 0; at < program.step.size(); at += program.step[at].size) add_subtree(program, at, 1, sum);
  return sum;
}

}  // namespace zeroplan
