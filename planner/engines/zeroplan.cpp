// Schedule of the zeroplan engine.
//
// A micro batch visits units in positions: 0 embedding, 1..L blocks forward, L+1 head (forward and backward at once, chunk by chunk),
// L+2..2L+1 blocks backward in reverse, 2L+2 embedding backward (which needs no parameters). At stage 3, position p issues the gathers of position
// p + prefetch and releases what p used, unless it is used again within the prefetch distance: then it just stays. Every position thus
// becomes a FragmentKey, equal neighbours become a loop, and the tree has a dozen nodes whatever L is. Cost: O(L) small steps a compile.
#include "planner/engines/zeroplan.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "planner/engines/zeroplan_fragments.h"

namespace zeroplan {

using namespace ours;

namespace {

struct KeyHash {
  std::size_t operator()(const FragmentKey& key) const { return hash_of(key); }
};

/// What a FragmentContext depends on, as integers: every size of model, job and plan that fragments read.
using ContextKey = std::array<std::int64_t, 24>;
struct ContextHash {
  std::size_t operator()(const ContextKey& key) const {
    std::uint64_t hash = 0x9e3779b97f4a7c15ull;
    for (std::int64_t value : key) { hash = (hash ^ static_cast<std::uint64_t>(value)) * 0xff51afd7ed558ccdull; hash ^= hash >> 29; }
    return hash;
  }
};
ContextKey context_key(const Question& q, std::int64_t rank) {
  const Model& m = q.job.model;
  return {m.hidden_size, m.num_layers, m.vocab_size, m.intermediate_size, m.num_heads, m.num_kv_heads, m.head_dim,
          m.tie_embeddings | m.qkv_bias << 1 | m.qk_norm << 2 | static_cast<int>(m.qkv_layout) << 3, q.job.seq, static_cast<int>(q.job.compute_dtype),
          static_cast<int>(q.job.gradient_dtype), q.plan.stage, q.plan.micro_batch, q.plan.overlap_comm, q.plan.loss_chunk_tokens,
          q.cluster.world_size(), static_cast<int>(q.cluster.device.kind), rank};
}

struct ContextEntry {
  explicit ContextEntry(const Question& question, std::int64_t rank) : context(question, rank) {}
  FragmentContext context;
  std::unordered_map<FragmentKey, std::shared_ptr<const Fragment>, KeyHash> fragments;
};

// Use-sequence of positions, and the stage-3 gathers and releases along it.
class Schedule {
 public:
  explicit Schedule(const Question& question) : q_(question), L_(question.job.model.num_layers) {}

  std::int64_t positions() const { return 2 * L_ + 3; }
  std::int64_t head() const { return L_ + 1; }
  bool is_block_forward(std::int64_t p) const { return p >= 1 && p <= L_; }
  bool is_block_backward(std::int64_t p) const { return p >= L_ + 2 && p <= 2 * L_ + 1; }
  /// The block a leaf at this position is addressed by: its own, or 0 / L for embedding and head.
  std::int64_t block(std::int64_t p) const {
    if (p <= L_) return std::max<std::int64_t>(p - 1, 0);
    return p == head() ? L_ : std::max<std::int64_t>(2 * L_ + 1 - p, 0);
  }
  /// Gathers, wait and release flags of a position.
  void describe(std::int64_t p, FragmentKey& key) const;

 private:
  struct Use { UnitKind unit; std::int64_t block; };
  int uses(std::int64_t p, Use (&out)[2]) const;
  bool used_within(Use use, std::int64_t after, std::int64_t last) const;

  const Question& q_;
  std::int64_t L_;
};

int Schedule::uses(std::int64_t p, Use (&out)[2]) const {
  if (p == 0) { out[0] = {UnitKind::embedding, 0}; return 1; }
  if (p == head()) {
    out[0] = {UnitKind::head, 0};
    out[1] = {UnitKind::embedding, 0};
    return q_.job.model.tie_embeddings ? 2 : 1;
  }
  if (p < positions() - 1) { out[0] = {UnitKind::block, block(p)}; return 1; }
  return 0;
}

bool Schedule::used_within(Use use, std::int64_t after, std::int64_t last) const {
  Use at[2];
  for (std::int64_t p = after + 1; p <= std::min(last, positions() - 1); ++p)
    for (int i = 0, n = uses(p, at); i < n; ++i)
      if (at[i].unit == use.unit && at[i].block == use.block) return true;
  return false;
}

// Position q's units are gathered at position q − d, unless their last use before q is at most d positions back: then they were kept.
void Schedule::describe(std::int64_t p, FragmentKey& key) const {
  if (q_.plan.stage != 3) return;
  const std::int64_t d = q_.plan.prefetch_units;
  Use at[2];
  const auto gathered_for = [&](Use use, std::int64_t q) {
    for (std::int64_t before = std::max<std::int64_t>(q - d, 0); before < q; ++before)
      if (used_within(use, before - 1, before)) return false;
    return true;
  };
  const std::int64_t from = p == 0 ? 0 : p + d;
  for (std::int64_t q = from; q <= std::min(p + d, positions() - 1); ++q)
    for (int i = 0, n = uses(q, at); i < n; ++i)
      if (gathered_for(at[i], q))
        key.gathers[key.gather_count++] = {at[i].unit, static_cast<std::int16_t>(at[i].unit == UnitKind::block ? at[i].block - block(p) : 0),
                                           static_cast<std::uint8_t>(q - p)};
  for (int i = 0, n = uses(p, at); i < n; ++i) {
    key.wait_gather |= gathered_for(at[i], p);
    const bool release = !used_within(at[i], p, p + d);
    (i == 0 ? key.release : key.release_embedding) = release;
  }
}

}  // namespace

struct Compiler::Cache {
  std::unordered_map<ContextKey, std::unique_ptr<ContextEntry>, ContextHash> contexts;
};

namespace {

// Builds one Program: collects leaves into nodes, equal neighbours into loops.
class Builder {
 public:
  Builder(ContextEntry& entry, const Question& question, Program& program) : entry_(entry), q_(question), program_(program), schedule_(question) {}

