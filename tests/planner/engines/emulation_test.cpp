#include "planner/engines/emulation.h"

#include <catch2/catch.hpp>

#include "planner/core/error.h"
#include "tests/planner/engines/oracle_rows.h"

using namespace zeroplan;

TEST_CASE("every phase asks for exactly the bytes that the engine's own code asked for", "[published]") {
  for (const char* engine : {"single", "deepspeed12", "deepspeed3", "fsdp2"}) {
    for (const OracleRow& row : oracle_rows(engine)) {
      INFO(engine << " " << row.id);
      eager::Recorder recorder;
      check_equal(emulate(row.question, recorder, EmulatedDevice::oracle, row.steps), row.measured);
      CHECK(emulation_gaps(row.question).empty());
    }
  }
}
