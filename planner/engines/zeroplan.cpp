// Schedule of the zeroplan engine.
//
// A micro batch visits units in positions: 0 embedding, 1..L blocks forward, L+1 head (forward and backward at once, chunk by chunk),
// L+2..2L+1 blocks backward in reverse, 2L+2 embedding backward (which needs no parameters). At stage 3, position p issues the gathers of position
// p + prefetch and releases what p used, unless it is used again within the prefetch distance: then it just stays. That is a position's Moves
// (Schedule, derived once for a number of blocks and a distance). Every position thus becomes a FragmentKey, equal neighbours become a loop, and the
// tree has a dozen nodes whatever L is. Cost of a compile whose fragments are remembered: one look-up a node.
#include "planner/engines/zeroplan.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <optional>
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

/// What a Schedule depends on. distance is absent below stage 3: nothing is gathered.
struct ScheduleKey {
  std::int64_t blocks = 0;
  bool tied = false;
  std::optional<std::int64_t> distance;
  friend auto operator<=>(const ScheduleKey&, const ScheduleKey&) = default;
};

// Use-sequence of positions, and the stage-3 gathers and releases along it.
class Schedule {
 public:
  explicit Schedule(const ScheduleKey& key);
  Schedule(const Schedule&) = delete;  // Positions and FragmentKeys point into it
  Schedule& operator=(const Schedule&) = delete;

  std::int64_t positions() const { return 2 * L_ + 3; }
  std::int64_t head() const { return L_ + 1; }
  /// The block a leaf at this position is addressed by: its own, or 0 / L for embedding and head.
  std::int64_t block(std::int64_t p) const {
    if (p <= L_) return std::max<std::int64_t>(p - 1, 0);
    return p == head() ? L_ : std::max<std::int64_t>(2 * L_ + 1 - p, 0);
  }
  const Moves& moves(std::int64_t p) const { return *at_[static_cast<std::size_t>(p)].moves; }
  /// The first position after p whose Moves are not p's.
  std::int64_t change_after(std::int64_t p) const { return at_[static_cast<std::size_t>(p)].change_after; }

 private:
  struct Use { UnitKind unit; std::int64_t block; };
  struct Position { const Moves* moves; std::int64_t change_after; };
  int uses(std::int64_t p, Use (&out)[2]) const;
  bool used_within(Use use, std::int64_t after, std::int64_t last) const;
  bool gathered_for(Use use, std::int64_t p) const;
  Moves moves_at(std::int64_t p) const;

  std::int64_t L_, distance_;
  bool tied_;
  std::deque<Moves> distinct_;  // a deque, because Positions point into it while it grows
  std::vector<Position> at_;
};

Schedule::Schedule(const ScheduleKey& key) : L_(key.blocks), distance_(key.distance.value_or(0)), tied_(key.tied) {
  at_.resize(static_cast<std::size_t>(positions()), {&kNoMoves, positions()});
  if (!key.distance) return;
  for (std::int64_t p = 0; p < positions(); ++p) {
    const Moves moves = moves_at(p);
    auto same = std::find(distinct_.rbegin(), distinct_.rend(), moves);  // mostly its predecessor's
    if (same == distinct_.rend()) same = (distinct_.push_back(moves), distinct_.rbegin());
    at_[static_cast<std::size_t>(p)].moves = &*same;
  }
  for (std::size_t p = at_.size() - 1; p-- > 0;) at_[p].change_after = at_[p].moves == at_[p + 1].moves ? at_[p + 1].change_after : static_cast<std::int64_t>(p + 1);
}

