// How a program's heap treats what was freed.
#pragma once

namespace zeroplan {

/// Freed memory stays with the process, up to 512 MiB. An answer takes and frees tens of MiB; given back to the system each time, a third of its time went into faulting them in again.
/// one_heap: threads share one, so that what one has freed serves the next. For the start of main(); glibc only, elsewhere nothing happens.
void keep_freed_memory(bool one_heap);

}  // namespace zeroplan
