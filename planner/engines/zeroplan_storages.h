// Every storage that a Program of the zeroplan engine can have, with its size for a question. A storage that a plan does not need has 0 bytes.
// Letters as in planner/README.md: T tokens of a micro batch, n ranks, Ψu parameters of a unit (padded), b bytes of the compute dtype.
#pragma once

#include <vector>

#include "planner/core/program.h"

namespace zeroplan::ours {

/// Ids of storages. The per-unit families come in the order embedding, block, head: use of(family, kind).
enum Id : StorageId {
  kTokens, kTargets, kRopeTable, kScalars,
  kParameters, kParametersBlock, kParametersHead,          // full below stage 3, own shard at stage 3
  kGathered, kGatheredBlock, kGatheredHead,                // stage 3: whole unit while in use
  kGradients, kGradientsBlock, kGradientsHead,             // whole unit
  kGradientShard, kGradientShardBlock, kGradientShardHead, // stages 2, 3
  kMaster, kMasterBlock, kMasterHead,                      // bf16 only
  kMoment1, kMoment1Block, kMoment1Head,
  kMoment2, kMoment2Block, kMoment2Head,
  kX, kAttentionRstd, kQkv, kQk, kQkRstd, kAttentionOut, kLse, kResidual, kFfnRstd, kGateUp,  // per block, kept or recomputed
  kAttentionNormed, kFfnNormed, kAct,                                                         // forward only
  kAttentionNormedAgain, kFfnNormedAgain, kFfnGradient, kNormedGradient, kAttentionOutGradient, kQkvGradient,  // backward only
  kStream, kHeadRstd, kLogits, kLosses,
  kCount
};

constexpr StorageId of(Id family, UnitKind kind) { return static_cast<StorageId>(family + static_cast<int>(kind)); }

/// The scalars of a step, fp64: what kScalars holds.
enum Scalar : int { kLossSum, kNormSquared, kClipCoefficient, kScalarCount };

std::vector<Storage> storages_of(const Question& question);

}  // namespace zeroplan::ours
