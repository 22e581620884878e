#include "simulator/pickle.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <limits>

#include <fmt/format.h>

#include "planner/core/error.h"

namespace zeroplan {
namespace {

using Kind = PickleValue::Kind;

constexpr std::int64_t kReportBytes = std::int64_t{4} << 20;
constexpr std::size_t kBatchItems = 1000;  ///< of every Python pickler; MemoryViz.js spreads a batch over arguments and fails on long ones
constexpr std::size_t kPieceBytes = std::size_t{1} << 16;
constexpr std::int64_t kFromMemo = -1;  ///< payload of an empty container that something else refers to; 0: not in the memo, k + 1: put at k
const char* const kOurFiles = "Name a file that torch.cuda.memory._dump_snapshot wrote";
const char* const kDamaged = "The file is damaged or cut short: copy it again";

namespace op {
enum : unsigned char {
  MARK = '(', STOP = '.', NONE = 'N', BININT = 'J', BININT1 = 'K', BININT2 = 'M', BINFLOAT = 'G', BINUNICODE = 'X', BINSTRING = 'T', SHORT_BINSTRING = 'U',
  BINBYTES = 'B', SHORT_BINBYTES = 'C', EMPTY_LIST = ']', EMPTY_DICT = '}', EMPTY_TUPLE = ')', APPEND = 'a', APPENDS = 'e', SETITEM = 's', SETITEMS = 'u',
  LIST = 'l', DICT = 'd', TUPLE = 't', BINGET = 'h', LONG_BINGET = 'j', BINPUT = 'q', LONG_BINPUT = 'r', GLOBAL = 'c', INST = 'i', PROTO = 0x80, TUPLE1 = 0x85,
  TUPLE2 = 0x86, TUPLE3 = 0x87, NEWTRUE = 0x88, NEWFALSE = 0x89, LONG1 = 0x8a, LONG4 = 0x8b, SHORT_BINUNICODE = 0x8c, BINUNICODE8 = 0x8d, BINBYTES8 = 0x8e,
  STACK_GLOBAL = 0x93, MEMOIZE = 0x94, FRAME = 0x95, BYTEARRAY8 = 0x96
};
}  // namespace op

struct RefusedOpcode {
  unsigned char code;
  std::string_view name, why;
};
constexpr std::string_view kImports = "would import Python code";
constexpr std::string_view kCalls = "would call Python code";
constexpr std::string_view kOutside = "needs an object from outside the file";
constexpr std::string_view kOldText = "belongs to protocols 0 and 1";
constexpr std::string_view kUnused = "has no place in a memory snapshot";
constexpr std::array<RefusedOpcode, 30> kRefused{{
    {op::GLOBAL, "GLOBAL", kImports}, {op::STACK_GLOBAL, "STACK_GLOBAL", kImports}, {op::INST, "INST", kImports}, {0x82, "EXT1", kImports},
    {0x83, "EXT2", kImports}, {0x84, "EXT4", kImports}, {'R', "REDUCE", kCalls}, {'b', "BUILD", kCalls}, {'o', "OBJ", kCalls}, {0x81, "NEWOBJ", kCalls},
    {0x92, "NEWOBJ_EX", kCalls}, {'P', "PERSID", kOutside}, {'Q', "BINPERSID", kOutside}, {0x97, "NEXT_BUFFER", kOutside}, {0x98, "READONLY_BUFFER", kOutside},
    {'I', "INT", kOldText}, {'L', "LONG", kOldText}, {'F', "FLOAT", kOldText}, {'S', "STRING", kOldText}, {'V', "UNICODE", kOldText}, {'g', "GET", kOldText},
    {'p', "PUT", kOldText}, {0x8f, "EMPTY_SET", kUnused}, {0x90, "ADDITEMS", kUnused}, {0x91, "FROZENSET", kUnused}, {'0', "POP", kUnused},
    {'1', "POP_MARK", kUnused}, {'2', "DUP", kUnused}, {0x99, "opcode 0x99", kUnused}, {0x9a, "opcode 0x9a", kUnused},
}};

bool is_continuation(unsigned char byte) { return (byte & 0xc0) == 0x80; }

/// Bytes of the valid UTF-8 sequence that text begins with; 0 if none.
std::size_t utf8_sequence(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < bytes) return 0;
  for (std::size_t i = 1; i < bytes; ++i)
    if (!is_continuation(byte(i))) return 0;
  const bool overlong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xf0 && byte(1) < 0x90);
  const bool surrogate = first == 0xed && byte(1) >= 0xa0, beyond = first == 0xf4 && byte(1) >= 0x90;
  return overlong || surrogate || beyond ? 0 : bytes;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

/// At most 60 printable characters of what a file claims, for an error.
std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 60)) out += c >= ' ' && c < 127 ? c : '?';
  return out;
}

}  // namespace

