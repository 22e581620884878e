#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "executor/initialization.h"
#include "executor/interpreter.h"
#include "executor/kernels/kernels.h"
#include "planner/core/error.h"
#include "planner/engines/zeroplan_storages.h"

namespace zeroplan {
namespace {

namespace k = kernels;

template <class T>
k::Matrix<T> matrix(const Bound& b) { return {static_cast<T*>(b.data), b.rows, b.columns, b.stride}; }
template <class T>
T* pointer(const Bound& b) { return static_cast<T*>(b.data); }

// Kernels index rows by these ids: an id outside the vocabulary must not become an address.
const std::int32_t* token_ids(const Bound& b, std::int64_t vocab) {
  const auto* ids = pointer<const std::int32_t>(b);
  for (std::int64_t i = 0; i < b.rows; ++i)
    if (ids[i] < 0 || ids[i] >= vocab) throw RunError(fmt::format("token {} of a micro batch is {}, outside the vocabulary of {}", i, ids[i], vocab));
  return ids;
}

}  // namespace

void Dispatch::operator()(const Prepared& p) {
  const Bound* o = run_.operands_of(p);
  const Question& q = run_.program_.question;
  Collectives& all = run_.collectives_;
  switch (p.instruction->op) {
    case Op::boundary: return;
    case Op::initialize: return initialize(p);
    case Op::load_batch:
      return run_.batches_.fill(run_.step_, run_.micro_batch_++, run_.program_.rank, q.plan.micro_batch, q.job.seq, pointer<std::int32_t>(o[0]),
                                pointer<std::int32_t>(o[1]));
    case Op::all_gather: return all.all_gather(o[0].data, o[1].data, o[0].bytes());
    case Op::reduce_scatter: return all.reduce_scatter(o[0].data, o[0].columns / q.cluster.world_size(), o[0].dtype);
    case Op::all_reduce: return all.all_reduce(o[0].data, o[0].columns, o[0].dtype);
    case Op::clip_coefficient: {
      const double norm = std::sqrt(*pointer<double>(o[0])), clip = q.job.clip_norm;
      *pointer<double>(o[1]) = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
      return;
    }
    default: break;
  }
  if (q.job.compute_dtype == Dtype::fp32) return compute<float, float>(p);
  if (q.job.gradient_dtype == Dtype::bf16) return compute<k::bf16, k::bf16>(p);
  return compute<k::bf16, float>(p);
}

template <class T, class G>
void Dispatch::compute(const Prepared& p) {
  const Bound* o = run_.operands_of(p);
  const Question& q = run_.program_.question;
  const Model& m = q.job.model;
  const bool accumulate = p.instruction->accumulate;
  const auto scratch = [&] { return k::Scratch(p.scratch, p.instruction->scratch_bytes.value()); };
  const auto in = [&](std::size_t i) { return matrix<const T>(o[i]); };
  const auto out = [&](std::size_t i) { return matrix<T>(o[i]); };
  const k::AttentionDims attention{q.plan.micro_batch, q.job.seq, m.num_heads, m.num_kv_heads, m.head_dim, m.qkv_layout};
  const std::size_t last = p.count - 1;

  switch (p.instruction->op) {
    case Op::embedding: return k::embedding<T>(token_ids(o[0], m.vocab_size), in(1), out(2));
    case Op::embedding_backward: return k::embedding_backward<T, G>(token_ids(o[0], m.vocab_size), in(1), matrix<G>(o[2]), accumulate);
    case Op::rms_norm: return k::rms_norm<T>(in(0), pointer<T>(o[1]), m.norm_eps, out(2), pointer<k::Acc<T>>(o[3]));
    case Op::rms_norm_apply: return k::rms_norm_apply<T>(in(0), pointer<T>(o[1]), pointer<k::Acc<T>>(o[2]), out(3));
    case Op::rms_norm_backward:
      return k::rms_norm_backward<T, G>(in(0), pointer<T>(o[1]), pointer<k::Acc<T>>(o[2]), in(3), out(4), o[4].access == Access::update, pointer<G>(o[5]), accumulate,
                                        scratch());
    case Op::linear: {
      // in, weight, [bias], [residual if accumulate], out
      const bool bias = p.count == (accumulate ? 5u : 4u);
      const k::Matrix<const T> residual = in(last - 1);
      return k::linear<T>(in(0), in(1), bias ? pointer<T>(o[2]) : nullptr, accumulate ? &residual : nullptr, out(last), scratch());
    }
    case Op::linear_dgrad: return k::linear_dgrad<T>(in(0), in(1), out(2), scratch());
    case Op::linear_wgrad: return k::linear_wgrad<T, G>(in(0), in(1), matrix<G>(o[2]), p.count == 4 ? pointer<G>(o[3]) : nullptr, accumulate, scratch());
    case Op::rope: return k::rope<T>(attention, out(0), pointer<float>(o[1]), 1);
    case Op::rope_backward: return k::rope<T>(attention, out(0), pointer<float>(o[1]), -1);
    case Op::qk_norm_rope:
      return k::qk_norm_rope<T>(attention, in(0), pointer<T>(o[1]), pointer<T>(o[2]), m.norm_eps, pointer<float>(o[3]), out(4), pointer<k::Acc<T>>(o[5]));
    case Op::qk_norm_rope_backward:
      return k::qk_norm_rope_backward<T, G>(attention, in(0), pointer<k::Acc<T>>(o[1]), pointer<T>(o[2]), pointer<T>(o[3]), pointer<float>(o[4]), out(5), pointer<G>(o[6]),
                                            pointer<G>(o[7]), accumulate, scratch());
    case Op::attention: {
      const k::Matrix<const T> qk = in(1);
      return k::attention<T>(attention, in(0), p.count == 4 ? &qk : nullptr, out(last - 1), pointer<k::Acc<T>>(o[last]), scratch());
    }
    case Op::attention_backward: {
      const k::Matrix<const T> qk = in(1);
      return k::attention_backward<T>(attention, in(0), p.count == 6 ? &qk : nullptr, in(last - 3), pointer<k::Acc<T>>(o[last - 2]), in(last - 1), out(last), scratch());
    }
    case Op::swiglu: return k::swiglu<T>(in(0), out(1));
    case Op::swiglu_backward: return k::swiglu_backward<T>(out(0), out(1));
    case Op::cross_entropy: {
      const double tokens = static_cast<double>(q.tokens_per_micro_batch()) * static_cast<double>(q.plan.accumulate) * static_cast<double>(q.cluster.world_size());
      return k::cross_entropy<T>(out(0), token_ids(o[1], m.vocab_size), 1.0 / tokens, pointer<k::Acc<T>>(o[2]));
    }
    case Op::loss_sum: {
      double& sum = *pointer<double>(o[1]);
      const double part = k::loss_sum(pointer<k::Acc<T>>(o[0]), o[0].rows);
      sum = accumulate ? sum + part : part;
      return;
    }
    case Op::zero_gaps: {
      // Everything in the flat gradient that no parameter covers.
      G* flat = pointer<G>(o[0]);
      std::int64_t end = 0;
      const auto unit = p.fragment->operands_of(*p.instruction)[0].instance.storage - ours::kGradients;
      for (const Parameter& parameter : run_.parameters_[static_cast<std::size_t>(unit)]) {
        std::fill(flat + end, flat + parameter.offset_elems, G(0));
        end = parameter.offset_elems + parameter.elems();
      }
      std::fill(flat + end, flat + o[0].columns, G(0));
      return;
    }
    case Op::accumulate_shard: return k::accumulate_shard<G>(pointer<const G>(o[0]), pointer<G>(o[1]), o[0].columns, accumulate);
    case Op::grad_norm: {
      double& sum = *pointer<double>(o[1]);
      const double part = k::sum_of_squares<G>(pointer<const G>(o[0]), o[0].columns);
      sum = accumulate ? sum + part : part;
      return;
    }
    case Op::adamw: {
      const k::AdamW options{run_.learning_rate_, q.job.beta1, q.job.beta2, q.job.epsilon, q.job.weight_decay, run_.step_, *pointer<double>(o[4])};
      T* parameters = p.count == 6 ? pointer<T>(o[5]) : pointer<T>(o[1]);  // without a master copy, the parameters are the master
      return k::adamw<T, G>(options, pointer<const G>(o[0]), pointer<float>(o[1]), pointer<float>(o[2]), pointer<float>(o[3]), parameters, o[0].columns);
    }
    default: break;
  }
}

// Parameters of one unit (with master copy and zero moments), or the tables of the whole run.
void Dispatch::initialize(const Prepared& p) {
  const Bound* o = run_.operands_of(p);
  const auto operands = p.fragment->operands_of(*p.instruction);
  const Program& program = run_.program_;
  const Question& q = program.question;
  const UnitKind unit = p.instruction->unit;
  for (std::size_t i = 0; i < p.count; ++i) {
    const StorageId id = operands[i].instance.storage;
    if (id == ours::kRopeTable) {
      k::rope_table(q.job.seq, q.job.model.head_dim, q.job.model.rope_theta, pointer<float>(o[i]));
    } else if (id == ours::of(ours::kParameters, unit) || id == ours::of(ours::kMaster, unit)) {
      const bool whole = o[i].columns == program.padded_elems(unit);
      fill_initial(q.job.model, unit, p.block, run_.seed_, whole ? 0 : program.rank * program.shard_elems(unit), o[i].columns, o[i].dtype, o[i].data);
    } else {
      std::memset(o[i].data, 0, static_cast<std::size_t>(o[i].bytes()));
    }
  }
}

}  // namespace zeroplan
