// The table of a question's keys, and plan.json.
// A key is one row: its name, what it accepts, how it is set and how it is read back. Two kinds of row: keys that this engine honours, and
// keys that questions.md knows and this engine has at one value only; those accept that value (or null) and refuse any other by name.
// The order matters: dtypes that follow from compute_dtype come after it, and checkpoint counts the layers that num_layers left.
#include "planner/core/plan.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/nearest.h"
#include "planner/core/readers.h"

namespace zeroplan {

namespace {

using nlohmann::json;

constexpr IntegerRange kStage{0, 3};
constexpr IntegerRange kSeq{1, 1 << 24};
constexpr IntegerRange kMicroBatch{1, 1 << 20};
constexpr IntegerRange kAccumulate{1, 1 << 20};
constexpr IntegerRange kPrefetchUnits{0, 8};
constexpr IntegerRange kLossChunkTokens{1, std::int64_t{1} << 31};
constexpr NumberRange kLearningRate{0, 1e3};
constexpr NumberRange kBeta{0, 0.999999999};
constexpr NumberRange kEpsilon{0, 1, true};
constexpr NumberRange kWeightDecay{0, 1e3};
constexpr NumberRange kClipNorm{0, 1e9};

// ---- values ----

/// The whole of a text as a number; nullopt if there is anything else in it.
template <class Number>
std::optional<Number> parse_whole(const std::string& text) {
  Number out{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return out;
}

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

Dtype read_dtype(const Value& value) {
  const std::string text = value.text();
  if (text == "bf16") return Dtype::bf16;
  if (text == "fp32") return Dtype::fp32;
  value.refuse(fmt::format("{} is not modelled by the zeroplan engine yet", describe(value.raw())));
}

void set_num_layers(Question& question, const Value& value) {
  if (value.is_null()) return;
  Plan& plan = question.plan;
  std::int64_t& layers = question.job.model.num_layers;
  const bool was_full = plan.recomputed_blocks > 0 && plan.recomputed_blocks == layers;
  layers = value.integer({1, kMostLayers});
  if (was_full) plan.recomputed_blocks = layers;  // checkpoint=full means all layers, however many
}

void set_compute_dtype(Question& question, const Value& value) {
  question.job.compute_dtype = read_dtype(value);
  question.job.gradient_dtype = question.job.compute_dtype;
}

void set_gradient_dtype(Question& question, const Value& value) {
  const Dtype dtype = read_dtype(value);
  if (question.job.compute_dtype == Dtype::fp32 && dtype == Dtype::bf16)
    value.refuse("bf16 gradients of fp32 compute are not modelled", "Set it to fp32, or compute_dtype to bf16");
  question.job.gradient_dtype = dtype;
}

/// A key that says again what other keys decided. Null leaves it to them.
void require_same(const Value& value, std::string_view follows, std::string_view decided) {
  if (!value.is_null() && !value.says(decided))
    value.refuse(fmt::format("{} is not modelled by the zeroplan engine yet", describe(value.raw())),
                 fmt::format("With this {} it is {}", follows, decided));
}

std::string_view master_name(const Question& question) { return question.job.has_master() ? "fp32" : "none"; }

void set_checkpoint(Question& question, const Value& value) {
  constexpr std::string_view kBlocks = "blocks-";
  const std::string text = value.text();
  std::int64_t& blocks = question.plan.recomputed_blocks;
  if (text == "none") blocks = 0;
  else if (text == "full") blocks = question.job.model.num_layers;
  else if (!text.starts_with(kBlocks)) value.refuse(fmt::format("{} is not modelled by the zeroplan engine yet", describe(value.raw())));
  else if (const auto count = parse_whole<std::int64_t>(text.substr(kBlocks.size())); count && *count >= 0 && *count <= kMostLayers) blocks = *count;
  else value.refuse(fmt::format("{} names no number of blocks", describe(value.raw())));
}

json get_checkpoint(const Question& question) {
  const std::int64_t blocks = question.plan.recomputed_blocks;
  if (blocks == 0) return "none";
  if (blocks == question.job.model.num_layers) return "full";
  return fmt::format("blocks-{}", blocks);
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
  if (!value.is_null() && value.integer({1, std::int64_t{1} << 40}) != world)
    value.refuse(fmt::format("{} is not modelled by the zeroplan engine yet", describe(value.raw())),
                 fmt::format("Leave it out or give the world size {}: all ranks share one copy", world));
}

// ---- the table ----

struct Row {
  QuestionKey about;
  std::function<void(Question&, const Value&)> set;
  std::function<json(const Question&)> get;
};

Row integer_row(QuestionKey about, IntegerRange range, std::int64_t& (*field)(Question&)) {
  return {about, [=](Question& q, const Value& v) { field(q) = v.integer(range); }, [=](const Question& q) { return json(field(const_cast<Question&>(q))); }};
}

Row number_row(QuestionKey about, NumberRange range, double& (*field)(Question&)) {
  return {about, [=](Question& q, const Value& v) { field(q) = v.number(range); }, [=](const Question& q) { return json(field(const_cast<Question&>(q))); }};
}

/// A key that this engine has at one value only.
Row fixed_row(QuestionKey about, json only) {
  return {about,
          [=](Question&, const Value& v) {
            if (!v.is_null() && !v.says(only)) v.refuse(fmt::format("{} is not modelled by the zeroplan engine yet", describe(v.raw())));
          },
          [=](const Question&) { return only; }};
}

std::vector<Row> make_rows() {
  return {
      fixed_row({"engine", "zeroplan", "whose training step is planned"}, "zeroplan"),
      integer_row({"stage", "0|1|2|3", "ZeRO stage: what the ranks share out (1 optimizer, 2 also gradients, 3 also parameters)"}, kStage,
                  [](Question& q) -> std::int64_t& { return q.plan.stage; }),
      integer_row({"seq", "1 to 16777216", "tokens of one sequence"}, kSeq, [](Question& q) -> std::int64_t& { return q.job.seq; }),
      integer_row({"micro_batch", "1 to 1048576", "sequences a rank and micro batch"}, kMicroBatch,
                  [](Question& q) -> std::int64_t& { return q.plan.micro_batch; }),
      integer_row({"accumulate", "1 to 1048576", "micro batches a step"}, kAccumulate, [](Question& q) -> std::int64_t& { return q.plan.accumulate; }),
      {{"num_layers", "1 to 1048576, null for the model's own", "number of blocks instead of the model's own"},
       set_num_layers,
       [](const Question& q) { return json(q.job.model.num_layers); }},
      {{"compute_dtype", "bf16|fp32", "dtype of parameters and activations; sets gradient_dtype too"},
       set_compute_dtype,
       [](const Question& q) { return json(name_of(q.job.compute_dtype)); }},
      {{"gradient_dtype", "bf16|fp32 (fp32 with fp32 compute)", "dtype in which gradients are kept, accumulated and sent"},
       set_gradient_dtype,
       [](const Question& q) { return json(name_of(q.job.gradient_dtype)); }},
      {{"parameters_dtype", "the compute_dtype", "dtype of the stored parameters"},
       [](Question& q, const Value& v) { require_same(v, "compute_dtype", name_of(q.job.compute_dtype)); },
       [](const Question& q) { return json(name_of(q.job.compute_dtype)); }},
      {{"master_dtype", "fp32 with bf16 compute, none with fp32", "dtype of the separate master copy"},
       [](Question& q, const Value& v) { require_same(v, "compute_dtype", master_name(q)); },
       [](const Question& q) { return json(master_name(q)); }},
      {{"reduce_dtype", "the gradient_dtype", "dtype of gradients on the wire"},
       [](Question& q, const Value& v) { require_same(v, "gradient_dtype", name_of(q.job.gradient_dtype)); },
       [](const Question& q) { return json(name_of(q.job.gradient_dtype)); }},
      {{"checkpoint", "none|full|blocks-N", "which blocks are recomputed in backward (the first N)"}, set_checkpoint, get_checkpoint},
      {{"keep", "attention_rstd, qkv, attention_out, residual, ffn_rstd, gate_up, all or none; several with commas or as a list",
        "what recomputed blocks keep all the same"},
       set_keep,
       get_keep},
      integer_row({"prefetch_units", "0 to 8", "stage 3: units gathered ahead of their use"}, kPrefetchUnits,
                  [](Question& q) -> std::int64_t& { return q.plan.prefetch_units; }),
      {{"overlap_comm", "true|false", "gradients are reduced beside the next unit's backward (one more gradient buffer)"},
       [](Question& q, const Value& v) { q.plan.overlap_comm = v.boolean(); },
       [](const Question& q) { return json(q.plan.overlap_comm); }},
      integer_row({"loss_chunk_tokens", "1 to 2147483648", "logits exist for so many tokens at once"}, kLossChunkTokens,
                  [](Question& q) -> std::int64_t& { return q.plan.loss_chunk_tokens; }),
      number_row({"learning_rate", "0 to 1000", "AdamW's step size"}, kLearningRate, [](Question& q) -> double& { return q.job.learning_rate; }),
      number_row({"beta1", "0 to below 1", "AdamW's decay of the first moment"}, kBeta, [](Question& q) -> double& { return q.job.beta1; }),
      number_row({"beta2", "0 to below 1", "AdamW's decay of the second moment"}, kBeta, [](Question& q) -> double& { return q.job.beta2; }),
      number_row({"epsilon", "above 0 to 1", "AdamW's epsilon"}, kEpsilon, [](Question& q) -> double& { return q.job.epsilon; }),
      number_row({"weight_decay", "0 to 1000", "decoupled weight decay, on every parameter"}, kWeightDecay,
                 [](Question& q) -> double& { return q.job.weight_decay; }),
      number_row({"clip_norm", "0 to 1e9", "the global gradient norm is clipped to this; 0: no clipping"}, kClipNorm,
                 [](Question& q) -> double& { return q.job.clip_norm; }),
      {{"shard_group", "the world size", "ranks that share one copy"}, set_shard_group, [](const Question&) { return json(nullptr); }},
      fixed_row({"sequence_parallel", "1", "ranks that share one sequence"}, 1),
      fixed_row({"train", "full", "what is trained"}, "full"),
      {{"packed", "true|false (memory is the same: seq counts either way)", "samples are packed to seq"},
       [](Question&, const Value& v) {
         if (!v.is_null()) v.boolean();
       },
       [](const Question&) { return json(true); }},
      fixed_row({"optimizer", "adamw", "optimizer"}, "adamw"),
      fixed_row({"optimizer_dtype", "fp32", "dtype of the moments"}, "fp32"),
      fixed_row({"attention", "flash", "attention kernel"}, "flash"),
      fixed_row({"loss", "chunked (by loss_chunk_tokens)", "how logits are made"}, "chunked"),
      fixed_row({"offload_optimizer", "none", "where the optimizer's state lives instead"}, "none"),
      fixed_row({"offload_parameters", "none", "where parameters live instead"}, "none"),
      fixed_row({"offload_activations", "none", "where activations live instead"}, "none"),
      fixed_row({"compile", "false", "torch.compile on the blocks"}, false),
      fixed_row({"fp8", "false", "fp8 matrix multiplications"}, false),
  };
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

// Keys of questions.md that say something of other engines or of the machine; here they only have a refusal.
constexpr std::array<std::string_view, 14> kKeysOfOtherEngines{
    "tool", "reshard", "optimizer_kernel", "loss_chunks", "logits_fp32", "deepspeed", "deepspeed_top", "preset",
    "expandable_segments", "torch", "engine_version", "checkpoint_reentrant", "zero_init", "offload_optimizer_ratio"};
constexpr std::array<std::string_view, 5> kKeysOfModelAndCluster{"model", "gpu", "gpus_per_node", "nodes", "link"};

template <std::size_t N>
bool holds(const std::array<std::string_view, N>& keys, std::string_view key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

std::vector<std::string_view> key_names() {
  std::vector<std::string_view> names;
  for (const Row& row : rows()) names.push_back(row.about.name);
  return names;
}

/// For a key that is not in the table. Null for a known key of another engine says nothing and is let through.
void refuse_key(std::string_view key, const json& value, const std::string& file, const std::string& place) {
  if (holds(kKeysOfModelAndCluster, key))
    throw InputError(file, place, "is part of the model or the cluster and no key of the plan", "Name them as the model and the cluster");
  if (!holds(kKeysOfOtherEngines, key)) throw InputError(file, place, "is not a known key", did_you_mean(key_names(), key));
  if (!value.is_null()) throw InputError(file, place, "is a choice of other engines; not modelled by the zeroplan engine yet", "Leave it out");
}

void set_key_at(Question& question, std::string_view key, const json& value, const std::string& file, const std::string& place) {
  const Row* row = find_row(key);
  if (row == nullptr) return refuse_key(key, value, file, place);
  row->set(question, Value(value, {file, place, row->about.values}));
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
  return row->get(question);
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
  if (question.cluster.device.kind == DeviceKind::cuda && model.head_dim > kWidestFlashHead)
    throw UsageError(fmt::format("model {}: head_dim={}: flash attention on a GPU takes at most {}", model.name, model.head_dim, kWidestFlashHead));
}

/// Every activation of every block in 8 bytes an element, twice over: what no plan exceeds must still be a number.
void check_sizes(const Question& question) {
  const Model& model = question.job.model;
  try {
    const Bytes token = Bytes(8) * (5 * model.hidden_size + 2 * model.qkv_dim() + 2 * model.query_dim() + 6 * model.intermediate_size);
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

void check_question(const Question& question) {
  check_values(question);
  check_dtypes(question.job);
  check_model(question);
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
  for (const Row& row : rows()) keys[std::string(row.about.name)] = row.get(question);
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
  for (const auto& [key, value] : values.items())
    if (find_row(key) == nullptr) refuse_key(key, value, file, keys.pointer_to(key));
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
