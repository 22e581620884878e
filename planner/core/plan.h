// Job (what is to be trained), Plan (one complete set of choices) and Question (both, on a cluster), with the one table of their
// keys: a key's name is the flag of the CLI (micro_batch = --micro-batch), the key of plan.json and the knob of the GUI.
// Leaves out what a plan costs: answers are always recomputed from the question.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "planner/core/cluster.h"
#include "planner/core/dtype.h"
#include "planner/core/model.h"

namespace zeroplan {

enum class Engine : std::uint8_t { zeroplan };

/// Tensors of one block that backward needs and that forward may keep; what is not kept is recomputed from what is.
/// The block input x is always kept. attention_out includes the log-sum-exp; the rstd's are fp32 values per token.
enum class Kept : std::uint8_t { attention_rstd, qkv, attention_out, residual, ffn_rstd, gate_up };
inline constexpr int kKeptCount = 6;

std::string_view name_of(Kept kept);

/// A set of Kept.
struct KeepSet {
  std::uint8_t bits = 0;
  static constexpr KeepSet all() { return KeepSet{(1u << kKeptCount) - 1}; }
  constexpr bool has(Kept kept) const { return (bits >> static_cast<int>(kept)) & 1u; }
  constexpr KeepSet with(Kept kept) const { return KeepSet{static_cast<std::uint8_t>(bits | (1u << static_cast<int>(kept)))}; }
  friend bool operator==(KeepSet, KeepSet) = default;
};

struct Job {
  Model model;
  std::int64_t seq = 4096;  ///< tokens of one sequence
  Dtype compute_dtype = Dtype::bf16;   ///< bf16: bf16 parameters with an fp32 master copy; fp32: no separate master
  Dtype gradient_dtype = Dtype::bf16;  ///< kept, accumulated and sent in this dtype
  double learning_rate = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.01;  ///< decoupled (AdamW), on every parameter
  double clip_norm = 1.0;      ///< global gradient norm is clipped to this; 0 = no clipping

  bool has_master() const { return compute_dtype == Dtype::bf16; }
  friend bool operator==(const Job&, const Job&) = default;
};

struct Plan {
  Engine engine = Engine::zeroplan;
  std::int64_t stage = 3;             ///< ZeRO 0–3
  std::int64_t micro_batch = 1;       ///< sequences a rank and micro batch
  std::int64_t accumulate = 1;        ///< micro batches a step
  std::int64_t recomputed_blocks = 0; ///< the first so many blocks keep only `keep`; the others keep everything
  KeepSet keep;                       ///< what recomputed blocks keep all the same
  std::int64_t prefetch_units = 1;    ///< stage 3: gathers issued so many units ahead of use
  bool overlap_comm = true;           ///< a unit's gradient reduction runs beside the next unit's backward (one more gradient buffer)
  std::int64_t loss_chunk_tokens = 1024;  ///< logits exist for so many tokens at once

  friend bool operator==(const Plan&, const Plan&) = default;
};

struct Question {
  Job job;
  Cluster cluster;
  Plan plan;

  std::int64_t tokens_per_micro_batch() const { return plan.micro_batch * job.seq; }
  friend bool operator==(const Question&, const Question&) = default;
};

/// The question that is asked where only model and cluster are said: one sequence of 4096 tokens (or the model's longest), every block recomputed (what
/// XTuner and most tools switch on for full fine-tuning), bf16; on CPU fp32.
Question default_question(const Model& model, const Cluster& cluster);

/// One key of a question. `help` is a flag's help text; `values` says what is accepted.
struct QuestionKey {
  std::string_view name;
  std::string_view values;
  std::string_view help;
};

/// Every key in the order of plan.json.
const std::vector<QuestionKey>& question_keys();

/// Sets one key. `value` is a JSON number, bool, string or null. Throws InputError (file, key, what is accepted) for an unknown key or a
/// value out of range; keys that questions.md knows and this engine cannot honour yet are refused by name.
void set_key(Question& question, std::string_view key, const nlohmann::json& value, const std::string& file);

/// The value of a key as set_key would read it back.
nlohmann::json get_key(const Question& question, std::string_view key);

/// Checks what no single key can see (blocks beyond the model, chunk against tokens, dtypes against each other, dims that no kernel can
/// run, sizes whose product overflows). Throws UsageError naming key, value and remedy.
void check_question(const Question& question);

/// plan.json (docs: README, "plan.json"): {"format": "zeroplan-plan", "version": 1, "model", "cluster", "question"}.
/// plan_from_json throws InputError for a wrong format or version, a missing part and any unknown key.
nlohmann::json plan_to_json(const Question& question);
Question plan_from_json(const nlohmann::json& json, const std::string& file);

/// Reads and parses a JSON file; throws InputError with line and column. `file` may not exist, be empty or hold anything.
nlohmann::json read_json_file(const std::string& file);

/// Writes text to FILE.tmp, fsyncs and renames: the file is whole or untouched. Throws RunError with the cause.
void write_file_atomically(const std::string& file, std::string_view text);

}  // namespace zeroplan
