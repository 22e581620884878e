#include "gui/models/run_log.h"

#include <catch2/catch.hpp>

namespace zeroplan::gui {

TEST_CASE("a log is read the same in any pieces") {
  const std::string text = "{\"event\":\"start\",\"steps\":2,\"world\":2,\"arena_bytes\":4096}\n"
                           "{\"event\":\"step\",\"rank\":0,\"step\":1,\"loss\":2.5,\"predicted_peak_bytes\":4096,\"measured_peak_bytes\":4096}\n"
                           "{\"event\":\"step\",\"rank\":0,\"step\":2,\"loss\":2.0,\"predicted_peak_bytes\":4096,\"measured_peak_bytes\":4160}\n{\"event\":\"end\"}\n";
  for (std::size_t piece = 1; piece < text.size(); piece += 7) {
    RunLog log;
    for (std::size_t at = 0; at < text.size(); at += piece) log.add(std::string_view(text).substr(at, piece));
    REQUIRE(log.steps().size() == 2);
    REQUIRE(log.planned_steps() == 2);
    REQUIRE(log.arena_bytes() == 4096);
    REQUIRE(log.equal_steps() == 1);
    REQUIRE(log.ended());
    REQUIRE_FALSE(log.failure());
  }
}

TEST_CASE("foreign lines and values of another type are no error, a failure keeps its place") {
  RunLog log;
  log.add("Segmentation fault\n[1,2]\n{\"event\":7}\n{\"event\":\"step\",\"loss\":\"much\",\"step\":1.5}\n{\"event\":\"error\",\"message\":\"rank 1 is stuck\",\"step\":3,\"op\":\"linear\"}\n");
  REQUIRE(log.steps().size() == 1);
  REQUIRE(log.failure().value() == "rank 1 is stuck, step 3 linear");
}

}  // namespace zeroplan::gui
