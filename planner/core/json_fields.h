// Strict reading of one JSON object: every mistake becomes an InputError with file, JSON pointer, what was found and what is accepted.
// Numbers are never converted silently: a size must be a JSON integer, 4096.0 and "4096" are refused.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace zeroplan {

struct IntegerRange {
  std::int64_t least = 0;
  std::int64_t most = 0;
};

/// A double in [least, most], or (least, most] where `above_least`. Never NaN or infinite.
struct NumberRange {
  double least = 0;
  double most = 0;
  bool above_least = false;

  bool holds(double value) const { return (above_least ? value > least : value >= least) && value <= most; }
  std::string text() const;  ///< "above 0 and at most 1"
};

/// A JSON value as a short text for messages; never throws.
std::string describe(const nlohmann::json& value);

/// True and sets `out` if the value is a JSON integer that fits int64.
bool read_integer(const nlohmann::json& value, std::int64_t& out);

/// A text file of at most 64 MiB; throws InputError. `file` may not exist, be a directory or have no end.
std::string read_text_file(const std::string& file);

/// Throws InputError with line and column, also where values nest deeper than in any file of ours: to copy or compare a value is recursion. `file` names the text in errors.
nlohmann::json parse_json(std::string_view text, const std::string& file);

/// Line and column of the bracket that is too deep; nullopt if none is.
std::optional<std::string> find_too_deep(std::string_view json_text);

class JsonFields {
 public:
  /// Throws InputError unless `object` is a JSON object. Keeps a reference: `object` must outlive this.
  JsonFields(const nlohmann::json& object, std::string file, std::string pointer);

  bool has(std::string_view key) const;  ///< there and not null
  const nlohmann::json& at(std::string_view key) const;  ///< throws if missing

  std::int64_t integer(std::string_view key, IntegerRange range) const;
  double number(std::string_view key, NumberRange range) const;
  bool boolean(std::string_view key) const;
  std::string text(std::string_view key) const;  ///< not empty

  // The same with a value for a key that is absent or null.
  std::int64_t integer_or(std::string_view key, std::int64_t absent, IntegerRange range) const { return has(key) ? integer(key, range) : absent; }
  double number_or(std::string_view key, double absent, NumberRange range) const { return has(key) ? number(key, range) : absent; }
  bool boolean_or(std::string_view key, bool absent) const { return has(key) ? boolean(key) : absent; }

  JsonFields object(std::string_view key) const;
  void refuse_unknown(std::initializer_list<std::string_view> known) const;
  [[noreturn]] void fail(std::string_view key, const std::string& problem, const std::string& remedy) const;

  const std::string& file() const { return file_; }
  const nlohmann::json& raw() const { return object_; }
  std::string pointer_to(std::string_view key) const;

 private:
  const nlohmann::json& object_;
  std::string file_;
  std::string pointer_;
};

}  // namespace zeroplan