std::string valid_utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t bytes = utf8_sequence(text);
    out += bytes > 0 ? text.substr(0, bytes) : "\xef\xbf\xbd";
    text.remove_prefix(std::max<std::size_t>(bytes, 1));
  }
  return out;
}

// ---- reading ----

PickleReader::PickleReader(std::span<const unsigned char> bytes, std::string file, StringTable& strings)
    : file_(std::move(file)), strings_(strings), begin_(bytes.data()), at_(begin_), end_(begin_ + bytes.size()), opcode_(begin_) {}

void PickleReader::refuse(const std::string& problem, const std::string& remedy) const {
  throw InputError(file_, fmt::format("byte {}", opcode_ - begin_), problem, remedy);
}

const unsigned char* PickleReader::take(std::uint64_t bytes) {
  const auto left = static_cast<std::uint64_t>(end_ - at_);
  if (bytes > left) refuse(fmt::format("{} bytes are to follow and {} are left", bytes, left), kDamaged);
  const unsigned char* const taken = at_;
  at_ += bytes;
  return taken;
}

std::uint64_t PickleReader::take_unsigned(int bytes) {
  const unsigned char* const from = take(static_cast<std::uint64_t>(bytes));
  std::uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) value |= std::uint64_t{from[i]} << (8 * i);
  return value;
}

std::optional<PickleValue> PickleReader::read(PickleSink& sink, const OnReadProgress& on_progress) {
  start();
  std::int64_t next_report_bytes = 0;
  do {
    if (on_progress && done_bytes() >= next_report_bytes) {
      if (!on_progress({done_bytes(), total_bytes()})) return std::nullopt;
      next_report_bytes = done_bytes() + kReportBytes;
    }
  } while (step(sink));
  if (stack_.size() != 1 || !marks_.empty()) refuse(fmt::format("the pickle ends with {} values where one is due", stack_.size()), kDamaged);
  if (on_progress && !on_progress({total_bytes(), total_bytes()})) return std::nullopt;
  return stack_.back();
}

void PickleReader::start() {
  const std::string_view head(reinterpret_cast<const char*>(begin_), std::min<std::size_t>(static_cast<std::size_t>(end_ - begin_), 4));
  if (head.empty()) refuse("the file is empty", kOurFiles);
  if (head.starts_with("PK")) refuse("is a zip archive (torch.save writes those) and not a pickle", kOurFiles);
  if (head.starts_with("\x1f\x8b") || head.starts_with("\x28\xb5\x2f\xfd")) refuse("is compressed", "Unpack it first");
  if (static_cast<unsigned char>(head[0]) != op::PROTO) refuse("is not a pickle of protocol 2 or later", kOurFiles);
}

/// One opcode; false after STOP. The frequent ones are here.
bool PickleReader::step(PickleSink& sink) {
  opcode_ = at_;
  if (at_ == end_) refuse("the file ends before its pickle does", kDamaged);
  const unsigned char code = *at_++;
  switch (code) {
    case op::LONG_BINGET: get(take_unsigned(4)); return true;
    case op::BINGET: get(take_unsigned(1)); return true;
    case op::MEMOIZE: put(memo_.size()); return true;
    case op::BINPUT: put(take_unsigned(1)); return true;
    case op::LONG_BINPUT: put(take_unsigned(4)); return true;
    case op::MARK: marks_.push_back(stack_.size()); return true;
    case op::EMPTY_DICT: push({Kind::empty_dict, 0}); return true;
    case op::EMPTY_LIST: push({Kind::empty_list, 0}); return true;
    case op::SETITEMS: fill(sink, pop_mark(), Kind::empty_dict); return true;
    case op::APPENDS: fill(sink, pop_mark(), Kind::empty_list); return true;
    case op::LONG1: push_long(take_unsigned(1)); return true;
    case op::BININT: push_integer(static_cast<std::int32_t>(take_unsigned(4))); return true;
    case op::BININT1: push_integer(static_cast<std::int64_t>(take_unsigned(1))); return true;
    case op::BININT2: push_integer(static_cast<std::int64_t>(take_unsigned(2))); return true;
    case op::STOP: return false;
    default: return step_rare(sink, code);
  }
}

