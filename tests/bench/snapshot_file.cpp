// snapshot_file ENTRIES FILE: writes a large memory snapshot, to measure with it what opens one.
#include <cstdlib>
#include <fmt/format.h>

#include "tests/bench/big_snapshot.h"

int main(int argc, char** argv) {
  const long long entries = argc == 3 ? std::atoll(argv[1]) : 0;
  if (entries <= 0) {
    fmt::print(stderr, "snapshot_file ENTRIES FILE\n");
    return 2;
  }
  zeroplan::BigSnapshot(entries, argv[2]);
}
