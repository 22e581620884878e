// Functions have the names and the order of statements of partitioned_param_coordinator.py; read it beside this file.
#include "planner/engines/eager/deepspeed_zero3_coordinator.h"

#include <algorithm>
#include <utility>

namespace zeroplan::eager {

namespace {
std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

template <class T>
bool contains(const std::vector<T>& values, const T& value) { return std::find(values.begin(), values.end(), value) != values.end(); }
}  // namespace

PartitionedParameterCoordinator::PartitionedParameterCoordinator(Context& context, ZeroInit& init, const Zero3Fetching& fetching, const Zero3Behaviour& behaviour)
    : context_(context), init_(init), fetching_(fetching), behaviour_(behaviour) {
  if (behaviour_.gathers_in_place && fetching_.sequential) fetching_.prefetch_bucket_elems = 1;  // engine.py: _configure_zero_optimizer
}

void PartitionedParameterCoordinator::clean_inflight() {
  for (const auto& param : init_.params()) {
    if (!param->inflight) continue;
    init_.wait(*param->inflight);
    release_param(*param);
  }
  for (const auto& param : init_.params()) param->inflight.reset();
}

void PartitionedParameterCoordinator::invalidate_trace() {
  trace_mode_ = TraceMode::invalid;
  submodule_order_.clear();
  param_order_.clear();
  queue_front_ = 0;
  for (const auto& param : init_.params()) param->step_fetched_for = ZeroParam::kNeverFetched;
  clean_inflight();
}

void PartitionedParameterCoordinator::trace_prologue(const SubModule& module) {
  if (trace_mode_ == TraceMode::record) submodule_order_.push_back(&module);
  if (trace_mode_ != TraceMode::complete) return;
  if (index(step_id_) >= submodule_order_.size() || submodule_order_[index(step_id_)] != &module) invalidate_trace();
}

void PartitionedParameterCoordinator::construct_parameter_trace() {
  param_order_.clear();
  for (std::size_t step = 0; step < submodule_order_.size(); ++step) {
    std::vector<ZeroParam*> params = submodule_order_[step]->params;
    std::sort(params.begin(), params.end(), [](const ZeroParam* a, const ZeroParam* b) { return a->ds_id < b->ds_id; });
    for (ZeroParam* p : params) param_order_.push_back({p, static_cast<std::int64_t>(step)});
  }
  releases_.resize(submodule_order_.size() + 1);
}

void PartitionedParameterCoordinator::reset_step() {
  clean_inflight();
  if (trace_mode_ == TraceMode::record) {
    construct_parameter_trace();
    trace_mode_ = TraceMode::complete;
  } else if (trace_mode_ == TraceMode::invalid) {
    trace_mode_ = TraceMode::record;
  }
  queue_front_ = 0;
  for (const auto& param : init_.params()) param->step_fetched_for = ZeroParam::kNeverFetched;
  step_id_ = 0;
  if (behaviour_.counts_available_per_forward) available_elems_ = 0;
}

void PartitionedParameterCoordinator::all_gather_params(const std::vector<ZeroParam*>& params) {
  std::vector<ZeroParam*> partitioned;
  for (ZeroParam* p : params) {
    if (p->ds_status != ZeroParamStatus::not_available) continue;
    partitioned.push_back(p);
    available_elems_ += p->ds_numel;
  }
  if (partitioned.empty()) return;
  context_.runs_fetch();
  const std::shared_ptr<AllGatherHandle> handle = init_.all_gather_coalesced(partitioned);
  for (ZeroParam* p : partitioned) p->inflight = handle;
}

void PartitionedParameterCoordinator::make_available(SubModule& module, bool forward) {
  const bool in_checkpoint_recompute = forward && context_.backward_id != 0;
  for (ZeroParam* p : module.params) {
    if (!contains(p->ds_active_sub_modules, module.ds_id)) p->ds_active_sub_modules.push_back(module.ds_id);
    if (behaviour_.releases_recomputed && in_checkpoint_recompute && !active_backward_.empty() && !p->param.requires_grad()) {
      SubModule& owner = *active_backward_.back();
      if (!contains(owner.recompute_parameters, p)) owner.recompute_parameters.push_back(p);
      if (!contains(p->ds_active_sub_modules, owner.ds_id)) p->ds_active_sub_modules.push_back(owner.ds_id);
    }
    if (!p->inflight) continue;
    const std::shared_ptr<AllGatherHandle> handle = std::move(p->inflight);
    p->inflight.reset();
    ongoing_fetches_.make_room(context_);
    init_.wait(*handle);
    Scoped stream(context_.stream, Stream::gather);
    ongoing_fetches_.record(context_);
  }
}

void PartitionedParameterCoordinator::discard_from_queue(const SubModule& module) {
  std::size_t not_already_fetched = 0;
  for (const ZeroParam* p : module.params)
    if (p->step_fetched_for < step_id_) ++not_already_fetched;
  for (; queue_front_ < param_order_.size() && not_already_fetched > 0; ++queue_front_, --not_already_fetched)
    param_order_[queue_front_].param->step_fetched_for = param_order_[queue_front_].step_id_last_used_at;
}

void PartitionedParameterCoordinator::prefetch() {
  const std::int64_t most_elems = std::min(fetching_.max_live_elems - available_elems_, fetching_.prefetch_bucket_elems);
  std::int64_t elems = 0;
  std::vector<ZeroParam*> wanted;
  for (; queue_front_ < param_order_.size() && elems < most_elems; ++queue_front_) {
    const auto& [param, step_id] = param_order_[queue_front_];
    param->step_fetched_for = std::max(param->step_fetched_for, step_id);
    if (param->ds_status != ZeroParamStatus::not_available || contains(wanted, param)) continue;
    wanted.push_back(param);
    elems += param->ds_numel;
  }
  all_gather_params(wanted);
}

void PartitionedParameterCoordinator::fetch_sub_module(SubModule& module, bool forward) {
  if (!forward && !contains(active_backward_, &module)) active_backward_.push_back(&module);
  all_gather_params(module.params);
  make_available(module, forward);
  context_.wait_stream(Stream::gather);
  if (trace_mode_ == TraceMode::complete) {
    discard_from_queue(module);
    if (fetching_.prefetch_bucket_elems > 0) prefetch();
  }
  ++step_id_;
}

/// Complete traces only.
const std::vector<ZeroParam*>& PartitionedParameterCoordinator::params_to_release(const SubModule& module) {
  std::vector<Release>& at_step = releases_[std::min(index(step_id_), releases_.size() - 1)];
  for (const Release& known : at_step)
    if (known.module == &module) return known.params;
  Release& release = at_step.emplace_back();
  release.module = &module;
  for (ZeroParam* p : module.params)
    if (!p->ds_persist && p->step_fetched_for <= step_id_) release.params.push_back(p);
  std::int64_t traversed_elems = 0;
  for (std::size_t i = index(step_id_); i < submodule_order_.size() && traversed_elems < fetching_.max_reuse_distance_elems; ++i)
    for (ZeroParam* p : submodule_order_[i]->params) {
      std::erase(release.params, p);
      traversed_elems += p->ds_numel;
    }
  return release.params;
}

void PartitionedParameterCoordinator::release_sub_module(SubModule& module, bool forward) {
  std::vector<ZeroParam*> to_release = trace_mode_ == TraceMode::complete ? params_to_release(module) : module.params;
  std::vector<ZeroParam*> used = module.params;
  if (!forward) {
    for (ZeroParam* p : module.recompute_parameters) {
      if (!p->ds_persist && !contains(to_release, p)) to_release.push_back(p);
      if (!contains(used, p)) used.push_back(p);
    }
    module.recompute_parameters.clear();
    std::erase(active_backward_, &module);
  }
  for (ZeroParam* p : used) {
    std::erase(p->ds_active_sub_modules, module.ds_id);
    if (contains(to_release, p)) release_param(*p);
  }
}

void PartitionedParameterCoordinator::release_param(ZeroParam& param) {
  if (param.ds_status != ZeroParamStatus::available || !param.ds_active_sub_modules.empty()) return;
  init_.free_param(param);
  available_elems_ -= param.ds_numel;
}

void PartitionedParameterCoordinator::release_and_reset_all() {
  for (const auto& param : init_.params()) {
    if (const std::shared_ptr<AllGatherHandle> handle = std::exchange(param->inflight, nullptr)) init_.wait(*handle);
    param->ds_active_sub_modules.clear();
    release_param(*param);
  }
  if (!behaviour_.counts_available_per_forward) available_elems_ = 0;
}

void PartitionedParameterCoordinator::release_backward_leftovers() {
  if (!behaviour_.releases_recomputed) {
    active_backward_.clear();
    return;
  }
  while (!active_backward_.empty()) {
    SubModule& module = *active_backward_.back();
    active_backward_.pop_back();
    std::vector<ZeroParam*> params = module.params;
    params.insert(params.end(), module.recompute_parameters.begin(), module.recompute_parameters.end());
    module.recompute_parameters.clear();
    for (ZeroParam* p : params) {
      std::erase(p->ds_active_sub_modules, module.ds_id);
      if (!p->ds_persist) release_param(*p);
    }
  }
}

}  // namespace zeroplan::eager