bool PickleReader::step_rare(PickleSink& sink, unsigned char code) {
  switch (code) {
    case op::PROTO: {
      const std::uint64_t protocol = take_unsigned(1);
      if (protocol < 2 || protocol > 5) refuse(fmt::format("protocol {} is not read, 2 to 5 are", protocol), kOurFiles);
      return true;
    }
    case op::FRAME: {
      const std::uint64_t bytes = take_unsigned(8);
      if (bytes > static_cast<std::uint64_t>(end_ - at_)) take(bytes);
      return true;
    }
    case op::NONE: push({Kind::none, 0}); return true;
    case op::NEWTRUE: push({Kind::boolean, 1}); return true;
    case op::NEWFALSE: push({Kind::boolean, 0}); return true;
    case op::BINFLOAT: push_real(); return true;
    case op::LONG4: push_long(take_unsigned(4)); return true;
    case op::SHORT_BINUNICODE: case op::SHORT_BINSTRING: push_text(take_unsigned(1)); return true;
    case op::BINUNICODE: case op::BINSTRING: push_text(take_unsigned(4)); return true;
    case op::BINUNICODE8: push_text(take_unsigned(8)); return true;
    case op::SHORT_BINBYTES: push_bytes(take_unsigned(1)); return true;
    case op::BINBYTES: push_bytes(take_unsigned(4)); return true;
    case op::BINBYTES8: case op::BYTEARRAY8: push_bytes(take_unsigned(8)); return true;
    case op::SETITEM: need_items(3); fill(sink, stack_.size() - 2, Kind::empty_dict); return true;
    case op::APPEND: need_items(2); fill(sink, stack_.size() - 1, Kind::empty_list); return true;
    case op::DICT: make_container(sink, Kind::empty_dict); return true;
    case op::LIST: make_container(sink, Kind::empty_list); return true;
    case op::EMPTY_TUPLE: make_tuple(sink, stack_.size()); return true;
    case op::TUPLE1: need_items(1); make_tuple(sink, stack_.size() - 1); return true;
    case op::TUPLE2: need_items(2); make_tuple(sink, stack_.size() - 2); return true;
    case op::TUPLE3: need_items(3); make_tuple(sink, stack_.size() - 3); return true;
    case op::TUPLE: make_tuple(sink, pop_mark()); return true;
    default: refuse_opcode(code);
  }
}

void PickleReader::refuse_opcode(unsigned char code) {
  const auto found = std::find_if(kRefused.begin(), kRefused.end(), [&](const RefusedOpcode& refused) { return refused.code == code; });
  if (found == kRefused.end()) refuse(fmt::format("0x{:02x} is no opcode of a pickle", code), kDamaged);
  std::string name(found->name);
  if (code == op::GLOBAL || code == op::INST) {
    const std::string_view rest(reinterpret_cast<const char*>(at_), static_cast<std::size_t>(end_ - at_));
    const std::size_t line = std::min(rest.find('\n'), rest.size()), second = std::min(line + 1, rest.size());
    name += fmt::format(" {}.{}", shown(rest.substr(0, line)), shown(rest.substr(second, rest.substr(second).find('\n'))));
  }
  if (code == op::STACK_GLOBAL && stack_.size() >= 2 && stack_.back().is(Kind::text) && stack_[stack_.size() - 2].is(Kind::text))
    name += fmt::format(" {}.{}", shown(strings_[stack_[stack_.size() - 2].text()]), shown(strings_[stack_.back().text()]));
  const bool runs_code = found->why == kImports || found->why == kCalls;
  const std::string warning = runs_code ? "A memory snapshot needs no code: do not load this file in Python. " : "";
  refuse(fmt::format("{} {}", name, found->why), warning + kOurFiles);
}

void PickleReader::push_integer(std::int64_t value) {
  const PickleValue small(Kind::integer, value);
  if (small.payload() == value) return push(small);
  push({Kind::wide, static_cast<std::int64_t>(wide_.size())});
  wide_.push_back(value);
}

/// An int of so many bytes, little-endian two's complement.
void PickleReader::push_long(std::uint64_t bytes) {
  const unsigned char* const from = take(bytes);
  const bool negative = bytes > 0 && from[bytes - 1] >= 128;
  std::uint64_t value = negative ? ~std::uint64_t{0} : 0;
  const std::uint64_t low = std::min<std::uint64_t>(bytes, 8);
  std::memcpy(&value, from, low);
  const bool only_sign_follows = std::all_of(from + low, from + bytes, [&](unsigned char b) { return b == (negative ? 255 : 0); });
  if (only_sign_follows && (static_cast<std::int64_t>(value) < 0) == negative) return push_integer(static_cast<std::int64_t>(value));
  push({Kind::wide, static_cast<std::int64_t>(wide_.size())});
  wide_.push_back(std::nullopt);
}
static_assert(std::endian::native == std::endian::little, "ints are copied as they lie in the file");

