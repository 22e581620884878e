// The keys of a DeepSpeed JSON: one object of them read into a question, with a note for everything that DeepSpeed does in silence.
#include "planner/core/deepspeed_options.h"

#include <array>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/nearest.h"
#include "planner/core/plan_detail.h"
#include "planner/core/readers.h"

namespace zeroplan {

using nlohmann::json;
using namespace plan_detail;

std::string_view name_of(DeepSpeedNoteCode code) {
  switch (code) {
    case DeepSpeedNoteCode::unknown_key: return "unknown_key";
    case DeepSpeedNoteCode::auto_dropped: return "auto_dropped";
    case DeepSpeedNoteCode::auto_resolved: return "auto_resolved";
    case DeepSpeedNoteCode::unused_at_stage: return "unused_at_stage";
    case DeepSpeedNoteCode::offload_ignored: return "offload_ignored";
    case DeepSpeedNoteCode::deprecated_key: return "deprecated_key";
    case DeepSpeedNoteCode::overwritten: return "overwritten";
    case DeepSpeedNoteCode::trailing_comma: return "trailing_comma";
    case DeepSpeedNoteCode::not_modelled: return "not_modelled";
    case DeepSpeedNoteCode::no_effect: return "no_effect";
  }
  return "";
}

bool tool_resolves_auto(std::string_view tool) {
  constexpr std::array<std::string_view, 7> kTools{"hf-trainer", "transformers", "accelerate", "llamafactory", "ms-swift", "axolotl", "easycontext"};
  return std::find(kTools.begin(), kTools.end(), tool) != kTools.end();
}

namespace {

/// Reads one object of a DeepSpeed JSON into a question.
class DeepSpeedReader {
 public:
  DeepSpeedReader(Question& question, std::vector<DeepSpeedNote>& notes) : question_(question), options_(question.plan.deepspeed), notes_(notes) {}

  void read_zero(const JsonFields& zero) {
    if (zero.has("stage")) question_.plan.stage = zero.integer("stage", kStage);  // first: what other keys do depends on it
    for (const auto& [key, unused] : zero.raw().items())
      if (!read_zero_key(zero, key)) refuse_unknown(zero, key);
  }

  /// Keys of zero_optimization and of the top level side by side, as questions have them.
  void read_mixed(const JsonFields& fields) {
    if (fields.has("stage")) question_.plan.stage = fields.integer("stage", kStage);
    for (const auto& [key, unused] : fields.raw().items())
      if (!read_zero_key(fields, key) && !read_top_key(fields, key)) refuse_unknown(fields, key);
  }

 private:
  void note(DeepSpeedNoteCode code, const JsonFields& fields, std::string_view key, std::string text) { notes_.push_back({code, fields.pointer_to(key), std::move(text)}); }

  [[noreturn]] static void refuse_unknown(const JsonFields& fields, const std::string& key) {
    std::vector<std::string_view> known{"stage", "overlap_comm", "offload_optimizer", "offload_param"};
    for (const DeepSpeedInteger& integer : kDeepSpeedIntegers) known.push_back(integer.key);
    for (const DeepSpeedFlag& flag : kDeepSpeedFlags) known.push_back(flag.key);
    fields.fail(key, "is not a known key: DeepSpeed refuses it", did_you_mean(known, key));
  }

  /// Keys with the prefix stage3_ may be written without it.
  static bool is(std::string_view key, std::string_view name) { return key == name || (name.starts_with("stage3_") && key == name.substr(7)); }

  bool read_zero_key(const JsonFields& zero, const std::string& key) {
    for (const DeepSpeedInteger& integer : kDeepSpeedIntegers)
      if (is(key, integer.key)) return read_integer_key(zero, key, integer), true;
    for (const DeepSpeedFlag& flag : kDeepSpeedFlags)
      if (is(key, flag.key)) {
        if (!drop_auto(zero, key)) options_.*flag.field = zero.boolean(key);
        if (flag.stage3_only) note_stage3(zero, key);
        return true;
      }
    if (key == "stage") return true;
    if (key == "overlap_comm") {
      if (!zero.has(key)) options_.overlap_comm.reset();
      else if (!drop_auto(zero, key)) options_.overlap_comm = zero.boolean(key);
      return true;
    }
    if (key == "offload_optimizer") return read_offload_optimizer(zero, key), true;
    if (key == "offload_param") return read_offload_parameters(zero, key), true;
    return read_deprecated(zero, key) || read_unmodelled(zero, key);
  }

