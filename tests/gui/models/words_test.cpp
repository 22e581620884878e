#include "gui/models/words.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "gui/models/plan_tables.h"
#include "gui/models/workbench.h"

namespace zeroplan::gui {
namespace {

std::size_t placeholders(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find("{}", at)) != std::string_view::npos; at += 2) ++count;
  return count;
}

}  // namespace

TEST_CASE("both languages of an entry take the same values, and no entry is twice in the table") {
  std::set<std::string_view> seen;
  for (const Pair& pair : kWords) {
    INFO(pair.english);
    REQUIRE(placeholders(pair.english) == placeholders(pair.chinese));
    REQUIRE(seen.insert(pair.english).second);
  }
}

TEST_CASE("no entry is stale: what is translated stands in the sources") {
  namespace fs = std::filesystem;
  std::string sources;
  for (const char* folder : {"gui", "planner", "simulator", "profiles"})
    for (const fs::directory_entry& file : fs::recursive_directory_iterator(fs::path(ZEROPLAN_SOURCES) / folder))
      if (const auto kind = file.path().extension(); kind == ".cpp" || kind == ".h") sources += std::string(std::istreambuf_iterator<char>(std::ifstream(file.path(), std::ios::binary).rdbuf()), {});
  for (const Pair& pair : kWords) {
    std::string literal = "\"";
    for (const char c : pair.english) literal += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
    INFO(pair.english);
    CHECK(sources.find(literal + "\"") != std::string::npos);
  }
}

TEST_CASE("every name that the planner hands to the window has a Chinese form") {
  for (int c = 0; c < kCategoryCount; ++c) REQUIRE(has_words(name_of(static_cast<Category>(c))));
  for (int s = 0; s < kStreamCount; ++s) REQUIRE(has_words(name_of(static_cast<Stream>(s))));
  for (int l = 0; l < kLaneCount; ++l) REQUIRE(has_words(name_of(static_cast<Lane>(l))));
  for (const Phase phase : {Phase::init, Phase::forward, Phase::backward, Phase::step}) REQUIRE(has_words(name_of(phase)));
  for (const UnitKind unit : {UnitKind::embedding, UnitKind::block, UnitKind::head}) REQUIRE(has_words(name_of(unit)));
  Workbench workbench;
  for (const char* model : {"internlm2-20b", "qwen3-8b", "qwen2.5-0.5b"})
    for (const char* stage : {"0", "1", "2", "3"}) {
      const auto answered = workbench.compute(with_key(asked_of(model, "8xa100-80g", Engine::zeroplan), "stage", stage), Addresses::leave_out);
      for (const Storage& storage : answered->ours->program.storages) {
        INFO(storage.name << ": " << storage.why);
        REQUIRE(has_words(storage.why));
      }
    }
}

TEST_CASE("every reason that a timeline or an emulation hands to the window has a Chinese form") {
  Workbench workbench;
  for (const char* words : {"", "--stage 1", "--stage 2", "--engine fsdp2", "--engine fsdp2 --stage 2", "--engine ddp", "--engine fsdp1", "--stage 3 --offload-optimizer cpu --offload-parameters cpu",
                            "--stage 2 --offload-optimizer cpu --checkpoint none --loss fused", "--engine ddp --compile true --fp8 true --optimizer lion --offload-activations cpu",
                            "--preset hf-auto-zero3 --offload-optimizer nvme --checkpoint selective-attention", "--engine fsdp1 --train lora-8", "--engine fsdp2 --optimizer paged-adamw-8bit", "--engine fsdp2 --optimizer muon", "--engine deepspeed --tool easycontext --sequence-parallel 2", "--sequence-parallel 2 --optimizer-kernel fused"}) {
    const auto parsed = parse_command_line(std::string("qwen3-8b --on 8xa100-80g ") + words);
    INFO(words);
    if (const auto* error = std::get_if<LineError>(&parsed)) FAIL(error->message);
    const auto answered = workbench.compute(std::get<Asked>(parsed), Addresses::leave_out);
    for (const TimelineTensor& tensor : answered->timeline->tensors)
      if (!has_words(tensor.why)) FAIL(tensor.name << ": " << tensor.why);
    for (const TimelineInstant& instant : answered->timeline->instants)
      if (!phase_of(instant.phase) && !has_words(instant.phase)) FAIL(instant.phase);
    for (const EmulationGap& gap : answered->prediction.gaps)
      if (!has_words(gap.taken)) FAIL(gap.key << ": " << gap.taken);
    for (const Language language : {Language::english, Language::chinese}) REQUIRE_FALSE(verdict_lines(*answered, language).when.empty());
  }
}

TEST_CASE("every verdict has its word in both languages") {
  for (const Verdict verdict : {Verdict::fits, Verdict::tight, Verdict::does_not_fit}) {
    REQUIRE_FALSE(verdict_words(verdict, Language::english).empty());
    REQUIRE(verdict_words(verdict, Language::english) != verdict_words(verdict, Language::chinese));
  }
}

TEST_CASE("values are filled in order and spare braces stay") {
  REQUIRE(fill("{} of {}", {"1", "2"}) == "1 of 2");
  REQUIRE(fill("{} of {}", {"{}"}) == "{} of {}");
}

}  // namespace zeroplan::gui