  void build() {
    init();
    micro_batches();
    optimizer_step();
    program_.event_registers = q_.plan.stage == 3 ? static_cast<int>(q_.plan.prefetch_units) + 1 : 0;
  }

 private:
  struct Gradients { bool accumulate_full, accumulate_shard, reduce; friend bool operator==(const Gradients&, const Gradients&) = default; };

  std::uint16_t fragment(const FragmentKey& key) {
    auto& slot = entry_.fragments[key];
    if (!slot) slot = make_fragment(entry_.context, key);
    for (std::size_t i = program_.fragments.size(); i-- > 0;)
      if (program_.fragments[i] == slot) return static_cast<std::uint16_t>(i);
    program_.fragments.push_back(slot);
    return static_cast<std::uint16_t>(program_.fragments.size() - 1);
  }
  static Node leaf(std::uint16_t fragment, std::int64_t first, std::int64_t step) {
    Node node;
    node.fragment = fragment;
    node.first = static_cast<std::int32_t>(first);
    node.step = static_cast<std::int32_t>(step);
    return node;
  }
  static void append_leaf(std::vector<Node>& nodes, Node node) { nodes.push_back(node); }
  static void append_repeat(std::vector<Node>& nodes, std::int64_t count, Node node) {
    if (count == 0) return;
    if (count > 1) {
      Node repeat;
      repeat.kind = Node::Kind::repeat;
      repeat.count = count;
      repeat.size = 2;
      nodes.push_back(repeat);
    }
    nodes.push_back(node);
  }
  void visit(std::vector<Node>& nodes, Visit visit, UnitKind unit, std::int64_t block = 0) {
    FragmentKey key;
    key.visit = visit;
    key.unit = unit;
    append_leaf(nodes, leaf(fragment(key), block, 0));
  }
  /// embedding, all blocks in a loop, head.
  void for_units(std::vector<Node>& nodes, Visit visit) {
    for (UnitKind unit : {UnitKind::embedding, UnitKind::block, UnitKind::head}) {
      FragmentKey key;
      key.visit = visit;
      key.unit = unit;
      key.first_unit = unit == UnitKind::embedding;
      append_repeat(nodes, unit == UnitKind::block ? q_.job.model.num_layers : 1, leaf(fragment(key), 0, unit == UnitKind::block ? 1 : 0));
    }
  }

  void init() { for_units(program_.init, Visit::init); }

  void micro_batches() {
    const std::int64_t A = q_.plan.accumulate;
    const bool shards = q_.plan.stage >= 2;
    const auto gradients = [&](std::int64_t m) { return shards ? Gradients{false, m > 0, true} : Gradients{m > 0, false, m + 1 == A}; };
    for (std::int64_t m = 0; m < A;) {
      std::int64_t run = 1;
      // Equal bodies are neighbours only in the middle: at most three different ones.
      if (m > 0 && m + 1 < A) run = gradients(m) == gradients(A - 1) ? A - m : A - 1 - m;
      const std::size_t at = program_.step.size();
      if (run > 1) program_.step.push_back({.kind = Node::Kind::repeat, .count = run});
      micro_batch(gradients(m));
      if (run > 1) program_.step[at].size = static_cast<std::uint32_t>(program_.step.size() - at);
      m += run;
    }
  }

