#include "planner/core/heap.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace zeroplan {

void keep_freed_memory([[maybe_unused]] bool one_heap) {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the largest that glibc takes
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  if (one_heap) mallopt(M_ARENA_MAX, 1);
#endif
}

}  // namespace zeroplan
