// Python pickles as far as PyTorch's memory snapshots need them, read and written without Python.
// PickleReader is the stack machine of protocols 2 to 5: dict, list, tuple, str, bytes, int, float, bool, None, memo and frames. Whatever would import or call
// something (GLOBAL, REDUCE, BUILD, ...) is refused by name and offset, so reading runs no code. It keeps no tree of the file: each time a container is filled,
// a PickleSink gets the items and says in one number what stands for the container from then on.
// Memory is at most some 30 times the file, for any bytes: no length and no memo number is believed beyond what the file can hold.
// Leaves out protocols 0 and 1 (text), sets, objects, and cycles: a container that is filled after something else referred to it is refused.
// Source: CPython Lib/pickletools.py for the opcodes; PyTorch torch/csrc/jit/serialization/pickler.cpp for the second writer of such files.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "simulator/interned.h"

namespace zeroplan {

struct ReadProgress {
  std::int64_t done_bytes = 0, total_bytes = 0;
};

/// Called every few MiB and at the end; false stops the reading.
using OnReadProgress = std::function<bool(const ReadProgress&)>;

/// A value on the machine's stack, 8 bytes.
class PickleValue {
 public:
  /// wide: an int beyond 60 bits, or beyond int64 (then it has no value). object: a filled container, as the sink numbered it.
  enum class Kind : std::uint8_t { absent, none, boolean, integer, wide, real, text, bytes, empty_list, empty_dict, object };

  constexpr PickleValue() = default;
  constexpr PickleValue(Kind kind, std::int64_t payload) : bits_(static_cast<std::uint64_t>(payload) << 4 | static_cast<std::uint64_t>(kind)) {}

  constexpr Kind kind() const { return static_cast<Kind>(bits_ & 15); }
  constexpr bool is(Kind kind_asked) const { return kind() == kind_asked; }
  constexpr std::int64_t payload() const { return static_cast<std::int64_t>(bits_) >> 4; }  ///< 60 bits, signed
  constexpr StringId text() const { return StringId{static_cast<std::uint32_t>(payload())}; }
  constexpr std::uint64_t object() const { return static_cast<std::uint64_t>(payload()); }

 private:
  std::uint64_t bits_ = 0;
};

/// What becomes of containers. An object's number is the sink's own, below 2^59. `filled` is what an earlier batch of the same container returned:
/// pickles fill a container in batches of 1000. Containers that stay empty are never told.
class PickleSink {
 public:
  virtual ~PickleSink() = default;
  /// items: key, value, key, value, ...
  virtual std::uint64_t dict_items(std::optional<std::uint64_t> filled, std::span<const PickleValue> items) = 0;
  virtual std::uint64_t list_items(std::optional<std::uint64_t> filled, std::span<const PickleValue> items) = 0;
  virtual std::uint64_t tuple(std::span<const PickleValue> items) = 0;
};

class PickleReader {
 public:
  /// `file` names the bytes in errors. Strings go to `strings`, bytes that are not UTF-8 replaced by U+FFFD.
  PickleReader(std::span<const unsigned char> bytes, std::string file, StringTable& strings);

  /// Runs to STOP and returns the value there; what follows STOP is not looked at. nullopt: on_progress said stop. Throws InputError (file, "byte N", ...).
  std::optional<PickleValue> read(PickleSink& sink, const OnReadProgress& on_progress = {});

  /// The number of an integer or boolean; nullopt for other kinds and for ints that int64 cannot hold.
  std::optional<std::int64_t> integer(PickleValue value) const;
  /// The number of a float or int.
  std::optional<double> real(PickleValue value) const;

  /// For sinks: throws InputError at the opcode being run.
  [[noreturn]] void refuse(const std::string& problem, const std::string& remedy = "") const;

  std::int64_t done_bytes() const { return at_ - begin_; }
  std::int64_t total_bytes() const { return end_ - begin_; }

 private:
  void start();
  bool step(PickleSink& sink);
  bool step_rare(PickleSink& sink, unsigned char op);
  [[noreturn]] void refuse_opcode(unsigned char op);
  const unsigned char* take(std::uint64_t bytes);
  std::uint64_t take_unsigned(int bytes);
  void push(PickleValue value) { stack_.push_back(value); }
  void push_integer(std::int64_t value);
  void push_long(std::uint64_t bytes);
  void push_real();
  void push_text(std::uint64_t bytes);
  void push_bytes(std::uint64_t bytes);
  void put(std::uint64_t number);
  void get(std::uint64_t number);
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  std::size_t pop_mark();
  void need_items(std::size_t count) const;
  void fill(PickleSink& sink, std::size_t first, PickleValue::Kind empty_kind);
  void make_container(PickleSink& sink, PickleValue::Kind empty_kind);
  void make_tuple(PickleSink& sink, std::size_t first);
  void check_unreferred(PickleValue container) const;

  std::string file_;
  StringTable& strings_;
  const unsigned char *begin_, *at_, *end_;
  const unsigned char* opcode_ = nullptr;  ///< being run
  std::vector<PickleValue> stack_, memo_;
  std::vector<std::size_t> marks_;
  std::vector<std::optional<std::int64_t>> wide_;
  std::vector<double> reals_;
};

/// Writes one pickle of protocol 2: what Python's pickle.load and PyTorch's MemoryViz.js read. Strings are written once and referred to afterwards. The caller
/// nests begin and end rightly and writes keys and values in turn; that is asserted as far as it is cheap.
class PickleWriter {
 public:
  /// `write` gets the pickle in pieces of some 64 KiB; what it throws passes through.
  explicit PickleWriter(std::function<void(std::string_view)> write);

  void begin_dict() { begin('}', 'u'); }
  void begin_list() { begin(']', 'e'); }
  void begin_tuple();
  void end();  ///< of the innermost container

  void string(std::string_view text);  ///< bytes that are not UTF-8 become U+FFFD
  void integer(std::int64_t value);
  void real(double value);
  void boolean(bool value);
  void none();

  /// The container just ended can be written again by its number.
  std::uint32_t remember();
  void again(std::uint32_t number);

  void finish();  ///< the one value is complete: writes STOP and the last piece

 private:
  struct Open {
    char fill;  ///< opcode that ends a batch; 't' for tuples
    std::int64_t batch_values = 0;
  };

  void begin(char opcode, char fill);
  void before_value();
  void put(char opcode) { piece_.push_back(opcode); }
  void put_unsigned(std::uint64_t value, int bytes);
  void put_memo(char small_opcode, char large_opcode, std::uint32_t number);

  std::function<void(std::string_view)> write_;
  std::string piece_;
  std::vector<Open> open_;
  std::unordered_map<std::string, std::uint32_t> strings_;
  std::uint32_t next_memo_ = 0;
};

/// text with every byte that is not part of valid UTF-8 replaced by U+FFFD.
std::string valid_utf8(std::string_view text);

}  // namespace zeroplan
