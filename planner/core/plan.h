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
#include "planner/core/deepspeed_options.h"
#include "planner/core/dtype.h"
#include "planner/core/model.h"

namespace zeroplan {

/// Whose training step is planned. single: plain PyTorch on one GPU; other: another runtime with ZeRO's semantics, named in `tool`.
enum class Engine : std::uint8_t { zeroplan, deepspeed, fsdp2, fsdp1, ddp, single, other };
inline constexpr int kEngineCount = 7;
std::string_view name_of(Engine engine);

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

enum class Optimizer : std::uint8_t { adamw, adam, sgd, momentum, adafactor, lion, muon, adamw_8bit, paged_adamw_8bit };
enum class OptimizerKernel : std::uint8_t { foreach, fused, for_loop, cpu };
enum class AttentionKernel : std::uint8_t { flash, efficient, cudnn, eager };
enum class Loss : std::uint8_t { chunked, plain, fused };  ///< plain: all logits at once; fused: never materialised, or written over
enum class Offload : std::uint8_t { none, cpu, nvme };
enum class Reshard : std::uint8_t { standard, always, never };  ///< FSDP2 after forward; standard: all but the root
enum class BaseDtype : std::uint8_t { bf16, fp16, nf4, int8, fp32 };  ///< of frozen weights

/// What is recomputed. blocks: recomputed_blocks of them; every_nth: each checkpoint_every-th; selective_op: torchtitan's op policy.
enum class CheckpointPolicy : std::uint8_t { blocks, every_nth, selective_op, selective_attention };

struct Lora {
  std::int64_t rank = 0;
  std::vector<std::string> targets = {};  ///< q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj
  BaseDtype base_dtype = BaseDtype::bf16;
  friend bool operator==(const Lora&, const Lora&) = default;
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

  // Below: what the zeroplan engine has at one value. An unset dtype follows from the others (Question's functions of that name say how).
  std::optional<Lora> lora = {};  ///< unset: all parameters are trained
  std::optional<Dtype> stored_dtype = {};   ///< of the trained parameters as they are kept
  std::optional<Dtype> wire_dtype = {};     ///< of gradients on the wire
  std::optional<bool> separate_master = {}; ///< a master copy in fp32 beside the parameters
  bool tf32 = false;                   ///< fp32 compute on tf32 units
  std::int64_t sequence_parallel = 1;  ///< ranks that share one sequence (Ulysses or ring)
  bool packed = true;                  ///< samples are packed to seq; else their lengths vary up to it, and on emulated engines the first micro batches are shorter
  Optimizer optimizer = Optimizer::adamw;
  Dtype optimizer_dtype = Dtype::fp32; ///< of the moments: fp32, bf16, int8
  std::optional<bool> logits_fp32 = {};     ///< logits are cast to fp32 before the loss; unset: not stated

  bool has_master() const { return separate_master.value_or(compute_dtype == Dtype::bf16); }
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

  // Below: other engines' choices.
  CheckpointPolicy checkpoint_policy = CheckpointPolicy::blocks;
  std::int64_t checkpoint_every = 0;          ///< with every_nth
  std::optional<bool> checkpoint_reentrant = {};   ///< unset: the tool's default
  std::optional<std::int64_t> shard_group = {};    ///< ranks that share one copy of what the stage shards; unset: the world
  Reshard reshard = Reshard::standard;
  OptimizerKernel optimizer_kernel = OptimizerKernel::foreach;
  AttentionKernel attention = AttentionKernel::flash;
  Loss loss = Loss::chunked;
  std::optional<std::int64_t> loss_chunks = {};
  Offload offload_optimizer = Offload::none;
  double offload_optimizer_ratio = 1;         ///< part of the optimizer that lives there
  Offload offload_parameters = Offload::none;
  Offload offload_activations = Offload::none;
  bool compile = false;
  bool fp8 = false;
  bool expandable_segments = false;
  bool zero_init = false;                     ///< stage 3: the model is made or loaded in shards
  DeepSpeedOptions deepspeed = {};
  std::string tool = {};                           ///< who configured it: transformers, torchtitan, xtuner, hf-trainer, llamafactory, ...; empty: the engine's own defaults
  std::string preset = {};                         ///< whose defaults were taken; empty: none
  std::string torch = {};                          ///< version or date; empty: not stated
  std::string engine_version = {};                 ///< "0.19.8"; empty: the newest modelled