  bool is_auto(const JsonFields& fields, const std::string& key) const { return fields.has(key) && fields.at(key) == "auto"; }

  bool drop_auto(const JsonFields& fields, const std::string& key) {
    if (!is_auto(fields, key)) return false;
    note(DeepSpeedNoteCode::auto_dropped, fields, key, fmt::format("\"auto\" is dropped in silence: DeepSpeed's default is used"));
    return true;
  }

  void note_stage3(const JsonFields& zero, const std::string& key) {
    if (question_.plan.stage != 3) note(DeepSpeedNoteCode::unused_at_stage, zero, key, fmt::format("has no effect at stage {}", question_.plan.stage));
  }

  std::int64_t resolve(AutoRule rule) const {
    const std::int64_t H = question_.job.model.hidden_size;
    switch (rule) {
      case AutoRule::hidden_squared: return checked_multiply(H, H);
      case AutoRule::nine_tenths_of_hidden_squared: return static_cast<std::int64_t>(0.9 * static_cast<double>(H) * static_cast<double>(H));
      case AutoRule::ten_hidden: return 10 * H;
      case AutoRule::none: break;
    }
    return 0;
  }

  void read_integer_key(const JsonFields& zero, const std::string& key, const DeepSpeedInteger& integer) {
    if (integer.stage3_only) note_stage3(zero, key);
    if (is_auto(zero, key) && integer.auto_rule != AutoRule::none && tool_resolves_auto(question_.plan.tool)) {
      options_.*integer.field = resolve(integer.auto_rule);
      note(DeepSpeedNoteCode::auto_resolved, zero, key, fmt::format("{} makes {} of \"auto\" for hidden_size {}", question_.plan.tool, options_.*integer.field, question_.job.model.hidden_size));
      return;
    }
    if (!drop_auto(zero, key)) options_.*integer.field = read_count(zero, key, integer.least);
  }

  /// A whole number, also written as 5e8 or "500000000" (pydantic converts).
  static std::int64_t read_count(const JsonFields& fields, const std::string& key, std::int64_t least) {
    const json& value = fields.at(key);
    if (value.is_string())
      if (const auto number = parse_whole<std::int64_t>(value.get_ref<const std::string&>()); number && *number >= least) return *number;
    const IntegerRange range{least, std::numeric_limits<std::int64_t>::max()};
    if (!value.is_number_float()) return fields.integer(key, range);
    constexpr double kLargestExact = 9007199254740992.0;  // 2^53
    const double number = value.get<double>();
    if (!(number >= static_cast<double>(least)) || number > kLargestExact || number != std::floor(number))
      fields.fail(key, fmt::format("must be a whole number of elements, got {}", describe(value)), "");
    return static_cast<std::int64_t>(number);
  }

  /// A flag whose "auto" is dropped like everywhere in zero_optimization.
  bool flag_or(const JsonFields& fields, const std::string& key, bool absent) { return drop_auto(fields, key) ? absent : fields.boolean_or(key, absent); }

  Offload read_device(const JsonFields& offload) {
    const std::string device = offload.has("device") && !drop_auto(offload, "device") ? offload.text("device") : "none";
    for (std::size_t i = 0; i < kOffloadNames.size(); ++i)
      if (device == kOffloadNames[i]) return static_cast<Offload>(i);
    offload.fail("device", fmt::format("{} is not a device: DeepSpeed refuses it", describe(offload.at("device"))), "Accepted: none, cpu, nvme");
  }

