// Program: one training step of one rank as data. Storages (stretches of memory that are born, die and get addresses), fragments
// (straight lists of instructions, shared between Programs) and a short tree of sequences and loops over them.
// planner/engines compiles it, planner/price folds it, simulator walks it, planner/layout gives it addresses, executor runs it.
//
// Identity. A storage is an array of instances, one per block where `per_block`, else one. Inside a fragment an operand names
// (storage, delta): instance = block + delta, where the leaf of the tree says block = first + step × counter of the loop around it.
// Order. Memory is born and dies in issue order. Births of an instruction precede it, deaths follow it; its scratch lives for it alone.
// Streams. Instructions of one stream run in order; a wait makes an instruction start after an event or after all that
// another stream was given so far. Event registers rotate: at the end of a fragment with `rotates_events`, register j takes the value of j + 1.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "planner/core/dtype.h"
#include "planner/core/model.h"
#include "planner/core/plan.h"
#include "planner/core/units.h"

namespace zeroplan {

enum class Category : std::uint8_t {
  parameters, gradients, optimizer, activations, logits_and_loss, gathered_parameters, communication_buffers, scratch
};
inline constexpr int kCategoryCount = 8;
std::string_view name_of(Category category);

enum class Stream : std::uint8_t { compute, gather, reduce, h2d, d2h };
inline constexpr int kStreamCount = 5;
std::string_view name_of(Stream stream);

enum class Phase : std::uint8_t { init, forward, backward, step };
std::string_view name_of(Phase phase);

/// Where a storage lives. One kind so far; offload adds pinned host memory and more.
enum class MemoryKind : std::uint8_t { device };

using StorageId = std::uint16_t;

/// One stretch of memory. name and why are literals: "block.qkv", "saved for backward of attention".
struct Storage {
  std::string_view name;
  std::string_view why;
  Category category = Category::scratch;
  UnitKind unit = UnitKind::block;
  MemoryKind memory = MemoryKind::device;
  bool per_block = false;  ///< one instance a block (block inputs: L + 1), else one
  Bytes bytes;             ///< of one instance; 0: this plan has no such storage
};

/// A storage instance as seen from inside a fragment.
struct InstanceRef {
  StorageId storage = 0;
  std::int16_t delta = 0;  ///< added to the leaf's block index; meaningless unless per_block
  friend bool operator==(InstanceRef, InstanceRef) = default;
};

enum class Op : std::uint8_t {
  // data and forward
  load_batch, embedding, rms_norm, rms_norm_apply, linear, rope, qk_norm_rope, attention, swiglu, cross_entropy, loss_sum,
  // backward
  embedding_backward, rms_norm_backward, linear_dgrad, linear_wgrad, rope_backward, qk_norm_rope_backward, attention_backward, swiglu_backward,
  // gradients and optimizer
  zero_gaps, accumulate_shard, grad_norm, clip_coefficient, adamw, initialize,
  // collectives
  all_gather, reduce_scatter, all_reduce,
  // nothing runs: births, deaths and waits only
  boundary,
};
inline constexpr int kOpCount = static_cast<int>(Op::boundary) + 1;

constexpr bool is_collective(Op op) { return op == Op::all_gather || op == Op::reduce_scatter || op == Op::all_reduce; }

/// What an instruction does with an operand.
enum class Access : std::uint8_t { read, write, update };  ///< update: reads and writes

/// A row-major matrix inside a storage instance: element (i, j) at offset_bytes + counter × offset_step_bytes + (i·row_stride + j)·size.
struct Operand {
  InstanceRef instance;
  Access access = Access::read;
  Dtype dtype = Dtype::fp32;
  std::int64_t offset_bytes = 0;
  std::int64_t offset_step_bytes = 0;  ///< × the counter of the loop around the leaf (loss chunks)
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t row_stride = 0;  ///< elements

  std::int64_t elems() const { return rows * columns; }
};

/// Start after the event in a register, or after everything issued to a stream so far.
struct Wait {
  enum class Kind : std::uint8_t { event, tail } kind = Kind::tail;
  Stream stream = Stream::compute;  ///< tail only
  std::uint8_t event = 0;           ///< event only
};

inline constexpr std::uint8_t kNoEvent = 255;

/// Operands, births, deaths and waits are ranges of the fragment's pools.
struct Instruction {
  Op op = Op::boundary;
  Stream stream = Stream::compute;
  UnitKind unit = UnitKind::block;
  bool accumulate = false;      ///< adds to its output instead of overwriting it (see the op table)
  std::uint8_t record = kNoEvent;  ///< event register set when this instruction completes
  std::uint16_t operands_begin = 0, operands_end = 0;
  std::uint16_t births_begin = 0, births_end = 0;
  std::uint16_t deaths_begin = 0, deaths_end = 0;
  std::uint16_t waits_begin = 0, waits_end = 0;
  Bytes scratch_bytes;
  Bytes born_bytes, dead_bytes;  ///< sums over births and deaths, so that a fold needs no look-ups
};

/// What a fragment does to memory, seen from outside: net bytes left behind, highest point above its start, where.
struct FragmentMemory {
  Bytes net, peak;
  std::uint16_t peak_instruction = 0;
  std::int64_t net_by_category[kCategoryCount] = {};
  std::int64_t peak_by_category[kCategoryCount] = {};  ///< above the start, at peak_instruction, scratch included
};

/// Payload of a fragment's collectives, as the ZeRO paper counts it: a full buffer's bytes; an all-reduce counts twice (executor/collectives.h).
struct Traffic {
  std::int64_t all_gather_bytes = 0, reduce_scatter_bytes = 0, all_reduce_bytes = 0;
  friend bool operator==(const Traffic&, const Traffic&) = default;
};

/// A straight list of instructions. Immutable once built; shared between Programs that need the same one.
struct Fragment {
  // What a price reads comes first, so that it shares cache lines.
  Phase phase = Phase::forward;
  UnitKind unit = UnitKind::block;
  bool rotates_events = false;
  Traffic traffic;
  FragmentMemory memory;
  std::string_view name;  ///< "block.backward"
  std::vector<Instruction> instructions;
  std::vector<Operand> operands;
  std::vector<InstanceRef> births, deaths;
  std::vector<Wait> waits;

