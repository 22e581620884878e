#include <catch2/catch.hpp>

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "planner/core/error.h"
#include "planner/core/token_file.h"

using namespace zeroplan;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path = fs::temp_directory_path() / ("zeroplan_token_file_" + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string at(const std::string& name) const { return (path / name).string(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path / name, std::ios::binary) << bytes;
    return at(name);
  }
};

std::string read(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class Number>
std::string with(std::string bytes, std::size_t offset, Number value) {
  return bytes.replace(offset, sizeof value, reinterpret_cast<const char*>(&value), sizeof value);
}

/// A token file's bytes for the text, as the writer makes them.
std::string tokens_of(const Folder& folder, const std::string& text) {
  write_byte_tokens(folder.write("text", text), folder.at("tokens"));
  return read(folder.at("tokens"));
}

}  // namespace

TEST_CASE("a text becomes its bytes as tokens", "[unit]") {
  const Folder folder;
  const std::string text = std::string("In the beginning \xff\x80") + '\0' + "end";
  const ByteTokenStats stats = write_byte_tokens(folder.write("text", text), folder.at("tokens"));
  const TokenFile file(folder.at("tokens"), TokenFile::Verify::payload);
  CHECK(stats.bytes == static_cast<std::int64_t>(text.size()));
  REQUIRE(file.size() == stats.bytes);
  CHECK(file.vocab_size() == 256);
  for (std::size_t i = 0; i < text.size(); ++i) CHECK(file.token(static_cast<std::int64_t>(i)) == static_cast<unsigned char>(text[i]));
  CHECK_FALSE(fs::exists(folder.at("tokens.tmp")));
  CHECK(read(folder.at("tokens")).size() == 64 + text.size());
}

TEST_CASE("a text longer than the buffer is streamed whole and progress reaches its end", "[unit]") {
  const Folder folder;
  std::string text;
  for (int i = 0; text.size() < (5u << 19); ++i) text += std::to_string(i) + " ";
  std::int64_t done = 0;
  int calls = 0;
  write_byte_tokens(folder.write("text", text), folder.at("tokens"), [&](std::int64_t bytes) {
    CHECK(bytes > done);
    done = bytes;
    ++calls;
  });
  CHECK(done == static_cast<std::int64_t>(text.size()));
  CHECK(calls > 1);
  CHECK(read(folder.at("tokens")).substr(64) == text);
  CHECK_NOTHROW(TokenFile(folder.at("tokens"), TokenFile::Verify::payload));
}

TEST_CASE("entropies are those of known texts", "[unit]") {
  const Folder folder;
  const auto stats = [&](const std::string& text) { return write_byte_tokens(folder.write("text", text), folder.at("tokens")); };
  CHECK(stats("aaaaaaaa").byte_entropy_nats == Approx(0).margin(1e-12));
  CHECK(stats("abcd").byte_entropy_nats == Approx(std::log(4.0)));
  CHECK(stats("abababababab").byte_entropy_nats == Approx(std::log(2.0)));
  CHECK(stats("abababababab").bigram_entropy_nats == Approx(0).margin(1e-12));
  // Pairs aa, ab, ba, bb once each: the byte before says nothing.
  CHECK(stats("aabba").bigram_entropy_nats == Approx(std::log(2.0)));
  CHECK(stats("a").bigram_entropy_nats == Approx(0).margin(1e-12));
}

TEST_CASE("the same text makes the same file and the hash is FNV-1a", "[unit]") {
  const Folder folder;
  const std::string first = tokens_of(folder, "foobar");
  CHECK(first == tokens_of(folder, "foobar"));
  std::uint64_t hash = 0;
  std::memcpy(&hash, first.data() + 32, sizeof hash);
  CHECK(hash == 0x85944171f73967e8ULL);  // published test vector of FNV-1a 64 for "foobar"
}

TEST_CASE("texts that cannot be tokens are refused and leave no file", "[unit]") {
  const Folder folder;
  CHECK_THROWS_WITH(write_byte_tokens(folder.write("empty", ""), folder.at("out")), Contains("is empty"));
  CHECK_THROWS_AS(write_byte_tokens(folder.at("missing"), folder.at("out")), InputError);
  CHECK_THROWS_AS(write_byte_tokens(folder.path.string(), folder.at("out")), InputError);
  CHECK_THROWS_AS(write_byte_tokens(folder.write("text", "x"), folder.at("no/such/out")), RunError);
  const std::string text = folder.write("text", "precious");
  CHECK_THROWS_AS(write_byte_tokens(text, text), UsageError);
  CHECK(read(text) == "precious");
  CHECK_FALSE(fs::exists(folder.at("out")));
  CHECK_FALSE(fs::exists(folder.at("out.tmp")));
}

