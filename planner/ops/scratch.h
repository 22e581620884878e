// Scratch of the CPU kernels, to the byte: what the planner declares for an instruction and what executor/kernels takes, from one definition.
// A list (…_takes) names the element counts in the order a kernel takes them; a …_scratch_bytes function is the bytes of that list.
// Every element is an accumulator (fp32, or fp64 in fp64 tests) and every take begins at a multiple of kScratchAlignmentBytes.
// Why there is any: products of bf16 matrices are computed on fp32 copies, because oneDNN's bf16 products take memory of no
// predictable size; sums over rows need a place that is wider than bf16. Ops without a function here take none. CUDA declares its own.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "planner/core/dtype.h"
#include "planner/core/units.h"

namespace zeroplan {

inline constexpr std::int64_t kScratchAlignmentBytes = 64;
/// Query rows that attention handles at a time: its scores matrix is kAttentionTileRows × S and not S × S.
inline constexpr std::int64_t kAttentionTileRows = 64;

/// A matrix product in [rows, in_columns] × weight [out_columns, in_columns] → out [rows, out_columns], or one of its two gradients.
struct LinearShape {
  std::int64_t rows = 0, in_columns = 0, out_columns = 0;

  constexpr std::int64_t in_elems() const { return checked_multiply(rows, in_columns); }
  constexpr std::int64_t weight_elems() const { return checked_multiply(out_columns, in_columns); }
  constexpr std::int64_t out_elems() const { return checked_multiply(rows, out_columns); }
};

/// Attention's scratch depends on neither batch nor heads: they are handled one after the other.
struct AttentionShape {
  std::int64_t seq = 0, head_dim = 0;

  constexpr std::int64_t tile_rows() const { return std::min(kAttentionTileRows, seq); }
  constexpr std::int64_t scores_elems() const { return checked_multiply(tile_rows(), seq); }
  constexpr std::int64_t tile_elems() const { return checked_multiply(tile_rows(), head_dim); }
  constexpr std::int64_t head_elems() const { return checked_multiply(seq, head_dim); }
};

/// Elements of the fp32 copy of a matrix: its size for bf16, none for a dtype that is multiplied where it lies.
constexpr std::int64_t copy_elems(Dtype dtype, std::int64_t elems) { return dtype == Dtype::bf16 ? elems : 0; }

/// in, weight, out.
constexpr std::array<std::int64_t, 3> linear_takes(Dtype compute, LinearShape shape) {
  return {copy_elems(compute, shape.in_elems()), copy_elems(compute, shape.weight_elems()), copy_elems(compute, shape.out_elems())};
}

/// dout, weight, din.
constexpr std::array<std::int64_t, 3> linear_dgrad_takes(Dtype compute, LinearShape shape) {
  return {copy_elems(compute, shape.out_elems()), copy_elems(compute, shape.weight_elems()), copy_elems(compute, shape.in_elems())};
}

/// dout, in, dweight, dbias. A gradient kept in fp32 is written where it lies.
constexpr std::array<std::int64_t, 4> linear_wgrad_takes(Dtype compute, Dtype gradient, LinearShape shape, bool bias) {
  return {copy_elems(compute, shape.out_elems()), copy_elems(compute, shape.in_elems()), copy_elems(gradient, shape.weight_elems()),
          bias ? shape.out_columns : 0};
}

/// scores; q tile, out tile; k, v.
constexpr std::array<std::int64_t, 5> attention_takes(Dtype compute, AttentionShape shape) {
  const std::int64_t tile = copy_elems(compute, shape.tile_elems()), head = copy_elems(compute, shape.head_elems());
  return {shape.scores_elems(), tile, tile, head, head};
}

/// probabilities, gradient of the scores, row sums; q, dout, dq tiles; k, v, dk, dv.
constexpr std::array<std::int64_t, 10> attention_backward_takes(Dtype compute, AttentionShape shape) {
  const std::int64_t tile = copy_elems(compute, shape.tile_elems()), head = copy_elems(compute, shape.head_elems());
  return {shape.scores_elems(), shape.scores_elems(), shape.tile_rows(), tile, tile, tile, head, head, head, head};
}

/// dweight.
constexpr std::array<std::int64_t, 1> rms_norm_backward_takes(std::int64_t columns) { return {columns}; }

/// dquery_weight, dkey_weight.
constexpr std::array<std::int64_t, 2> qk_norm_rope_backward_takes(std::int64_t head_dim) { return {head_dim, head_dim}; }

template <std::size_t N>
constexpr std::int64_t bytes_of_takes(Dtype compute, const std::array<std::int64_t, N>& takes) {
  const std::int64_t accumulator_bytes = compute == Dtype::fp64 ? size_of(Dtype::fp64) : size_of(Dtype::fp32);
  Bytes total;
  for (const std::int64_t elems : takes) total += Bytes(round_up(checked_multiply(elems, accumulator_bytes), kScratchAlignmentBytes));
  return total.value();
}

constexpr std::int64_t linear_scratch_bytes(Dtype compute, LinearShape shape) { return bytes_of_takes(compute, linear_takes(compute, shape)); }
constexpr std::int64_t linear_dgrad_scratch_bytes(Dtype compute, LinearShape shape) { return bytes_of_takes(compute, linear_dgrad_takes(compute, shape)); }
constexpr std::int64_t linear_wgrad_scratch_bytes(Dtype compute, Dtype gradient, LinearShape shape, bool bias) {
  return bytes_of_takes(compute, linear_wgrad_takes(compute, gradient, shape, bias));
}
constexpr std::int64_t attention_scratch_bytes(Dtype compute, AttentionShape shape) { return bytes_of_takes(compute, attention_takes(compute, shape)); }
constexpr std::int64_t attention_backward_scratch_bytes(Dtype compute, AttentionShape shape) {
  return bytes_of_takes(compute, attention_backward_takes(compute, shape));
}
constexpr std::int64_t rms_norm_backward_scratch_bytes(Dtype compute, std::int64_t columns) { return bytes_of_takes(compute, rms_norm_backward_takes(columns)); }
constexpr std::int64_t qk_norm_rope_backward_scratch_bytes(Dtype compute, std::int64_t head_dim) {
  return bytes_of_takes(compute, qk_norm_rope_backward_takes(head_dim));
}

}  // namespace zeroplan
