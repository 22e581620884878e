// The table of a question's keys, and plan.json.
// A key is one row: its name, what it accepts, how it is set and how it is read back, and whose it is. Our own engine has some keys at one value only: there it
// accepts that value (or null) and refuses any other by name; other engines' choices and our own's are refused on the other side.
// The order matters: engine and tool decide what follows, dtypes that follow from compute_dtype come after it, `deepspeed` comes before the keys that say the
// same in words of their own (an explicit key wins), and checkpoint counts the layers that num_layers left.
#include "planner/core/plan.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/nearest.h"
#include "planner/core/plan_detail.h"
#include "planner/core/readers.h"

namespace zeroplan {

namespace {

using nlohmann::json;
using namespace plan_detail;

constexpr IntegerRange kSeq{1, 1 << 24};
constexpr IntegerRange kMicroBatch{1, 1 << 20};
constexpr IntegerRange kAccumulate{1, 1 << 20};
constexpr IntegerRange kPrefetchUnits{0, 8};
constexpr IntegerRange kLossChunkTokens{1, std::int64_t{1} << 31};
constexpr NumberRange kLearningRate{0, 1e3};
constexpr NumberRange kBeta{0, 0.999999999};
constexpr NumberRange kEpsilon{0, 1, true};
constexpr NumberRange kWeightDecay{0, 1e3};
constexpr IntegerRange kShardGroup{1, std::int64_t{1} << 40};
constexpr IntegerRange kSequenceParallel{1, 1 << 20};
constexpr IntegerRange kLossChunks{1, 1 << 12};
constexpr IntegerRange kLoraRank{1, 1 << 16};
constexpr std::size_t kLongestText = 200;

// ---- values ----

/// One value on its way into a question: JSON, or the words of a command line as a JSON string.
class Value {
 public:
  struct From {
    const std::string& file;
    std::string place;
    std::string_view accepted;
  };
  Value(const json& value, From from) : value_(value), from_(std::move(from)) {}

  bool is_null() const { return value_.is_null(); }
  const std::string& file() const { return from_.file; }
  const std::string& place() const { return from_.place; }
  const json& raw() const { return value_; }

  std::int64_t integer(IntegerRange range) const {
    std::int64_t out = 0;
    if (value_.is_string()) {
      const auto parsed = parse_whole<std::int64_t>(value_.get_ref<const std::string&>());
      if (!parsed) refuse_type();
      out = *parsed;
    } else if (!read_integer(value_, out)) {
      refuse_type();
    }
    if (out < range.least || out > range.most) refuse(fmt::format("must be from {} to {}, got {}", range.least, range.most, out));
    return out;
  }

  double number(NumberRange range) const {
    double out = 0;
    if (value_.is_string()) {
      const auto parsed = parse_whole<double>(value_.get_ref<const std::string&>());
      if (!parsed) refuse_type();
      out = *parsed;
    } else if (value_.is_number()) {
      out = value_.get<double>();
    } else {
      refuse_type();
    }
    if (!range.holds(out)) refuse(fmt::format("must be {}, got {}", range.text(), describe(value_)));
    return out;
  }

  bool boolean() const {
    if (value_.is_boolean()) return value_.get<bool>();
    if (value_ == "true") return true;
    if (value_ == "false") return false;
    refuse_type();
  }

  std::string text() const {
    if (!value_.is_string()) refuse_type();
    return value_.get<std::string>();
  }

  /// Whether the value says the same as `other`, in JSON or in a command line's words.
  bool says(const json& other) const {
    if (value_ == other) return true;
    if (!value_.is_string() || other.is_string()) return false;
    return value_.get_ref<const std::string&>() == other.dump();
  }

  [[noreturn]] void refuse(const std::string& problem, const std::string& remedy) const {
    throw InputError(from_.file, from_.place, problem, remedy);
  }
  [[noreturn]] void refuse(const std::string& problem) const { refuse(problem, fmt::format("Accepted: {}", from_.accepted)); }
  [[noreturn]] void refuse_type() const { refuse(fmt::format("cannot be {}", describe(value_))); }

