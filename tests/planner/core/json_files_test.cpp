#include <catch2/catch.hpp>

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/core/json_fields.h"
#include "planner/core/plan.h"

using namespace zeroplan;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

/// An empty directory that is gone at the end of the test.
struct Folder {
  fs::path path = fs::temp_directory_path() / ("zeroplan_json_files_" + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return (path / name).string();
  }
};

std::string read(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("a JSON file is read", "[unit]") {
  const Folder folder;
  CHECK(read_json_file(folder.file("a.json", "{\"a\": [1, 2]}"))["a"][1] == 2);
}

TEST_CASE("a parse error names file, line and column", "[unit]") {
  const Folder folder;
  CHECK_THROWS_WITH(read_json_file(folder.file("bad.json", "{\n  \"a\": 1,\n  \"b\" 2\n}\n")), Contains("bad.json: line 3, column 7: not valid JSON"));
  CHECK_THROWS_WITH(read_json_file(folder.file("cut.json", "{\"a\": ")), Contains("line 1, column"));
  CHECK_THROWS_AS(read_json_file(folder.file("first.json", "}")), InputError);
}

TEST_CASE("whatever a file holds, reading it ends in an InputError", "[unit]") {
  const Folder folder;
  const std::string hostile[] = {"",           " \n\t ",        std::string("\0\0\0", 3), "\xff\xfe{}", "{\"a\": 1e999}", "{\"a\": NaN}", "{\"a\": \"\xc3\x28\"}",
                                 "{} trailing", "{'a': 1}",     "{\"a\": 01}",             "nul",        "[1, 2,]",        std::string(100000, '[')};
  for (const std::string& text : hostile) {
    INFO(text.substr(0, 40));
    CHECK_THROWS_AS(read_json_file(folder.file("hostile.json", text)), InputError);
  }
}

TEST_CASE("a missing file, a directory, an empty file and a huge file are each said to be so", "[unit]") {
  const Folder folder;
  CHECK_THROWS_WITH(read_json_file((folder.path / "none.json").string()), Contains("No such file"));
  CHECK_THROWS_WITH(read_json_file(folder.path.string()), Contains("is a directory"));
  CHECK_THROWS_WITH(read_json_file(folder.file("empty.json", "")), Contains("is empty"));
  fs::resize_file(folder.file("huge.json", "{}"), (64u << 20) + 1);
  CHECK_THROWS_WITH(read_json_file((folder.path / "huge.json").string()), Contains("larger than 64 MiB"));
}

TEST_CASE("a deep but valid value is refused in a file, and described without recursion into it", "[unit]") {
  const Folder folder;
  const std::string text = "{\"a\": " + std::string(200000, '[') + std::string(200000, ']') + "}";
  CHECK_THROWS_WITH(read_json_file(folder.file("deep.json", text)), Contains("line 1, column 106: nests deeper than 100 brackets"));
  CHECK(describe(nlohmann::json::parse(text)["a"]) == "an array of 1 entries");
}

TEST_CASE("a file is written whole, replaces the old one and leaves no temporary file", "[unit]") {
  const Folder folder;
  const std::string file = folder.file("out.json", "old");
  write_file_atomically(file, "new text");
  CHECK(read(file) == "new text");
  CHECK_FALSE(fs::exists(file + ".tmp"));
}

TEST_CASE("a file that cannot be written is a RunError and the old one stays", "[unit]") {
  const Folder folder;
  CHECK_THROWS_AS(write_file_atomically((folder.path / "no" / "such" / "folder.json").string(), "x"), RunError);
  fs::create_directories(folder.path / "directory" / "full");
  CHECK_THROWS_AS(write_file_atomically((folder.path / "directory").string(), "x"), RunError);
  CHECK_FALSE(fs::exists(folder.path / "directory.tmp"));
  CHECK_THROWS_WITH(write_file_atomically("/dev/full/x", "x"), Contains("/dev/full/x"));
}

TEST_CASE("strict fields name the place of what is wrong", "[unit]") {
  const nlohmann::json object = nlohmann::json::parse(R"({"n": 3, "x": 0.5, "flag": true, "text": "t", "empty": "", "null": null, "a/b": 1, "inner": {"k": 1}})");
  const JsonFields fields(object, "f.json", "/top");
  CHECK(fields.integer("n", {1, 3}) == 3);
  CHECK_THROWS_WITH(fields.integer("n", {4, 9}), "f.json: /top/n: must be a whole number from 4 to 9, got 3");
  CHECK_THROWS_WITH(fields.integer("x", {0, 9}), Contains("/top/x") && Contains("0.5"));
  CHECK_THROWS_WITH(fields.number("x", {0.5, 1, true}), Contains("above 0.5 and at most 1"));
  CHECK_THROWS_WITH(fields.text("empty"), Contains("must be a text"));
  CHECK_THROWS_WITH(fields.boolean("n"), Contains("must be true or false, got 3"));
  CHECK_THROWS_WITH(fields.at("gone"), "f.json: /top/gone: is missing");
  CHECK_THROWS_WITH(fields.object("n"), Contains("/top/n: must be a JSON object"));
  CHECK(fields.object("inner").pointer_to("k") == "/top/inner/k");
  CHECK(fields.pointer_to("a/b") == "/top/a~1b");
  CHECK_FALSE(fields.has("null"));
  CHECK(fields.integer_or("null", 7, {0, 9}) == 7);
  CHECK_THROWS_WITH(fields.refuse_unknown({"n", "x", "flag", "test", "empty", "null", "a/b", "inner"}), Contains("/top/text") && Contains("Did you mean test?"));
  CHECK_THROWS_AS(JsonFields(object["n"], "f.json", ""), InputError);
}
