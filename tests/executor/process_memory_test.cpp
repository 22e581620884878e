#include "executor/process_memory.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor/launcher.h"
#include "planner/core/error.h"

namespace zeroplan {

TEST_CASE("only an element whose every unit holds the poison counts as unwritten", "[unit]") {
  alignas(8) std::array<std::uint16_t, 8> memory{};
  poison(memory.data(), Bytes(16));
  CHECK(count_poisoned(memory.data(), 8, 2) == 8);
  CHECK(count_poisoned(memory.data(), 4, 4) == 4);
  CHECK(count_poisoned(memory.data(), 2, 8) == 2);
  memory[1] = 0x3f80;  // 1.0f but for its lower half, which is the poison's by chance
  CHECK(count_poisoned(memory.data(), 8, 2) == 7);
  CHECK(count_poisoned(memory.data(), 4, 4) == 3);
  CHECK(count_poisoned(memory.data(), 2, 8) == 1);
  CHECK_THROWS_AS(count_poisoned(memory.data(), 1, 3), std::invalid_argument);
}

TEST_CASE("poison is a NaN in every floating type", "[unit]") {
  alignas(8) std::array<unsigned char, 16> memory{};
  poison(memory.data(), Bytes(16));
  for (std::size_t at = 0; at + 8 <= memory.size(); at += 2) {
    std::uint16_t half = 0;
    float single = 0;
    double twice = 0;
    std::int32_t integer = 0;
    std::memcpy(&half, memory.data() + at, sizeof half);
    std::memcpy(&single, memory.data() + at, sizeof single);
    std::memcpy(&twice, memory.data() + at, sizeof twice);
    std::memcpy(&integer, memory.data() + at, sizeof integer);
    CHECK(half == kPoisonHalf);
    CHECK(std::isnan(std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16)));
    CHECK(std::isnan(single));
    CHECK(std::bit_cast<std::uint32_t>(single) == kPoisonWord);
    CHECK(std::isnan(twice));
    CHECK(integer < 0);
  }
}

