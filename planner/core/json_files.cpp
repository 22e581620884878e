// JSON from files with the place of a mistake, strict fields, and files that are written whole or not at all.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>

#include <fmt/format.h>

#include "planner/core/descriptor.h"
#include "planner/core/error.h"
#include "planner/core/json_fields.h"
#include "planner/core/nearest.h"
#include "planner/core/plan.h"

namespace zeroplan {

namespace {

constexpr std::size_t kLargestTextBytes = std::size_t{64} << 20;
constexpr int kDeepestNesting = 100;

std::string cause() { return std::strerror(errno); }

/// "line 3, column 14" of a byte offset (columns count bytes).
std::string place_of_byte(std::string_view text, std::size_t byte) {
  const auto end = text.begin() + static_cast<std::ptrdiff_t>(std::min(byte > 0 ? byte - 1 : 0, text.size()));
  const auto line = 1 + std::count(text.begin(), end, '\n');
  const auto start = std::find(std::make_reverse_iterator(end), text.rend(), '\n').base();
  return fmt::format("line {}, column {}", line, end - start + 1);
}

/// nlohmann's words without its own prefix "[json.exception…] parse error at line 1, column 2: ".
std::string plain_words(std::string words) {
  for (const std::string_view mark : {"] ", ": "})
    if (const auto at = words.find(mark); at != std::string::npos) words.erase(0, at + mark.size());
  return words;
}

}  // namespace

std::string read_text_file(const std::string& file) {
  const Descriptor in(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in.is_open()) throw InputError(file, "", fmt::format("cannot be read: {}", cause()), "Check the path");
  struct stat about {};
  if (::fstat(in.get(), &about) == 0 && S_ISDIR(about.st_mode)) throw InputError(file, "", "is a directory", "Name a file");
  std::string text;
  std::string chunk(std::size_t{1} << 16, '\0');
  for (;;) {
    const ssize_t got = ::read(in.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw InputError(file, "", fmt::format("cannot be read: {}", cause()), "");
    if (got == 0) return text;
    text.append(chunk, 0, static_cast<std::size_t>(got));
    if (text.size() > kLargestTextBytes) throw InputError(file, "", "is larger than 64 MiB", "No file that is read here is: is it the right one?");
  }
}

std::optional<std::string> find_too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') ++i;
    else if (c == '"') in_string = !in_string;
    else if (in_string) continue;
    else if (c == '[' || c == '{') depth += 1;
    else if (c == ']' || c == '}') depth -= 1;
    if (depth > kDeepestNesting) return place_of_byte(text, i + 1);
  }
  return std::nullopt;
}

nlohmann::json parse_json(std::string_view text, const std::string& file) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) throw InputError(file, "", "is empty", "It should hold a JSON object");
  if (const auto place = find_too_deep(text)) throw InputError(file, *place, fmt::format("nests deeper than {} brackets", kDeepestNesting), "No JSON file that is read here does: is it the right one?");
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    throw InputError(file, place_of_byte(text, error.byte), "not valid JSON: " + plain_words(error.what()), "Check that the file is whole");
  } catch (const nlohmann::json::exception& error) {  // a number such as 1e999
    throw InputError(file, "", fmt::format("not valid JSON: {}", error.what()), "Check that the file is whole");
  }
}

nlohmann::json read_json_file(const std::string& file) { return parse_json(read_text_file(file), file); }

void write_file_atomically(const std::string& file, std::string_view text) {
  const std::string temporary = file + ".tmp";
  const auto fail = [&](const char* what) {
    const std::string reason = cause();
    ::unlink(temporary.c_str());
    throw RunError(fmt::format("{}: cannot {}: {}", file, what, reason));
  };
  Descriptor out(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!out.is_open()) throw RunError(fmt::format("{}: cannot be created: {}", temporary, cause()));
  while (!text.empty()) {
    const ssize_t written = ::write(out.get(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("be written");
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fsync(out.get()) != 0) fail("be flushed to disk");
  if (!out.close()) fail("be closed");
  if (::rename(temporary.c_str(), file.c_str()) != 0) fail("be replaced");
  // The rename itself lasts only once the directory is on disk; a file system that cannot do that is no reason to fail.
  const std::string directory = std::filesystem::path(file).parent_path().string();
  const Descriptor parent(::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (parent.is_open()) ::fsync(parent.get());
}

std::string describe(const nlohmann::json& value) {
  constexpr std::size_t kLongest = 60;
  // Never dumped: the depth of a hostile value would be the depth of the recursion.
  if (value.is_structured()) return fmt::format("an {} of {} entries", value.type_name(), value.size());
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (value.is_number_float() && text == "null") return "a number that is not finite";
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

bool read_integer(const nlohmann::json& value, std::int64_t& out) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return false;
  out = value.get<std::int64_t>();
  return true;
}

std::string NumberRange::text() const { return fmt::format("{} {} and at most {}", above_least ? "above" : "at least", least, most); }

namespace {

/// A key as a token of a JSON pointer (RFC 6901).
std::string pointer_token(std::string_view key) {
  std::string token;
  for (const char c : key) {
    if (c == '~') token += "~0";
    else if (c == '/') token += "~1";
    else token += c;
  }
  return token;
}

}  // namespace

JsonFields::JsonFields(const nlohmann::json& object, std::string file, std::string pointer)
    : object_(object), file_(std::move(file)), pointer_(std::move(pointer)) {
  if (!object_.is_object()) throw InputError(file_, pointer_, fmt::format("must be a JSON object, got {}", describe(object_)), "");
}

bool JsonFields::has(std::string_view key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

const nlohmann::json& JsonFields::at(std::string_view key) const {
  const auto found = object_.find(key);
  if (found == object_.end()) fail(key, "is missing", "");
  return *found;
}

std::int64_t JsonFields::integer(std::string_view key, IntegerRange range) const {
  std::int64_t value = 0;
  if (!read_integer(at(key), value) || value < range.least || value > range.most)
    fail(key, fmt::format("must be a whole number from {} to {}, got {}", range.least, range.most, describe(at(key))), "");
  return value;
}

double JsonFields::number(std::string_view key, NumberRange range) const {
  const nlohmann::json& value = at(key);
  if (!value.is_number() || !range.holds(value.get<double>())) fail(key, fmt::format("must be a number {}, got {}", range.text(), describe(value)), "");
  return value.get<double>();
}

bool JsonFields::boolean(std::string_view key) const {
  const nlohmann::json& value = at(key);
  if (!value.is_boolean()) fail(key, fmt::format("must be true or false, got {}", describe(value)), "");
  return value.get<bool>();
}

std::string JsonFields::text(std::string_view key) const {
  const nlohmann::json& value = at(key);
  if (!value.is_string() || value.get_ref<const std::string&>().empty()) fail(key, fmt::format("must be a text, got {}", describe(value)), "");
  return value.get<std::string>();
}

JsonFields JsonFields::object(std::string_view key) const { return JsonFields(at(key), file_, pointer_to(key)); }

void JsonFields::refuse_unknown(std::initializer_list<std::string_view> known) const {
  for (const auto& [key, value] : object_.items())
    if (std::find(known.begin(), known.end(), key) == known.end()) fail(key, "is not a known key", did_you_mean({known}, key));
}

void JsonFields::fail(std::string_view key, const std::string& problem, const std::string& remedy) const {
  throw InputError(file_, pointer_to(key), problem, remedy);
}

std::string JsonFields::pointer_to(std::string_view key) const { return pointer_ + "/" + pointer_token(key); }

}  // namespace zeroplan