  void read_offload_optimizer(const JsonFields& zero, const std::string& key) {
    if (!zero.has(key)) {
      question_.plan.offload_optimizer = Offload::none;
      return;
    }
    const JsonFields offload = zero.object(key);
    offload.refuse_unknown({"device", "nvme_path", "buffer_count", "pin_memory", "pipeline_read", "pipeline_write", "fast_init", "ratio", "super_offload", "cpuadam_cores_perc"});
    question_.plan.offload_optimizer = read_device(offload);
    options_.offload_optimizer_pin_memory = flag_or(offload, "pin_memory", DeepSpeedOptions{}.offload_optimizer_pin_memory);
    question_.plan.offload_optimizer_ratio = drop_auto(offload, "ratio") ? 1 : offload.number_or("ratio", 1, kRatio);
    if (offload.boolean_or("super_offload", false)) offload.fail("super_offload", "SuperOffload is not modelled", "");
    if (question_.plan.offload_optimizer != Offload::none && question_.plan.stage == 0) {
      note(DeepSpeedNoteCode::offload_ignored, zero, key, "has no effect at stage 0");
      question_.plan.offload_optimizer = Offload::none;
    }
    if (question_.plan.offload_optimizer_ratio < 1 && question_.plan.stage != 3) offload.fail("ratio", "a part of the optimizer can be offloaded at stage 3 only: DeepSpeed refuses it", "");
  }

  void read_offload_parameters(const JsonFields& zero, const std::string& key) {
    if (!zero.has(key)) {
      question_.plan.offload_parameters = Offload::none;
      return;
    }
    const JsonFields offload = zero.object(key);
    offload.refuse_unknown({"device", "nvme_path", "buffer_count", "buffer_size", "max_in_cpu", "pin_memory"});
    question_.plan.offload_parameters = read_device(offload);
    options_.offload_param_pin_memory = flag_or(offload, "pin_memory", DeepSpeedOptions{}.offload_param_pin_memory);
    if (offload.has("max_in_cpu")) options_.offload_param_max_in_cpu = read_count(offload, "max_in_cpu", 0);
    if (question_.plan.offload_parameters == Offload::none || question_.plan.stage == 3) return;
    note(DeepSpeedNoteCode::offload_ignored, zero, key, fmt::format("is accepted in silence and has no effect at stage {}", question_.plan.stage));
    question_.plan.offload_parameters = Offload::none;
  }

  bool read_deprecated(const JsonFields& zero, const std::string& key) {
    if (key == "cpu_offload") {
      note(DeepSpeedNoteCode::deprecated_key, zero, key, "is read as offload_optimizer with device cpu");
      if (zero.boolean_or(key, false)) question_.plan.offload_optimizer = Offload::cpu;
      return true;
    }
    if (key == "cpu_offload_params" || key == "cpu_offload_param") {
      note(DeepSpeedNoteCode::deprecated_key, zero, key, "is read as offload_param with device cpu");
      if (zero.boolean_or(key, false) && question_.plan.stage == 3) question_.plan.offload_parameters = Offload::cpu;
      return true;
    }
    if (key == "cpu_offload_use_pin_memory") return note(DeepSpeedNoteCode::deprecated_key, zero, key, "is not read any more"), true;
    if (key == "stage3_gather_fp16_weights_on_model_save") {
      note(DeepSpeedNoteCode::deprecated_key, zero, key, "is read as stage3_gather_16bit_weights_on_model_save");
      options_.stage3_gather_16bit_weights_on_model_save = zero.boolean(key);
      return true;
    }
    return false;
  }

  /// Known keys that change memory in ways that are not modelled (refused where they are on), and those that do not change it.
  bool read_unmodelled(const JsonFields& zero, const std::string& key) {
    struct Switch {
      std::string_view key;
      json off;
    };
    static const std::array<Switch, 8> kSwitches{{{"zero_hpz_partition_size", 1}, {"zero_quantized_weights", false}, {"zero_quantized_nontrainable_weights", false},
                                                  {"zero_quantized_gradients", false}, {"mics_shard_size", -1}, {"mics_hierarchical_params_gather", false}, {"zeropp_loco_param", nullptr},
                                                  {"zenflow", nullptr}}};
    for (const Switch& change : kSwitches) {
      if (key != change.key) continue;
      if (zero.raw().at(key) != change.off && !drop_auto(zero, key)) zero.fail(key, fmt::format("{} is not modelled", describe(zero.at(key))), "Leave it out");
      return true;
    }
    constexpr std::array<std::string_view, 9> kHarmless{"load_from_fp32_weights", "elastic_checkpoint", "legacy_stage1", "pipeline_loading_checkpoint",
                                                         "override_module_apply", "log_trace_cache_warnings", "enable_sanity_checks",
                                                         "save_muon_momentum_buffer_in_memory", "leaf_module"};
    return holds(kHarmless, key);
  }

