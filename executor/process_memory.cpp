#include "executor/process_memory.h"

#include <algorithm>
#include <stdexcept>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include "planner/core/error.h"

namespace zeroplan {
namespace {

constexpr std::int64_t kKib = 1024;
constexpr std::int64_t kUnit = 2;
constexpr std::int64_t kBlockUnits = 4096;  // below 2^16, so that a 16-bit count of a block cannot wrap

// The helpers read memory that holds floats.
using Half [[gnu::may_alias]] = std::uint16_t;

constexpr auto kFirstPoisonByte = static_cast<unsigned char>(std::endian::native == std::endian::little ? kPoisonHalf & 0xff : kPoisonHalf >> 8);

Bytes kib_after(std::string_view text, std::string_view key) {
  const std::size_t at = text.find(fmt::format("\n{}:", key));
  if (at == std::string_view::npos) return {};
  std::istringstream rest{std::string(text.substr(at + key.size() + 2, 64))};
  std::int64_t kib = 0;
  rest >> kib;
  return Bytes(kib) * kKib;
}

// Empty if it cannot be read. A newline goes first, so that every key follows one.
std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << '\n' << file.rdbuf();
  return file.is_open() ? text.str() : std::string();
}

std::string read_or_throw(const std::string& path) {
  std::string text = read_text(path);
  if (text.empty()) throw EnvironmentError(path + " cannot be read");
  return text;
}

// "max" (no limit) and a missing file are both no number.
std::optional<std::int64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

std::int64_t inactive_file_bytes(const std::string& stat_path, std::string_view key) {
  std::ifstream file(stat_path);
  std::string name;
  std::int64_t value = 0;
  while (file >> name >> value)
    if (name == key) return value;
  return 0;
}

struct CgroupFiles {
  const char *limit, *usage, *inactive_key;
};
constexpr CgroupFiles kV1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
constexpr CgroupFiles kV2{"memory.max", "memory.current", "inactive_file"};

std::optional<std::int64_t> available_in(const std::string& folder, const CgroupFiles& files) {
  const auto limit = number_in(folder + "/" + files.limit);
  const auto usage = number_in(folder + "/" + files.usage);
  if (!limit || !usage) return std::nullopt;
  const std::int64_t cache = std::min(*usage, inactive_file_bytes(folder + "/memory.stat", files.inactive_key));
  return std::max<std::int64_t>(0, *limit - *usage + cache);
}

// A limit may sit on any ancestor. Inside a container the path may name folders of the host: those are absent and the mount's root is what counts.
std::int64_t available_up(const std::string& mount, std::string path, const CgroupFiles& files, std::int64_t available) {
  for (;;) {
    if (const auto here = available_in(mount + path, files)) available = std::min(available, *here);
    if (path.empty()) return available;
    path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
}

bool names_memory(std::string_view controllers) { return fmt::format(",{},", controllers).find(",memory,") != std::string::npos; }

// A line of /proc/self/cgroup: "4:memory:/a/b" (v1) or "0::/a/b" (v2).
std::int64_t available_by_line(const std::string& root, const std::string& line, std::int64_t available) {
  const std::size_t first = line.find(':');
  const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
  if (second == std::string::npos) return available;
  const std::string controllers = line.substr(first + 1, second - first - 1);
  const std::string path = line.substr(second + 1);
  if (names_memory(controllers)) return available_up(root + "/sys/fs/cgroup/memory", path, kV1, available);
  if (controllers.empty()) return available_up(root + "/sys/fs/cgroup", path, kV2, available);
  return available;
}

std::int64_t page_bytes() { return sysconf(_SC_PAGESIZE); }

std::int64_t overwritten_units(const Half* units, std::int64_t count) {
  std::int64_t total = 0;
  for (std::int64_t at = 0; at < count; at += kBlockUnits) {
    const std::int64_t end = std::min(at + kBlockUnits, count);
    std::uint16_t block = 0;
    for (std::int64_t i = at; i < end; ++i) block = static_cast<std::uint16_t>(block + (units[i] != kPoisonHalf));
    total += block;
  }
  return total;
}

bool odd_byte_overwritten(const void* memory, Bytes bytes) {
  return bytes.value() % kUnit != 0 && static_cast<const unsigned char*>(memory)[bytes.value() - 1] != kFirstPoisonByte;
}

const Half* units_of(const void* memory) {
  assert(reinterpret_cast<std::uintptr_t>(memory) % kUnit == 0);
  return static_cast<const Half*>(memory);
}

}  // namespace

ProcessMemory process_memory() {
  const std::string status = read_or_throw("/proc/self/status");
  ProcessMemory memory;
  memory.virtual_bytes = kib_after(status, "VmSize");
  memory.resident_bytes = kib_after(status, "VmRSS");
  memory.peak_resident_bytes = kib_after(status, "VmHWM");
  memory.anonymous_bytes = kib_after(status, "RssAnon");
  memory.file_bytes = kib_after(status, "RssFile");
  memory.shared_memory_bytes = kib_after(status, "RssShmem");
  return memory;
}

void reset_peak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  if (!file) throw EnvironmentError("/proc/self/clear_refs: the kernel does not let this process reset its peak of resident memory");
}

