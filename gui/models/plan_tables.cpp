#include "gui/models/plan_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "gui/models/row_index.h"
#include "planner/core/format.h"
#include "planner/ops/op_table.h"

namespace zeroplan::gui {
namespace {

Cell size_cell(std::int64_t bytes) { return {format_gib(Bytes(bytes)), static_cast<double>(bytes), 0, true}; }
Cell words_cell(std::string text, Pixel swatch = 0) { return {std::move(text), 0, swatch, false}; }
Cell share_cell(std::int64_t part, std::int64_t whole) {
  const double ratio = whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
  return {fmt::format("{:.1f} %", 100 * ratio), ratio, 0, true};
}

std::string unit_words(UnitKind unit, std::int64_t block, Language language) {
  if (language == Language::english) return unit_name(unit, block);
  return unit == UnitKind::block ? fmt::format("第 {} 层", block) : std::string(say_name(name_of(unit), language));
}

// "block[3]", "head", "" of a Timeline or a Prediction.
std::string unit_words(std::string_view unit, Language language) {
  if (unit.starts_with("block[")) return unit_words(UnitKind::block, std::strtoll(unit.data() + 6, nullptr, 10), language);
  return std::string(say_name(unit, language));
}

// "steady.backward", "load".
std::string phase_words(std::string_view phase, Language language) {
  const std::optional<Phase> known = phase_of(phase);
  return std::string(say_name(known ? name_of(*known) : phase, language));
}

std::string place_words(std::string_view phase, std::string_view unit, std::string_view instruction, Language language) {
  if (unit.empty()) return fill(say("{} ({})", language), {phase_words(phase, language), instruction});
  return fill(say("{}, {} ({})", language), {phase_words(phase, language), unit_words(unit, language), instruction});
}

std::string life_name(const Answered& a, const LifeSpan& life, Language language) {
  if (life.tensor) return a.timeline->tensors[*life.tensor].name;
  if (!life.storage) {
    const InstructionSpan& at = a.picture.instructions[life.born];
    return fill(say("scratch of {}", language), {name_of(a.ours->program.fragments[at.fragment]->instructions[at.instruction].op)});
  }
  const Storage& storage = a.ours->program.storages[*life.storage];
  if (!storage.per_block) return std::string(storage.name);
  std::string name(storage.name);
  if (const std::size_t dot = name.find('.'); dot != std::string::npos) name = fmt::format("{}[{}]{}", name.substr(0, dot), life.instance, name.substr(dot));
  return name;
}

// " ×14" where it stands for equal micro batches.
std::string rounds_words(const Answered& a, std::uint32_t instruction) {
  const std::int64_t rounds = rounds_of(a.picture, instruction);
  return rounds > 1 ? fmt::format(" ×{}", rounds) : "";
}

std::string short_place(const Answered& a, std::uint32_t instruction, Language language) {
  const std::string rounds = rounds_words(a, instruction);
  if (a.timeline) {
    const TimelineInstant& at = a.timeline->instants[instruction];
    return (at.unit.empty() ? phase_words(at.phase, language) : fmt::format("{} · {}", phase_words(at.phase, language), unit_words(at.unit, language))) + rounds;
  }
  const InstructionSpan& at = a.picture.instructions[instruction];
  const Fragment& fragment = *a.ours->program.fragments[at.fragment];
  return fmt::format("{} · {}{}", say_name(name_of(fragment.phase), language), unit_words(fragment.unit, at.block, language), rounds);
}

// Where the part that is shown begins with what an earlier part has left.
bool is_before_the_step(const Answered& a, const LifeSpan& life) { return a.timeline ? a.timeline->instants[life.born].phase == "before" : life.born < a.ours->linear.step_begin; }

std::string born_words(const Answered& a, const LifeSpan& life, Language language) {
  return is_before_the_step(a, life) ? std::string(say("before the step", language)) : short_place(a, life.born, language);
}

std::string dies_words(const Answered& a, const LifeSpan& life, Language language) {
  if (!life.storage && !life.tensor) return std::string(say("gone after its kernel", language));
  return life.dies >= a.picture.instructions.size() ? std::string(say("never: stays between steps", language)) : short_place(a, life.dies, language);
}

std::string why_words(const Answered& a, const LifeSpan& life, Language language) {
  if (life.tensor) return std::string(say_name(a.timeline->tensors[*life.tensor].why, language));
  return life.storage ? std::string(say_name(a.ours->program.storages[*life.storage].why, language)) : std::string(say_name("scratch", language));
}

Category category_of(const Answered& a, const LifeSpan& life) {
  if (life.tensor) return a.timeline->tensors[*life.tensor].category;
  return life.storage ? a.ours->program.storages[*life.storage].category : Category::scratch;
}

// Where it runs out of memory, what the host has not, what was passed over: of an emulated engine only.
std::string trouble_words(const Prediction& p, Language language) {
  std::string out;
  const auto add = [&](Text text, std::initializer_list<std::string_view> values) { out += " · " + fill(say(text, language), values); };
  if (p.failure) add("runs out of memory in {}, asking for {}", {place_words(p.failure->phase, "", p.failure->op, language), format_gib(p.failure->error.segment_bytes)});
  if (p.cache_emptied > 0 && !p.failure) add("the allocator empties its cache {} times", {std::to_string(p.cache_emptied)});
  if (p.pinned_bytes > Bytes() || !p.host_fits()) {
    if (p.host_fits()) add("host memory of a node {}", {format_gib(p.host_bytes)});
    else add("host memory of a node {}, there are {}", {format_gib(p.host_bytes), format_gib(*p.question.cluster.host_bytes)});
  }
  for (const EmulationGap& gap : p.gaps) add("not modelled: {} ({})", {gap.key, say_name(gap.taken, language)});
  return out;
}

}  // namespace

std::string category_words(Category category, Language language) {
  std::string name(name_of(category));
  if (language == Language::english) std::replace(name.begin(), name.end(), '_', ' ');
  return std::string(say_name(name, language));
}

std::string verdict_words(Verdict verdict, Language language) {
  switch (verdict) {
    case Verdict::fits: return std::string(say("FITS", language));
    case Verdict::tight: return std::string(say("TIGHT", language));
    case Verdict::does_not_fit: return std::string(say("DOES NOT FIT", language));
  }
  return "";
}

std::string engine_words(Engine engine, const std::string& tool) {
  const std::string by = tool == "xtuner" ? "XTuner" : tool == "accelerate" ? "Accelerate" : tool;
  const auto with_tool = [&](const char* name) { return by.empty() ? std::string(name) : fmt::format("{} ({})", name, by); };
  switch (engine) {
    case Engine::zeroplan: return "zeroplan";
    case Engine::deepspeed: return with_tool("DeepSpeed");
    case Engine::fsdp2: return with_tool("FSDP2");
    case Engine::fsdp1: return with_tool("FSDP1");
    case Engine::ddp: return "DDP";
    case Engine::single: return "PyTorch";
    case Engine::other: return with_tool("ZeRO");
  }
  return "";
}

std::string time_words(const Answered& answered, SimTime time, Language language) {
  if (answered.picture.has_clock) return format_seconds(seconds(step_time(answered.picture, time)));
  const auto instant = [](SimTime t) { return std::to_string(t.value() / kInstant.value()); };
  return fill(say("instant {} of {}", language), {instant(time), instant(answered.picture.duration)});
}

std::string place_words(const Answered& answered, std::uint32_t instruction, Language language) {
  if (answered.timeline) {
    const TimelineInstant& at = answered.timeline->instants[instruction];
    return place_words(at.phase, at.unit, at.name, language);
  }
  const InstructionSpan& at = answered.picture.instructions[instruction];
  const Fragment& fragment = *answered.ours->program.fragments[at.fragment];
  return fill(say("{}, {} ({})", language), {say_name(name_of(fragment.phase), language), unit_words(fragment.unit, at.block, language), name_of(fragment.instructions[at.instruction].op)});
}

VerdictLines verdict_lines(const Answered& answered, Language language) {
  const Prediction& a = answered.prediction;
  const bool over = a.spare < Bytes();
  VerdictLines out;
  out.need = fill(say("needs {} of {} usable", language), {format_gib(a.must_fit), format_gib(a.usable)}) + " · " +
             (over ? fill(say("{} too much", language), {format_gib(Bytes() - a.spare)}) : fill(say("{} spare", language), {format_gib(a.spare)})) + " · " +
             fill(say("band ±{} %", language), {fmt::format("{:.1f}", 100 * a.band_ratio)});
  out.when = fill(say("peak in {}", language), {place_words(answered, instruction_at(answered.picture, answered.picture.peak_event), language)}) + " · " + std::string(say("every rank", language)) + trouble_words(a, language);
  if (!a.cost) return out;
  out.speed = fill(say("{} a step", language), {format_seconds(a.cost->step_s)}) + " · " + fill(say("{} tokens/s a GPU", language), {fmt::format("{:.0f}", a.cost->tokens_per_s_per_gpu)});
  if (a.question.cluster.device.peak_bf16_flops_per_s > 0) out.speed += " · " + fill(say("MFU {} %", language), {fmt::format("{:.0f}", 100 * a.cost->mfu_ratio)});
  return out;
}

Table alive_table(const Answered& answered, std::size_t event, std::string_view filter, const Palette& palette, Language language) {
  const auto head = [&](Text text) { return std::string(say(text, language)); };
  Table out{{head("Name"), head("Size"), head("Born"), head("Dies"), head("Why")}, {}};
  for (const std::size_t index : alive_at(answered.picture, event)) {
    const LifeSpan& life = answered.picture.lives[index];
    std::string name = life_name(answered, life, language);
    if (!filter.empty() && !contains_ignoring_case(name, filter)) continue;
    const Category category = category_of(answered, life);
    const std::string born = born_words(answered, life, language), dies = dies_words(answered, life, language), why = why_words(answered, life, language);
    Row row{{words_cell(name, palette[static_cast<std::size_t>(category)]), size_cell(life.bytes), words_cell(born), words_cell(dies), words_cell(why)}, "", static_cast<std::int64_t>(index)};
    row.cells[2].order = life.born;
    row.cells[3].order = life.dies;
    row.note = fmt::format("{}\n{} ({} B) · {}\n{}\n{} → {}", name, format_gib(Bytes(life.bytes)), life.bytes, category_words(category, language), why, born, dies);
    out.rows.push_back(std::move(row));
  }
  return out;
}

Table breakdown_table(const Answered& answered, std::size_t event, const Palette& palette, Language language) {
  const auto head = [&](Text text) { return std::string(say(text, language)); };
  const Prediction& a = answered.prediction;
  const Stack peak = answered.picture.memory.stack_after(answered.picture.peak_event), here = answered.picture.memory.stack_after(event);
  Table out{{head("Category"), head("At the peak"), head("At the selection"), head("Share")}, {}};
  const std::int64_t whole = a.capacity.value();
  for (auto it = kStackOrder.rbegin(); it != kStackOrder.rend(); ++it) {
    const auto c = static_cast<std::size_t>(*it);
    if (peak[c] == 0 && here[c] == 0) continue;
    out.rows.push_back({{words_cell(category_words(*it, language), palette[c]), size_cell(peak[c]), size_cell(here[c]), share_cell(peak[c], whole)}, "", static_cast<std::int64_t>(c)});
  }
  const auto add = [&](std::string name, std::int64_t bytes, std::int64_t now) { out.rows.push_back({{words_cell(std::move(name)), size_cell(bytes), size_cell(now), share_cell(bytes, whole)}, "", -1}); };
  add(head("total live"), total_of(peak), total_of(here));
  add(answered.ours ? head("addresses (gaps)") : head("allocator (cache, rounding)"), a.must_fit.value() - total_of(peak), a.must_fit.value() - total_of(here));
  add(head("CUDA context"), a.outside.context.value(), a.outside.context.value());
  add(head("NCCL"), a.outside.nccl.value(), a.outside.nccl.value());
  add(head("libraries"), a.outside.libraries.value(), a.outside.libraries.value());
  add(head("free"), a.spare.value(), a.spare.value());
  add(head("capacity"), whole, whole);
  return out;
}

std::string change_words(const KeyChange& change) {
  std::string out;
  for (const auto& [key, value] : change) {
    std::string words = key;
    std::replace(words.begin(), words.end(), '_', ' ');
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", words, value);
  }
  return out;
}

Table fixes_table(const std::vector<Remedy>& fixes, const Answered& from, Language language) {
  const auto head = [&](Text text) { return std::string(say(text, language)); };
  const auto mark = [](Verdict verdict) { return verdict == Verdict::fits ? "✓" : verdict == Verdict::tight ? "~" : "✗"; };
  Table out{{head("Change"), head("Peak"), head("Step"), ""}, {}};
  for (std::size_t i = 0; i < fixes.size(); ++i) {
    const Prediction& fixed = fixes[i].prediction;
    const std::string change = change_words(fixes[i].change);
    const double step_s = fixed.cost ? fixed.cost->step_s : 0, ratio = from.step_s() > 0 ? step_s / from.step_s() - 1 : 0;
    Row row{{words_cell(change), size_cell(fixed.must_fit.value()), {fmt::format("{:+.0f} %", 100 * ratio), ratio, 0, true}, words_cell(mark(fixed.verdict))},
            fmt::format("{}\n{} · {} · {}{}", change, verdict_words(fixed.verdict, language), format_gib(fixed.must_fit), format_seconds(step_s), fixes[i].changes_numerics ? "\n" + head("rounds differently") : ""),
            static_cast<std::int64_t>(i)};
    out.rows.push_back(std::move(row));
  }
  return out;
}

}  // namespace zeroplan::gui
