#include "simulator/pickle.h"

#include <catch2/catch.hpp>

#include <fmt/format.h>

#include "planner/core/error.h"

namespace zeroplan {
namespace {

using Kind = PickleValue::Kind;

/// Turns a pickle into text like Python's repr, without shortcuts: {'a': [1, None]}.
class ReprSink final : public PickleSink {
 public:
  std::string repr(std::string_view bytes, const OnReadProgress& on_progress = {}) {
    PickleReader reader({reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()}, "test.pickle", strings_);
    reader_ = &reader;
    const auto value = reader.read(*this, on_progress);
    return value ? repr(*value) : "stopped";
  }

  std::uint64_t dict_items(std::optional<std::uint64_t> filled, std::span<const PickleValue> items) override {
    Node& node = at(filled, '{');
    for (std::size_t i = 0; i < items.size(); i += 2) node.items.push_back(repr(items[i]) + ": " + repr(items[i + 1]));
    return node.number;
  }
  std::uint64_t list_items(std::optional<std::uint64_t> filled, std::span<const PickleValue> items) override { return add(filled, '[', items); }
  std::uint64_t tuple(std::span<const PickleValue> items) override { return add(std::nullopt, '(', items); }

 private:
  struct Node {
    char open;
    std::uint64_t number;
    std::vector<std::string> items;
  };

  Node& at(std::optional<std::uint64_t> filled, char open) {
    if (!filled) nodes_.push_back({open, nodes_.size(), {}});
    Node& node = nodes_[filled.value_or(nodes_.size() - 1)];
    if (node.open != open) reader_->refuse("dict and list confused");
    return node;
  }
  std::uint64_t add(std::optional<std::uint64_t> filled, char open, std::span<const PickleValue> items) {
    Node& node = at(filled, open);
    for (const PickleValue item : items) node.items.push_back(repr(item));
    return node.number;
  }

  std::string repr(PickleValue value) {
    switch (value.kind()) {
      case Kind::absent: return "absent";
      case Kind::none: return "None";
      case Kind::boolean: return value.payload() == 1 ? "True" : "False";
      case Kind::integer: case Kind::wide: return reader_->integer(value) ? fmt::format("{}", *reader_->integer(value)) : "huge";
      case Kind::real: return fmt::format("{}", *reader_->real(value));
      case Kind::text: return "'" + strings_[value.text()] + "'";
      case Kind::bytes: return "bytes";
      case Kind::empty_list: return "[]";
      case Kind::empty_dict: return "{}";
      case Kind::object: break;
    }
    const Node& node = nodes_[value.object()];
    return node.open + fmt::format("{}", fmt::join(node.items, ", ")) + (node.open == '{' ? '}' : node.open == '[' ? ']' : ')');
  }

