// The fragments of the zeroplan engine: each is one visit of one unit (a block's forward, a block's backward with what it must recompute, the
// head, an optimizer step of one unit). FragmentKey says all that a fragment depends on besides the question's sizes, and is its memo key.
// Leaves out in which order visits come and what is gathered when: zeroplan.cpp.
#pragma once

#include <memory>
#include <vector>

#include "planner/core/program.h"
#include "planner/engines/zeroplan_storages.h"
#include "planner/ops/op_table.h"

namespace zeroplan::ours {

enum class Visit : std::uint8_t {
  init, micro_batch_begin, embedding_forward, block_forward, head_begin, head_chunk, head_end, block_backward, embedding_backward,
  norm, norm_end, update, step_end
};

/// One gather issued at the start of a visit: which unit, where its blocks are relative to the visit's, into which event register.
struct Gather {
  UnitKind unit = UnitKind::block;
  std::int16_t delta = 0;
  std::uint8_t event = 0;
  friend bool operator==(const Gather&, const Gather&) = default;
};
inline constexpr int kMaxGathers = 12;

/// Stage 3: what one position of the schedule does with gathered units.
struct Moves {
  std::uint8_t gather_count = 0;
  Gather gathers[kMaxGathers] = {};
  bool wait_gather = false;        ///< the unit's gather was issued: wait for event register 0
  bool release = false;            ///< the gathered unit dies here
  bool release_embedding = false;  ///< tied head: the gathered embedding dies here
  friend bool operator==(const Moves&, const Moves&) = default;
};
inline constexpr Moves kNoMoves{};

/// head_chunk: which rows of the micro batch's tokens it covers. C tokens a chunk, `whole` chunks of C, then the rest.
enum class Chunk : std::uint8_t {
  first,   ///< [0, C), or all tokens if they are fewer
  second,  ///< [C, 2C)
  looped,  ///< [C, 2C), moved on by C with every count of the loop around it
  rest     ///< [whole·C, T)
};

struct FragmentKey {
  const Moves* moves = &kNoMoves;         ///< one object a value (Schedule), so that keys compare addresses
  Visit visit = Visit::init;
  UnitKind unit = UnitKind::block;        ///< init, norm, update: whose
  KeepSet keep = KeepSet::all();          ///< block visits: what forward keeps
  bool accumulate_gradients = false;      ///< adds to whole gradients of an earlier micro batch (stages 0, 1)
  bool accumulate_shard = false;          ///< adds to the gradient shard of an earlier micro batch (stages 2, 3)
  bool reduce = false;                    ///< the unit's gradient is complete for this micro batch: reduce it
  bool first_unit = false;                ///< norm: the first, overwrites the sum
  std::int8_t previous = -1;              ///< overlapped reduction to wait for: UnitKind of the unit visited before, or none
  std::int16_t previous_delta = 0;
  Chunk chunk = Chunk::first;             ///< head_chunk
  bool chunk_accumulates = false;         ///< head_chunk: adds to the head's gradient
  friend bool operator==(const FragmentKey&, const FragmentKey&) = default;
};
std::size_t hash_of(const FragmentKey& key);

/// What all fragments of a question share.
struct FragmentContext {
  Question question;
  std::int64_t rank = 0;
  SharedList<Storage> storages;
  OpContext ops;
  std::vector<Parameter> parameters[3];  ///< by UnitKind
  std::int64_t padded_elems[3] = {};
  bool has_gaps[3] = {};  ///< alignment gaps or padding in the unit's flat buffer

  FragmentContext(const Question& question, std::int64_t rank);
  std::int64_t tokens() const { return question.tokens_per_micro_batch(); }
  std::int64_t shard_elems(UnitKind kind) const { return padded_elems[static_cast<int>(kind)] / question.cluster.world_size(); }
};

std::shared_ptr<const Fragment> make_fragment(const FragmentContext& context, const FragmentKey& key);

}  // namespace zeroplan::ours