  FragmentKey key_at(std::int64_t p, const Gradients& gradients) const {
    FragmentKey key;
    schedule_.describe(p, key);
    key.accumulate_gradients = gradients.accumulate_full;
    key.accumulate_shard = gradients.accumulate_shard;
    const bool backward = p >= schedule_.head();
    key.reduce = backward && gradients.reduce;
    if (!backward) key.accumulate_gradients = key.accumulate_shard = false;
    const bool retires = backward && p > schedule_.head() && q_.plan.overlap_comm && q_.plan.stage >= 2;
    if (retires) {
      const bool previous_is_head = p == schedule_.head() + 1;
      key.previous = static_cast<std::int8_t>(previous_is_head ? UnitKind::head : UnitKind::block);
      if (!previous_is_head) key.previous_delta = static_cast<std::int16_t>(schedule_.block(p - 1) - schedule_.block(p));
    }
    if (schedule_.is_block_forward(p) || schedule_.is_block_backward(p)) {
      key.visit = schedule_.is_block_forward(p) ? Visit::block_forward : Visit::block_backward;
      key.keep = schedule_.block(p) < q_.plan.recomputed_blocks ? q_.plan.keep : KeepSet::all();
    }
    return key;
  }

  void micro_batch(const Gradients& gradients) {
    std::vector<Node>& nodes = program_.step;
    visit(nodes, Visit::micro_batch_begin, UnitKind::embedding);
    FragmentKey key = key_at(0, gradients);
    key.visit = Visit::embedding_forward;
    append_leaf(nodes, leaf(fragment(key), 0, 0));
    blocks(1, schedule_.head(), gradients);
    head(gradients);
    blocks(schedule_.head() + 1, schedule_.positions() - 1, gradients);
    key = key_at(schedule_.positions() - 1, gradients);
    key.visit = Visit::embedding_backward;
    append_leaf(nodes, leaf(fragment(key), 0, 0));
  }

  void blocks(std::int64_t from, std::int64_t to, const Gradients& gradients) {
    for (std::int64_t p = from; p < to;) {
      const FragmentKey key = key_at(p, gradients);
      std::int64_t end = p + 1;
      while (end < to && key_at(end, gradients) == key) ++end;
      const std::int64_t step = schedule_.is_block_forward(p) ? 1 : -1;
      append_repeat(program_.step, end - p, leaf(fragment(key), schedule_.block(p), end - p > 1 ? step : 0));
      p = end;
    }
  }

  void head(const Gradients& gradients) {
    const std::int64_t T = q_.tokens_per_micro_batch(), C = std::min(q_.plan.loss_chunk_tokens, T), L = q_.job.model.num_layers;
    std::vector<Node>& nodes = program_.step;
    FragmentKey all = key_at(schedule_.head(), gradients);
    FragmentKey begin = all;
    begin.visit = Visit::head_begin;
    begin.release = begin.release_embedding = begin.reduce = false;
    append_leaf(nodes, leaf(fragment(begin), L, 0));

    FragmentKey chunk;
    chunk.visit = Visit::head_chunk;
    chunk.chunk_tokens = C;
    chunk.chunk_accumulates = gradients.accumulate_full;
    append_leaf(nodes, leaf(fragment(chunk), L, 0));
    chunk.chunk_accumulates = true;
    chunk.chunk_offset_tokens = C;
    const std::int64_t whole = T / C, rest = T % C;
    chunk.chunk_loops = whole > 2;
    if (whole > 1) append_repeat(nodes, whole - 1, leaf(fragment(chunk), L, 0));
    if (rest > 0) {
      chunk.chunk_loops = false;
      chunk.chunk_tokens = rest;
      chunk.chunk_offset_tokens = whole * C;
      append_leaf(nodes, leaf(fragment(chunk), L, 0));
    }
    FragmentKey end = all;
    end.visit = Visit::head_end;
    end.gather_count = 0;
    std::fill(std::begin(end.gathers), std::end(end.gathers), Gather{});
    end.wait_gather = false;
    append_leaf(nodes, leaf(fragment(end), L, 0));
  }

  void optimizer_step() {
    for_units(program_.step, Visit::norm);
    visit(program_.step, Visit::norm_end, UnitKind::head);
    for_units(program_.step, Visit::update);
    visit(program_.step, Visit::step_end, UnitKind::head);
  }

  ContextEntry& entry_;
  const Question& q_;
  Program& program_;
  Schedule schedule_;
};

}  // namespace

Compiler::Compiler() : cache_(std::make_unique<Cache>()) {}
Compiler::~Compiler() = default;
Compiler::Compiler(Compiler&&) noexcept = default;
Compiler& Compiler::operator=(Compiler&&) noexcept = default;

Program Compiler::compile(const Question& question, std::int64_t rank) {
  auto& slot = cache_->contexts[context_key(question, rank)];
  if (!slot) slot = std::make_unique<ContextEntry>(question, rank);
  Program program;
  program.question = question;
  program.rank = rank;
  program.storages = slot->context.storages;
  Builder(*slot, program.question, program).build();
  return program;
}

Program compile(const Question& question, std::int64_t rank) { return Compiler().compile(question, rank); }

}  // namespace zeroplan