  struct Range { const Operand* first; const Operand* last; const Operand* begin() const { return first; } const Operand* end() const { return last; }
                 std::size_t size() const { return static_cast<std::size_t>(last - first); } const Operand& operator[](std::size_t i) const { return first[i]; } };
  Range operands_of(const Instruction& i) const { return {operands.data() + i.operands_begin, operands.data() + i.operands_end}; }
};

/// A node of the tree, in preorder: the children of nodes[i] are the nodes up to i + size.
struct Node {
  enum class Kind : std::uint8_t { leaf, sequence, repeat } kind = Kind::leaf;
  std::uint16_t fragment = 0;  ///< leaf
  std::int32_t first = 0;      ///< leaf: block = first + step × counter of the innermost loop
  std::int32_t step = 0;
  std::int64_t count = 1;      ///< repeat
  std::uint32_t size = 1;      ///< nodes of this subtree, itself included
};

/// A list that never changes, shared by the Programs that have the same one: a copy is a reference.
template <class T>
class SharedList {
 public:
  SharedList() = default;
  SharedList(std::vector<T> items) : owner_(std::make_shared<const std::vector<T>>(std::move(items))), first_(owner_->data()), size_(owner_->size()) {}
  SharedList(std::initializer_list<T> items) : SharedList(std::vector<T>(items)) {}

  const T& operator[](std::size_t i) const { return first_[i]; }
  const T* begin() const { return first_; }
  const T* end() const { return first_ + size_; }
  std::size_t size() const { return size_; }

 private:
  std::shared_ptr<const std::vector<T>> owner_;
  const T* first_ = nullptr;
  std::size_t size_ = 0;
};

struct Program {
  Question question;
  std::int64_t rank = 0;
  SharedList<Storage> storages;  ///< by StorageId
  std::vector<std::shared_ptr<const Fragment>> fragments;
  std::vector<Node> init;  ///< once: births of everything that persists
  std::vector<Node> step;  ///< one optimizer step; every step is this one
  int event_registers = 0;

  /// Length in elements of a unit's flat buffer padded so that every rank's shard is equal and aligned.
  std::int64_t padded_elems(UnitKind kind) const;
  std::int64_t shard_elems(UnitKind kind) const;
};

/// Elements of a unit's padded flat buffer: a multiple of ranks × kParameterAlignment (shards that keep AdamW's vector lanes whole, so
/// that every stage computes the same bits).
std::int64_t padded_unit_elems(const Model& model, UnitKind kind, std::int64_t ranks);

/// One instruction of the unrolled Program.
struct UnrolledInstruction {
  std::uint16_t fragment = 0;
  std::uint16_t instruction = 0;
  std::int32_t block = 0;
  std::int64_t counter = 0;
  bool last_of_fragment = false;  ///< events rotate after it if the fragment says so
};

/// Calls visit(const Fragment&, fragment index, instruction index, block, counter, is last of its fragment) for each instruction in issue order.
template <class Visit>
void for_each_instruction(const Program& program, const std::vector<Node>& nodes, Visit&& visit);

/// The whole issue order of a tree as a list.
std::vector<UnrolledInstruction> unroll(const Program& program, const std::vector<Node>& nodes);

namespace detail {
template <class Visit>
void visit_node(const Program& program, const std::vector<Node>& nodes, std::size_t at, std::int64_t counter, Visit& visit) {
  const Node& node = nodes[at];
  switch (node.kind) {
    case Node::Kind::leaf: {
      const Fragment& fragment = *program.fragments[node.fragment];
      const auto block = static_cast<std::int32_t>(node.first + node.step * counter);
      for (std::size_t i = 0; i < fragment.instructions.size(); ++i)
        visit(fragment, node.fragment, i, block, counter, i + 1 == fragment.instructions.size());
      return;
    }
    case Node::Kind::sequence:
      for (std::size_t child = at + 1; child < at + node.size; child += nodes[child].size) visit_node(program, nodes, child, counter, visit);
      return;
    case Node::Kind::repeat:
      for (std::int64_t k = 0; k < node.count; ++k)
        for (std::size_t child = at + 1; child < at + node.size; child += nodes[child].size) visit_node(program, nodes, child, k, visit);
      return;
  }
}
}  // namespace detail

template <class Visit>
void for_each_instruction(const Program& program, const std::vector<Node>& nodes, Visit&& visit) {
  for (std::size_t at = 0; at < nodes.size(); at += nodes[at].size) detail::visit_node(program, nodes, at, 0, visit);
}

}  // namespace zeroplan
