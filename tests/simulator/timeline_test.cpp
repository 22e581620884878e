#include "simulator/timeline.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>

#include "profiles/catalog.h"
#include "simulator/prediction.h"
#include "simulator/timeline_files.h"

using namespace zeroplan;

namespace {

Question question(Engine engine, std::int64_t stage) {
  Question q = default_question(catalogue_model("llama-2-7b"), cluster_from_name(engine == Engine::single ? "1xa100-80g" : "8xa100-80g"));
  q.job.model.num_layers = 4;
  q.plan.recomputed_blocks = 4;
  q.job.seq = 1024;
  q.plan.stage = stage;
  if (engine != Engine::zeroplan) choose_engine(q, engine);
  return q;
}

std::vector<Question> all_engines() {
  return {question(Engine::zeroplan, 0), question(Engine::zeroplan, 3), question(Engine::deepspeed, 1), question(Engine::deepspeed, 2), question(Engine::deepspeed, 3),
          question(Engine::fsdp2, 3), question(Engine::fsdp1, 3), question(Engine::ddp, 0), question(Engine::single, 0)};
}

std::int64_t sum_of_live(const Timeline& t, std::size_t instant) {
  std::int64_t sum = 0;
  for (const std::size_t i : t.live_at(instant)) sum += t.tensors[i].bytes.value();
  return sum;
}

}  // namespace

TEST_CASE("a timeline's highest instant is the predicted peak of each phase, for every engine", "[property]") {
  for (const Question& q : all_engines()) {
    INFO(name_of(q.plan.engine) << " stage " << q.plan.stage);
    const Timeline t = timeline_of(q);
    const Prediction p = predict(q);
    for (const char* phase : {"steady.forward", "steady.backward", "steady.step"}) {
      INFO(phase);
      // What a phase inherits is counted by it too, so its peak is never below that of its own instants.
      CHECK(t.instants[t.peak(phase)].live <= p.phase(phase)->requested);
    }
    CHECK(t.instants[t.peak("steady")].live == p.steady.requested);
  }
}

TEST_CASE("what is live at an instant sums up to it, by tensors and by categories", "[property]") {
  for (const Question& q : all_engines()) {
    INFO(name_of(q.plan.engine) << " stage " << q.plan.stage);
    for (const Span span : {Span::steady, Span::first}) {
      const Timeline t = timeline_of(q, span);
      REQUIRE(t.instants.size() > 20);
      for (std::size_t i = 0; i < t.instants.size(); i += 1 + t.instants.size() / 50) {
        CHECK(sum_of_live(t, i) == t.instants[i].live.value());
        std::int64_t sum = 0;
        for (const std::int64_t bytes : t.by_category(i)) sum += bytes;
        CHECK(sum == t.instants[i].live.value());
      }
    }
  }
}

TEST_CASE("every tensor says why it is there", "[unit]") {
  for (const Question& q : all_engines())
    for (const TimelineTensor& tensor : timeline_of(q).tensors) {
      INFO(tensor.name);
      CHECK_FALSE(tensor.why.empty());
      CHECK(tensor.birth <= tensor.death);
    }
}

TEST_CASE("the whole run begins with load and ends with a steady step", "[unit]") {
  const Question q = question(Engine::deepspeed, 3);
  const Timeline t = timeline_of(q, Span::whole);
  CHECK(t.instants.front().phase == "init");
  CHECK(t.instants.back().phase == "steady.step");
  CHECK(t.instants[t.peak()].live == predict(q).whole.requested);
}

namespace {

/// Every tag of a well-formed document is closed in order. Void elements of HTML are none of ours but meta.
bool tags_balance(const std::string& text) {
  std::vector<std::string> open;
  for (std::size_t at = 0; (at = text.find('<', at)) != std::string::npos;) {
    const std::size_t end = text.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = text.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag.starts_with("!") || tag.starts_with("meta") || tag.ends_with("/")) continue;
    const std::string name = tag.substr(0, tag.find(' '));
    if (name == "script") at = text.find("</script>", at);
    if (!name.starts_with("/")) open.push_back(name);
    else if (open.empty() || "/" + open.back() != name) return false;
    else open.pop_back();
  }
  return open.empty();
}

}  // namespace

TEST_CASE("pictures are well formed, keep the peak and stay small", "[unit]") {
  for (const Question& q : {question(Engine::zeroplan, 3), question(Engine::deepspeed, 3)}) {
    const Timeline t = timeline_of(q);
    const PictureWords words{"a < b & c", "FITS"};
    const std::string svg = timeline_svg(t, words), html = timeline_html(t, words);
    CHECK(tags_balance(svg));
    CHECK(tags_balance(html));
    CHECK(svg.size() < 1'000'000);
    CHECK(html.size() < 2'000'000);
    CHECK(svg.find("a &lt; b &amp; c") != std::string::npos);
    const auto columns = highest_instants(t, 100);
    CHECK(std::find(columns.begin(), columns.end(), t.peak()) != columns.end());
  }
}

TEST_CASE("tables and traces of a timeline say the same as the timeline", "[unit]") {
  const Timeline t = timeline_of(question(Engine::fsdp2, 3));
  const std::string csv = timeline_csv(t);
  CHECK(static_cast<std::size_t>(std::count(csv.begin(), csv.end(), '\n')) == t.instants.size() + 1);
  const auto series = category_series(t);
  for (std::size_t i = 0; i < series.size(); ++i) {
    std::int64_t sum = 0;
    for (const std::int64_t bytes : series[i]) sum += bytes;
    REQUIRE(sum == t.instants[i].live.value());
  }
  const auto chrome = nlohmann::json::parse(timeline_chrome(t));
  CHECK(chrome["traceEvents"].size() == 2 * t.instants.size() + 1);
  const std::string lines = timeline_json_lines(t);
  CHECK(nlohmann::json::parse(lines.substr(0, lines.find('\n'))).contains("why"));
}

TEST_CASE("a snapshot is a pickle with an alloc for every tensor and frees in order", "[unit]") {
  // The whole file was opened with Python's pickle and torch.cuda._memory_viz.trace_plot (torch 2.11.0, 2026-11-25).
  const Timeline t = timeline_of(question(Engine::deepspeed, 2));
  const std::string pickle = timeline_snapshot(t);
  CHECK(pickle.substr(0, 2) == "\x80\x02");
  CHECK(pickle.back() == '.');
  std::size_t allocs = 0, frees = 0;
  for (std::size_t at = 0; (at = pickle.find("alloc", at)) != std::string::npos; ++at) allocs += pickle.compare(at - 5, 5, std::string("X\x05\0\0\0", 5)) == 0;
  for (std::size_t at = 0; (at = pickle.find("free_completed", at)) != std::string::npos; ++at) ++frees;
  CHECK(allocs == t.tensors.size());
  CHECK(frees == static_cast<std::size_t>(std::count_if(t.tensors.begin(), t.tensors.end(), [&](const TimelineTensor& tensor) { return tensor.death < t.instants.size(); })));
}
