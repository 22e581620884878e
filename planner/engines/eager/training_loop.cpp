#include "planner/engines/eager/training_loop.h"

namespace zeroplan::eager {

void MachineBehaviour::apply_to(Context& context) const {
  context.out_of_place_accumulation = out_of_place_accumulation;
  context.layer_norm_keeps_input_type = layer_norm_keeps_input_type;
  context.composite_silu_backward = composite_silu_backward;
  context.fused_rms_norm = fused_rms_norm;
  context.host = host;
}

std::int64_t PhasePeaks::peak_bytes(const std::string& phase, Place place) const {
  for (const PhasePeak& p : phases)
    if (p.name == phase) return p.bytes[static_cast<int>(place)];
  return 0;
}

}  // namespace zeroplan::eager
