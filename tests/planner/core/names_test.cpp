#include <catch2/catch.hpp>

#include <set>

#include "planner/core/nearest.h"
#include "planner/core/plan.h"
#include "planner/core/program.h"

using namespace zeroplan;

namespace {

/// Names of the values 0 to count − 1, which must all be there and differ.
template <class Choice>
std::set<std::string_view> distinct_names(int count) {
  std::set<std::string_view> names;
  for (int i = 0; i < count; ++i) names.insert(name_of(static_cast<Choice>(i)));
  return names;
}

}  // namespace

TEST_CASE("every choice has a name of its own", "[unit]") {
  CHECK(distinct_names<ParameterId>(12).size() == 12);
  CHECK(distinct_names<Kept>(kKeptCount).size() == kKeptCount);
  CHECK(distinct_names<ModuleId>(kModuleIdCount).size() == kModuleIdCount);
  CHECK(distinct_names<Engine>(kEngineCount).size() == kEngineCount);
  CHECK(distinct_names<NormKind>(3).size() == 3);
  CHECK(distinct_names<MlpKind>(4).size() == 4);
  CHECK(distinct_names<PositionKind>(3).size() == 3);
  CHECK(distinct_names<DeepSpeedNoteCode>(10).size() == 10);
  CHECK(distinct_names<Dtype>(6).size() == 6);
  CHECK(distinct_names<Category>(kCategoryCount).size() == kCategoryCount);
  CHECK(distinct_names<Stream>(kStreamCount).size() == kStreamCount);
  CHECK(distinct_names<Phase>(4).size() == 4);
  CHECK(distinct_names<Category>(kCategoryCount).count("") == 0);
  CHECK(name_of(Category::logits_and_loss) == "logits_and_loss");
  CHECK(name_of(ParameterId::head_weight) == "head_weight");
}

TEST_CASE("edit distance counts insertions, deletions and substitutions and ignores case", "[unit]") {
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("abc", "") == 3);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("A100-80G", "a100-80g") == 0);
}

TEST_CASE("a misspelt name finds the near ones and a strange one finds none", "[unit]") {
  const std::vector<std::string_view> names{"micro_batch", "seq", "stage", "checkpoint"};
  CHECK(nearest_names(names, "microbatch", 2) == std::vector<std::string_view>{"micro_batch"});
  CHECK(nearest_names(names, "batch", 1) == std::vector<std::string_view>{"micro_batch"});
  CHECK(nearest_names(names, "zzzzzzzzzz", 3).empty());
  CHECK(nearest_names(names, "", 3).empty());
  CHECK(nearest_names(names, std::string(1 << 20, 'x'), 3).empty());
  CHECK(did_you_mean(names, "stege") == "Did you mean stage?");
  CHECK(did_you_mean({"llama-3-8b", "llama-2-7b", "llama-2-70b"}, "llama-2-7", 3) == "Did you mean llama-2-7b, llama-2-70b or llama-3-8b?");
}
