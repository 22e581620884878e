// Parameters under DeepSpeed ZeRO stage 3 on the emulated framework: taken apart, gathered and freed as in deepspeed/runtime/zero/partition_parameters.py, in its words.
//
// Terms. ds_tensor: this rank's part of a parameter (its elements over the ranks, rounded up). Gathered: the whole parameter in param.data. A gather of one parameter
// goes into one buffer that becomes param.data; a gather of several goes into one flat buffer, and waiting for it copies each parameter out (torch.cat). The flat buffer
// lives until the last of its parameters was taken from the registry of gathers in flight, that is, until the module that uses it is called.
// Not here: NVMe, quantised weights, hpZ.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "planner/engines/eager/eager.h"

namespace zeroplan::eager {

/// What differs between DeepSpeed releases, as far as memory goes. The defaults are those of 0.19.8.
struct Zero3Behaviour {
  /// A module forgets at each call how many gradients it still waits for. Where not (0.16.2 to 0.16.7), a non-reentrant recomputation counts its inputs twice,
  /// the post-backward hook never runs, and gathered parameters stay until the step.
  bool resets_grads_remaining = true;
  /// Available parameters are counted from each forward on (0.16.2 to 0.16.7: from each step on).
  bool counts_available_per_forward = true;
  /// stage3_allgather_sequential is known (before 0.18: ignored), and a blocking gather of one parameter needs no copy.
  bool gathers_in_place = true;
  /// Before 0.18 engine.backward() keeps the sum of the micro batches' mean losses until the step, and drops the scaled loss before the last gradients are reduced.
  bool keeps_mean_loss = false;
  bool holds_last_mean_loss = false;  ///< up to 0.16.7: the micro batch's own, while backward runs
  /// An offloaded optimizer has one more host buffer of the largest partition in fp32 (seen in 0.15.4).
  bool keeps_pinned_grad_buffer = false;
  /// Frozen parameters gathered by a recomputation belong to the module whose backward asked for it, and a backward ends with a sweep of what was not released (from 0.19 on).
  bool releases_recomputed = true;
  /// torch.nn.functional.linear is replaced for models that were made whole too (before 0.19: only within zero.Init).
  bool replaces_linear_of_whole_models = true;
  /// Group norms are combined with a check for invalid ones (from 0.19 on).
  bool checks_group_norms = true;
};

/// The stage3_… keys that decide about gathers; defaults as in DeepSpeed's config.py. All in elements.
struct Zero3Fetching {
  std::int64_t prefetch_bucket_elems = 50'000'000;
  std::int64_t persistence_threshold_elems = 100'000;
  std::optional<std::int64_t> model_persistence_threshold_elems = std::nullopt;
  std::int64_t max_live_elems = 1'000'000'000;
  std::int64_t max_reuse_distance_elems = 1'000'000'000;
  bool sequential = false;
  bool by_all_reduce = false;  ///< stage3_use_all_reduce_for_fetch_params: the flat buffer itself becomes the parameters
};

enum class ZeroParamStatus : std::uint8_t { not_available, inflight, available };

struct ZeroParam;

/// AllGatherHandle, AllGatherCoalescedHandle and MultipleAllGatherHandles in one.
struct AllGatherHandle {
  std::vector<ZeroParam*> params;
  Tensor flat;  ///< undefined: gathered in place
  EventId gathered = 0;
  bool complete = false;
};

/// The ds_… attributes of a parameter.
struct ZeroParam {
  Tensor param;
  Shape ds_shape;
  std::int64_t ds_numel = 0;
  std::int64_t partition_numel = 0;
  Tensor ds_tensor;
  int ds_id = 0;
  bool ds_persist = false;
  ZeroParamStatus ds_status = ZeroParamStatus::available;
  std::vector<int> ds_active_sub_modules;
  std::shared_ptr<AllGatherHandle> inflight;            ///< its entry in the InflightParamRegistry
  std::int64_t step_fetched_for = kNeverFetched;        ///< __most_recent_step_id_param_fetched_for
  static constexpr std::int64_t kNeverFetched = -10'000'000'000;
};

/// deepspeed.zero.Init: takes parameters apart and gathers them.
class ZeroInit {
 public:
  /// `remote`: where partitions live.
  ZeroInit(Context& context, std::int64_t ranks, Place remote, const Zero3Fetching& fetching, const Zero3Behaviour& behaviour);

  /// Converts and partitions what is not yet a ZeRO parameter.
  void convert(const Tensor& param);
  /// Drops parameters that the model no longer has (a head that was tied).
  void keep_only(const Tensors& parameters);
  /// Null for a tensor that is no ZeRO parameter.
  ZeroParam* find(const Tensor& param) const;
  const std::vector<std::unique_ptr<ZeroParam>>& params() const { return params_; }

  /// param.all_gather(param_list): blocking, each into a buffer of its own.
  void all_gather(const std::vector<ZeroParam*>& params);
  /// param.all_gather_coalesced(params): the parameters are in flight until wait().
  std::shared_ptr<AllGatherHandle> all_gather_coalesced(std::vector<ZeroParam*> params);
  void wait(AllGatherHandle& handle);
  /// param.partition() of a gathered parameter.
  void free_param(ZeroParam& param);

 private:
  Tensor on_device(const Tensor& partition) const;
  Collective gather_of(std::int64_t partition_elems, ScalarType type) const;
  void gather_into(ZeroParam& param, const char* site);
  void gather_and_copy(ZeroParam& param);
  void no_gather(const std::vector<ZeroParam*>& params);
  void gather_by_all_reduce(const std::vector<ZeroParam*>& params);
  Tensor gather_flat(const std::vector<ZeroParam*>& params);

  Context& context_;
  std::int64_t ranks_;
  Place remote_;
  bool sequential_;
  bool by_all_reduce_;
  bool gathers_in_place_;
  std::vector<std::unique_ptr<ZeroParam>> params_;
  std::unordered_map<const TensorImpl*, ZeroParam*> by_tensor_;
  Tensor nothing_;  ///< torch.empty(0)
  int next_id_ = 0;
};

}  // namespace zeroplan::eager
