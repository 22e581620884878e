// FlatParamHandle (torch 2.11, torch/distributed/fsdp/_flat_param.py) on the emulated framework: one flat parameter, its shard, its unsharded form and its gradients,
// and what the original parameters are views of meanwhile. Terms as in fsdp1.h. When what happens is decided in fsdp1.cpp.
// Not here: summoning full parameters, evaluation, gradients that users replaced.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/engines/eager/fsdp1.h"

namespace zeroplan::eager {

/// HandleTrainingState
enum class FlatParamState : std::uint8_t { idle, forward, backward_pre, backward_post };

/// FSDP's arguments, with what follows from others filled in.
struct Fsdp1Options {
  std::int64_t ranks = 1;   ///< of the shard group
  std::int64_t copies = 1;  ///< groups among which gradients are all-reduced
  ShardingStrategy strategy = ShardingStrategy::full_shard;
  ScalarType param_type = ScalarType::bf16;
  ScalarType reduce_type = ScalarType::bf16;
  bool keep_low_precision_grads = false;
  bool use_orig_params = true;
  bool cpu_offload = false;
  BackwardPrefetch backward_prefetch = BackwardPrefetch::pre;
  bool forward_prefetch = false;

  bool sharded() const { return strategy != ShardingStrategy::no_shard; }
  bool reshards_after_forward() const { return strategy == ShardingStrategy::full_shard || strategy == ShardingStrategy::hybrid_shard; }
};

class FlatParamHandle {
 public:
  /// Flattens `params`, all of `module`'s tree, into one new tensor.
  FlatParamHandle(const Tensors& params, Module& module, const Fsdp1Options& options);

  void shard();
  void offload();
  void init_flat_param_attributes();
  void pre_unshard();
  void unshard();
  void post_unshard();
  void reshard(bool free_unsharded_flat_param);
  void post_reshard();
  void prepare_gradient_for_backward();
  void prepare_gradient_for_optim();
  void use_sharded_grad_views();
  void use_unsharded_grad_views();
  void reset_flat_param_grad_info_if_needed();
  bool is_resharded() const { return &flat_param.storage() == &local_shard_.storage() && !skipped_use_sharded_views(); }
  /// What the optimizer is given.
  void collect_parameters(Tensors& out) const;

  FlatParamState training_state = FlatParamState::idle;
  Tensor flat_param;
  Tensor saved_grad_shard;  ///< reduced in this backward, or of micro batches before it
  Tensor cpu_grad;

 private:
  struct Attribute {
    Module* module;
    std::size_t index;
  };
  struct OriginalParam {
    Tensor param;   ///< _params: what the optimizer holds
    Tensor tensor;  ///< _tensors: the view that forward computed with
    Shape shape;
    std::size_t piece = 0;
    std::int64_t shard_elems = 0;  ///< of this rank's shard; 0: not in it
    std::vector<Attribute> attributes;
  };

  void add(const Tensor& param, Attribute attribute, Tensors& padding);
  void pad_to(std::int64_t elems, Tensors& padding);
  void flatten(const Tensors& params, Module& module);
  void init_shard_metadata();
  void all_gather();
  void writeback_orig_gradients();
  void use_low_precision_shard();
  void use_unsharded_flat_param(const Tensor& padded);
  void use_sharded_flat_param();
  void use_unsharded_views(bool as_params);
  void use_sharded_views();
  Tensor sharded_grad() const;
  static void setattr(const OriginalParam& original, const Tensor& tensor);

  bool uses_param_mixed_precision() const { return options_.param_type != orig_type_; }
  bool needs_unshard() const { return options_.sharded() && full_param_padded_.storage().bytes != full_param_padded_.bytes(); }
  bool skipped_use_sharded_views() const { return unsharded_flat_param_for_skipped_views_.defined(); }

  Context& context_;
  Fsdp1Options options_;
  ScalarType orig_type_;
  std::vector<OriginalParam> originals_;
  std::vector<std::int64_t> pieces_elems_;  ///< _numels_with_padding
  std::int64_t unsharded_elems_ = 0, sharded_elems_ = 0;
  Tensor local_shard_, mp_shard_, full_param_padded_, full_prec_full_param_padded_;
  Tensor unsharded_flat_param_for_skipped_views_;
};

/// A 1-D tensor in context.place.
Tensor flat_buffer(Context& context, std::int64_t elems, ScalarType type, const char* site, Category category);
/// `tensor.data = tensor.to(type)`: whoever holds the tensor sees the cast.
void cast_data(Tensor tensor, ScalarType type);

}  // namespace zeroplan::eager
