#include "gui/models/step_picture.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <random>

#include "gui/models/plan_tables.h"
#include "gui/models/svg.h"
#include "gui/models/workbench.h"
#include "tests/support/questions.h"

namespace zeroplan::gui {

TEST_CASE("the picture's maximum is the fold's peak, band by band, for random plans", "[property]") {
  std::mt19937_64 random(99);
  for (int round = 0; round < 150; ++round) {
    Asked asked;
    asked.question = testing::random_question(random);
    Workbench workbench;
    const auto answered = workbench.compute(asked, Addresses::lay_out);
    const StepPicture& picture = answered->picture;
    const Stack peak = picture.memory.stack_after(picture.peak_event);
    REQUIRE(total_of(peak) == answered->ours->answer.estimate.memory.peak_live.value());
    REQUIRE(total_of(peak) == answered->layout()->max_live.value());
    std::int64_t alive = 0;
    for (const std::size_t life : alive_at(picture, picture.peak_event)) alive += picture.lives[life].bytes;
    REQUIRE(alive == total_of(peak));
    REQUIRE(picture.birth_count == answered->layout()->birth_offset.size());
    REQUIRE(picture.instructions.size() == answered->ours->linear.instructions.size());
  }
}

TEST_CASE("an emulated engine's picture reaches the prediction's peak, category by category, and what is alive there adds up") {
  Workbench workbench;
  for (const char* words : {"", "--stage 1", "--stage 2 --accumulate 2", "--stage 3 --checkpoint none --seq 512", "--engine fsdp2", "--engine ddp", "--stage 2 --offload-optimizer cpu", "--preset hf-auto-zero3"}) {
    const auto parsed = parse_command_line(std::string("qwen2.5-1.5b --on 8xa100-80g ") + words);
    REQUIRE(std::holds_alternative<Asked>(parsed));
    const auto answered = workbench.compute(std::get<Asked>(parsed), Addresses::leave_out);
    const StepPicture& picture = answered->picture;
    INFO(words);
    const Stack peak = picture.memory.stack_after(picture.peak_event);
    REQUIRE(total_of(peak) == answered->prediction.whole.requested.value());
    REQUIRE(peak == answered->timeline->by_category(answered->timeline->peak()));
    REQUIRE(peak == answered->prediction.by_category);
    std::int64_t alive = 0;
    for (const std::size_t life : alive_at(picture, picture.peak_event)) alive += picture.lives[life].bytes;
    REQUIRE(alive == total_of(peak));
    if (picture.has_clock) REQUIRE(picture.memory.time(picture.peak_event) == picture.instructions[answered->timeline->peak()].place.begin);
    else REQUIRE(picture.memory.time(picture.peak_event).value() / kInstant.value() == static_cast<std::int64_t>(answered->timeline->peak()));
    REQUIRE(instruction_at(picture, picture.peak_event) == answered->timeline->peak());
  }
}

TEST_CASE("middle micro batches are drawn once and say how often they run") {
  Asked asked = asked_of("internlm2-20b", "8xa100-80g", Engine::zeroplan);
  Workbench workbench;
  const auto few = workbench.compute(with_key(asked, "accumulate", "8"), Addresses::leave_out);
  const auto many = workbench.compute(with_key(asked, "accumulate", "64"), Addresses::leave_out);
  REQUIRE(few->picture.repeats.size() == 1);
  REQUIRE(few->picture.memory.size() == many->picture.memory.size());
  REQUIRE(many->picture.repeats.front().count == few->picture.repeats.front().count + 56);
  REQUIRE(many->step_s() > few->step_s());
}

TEST_CASE("the breakdown adds up to the device's capacity") {
  Workbench workbench;
  const Engine engine = GENERATE(Engine::zeroplan, Engine::deepspeed, Engine::fsdp2, Engine::ddp);
  const auto answered = workbench.compute(asked_of("internlm2-20b", "8xa100-80g", engine), Addresses::lay_out);
  const Table table = breakdown_table(*answered, answered->picture.peak_event, {}, Language::english);
  double categories = 0, rest = 0, capacity = 0;
  for (const Row& row : table.rows) {
    if (row.tag >= 0) categories += row.cells[1].order;
    else if (row.cells[0].text == "capacity") capacity = row.cells[1].order;
    else if (row.cells[0].text != "total live") rest += row.cells[1].order;
  }
  REQUIRE(categories + rest == capacity);
}

TEST_CASE("exports are whole: the SVG closes and names its verdict, a CSV field with quotes and commas survives") {
  Workbench workbench;
  const auto answered = workbench.compute(asked_of("internlm2-20b", "8xa100-80g", Engine::zeroplan), Addresses::lay_out);
  const std::string svg = svg_of(*answered, {});
  REQUIRE(svg.find("</svg>") != std::string::npos);
  REQUIRE(svg.find("FITS") != std::string::npos);
  REQUIRE(csv_of({{"a", "b"}, {{{{"x,\"y\""}, {"2"}}, "", -1}}}) == "a,b\r\n\"x,\"\"y\"\"\",2\r\n");
}

}  // namespace zeroplan::gui
