// bitsandbytes' 4-bit weights (QLoRA; Dettmers et al. 2023, arXiv 2305.14314; bitsandbytes/nn/modules.py Linear4bit, autograd/_functions.py MatMul4Bit, functional.py).
// A frozen weight of n elements is kept as n / 2 bytes (two 4-bit codes in one) and statistics: one fp32 maximum for every 64 elements, or with double
// quantisation one byte for each of these and an fp32 for every 256 of them. Statistics are no parameters: engines shard and gather the packed weight only.
// A product dequantises the whole weight into a temporary of the compute dtype, forward and again in backward; autograd keeps the packed weight.
// Leaves out 8-bit weights (LLM.int8) and the fused kernel that newer releases take for a handful of tokens.
#pragma once

#include "planner/engines/eager/hf_models.h"

namespace zeroplan::eager {

inline constexpr std::int64_t kQuantisedBlockElems = 64;      ///< that share a maximum
inline constexpr std::int64_t kStatisticsBlockElems = 256;    ///< maxima that share one, of double quantisation
inline constexpr std::int64_t kFourBitCodes = 16, kEightBitCodes = 256;  ///< entries of the tables of values, fp32

/// What a packed weight is dequantised with (QuantState).
struct QuantStatistics {
  Tensor maxima;                    ///< fp32, or bytes of double quantisation
  Tensor codes;
  Tensor outer_maxima, outer_codes, offset;  ///< of double quantisation
  Shape shape;                      ///< of the weight
  ScalarType type = ScalarType::bf16;
};

/// bnb.matmul_4bit on x [..., in]; `packed` is the weight as it is stored.
Tensor matmul_4bit(const Tensor& x, const Tensor& packed, const QuantStatistics& statistics, const Tensor& bias);

class Linear4bit : public Module {
 public:
  Linear4bit(Context& context, std::int64_t in, std::int64_t out, bool has_bias, ScalarType type, const FourBitWeights& weights);

 protected:
  Tensors forward(Arguments& arguments) override;

 private:
  QuantStatistics statistics_;
};

}  // namespace zeroplan::eager
