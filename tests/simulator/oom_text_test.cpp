#include "simulator/oom_text.h"

#include <catch2/catch.hpp>

#include "profiles/catalog.h"
#include "simulator/caching_allocator.h"

using namespace zeroplan;

namespace {

constexpr const char* kNow =
    "  File \"/usr/lib/python3/dist-packages/deepspeed/runtime/zero/stage_1_and_2.py\", line 1995, in step\n    self._optimizer_step(i)\n"
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.25 GiB. GPU 3 has a total capacity of 79.15 GiB of which 4.12 GiB is free. Including non-PyTorch memory, this process has 74.98 GiB "
    "memory in use. Of the allocated memory 64.76 GiB is allocated by PyTorch, and 8.79 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try ...";
constexpr const char* kOld =
    "RuntimeError: CUDA out of memory. Tried to allocate 44.00 MiB (GPU 0; 22.06 GiB total capacity; 22.21 GiB already allocated; 21.38 MiB free; 22.50 GiB reserved in total by PyTorch)";

Question zero2() {
  Question q = default_question(catalogue_model("internlm2-20b"), cluster_from_name("8xa100-80g"));
  q.plan.stage = 2;
  choose_engine(q, Engine::deepspeed);
  return q;
}

}  // namespace

TEST_CASE("messages of today's and of older PyTorch are read, with the precision they print", "[unit]") {
  const auto now = read_oom(kNow), old = read_oom(kOld);
  REQUIRE(now);
  REQUIRE(old);
  CHECK(now->tried->bytes == Approx(9.25 * (1 << 30)));
  CHECK(now->capacity->bytes == Approx(79.15 * (1 << 30)));
  CHECK(now->allocated->bytes == Approx(64.76 * (1 << 30)));
  CHECK(now->reserved->bytes == Approx(73.55 * (1 << 30)));
  REQUIRE(now->frames.size() == 1);
  CHECK(now->frames[0] == "stage_1_and_2.py:step");
  CHECK(old->tried->means(Bytes(44 << 20)));
  CHECK_FALSE(old->tried->means(Bytes(46 << 20)));
  CHECK(old->reserved->bytes == Approx(22.5 * (1 << 30)));
  CHECK_FALSE(read_oom("all went well"));
  CHECK_FALSE(read_oom(""));
}

TEST_CASE("the allocator's own message reads back", "[property]") {
  for (const std::int64_t request : {100, 700'000, 3 << 20, 11 << 20, 1 << 30}) {
    AllocatorOptions options;
    options.capacity_bytes = Bytes(1 << 20);
    CachingAllocator allocator(options);
    const auto outcome = allocator.allocate(Bytes(request), StreamId{0});
    const auto message = read_oom(text(std::get<OutOfMemory>(outcome)));
    REQUIRE(message);
    CHECK(message->tried->means(segment_of(Bytes(request))));
    CHECK(message->tried->means(std::get<OutOfMemory>(outcome).segment_bytes));
  }
}

TEST_CASE("what was tried finds the tensors of the step that would ask for just that", "[unit]") {
  const Timeline t = timeline_of(zero2(), Span::whole);
  const auto suspects = tried_tensors(t, read_oom(kNow)->tried.value());
  REQUIRE_FALSE(suspects.empty());
  for (const std::size_t i : suspects) CHECK(size_formula(t.tensors[i].bytes, t.question) == "4·Ψ/n");
  CHECK(std::any_of(suspects.begin(), suspects.end(), [&](std::size_t i) { return t.tensors[i].name == "AdamW exp_avg_sq"; }));
}
