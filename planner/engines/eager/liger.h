// Liger's kernels around a Llama's block (Hsu et al. 2024, arXiv 2410.10989; liger_kernel/ops/rms_norm.py, swiglu.py, rope.py), which tools put in together with its
// fused loss (ops_loss.h): each saves its inputs and writes its gradients over what came in.
// Triton kernels do not run under fake tensors: written down from the source, not compared with a run. Gemma 2's norms, which are not in place, are taken as in place.
#pragma once

#include "planner/engines/eager/eager.h"

namespace zeroplan::eager {

/// LigerRMSNormFunction: saves x and an fp32 number a row.
Tensor liger_rms_norm(const Tensor& x, const Tensor& weight);
/// LigerSiLUMulFunction (and LigerGELUMulFunction): act(gate) × up; backward leaves the gradients in gate and up.
Tensor liger_gated(const Tensor& gate, const Tensor& up);
/// LigerRopeFunction on [batch, heads, tokens, head_dim], in place.
void liger_rotate(Tensor& q, Tensor& k, const Tensor& cos, const Tensor& sin);

}  // namespace zeroplan::eager
