#include "planner/search/answer.h"

#include "planner/layout/layout.h"

namespace zeroplan {

std::string_view name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::fits: return "fits";
    case Verdict::tight: return "tight";
    case Verdict::does_not_fit: return "does_not_fit";
  }
  return "";
}

Outside outside_of(const Cluster& cluster) {
  return {cluster.device.context_bytes, nccl_bytes(cluster.device, cluster.world_size(), kCommunicators), cluster.device.libraries_bytes};
}

double Answer::tokens_per_s_per_gpu() const {
  const double tokens = static_cast<double>(question.tokens_per_micro_batch()) * static_cast<double>(question.plan.accumulate);
  return step_s() > 0 ? tokens / step_s() : 0;
}

double Answer::mfu_ratio() const {
  const double peak = question.cluster.device.peak_bf16_flops_per_s;
  return step_s() > 0 && peak > 0 ? estimate.model_flops / step_s() / peak : 0;
}

Answer answer(const Question& question, Compiler& compiler, Pricer& pricer, bool with_layout) {
  Answer out;
  out.question = question;
  const Program program = compiler.compile(question);
  out.estimate = pricer.price(program);
  out.laid_out = with_layout;
  out.arena = with_layout ? lay_out(program, linearize(program)).arena_bytes : out.estimate.memory.peak_live;
  out.outside = outside_of(question.cluster);
  out.capacity = question.cluster.device.capacity_bytes;
  out.usable = out.capacity - out.outside.total();
  out.spare = out.usable - out.arena;
  const double uncertain = kOutsideUncertaintyRatio * static_cast<double>(out.outside.total().value());
  out.band_ratio = out.arena.value() > 0 ? uncertain / static_cast<double>(out.arena.value()) : 0;
  if (out.spare < Bytes()) out.verdict = Verdict::does_not_fit;
  else out.verdict = static_cast<double>(out.spare.value()) < uncertain ? Verdict::tight : Verdict::fits;
  return out;
}

}  // namespace zeroplan