int Schedule::uses(std::int64_t p, Use (&out)[2]) const {
  if (p == 0) { out[0] = {UnitKind::embedding, 0}; return 1; }
  if (p == head()) {
    out[0] = {UnitKind::head, 0};
    out[1] = {UnitKind::embedding, 0};
    return tied_ ? 2 : 1;
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

// A position's units are gathered for it, unless their last use before is at most the distance back: then they were kept.
bool Schedule::gathered_for(Use use, std::int64_t p) const { return !used_within(use, std::max<std::int64_t>(p - distance_, 0) - 1, p - 1); }

Moves Schedule::moves_at(std::int64_t p) const {
  Moves moves;
  Use at[2];
  const std::int64_t from = p == 0 ? 0 : p + distance_;
  for (std::int64_t q = from; q <= std::min(p + distance_, positions() - 1); ++q)
    for (int i = 0, n = uses(q, at); i < n; ++i)
      if (gathered_for(at[i], q))
        moves.gathers[moves.gather_count++] = {at[i].unit, static_cast<std::int16_t>(at[i].unit == UnitKind::block ? at[i].block - block(p) : 0),
                                               static_cast<std::uint8_t>(q - p)};
  for (int i = 0, n = uses(p, at); i < n; ++i) {
    moves.wait_gather |= gathered_for(at[i], p);
    (i == 0 ? moves.release : moves.release_embedding) = !used_within(at[i], p, p + distance_);
  }
  return moves;
}

/// A fragment that a Compiler remembers, and its index in the Program that was compiled last of those that use it.
struct Remembered {
  std::shared_ptr<const Fragment> fragment;
  std::uint64_t compilation = 0;
  std::uint16_t index = 0;
};

struct ContextEntry {
  explicit ContextEntry(const Question& question, std::int64_t rank) : context(question, rank) {}
  FragmentContext context;
  std::unordered_map<FragmentKey, Remembered, KeyHash> fragments;
};

}  // namespace

struct Compiler::Cache {
  std::unordered_map<ContextKey, std::unique_ptr<ContextEntry>, ContextHash> contexts;
  std::map<ScheduleKey, Schedule> schedules;  ///< never moved: FragmentKeys point into them
  std::uint64_t compilations = 0;

  const Schedule& schedule_of(const Question& q) {
    const ScheduleKey key{q.job.model.num_layers, q.job.model.tie_embeddings, q.plan.stage == 3 ? std::optional(q.plan.prefetch_units) : std::nullopt};
    return schedules.try_emplace(key, key).first->second;
  }
};

namespace {

// Builds one Program: collects leaves into nodes, equal neighbours into loops.
class Builder {
 public:
  Builder(ContextEntry& entry, const Schedule& schedule, std::uint64_t compilation, Program& program)
      : entry_(entry), schedule_(schedule), compilation_(compilation), q_(program.question), program_(program) {}

  void build() {
    program_.fragments.reserve(40);
    program_.step.reserve(64);
    init();
    micro_batches();
    optimizer_step();
    program_.event_registers = q_.plan.stage == 3 ? static_cast<int>(q_.plan.prefetch_units) + 1 : 0;
  }

 private:
  struct Gradients { bool accumulate_full, accumulate_shard, reduce; friend bool operator==(const Gradients&, const Gradients&) = default; };

  std::uint16_t fragment(const FragmentKey& key) {
    Remembered& remembered = entry_.fragments[key];
    if (!remembered.fragment) remembered.fragment = make_fragment(entry_.context, key);
    if (remembered.compilation != compilation_) {
      remembered.compilation = compilation_;
      remembered.index = static_cast<std::uint16_t>(program_.fragments.size());
      program_.fragments.push_back(remembered.fragment);
    }
    return remembered.index;
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

  bool is_forward(std::int64_t p) const { return p < schedule_.head(); }
  bool is_recomputed(std::int64_t p) const { return schedule_.block(p) < q_.plan.recomputed_blocks; }
  bool overlaps() const { return q_.plan.overlap_comm && q_.plan.stage >= 2; }

  FragmentKey key_at(std::int64_t p, Visit visit, const Gradients& gradients) const {
    FragmentKey key;
    key.moves = &schedule_.moves(p);
    key.visit = visit;
    if (visit == Visit::block_forward || visit == Visit::block_backward) key.keep = is_recomputed(p) ? q_.plan.keep : KeepSet::all();
    if (is_forward(p)) return key;
    key.accumulate_gradients = gradients.accumulate_full;
    key.accumulate_shard = gradients.accumulate_shard;
    key.reduce = gradients.reduce;
    if (p == schedule_.head() || !overlaps()) return key;
    const bool previous_is_head = p == schedule_.head() + 1;
    key.previous = static_cast<std::int8_t>(previous_is_head ? UnitKind::head : UnitKind::block);
    if (!previous_is_head) key.previous_delta = static_cast<std::int16_t>(schedule_.block(p - 1) - schedule_.block(p));
    return key;
  }

  void position(std::int64_t p, Visit visit, const Gradients& gradients) { append_leaf(program_.step, leaf(fragment(key_at(p, visit, gradients)), 0, 0)); }

  void micro_batch(const Gradients& gradients) {
    forward();
    head(gradients);
    blocks(schedule_.head() + 1, schedule_.positions() - 1, Visit::block_backward, gradients);
    position(schedule_.positions() - 1, Visit::embedding_backward, gradients);
  }

  // Forward does not know what becomes of the gradients: all micro batches repeat the nodes of the first.
  void forward() {
    std::vector<Node>& nodes = program_.step;
    if (forward_end_ > forward_begin_) {
      for (std::size_t i = forward_begin_; i < forward_end_; ++i) nodes.push_back(Node(nodes[i]));
      return;
    }
    forward_begin_ = nodes.size();
    visit(nodes, Visit::micro_batch_begin, UnitKind::embedding);
    position(0, Visit::embedding_forward, {});
    blocks(1, schedule_.head(), Visit::block_forward, {});
    forward_end_ = nodes.size();
  }

  // One loop a run of equal keys. They change where the schedule's moves do, between recomputed blocks and others, and after the first block of an
  // overlapped backward, which waits for the head's reduction instead of a block's.
  void blocks(std::int64_t from, std::int64_t to, Visit visit, const Gradients& gradients) {
    const std::int64_t step = visit == Visit::block_forward ? 1 : -1;
    const bool keeps_differ = !(q_.plan.keep == KeepSet::all());
    const std::int64_t first_of_other_keep = step > 0 ? from + q_.plan.recomputed_blocks : to - q_.plan.recomputed_blocks;
    for (std::int64_t p = from; p < to;) {
      std::int64_t end = std::min(to, schedule_.change_after(p));
      if (keeps_differ && p < first_of_other_keep) end = std::min(end, first_of_other_keep);
      if (visit == Visit::block_backward && p == from && overlaps()) end = p + 1;
      append_repeat(program_.step, end - p, leaf(fragment(key_at(p, visit, gradients)), schedule_.block(p), end - p > 1 ? step : 0));
      p = end;
    }
  }

  void head(const Gradients& gradients) {
    const std::int64_t T = q_.tokens_per_micro_batch(), C = std::min(q_.plan.loss_chunk_tokens, T), L = q_.job.model.num_layers;
    const auto append = [&](const FragmentKey& key, std::int64_t times = 1) { append_repeat(program_.step, times, leaf(fragment(key), L, 0)); };
    FragmentKey begin = key_at(schedule_.head(), Visit::head_begin, gradients);
    begin.reduce = false;
    append(begin);
    const auto chunk = [&](Chunk which, std::int64_t times) {
      FragmentKey key;
      key.visit = Visit::head_chunk;
      key.chunk = which;
      key.chunk_accumulates = gradients.accumulate_full || which != Chunk::first;
      append(key, times);
    };
    const std::int64_t whole = T / C;
    chunk(Chunk::first, 1);
    if (whole > 1) chunk(whole > 2 ? Chunk::looped : Chunk::second, whole - 1);
    if (T % C > 0) chunk(Chunk::rest, 1);
    append(key_at(schedule_.head(), Visit::head_end, gradients));
  }

  void optimizer_step() {
    for_units(program_.step, Visit::norm);
    visit(program_.step, Visit::norm_end, UnitKind::head);
    for_units(program_.step, Visit::update);
    visit(program_.step, Visit::step_end, UnitKind::head);
  }

  ContextEntry& entry_;
  const Schedule& schedule_;
  std::uint64_t compilation_;
  const Question& q_;
  Program& program_;
  std::size_t forward_begin_ = 0, forward_end_ = 0;  // nodes of the first micro batch's forward
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
  Builder(*slot, cache_->schedule_of(question), ++cache_->compilations, program).build();
  return program;
}

Program compile(const Question& question, std::int64_t rank) { return Compiler().compile(question, rank); }

}  // namespace zeroplan
