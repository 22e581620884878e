#include <algorithm>

#include "planner/price/price.h"

namespace zeroplan {
namespace {

using Categories = std::array<std::int64_t, kCategoryCount>;
using Nodes = std::vector<Node>;

/// A subtree seen from outside. The place of its peak is relative: `leaf` is a node, counters are those of the loops inside the subtree.
struct Summary {
  std::int64_t net = 0;
  std::int64_t peak = 0;
  bool empty = true;
  std::uint16_t instruction = 0;
  std::size_t leaf = 0;
  std::int64_t inner = 0, outer = 0;  // counters of the innermost loop around the leaf, and of the loop around that
};

void append(Summary& sum, const Summary& next) {
  const std::int64_t net = sum.net, above = net + next.peak;
  if (sum.empty || above > sum.peak) {
    sum = next;
    sum.peak = above;
    sum.empty = false;
  }
  sum.net = net + next.net;
}

bool is_loop_of_one_leaf(const Node& node) { return node.kind == Node::Kind::repeat && node.size == 2; }

/// Folds the scalars of one tree, and on the way the peaks of the phases.
class Fold {
 public:
  Fold(const Program& program, const Nodes& nodes, std::array<std::int64_t, 4>& phases) : program_(program), nodes_(nodes), phases_(phases) {}

  /// Nodes [first, end), with `start` bytes alive before.
  Summary children(std::size_t first, std::size_t end, std::int64_t start) {
    Summary sum;
    for (std::size_t child = first; child < end; child += nodes_[child].size) append(sum, subtree(child, start + sum.net));
    return sum;
  }

 private:
  Summary subtree(std::size_t at, std::int64_t start) {
    const Node& node = nodes_[at];
    Summary sum = node.kind == Node::Kind::leaf ? leaf(at) : children(at + 1, at + node.size, start);
    if (node.kind == Node::Kind::repeat) {
      const std::int64_t last = sum.net > 0 ? node.count - 1 : 0;
      sum.peak += last * sum.net;
      sum.net = checked_multiply(sum.net, node.count);
      (is_loop_of_one_leaf(node) ? sum.inner : sum.outer) = last;
    }
    auto& phase = phases_[static_cast<std::size_t>(program_.fragments[nodes_[sum.leaf].fragment]->phase)];
    phase = std::max(phase, start + sum.peak);
    return sum;
  }
  Summary leaf(std::size_t at) const {
    const FragmentMemory& memory = program_.fragments[nodes_[at].fragment]->memory;
    Summary sum;
    sum.net = memory.net.value();
    sum.peak = memory.peak.value();
    sum.empty = false;
    sum.instruction = memory.peak_instruction;
    sum.leaf = at;
    return sum;
  }

  const Program& program_;
  const Nodes& nodes_;
  std::array<std::int64_t, 4>& phases_;
};

/// What is alive by category when the peak is reached: the net of all before its leaf, and the leaf's own peak.
class Alive {
 public:
  explicit Alive(const Program& program) : program_(program) {}

  void add_net(const Nodes& nodes, std::size_t first, std::size_t end, std::int64_t times) {
    for (std::size_t at = first; at < end; at += nodes[at].size) {
      if (nodes[at].kind == Node::Kind::leaf) add(fragment(nodes[at]).memory.net_by_category, times);
      else add_net(nodes, at + 1, at + nodes[at].size, nodes[at].kind == Node::Kind::repeat ? times * nodes[at].count : times);
    }
  }
  void add_until(const Nodes& nodes, std::size_t first, const Summary& peak) {
    std::size_t at = first;
    for (; at + nodes[at].size <= peak.leaf; at += nodes[at].size) add_net(nodes, at, at + nodes[at].size, 1);
    const Node& node = nodes[at];
    if (node.kind == Node::Kind::leaf) return add(fragment(node).memory.peak_by_category, 1);
    if (node.kind == Node::Kind::repeat) add_net(nodes, at + 1, at + node.size, is_loop_of_one_leaf(node) ? peak.inner : peak.outer);
    add_until(nodes, at + 1, peak);
  }
  const Categories& by_category() const { return sum_; }

 private:
  const Fragment& fragment(const Node& leaf) const { return *program_.fragments[leaf.fragment]; }
  void add(const std::int64_t (&bytes)[kCategoryCount], std::int64_t times) {
    for (std::size_t c = 0; c < kCategoryCount; ++c) sum_[c] += bytes[c] * times;
  }

  const Program& program_;
  Categories sum_{};
};

}  // namespace

MemoryEstimate fold_memory(const Program& program) {
  std::array<std::int64_t, 4> phases{};
  const Summary init = Fold(program, program.init, phases).children(0, program.init.size(), 0);
  const Summary step = Fold(program, program.step, phases).children(0, program.step.size(), init.net);
  Summary peak = init;
  append(peak, step);
  const bool in_init = !init.empty && peak.peak == init.peak;  // the first place of the highest
  if (in_init) peak = init;

  Alive alive(program);
  const Nodes& nodes = in_init ? program.init : program.step;
  if (!in_init) alive.add_net(program.init, 0, program.init.size(), 1);
  if (!nodes.empty()) alive.add_until(nodes, 0, peak);

  MemoryEstimate out;
  out.between_steps = Bytes(init.net);
  out.peak_live = Bytes(peak.peak);
  out.by_category = alive.by_category();
  for (std::size_t p = 0; p < phases.size(); ++p) out.phase_peak[p] = Bytes(phases[p]);
  if (nodes.empty()) return out;
  const Node& leaf = nodes[peak.leaf];
  out.peak = {.in_init = in_init, .fragment = leaf.fragment, .instruction = peak.instruction, .block = leaf.first + leaf.step * peak.inner, .micro_batch = peak.outer};
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
