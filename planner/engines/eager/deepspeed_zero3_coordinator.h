// Which parameter DeepSpeed ZeRO stage 3 gathers when, and when it lets it go: deepspeed/runtime/zero/partitioned_param_coordinator.py on the emulated framework.
//
// Trace: the first forward and backward record the order of module calls; from the next forward on, every call prefetches what comes after it in the trace, up to
// prefetch_bucket_size and max_live_parameters, and a release spares what is used again within max_reuse_distance. While recording nothing is prefetched or spared:
// even persistent parameters are released. Not here: leaf modules, NVMe.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/engines/eager/deepspeed_zero3_params.h"

namespace zeroplan::eager {

/// A module with ZeRO's hooks.
struct SubModule {
  int ds_id = 0;
  std::vector<ZeroParam*> params;  ///< its own and external ones, each once
  int applied_pre_backward = 0;
  int grads_remaining = 0;
  std::vector<ZeroParam*> recompute_parameters;
};

class PartitionedParameterCoordinator {
 public:
  PartitionedParameterCoordinator(Context& context, ZeroInit& init, const Zero3Fetching& fetching, const Zero3Behaviour& behaviour);

  void reset_step();
  void trace_prologue(const SubModule& module);
  void fetch_sub_module(SubModule& module, bool forward);
  void release_sub_module(SubModule& module, bool forward);
  void release_and_reset_all();
  void release_backward_leftovers();
  /// They are known to be over.
  void forget_fetches() { ongoing_fetches_.forget(); }

 private:
  enum class TraceMode : std::uint8_t { invalid, record, complete };
  struct ParamInTrace {
    ZeroParam* param = nullptr;
    std::int64_t step_id_last_used_at = 0;
  };

  void clean_inflight();
  void invalidate_trace();
  void construct_parameter_trace();
  void all_gather_params(const std::vector<ZeroParam*>& params);
  void make_available(SubModule& module, bool forward);
  void discard_from_queue(const SubModule& module);
  void prefetch();
  const std::vector<ZeroParam*>& params_to_release(const SubModule& module);
  void release_param(ZeroParam& param);

  Context& context_;
  ZeroInit& init_;
  Zero3Fetching fetching_;
  Zero3Behaviour behaviour_;
  TraceMode trace_mode_ = TraceMode::invalid;
  std::int64_t step_id_ = 0;
  std::int64_t available_elems_ = 0;
  std::vector<const SubModule*> submodule_order_;
  std::vector<ParamInTrace> param_order_;
  std::size_t queue_front_ = 0;  ///< of param_order_
  std::vector<SubModule*> active_backward_;
  EventsInFlight ongoing_fetches_{3};  ///< max_ongoing_fetch_events, and the one being issued
  /// __params_to_release is an lru_cache that is never cleared: the first answer for a module at a step stays.
  struct Release {
    const SubModule* module = nullptr;
    std::vector<ZeroParam*> params;
  };
  std::vector<std::vector<Release>> releases_;  ///< by step id
};

}  // namespace zeroplan::eager
