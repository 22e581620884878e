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

std::string engine_words(Engine engine) {
  switch (engine) {
    case Engine::zeroplan: return "zeroplan";
    case Engine::deepspeed: return "DeepSpeed";
    case Engine::fsdp2: return "FSDP2";
    case Engine::fsdp1: return "FSDP1";
    case Engine::ddp: return "DDP";
    case Engine::single: return "one GPU";
    case Engine::other: return "another runtime";
  }
  return "";
}

std::string engine_words(const Question& q) {
  std::string out = engine_words(q.plan.engine);
  if (!q.plan.preset.empty()) return out + ", " + q.plan.preset;
  if (q.plan.engine == Engine::deepspeed || q.plan.engine == Engine::fsdp1 || q.plan.engine == Engine::zeroplan) out += fmt::format(", stage {}", q.plan.stage);
  return q.plan.tool.empty() ? out : fmt::format("{} ({})", out, q.plan.tool);
}

namespace {

std::string stage_words(const Question& q) {
  const bool offloads = q.plan.offload_optimizer != Offload::none;
  if (q.plan.tool == "xtuner") return fmt::format("xtuner train … --deepspeed deepspeed_zero{}{}", q.plan.stage, offloads && q.plan.stage >= 2 ? "_offload" : "");
  if (q.plan.tool == "ms-swift") return fmt::format("swift sft … --deepspeed zero{}{}", q.plan.stage, offloads && q.plan.stage >= 2 ? "_offload" : "");
  if (q.plan.tool == "llamafactory") return fmt::format("deepspeed: examples/deepspeed/ds_z{}{}_config.json", q.plan.stage, offloads && q.plan.stage >= 2 ? "_offload" : "");
  return "";
}

std::string key_words(const Question& q, const std::string& key, const std::string& value) {
  const bool hf = q.plan.tool == "hf-trainer" || q.plan.tool == "llamafactory" || q.plan.tool == "ms-swift";
  if (key == "stage" || key == "offload_optimizer") return stage_words(q);
  if (key == "checkpoint" && hf) return fmt::format("gradient_checkpointing: {}", value != "none");
  if (key == "checkpoint" && q.plan.tool == "torchtitan") return fmt::format("activation_checkpoint.mode = \"{}\"", value);
  if (key == "micro_batch") return q.plan.tool == "xtuner" ? fmt::format("batch_size = {}", value) : hf ? fmt::format("per_device_train_batch_size: {}", value) : "";
  if (key == "accumulate") return q.plan.tool == "xtuner" ? fmt::format("accumulative_counts = {}", value) : hf ? fmt::format("gradient_accumulation_steps: {}", value) : "";
  if (key == "loss" && value == "fused" && hf) return q.plan.tool == "llamafactory" ? "enable_liger_kernel: true" : "use_liger_kernel: true";
  if (key == "optimizer_kernel" && value == "fused") return hf ? "optim: adamw_torch_fused" : q.plan.tool == "xtuner" ? "optimizer=dict(type=AdamW, fused=True, …)" : "";
  if (key == "deepspeed") return "in the DeepSpeed JSON, zero_optimization: " + value;
  return "";
}

std::string other_engine_line(const Question& q) {
  std::string line = fmt::format("{} ({} parameters) on {}, {} × {} tokens a GPU and micro batch, {} micro batch{} a step", q.job.model.name, format_count(static_cast<double>(parameter_elems(q.job.model))),
                                 q.cluster.name, q.plan.micro_batch, q.job.seq, q.plan.accumulate, q.plan.accumulate == 1 ? "" : "es");
  if (!q.job.packed) line += ", not packed";
  line += fmt::format(",\n  {} with {} parameters and {} gradients, checkpoint {}, ", q.job.tf32 ? "tf32" : name_of(q.job.compute_dtype), name_of(q.parameters_dtype()), name_of(q.job.gradient_dtype), checkpoint_words(q));
  line += fmt::format("{} attention, {} loss, {} ({})", get_key(q, "attention").get<std::string>(), get_key(q, "loss").get<std::string>(), get_key(q, "optimizer").get<std::string>(),
                      get_key(q, "optimizer_kernel").get<std::string>());
  if (!q.plan.engine_version.empty()) line += fmt::format(", {} {}", engine_words(q.plan.engine), q.plan.engine_version);
  if (q.job.lora) line += fmt::format(", LoRA rank {}", q.job.lora->rank);
  return line;
}

}  // namespace

std::string tool_words(const Question& changed, const std::vector<std::pair<std::string, std::string>>& change) {
  std::string out;
  for (const auto& [key, value] : change) {
    const std::string words = key_words(changed, key, value);
    if (!words.empty() && out.find(words) == std::string::npos) out += (out.empty() ? "" : "; ") + words;
  }
  return out.empty() ? out : fmt::format("in {}: {}", changed.plan.tool, out);
}

std::string question_line(const Question& q) {
  if (q.plan.engine != Engine::zeroplan) return other_engine_line(q);
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
