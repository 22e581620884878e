// The yardstick of parity_test.cpp: the same models written a second time, as Hugging Face writes them (whole tensors, separate projections, repeated key/value
// heads, a materialised causal mask, one cross entropy over all tokens), differentiated by libtorch's autograd. It shares nothing with
// executor/ but the order of parameters in a flat buffer (planner/core/model.h). Leaves out chunks, stages, optimizer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planner/core/model.h"

namespace zeroplan::testing {

/// Values of every unit's flat buffer (gaps included), in fp32.
struct FlatUnits {
  std::vector<float> embedding;
  std::vector<std::vector<float>> blocks;
  std::vector<float> head;

  std::vector<float>& of(UnitKind unit, std::int64_t block);
  const std::vector<float>& of(UnitKind unit, std::int64_t block) const { return const_cast<FlatUnits*>(this)->of(unit, block); }
};

/// Buffers of the model's sizes, zeroed.
FlatUnits zeroed_units(const Model& model);

/// One leaf of the autograd graph and its gradient: rows × columns from offset_elems of its unit's flat buffer.
struct ReferenceGradient {
  std::string name;  ///< "model.layers.1.self_attn.q_proj.weight"
  UnitKind unit = UnitKind::block;
  std::int64_t block = 0;
  std::int64_t offset_elems = 0;
  std::vector<double> values;
};

struct ReferenceBatch {
  std::int64_t sequences = 0, seq = 0;
  std::vector<std::int32_t> tokens, targets;  ///< sequences · seq
};

struct ReferenceResult {
  double loss = 0;  ///< mean over all tokens of all batches (which are equally large)
  std::vector<ReferenceGradient> gradients;
};

enum class ReferencePrecision : std::uint8_t { fp32, fp64 };

ReferenceResult reference_step(const Model& model, const FlatUnits& parameters, const std::vector<ReferenceBatch>& batches, ReferencePrecision precision);

}  // namespace zeroplan::testing