TEST_CASE("an interrupted conversion leaves the old token file untouched", "[unit]") {
  const Folder folder;
  const std::string before = tokens_of(folder, "old");
  struct Stop {};
  CHECK_THROWS_AS(write_byte_tokens(folder.write("text", "new text"), folder.at("tokens"), [](std::int64_t) { throw Stop{}; }), Stop);
  CHECK(read(folder.at("tokens")) == before);
  CHECK_FALSE(fs::exists(folder.at("tokens.tmp")));
}

TEST_CASE("a damaged token file is refused by the field that is wrong", "[unit]") {
  const Folder folder;
  const std::string good = tokens_of(folder, "good text");
  struct Damage {
    std::string bytes, names;
  };
  const Damage damages[] = {{"", "magic"},
                            {good.substr(0, 63), "magic"},
                            {with(good, 0, 'X'), "magic"},
                            {with(good, 8, std::uint32_t{2}), "version"},
                            {with(good, 12, std::uint32_t{0}), "vocab_size"},
                            {with(good, 12, std::uint32_t{257}), "vocab_size"},
                            {with(good, 16, std::uint32_t{3}), "bytes per token"},
                            {with(good, 16, std::uint32_t{0}), "bytes per token"},
                            {with(good, 20, std::uint32_t{1}), "header"},
                            {with(good, 63, '\1'), "header"},
                            {with(good, 24, std::uint64_t{0}), "count"},
                            {with(good, 24, std::uint64_t{8}), "count"},
                            {with(good, 24, ~std::uint64_t{0}), "count"},
                            {with(with(good, 16, std::uint32_t{4}), 24, (std::uint64_t{1} << 62) + 2), "count"},
                            {good.substr(0, good.size() - 1), "cut short"},
                            {good + "x", "appended"}};
  for (const Damage& damage : damages) {
    INFO(damage.names);
    CHECK_THROWS_AS(TokenFile(folder.write("damaged", damage.bytes)), InputError);
    CHECK_THROWS_WITH(TokenFile(folder.write("damaged", damage.bytes)), Contains(damage.names));
  }
  CHECK_THROWS_AS(TokenFile(folder.at("missing")), InputError);
  CHECK_THROWS_AS(TokenFile(folder.path.string()), InputError);
}

TEST_CASE("a flipped token is found by its hash where that is asked for", "[unit]") {
  const Folder folder;
  const std::string flipped = folder.write("flipped", with(tokens_of(folder, "good text"), 70, '!'));
  CHECK_NOTHROW(TokenFile(flipped, TokenFile::Verify::header));
  CHECK_THROWS_WITH(TokenFile(flipped, TokenFile::Verify::payload), Contains("hash"));
}

TEST_CASE("tokens of two and four bytes are read and ids outside the vocabulary refused", "[unit]") {
  const Folder folder;
  std::string header = tokens_of(folder, "x").substr(0, 64);
  header = with(with(with(header, 12, std::uint32_t{1000}), 16, std::uint32_t{2}), 24, std::uint64_t{2});
  std::string payload(4, '\0');
  payload = with(with(payload, 0, std::uint16_t{999}), 2, std::uint16_t{1000});
  const TokenFile two(folder.write("two", header + payload));
  CHECK(two.token(0) == 999);
  CHECK_THROWS_WITH(two.token(1), Contains("1000 is outside the vocabulary of 1000"));

  header = with(with(with(header, 12, std::uint32_t{200000}), 16, std::uint32_t{4}), 24, std::uint64_t{1});
  const TokenFile four(folder.write("four", header + with(payload, 0, std::uint32_t{199999})));
  CHECK(four.token(0) == 199999);
}

TEST_CASE("a token file can be moved", "[unit]") {
  const Folder folder;
  tokens_of(folder, "abc");
  TokenFile first(folder.at("tokens"));
  TokenFile second(std::move(first));
  CHECK(second.token(2) == 'c');
  tokens_of(folder, "xy");
  second = TokenFile(folder.at("tokens"));
  CHECK(second.size() == 2);
  CHECK(second.token(0) == 'x');
}