  StringTable strings_;
  std::vector<Node> nodes_;
  const PickleReader* reader_ = nullptr;
};

/// A string literal with its zeros, after PROTO 4.
template <std::size_t N>
std::string pickle(const char (&rest)[N]) {
  return std::string("\x80\x04") + std::string(rest, N - 1);
}

std::string repr(const std::string& bytes) { return ReprSink().repr(bytes); }

std::string problem(const std::string& bytes) {
  try {
    return "read as " + repr(bytes);
  } catch (const InputError& error) {
    return error.what();
  }
}

template <class Write>
std::string written(Write&& write) {
  std::string out;
  PickleWriter writer([&](std::string_view piece) { out += piece; });
  write(writer);
  writer.finish();
  return out;
}

}  // namespace

TEST_CASE("every kind of value is read", "[unit]") {
  CHECK(repr(pickle("(N\x88\x89K\xffM\xff\xffJ\xff\xff\xff\xfft.")) == "(None, True, False, 255, 65535, -1)");
  CHECK(repr(pickle("(\x8a\x00\x8a\x01\xff\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80t.")) ==
        "(0, -1, 9223372036854775807, -9223372036854775808)");
  CHECK(repr(pickle("(\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00\x8b\x0a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00t.")) == "(huge, 1)");
  CHECK(repr(pickle("G\x3f\xf8\x00\x00\x00\x00\x00\x00.")) == "1.5");
  CHECK(repr(pickle("(\x8c\x02hiX\x01\x00\x00\x00x\x8d\x01\x00\x00\x00\x00\x00\x00\x00yU\x01zT\x01\x00\x00\x00zt.")) == "('hi', 'x', 'y', 'z', 'z')");
  CHECK(repr(pickle("(C\x01z\x42\x01\x00\x00\x00z\x8e\x01\x00\x00\x00\x00\x00\x00\x00z\x96\x01\x00\x00\x00\x00\x00\x00\x00zt.")) == "(bytes, bytes, bytes, bytes)");
  CHECK(repr(pickle("()]}K\x01\x85K\x01K\x02\x86K\x01K\x02K\x03\x87t.")) == "((), [], {}, (1), (1, 2), (1, 2, 3))");
  CHECK(repr(pickle("((K\x01K\x02l(K\x01K\x02\x64t.")) == "([1, 2], {1: 2})");
  CHECK(repr(pickle("]\x94K\x07\x61.")) == "[7]");
  CHECK(repr(pickle("}\x94K\x07K\x08s.")) == "{7: 8}");
  CHECK(repr(pickle("\x95\x01\x00\x00\x00\x00\x00\x00\x00N.trailing")) == "None");
}

TEST_CASE("a container in the memo is the filled one, whether it was put before or after filling", "[unit]") {
  CHECK(repr(pickle("(]\x94(K\x01\x65h\x00t.")) == "([1], [1])");
  CHECK(repr(pickle("(](K\x01\x65q\x00h\x00t.")) == "([1], [1])");
  CHECK(repr(pickle("(]\x94h\x00h\x00t.")) == "([], [], [])");
  CHECK(repr(pickle("(\x8c\x01\x61r\x00\x00\x00\x00j\x00\x00\x00\x00t.")) == "('a', 'a')");
}

TEST_CASE("what would run or import code is refused by name and place", "[unit]") {
  CHECK_THAT(problem(pickle("cos\nsystem\n\x8c\x02ls\x85R.")), Catch::Contains("test.pickle: byte 2: GLOBAL os.system would import Python code"));
  CHECK_THAT(problem(pickle("\x8c\x02os\x8c\x06system\x93.")), Catch::Contains("byte 14: STACK_GLOBAL os.system would import Python code"));
  CHECK_THAT(problem(pickle("(ios\nsystem\n.")), Catch::Contains("byte 3: INST os.system"));
  CHECK_THAT(problem(pickle("NNR.")), Catch::Contains("byte 4: REDUCE would call Python code"));
  CHECK_THAT(problem(pickle("NNb.")), Catch::Contains("BUILD"));
  CHECK_THAT(problem(pickle("NN\x81.")), Catch::Contains("NEWOBJ"));
  CHECK_THAT(problem(pickle("\x82\x01.")), Catch::Contains("EXT1"));
  CHECK_THAT(problem(pickle("NQ.")), Catch::Contains("BINPERSID needs an object from outside"));
  CHECK_THAT(problem(pickle("\x97.")), Catch::Contains("NEXT_BUFFER"));
  CHECK_THAT(problem(pickle("I01\n.")), Catch::Contains("INT belongs to protocols 0 and 1"));
  CHECK_THAT(problem(pickle("\x8f.")), Catch::Contains("EMPTY_SET"));
  CHECK_THAT(problem(pickle("c\x1b[2Jx\n\x07\n.")), !Catch::Contains("\x1b") && Catch::Contains("GLOBAL ?[2Jx.?"));
}

TEST_CASE("lengths and memo numbers are believed no further than the file reaches", "[unit]") {
  CHECK_THAT(problem(pickle("X\xff\xff\xff\xffhi.")), Catch::Contains("byte 2: 4294967295 bytes are to follow and 3 are left"));
  CHECK_THAT(problem(pickle("\x8d\xff\xff\xff\xff\xff\xff\xff\xffhi.")), Catch::Contains("18446744073709551615 bytes are to follow"));
  CHECK_THAT(problem(pickle("\x8b\xff\xff\xff\xffhi.")), Catch::Contains("are left"));
  CHECK_THAT(problem(pickle("\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.")), Catch::Contains("are left"));
  CHECK_THAT(problem(pickle("Nr\xff\xff\xff\xff.")), Catch::Contains("memo number 4294967295 is beyond"));
  CHECK_THAT(problem(pickle("j\xff\xff\xff\xff.")), Catch::Contains("was never given"));
  CHECK_THAT(problem(pickle("Nq\x03h\x02.")), Catch::Contains("memo number 2 was never given"));
}

TEST_CASE("a pickle that breaks the machine's rules is refused", "[unit]") {
  CHECK_THAT(problem(""), Catch::Contains("the file is empty"));
  CHECK_THAT(problem("PK\x03\x04"), Catch::Contains("zip archive"));
  CHECK_THAT(problem("(dp0\n."), Catch::Contains("not a pickle of protocol 2"));
  CHECK_THAT(problem("\x80\x06N."), Catch::Contains("protocol 6 is not read"));
  CHECK_THAT(problem(pickle(".")), Catch::Contains("ends with 0 values"));
  CHECK_THAT(problem(pickle("NN.")), Catch::Contains("ends with 2 values"));
  CHECK_THAT(problem(pickle("(N.")), Catch::Contains("one is due"));
  CHECK_THAT(problem(pickle("N")), Catch::Contains("ends before its pickle does"));
  CHECK_THAT(problem(pickle("t.")), Catch::Contains("no mark"));
  CHECK_THAT(problem(pickle("\x94.")), Catch::Contains("1 values are needed"));
  CHECK_THAT(problem(pickle("](\x94.")), Catch::Contains("1 values are needed"));
  CHECK_THAT(problem(pickle("](a.")), Catch::Contains("2 values are needed"));
  CHECK_THAT(problem(pickle("(Ne.")), Catch::Contains("no container to fill"));
  CHECK_THAT(problem(pickle("N(Ne.")), Catch::Contains("is no list"));
  CHECK_THAT(problem(pickle("](NNu.")), Catch::Contains("is no dict"));
  CHECK_THAT(problem(pickle("}(Nu.")), Catch::Contains("a key has no value"));
  CHECK_THAT(problem(pickle("](Ne(NNu.")), Catch::Contains("dict and list confused"));
  CHECK_THAT(problem(pickle("]\x94h\x00\x61.")), Catch::Contains("filled after something else referred to it"));
  CHECK_THAT(problem(pickle("(]\x94h\x00K\x01\x61t.")), Catch::Contains("filled after something else referred to it"));
  CHECK_THAT(problem(pickle("]\x94\x94.")), Catch::Contains("into the memo twice"));
  CHECK_THAT(problem(pickle("\xff")), Catch::Contains("0xff is no opcode"));
}

TEST_CASE("deep nesting costs no stack", "[unit]") {
  constexpr int kDepth = 200'000;
  std::string bytes = "\x80\x02" + std::string(kDepth, ')');
  for (int i = 1; i < kDepth; ++i) bytes += "\x86";
  StringTable strings;
  class Count final : public PickleSink {
   public:
    int tuples = 0;
    std::uint64_t dict_items(std::optional<std::uint64_t>, std::span<const PickleValue>) override { return 0; }
    std::uint64_t list_items(std::optional<std::uint64_t>, std::span<const PickleValue>) override { return 0; }
    std::uint64_t tuple(std::span<const PickleValue>) override { return static_cast<std::uint64_t>(++tuples); }
  } sink;
  bytes += '.';
  PickleReader reader({reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()}, "deep", strings);
  REQUIRE(reader.read(sink));
  REQUIRE(sink.tuples == 2 * kDepth - 1);
}

TEST_CASE("what is written is read", "[unit]") {
  const std::string bytes = written([](PickleWriter& w) {
    w.begin_dict();
    w.string("ints");
    w.begin_tuple();
    for (const std::int64_t i : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{255}, std::int64_t{256}, std::int64_t{1} << 31, -(std::int64_t{1} << 31), INT64_MAX, INT64_MIN}) w.integer(i);
    w.end();
    w.string("rest");
    w.begin_list();
    w.real(-0.25);
    w.boolean(true);
    w.none();
    w.string("ints");
    w.string("größe\xff");
    w.begin_dict();
    w.end();
    const std::uint32_t again = w.remember();
    w.again(again);
    w.end();
    w.end();
  });
  CHECK(repr(bytes) == "{'ints': (0, -1, 255, 256, 2147483648, -2147483648, 9223372036854775807, -9223372036854775808), "
                       "'rest': [-0.25, True, None, 'ints', 'größe\xef\xbf\xbd', {}, {}]}");
}

