#include "planner/engines/zeroplan_fragments.h"

#include <algorithm>
#include <cassert>
#include <optional>

#include "planner/engines/fragment_builder.h"

namespace zeroplan::ours {
namespace {

constexpr std::int64_t kScalarBytes = 8;

// One fragment in the making: the question's shapes as operands, and the visits' instruction lists.
class Maker {
 public:
  Maker(const FragmentContext& context, const FragmentKey& key, std::string_view name, Phase phase, UnitKind unit)
      : c_(context), key_(key), m_(context.question.job.model), build_(name, phase, unit, context.storages, context.ops) {
    b_ = c_.question.job.compute_dtype;
    g_ = c_.question.job.gradient_dtype;
    T_ = c_.tokens();
    stage_ = static_cast<int>(c_.question.plan.stage);
  }

  std::shared_ptr<const Fragment> make();

 private:
  // Operands ------------------------------------------------------------------------------------------------------------------------
  static Operand matrix(StorageId id, std::int16_t delta, Access access, Dtype dtype, std::int64_t rows, std::int64_t columns) {
    return {{id, delta}, access, dtype, 0, 0, rows, columns, columns};
  }
  Operand tokens_by(StorageId id, std::int64_t width, Access access, std::int16_t delta = 0) const { return matrix(id, delta, access, b_, T_, width); }
  Operand per_token(StorageId id, Access access, std::int64_t width = 1) const { return matrix(id, 0, access, Dtype::fp32, T_, width); }
  Operand rope_table() const { return matrix(kRopeTable, 0, Access::read, Dtype::fp32, c_.question.job.seq, m_.head_dim); }
  Operand scalars(Access access, int first = 0, int count = kScalarCount) const {
    Operand o = matrix(kScalars, 0, access, Dtype::fp64, 1, count);
    o.offset_bytes = first * kScalarBytes;
    return o;
  }

  const Parameter* find(UnitKind unit, ParameterId id) const {
    for (const Parameter& p : c_.parameters[static_cast<int>(unit)])
      if (p.id == id) return &p;
    return nullptr;
  }
  Operand parameter_in(StorageId storage, UnitKind unit, ParameterId id, Access access, Dtype dtype) const {
    const Parameter* p = find(unit, id);
    if (!p) return {};  // rows == 0: absent
    Operand o = matrix(storage, 0, access, dtype, p->rows, p->columns);
    o.offset_bytes = p->offset_elems * size_of(dtype);
    return o;
  }
  Operand weight(UnitKind unit, ParameterId id) const {
    return parameter_in(of(stage_ == 3 ? kGathered : kParameters, unit), unit, id, Access::read, b_);
  }
  Operand gradient(UnitKind unit, ParameterId id, bool accumulate) const {
    return parameter_in(of(kGradients, unit), unit, id, accumulate ? Access::update : Access::write, g_);
  }
  Operand flat(StorageId storage, Access access, Dtype dtype, std::int64_t elems, std::int64_t offset_elems = 0, std::int16_t delta = 0) const {
    Operand o = matrix(storage, delta, access, dtype, 1, elems);
    o.offset_bytes = offset_elems * size_of(dtype);
    return o;
  }
  std::int64_t padded(UnitKind unit) const { return c_.padded_elems[static_cast<int>(unit)]; }
  std::int64_t own_offset(UnitKind unit) const { return c_.rank * c_.shard_elems(unit); }

  // Pieces --------------------------------------------------------------------------------------------------------------------------
  void begin_visit();
  void release_gathered(UnitKind unit);
  void linear(Operand in, Operand w, Operand bias, Operand residual, Operand out) {
    build_.emit(Op::linear, {in, w, bias, residual, out}, {.accumulate = residual.rows != 0});
  }
  void weight_gradient(Operand dout, Operand in, UnitKind unit, ParameterId id, bool accumulate, std::optional<ParameterId> bias = std::nullopt) {
    const Operand dbias = bias ? gradient(unit, *bias, accumulate) : Operand{};
    build_.emit(Op::linear_wgrad, {dout, in, gradient(unit, id, accumulate), dbias}, {.accumulate = accumulate});
  }
  void begin_gradients(UnitKind unit);
  void reduce_gradients(UnitKind unit);
  void retire_previous();

