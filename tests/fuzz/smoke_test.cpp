// The fuzz targets without a fuzzer: every seed, its beginnings, and some thousands of mutations a target, the same ones every time.
//
//     fuzz_smoke_test [TARGET [FILE]]      all; one target; one input
//
// Whatever is in work when a promise breaks or the process dies is named on stderr and left as fuzz_smoke_failure in the working directory.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/targets.h"

namespace {

using zeroplan::fuzz::Target;
namespace fs = std::filesystem;

constexpr std::size_t kLargestSeed = 64 << 10;
constexpr int kMutations = 2000;

const char* running_target = "";
std::string running_input;

void report_and_die(int signal) {
  (void)!::write(STDERR_FILENO, "fuzz_smoke_test: died in target ", 32);
  (void)!::write(STDERR_FILENO, running_target, std::strlen(running_target));
  (void)!::write(STDERR_FILENO, ", input in fuzz_smoke_failure\n", 30);
  if (std::FILE* out = std::fopen("fuzz_smoke_failure", "wb")) {
    std::fwrite(running_input.data(), 1, running_input.size(), out);
    std::fclose(out);
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

std::string read(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> seeds_of(const Target& target) {
  std::vector<fs::path> files;
  for (const std::string& folder : {std::string("tests/fuzz/corpus/") + target.name, std::string(target.more)})
    if (!folder.empty())
      for (const auto& entry : fs::directory_iterator(fs::path(ZEROPLAN_ROOT) / folder))
        if (entry.is_regular_file() && entry.file_size() <= kLargestSeed && entry.path().extension() != ".py") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<std::string> seeds;
  for (const fs::path& file : files) seeds.push_back(read(file));
  return seeds;
}

/// Numbers and marks that readers are known to trip over.
constexpr const char* kHostile[] = {"0",   "-1",  "1e308", "-1e308", "1e999", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551616", "2147483648", "1000000000000000",
                                    "NaN", "nan", "inf",   "null",   "true",  "\"\"",                "[]",                  "{}",                   "[[[[[[[[",             "{\"a\":",    "\"auto\"",
                                    "0.5", "-0",  "1.0",   "\xff",   "\\u0000"};

class Mutator {
 public:
  explicit Mutator(std::uint32_t seed) : random_(seed) {}

  std::string operator()(std::string text, const std::string& other) {
    for (std::size_t changes = 1 + below(4); changes > 0; --changes) change(text, other);
    return text;
  }
  std::size_t below(std::size_t bound) { return bound == 0 ? 0 : random_() % bound; }

 private:
  void change(std::string& text, const std::string& other) {
    const std::size_t at = below(text.size() + 1);
    switch (below(7)) {
      case 0: text.erase(at, 1 + below(8)); break;
      case 1: text.insert(at, 1, static_cast<char>(below(256))); break;
      case 2: if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8))); break;
      case 3: text.insert(at, text.substr(below(text.size() + 1), below(64))); break;
      case 4: text.replace(at, below(16), other.substr(below(other.size() + 1), below(64))); break;
      case 5: text.insert(at, kHostile[below(std::size(kHostile))]); break;
      case 6: replace_number(text, at); break;
    }
  }

  /// The first number from `at` on becomes a hostile one.
  void replace_number(std::string& text, std::size_t at) {
    const std::size_t begin = text.find_first_of("0123456789", at);
    if (begin == std::string::npos) return;
    const std::size_t end = std::min(text.find_first_not_of("0123456789.", begin), text.size());
    text.replace(begin, end - begin, kHostile[below(std::size(kHostile))]);
  }

  std::mt19937 random_;
};

bool run_one(const Target& target, std::string input) {
  running_target = target.name;
  running_input = std::move(input);
  try {
    target.run(running_input);
    return true;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fuzz_smoke_test: target %s: %s; input in fuzz_smoke_failure\n", target.name, error.what());
  }
  std::ofstream("fuzz_smoke_failure", std::ios::binary) << running_input;
  return false;
}

bool run_all(const Target& target) {
  const std::vector<std::string> seeds = seeds_of(target);
  if (seeds.empty()) {
    std::fprintf(stderr, "fuzz_smoke_test: target %s has no seeds\n", target.name);
    return false;
  }
  for (const std::string& seed : seeds)
    if (!run_one(target, seed)) return false;
  Mutator mutate(20261125);
  for (int i = 0; i < kMutations; ++i) {
    const std::string& seed = seeds[mutate.below(seeds.size())];
    if (!run_one(target, i % 16 == 0 ? seed.substr(0, mutate.below(seed.size())) : mutate(seed, seeds[mutate.below(seeds.size())]))) return false;
  }
  std::printf("%s: %zu seeds, %d mutations\n", target.name, seeds.size(), kMutations);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  for (const int signal : {SIGSEGV, SIGABRT, SIGFPE, SIGBUS, SIGILL}) std::signal(signal, report_and_die);
  bool passed = true;
  for (const Target& target : zeroplan::fuzz::targets()) {
    if (argc > 1 && std::strcmp(argv[1], target.name) != 0) continue;
    passed = (argc > 2 ? run_one(target, read(argv[2])) : run_all(target)) && passed;
  }
  return passed ? 0 : 1;
}