Bytes machine_available_bytes(const std::string& root) {
  std::int64_t available = kib_after(read_or_throw(root + "/proc/meminfo"), "MemAvailable").value();
  std::istringstream groups(read_text(root + "/proc/self/cgroup"));
  for (std::string line; std::getline(groups, line);) available = available_by_line(root, line, available);
  return Bytes(available);
}

void poison(void* memory, Bytes bytes) {
  auto* units = const_cast<Half*>(units_of(memory));
  std::fill(units, units + bytes.value() / kUnit, kPoisonHalf);
  if (bytes.value() % kUnit != 0) static_cast<unsigned char*>(memory)[bytes.value() - 1] = kFirstPoisonByte;
}

Bytes count_overwritten(const void* memory, Bytes bytes) {
  return Bytes(kUnit * overwritten_units(units_of(memory), bytes.value() / kUnit) + (odd_byte_overwritten(memory, bytes) ? 1 : 0));
}

std::int64_t count_poisoned(const void* memory, std::int64_t elements, std::int64_t element_bytes) {
  const auto count = [&]<class Word>(Word poison_word) {
    const auto* words = static_cast<const Word*>(memory);
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < elements; ++i) sum += words[i] == poison_word;
    return sum;
  };
  switch (element_bytes) {
    case 2: return count(kPoisonHalf);
    case 4: return count(kPoisonWord);
    case 8: return count(std::uint64_t{kPoisonWord} << 32 | kPoisonWord);
    default: throw std::invalid_argument("count_poisoned: elements have 2, 4 or 8 bytes");
  }
}

Bytes highest_overwritten(const void* memory, Bytes bytes) {
  if (odd_byte_overwritten(memory, bytes)) return bytes;
  const Half* units = units_of(memory);
  std::int64_t end = bytes.value() / kUnit;
  while (end > 0) {  // whole blocks from the top; then unit by unit in the one that differs
    const std::int64_t begin = std::max<std::int64_t>(0, end - kBlockUnits);
    if (overwritten_units(units + begin, end - begin) != 0) break;
    end = begin;
  }
  while (end > 0 && units[end - 1] == kPoisonHalf) --end;
  return Bytes(kUnit * end);
}

std::optional<Arena> Arena::try_make(Bytes bytes) {
  assert(bytes.value() > 0);
  const Bytes mapped(round_up(bytes.value(), page_bytes()));
  if (mapped > machine_available_bytes()) return std::nullopt;
  void* data = mmap(nullptr, static_cast<std::size_t>(mapped.value()), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return std::nullopt;
  Arena arena(data, bytes);
  poison(data, mapped);  // to the end of the last page
  return arena;
}

Arena::~Arena() {
  if (data_ != nullptr) munmap(data_, static_cast<std::size_t>(mapped_bytes().value()));
}

Arena::Arena(Arena&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, Bytes())) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Bytes Arena::mapped_bytes() const { return Bytes(round_up(bytes_.value(), page_bytes())); }

}  // namespace zeroplan