  friend bool operator==(const Plan&, const Plan&) = default;
};

struct Question {
  Job job;
  Cluster cluster;
  Plan plan;

  std::int64_t tokens_per_micro_batch() const { return plan.micro_batch * job.seq; }
  std::int64_t shard_group() const { return plan.shard_group.value_or(cluster.world_size()); }

  // Dtypes with what follows where nothing is said. DeepSpeed and our engine keep parameters in the compute dtype and a master copy in fp32 (ours not beside
  // fp32 parameters); FSDP, DDP and plain PyTorch keep them in fp32 and have no separate master.
  Dtype parameters_dtype() const { return job.stored_dtype.value_or(implied_parameters_dtype()); }
  Dtype reduce_dtype() const { return job.wire_dtype.value_or(implied_reduce_dtype()); }
  bool has_master() const { return job.separate_master.value_or(implied_master()); }
  Dtype implied_parameters_dtype() const;
  Dtype implied_reduce_dtype() const { return plan.engine == Engine::deepspeed ? parameters_dtype() : job.gradient_dtype; }  ///< DeepSpeed sends in the parameters' dtype, whatever it accumulates in
  bool implied_master() const;

  friend bool operator==(const Question&, const Question&) = default;
};

/// The question that is asked where only model and cluster are said: one sequence of 4096 tokens (or the model's longest), every block recomputed (what
/// XTuner and most tools switch on for full fine-tuning), bf16; on CPU fp32.
Question default_question(const Model& model, const Cluster& cluster);

/// Makes `engine` the engine, with its defaults where they differ from the last one's: loss (ours chunked, others plain), logits, gradient dtype.
void set_engine(Question& question, Engine engine);

/// One key of a question. `help` is a flag's help text; `values` says what is accepted.
struct QuestionKey {
  std::string_view name;
  std::string_view values;
  std::string_view help;
};

/// Every key in the order of plan.json.
const std::vector<QuestionKey>& question_keys();

/// Sets one key. `value` is a JSON number, bool, string or null. Throws InputError (file, key, what is accepted) for an unknown key or a
/// value out of range; keys that questions.md knows and the question's engine cannot honour are refused by name. Set engine first, then tool.
void set_key(Question& question, std::string_view key, const nlohmann::json& value, const std::string& file);

/// The value of a key as set_key would read it back; null where the question's engine has no such choice.
nlohmann::json get_key(const Question& question, std::string_view key);

/// Checks what no single key can see (blocks beyond the model, chunk against tokens, dtypes against each other, dims that no kernel can
/// run, sizes whose product overflows). Throws UsageError naming key, value and remedy.
void check_question(const Question& question);

/// Throws UsageError for every engine but our own, which alone is compiled to a Program: for what runs, proves or draws one.
void require_zeroplan_engine(const Question& question);

/// plan.json (docs: README, "plan.json"): {"format": "zeroplan-plan", "version": 1, "model", "cluster", "question"}.
/// plan_from_json throws InputError for a wrong format or version, a missing part and any unknown key.
nlohmann::json plan_to_json(const Question& question);
Question plan_from_json(const nlohmann::json& json, const std::string& file);

/// Reads and parses a JSON file; throws InputError with line and column. `file` may not exist, be empty or hold anything.
nlohmann::json read_json_file(const std::string& file);

/// Writes text to FILE.tmp, fsyncs and renames: the file is whole or untouched. Throws RunError with the cause.
void write_file_atomically(const std::string& file, std::string_view text);

}  // namespace zeroplan