  bool read_top_key(const JsonFields& top, const std::string& key) {
    if (key == "zero_optimization") return read_zero(top.object(key)), true;
    if (key == "data_types") return read_data_types(top.object(key)), true;
    if (key == "grad_accum_dtype") return read_accumulation(top), true;
    if (key == "communication_data_type") return read_wire(top), true;
    if (key == "seq_parallel_communication_data_type" || key == "seq_parallel_comm_data_type") {
      if (top.has(key)) options_.seq_parallel_communication_data_type = read_dtype_key(top, key);
      return true;
    }
    if (key == "bf16" || key == "bfloat16") return read_bf16(top.object(key)), true;
    if (key == "fp16") return read_fp16(top.object(key)), true;
    if (key == "gradient_clipping") return read_clipping(top, key), true;
    if (key == "bf16_master_weights_and_grads") return options_.bf16_master_weights_and_grads = top.boolean(key), true;
    if (key == "bf16_optimizer_states") return options_.bf16_optimizer_states = top.boolean(key), true;
    if (key == "immediate_grad_update") return options_.immediate_grad_update = top.boolean(key), true;
    if (key == "deepcompile") return options_.deepcompile = top.boolean(key), true;
    if (key == "torch_autocast") {
      options_.torch_autocast = top.at(key).is_object() ? top.object(key).boolean_or("enabled", false) : top.boolean(key);
      return true;
    }
    return false;
  }

  static Dtype read_dtype_key(const JsonFields& fields, std::string_view key) {
    const std::string text = fields.text(key);
    if (text == "bf16" || text == "bfloat16") return Dtype::bf16;
    if (text == "fp16") return Dtype::fp16;
    if (text == "fp32") return Dtype::fp32;
    fields.fail(key, fmt::format("{} is not a dtype of DeepSpeed", describe(fields.at(key))), "Accepted: bf16, fp16, fp32");
  }

  void read_data_types(const JsonFields& types) {
    constexpr std::array<std::string_view, 4> kKnown{"grad_accum_dtype", "param_dtype", "buffer_dtype", "keep_in_fp32_modules"};
    for (const auto& [key, unused] : types.raw().items())
      if (!holds(kKnown, key)) note(DeepSpeedNoteCode::unknown_key, types, key, "is not known: DeepSpeed accepts it in silence");
    for (const std::string_view key : {"param_dtype", "buffer_dtype", "keep_in_fp32_modules"})
      if (types.has(key) && types.at(key) != "auto") note(DeepSpeedNoteCode::not_modelled, types, key, "is not modelled");
    read_accumulation(types);
  }

  void read_accumulation(const JsonFields& fields) {
    options_.grad_accum_dtype.reset();
    if (!fields.has("grad_accum_dtype")) return;
    options_.grad_accum_dtype = read_dtype_key(fields, "grad_accum_dtype");
    question_.job.gradient_dtype = *options_.grad_accum_dtype;
  }

  void read_wire(const JsonFields& fields) {
    options_.communication_data_type.reset();
    if (!fields.has("communication_data_type")) return;
    options_.communication_data_type = read_dtype_key(fields, "communication_data_type");
    question_.job.wire_dtype = unless_implied(*options_.communication_data_type, question_.implied_reduce_dtype());
  }

  void read_clipping(const JsonFields& top, const std::string& key) {
    if (!is_auto(top, key)) question_.job.clip_norm = top.number(key, kClipNorm);
  }

