// How data moves. Every rank owns two slots of 1 MiB that all can read. A collective is a row of chunks; for each chunk a rank writes what the
// others need into its slot, passes a barrier, and reads the others' slots. The next chunk uses the other slot.
// Why one barrier a chunk is enough: slot s is written again two turns later, after a barrier that a rank only reaches when it has read
// what the slot held. The parity runs on across calls, so nothing has to be emptied between them.
// The barrier is a futex: arrivals are counted, the last one moves `generation` on and wakes the rest. Long spinning loses badly when ranks
// are as many as cores (measured: ten times slower), so a rank looks a few times and then sleeps, at most 100 ms a time to notice `stop`.
// Cost per byte of the full buffer of a reduce-scatter or all-gather at N ranks: one write and one read of (N-1)/N or 1/N of it; an all-reduce is both.
//
// A call is described (name, bytes, dtype) next to the first chunk and compared after the first barrier. Descriptors alternate like
// slots: a rank can be at most one call ahead of one that still compares.
#include "executor/shm_collectives.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <cerrno>
#include <climits>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ctime>
#include <unistd.h>

#include "planner/core/error.h"

namespace zeroplan {
namespace {

constexpr long kWaitNs = 100'000'000;
constexpr int kLooksBeforeSleep = 64;
constexpr std::int64_t kTileElems = 2048;  // a tile of fp64 sums is 16 KiB: it stays in L1
constexpr std::int64_t kLineBytes = 64;

using Word = std::atomic<std::uint32_t>;
static_assert(sizeof(Word) == 4 && Word::is_always_lock_free, "the kernel compares this word");
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "shared between processes");

void futex_wait(Word& word, std::uint32_t expected) {
  const timespec timeout{0, kWaitNs};
  // Woken, timed out, interrupted, already changed: the caller looks again in every case.
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

void futex_wake_all(Word& word) { syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

[[noreturn]] void throw_stopped() { throw RunError("stopped: another rank failed"); }

struct Bf16 {
  std::uint16_t bits;
};

inline float widen(Bf16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

// To nearest, ties to even; every NaN becomes 0x7fc0, as torch does.
inline void narrow(float sum, Bf16& out) {
  const auto bits = std::bit_cast<std::uint32_t>(sum);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
  out.bits = static_cast<std::uint16_t>(nan ? 0x7fc0U : rounded);
}
inline void narrow(float sum, float& out) { out = sum; }
inline void narrow(double sum, double& out) { out = sum; }

template <class T>
using SumOf = decltype(widen(T{}));

template <class T>
void load_tile(SumOf<T>* __restrict sum, const T* __restrict in, std::int64_t elems) {
  for (std::int64_t i = 0; i < elems; ++i) sum[i] = widen(in[i]);
}

template <class T>
void add_tile(SumOf<T>* __restrict sum, const T* __restrict in, std::int64_t elems) {
  for (std::int64_t i = 0; i < elems; ++i) sum[i] += widen(in[i]);
}

template <class T>
void store_tile(T* __restrict out, const SumOf<T>* __restrict sum, std::int64_t elems) {
  for (std::int64_t i = 0; i < elems; ++i) narrow(sum[i], out[i]);
}

// out = ((in0 + in1) + in2) + ... element by element. `out` may be one of the inputs: a tile is read whole before it is written.
template <class T, class Input>
void sum_in_rank_order(std::byte* out, std::int64_t world, std::int64_t elems, const Input& input_of) {
  alignas(kLineBytes) std::array<SumOf<T>, kTileElems> sum;
  for (std::int64_t at = 0; at < elems; at += kTileElems) {
    const std::int64_t count = std::min(kTileElems, elems - at);
    load_tile(sum.data(), reinterpret_cast<const T*>(input_of(0)) + at, count);
    for (std::int64_t rank = 1; rank < world; ++rank) add_tile(sum.data(), reinterpret_cast<const T*>(input_of(rank)) + at, count);
    store_tile(reinterpret_cast<T*>(out) + at, sum.data(), count);
  }
}

template <class Input>
void sum_in_rank_order(std::byte* out, std::int64_t world, std::int64_t elems, Dtype dtype, const Input& input_of) {
  switch (dtype) {
    case Dtype::bf16: return sum_in_rank_order<Bf16>(out, world, elems, input_of);
    case Dtype::fp32: return sum_in_rank_order<float>(out, world, elems, input_of);
    case Dtype::fp64: return sum_in_rank_order<double>(out, world, elems, input_of);
    case Dtype::int32:
    case Dtype::fp16:
    case Dtype::int8: break;  // refused before anything was sent
  }
  assert(false);
}

void refuse_unsummable(Dtype dtype, const char* call) {
  if (dtype == Dtype::int32 || dtype == Dtype::fp16 || dtype == Dtype::int8) throw std::invalid_argument(fmt::format("{} does not sum {}", call, name_of(dtype)));
}

void copy_bytes(std::byte* to, const std::byte* from, std::int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

struct Piece {
  std::int64_t begin_elems = 0;
  std::int64_t elems = 0;
};

// Rank's part of `elems`: all but the last ones are equal and start at whole cache lines.
Piece piece_of(std::int64_t rank, std::int64_t world, std::int64_t elems) {
  const std::int64_t each = round_up(divide_up(elems, world), kLineBytes);
  const std::int64_t begin = std::min(rank * each, elems);
  return {begin, std::min(each, elems - begin)};
}

std::int64_t checked_world(std::int64_t world) {
  if (world < 1 || world > ShmWorld::kMaxWorld) throw std::invalid_argument(fmt::format("a world of {} ranks, must be 1..{}", world, ShmWorld::kMaxWorld));
  return world;
}

[[noreturn]] void throw_errno(const char* what, Bytes bytes) {
  throw EnvironmentError(fmt::format("shared memory of {} bytes: {} failed: {}", bytes.value(), what, std::strerror(errno)));
}

}  // namespace

SharedArea::SharedArea(Bytes bytes) : bytes_(bytes) {
  const int fd = memfd_create("zeroplan", MFD_CLOEXEC);
  if (fd < 0) throw_errno("memfd_create", bytes);
  void* mapped = MAP_FAILED;
  const bool sized = ftruncate(fd, bytes.value()) == 0;
  if (sized) mapped = mmap(nullptr, static_cast<std::size_t>(bytes.value()), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int error = errno;
  close(fd);  // the mapping keeps the memory
  errno = error;
  if (mapped == MAP_FAILED) throw_errno(sized ? "mmap" : "ftruncate", bytes);
  data_ = static_cast<std::byte*>(mapped);
}

SharedArea::~SharedArea() { munmap(data_, static_cast<std::size_t>(bytes_.value())); }

// A line of its own for each word that several ranks write.
struct ShmWorld::Control {
  alignas(kLineBytes) Word arrived{0};
  alignas(kLineBytes) Word generation{0};
  alignas(kLineBytes) Word stop{0};
};

struct ShmCollectives::Descriptor {
  Call call = Call::barrier;
  Dtype dtype = Dtype::fp32;
  std::int64_t bytes = 0;
  friend bool operator==(const Descriptor&, const Descriptor&) = default;
};

struct alignas(kLineBytes) ShmWorld::RankLine {
  std::atomic<std::uint64_t> awaited{0};  // 1 + the generation whose end this rank sleeps for; 0: it does not wait
  std::atomic<std::uint64_t> passes{0};
  ShmCollectives::Descriptor descriptors[2];
};

namespace {
constexpr std::int64_t kPageBytes = 4096;
}  // namespace

// Control, the ranks' lines, then on a page boundary the slots.
ShmWorld::ShmWorld(std::int64_t world)
    : world_(checked_world(world)),
      area_(Bytes(round_up(static_cast<std::int64_t>(sizeof(Control) + sizeof(RankLine) * static_cast<std::size_t>(world)), kPageBytes) +
                  2 * world * kSlotBytes)) {
  new (area_.data()) Control;
  for (std::int64_t rank = 0; rank < world; ++rank) new (&line(rank)) RankLine;
}

ShmWorld::Control& ShmWorld::control() const { return *reinterpret_cast<Control*>(area_.data()); }

ShmWorld::RankLine& ShmWorld::line(std::int64_t rank) const { return reinterpret_cast<RankLine*>(area_.data() + sizeof(Control))[rank]; }

std::byte* ShmWorld::slot(std::int64_t rank, std::uint64_t turn) const {
  const std::int64_t index = 2 * rank + static_cast<std::int64_t>(turn % 2);
  return area_.data() + area_.bytes().value() - (2 * world_ - index) * kSlotBytes;
}

void ShmWorld::stop() {
  control().stop.store(1, std::memory_order_release);
  futex_wake_all(control().generation);
}

bool ShmWorld::stopped() const { return control().stop.load(std::memory_order_acquire) != 0; }

bool ShmWorld::is_waiting(std::int64_t rank) const {
  const std::uint64_t awaited = line(rank).awaited.load(std::memory_order_acquire);
  return awaited != 0 && static_cast<std::uint32_t>(awaited - 1) == control().generation.load(std::memory_order_acquire);
}

std::uint64_t ShmWorld::passes(std::int64_t rank) const { return line(rank).passes.load(std::memory_order_relaxed); }

ShmCollectives::ShmCollectives(ShmWorld& shared, std::int64_t rank) : shared_(shared), rank_(rank) { assert(rank >= 0 && rank < shared.world()); }

const char* ShmCollectives::name_of_call(Call call) {
  switch (call) {
    case Call::all_gather: return "all_gather";
    case Call::reduce_scatter: return "reduce_scatter";
    case Call::all_reduce: return "all_reduce";
    case Call::barrier: return "barrier";
  }
  return "";
}

std::string ShmCollectives::describe(const Descriptor& descriptor) {
  const char* name = name_of_call(descriptor.call);
  switch (descriptor.call) {
    case Call::barrier: return name;
    case Call::all_gather: return fmt::format("{} of {} bytes", name, descriptor.bytes);
    case Call::reduce_scatter:
    case Call::all_reduce: return fmt::format("{} of {} bytes of {}", name, descriptor.bytes, name_of(descriptor.dtype));
  }
  return name;
}

void ShmCollectives::begin(Call call, std::int64_t bytes, Dtype dtype) {
  shared_.line(rank_).descriptors[++calls_ % 2] = {call, dtype, bytes};
  call_is_checked_ = false;
}

// Every rank finds the same pair, so whichever message arrives first is the same.
void ShmCollectives::check_same_call() const {
  const Descriptor& first = shared_.line(0).descriptors[calls_ % 2];
  for (std::int64_t other = 1; other < world(); ++other) {
    const Descriptor& second = shared_.line(other).descriptors[calls_ % 2];
    if (second == first) continue;
    throw RunError(fmt::format("ranks make different calls: rank 0 calls {}, rank {} calls {}", describe(first), other, describe(second)));
  }
}

void ShmCollectives::wait_while(std::uint32_t generation) {
  ShmWorld::Control& control = shared_.control();
  for (int look = 0; look < kLooksBeforeSleep; ++look)
    if (control.generation.load(std::memory_order_acquire) != generation) return;
  auto& awaited = shared_.line(rank_).awaited;
  awaited.store(std::uint64_t{generation} + 1, std::memory_order_release);
  while (control.generation.load(std::memory_order_acquire) == generation) {
    if (shared_.stopped()) {
      awaited.store(0, std::memory_order_release);
      throw_stopped();
    }
    futex_wait(control.generation, generation);
  }
  awaited.store(0, std::memory_order_release);
}

void ShmCollectives::pass_barrier() {
  if (shared_.stopped()) throw_stopped();
  ShmWorld::Control& control = shared_.control();
  const std::uint32_t generation = control.generation.load(std::memory_order_acquire);
  if (control.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<std::uint32_t>(world())) {
    control.arrived.store(0, std::memory_order_relaxed);  // published by the store below, before anybody can arrive again
    control.generation.store(generation + 1, std::memory_order_release);
    futex_wake_all(control.generation);
  } else {
    wait_while(generation);
  }
  shared_.line(rank_).passes.fetch_add(1, std::memory_order_relaxed);
  ++turn_;
  if (!call_is_checked_) check_same_call();
  call_is_checked_ = true;
}

void ShmCollectives::barrier() {
  if (world() == 1) return;
  begin(Call::barrier, 0, Dtype::fp32);
  pass_barrier();
}

void ShmCollectives::all_gather(const void* shard, void* full, std::int64_t shard_bytes) {
  const std::int64_t full_bytes = checked_multiply(world(), shard_bytes);
  const auto* from = static_cast<const std::byte*>(shard);
  auto* to = static_cast<std::byte*>(full);
  copy_bytes(to + rank_ * shard_bytes, from, shard_bytes);
  if (world() > 1) {
    begin(Call::all_gather, full_bytes, Dtype::fp32);
    gather_chunks(from, to, shard_bytes);
  }
  counts_.all_gather_bytes += full_bytes;
}

// The loops below run once for an empty buffer too: the call must be compared, and every rank must pass the same barriers.
void ShmCollectives::gather_chunks(const std::byte* shard, std::byte* full, std::int64_t shard_bytes) {
  std::int64_t at = 0;
  do {
    const std::int64_t bytes = std::min(ShmWorld::kSlotBytes, shard_bytes - at);
    copy_bytes(outgoing(), shard + at, bytes);
    pass_barrier();
    for (std::int64_t other = 0; other < world(); ++other)
      if (other != rank_) copy_bytes(full + other * shard_bytes + at, incoming(other), bytes);
    at += bytes;
  } while (at < shard_bytes);
}

void ShmCollectives::reduce_scatter(void* full, std::int64_t shard_elems, Dtype dtype) {
  refuse_unsummable(dtype, "reduce_scatter");
  const std::int64_t shard_bytes = checked_multiply(shard_elems, size_of(dtype));
  const std::int64_t full_bytes = checked_multiply(world(), shard_bytes);
  if (world() > 1) {
    begin(Call::reduce_scatter, full_bytes, dtype);
    reduce_scatter_chunks(static_cast<std::byte*>(full), shard_bytes, dtype);
  }
  counts_.reduce_scatter_bytes += full_bytes;
}

// A slot holds one strip per receiver; the own strip is never sent.
void ShmCollectives::reduce_scatter_chunks(std::byte* full, std::int64_t shard_bytes, Dtype dtype) {
  const std::int64_t strip_bytes = ShmWorld::kSlotBytes / world() / kLineBytes * kLineBytes;
  std::int64_t at = 0;
  do {
    const std::int64_t bytes = std::min(strip_bytes, shard_bytes - at);
    for (std::int64_t other = 0; other < world(); ++other)
      if (other != rank_) copy_bytes(outgoing() + other * strip_bytes, full + other * shard_bytes + at, bytes);
    pass_barrier();
    std::byte* own = full + rank_ * shard_bytes + at;
    const auto input_of = [&](std::int64_t from) -> const std::byte* { return from == rank_ ? own : incoming(from) + rank_ * strip_bytes; };
    sum_in_rank_order(own, world(), bytes / size_of(dtype), dtype, input_of);
    at += bytes;
  } while (at < shard_bytes);
}

void ShmCollectives::all_reduce(void* data, std::int64_t elems, Dtype dtype) {
  refuse_unsummable(dtype, "all_reduce");
  const std::int64_t bytes = checked_multiply(elems, size_of(dtype));
  if (world() > 1) {
    begin(Call::all_reduce, bytes, dtype);
    const std::int64_t chunk_elems = ShmWorld::kSlotBytes / size_of(dtype);
    std::int64_t at = 0;
    do {
      const std::int64_t count = std::min(chunk_elems, elems - at);
      all_reduce_chunk(static_cast<std::byte*>(data) + at * size_of(dtype), count, dtype);
      at += count;
    } while (at < elems);
  }
  counts_.all_reduce_bytes += checked_multiply(2, bytes);
}

// Two turns: each rank sums its piece of the chunk, then everybody fetches the pieces of the others. One rank computes each
// element, so that the bits are the same everywhere by construction.
void ShmCollectives::all_reduce_chunk(std::byte* data, std::int64_t elems, Dtype dtype) {
  const std::int64_t size = size_of(dtype);
  const Piece own = piece_of(rank_, world(), elems);
  const std::int64_t own_begin = own.begin_elems * size;
  const std::int64_t own_end = own_begin + own.elems * size;
  copy_bytes(outgoing(), data, own_begin);
  copy_bytes(outgoing() + own_end, data + own_end, elems * size - own_end);
  pass_barrier();
  const auto input_of = [&](std::int64_t from) -> const std::byte* { return (from == rank_ ? data : incoming(from)) + own_begin; };
  sum_in_rank_order(data + own_begin, world(), own.elems, dtype, input_of);
  copy_bytes(outgoing() + own_begin, data + own_begin, own.elems * size);
  pass_barrier();
  for (std::int64_t other = 0; other < world(); ++other) {
    if (other == rank_) continue;
    const Piece piece = piece_of(other, world(), elems);
    copy_bytes(data + piece.begin_elems * size, incoming(other) + piece.begin_elems * size, piece.elems * size);
  }
}

}  // namespace zeroplan