TEST_CASE("containers of any length come back whole", "[unit]") {
  const int count = GENERATE(0, 1, 999, 1000, 1001, 2500);
  const std::string bytes = written([&](PickleWriter& w) {
    w.begin_dict();
    for (int i = 0; i < count; ++i) w.integer(i), w.integer(-i);
    w.end();
  });
  std::vector<std::string> items;
  for (int i = 0; i < count; ++i) items.push_back(fmt::format("{}: {}", i, -i));
  REQUIRE(repr(bytes) == fmt::format("{{{}}}", fmt::join(items, ", ")));
}

TEST_CASE("text that is not UTF-8 is mended, text that is stays", "[unit]") {
  CHECK(valid_utf8("größe 漢 \xf0\x9f\x98\x80") == "größe 漢 \xf0\x9f\x98\x80");
  CHECK(valid_utf8("a\x80z") == "a\xef\xbf\xbdz");
  CHECK(valid_utf8("\xc3") == "\xef\xbf\xbd");
  CHECK(valid_utf8("\xed\xa0\x80").size() == 9);  // a surrogate, as Python's surrogatepass writes it
  CHECK(valid_utf8("\xc0\xaf\xf5") == "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_CASE("progress is told and can stop the reading", "[unit]") {
  const std::string bytes = written([](PickleWriter& w) {
    w.begin_list();
    for (int i = 0; i < 3'000'000; ++i) w.integer(1'000'000 + i);
    w.end();
  });
  class Drop final : public PickleSink {
   public:
    std::uint64_t dict_items(std::optional<std::uint64_t>, std::span<const PickleValue>) override { return 0; }
    std::uint64_t list_items(std::optional<std::uint64_t>, std::span<const PickleValue>) override { return 0; }
    std::uint64_t tuple(std::span<const PickleValue>) override { return 0; }
  } sink;
  StringTable strings;
  std::vector<std::int64_t> told;
  const std::span<const unsigned char> span(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  const auto tell = [&](const ReadProgress& progress) {
    told.push_back(progress.done_bytes);
    return progress.total_bytes == static_cast<std::int64_t>(bytes.size());
  };
  REQUIRE(PickleReader(span, "long", strings).read(sink, tell));
  CHECK(told.size() >= 4);
  CHECK(told.front() == 0);
  CHECK(told.back() == static_cast<std::int64_t>(bytes.size()));
  CHECK_FALSE(PickleReader(span, "long", strings).read(sink, [](const ReadProgress& progress) { return progress.done_bytes == 0; }));
}

}  // namespace zeroplan