void PickleReader::push_real() {
  const unsigned char* const from = take(8);
  std::uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) bits = bits << 8 | from[i];
  push({Kind::real, static_cast<std::int64_t>(reals_.size())});
  reals_.push_back(std::bit_cast<double>(bits));
}

void PickleReader::push_text(std::uint64_t bytes) {
  const std::string_view text(reinterpret_cast<const char*>(take(bytes)), bytes);
  const StringId id = is_ascii(text) ? strings_.intern(text) : strings_.intern(valid_utf8(text));
  push({Kind::text, static_cast<std::int64_t>(id)});
}

void PickleReader::push_bytes(std::uint64_t bytes) {
  take(bytes);
  push({Kind::bytes, 0});
}

void PickleReader::put(std::uint64_t number) {
  need_items(1);
  if (number >= static_cast<std::uint64_t>(at_ - begin_)) refuse(fmt::format("memo number {} is beyond what the file can have counted", number), kDamaged);
  if (number >= memo_.size()) memo_.resize(number + 1);
  PickleValue& top = stack_.back();
  if (top.is(Kind::empty_dict) || top.is(Kind::empty_list)) {
    if (top.payload() != 0) refuse("a container is put into the memo twice", kDamaged);
    top = {top.kind(), static_cast<std::int64_t>(number) + 1};
  }
  if (!memo_[number].is(Kind::absent)) refuse(fmt::format("memo number {} is given twice", number), kDamaged);
  memo_[number] = top;
}

void PickleReader::get(std::uint64_t number) {
  if (number >= memo_.size() || memo_[number].is(Kind::absent)) refuse(fmt::format("memo number {} was never given", number), kDamaged);
  PickleValue& value = memo_[number];
  if (value.is(Kind::empty_dict) || value.is(Kind::empty_list)) value = {value.kind(), kFromMemo};
  push(value);
}

std::size_t PickleReader::pop_mark() {
  if (marks_.empty()) refuse("there is no mark to go back to", kDamaged);
  const std::size_t mark = marks_.back();
  marks_.pop_back();
  return mark;
}

void PickleReader::need_items(std::size_t count) const {
  if (stack_.size() < floor() + count) refuse(fmt::format("{} values are needed and {} are there", count, stack_.size() - floor()), kDamaged);
}

void PickleReader::check_unreferred(PickleValue container) const {
  const std::int64_t payload = container.payload();
  if (payload == kFromMemo || (payload > 0 && memo_[static_cast<std::size_t>(payload) - 1].payload() == kFromMemo))
    refuse("a container is filled after something else referred to it, which no snapshot does", kOurFiles);
}

/// stack_[first, end) go into the container just below.
void PickleReader::fill(PickleSink& sink, std::size_t first, Kind empty_kind) {
  const bool is_dict = empty_kind == Kind::empty_dict;
  if (first <= floor()) refuse("there is no container to fill", kDamaged);
  PickleValue& container = stack_[first - 1];
  const bool filled = container.is(Kind::object);
  if (!filled && !container.is(empty_kind)) refuse(fmt::format("items go into something that is no {}", is_dict ? "dict" : "list"), kDamaged);
  const std::span<const PickleValue> items(stack_.data() + first, stack_.size() - first);
  if (is_dict && items.size() % 2 != 0) refuse("a key has no value", kDamaged);
  if (items.empty()) return;
  const std::optional<std::uint64_t> number = filled ? std::optional(container.object()) : std::nullopt;
  if (!filled) check_unreferred(container);
  const std::int64_t memo_plus_1 = filled ? 0 : container.payload();
  const std::uint64_t object = is_dict ? sink.dict_items(number, items) : sink.list_items(number, items);
  assert(!filled || object == *number);
  container = {Kind::object, static_cast<std::int64_t>(object)};
  if (memo_plus_1 > 0) memo_[static_cast<std::size_t>(memo_plus_1) - 1] = container;
  stack_.resize(first);
}

/// DICT and LIST: everything above the mark becomes a container.
void PickleReader::make_container(PickleSink& sink, Kind empty_kind) {
  const std::size_t mark = pop_mark();
  stack_.insert(stack_.begin() + static_cast<std::ptrdiff_t>(mark), PickleValue(empty_kind, 0));
  fill(sink, mark + 1, empty_kind);
}