  /// "auto" is the tool's to fill in (compute_dtype says it then); DeepSpeed alone drops it.
  bool read_enabled(const JsonFields& fields) {
    if (!is_auto(fields, "enabled")) return fields.boolean_or("enabled", false);
    const bool filled_in = tool_resolves_auto(question_.plan.tool) || question_.plan.tool == "xtuner";
    if (!filled_in) note(DeepSpeedNoteCode::auto_dropped, fields, "enabled", "\"auto\" is dropped in silence: it is off. Set it to true, or name the tool that fills it in");
    return false;
  }

  void read_bf16(const JsonFields& bf16) {
    bf16.refuse_unknown({"enabled", "immediate_grad_update", "check_grad_overflow", "bf16_master_weights_and_grads", "bf16_optimizer_states"});
    if (read_enabled(bf16)) compute_in(Dtype::bf16);
    options_.bf16_master_weights_and_grads = bf16.boolean_or("bf16_master_weights_and_grads", false);
    options_.bf16_optimizer_states = bf16.boolean_or("bf16_optimizer_states", false);
    options_.immediate_grad_update = bf16.boolean_or("immediate_grad_update", false);
    if (options_.bf16_optimizer_states) question_.job.optimizer_dtype = Dtype::bf16;
  }

  void read_fp16(const JsonFields& fp16) {
    fp16.refuse_unknown({"enabled", "auto_cast", "loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis", "consecutive_hysteresis", "min_loss_scale", "fp16_master_weights_and_grads"});
    if (read_enabled(fp16)) compute_in(Dtype::fp16);
    if (fp16.boolean_or("fp16_master_weights_and_grads", false)) fp16.fail("fp16_master_weights_and_grads", "is not modelled", "");
  }

  void compute_in(Dtype dtype) {
    if (question_.job.compute_dtype == dtype) return;
    question_.job.compute_dtype = dtype;
    question_.job.gradient_dtype = options_.grad_accum_dtype.value_or(question_.parameters_dtype());
  }

  Question& question_;
  DeepSpeedOptions& options_;
  std::vector<DeepSpeedNote>& notes_;
};

}  // namespace

void set_deepspeed_keys(Question& question, const json& object, const std::string& file, const std::string& place, bool strict, std::vector<DeepSpeedNote>& notes) {
  const JsonFields fields(object, file, place);
  Question changed = question;  // a refusal leaves the question as it was
  DeepSpeedReader reader(changed, notes);
  strict ? reader.read_zero(fields) : reader.read_mixed(fields);
  question = std::move(changed);
}

json deepspeed_keys(const Question& question) {
  const DeepSpeedOptions& o = question.plan.deepspeed;
  const auto dtype = [](const std::optional<Dtype>& value) { return value ? json(name_of(*value)) : json(nullptr); };
  json keys = json::object();
  for (const DeepSpeedInteger& integer : kDeepSpeedIntegers) keys[std::string(integer.key)] = o.*integer.field;
  for (const DeepSpeedFlag& flag : kDeepSpeedFlags) keys[std::string(flag.key)] = o.*flag.field;
  keys["overlap_comm"] = o.overlap_comm ? json(*o.overlap_comm) : json(nullptr);
  keys["offload_optimizer"] = {{"device", name_in(kOffloadNames, question.plan.offload_optimizer)}, {"pin_memory", o.offload_optimizer_pin_memory},
                               {"ratio", question.plan.offload_optimizer_ratio}};
  keys["offload_param"] = {{"device", name_in(kOffloadNames, question.plan.offload_parameters)}, {"pin_memory", o.offload_param_pin_memory},
                           {"max_in_cpu", o.offload_param_max_in_cpu}};
  keys["grad_accum_dtype"] = dtype(o.grad_accum_dtype);
  keys["communication_data_type"] = dtype(o.communication_data_type);
  keys["seq_parallel_communication_data_type"] = name_of(o.seq_parallel_communication_data_type);
  keys["bf16_master_weights_and_grads"] = o.bf16_master_weights_and_grads;
  keys["bf16_optimizer_states"] = o.bf16_optimizer_states;
  keys["immediate_grad_update"] = o.immediate_grad_update;
  keys["torch_autocast"] = o.torch_autocast;
  keys["deepcompile"] = o.deepcompile;
  return keys;
}

}  // namespace zeroplan