 private:
  const json& value_;
  From from_;
};

// ---- keys with words of their own ----

bool is_ours(const Question& question) { return question.plan.engine == Engine::zeroplan; }

[[noreturn]] void refuse_ours(const Value& value) { value.refuse(fmt::format("{} is not modelled by the zeroplan engine yet", describe(value.raw()))); }

Dtype read_dtype(const Question& question, const Value& value) {
  const std::string text = value.text();
  if (text == "bf16") return Dtype::bf16;
  if (text == "fp32") return Dtype::fp32;
  if (is_ours(question)) refuse_ours(value);
  if (text == "fp16") return Dtype::fp16;
  value.refuse(fmt::format("{} is no dtype of it", describe(value.raw())));
}

/// A choice whose enumerators are named by `names`, in order.
template <class Choice, std::size_t N>
Choice read_choice(const Value& value, const std::array<std::string_view, N>& names) {
  const std::string text = value.text();
  const auto at = std::find(names.begin(), names.end(), text);
  if (at == names.end()) value.refuse(fmt::format("{} is not known", describe(value.raw())), did_you_mean({names.begin(), names.end()}, text));
  return static_cast<Choice>(at - names.begin());
}

constexpr std::array<std::string_view, kEngineCount> kEngineNames{"zeroplan", "deepspeed", "fsdp2", "fsdp1", "ddp", "single", "other"};
constexpr std::array<std::string_view, 9> kOptimizerNames{"adamw", "adam", "sgd", "momentum", "adafactor", "lion", "muon", "adamw-8bit", "paged-adamw-8bit"};
constexpr std::array<std::string_view, 4> kKernelNames{"foreach", "fused", "for-loop", "cpu"};
constexpr std::array<std::string_view, 4> kAttentionNames{"flash", "efficient", "cudnn", "eager"};
constexpr std::array<std::string_view, 3> kLossNames{"chunked", "plain", "fused"};
constexpr std::array<std::string_view, 3> kReshardNames{"default", "always", "never"};
constexpr std::array<std::string_view, 5> kBaseDtypeNames{"bf16", "fp16", "nf4", "int8", "fp32"};
constexpr std::array<std::string_view, 9> kLoraTargets{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"};

void set_num_layers(Question& question, const Value& value) {
  if (value.is_null()) return;
  Plan& plan = question.plan;
  std::int64_t& layers = question.job.model.num_layers;
  const bool was_full = plan.recomputed_blocks > 0 && plan.recomputed_blocks == layers;
  layers = value.integer({1, kMostLayers});
  if (was_full) plan.recomputed_blocks = layers;  // checkpoint=full means all layers, however many
}

void set_compute_dtype(Question& question, const Value& value) {
  const bool tf32 = !is_ours(question) && value.text() == "tf32";
  question.job.compute_dtype = tf32 ? Dtype::fp32 : read_dtype(question, value);
  question.job.tf32 = tf32;
  question.job.gradient_dtype = is_ours(question) ? question.job.compute_dtype : question.parameters_dtype();
}

void set_gradient_dtype(Question& question, const Value& value) {
  const Dtype dtype = read_dtype(question, value);
  if (is_ours(question) && question.job.compute_dtype == Dtype::fp32 && dtype == Dtype::bf16)
    value.refuse("bf16 gradients of fp32 compute are not modelled", "Set it to fp32, or compute_dtype to bf16");
  question.job.gradient_dtype = dtype;
}

/// A key that says again what other keys decided. Null leaves it to them.
void require_same(const Value& value, std::string_view follows, std::string_view decided) {
  if (!value.is_null() && !value.says(decided))
    value.refuse(fmt::format("{} is not modelled by the zeroplan engine yet", describe(value.raw())),
                 fmt::format("With this {} it is {}", follows, decided));
}

std::string_view master_name(const Question& question) { return question.has_master() ? "fp32" : "none"; }

void set_parameters_dtype(Question& question, const Value& value) {
  if (is_ours(question)) return require_same(value, "compute_dtype", name_of(question.job.compute_dtype));
  if (value.is_null()) return;
  question.job.stored_dtype = unless_implied(read_dtype(question, value), question.implied_parameters_dtype());
  question.job.gradient_dtype = question.parameters_dtype();
}

void set_master_dtype(Question& question, const Value& value) {
  if (is_ours(question)) return require_same(value, "compute_dtype", master_name(question));
  if (value.is_null()) return;
  const std::string text = value.text();
  if (text != "fp32" && text != "none") value.refuse(fmt::format("{} is not known", describe(value.raw())));
  question.job.separate_master = unless_implied(text == "fp32", question.implied_master());
}

void set_reduce_dtype(Question& question, const Value& value) {
  if (is_ours(question)) return require_same(value, "gradient_dtype", name_of(question.job.gradient_dtype));
  if (value.is_null()) return;
  question.job.wire_dtype = unless_implied(read_dtype(question, value), question.implied_reduce_dtype());
}

void set_optimizer_dtype(Question& question, const Value& value) {
  const std::string text = value.text();
  if (text == "int8") question.job.optimizer_dtype = Dtype::int8;
  else question.job.optimizer_dtype = read_dtype(question, value);
}

/// "PREFIX-N" as N; nullopt if the text is not of that form or N is out of range.
std::optional<std::int64_t> number_after(const std::string& text, std::string_view prefix, std::int64_t least) {
  if (!text.starts_with(prefix)) return std::nullopt;
  const auto count = parse_whole<std::int64_t>(text.substr(prefix.size()));
  return count && *count >= least && *count <= kMostLayers ? count : std::nullopt;
}

void set_checkpoint(Question& question, const Value& value) {
  const std::string text = value.text();
  Plan& plan = question.plan;
  const auto policy = [&](CheckpointPolicy chosen, std::int64_t blocks, std::int64_t every = 0) {
    if (chosen != CheckpointPolicy::blocks && is_ours(question)) refuse_ours(value);
    plan.checkpoint_policy = chosen;
    plan.recomputed_blocks = blocks;
    plan.checkpoint_every = every;
  };
  if (text == "none") return policy(CheckpointPolicy::blocks, 0);
  if (text == "full") return policy(CheckpointPolicy::blocks, question.job.model.num_layers);
  if (text == "selective-op") return policy(CheckpointPolicy::selective_op, 0);
  if (text == "selective-attention") return policy(CheckpointPolicy::selective_attention, 0);
  if (const auto every = number_after(text, "every-", 1)) return policy(CheckpointPolicy::every_nth, 0, *every);
  if (const auto blocks = number_after(text, "blocks-", 0)) return policy(CheckpointPolicy::blocks, *blocks);
  if (text.starts_with("blocks-") || text.starts_with("every-")) value.refuse(fmt::format("{} names no number of blocks", describe(value.raw())));
  if (is_ours(question)) refuse_ours(value);
  value.refuse(fmt::format("{} is not known", describe(value.raw())));
}

json get_checkpoint(const Question& question) {
  switch (question.plan.checkpoint_policy) {
    case CheckpointPolicy::every_nth: return fmt::format("every-{}", question.plan.checkpoint_every);
    case CheckpointPolicy::selective_op: return "selective-op";
    case CheckpointPolicy::selective_attention: return "selective-attention";
    case CheckpointPolicy::blocks: break;
  }
  const std::int64_t blocks = question.plan.recomputed_blocks;
  if (blocks == 0) return "none";
  if (blocks == question.job.model.num_layers) return "full";
  return fmt::format("blocks-{}", blocks);
}

// ---- what is trained ----

/// A JSON object, or its text (the words of a command line).
json object_of(const Value& value) {
  if (value.raw().is_object()) return value.raw();
  if (!value.raw().is_string()) value.refuse_type();
  const std::string& text = value.raw().get_ref<const std::string&>();
  if (find_too_deep(text)) value.refuse_type();
  json parsed = json::parse(text, nullptr, false);
  if (!parsed.is_object()) value.refuse_type();
  return parsed;
}

std::vector<std::string> read_lora_targets(const JsonFields& fields) {
  const json& list = fields.at("lora_targets");
  if (!list.is_array() || list.empty()) fields.fail("lora_targets", fmt::format("must be a list of names, got {}", describe(list)), "");
  std::vector<std::string> targets;
  for (const json& name : list) {
    const std::string text = name.is_string() ? name.get<std::string>() : "";
    if (std::find(kLoraTargets.begin(), kLoraTargets.end(), text) == kLoraTargets.end())
      fields.fail("lora_targets", fmt::format("{} is not a linear layer of a block", describe(name)), did_you_mean({kLoraTargets.begin(), kLoraTargets.end()}, text));
    targets.push_back(text);
  }
  return targets;
}

void set_train(Question& question, const Value& value) {
  if (value.is_null() || value.raw() == "full") {
    question.job.lora.reset();
    return;
  }
  if (value.raw().is_string())
    if (const auto rank = number_after(value.text(), "lora-", kLoraRank.least); rank && *rank <= kLoraRank.most) {
      question.job.lora = Lora{*rank, {kLoraTargets.begin(), kLoraTargets.begin() + 7}, BaseDtype::bf16};
      return;
    }
  const json object = object_of(value);
  const JsonFields fields(object, value.file(), value.place());
  fields.refuse_unknown({"lora_rank", "lora_targets", "base_dtype"});
  Lora lora{fields.integer("lora_rank", kLoraRank), read_lora_targets(fields), BaseDtype::bf16};
  if (fields.has("base_dtype")) lora.base_dtype = read_choice<BaseDtype>(Value(fields.at("base_dtype"), {value.file(), value.place() + "/base_dtype", "bf16|fp16|nf4|int8|fp32"}), kBaseDtypeNames);
  question.job.lora = std::move(lora);
}

json get_train(const Question& question) {
  if (!question.job.lora) return "full";
  const Lora& lora = *question.job.lora;
  return {{"lora_rank", lora.rank}, {"lora_targets", lora.targets}, {"base_dtype", name_in(kBaseDtypeNames, lora.base_dtype)}};
}

std::vector<std::string_view> kept_names() {
  std::vector<std::string_view> names;
  for (int i = 0; i < kKeptCount; ++i) names.push_back(name_of(static_cast<Kept>(i)));
  return names;
}

KeepSet with_named(KeepSet keep, const std::string& name, const Value& value) {
  if (name == "all") return KeepSet::all();
  for (int i = 0; i < kKeptCount; ++i)
    if (name == name_of(static_cast<Kept>(i))) return keep.with(static_cast<Kept>(i));
  value.refuse(fmt::format("{} is not a tensor of a block", describe(name)), did_you_mean(kept_names(), name));
}

std::vector<std::string> split_at_commas(const std::string& text) {
  std::vector<std::string> parts{""};
  for (const char c : text) {
    if (c == ',') parts.emplace_back();
    else if (c != ' ') parts.back() += c;
  }
  return parts;
}

void set_keep(Question& question, const Value& value) {
  KeepSet keep;
  if (value.raw().is_array()) {
    for (const json& name : value.raw()) {
      if (!name.is_string()) value.refuse(fmt::format("cannot hold {}", describe(name)));
      keep = with_named(keep, name.get<std::string>(), value);
    }
  } else if (!value.is_null() && value.text() != "" && value.text() != "none") {
    for (const std::string& name : split_at_commas(value.text())) keep = with_named(keep, name, value);
  }
  question.plan.keep = keep;
}

json get_keep(const Question& question) {
  json names = json::array();
  for (int i = 0; i < kKeptCount; ++i)
    if (question.plan.keep.has(static_cast<Kept>(i))) names.push_back(name_of(static_cast<Kept>(i)));
  return names;
}

void set_shard_group(Question& question, const Value& value) {
  const std::int64_t world = question.cluster.world_size();
  if (!is_ours(question)) {
    question.plan.shard_group.reset();
    if (!value.is_null()) question.plan.shard_group = unless_implied(value.integer(kShardGroup), world);
    return;
  }
  if (!value.is_null() && value.integer(kShardGroup) != world)
    value.refuse(fmt::format("{} is not modelled by the zeroplan engine yet", describe(value.raw())),
                 fmt::format("Leave it out or give the world size {}: all ranks share one copy", world));
}

// ---- the table ----

/// Whose choice a key is: every engine's, our own's, or the others'.
enum class Owner : std::uint8_t { all, ours, others };

struct Row {
  QuestionKey about;
  std::function<void(Question&, const Value&)> set;
  std::function<json(const Question&)> get;
  Owner owner = Owner::all;
  std::optional<json> only_of_ours = std::nullopt;  ///< the one value that our own engine has
  bool null_unsays = false;                         ///< null makes it not stated
};

Row integer_row(QuestionKey about, IntegerRange range, std::int64_t& (*field)(Question&)) {
  return {about, [=](Question& q, const Value& v) { field(q) = v.integer(range); }, [=](const Question& q) { return json(field(const_cast<Question&>(q))); }};
}

Row number_row(QuestionKey about, NumberRange range, double& (*field)(Question&)) {
  return {about, [=](Question& q, const Value& v) { field(q) = v.number(range); }, [=](const Question& q) { return json(field(const_cast<Question&>(q))); }};
}

Row flag_row(QuestionKey about, bool& (*field)(Question&)) {
  return {about, [=](Question& q, const Value& v) { field(q) = v.boolean(); }, [=](const Question& q) { return json(field(const_cast<Question&>(q))); }};
}

/// true, false or null for not stated.
Row maybe_row(QuestionKey about, std::optional<bool>& (*field)(Question&)) {
  return {about, [=](Question& q, const Value& v) { field(q) = v.is_null() ? std::nullopt : std::optional(v.boolean()); },
          [=](const Question& q) {
            const std::optional<bool> said = field(const_cast<Question&>(q));
            return said ? json(*said) : json(nullptr);
          },
          Owner::all, std::nullopt, true};
}

template <class Choice, std::size_t N>
Row choice_row(QuestionKey about, const std::array<std::string_view, N>& names, Choice& (*field)(Question&)) {
  return {about, [field, &names](Question& q, const Value& v) { field(q) = read_choice<Choice>(v, names); },
          [field, &names](const Question& q) { return name_in(names, field(const_cast<Question&>(q))); }};
}

/// A text for people or tools; null is empty.
Row text_row(QuestionKey about, std::string& (*field)(Question&)) {
  return {about,
          [=](Question& q, const Value& v) {
            const std::string text = v.is_null() ? "" : v.text();
            if (text.size() > kLongestText) v.refuse(fmt::format("is longer than {} characters", kLongestText));
            field(q) = text;
          },
          [=](const Question& q) {
            const std::string& text = field(const_cast<Question&>(q));
            return text.empty() ? json(nullptr) : json(text);
          },
          Owner::all, std::nullopt, true};
}

/// A key that our own engine has at one value only.
Row only(json value, Row row) {
  row.only_of_ours = std::move(value);
  return row;
}

Row of(Owner owner, Row row) {
  row.owner = owner;
  return row;
}

void set_reshard(Question& question, const Value& value) {
  if (question.plan.engine != Engine::fsdp2) value.refuse(fmt::format("is FSDP2's; {} has none", name_of(question.plan.engine)), "Leave it out");
  question.plan.reshard = read_choice<Reshard>(value, kReshardNames);
}

json get_reshard(const Question& question) { return question.plan.engine == Engine::fsdp2 ? name_in(kReshardNames, question.plan.reshard) : json(nullptr); }

void set_deepspeed(Question& question, const Value& value) {
  if (question.plan.engine != Engine::deepspeed) value.refuse(fmt::format("is DeepSpeed's; the engine is {}", name_of(question.plan.engine)), "Set engine=deepspeed");
  std::vector<DeepSpeedNote> unused;
  set_deepspeed_keys(question, object_of(value), value.file(), value.place(), false, unused);
}

json get_deepspeed(const Question& question) { return question.plan.engine == Engine::deepspeed ? deepspeed_keys(question) : json(nullptr); }

Row offload_row(QuestionKey about, Offload& (*field)(Question&)) { return only("none", choice_row<Offload>(about, kOffloadNames, field)); }

/// Engine, its tool and version, and DeepSpeed's own keys, which later rows overwrite.
void add_engine_rows(std::vector<Row>& rows) {
  rows.push_back({{"engine", "zeroplan|deepspeed|fsdp2|fsdp1|ddp|single|other", "whose training step is planned"},
                  [](Question& q, const Value& v) {
                    if (!v.is_null()) set_engine(q, read_choice<Engine>(v, kEngineNames));
                  },
                  [](const Question& q) { return json(name_of(q.plan.engine)); }});
  rows.push_back(of(Owner::others, text_row({"tool", "a name, as xtuner, hf-trainer, torchtitan", "who configured the engine, and so whose model code and defaults"},
                                            [](Question& q) -> std::string& { return q.plan.tool; })));
  rows.push_back(of(Owner::others, text_row({"preset", "a name, as xtuner-zero3", "whose defaults were taken"}, [](Question& q) -> std::string& { return q.plan.preset; })));
  rows.push_back(of(Owner::others, text_row({"engine_version", "a version, as 0.19.8", "of the engine, where it changes memory"},
                                            [](Question& q) -> std::string& { return q.plan.engine_version; })));
  rows.push_back(of(Owner::others, text_row({"torch", "a version or date", "of PyTorch"}, [](Question& q) -> std::string& { return q.plan.torch; })));
}

void add_dtype_rows(std::vector<Row>& rows) {
  rows.push_back({{"compute_dtype", "bf16|fp32; other engines also fp16|tf32", "dtype of parameters and activations in use; sets gradient_dtype too"},
                  set_compute_dtype,
                  [](const Question& q) { return json(q.job.tf32 ? "tf32" : name_of(q.job.compute_dtype)); }});
  rows.push_back({{"parameters_dtype", "the compute_dtype; other engines fp32|bf16|fp16", "dtype of the stored parameters"},
                  set_parameters_dtype,
                  [](const Question& q) { return json(name_of(q.parameters_dtype())); }});
  rows.push_back(of(Owner::others, {{"deepspeed", "an object with keys of the DeepSpeed JSON", "what its source says explicitly of zero_optimization"}, set_deepspeed, get_deepspeed}));
  rows.push_back(of(Owner::others, {{"deepspeed_top", "an object with top-level keys of the DeepSpeed JSON", "as data_types; kept in deepspeed"},
                                    set_deepspeed,
                                    [](const Question&) { return json(nullptr); }}));
  rows.push_back({{"gradient_dtype", "bf16|fp32 (fp32 with fp32 compute); other engines also fp16", "dtype in which gradients are kept, accumulated and sent"},
                  set_gradient_dtype,
                  [](const Question& q) { return json(name_of(q.job.gradient_dtype)); }});
  rows.push_back({{"master_dtype", "fp32 with bf16 compute, none with fp32; other engines fp32|none", "dtype of the separate master copy"},
                  set_master_dtype,
                  [](const Question& q) { return json(master_name(q)); }});
  rows.push_back({{"reduce_dtype", "the gradient_dtype; other engines fp32|bf16|fp16", "dtype of gradients on the wire"},
                  set_reduce_dtype,
                  [](const Question& q) { return json(name_of(q.reduce_dtype())); }});
}

void add_shape_rows(std::vector<Row>& rows) {
  rows.push_back(integer_row({"stage", "0|1|2|3", "ZeRO stage: what the ranks share out (1 optimizer, 2 also gradients, 3 also parameters)"}, kStage,
                             [](Question& q) -> std::int64_t& { return q.plan.stage; }));
  rows.push_back(of(Owner::others, {{"reshard", "default|always|never, FSDP2 only", "what FSDP2 does with gathered parameters after forward"}, set_reshard, get_reshard}));
  rows.push_back({{"shard_group", "the world size; other engines: a divisor of it", "ranks that share one copy"},
                  set_shard_group,
                  [](const Question& q) { return !is_ours(q) && q.plan.shard_group ? json(*q.plan.shard_group) : json(nullptr); }});
  rows.push_back(only(1, integer_row({"sequence_parallel", "1; other engines 1 to 1048576", "ranks that share one sequence"}, kSequenceParallel,
                                     [](Question& q) -> std::int64_t& { return q.job.sequence_parallel; })));
  rows.push_back(integer_row({"seq", "1 to 16777216", "tokens of one sequence"}, kSeq, [](Question& q) -> std::int64_t& { return q.job.seq; }));
  rows.push_back(integer_row({"micro_batch", "1 to 1048576", "sequences a rank and micro batch"}, kMicroBatch, [](Question& q) -> std::int64_t& { return q.plan.micro_batch; }));
  rows.push_back(integer_row({"accumulate", "1 to 1048576", "micro batches a step"}, kAccumulate, [](Question& q) -> std::int64_t& { return q.plan.accumulate; }));
  rows.push_back({{"packed", "true|false", "samples are packed to seq; false: their lengths vary up to seq, and a caching allocator keeps blocks for many sizes"},
                  [](Question& q, const Value& v) {
                    if (!v.is_null()) q.job.packed = v.boolean();
                  },
                  [](const Question& q) { return json(q.job.packed); }});
  rows.push_back({{"num_layers", "1 to 1024, null for the model's own", "number of blocks instead of the model's own"},
                  set_num_layers,
                  [](const Question& q) { return json(q.job.model.num_layers); }});
  rows.push_back(only("full", {{"train", "full; other engines also lora-R or an object with lora_rank, lora_targets, base_dtype", "what is trained"}, set_train, get_train}));
}

void add_activation_rows(std::vector<Row>& rows) {
  rows.push_back({{"checkpoint", "none|full|blocks-N; other engines also every-N|selective-op|selective-attention", "which blocks are recomputed in backward (the first N)"},
                  set_checkpoint,
                  get_checkpoint});
  rows.push_back(of(Owner::others, maybe_row({"checkpoint_reentrant", "true|false, null for the tool's default", "whether checkpoints are reentrant"},
                                             [](Question& q) -> std::optional<bool>& { return q.plan.checkpoint_reentrant; })));
  rows.push_back(of(Owner::ours, {{"keep", "attention_rstd, qkv, attention_out, residual, ffn_rstd, gate_up, all or none; several with commas or as a list",
                                   "what recomputed blocks keep all the same"},
                                  set_keep,
                                  get_keep}));
  rows.push_back(of(Owner::ours, integer_row({"prefetch_units", "0 to 8", "stage 3: units gathered ahead of their use"}, kPrefetchUnits,
                                             [](Question& q) -> std::int64_t& { return q.plan.prefetch_units; })));
  rows.push_back(of(Owner::ours, flag_row({"overlap_comm", "true|false", "gradients are reduced beside the next unit's backward (one more gradient buffer)"},
                                          [](Question& q) -> bool& { return q.plan.overlap_comm; })));
  rows.push_back(only("flash", choice_row<AttentionKernel>({"attention", "flash; other engines also efficient|cudnn|eager", "attention kernel"}, kAttentionNames,
                                          [](Question& q) -> AttentionKernel& { return q.plan.attention; })));
  rows.push_back(only("chunked", choice_row<Loss>({"loss", "chunked (by loss_chunk_tokens); other engines plain|chunked|fused", "how logits are made"}, kLossNames,
                                            [](Question& q) -> Loss& { return q.plan.loss; })));
  rows.push_back(of(Owner::ours, integer_row({"loss_chunk_tokens", "1 to 2147483648", "logits exist for so many tokens at once"}, kLossChunkTokens,
                                             [](Question& q) -> std::int64_t& { return q.plan.loss_chunk_tokens; })));
  rows.push_back(of(Owner::others, {{"loss_chunks", "1 to 4096", "with loss=chunked: into so many parts"},
                                    [](Question& q, const Value& v) { q.plan.loss_chunks = v.integer(kLossChunks); },
                                    [](const Question& q) { return q.plan.loss_chunks ? json(*q.plan.loss_chunks) : json(nullptr); }}));
  rows.push_back(of(Owner::others, maybe_row({"logits_fp32", "true|false", "logits are cast to fp32 before the loss"}, [](Question& q) -> std::optional<bool>& { return q.job.logits_fp32; })));
}

void add_optimizer_rows(std::vector<Row>& rows) {
  rows.push_back(only("adamw", choice_row<Optimizer>({"optimizer", "adamw; other engines also adam|sgd|momentum|adafactor|lion|muon|adamw-8bit|paged-adamw-8bit", "optimizer"}, kOptimizerNames,
                                          [](Question& q) -> Optimizer& { return q.job.optimizer; })));
  rows.push_back(only("fp32", {{"optimizer_dtype", "fp32; other engines also bf16|int8", "dtype of the moments"},
                               set_optimizer_dtype,
                               [](const Question& q) { return json(name_of(q.job.optimizer_dtype)); }}));
  rows.push_back(of(Owner::others, choice_row<OptimizerKernel>({"optimizer_kernel", "foreach|fused|for-loop|cpu", "how the optimizer's step is computed"}, kKernelNames,
                                              [](Question& q) -> OptimizerKernel& { return q.plan.optimizer_kernel; })));
  rows.push_back(number_row({"learning_rate", "0 to 1000", "AdamW's step size"}, kLearningRate, [](Question& q) -> double& { return q.job.learning_rate; }));
  rows.push_back(number_row({"beta1", "0 to below 1", "AdamW's decay of the first moment"}, kBeta, [](Question& q) -> double& { return q.job.beta1; }));
  rows.push_back(number_row({"beta2", "0 to below 1", "AdamW's decay of the second moment"}, kBeta, [](Question& q) -> double& { return q.job.beta2; }));
  rows.push_back(number_row({"epsilon", "above 0 to 1", "AdamW's epsilon"}, kEpsilon, [](Question& q) -> double& { return q.job.epsilon; }));
  rows.push_back(number_row({"weight_decay", "0 to 1000", "decoupled weight decay, on every parameter"}, kWeightDecay, [](Question& q) -> double& { return q.job.weight_decay; }));
  rows.push_back(number_row({"clip_norm", "0 to 1e9", "the global gradient norm is clipped to this; 0: no clipping"}, kClipNorm, [](Question& q) -> double& { return q.job.clip_norm; }));
}

void add_memory_rows(std::vector<Row>& rows) {
  rows.push_back(offload_row({"offload_optimizer", "none; other engines also cpu|nvme", "where the optimizer's state lives instead"},
                             [](Question& q) -> Offload& { return q.plan.offload_optimizer; }));
  rows.push_back(of(Owner::others, number_row({"offload_optimizer_ratio", "0 to 1", "part of the optimizer that lives there"}, kRatio,
                                              [](Question& q) -> double& { return q.plan.offload_optimizer_ratio; })));
  rows.push_back(offload_row({"offload_parameters", "none; other engines also cpu|nvme", "where parameters live instead"},
                             [](Question& q) -> Offload& { return q.plan.offload_parameters; }));
  rows.push_back(offload_row({"offload_activations", "none; other engines also cpu", "where activations live instead"},
                             [](Question& q) -> Offload& { return q.plan.offload_activations; }));
  rows.push_back(only(false, flag_row({"compile", "false; other engines also true", "torch.compile on the blocks"}, [](Question& q) -> bool& { return q.plan.compile; })));
  rows.push_back(only(false, flag_row({"fp8", "false; other engines also true", "fp8 matrix multiplications"}, [](Question& q) -> bool& { return q.plan.fp8; })));
  rows.push_back(of(Owner::others, flag_row({"zero_init", "true|false", "stage 3: the model is made or loaded in shards"}, [](Question& q) -> bool& { return q.plan.zero_init; })));
  rows.push_back(of(Owner::others, flag_row({"expandable_segments", "true|false", "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"},
                                            [](Question& q) -> bool& { return q.plan.expandable_segments; })));
}

std::vector<Row> make_rows() {
  std::vector<Row> rows;
  add_engine_rows(rows);
  add_dtype_rows(rows);
  add_shape_rows(rows);
  add_activation_rows(rows);
  add_optimizer_rows(rows);
  add_memory_rows(rows);
  return rows;
}

const std::vector<Row>& rows() {
  static const std::vector<Row> all = make_rows();
  return all;
}

const Row* find_row(std::string_view key) {
  for (const Row& row : rows())
    if (row.about.name == key) return &row;
  return nullptr;
}

constexpr std::array<std::string_view, 5> kKeysOfModelAndCluster{"model", "gpu", "gpus_per_node", "nodes", "link"};

std::vector<std::string_view> key_names() {
  std::vector<std::string_view> names;
  for (const Row& row : rows()) names.push_back(row.about.name);
  return names;
}

/// For a key that is not in the table.
[[noreturn]] void refuse_key(std::string_view key, const std::string& file, const std::string& place) {
  if (holds(kKeysOfModelAndCluster, key))
    throw InputError(file, place, "is part of the model or the cluster and no key of the plan", "Name them as the model and the cluster");
  throw InputError(file, place, "is not a known key", did_you_mean(key_names(), key));
}

/// Whether the question's engine has the row's choice at all.
bool has_choice(const Question& question, const Row& row) { return row.owner == Owner::all || (row.owner == Owner::ours) == is_ours(question); }

/// Null is "not stated": it changes nothing where the key is another engine's, or has a value that it cannot unsay.
bool null_says_nothing(const Question& question, const Row& row) {
  if (!has_choice(question, row)) return true;
  return !row.null_unsays && (row.owner == Owner::others || row.only_of_ours);
}

void set_key_at(Question& question, std::string_view key, const json& json_value, const std::string& file, const std::string& place) {
  const Row* row = find_row(key);
  if (row == nullptr) refuse_key(key, file, place);
  const Value value(json_value, {file, place, row->about.values});
  if (value.is_null() && null_says_nothing(question, *row)) return;
  if (!has_choice(question, *row)) {
    if (is_ours(question)) throw InputError(file, place, "is a choice of other engines; not modelled by the zeroplan engine yet", "Leave it out");
    throw InputError(file, place, fmt::format("is a choice of the zeroplan engine; {} has none", name_of(question.plan.engine)), "Leave it out");
  }
  if (is_ours(question) && row->only_of_ours && !value.says(*row->only_of_ours)) refuse_ours(value);
  row->set(question, value);
}

}  // namespace

const std::vector<QuestionKey>& question_keys() {
  static const std::vector<QuestionKey> keys = [] {
    std::vector<QuestionKey> all;
    for (const Row& row : rows()) all.push_back(row.about);
    return all;
  }();
  return keys;
}

void set_key(Question& question, std::string_view key, const json& value, const std::string& file) {
  set_key_at(question, key, value, file, std::string(key));
}

json get_key(const Question& question, std::string_view key) {
  const Row* row = find_row(key);
  if (row == nullptr) throw UsageError(fmt::format("{}: is not a known key. {}", key, did_you_mean(key_names(), key)));
  return has_choice(question, *row) ? row->get(question) : json(nullptr);
}

std::string_view name_of(Engine engine) { return kEngineNames[static_cast<std::size_t>(engine)]; }

Dtype Question::implied_parameters_dtype() const {
  switch (plan.engine) {
    case Engine::zeroplan:
    case Engine::deepspeed:
    case Engine::other: return job.compute_dtype;
    case Engine::fsdp2:
    case Engine::fsdp1:
    case Engine::ddp:
    case Engine::single: return Dtype::fp32;
  }
  return Dtype::fp32;
}

bool Question::implied_master() const {
  switch (plan.engine) {
    case Engine::zeroplan:
    case Engine::other: return job.compute_dtype != Dtype::fp32;
    case Engine::deepspeed: return !plan.deepspeed.bf16_master_weights_and_grads;
    case Engine::fsdp2:
    case Engine::fsdp1:
    case Engine::ddp:
    case Engine::single: return false;
  }
  return false;
}

void set_engine(Question& question, Engine engine) {
  if (question.plan.engine == engine) return;
  question.plan.engine = engine;
  question.job.stored_dtype.reset();
  question.job.separate_master.reset();
  question.job.wire_dtype.reset();
  question.job.gradient_dtype = question.parameters_dtype();
  question.plan.loss = engine == Engine::zeroplan ? Loss::chunked : Loss::plain;
  if (engine == Engine::ddp || engine == Engine::single) question.plan.stage = 0;
}

// ---- checks ----

namespace {

void require_range(std::string_view key, std::int64_t value, IntegerRange range) {
  if (value < range.least || value > range.most)
    throw UsageError(fmt::format("{}={}: must be from {} to {}", key, value, range.least, range.most));
}

void require_range(std::string_view key, double value, NumberRange range) {
  if (!range.holds(value)) throw UsageError(fmt::format("{}={}: must be {}", key, value, range.text()));
}

void check_values(const Question& question) {
  const Job& job = question.job;
  const Plan& plan = question.plan;
  require_range("stage", plan.stage, kStage);
  require_range("seq", job.seq, kSeq);
  require_range("micro_batch", plan.micro_batch, kMicroBatch);
  require_range("accumulate", plan.accumulate, kAccumulate);
  require_range("prefetch_units", plan.prefetch_units, kPrefetchUnits);
  require_range("loss_chunk_tokens", plan.loss_chunk_tokens, kLossChunkTokens);
  require_range("learning_rate", job.learning_rate, kLearningRate);
  require_range("beta1", job.beta1, kBeta);
  require_range("beta2", job.beta2, kBeta);
  require_range("epsilon", job.epsilon, kEpsilon);
  require_range("weight_decay", job.weight_decay, kWeightDecay);
  require_range("clip_norm", job.clip_norm, kClipNorm);
  require_range("sequence_parallel", job.sequence_parallel, kSequenceParallel);
  require_range("offload_optimizer_ratio", plan.offload_optimizer_ratio, kRatio);
  if (plan.shard_group) require_range("shard_group", *plan.shard_group, kShardGroup);
  if (plan.loss_chunks) require_range("loss_chunks", *plan.loss_chunks, kLossChunks);
  if (job.lora) require_range("lora_rank", job.lora->rank, kLoraRank);
  if (plan.checkpoint_policy == CheckpointPolicy::every_nth) require_range("checkpoint=every-N", plan.checkpoint_every, {1, kMostLayers});
  require_range("nodes", question.cluster.nodes, {1, 1 << 16});
  require_range("gpus_per_node", question.cluster.gpus_per_node, {1, 1 << 10});
}

void check_dtypes(const Job& job) {
  const auto is_known = [](Dtype dtype) { return dtype == Dtype::bf16 || dtype == Dtype::fp32; };
  if (!is_known(job.compute_dtype)) throw UsageError(fmt::format("compute_dtype={}: must be bf16 or fp32", name_of(job.compute_dtype)));
  if (!is_known(job.gradient_dtype)) throw UsageError(fmt::format("gradient_dtype={}: must be bf16 or fp32", name_of(job.gradient_dtype)));
  if (job.compute_dtype == Dtype::fp32 && job.gradient_dtype != Dtype::fp32)
    throw UsageError("gradient_dtype=bf16: compute_dtype is fp32, whose gradients are fp32. Set gradient_dtype to fp32");
}

void check_model(const Question& question) {
  const Model& model = question.job.model;
  if (const auto problem = find_size_problem(model)) throw UsageError(fmt::format("model {}: {}: {}", model.name, problem->key, problem->problem));
  constexpr std::int64_t kWidestFlashHead = 256;
  if (question.cluster.device.kind == DeviceKind::cuda && question.plan.attention == AttentionKernel::flash && model.head_dim > kWidestFlashHead)
    throw UsageError(fmt::format("model {}: head_dim={}: flash attention on a GPU takes at most {}", model.name, model.head_dim, kWidestFlashHead));
}

/// Every activation of every block in 8 bytes an element, twice over: what no plan exceeds must still be a number.
void check_sizes(const Question& question) {
  const Model& model = question.job.model;
  try {
    const std::int64_t experts = checked_multiply(6 * model.moe_intermediate_size, model.experts_per_token + model.num_shared_experts);
    const Bytes token = Bytes(8) * experts + Bytes(8) * (5 * model.hidden_size + 2 * model.qkv_dim() + 2 * model.query_dim() + 6 * model.intermediate_size);
    const Bytes blocks = token * question.tokens_per_micro_batch() * (model.num_layers + 2) * 2;
    const Bytes logits = Bytes(8) * model.vocab_size * question.tokens_per_micro_batch();
    (void)(blocks + logits);
    (void)checked_multiply(question.plan.accumulate, question.tokens_per_micro_batch());
  } catch (const OverflowError& error) {
    throw UsageError(fmt::format("micro_batch={} × seq={} on model {}: {}. Lower micro_batch or seq", question.plan.micro_batch, question.job.seq,
                                 model.name, error.what()));
  }
}

}  // namespace

namespace {

/// What our own engine has no kernels or buffers for.
void check_ours(const Question& question) {
  check_dtypes(question.job);
  if (const auto problem = find_zeroplan_problem(question.job.model))
    throw UsageError(fmt::format("model {}: {}: {}", question.job.model.name, problem->key, problem->problem));
  if (question.plan.checkpoint_policy != CheckpointPolicy::blocks)
    throw UsageError(fmt::format("checkpoint={} is not modelled by the zeroplan engine", get_checkpoint(question).get<std::string>()));
  if (question.plan.shard_group && *question.plan.shard_group != question.cluster.world_size())
    throw UsageError(fmt::format("shard_group={} is not modelled by the zeroplan engine", *question.plan.shard_group));
  for (const Row& row : rows())
    if (row.only_of_ours && row.get(question) != *row.only_of_ours)
      throw UsageError(fmt::format("{}={} is not modelled by the zeroplan engine", row.about.name, row.get(question).dump()));
}

/// Ranks that must divide the world.
void check_ranks(const Question& question) {
  const std::int64_t world = question.cluster.world_size();
  if (question.plan.engine == Engine::single && world != 1) throw UsageError(fmt::format("engine=single: runs on one GPU, the cluster has {}", world));
  if (world % question.job.sequence_parallel != 0)
    throw UsageError(fmt::format("sequence_parallel={}: does not divide the {} ranks", question.job.sequence_parallel, world));
  if (world % question.shard_group() != 0) throw UsageError(fmt::format("shard_group={}: does not divide the {} ranks", question.shard_group(), world));
}

}  // namespace

void require_zeroplan_engine(const Question& question) {
  if (!is_ours(question)) throw UsageError(fmt::format("engine={}: only the zeroplan engine is compiled and run here; zeroplan fit answers for the others. Accepted: zeroplan", name_of(question.plan.engine)));
}

void check_question(const Question& question) {
  check_values(question);
  if (is_ours(question)) check_dtypes(question.job);
  check_model(question);
  if (is_ours(question)) check_ours(question);
  check_ranks(question);
  const std::int64_t layers = question.job.model.num_layers;
  const std::int64_t blocks = question.plan.recomputed_blocks;
  if (blocks < 0 || blocks > layers)
    throw UsageError(fmt::format("checkpoint=blocks-{}: the model has {} layers. Use at most blocks-{} or full", blocks, layers, layers));
  check_sizes(question);
}

// ---- plan.json ----

namespace {

constexpr std::string_view kFormat = "zeroplan-plan";
constexpr std::int64_t kVersion = 1;

void check_format(const JsonFields& fields) {
  if (fields.at("format") != kFormat)
    fields.fail("format", fmt::format("must be \"{}\", got {}", kFormat, describe(fields.at("format"))), "Is it a plan that zeroplan wrote?");
  if (fields.at("version") != kVersion)
    fields.fail("version", fmt::format("{} is not known", describe(fields.at("version"))), fmt::format("This zeroplan reads version {}", kVersion));
}

}  // namespace

json plan_to_json(const Question& question) {
  json keys = json::object();
  for (const Row& row : rows()) keys[std::string(row.about.name)] = get_key(question, row.about.name);
  return {{"format", kFormat}, {"version", kVersion}, {"model", config_from_model(question.job.model)}, {"cluster", cluster_to_json(question.cluster)},
          {"question", std::move(keys)}};
}

Question plan_from_json(const json& plan, const std::string& file) {
  const JsonFields fields(plan, file, "");
  check_format(fields);
  fields.refuse_unknown({"format", "version", "model", "cluster", "question"});
  Question question;
  question.job.model = read_model(fields.object("model"));
  question.cluster = read_cluster(fields.object("cluster"));
  const JsonFields keys = fields.object("question");
  const json& values = fields.at("question");
  for (const auto& [key, unused] : values.items())
    if (find_row(key) == nullptr) refuse_key(key, file, keys.pointer_to(key));
  for (const Row& row : rows())  // in the table's order, whatever the file's
    if (const auto found = values.find(row.about.name); found != values.end())
      set_key_at(question, row.about.name, *found, file, keys.pointer_to(row.about.name));
  try {
    check_question(question);
  } catch (const UsageError& error) {
    throw InputError(file, "/question", error.what(), "");
  }
  return question;
}

Question default_question(const Model& model, const Cluster& cluster) {
  Question question;
  question.job.model = model;
  question.cluster = cluster;
  question.job.seq = std::min<std::int64_t>(4096, model.max_position);
  question.plan.recomputed_blocks = model.num_layers;
  if (cluster.device.kind == DeviceKind::cpu) question.job.compute_dtype = question.job.gradient_dtype = Dtype::fp32;
  return question;
}

}  // namespace zeroplan
