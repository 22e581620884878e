#include "executor/arena_meter.h"

#include <algorithm>

#include "executor/process_memory.h"

namespace zeroplan {
namespace {

using Ranges = std::vector<std::pair<std::int64_t, std::int64_t>>;

Ranges united(Ranges ranges) {
  std::sort(ranges.begin(), ranges.end());
  Ranges out;
  for (const auto& [begin, end] : ranges) {
    if (!out.empty() && begin <= out.back().second) out.back().second = std::max(out.back().second, end);
    else out.emplace_back(begin, end);
  }
  return out;
}

Bytes overwritten(const void* arena, std::int64_t begin, std::int64_t end) {
  return end > begin ? count_overwritten(static_cast<const char*>(arena) + begin, Bytes(end - begin)) : Bytes();
}

// Bytes of [begin, end) that were written, in words: a half of a float may equal the poison by chance.
Bytes written(const void* arena, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t word = 4;
  const char* memory = static_cast<const char*>(arena) + begin;
  const std::int64_t words = (end - begin) / word, rest = (end - begin) % word;
  return Bytes((words - count_poisoned(memory, words, word)) * word + (rest - 2 * count_poisoned(memory + words * word, rest / 2, 2)));
}

}  // namespace

ArenaMeter::ArenaMeter(const Program& program, const LinearProgram& linear, const Layout& layout) {
  Ranges storages, scratch;
  const std::vector<Life> lives = lives_of(program, linear);
  for (std::size_t i = 0; i < layout.birth_offset.size(); ++i) storages.emplace_back(layout.birth_offset[i], layout.birth_offset[i] + lives[i].bytes);
  for (const Life& life : lives)
    if (life.scratch) scratch.emplace_back(layout.scratch_offset[life.birth], layout.scratch_offset[life.birth] + life.bytes);
  storages_ = united(storages);
  storages.insert(storages.end(), scratch.begin(), scratch.end());
  owned_ = united(std::move(storages));
  for (const auto& [begin, end] : storages_) planned_ += Bytes(end - begin);
}

ArenaMeter::Reading ArenaMeter::read(const void* arena, Bytes bytes) const {
  Reading out;
  for (const auto& [begin, end] : storages_) out.touched += written(arena, begin, end);
  out.outside = outside(arena, bytes);
  out.high_water = Bytes(round_up(highest_overwritten(arena, bytes).value(), kMemoryLineBytes));
  return out;
}

Bytes ArenaMeter::outside(const void* arena, Bytes bytes) const {
  Bytes sum;
  std::int64_t cursor = 0;
  for (const auto& [begin, end] : owned_) {
    sum += overwritten(arena, cursor, begin);
    cursor = end;
  }
  return sum + overwritten(arena, cursor, bytes.value());
}

}  // namespace zeroplan