TEST_CASE("poison fills exactly the bytes asked for", "[unit]") {
  for (const std::int64_t bytes : {0, 1, 2, 3, 5, 4096, 100'001}) {
    std::vector<unsigned char> memory(static_cast<std::size_t>(bytes) + 2, 0x11);
    poison(memory.data(), Bytes(bytes));
    CHECK(count_overwritten(memory.data(), Bytes(bytes)) == Bytes(0));
    CHECK(highest_overwritten(memory.data(), Bytes(bytes)) == Bytes(0));
    CHECK(memory[static_cast<std::size_t>(bytes)] == 0x11);
  }
}

TEST_CASE("each overwritten unit is counted, and the end of the last one found", "[unit]") {
  constexpr std::int64_t kBytes = 100'001;
  std::vector<unsigned char> memory(kBytes);
  for (const std::int64_t at : {0, 1, 2, 8191, 8192, 8193, 50'000, 99'999, 100'000}) {
    poison(memory.data(), Bytes(kBytes));
    memory[static_cast<std::size_t>(at)] ^= 1;
    INFO("byte " << at);
    CHECK(count_overwritten(memory.data(), Bytes(kBytes)) == Bytes(at == kBytes - 1 ? 1 : 2));
    CHECK(highest_overwritten(memory.data(), Bytes(kBytes)) == Bytes(std::min(at / 2 * 2 + 2, kBytes)));
  }
  poison(memory.data(), Bytes(kBytes));
  std::memset(memory.data() + 10, 0, 60'000);
  CHECK(count_overwritten(memory.data(), Bytes(kBytes)) == Bytes(60'000));
  CHECK(highest_overwritten(memory.data(), Bytes(kBytes)) == Bytes(60'010));
  std::memset(memory.data(), 0, kBytes);
  CHECK(count_overwritten(memory.data(), Bytes(kBytes)) == Bytes(kBytes));
}

TEST_CASE("an arena is resident and poisoned from its first to its last byte, and given back", "[unit]") {
  constexpr std::int64_t kMib = 1 << 20;
  const LaunchResult result = launch({.world = 1}, [](RankContext&) {  // a process of its own: others' memory does not disturb
    const Bytes before = process_memory().anonymous_bytes;
    {
      const auto arena = Arena::try_make(Bytes(64 * kMib + 100));
      if (!arena) throw RunError("refused");
      if (arena->bytes() != Bytes(64 * kMib + 100) || arena->mapped_bytes() != Bytes(64 * kMib + 4096)) throw RunError("wrong size");
      std::vector<unsigned char> resident(64 * 256 + 1);
      if (mincore(arena->data(), static_cast<std::size_t>(arena->mapped_bytes().value()), resident.data()) != 0) throw RunError("not all is mapped");
      if (!std::all_of(resident.begin(), resident.end(), [](unsigned char page) { return page % 2 == 1; })) throw RunError("not all is resident");
      if (count_overwritten(arena->data(), arena->mapped_bytes()) != Bytes(0)) throw RunError("not poisoned");
    }
    if (process_memory().anonymous_bytes - before > Bytes(kMib)) throw RunError("not given back");
    return 0;
  });
  INFO(result.message);
  CHECK(result.exit_code == 0);
}

TEST_CASE("an arena the machine cannot give is an expected no", "[unit]") {
  CHECK_FALSE(Arena::try_make(machine_available_bytes() + Bytes(std::int64_t{1} << 40)).has_value());
  const LaunchResult result = launch({.world = 1}, [](RankContext&) {
    const auto limit_bytes = static_cast<rlim_t>(process_memory().virtual_bytes.value() + (64 << 20));
    const rlimit limit{limit_bytes, limit_bytes};
    setrlimit(RLIMIT_AS, &limit);
    return Arena::try_make(Bytes(128 << 20)).has_value() ? 1 : 0;
  });
  CHECK(result.exit_code == 0);
}

TEST_CASE("the peak of resident memory stays after memory is given back, until it is reset", "[unit]") {
  constexpr std::int64_t kMib = 1 << 20;
  const LaunchResult result = launch({.world = 1}, [](RankContext&) {
    reset_peak();
    const Bytes start = process_memory().peak_resident_bytes;
    { const auto arena = Arena::try_make(Bytes(64 * kMib)); }
    if (process_memory().peak_resident_bytes < start + Bytes(60 * kMib)) throw RunError("the peak was not seen");
    reset_peak();
    if (process_memory().peak_resident_bytes > start + Bytes(30 * kMib)) throw RunError("the peak was not reset");
    return 0;
  });
  INFO(result.message);
  CHECK(result.exit_code == 0);
}

TEST_CASE("a moved arena keeps its memory and frees it once", "[unit]") {
  auto first = Arena::try_make(Bytes(5000));
  REQUIRE(first);
  void* data = first->data();
  Arena second(std::move(*first));
  CHECK(first->data() == nullptr);
  CHECK(second.data() == data);
  second = *Arena::try_make(Bytes(9000));
  CHECK(second.bytes() == Bytes(9000));
  CHECK(count_overwritten(second.data(), second.bytes()) == Bytes(0));
}

TEST_CASE("available memory is what the tightest cgroup above the process leaves", "[unit]") {
  std::string name = (std::filesystem::temp_directory_path() / "zeroplan-test-XXXXXX").string();
  REQUIRE(mkdtemp(name.data()) != nullptr);
  const std::filesystem::path root = name.data();
  const auto write = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  };
  write("proc/meminfo", "MemTotal:       9000 kB\nMemFree:        1 kB\nMemAvailable:   8000 kB\n");
  CHECK(machine_available_bytes(root) == Bytes(8000 * 1024));  // no cgroups at all

  write("proc/self/cgroup", "5:cpu,cpuacct:/x\n0::/a/b\n");
  write("sys/fs/cgroup/a/memory.max", "5000000\n");
  write("sys/fs/cgroup/a/memory.current", "3000000\n");
  write("sys/fs/cgroup/a/b/memory.max", "max\n");
  write("sys/fs/cgroup/a/b/memory.current", "10\n");
  CHECK(machine_available_bytes(root) == Bytes(2'000'000));
  write("sys/fs/cgroup/a/memory.stat", "anon 7\ninactive_file 500000\n");
  CHECK(machine_available_bytes(root) == Bytes(2'500'000));
  write("sys/fs/cgroup/a/memory.current", "7000000\n");  // over its limit for a moment
  write("sys/fs/cgroup/a/memory.stat", "inactive_file 0\n");
  CHECK(machine_available_bytes(root) == Bytes(0));

  write("proc/self/cgroup", "4:memory:/folder/of/the/host\n0::/\n");  // v1 seen from inside a container: only the mount's root is there
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "4000000\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n");
  CHECK(machine_available_bytes(root) == Bytes(3'000'000));
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");  // v1's word for no limit
  CHECK(machine_available_bytes(root) == Bytes(8000 * 1024));
  std::filesystem::remove_all(root);
}

TEST_CASE("the parts of resident memory add up", "[unit]") {
  const ProcessMemory memory = process_memory();
  CHECK(memory.resident_bytes > Bytes(0));
  CHECK(memory.anonymous_bytes + memory.file_bytes + memory.shared_memory_bytes == memory.resident_bytes);
  CHECK(memory.peak_resident_bytes >= memory.resident_bytes);
  CHECK(memory.virtual_bytes > memory.resident_bytes);
}

}  // namespace zeroplan