  void init();
  void micro_batch_begin();
  void embedding_forward();
  void block_forward();
  void forward_op(int op);
  void need(StorageId storage);
  void head_begin();
  void head_chunk();
  void head_end();
  void block_backward();
  void embedding_backward();
  void norm();
  void norm_end();
  void update();
  void step_end();

  const FragmentContext& c_;
  const FragmentKey& key_;
  const Model& m_;
  FragmentBuilder build_;
  Dtype b_ = Dtype::bf16, g_ = Dtype::bf16;
  std::int64_t T_ = 0;
  int stage_ = 0;
  bool computed_[kCount] = {};  // block_backward: what has been recomputed so far
};

// Which Kept a per-block storage belongs to; qk follows from qkv by one elementwise pass and is never kept.
bool is_kept(StorageId storage, KeepSet keep) {
  switch (storage) {
    case kX: return true;
    case kAttentionRstd: return keep.has(Kept::attention_rstd);
    case kQkv: return keep.has(Kept::qkv);
    case kAttentionOut:
    case kLse: return keep.has(Kept::attention_out);
    case kResidual: return keep.has(Kept::residual);
    case kFfnRstd: return keep.has(Kept::ffn_rstd);
    case kGateUp: return keep.has(Kept::gate_up);
    default: return false;
  }
}

// Issues the gathers of this visit, then makes compute wait for its own. A gather's buffer may reuse what compute has just released: it waits
// for all that compute was given so far (order rule), which includes the update of the shard it reads.
void Maker::begin_visit() {
  for (int i = 0; i < key_.moves->gather_count; ++i) {
    const Gather& gather = key_.moves->gathers[i];
    const InstanceRef full{of(kGathered, gather.unit), gather.delta};
    build_.lives(full, Lifetime::born_here);
    build_.wait(Stream::gather, {Wait::Kind::tail, Stream::compute, 0});
    build_.emit(Op::all_gather,
                {flat(of(kParameters, gather.unit), Access::read, b_, c_.shard_elems(gather.unit), 0, gather.delta),
                 flat(of(kGathered, gather.unit), Access::write, b_, padded(gather.unit), 0, gather.delta)},
                {.stream = Stream::gather, .record = gather.event});
  }
  if (key_.moves->wait_gather) build_.wait(Stream::compute, {Wait::Kind::event, Stream::gather, 0});
}

void Maker::release_gathered(UnitKind unit) {
  const InstanceRef own{of(kGathered, unit), 0};
  bool gathered_here = false;
  for (int i = 0; i < key_.moves->gather_count; ++i) gathered_here |= key_.moves->gathers[i].unit == unit && key_.moves->gathers[i].delta == 0;
  build_.lives(own, gathered_here ? Lifetime::local : Lifetime::dies_here);
}

void Maker::init() {
  const auto persists = [&](StorageId id, std::int16_t delta = 0) { build_.lives({id, delta}, Lifetime::born_here); };
  const UnitKind unit = key_.unit;
  const std::int64_t states = stage_ == 0 ? padded(unit) : c_.shard_elems(unit);
  const std::int64_t parameters = stage_ == 3 ? c_.shard_elems(unit) : padded(unit);
  for (Id family : {kParameters, kMaster, kMoment1, kMoment2}) persists(of(family, unit));
  build_.emit(Op::initialize, {flat(of(kParameters, unit), Access::write, b_, parameters),
                               c_.question.job.has_master() ? flat(of(kMaster, unit), Access::write, Dtype::fp32, states) : Operand{},
                               flat(of(kMoment1, unit), Access::write, Dtype::fp32, states), flat(of(kMoment2, unit), Access::write, Dtype::fp32, states)});
  if (unit != UnitKind::embedding) return;
  persists(kRopeTable);
  persists(kScalars);
  Operand table = rope_table();
  table.access = Access::write;
  build_.emit(Op::initialize, {table, scalars(Access::write)});
}

void Maker::micro_batch_begin() {
  build_.lives({kTokens, 0}, Lifetime::born_here);
  build_.lives({kTargets, 0}, Lifetime::born_here);
  build_.emit(Op::load_batch, {matrix(kTokens, 0, Access::write, Dtype::int32, T_, 1), matrix(kTargets, 0, Access::write, Dtype::int32, T_, 1)});
}

void Maker::embedding_forward() {
  begin_visit();
  if (key_.moves->release) release_gathered(UnitKind::embedding);
  build_.lives({kX, 0}, Lifetime::born_here);
  build_.emit(Op::embedding, {matrix(kTokens, 0, Access::read, Dtype::int32, T_, 1), weight(UnitKind::embedding, ParameterId::token_embedding),
                              tokens_by(kX, m_.hidden_size, Access::write)});
}

// The forward ops of a block, by number, so that backward can run again just those it needs.
void Maker::forward_op(int op) {
  using enum ParameterId;
  constexpr UnitKind block = UnitKind::block;
  const std::int64_t H = m_.hidden_size, Q = m_.query_dim(), F = m_.intermediate_size, QK = Q + m_.kv_dim();
  switch (op) {
    case 0:
      return build_.emit(Op::rms_norm, {tokens_by(kX, H, Access::read), weight(block, attention_norm), tokens_by(kAttentionNormed, H, Access::write),
                                        per_token(kAttentionRstd, Access::write)});
    case 1:
      linear(tokens_by(kAttentionNormed, H, Access::read), weight(block, qkv), weight(block, qkv_bias), {}, tokens_by(kQkv, m_.qkv_dim(), Access::write));
      if (!m_.qk_norm) build_.emit(Op::rope, {tokens_by(kQkv, m_.qkv_dim(), Access::update), rope_table()});
      return;
    case 2:
      return build_.emit(Op::qk_norm_rope,
                         {tokens_by(kQkv, m_.qkv_dim(), Access::read), weight(block, query_norm), weight(block, key_norm), rope_table(),
                          tokens_by(kQk, QK, Access::write), per_token(kQkRstd, Access::write, m_.num_heads + m_.num_kv_heads)});
    case 3:
      return build_.emit(Op::attention, {tokens_by(kQkv, m_.qkv_dim(), Access::read), m_.qk_norm ? tokens_by(kQk, QK, Access::read) : Operand{},
                                         tokens_by(kAttentionOut, Q, Access::write), per_token(kLse, Access::write, m_.num_heads)});
    case 4:
      return linear(tokens_by(kAttentionOut, Q, Access::read), weight(block, attention_out), {}, tokens_by(kX, H, Access::read),
                    tokens_by(kResidual, H, Access::write));
    case 5:
      return build_.emit(Op::rms_norm, {tokens_by(kResidual, H, Access::read), weight(block, ffn_norm), tokens_by(kFfnNormed, H, Access::write),
                                        per_token(kFfnRstd, Access::write)});
    case 6: return linear(tokens_by(kFfnNormed, H, Access::read), weight(block, gate_up), {}, {}, tokens_by(kGateUp, 2 * F, Access::write));
    case 7: return build_.emit(Op::swiglu, {tokens_by(kGateUp, 2 * F, Access::read), tokens_by(kAct, F, Access::write)});
    case 8:
      return linear(tokens_by(kAct, F, Access::read), weight(block, down), {}, tokens_by(kResidual, H, Access::read), tokens_by(kX, H, Access::write, 1));
    default: assert(false);
  }
}

void Maker::block_forward() {
  begin_visit();
  if (key_.moves->release) release_gathered(UnitKind::block);
  for (StorageId id = kAttentionRstd; id <= kGateUp; ++id) build_.lives({id, 0}, is_kept(id, key_.keep) ? Lifetime::born_here : Lifetime::local);
  for (StorageId id : {kAttentionNormed, kFfnNormed, kAct}) build_.lives({id, 0}, Lifetime::local);
  build_.lives({kX, 1}, Lifetime::born_here);
  for (int op = 0; op <= 8; ++op)
    if (op != 2 || m_.qk_norm) forward_op(op);
}

// Makes sure a per-block tensor is there in backward: kept, recomputed already, or recomputed now from what its op reads.
void Maker::need(StorageId storage) {
  if (is_kept(storage, key_.keep) || computed_[storage]) return;
  const auto run = [&](int op, std::initializer_list<StorageId> reads, std::initializer_list<StorageId> writes) {
    for (StorageId read : reads) need(read);
    forward_op(op);
    for (StorageId write : writes) computed_[write] = true;
  };
  switch (storage) {
    case kAttentionRstd:
    case kAttentionNormed: return run(0, {kX}, {kAttentionNormed, kAttentionRstd});
    case kQkv: return run(1, {kAttentionNormed}, {kQkv});
    case kQk:
    case kQkRstd: return run(2, {kQkv}, {kQk, kQkRstd});
    case kAttentionOut:
    case kLse:
      if (m_.qk_norm) need(kQk);
      return run(3, {kQkv}, {kAttentionOut, kLse});
    case kResidual: return run(4, {kAttentionOut, kX}, {kResidual});
    case kFfnRstd:
    case kFfnNormed: return run(5, {kResidual}, {kFfnNormed, kFfnRstd});
    case kGateUp: return run(6, {kFfnNormed}, {kGateUp});
    default: assert(false);
  }
}

// The unit's whole gradient is born (unless it goes on from an earlier micro batch); what its parameters do not cover is zero, so that norms and
// the optimizer may run over the flat buffer. Its death is where its reduction has been waited for.
void Maker::begin_gradients(UnitKind unit) {
  if (!key_.accumulate_gradients) build_.born_at_next({of(kGradients, unit), 0});
  if (c_.has_gaps[static_cast<int>(unit)] && !key_.accumulate_gradients)
    build_.emit(Op::zero_gaps, {flat(of(kGradients, unit), Access::write, g_, padded(unit))});
}

// Waits for the reduction of the unit visited before, whose whole gradient can then die (stages 2, 3), before starting our own.
void Maker::retire_previous() {
  if (key_.previous < 0) return;
  build_.wait(Stream::compute, {Wait::Kind::tail, Stream::reduce, 0});
  if (stage_ >= 2) build_.die_at_next({of(kGradients, static_cast<UnitKind>(key_.previous)), key_.previous_delta});
  build_.emit(Op::boundary, {});
}

void Maker::reduce_gradients(UnitKind unit) {
  retire_previous();
  if (!key_.reduce) return;
  const StorageId full = of(kGradients, unit);
  if (stage_ >= 2 && !key_.accumulate_shard) build_.lives({of(kGradientShard, unit), 0}, Lifetime::born_here);
  build_.wait(Stream::reduce, {Wait::Kind::tail, Stream::compute, 0});
  build_.emit(stage_ == 0 ? Op::all_reduce : Op::reduce_scatter, {flat(full, Access::update, g_, padded(unit))}, {.stream = Stream::reduce});
  if (stage_ >= 2)
    build_.emit(Op::accumulate_shard,
                {flat(full, Access::read, g_, c_.shard_elems(unit), own_offset(unit)),
                 flat(of(kGradientShard, unit), key_.accumulate_shard ? Access::update : Access::write, g_, c_.shard_elems(unit))},
                {.stream = Stream::reduce, .accumulate = key_.accumulate_shard});
  if (c_.question.plan.overlap_comm) return;
  build_.wait(Stream::compute, {Wait::Kind::tail, Stream::reduce, 0});
  if (stage_ >= 2) build_.die_at_next({full, 0});
  build_.emit(Op::boundary, {});
}

void Maker::block_backward() {
  using enum ParameterId;
  constexpr UnitKind block = UnitKind::block;
  const std::int64_t H = m_.hidden_size, Q = m_.query_dim(), QKV = m_.qkv_dim(), F = m_.intermediate_size, QK = Q + m_.kv_dim();
  const bool add = key_.accumulate_gradients;
  begin_visit();
  if (key_.moves->release) release_gathered(block);
  for (StorageId id = kX; id <= kGateUp; ++id) build_.lives({id, 0}, is_kept(id, key_.keep) ? Lifetime::dies_here : Lifetime::local);
  for (StorageId id = kAttentionNormed; id <= kQkvGradient; ++id) build_.lives({id, 0}, Lifetime::local);
  begin_gradients(block);

  const Operand dy = tokens_by(kStream, H, Access::read);
  Operand dy_update = dy;
  dy_update.access = Access::update;
  const auto norm_backward = [&](StorageId x, ParameterId id, StorageId rstd) {
    build_.emit(Op::rms_norm_backward, {tokens_by(x, H, Access::read), weight(block, id), per_token(rstd, Access::read),
                                        tokens_by(kNormedGradient, H, Access::read), dy_update, gradient(block, id, add)},
                {.accumulate = add});
  };
  const auto norm_again = [&](StorageId x, ParameterId id, StorageId rstd, StorageId out) {
    build_.emit(Op::rms_norm_apply, {tokens_by(x, H, Access::read), weight(block, id), per_token(rstd, Access::read), tokens_by(out, H, Access::write)});
  };
  // feed-forward: gate_up becomes its gradient in place, its gradient's buffer becomes the down projection's input
  need(kGateUp);
  build_.emit(Op::linear_dgrad, {dy, weight(block, down), tokens_by(kFfnGradient, F, Access::write)});
  build_.emit(Op::swiglu_backward, {tokens_by(kGateUp, 2 * F, Access::update), tokens_by(kFfnGradient, F, Access::update)});
  weight_gradient(dy, tokens_by(kFfnGradient, F, Access::read), block, down, add);
  need(kResidual);
  need(kFfnRstd);
  norm_again(kResidual, ffn_norm, kFfnRstd, kFfnNormedAgain);
  const Operand dgate_up = tokens_by(kGateUp, 2 * F, Access::read);
  weight_gradient(dgate_up, tokens_by(kFfnNormedAgain, H, Access::read), block, gate_up, add);
  build_.emit(Op::linear_dgrad, {dgate_up, weight(block, gate_up), tokens_by(kNormedGradient, H, Access::write)});
  norm_backward(kResidual, ffn_norm, kFfnRstd);
  // attention
  need(kAttentionOut);
  weight_gradient(dy, tokens_by(kAttentionOut, Q, Access::read), block, attention_out, add);
  build_.emit(Op::linear_dgrad, {dy, weight(block, attention_out), tokens_by(kAttentionOutGradient, Q, Access::write)});
  need(kQkv);
  if (m_.qk_norm) need(kQk);
  const Operand qkv_in = tokens_by(kQkv, QKV, Access::read);
  build_.emit(Op::attention_backward, {qkv_in, m_.qk_norm ? tokens_by(kQk, QK, Access::read) : Operand{}, tokens_by(kAttentionOut, Q, Access::read),
                                       per_token(kLse, Access::read, m_.num_heads), tokens_by(kAttentionOutGradient, Q, Access::read),
                                       tokens_by(kQkvGradient, QKV, Access::write)});
  const Operand dqkv_update = tokens_by(kQkvGradient, QKV, Access::update), dqkv = tokens_by(kQkvGradient, QKV, Access::read);
  if (m_.qk_norm)
    build_.emit(Op::qk_norm_rope_backward,
                {qkv_in, per_token(kQkRstd, Access::read, m_.num_heads + m_.num_kv_heads), weight(block, query_norm), weight(block, key_norm), rope_table(),
                 dqkv_update, gradient(block, query_norm, add), gradient(block, key_norm, add)},
                {.accumulate = add});
  else
    build_.emit(Op::rope_backward, {dqkv_update, rope_table()});
  need(kAttentionRstd);
  norm_again(kX, attention_norm, kAttentionRstd, kAttentionNormedAgain);
  weight_gradient(dqkv, tokens_by(kAttentionNormedAgain, H, Access::read), block, qkv, add, qkv_bias);
  build_.emit(Op::linear_dgrad, {dqkv, weight(block, qkv), tokens_by(kNormedGradient, H, Access::write)});
  norm_backward(kX, attention_norm, kAttentionRstd);
  reduce_gradients(block);
}

void Maker::head_begin() {
  begin_visit();
  build_.lives({kStream, 0}, Lifetime::born_here);
  build_.lives({kHeadRstd, 0}, Lifetime::born_here);
  begin_gradients(UnitKind::head);
  if (m_.tie_embeddings) begin_gradients(UnitKind::embedding);
  build_.emit(Op::rms_norm, {tokens_by(kX, m_.hidden_size, Access::read), weight(UnitKind::head, ParameterId::final_norm),
                             tokens_by(kStream, m_.hidden_size, Access::write), per_token(kHeadRstd, Access::write)});
}

void Maker::head_chunk() {
  const UnitKind owner = m_.tie_embeddings ? UnitKind::embedding : UnitKind::head;
  const ParameterId id = m_.tie_embeddings ? ParameterId::token_embedding : ParameterId::head_weight;
  const std::int64_t whole_tokens = std::min(c_.question.plan.loss_chunk_tokens, T_), H = m_.hidden_size, V = m_.vocab_size;
  const std::int64_t C = key_.chunk == Chunk::rest ? T_ % whole_tokens : whole_tokens;
  const std::int64_t offset_tokens = key_.chunk == Chunk::first ? 0 : key_.chunk == Chunk::rest ? T_ - C : whole_tokens;
  const auto rows = [&](StorageId storage, Dtype dtype, std::int64_t width, Access access) {
    Operand o = matrix(storage, 0, access, dtype, C, width);
    o.offset_bytes = offset_tokens * width * size_of(dtype);
    if (key_.chunk == Chunk::looped) o.offset_step_bytes = C * width * size_of(dtype);
    return o;
  };
  build_.lives({kLogits, 0}, Lifetime::local);
  if (key_.chunk == Chunk::first) build_.lives({kLosses, 0}, Lifetime::born_here);
  const Operand logits = matrix(kLogits, 0, Access::read, b_, C, V);
  Operand logits_out = logits, logits_update = logits;
  logits_out.access = Access::write;
  logits_update.access = Access::update;
  linear(rows(kStream, b_, H, Access::read), weight(owner, id), {}, {}, logits_out);
  build_.emit(Op::cross_entropy, {logits_update, rows(kTargets, Dtype::int32, 1, Access::read), rows(kLosses, Dtype::fp32, 1, Access::write)});
  weight_gradient(logits, rows(kStream, b_, H, Access::read), owner, id, key_.chunk_accumulates);
  build_.emit(Op::linear_dgrad, {logits, weight(owner, id), rows(kStream, b_, H, Access::write)});
}

void Maker::head_end() {
  const bool add = key_.accumulate_gradients;
  if (key_.moves->release) build_.lives({of(kGathered, UnitKind::head), 0}, Lifetime::dies_here);
  if (key_.moves->release_embedding) build_.die_at_next({of(kGathered, UnitKind::embedding), 0});
  for (StorageId id : {kX, kHeadRstd, kLosses}) build_.lives({id, 0}, Lifetime::dies_here);
  build_.die_at_next({kTargets, 0});
  build_.emit(Op::loss_sum, {per_token(kLosses, Access::read), scalars(key_.accumulate_gradients || key_.accumulate_shard ? Access::update : Access::write, kLossSum, 1)},
              {.accumulate = key_.accumulate_gradients || key_.accumulate_shard});
  Operand dx = tokens_by(kStream, m_.hidden_size, Access::write);
  build_.emit(Op::rms_norm_backward,
              {tokens_by(kX, m_.hidden_size, Access::read), weight(UnitKind::head, ParameterId::final_norm), per_token(kHeadRstd, Access::read),
               tokens_by(kStream, m_.hidden_size, Access::read), dx, gradient(UnitKind::head, ParameterId::final_norm, add)},
              {.accumulate = add});
  reduce_gradients(UnitKind::head);
}

void Maker::embedding_backward() {
  constexpr UnitKind embedding = UnitKind::embedding;
  const bool add = key_.accumulate_gradients || m_.tie_embeddings;
  begin_visit();
  build_.lives({kStream, 0}, Lifetime::dies_here);
  build_.lives({kTokens, 0}, Lifetime::dies_here);
  if (!m_.tie_embeddings) begin_gradients(embedding);
  build_.emit(Op::embedding_backward, {matrix(kTokens, 0, Access::read, Dtype::int32, T_, 1), tokens_by(kStream, m_.hidden_size, Access::read),
                                       gradient(embedding, ParameterId::token_embedding, add)},
              {.accumulate = add});
  reduce_gradients(embedding);
  if (!c_.question.plan.overlap_comm || !key_.reduce) return;
  // The last unit of backward: nothing is left to overlap its reduction with.
  build_.wait(Stream::compute, {Wait::Kind::tail, Stream::reduce, 0});
  if (stage_ >= 2) build_.die_at_next({of(kGradients, embedding), 0});
  build_.emit(Op::boundary, {});
}

void Maker::norm() {
  const UnitKind unit = key_.unit;
  const Operand gradient = stage_ >= 2 ? flat(of(kGradientShard, unit), Access::read, g_, c_.shard_elems(unit))
                                       : flat(of(kGradients, unit), Access::read, g_, c_.shard_elems(unit), own_offset(unit));
  build_.emit(Op::grad_norm, {gradient, scalars(key_.first_unit ? Access::write : Access::update, kNormSquared, 1)}, {.accumulate = !key_.first_unit});
}

void Maker::norm_end() {
  build_.wait(Stream::reduce, {Wait::Kind::tail, Stream::compute, 0});
  build_.emit(Op::all_reduce, {scalars(Access::update, kLossSum, 2)}, {.stream = Stream::reduce});
  build_.wait(Stream::compute, {Wait::Kind::tail, Stream::reduce, 0});
  build_.emit(Op::clip_coefficient, {scalars(Access::read, kNormSquared, 1), scalars(Access::write, kClipCoefficient, 1)});
}

// AdamW on the own shard (the whole unit at stage 0), then stages 1 and 2 gather the parameters in place, beside the next unit's update.
void Maker::update() {
  const UnitKind unit = key_.unit;
  const std::int64_t elems = stage_ == 0 ? padded(unit) : c_.shard_elems(unit), own = stage_ == 0 ? 0 : own_offset(unit);
  const StorageId source = of(stage_ >= 2 ? kGradientShard : kGradients, unit);
  build_.lives({source, 0}, Lifetime::dies_here);
  const Operand gradient = flat(source, Access::read, g_, elems, stage_ >= 2 ? 0 : own);
  const Operand parameters = flat(of(kParameters, unit), Access::write, b_, elems, stage_ == 3 ? 0 : own);
  Operand master = parameters;
  if (c_.question.job.has_master()) master = flat(of(kMaster, unit), Access::update, Dtype::fp32, elems);
  master.access = Access::update;
  build_.emit(Op::adamw, {gradient, master, flat(of(kMoment1, unit), Access::update, Dtype::fp32, elems), flat(of(kMoment2, unit), Access::update, Dtype::fp32, elems),
                          scalars(Access::read, kClipCoefficient, 1), c_.question.job.has_master() ? parameters : Operand{}});
  if (stage_ != 1 && stage_ != 2) return;
  build_.wait(Stream::gather, {Wait::Kind::tail, Stream::compute, 0});
  build_.emit(Op::all_gather, {flat(of(kParameters, unit), Access::read, b_, c_.shard_elems(unit), own_offset(unit)),
                               flat(of(kParameters, unit), Access::update, b_, padded(unit))},
              {.stream = Stream::gather});
}

void Maker::step_end() {
  build_.wait(Stream::compute, {Wait::Kind::tail, Stream::gather, 0});
  build_.emit(Op::boundary, {});
}

std::shared_ptr<const Fragment> Maker::make() {
  switch (key_.visit) {
    case Visit::init: init(); break;
    case Visit::micro_batch_begin: micro_batch_begin(); break;
    case Visit::embedding_forward: embedding_forward(); break;
    case Visit::block_forward: block_forward(); break;
    case Visit::head_begin: head_begin(); break;
    case Visit::head_chunk: head_chunk(); break;
    case Visit::head_end: head_end(); break;
    case Visit::block_backward: block_backward(); break;
    case Visit::embedding_backward: embedding_backward(); break;
    case Visit::norm: norm(); break;
    case Visit::norm_end: norm_end(); break;
    case Visit::update: update(); break;
    case Visit::step_end: step_end(); break;
  }
  const bool position_ends = key_.visit == Visit::embedding_forward || key_.visit == Visit::block_forward || key_.visit == Visit::head_end ||
                             key_.visit == Visit::block_backward || key_.visit == Visit::embedding_backward;
  return build_.finish(position_ends && stage_ == 3);
}

struct Label {
  std::string_view name;
  Phase phase;
  UnitKind unit;
};
Label label_of(const FragmentKey& key) {
  using enum UnitKind;
  switch (key.visit) {
    case Visit::init: return {"init", Phase::init, key.unit};
    case Visit::micro_batch_begin: return {"micro_batch.begin", Phase::forward, embedding};
    case Visit::embedding_forward: return {"embedding.forward", Phase::forward, embedding};
    case Visit::block_forward: return {"block.forward", Phase::forward, block};
    case Visit::head_begin: return {"head.begin", Phase::forward, head};
    case Visit::head_chunk: return {"head.chunk", Phase::backward, head};
    case Visit::head_end: return {"head.end", Phase::backward, head};
    case Visit::block_backward: return {"block.backward", Phase::backward, block};
    case Visit::embedding_backward: return {"embedding.backward", Phase::backward, embedding};
    case Visit::norm: return {"step.norm", Phase::step, key.unit};
    case Visit::norm_end: return {"step.clip", Phase::step, head};
    case Visit::update: return {"step.update", Phase::step, key.unit};
    case Visit::step_end: return {"step.end", Phase::step, head};
  }
  return {};
}

}  // namespace

FragmentContext::FragmentContext(const Question& q, std::int64_t r) : question(q), rank(r), storages(storages_of(q)), ops(op_context(q)) {
  for (UnitKind kind : {UnitKind::embedding, UnitKind::block, UnitKind::head}) {
    const int k = static_cast<int>(kind);
    parameters[k] = unit_parameters(q.job.model, kind);
    padded_elems[k] = padded_unit_elems(q.job.model, kind, q.cluster.world_size());
    has_gaps[k] = padded_elems[k] != unit_parameter_elems(q.job.model, kind);
  }
}

std::shared_ptr<const Fragment> make_fragment(const FragmentContext& context, const FragmentKey& key) {
  const Label label = label_of(key);
  return Maker(context, key, label.name, label.phase, label.unit).make();
}

std::size_t hash_of(const FragmentKey& key) {
  std::uint64_t hash = reinterpret_cast<std::uintptr_t>(key.moves);
  const auto mix = [&](std::uint64_t value) { hash = (hash ^ value) * 0xff51afd7ed558ccdull; hash ^= hash >> 32; };
  const auto at = [](auto value, int bit) { return static_cast<std::uint64_t>(value) << bit; };
  mix(at(key.visit, 0) | at(key.unit, 8) | at(key.keep.bits, 16) | at(key.accumulate_gradients, 24) | at(key.accumulate_shard, 25) | at(key.reduce, 26) |
      at(key.first_unit, 27) | at(key.chunk_accumulates, 28) | at(key.chunk, 32) | at(static_cast<std::uint8_t>(key.previous), 40) |
      at(static_cast<std::uint16_t>(key.previous_delta), 48));
  return hash;
}

}  // namespace zeroplan::ours
