// The host's loops over the elements of a row. Two rules make them fast and repeatable. Sums and maxima run over kLanes independent lanes that are
// joined in a fixed order, so the compiler may use any vector width without changing the order of additions. And the functions that hold
// the loops are compiled once per instruction set (ZEROPLAN_CLONES); which copy runs is decided once per process, not per call.
#pragma once

#include <cstdint>

#include "executor/kernels/bodies.h"

// Sanitizers instrument the resolver that picks a copy, which runs before they are ready: there, and off x86, one copy must do.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ZEROPLAN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ZEROPLAN_CLONES
#endif
#define ZEROPLAN_INLINE inline __attribute__((always_inline))
#define ZEROPLAN_LAMBDA __attribute__((always_inline))

namespace zeroplan::kernels {

/// More than the 16 iterations that GCC unrolls before it looks for vectors.
inline constexpr std::int64_t kLanes = 32;

/// each(i) for i < n. The calls may run in any order and at once: each touches its own elements (reading and writing the same place is fine).
template <class Each>
ZEROPLAN_INLINE void for_elements(std::int64_t n, Each each) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) each(i);
}

/// lane[l] = join(lane[l], term(i)) for i = l, l + kLanes, …; then the lanes joined pairwise. Terms may write their own elements.
template <class A, class Term, class Join>
ZEROPLAN_INLINE A reduce_lanes(std::int64_t n, A start, Term term, Join join) {
  A lanes[kLanes];
  for (std::int64_t l = 0; l < kLanes; ++l) lanes[l] = start;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma GCC ivdep
    for (std::int64_t l = 0; l < kLanes; ++l) lanes[l] = join(lanes[l], term(i + l));
  }
  for (std::int64_t l = 0; i + l < n; ++l) lanes[l] = join(lanes[l], term(i + l));
  for (std::int64_t width = kLanes / 2; width > 0; width /= 2)
    for (std::int64_t l = 0; l < width; ++l) lanes[l] = join(lanes[l], lanes[l + width]);
  return lanes[0];
}

template <class A, class Term>
ZEROPLAN_INLINE A sum_elements(std::int64_t n, Term term) {
  return reduce_lanes(n, A(0), term, [](A a, A b) ZEROPLAN_LAMBDA { return a + b; });
}

/// Largest term(i), n > 0. A NaN may be passed over; whoever sums the same row afterwards meets it.
template <class A, class Term>
ZEROPLAN_INLINE A max_element(std::int64_t n, Term term) {
  return reduce_lanes(n, A(term(0)), term, [](A a, A b) ZEROPLAN_LAMBDA { return b > a ? b : a; });
}

/// total (+)= the accumulated sums, or overwritten: how a gradient over rows leaves its scratch.
template <class A, class G>
ZEROPLAN_INLINE void add_or_store(const A* sums, G* total, std::int64_t n, bool accumulate) {
  if (accumulate)
    for_elements(n, [=](std::int64_t i) ZEROPLAN_LAMBDA { total[i] = body::store<G>(static_cast<A>(body::load(total[i])) + sums[i]); });
  else
    for_elements(n, [=](std::int64_t i) ZEROPLAN_LAMBDA { total[i] = body::store<G>(sums[i]); });
}

}  // namespace zeroplan::kernels