void PickleReader::make_tuple(PickleSink& sink, std::size_t first) {
  const std::uint64_t object = sink.tuple({stack_.data() + first, stack_.size() - first});
  stack_.resize(first);
  push({Kind::object, static_cast<std::int64_t>(object)});
}

std::optional<std::int64_t> PickleReader::integer(PickleValue value) const {
  if (value.is(Kind::integer) || value.is(Kind::boolean)) return value.payload();
  if (value.is(Kind::wide)) return wide_[static_cast<std::size_t>(value.payload())];
  return std::nullopt;
}

std::optional<double> PickleReader::real(PickleValue value) const {
  if (value.is(Kind::real)) return reals_[static_cast<std::size_t>(value.payload())];
  const std::optional<std::int64_t> whole = integer(value);
  return whole ? std::optional(static_cast<double>(*whole)) : std::nullopt;
}

// ---- writing ----

PickleWriter::PickleWriter(std::function<void(std::string_view)> write) : write_(std::move(write)) {
  piece_.reserve(2 * kPieceBytes);
  put(static_cast<char>(op::PROTO));
  put(2);
}

void PickleWriter::put_unsigned(std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) put(static_cast<char>(value >> (8 * i)));
}

void PickleWriter::put_memo(char small_opcode, char large_opcode, std::uint32_t number) {
  put(number < 256 ? small_opcode : large_opcode);
  put_unsigned(number, number < 256 ? 1 : 4);
}

/// Ends a full batch, so that no reader needs more than one on its stack.
void PickleWriter::before_value() {
  if (piece_.size() >= kPieceBytes) {
    write_(piece_);
    piece_.clear();
  }
  if (open_.empty()) return;
  Open& open = open_.back();
  if (open.fill != 't' && open.batch_values == static_cast<std::int64_t>(kBatchItems) * (open.fill == 'u' ? 2 : 1)) {
    put(open.fill);
    put(op::MARK);
    open.batch_values = 0;
  }
  ++open.batch_values;
}

void PickleWriter::begin(char opcode, char fill) {
  before_value();
  put(opcode);
  put(op::MARK);
  open_.push_back({.fill = fill});
}

void PickleWriter::begin_tuple() {
  before_value();
  put(op::MARK);
  open_.push_back({.fill = 't'});
}

void PickleWriter::end() {
  assert(!open_.empty() && (open_.back().fill != 'u' || open_.back().batch_values % 2 == 0));
  put(open_.back().fill);
  open_.pop_back();
}

void PickleWriter::string(std::string_view text) {
  before_value();
  assert(text.size() <= std::numeric_limits<std::uint32_t>::max());
  std::string key = is_ascii(text) ? std::string(text) : valid_utf8(text);
  if (const auto known = strings_.find(key); known != strings_.end()) return put_memo(op::BINGET, op::LONG_BINGET, known->second);
  put(op::BINUNICODE);
  put_unsigned(key.size(), 4);
  piece_ += key;
  strings_.emplace(std::move(key), remember());
}

void PickleWriter::integer(std::int64_t value) {
  before_value();
  if (value >= 0 && value < 256) {
    put(op::BININT1);
    return put_unsigned(static_cast<std::uint64_t>(value), 1);
  }
  if (value == static_cast<std::int32_t>(value)) {
    put(op::BININT);
    return put_unsigned(static_cast<std::uint64_t>(value), 4);
  }
  put(static_cast<char>(op::LONG1));
  put(8);
  put_unsigned(static_cast<std::uint64_t>(value), 8);
}

void PickleWriter::real(double value) {
  before_value();
  put(op::BINFLOAT);
  const auto bits = std::bit_cast<std::uint64_t>(value);
  for (int i = 7; i >= 0; --i) put(static_cast<char>(bits >> (8 * i)));
}

void PickleWriter::boolean(bool value) {
  before_value();
  put(static_cast<char>(value ? op::NEWTRUE : op::NEWFALSE));
}

void PickleWriter::none() {
  before_value();
  put(op::NONE);
}

std::uint32_t PickleWriter::remember() {
  put_memo(op::BINPUT, op::LONG_BINPUT, next_memo_);
  return next_memo_++;
}

void PickleWriter::again(std::uint32_t number) {
  assert(number < next_memo_);
  before_value();
  put_memo(op::BINGET, op::LONG_BINGET, number);
}

void PickleWriter::finish() {
  assert(open_.empty());
  put(op::STOP);
  write_(piece_);
  piece_.clear();
}

}  // namespace zeroplan
