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

struct FragmentKey {
  Visit visit = Visit::init;
  UnitKind unit = UnitKind::block;        ///< norm, update: whose
  KeepSet keep = KeepSet::all();          ///< block visits: what forward keeps
  bool wait_gather = false;               ///< the unit's gather was issued: wait for event register 0
  bool release = false;                   ///< stage 3: the gathered unit dies here
  bool release_embedding = false;         ///< tied head: the gathered embedding dies here
  bool accumulate_gradients = false;      ///< adds to whole gradients of an earlier micro batch (stages 0, 1)
  bool accumulate_shard = false;          ///< adds to the gradient shard of an earlier micro batch (stages 2, 3)
  bool reduce = false;                    ///< the unit's gradient is complete for this micro batch: reduce it
  bool first_unit = false;                ///< norm: the first, overwrites the sum
  std::int8_t previous = -1;              ///< overlapped reduction to wait for: UnitKind of the unit visited before, or none
  std::int16_t previous_delta = 0;
  bool chunk_accumulates = false;         ///< head_chunk: adds to the head's gradient
  bool chunk_loops = false;               ///< head_chunk: inside a loop over chunks, whose counter moves its rows
  std::int64_t chunk_tokens = 0, chunk_offset_tokens = 0;
  std::uint8_t gather_count = 0;
  Gather gathers[kMaxGathers] = {};
  friend bool operator==(const FragmentKey&, const FragmentKey&) = default;
};
std::size_t hash_of(const FragmentKey& key);

/// What all fragments of a question share.
struct FragmentContext {
  Question question;
  std::int64_t rank = 0;
  std::vector<Storage> storages;
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
