#include "executor/allocation_watch.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <fmt/format.h>

#include <algorithm>
#include <mutex>

namespace zeroplan {
namespace {

class WatchedAllocator final : public c10::Allocator {
 public:
  explicit WatchedAllocator(c10::Allocator* below) : below_(below) {}

  c10::DataPtr allocate(std::size_t bytes) override {
    c10::DataPtr block = below_->allocate(bytes);
    if (!armed_ || bytes == 0) return block;
    note(static_cast<std::int64_t>(bytes));
    auto* held = new Held{std::move(block), static_cast<std::int64_t>(bytes), this};
    return {held->block.get(), held, &release, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { below_->copy_data(to, from, bytes); }

  bool armed_ = false;
  std::string_view instruction_;
  Surprises surprises_;

 private:
  struct Held {
    c10::DataPtr block;
    std::int64_t bytes;
    WatchedAllocator* owner;
  };
  static void release(void* context) {
    auto* held = static_cast<Held*>(context);
    held->owner->live_bytes_ -= held->bytes;
    delete held;
  }
  void note(std::int64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (surprises_.count++ == 0) surprises_.first = fmt::format("{}: {} B", instruction_, bytes);
    live_bytes_ += bytes;
    surprises_.peak_bytes = std::max(surprises_.peak_bytes, live_bytes_);
  }

  c10::Allocator* below_;
  std::mutex mutex_;
  std::int64_t live_bytes_ = 0;
};

// Lives as long as the process: tensors may be freed after main.
WatchedAllocator& watched() {
  static auto* allocator = new WatchedAllocator(c10::GetCPUAllocator());
  return *allocator;
}

}  // namespace

AllocationWatch& AllocationWatch::install() {
  static AllocationWatch watch;
  static const bool installed = [] {
    c10::SetCPUAllocator(&watched(), 255);
    return true;
  }();
  (void)installed;
  return watch;
}
void AllocationWatch::arm() { watched().armed_ = true; }
void AllocationWatch::disarm() { watched().armed_ = false; }
void AllocationWatch::at(std::string_view instruction) { watched().instruction_ = instruction; }
const Surprises& AllocationWatch::surprises() const { return watched().surprises_; }

}  // namespace zeroplan
