// Ulysses sequence parallelism (Jacobs et al. 2023, arXiv 2309.14509) around transformers' attention, as DeepSpeed's UlyssesSPAttentionHF
// (deepspeed 0.19.8, runtime/sequence_parallel/ulysses_sp.py) does it: each rank has the tokens of its piece of the sequence with all heads; an all-to-all
// for each of q, k and v turns that into all tokens with its share of the heads, and one turns the result back. Fewer key heads than ranks are repeated.
// Every exchange has a buffer that is sent and one that is received, each as large as this rank's part; backward exchanges the gradients likewise.
// Leaves out ring attention.
#pragma once

#include "planner/engines/eager/hf_attention.h"

namespace zeroplan::eager {

/// Whether config.sequence_ranks ranks can share the heads.
bool shares_heads(const HfConfig& config);

/// attend() on q, k and v of this rank's tokens: [batch, heads, tokens, head_dim]. The result's `out` is [batch, tokens, 1, heads × head_dim].
Attended ulysses_attend(const HfConfig& config, Tensors qkv);

}  // namespace zeroplan::eager
