#include "planner/search/answer.h"

#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>

#include "planner/layout/layout.h"
#include "tests/support/questions.h"

namespace zeroplan {

TEST_CASE("internlm2-20b on 8 A100-80G does not fit at stages 0 and 1 and fits at 2 and 3", "[published]") {
  Compiler compiler;
  Pricer pricer;
  CHECK(answer(testing::origin_question(0), compiler, pricer, true).verdict == Verdict::does_not_fit);
  CHECK(answer(testing::origin_question(1), compiler, pricer, true).verdict == Verdict::does_not_fit);
  const Answer two = answer(testing::origin_question(2), compiler, pricer, true), three = answer(testing::origin_question(3), compiler, pricer, true);
  CHECK(two.verdict == Verdict::fits);
  CHECK(gib(two.arena) == Approx(72).margin(2));  // by hand: 36.99 parameters + 27.75 optimizer + 4.62 gradient shard + some 2 transient
  CHECK(three.verdict == Verdict::fits);
  CHECK(gib(three.arena) == Approx(40).margin(2));
}

TEST_CASE("spare is usable less need, and usable is capacity less what lies outside", "[unit]") {
  Compiler compiler;
  Pricer pricer;
  const Answer a = answer(testing::origin_question(3), compiler, pricer, true);
  CHECK(a.usable == a.capacity - a.outside.total());
  CHECK(a.spare == a.usable - a.arena);
  CHECK(a.outside.nccl > Bytes());
}

TEST_CASE("the verdict is tight within the band and no beyond the edge", "[unit]") {
  Compiler compiler;
  Pricer pricer;
  Question question = testing::origin_question(3);
  const Answer a = answer(question, compiler, pricer, true);
  const auto with_spare = [&](Bytes spare) {
    Question edge = question;
    edge.cluster.device.capacity_bytes = a.arena + a.outside.total() + spare;
    return answer(edge, compiler, pricer, true).verdict;
  };
  CHECK(with_spare(Bytes(-1)) == Verdict::does_not_fit);
  CHECK(with_spare(Bytes(0)) == Verdict::tight);
  CHECK(with_spare(a.outside.total()) == Verdict::fits);
}

TEST_CASE("fixes of a plan that does not fit: each is what it says, fitting ones first and by time", "[unit]") {
  Compiler compiler;
  Pricer pricer;
  const Answer no = answer(testing::origin_question(1), compiler, pricer, true);
  const std::vector<Fix> fixes = ranked_fixes(no, compiler, pricer);
  REQUIRE(!fixes.empty());
  CHECK(fixes.front().answer.verdict == Verdict::fits);
  double last = 0;
  for (const Fix& fix : fixes) {
    Question changed = no.question;
    for (const auto& [key, value] : fix.change) set_key(changed, key, value, "test");
    CHECK(changed == fix.answer.question);
    CHECK(fix.answer.arena < no.arena);
    if (fix.answer.verdict == Verdict::does_not_fit) continue;
    CHECK(fix.answer.step_s() >= last);
    last = fix.answer.step_s();
  }
}

TEST_CASE("a fix that says it fits fits when it is asked itself", "[property]") {
  Compiler compiler;
  Pricer pricer;
  for (std::int64_t stage : {0, 1, 2, 3})
    for (std::int64_t seq : {4096, 16384, 32768}) {
      Question question = testing::origin_question(stage);
      question.job.seq = seq;
      question.plan.recomputed_blocks = 0;
      for (const Fix& fix : ranked_fixes(answer(question, compiler, pricer, true), compiler, pricer)) {
        if (fix.answer.verdict != Verdict::fits) continue;
        const Answer asked = answer(fix.answer.question, compiler, pricer, true);
        INFO("stage " << stage << ", seq " << seq << ": " << fix.change.front().first << "=" << fix.change.front().second << " said " << gib(fix.answer.arena) << ", is " << gib(asked.arena));
        CHECK(asked.verdict != Verdict::does_not_fit);
      }
    }
}

TEST_CASE("a plan that fits is told what is faster and still fits", "[unit]") {
  Compiler compiler;
  Pricer pricer;
  const Answer yes = answer(testing::origin_question(3), compiler, pricer, true);
  const std::vector<Fix> faster = ranked_fixes(yes, compiler, pricer);
  REQUIRE(!faster.empty());
  for (const Fix& fix : faster) {
    CHECK(fix.answer.step_s() < yes.step_s());
    CHECK(fix.answer.verdict != Verdict::does_not_fit);
  }
}

}  // namespace zeroplan
