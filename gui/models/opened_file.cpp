#include "gui/models/opened_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "planner/core/error.h"
#include "planner/core/plan.h"

namespace zeroplan::gui {
namespace {

using nlohmann::json;

constexpr std::size_t kHead = 1 << 16;
constexpr const char* kWhatOpens =
    "open a plan.json, a session, a Hugging Face config.json, a DeepSpeed JSON, a memory snapshot (.pickle), or the JSON Lines of a trace or a run";

std::string head_of(const std::string& file) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error)) throw InputError(file, "", "is a folder", kWhatOpens);
  std::ifstream in(file, std::ios::binary);
  if (!in) throw InputError(file, "", "cannot be read", "check the path and that you may read it");
  std::string out(kHead, '\0');
  in.read(out.data(), static_cast<std::streamsize>(out.size()));
  out.resize(static_cast<std::size_t>(in.gcount()));
  return out;
}

bool is_any(std::string_view word, std::initializer_list<std::string_view> words) { return std::find(words.begin(), words.end(), word) != words.end(); }

// The first line of JSON Lines; nothing if the file is no such thing.
std::optional<FileKind> kind_of_lines(const std::string& head) {
  const std::size_t end = head.find('\n');
  const json line = json::parse(std::string_view(head).substr(0, end), nullptr, false);
  if (!line.is_object()) return std::nullopt;
  if (line.contains("event") && line["event"].is_string()) {
    const std::string event = line["event"];
    if (is_any(event, {"birth", "death", "scratch", "run"})) return FileKind::trace;
    if (is_any(event, {"start", "step", "surprise", "end", "proof", "error"})) return FileKind::run_log;
  }
  if (line.contains("birth") && line.contains("death") && line.contains("bytes")) return FileKind::trace;
  return std::nullopt;
}

bool is_deepspeed(const json& object) {
  for (const char* key : {"zero_optimization", "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "zero_allow_untested_optimizer"})
    if (object.contains(key)) return true;
  for (const char* key : {"bf16", "fp16"})
    if (object.contains(key) && object[key].is_object() && object[key].contains("enabled")) return true;
  return false;
}

FileKind kind_of_object(const std::string& file) {
  const json object = read_json_file(file);
  if (!object.is_object()) throw InputError(file, "", "is JSON, but no object", kWhatOpens);
  if (const auto format = object.find("format"); format != object.end() && format->is_string()) {
    if (*format == "zeroplan-plan") return FileKind::plan;
    if (*format == "zeroplan-session") return FileKind::session;
    if (format->get<std::string>().starts_with("zeroplan-")) throw InputError(file, "/format", format->get<std::string>() + " is an answer, which the window computes itself", kWhatOpens);
  }
  if (object.contains("model_type")) return FileKind::model_config;
  if (is_deepspeed(object)) return FileKind::deepspeed;
  if (object.contains("traceEvents")) throw InputError(file, "/traceEvents", "is a trace for Chrome or Perfetto", "write it as JSON Lines: zeroplan timeline … -o trace.jsonl");
  throw InputError(file, "", "is JSON of another kind", kWhatOpens);
}

}  // namespace

FileKind kind_of_file(const std::string& file) {
  const std::string head = head_of(file);
  if (head.size() >= 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5) return FileKind::snapshot;
  if (head.starts_with("PK\x03\x04")) throw InputError(file, "byte 0", "is a zip archive, as torch.save writes it", "a memory snapshot is written by torch.cuda.memory._dump_snapshot(FILE)");
  const std::size_t first = head.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) {
    if (file.ends_with(".jsonl") || file.ends_with(".log")) return FileKind::run_log;
    throw InputError(file, "", "is empty", kWhatOpens);
  }
  if (const std::optional<FileKind> lines = kind_of_lines(head)) return *lines;
  if (head[first] == '{' || head[first] == '[') return kind_of_object(file);
  throw InputError(file, "byte 0", "is neither JSON nor a pickle", kWhatOpens);
}

}  // namespace zeroplan::gui
