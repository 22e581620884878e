// Functions have the names and the order of statements of partition_parameters.py; read it beside this file.
#include "planner/engines/eager/deepspeed_zero3_params.h"

#include <algorithm>
#include <utility>

namespace zeroplan::eager {

namespace {
Tensor gather_buffer(Context& context, const Shape& shape, ScalarType type, const char* site) {
  Scoped category(context.category, Category::gathered_parameters);
  Scoped stream(context.stream, Stream::gather);
  return empty(context, shape, type, site);
}
}  // namespace

ZeroInit::ZeroInit(Context& context, std::int64_t ranks, Place remote, const Zero3Fetching& fetching, const Zero3Behaviour& behaviour)
    : context_(context), ranks_(ranks), remote_(remote), sequential_(fetching.sequential && behaviour.gathers_in_place), by_all_reduce_(fetching.by_all_reduce),
      gathers_in_place_(behaviour.gathers_in_place) {}

void ZeroInit::convert(const Tensor& param) {
  if (find(param) != nullptr) return;
  auto made = std::make_unique<ZeroParam>();
  ZeroParam& zero = *made;
  zero.param = param;
  zero.ds_shape = param.shape();
  zero.ds_numel = param.elems();
  zero.partition_numel = (zero.ds_numel + ranks_ - 1) / ranks_;
  zero.ds_id = next_id_++;
  by_tensor_[param.get()] = &zero;
  params_.push_back(std::move(made));
  {
    Scoped category(context_.category, Category::parameters);
    Scoped place(context_.place, remote_);
    zero.ds_tensor = empty(context_, Shape{zero.partition_numel}, param.type(), "partition of a parameter");
  }
  if (!nothing_.defined()) nothing_ = empty(context_, Shape{0}, param.type(), "partitioned parameter");
  free_param(zero);
}

void ZeroInit::keep_only(const Tensors& parameters) {
  std::unordered_map<const TensorImpl*, ZeroParam*> kept;
  for (const Tensor& p : parameters)
    if (ZeroParam* zero = find(p)) kept[p.get()] = zero;
  std::erase_if(params_, [&](const std::unique_ptr<ZeroParam>& p) { return !kept.contains(p->param.get()); });
  by_tensor_ = std::move(kept);
}

ZeroParam* ZeroInit::find(const Tensor& param) const {
  const auto found = by_tensor_.find(param.get());
  return found == by_tensor_.end() ? nullptr : found->second;
}

void ZeroInit::free_param(ZeroParam& param) {
  param.param.record_stream(context_.stream);
  param.param.set_data(nothing_);
  param.ds_status = ZeroParamStatus::not_available;
}

Tensor ZeroInit::on_device(const Tensor& partition) const {
  if (partition.storage().place == Place::device) return partition;
  Scoped category(context_.category, Category::communication_buffers);
  context_.copy_to_device(partition.bytes());
  Scoped stream(context_.stream, Stream::h2d);
  return empty_like(partition, "partition copied to the device");
}

Collective ZeroInit::gather_of(std::int64_t partition_elems, ScalarType type) const {
  return {.kind = CollectiveKind::all_gather, .payload_bytes = partition_elems * ranks_ * size_of(type), .ranks = ranks_};
}

void ZeroInit::gather_into(ZeroParam& param, const char* site) {
  const Tensor buffer = gather_buffer(context_, Shape{param.partition_numel * ranks_}, param.ds_tensor.type(), site);
  const Tensor sent = on_device(param.ds_tensor);
  param.param.set_data(alias(buffer, param.ds_shape));
}

/// _allgather_params of old releases.
void ZeroInit::gather_and_copy(ZeroParam& param) {
  const Tensor flat = gather_buffer(context_, Shape{param.partition_numel * ranks_}, param.ds_tensor.type(), "_allgather_params flat buffer");
  param.param.set_data(gather_buffer(context_, param.ds_shape, param.ds_tensor.type(), "_allgather_params"));
}

/// _allgather_params_sequential (one parameter or allgather_sequential) and _allgather_params_coalesced.
void ZeroInit::all_gather(const std::vector<ZeroParam*>& params) {
  std::vector<ZeroParam*> wanted;
  for (ZeroParam* p : params)
    if (p->ds_status == ZeroParamStatus::not_available) wanted.push_back(p);
  const bool coalesced = wanted.size() > 1 && !sequential_;
  if (coalesced && ranks_ == 1) {
    no_gather(wanted);
    for (ZeroParam* p : wanted) p->ds_status = ZeroParamStatus::available;
    return;
  }
  Tensors sent;  // local_tensors: live until all are gathered
  if (coalesced)
    for (const ZeroParam* p : wanted) sent.push_back(on_device(p->ds_tensor));
  for (ZeroParam* p : wanted) {
    context_.collective(gather_of(p->partition_numel, p->ds_tensor.type()));
    if (coalesced) p->param.set_data(alias(gather_buffer(context_, Shape{p->partition_numel * ranks_}, p->ds_tensor.type(), "_allgather_params_coalesced"), p->ds_shape));
    else if (gathers_in_place_) gather_into(*p, "_allgather_params_sequential");
    else gather_and_copy(*p);
    p->ds_status = ZeroParamStatus::available;
  }
  context_.synchronize();
}

/// _no_gather_coalesced: one rank uses its partition as it is.
void ZeroInit::no_gather(const std::vector<ZeroParam*>& params) {
  for (ZeroParam* p : params) p->param.set_data(alias(on_device(p->ds_tensor), p->ds_shape));
}

/// _all_gather_dtype
Tensor ZeroInit::gather_flat(const std::vector<ZeroParam*>& params) {
  std::int64_t partition_elems = 0;
  for (const ZeroParam* p : params) partition_elems += p->partition_numel;
  Tensor flat = gather_buffer(context_, Shape{partition_elems * ranks_}, params[0]->ds_tensor.type(), "_all_gather_dtype flat buffer");
  Tensors sent;
  for (const ZeroParam* p : params) {
    sent.push_back(on_device(p->ds_tensor));
    if (remote_ == Place::device) context_.moves(2 * p->ds_tensor.bytes());  // into its place in the flat buffer
  }
  return flat;
}

/// _all_gather_coalesced with use_all_reduce_for_fetch_params
void ZeroInit::gather_by_all_reduce(const std::vector<ZeroParam*>& params) {
  std::int64_t elems = 0;
  for (const ZeroParam* p : params) elems += p->partition_numel * ranks_;
  const Tensor flat = gather_buffer(context_, Shape{elems}, params[0]->ds_tensor.type(), "_all_gather_coalesced flat buffer");
  for (ZeroParam* p : params) p->param.set_data(alias(flat, p->ds_shape));
}

std::shared_ptr<AllGatherHandle> ZeroInit::all_gather_coalesced(std::vector<ZeroParam*> params) {
  auto handle = std::make_shared<AllGatherHandle>();
  std::sort(params.begin(), params.end(), [](const ZeroParam* a, const ZeroParam* b) { return a->ds_id < b->ds_id; });
  std::int64_t partition_elems = 0;
  for (ZeroParam* p : params) {
    p->ds_status = ZeroParamStatus::inflight;
    partition_elems += p->partition_numel;
  }
  Scoped stream(context_.stream, Stream::gather);
  Collective collective = gather_of(partition_elems, params[0]->ds_tensor.type());
  if (ranks_ == 1) {
    no_gather(params);
  } else if (sequential_ || params.size() == 1) {
    for (ZeroParam* p : params) {
      gather_into(*p, "_all_gather_sequential");
      handle->gathered = context_.collective_async(gather_of(p->partition_numel, p->ds_tensor.type()));
    }
  } else if (by_all_reduce_) {
    gather_by_all_reduce(params);
    context_.moves(collective.payload_bytes);  // zeros, into which this rank's parts are copied
    collective.kind = CollectiveKind::all_reduce;
    handle->gathered = context_.collective_async(collective);
  } else {
    handle->flat = gather_flat(params);
    handle->gathered = context_.collective_async(collective);
  }
  handle->params = std::move(params);
  return handle;
}

void ZeroInit::wait(AllGatherHandle& handle) {
  if (handle.complete) return;
  Scoped stream(context_.stream, Stream::gather);
  context_.wait_event(handle.gathered);
  if (ranks_ == 1) context_.synchronize();  // NoGatherHandle
  for (ZeroParam* p : handle.params) {
    if (handle.flat.defined()) context_.moves(2 * p->ds_numel * size_of(p->ds_tensor.type()));
    if (handle.flat.defined()) p->param.set_data(gather_buffer(context_, p->ds_shape, p->ds_tensor.type(), "AllGatherCoalescedHandle cat"));
    p->ds_status = ZeroParamStatus::available;
  }
  handle.complete = true;
}

}  // namespace zeroplan::eager
