#include "cli/words.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "planner/core/format.h"

namespace zeroplan::cli {

std::string verdict_words(Verdict verdict) {
  switch (verdict) {
    case Verdict::fits: return "FITS";
    case Verdict::tight: return "TIGHT";
    case Verdict::does_not_fit: return "DOES NOT FIT";
  }
  return "";
}

std::string checkpoint_words(const Question& question) { return get_key(question, "checkpoint").get<std::string>(); }

std::string question_line(const Question& q) {
  std::string line = fmt::format("{} ({} parameters) on {}, zeroplan engine, ZeRO stage {}", q.job.model.name, format_count(static_cast<double>(parameter_elems(q.job.model))), q.cluster.name, q.plan.stage);
  line += fmt::format("\n  {} × {} tokens a GPU and micro batch, {} micro batch{} a step, {} with {} gradients, checkpoint {}", q.plan.micro_batch, q.job.seq, q.plan.accumulate,
                      q.plan.accumulate == 1 ? "" : "es", name_of(q.job.compute_dtype), name_of(q.job.gradient_dtype), checkpoint_words(q));
  line += fmt::format(",\n  prefetch {} unit{}, reductions {}, loss in chunks of {} tokens, AdamW", q.plan.prefetch_units, q.plan.prefetch_units == 1 ? "" : "s",
                      q.plan.overlap_comm ? "overlapped" : "not overlapped", std::min(q.plan.loss_chunk_tokens, q.tokens_per_micro_batch()));
  return line;
}

std::string place_words(const Program& program, const Place& place) {
  const Fragment& fragment = *program.fragments[place.fragment];
  const Instruction& instruction = fragment.instructions[place.instruction];
  const std::string unit = fragment.unit == UnitKind::block ? fmt::format("block {}", place.block) : std::string(name_of(fragment.unit));
  std::string out = fmt::format("{} of {}, instruction {} ({})", name_of(fragment.phase), unit, place.instruction, name_of(instruction.op));
  if (program.question.plan.accumulate > 1) out += fmt::format(", micro batch {}", place.micro_batch);
  return out;
}

std::string category_words(const std::array<std::int64_t, kCategoryCount>& by_category) {
  std::string out;
  for (int c = 0; c < kCategoryCount; ++c) {
    if (by_category[static_cast<std::size_t>(c)] == 0) continue;
    std::string name(name_of(static_cast<Category>(c)));
    std::replace(name.begin(), name.end(), '_', ' ');
    out += fmt::format("{}{} {}", out.empty() ? "" : " | ", name, format_gib(Bytes(by_category[static_cast<std::size_t>(c)])));
  }
  return out;
}

std::string change_words(const std::vector<std::pair<std::string, std::string>>& change) {
  std::string out;
  for (const auto& [key, value] : change) {
    std::string flag = key;
    std::replace(flag.begin(), flag.end(), '_', '-');
    out += fmt::format("{}--{} {}", out.empty() ? "" : " ", flag, value);
  }
  return out;
}

}  // namespace zeroplan::cli
