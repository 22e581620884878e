// Reading memory snapshots of PyTorch's shape: entries with 30 frames each, every entry with a list of its own that refers to shared frames, as Python pickles them.
// The files lie in the folder for temporary files while the benchmark runs.
#include <benchmark/benchmark.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>

#include "simulator/memory_snapshot.h"
#include "tests/bench/big_snapshot.h"

namespace zeroplan {
namespace {

double peak_resident_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

/// Removes its file.
struct TemporaryFile {
  std::string name = (std::filesystem::temp_directory_path() / ("zeroplan_snapshot_bench_" + std::to_string(::getpid()) + ".pickle")).string();
  ~TemporaryFile() { std::filesystem::remove(name); }
};

void read_snapshot(benchmark::State& state) {
  const TemporaryFile file;
  BigSnapshot(state.range(0), file.name);
  const auto file_bytes = static_cast<double>(std::filesystem::file_size(file.name));
  std::size_t stacks = 0;
  for (auto _ : state) stacks = read_memory_snapshot(file.name)->stacks.stack_count();
  state.counters["file_MB"] = file_bytes / 1e6;
  state.counters["stacks"] = static_cast<double>(stacks);
  state.counters["peak_resident_MiB"] = peak_resident_mib();
  state.SetBytesProcessed(static_cast<std::int64_t>(file_bytes) * state.iterations());
}
// By size: the peak is the process's so far.
BENCHMARK(read_snapshot)->Arg(100'000)->Arg(1'000'000)->Arg(6'000'000)->Unit(benchmark::kMillisecond)->MinTime(0.1);

void timeline_of_snapshot(benchmark::State& state) {
  const TemporaryFile file;
  BigSnapshot(state.range(0), file.name);
  const MemorySnapshot snapshot = read_memory_snapshot(file.name).value();
  for (auto _ : state) benchmark::DoNotOptimize(timeline_of(snapshot, 0).peak_bytes);
}
BENCHMARK(timeline_of_snapshot)->Arg(1'000'000)->Unit(benchmark::kMillisecond)->MinTime(0.1);

}  // namespace
}  // namespace zeroplan

BENCHMARK_MAIN();
