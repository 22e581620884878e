#include "planner/export/export.h"

#include <catch2/catch.hpp>

#include <random>

#include <nlohmann/json.hpp>

#include "planner/core/deepspeed_json.h"
#include "planner/core/error.h"
#include "profiles/catalog.h"

using namespace zeroplan;

namespace {

Question drawn(std::mt19937_64& random) {
  const auto pick = [&](std::initializer_list<std::int64_t> values) { return *(values.begin() + static_cast<std::ptrdiff_t>(random() % values.size())); };
  Question q = default_question(catalogue_model("llama-2-7b"), cluster_from_name("8xa100-80g"));
  q.plan.stage = pick({1, 2, 3});
  choose_engine(q, Engine::deepspeed);
  q.plan.micro_batch = pick({1, 2, 7});
  q.plan.accumulate = pick({1, 4});
  DeepSpeedOptions& o = q.plan.deepspeed;
  o.reduce_bucket_size = pick({1'000, 500'000'000});
  o.stage3_prefetch_bucket_size = pick({0, 123});
  o.round_robin_gradients = pick({0, 1}) != 0;
  o.compute_grad_norm = pick({0, 1}) != 0;
  o.overlap_comm = pick({0, 1}) != 0;
  if (pick({0, 1})) q.plan.offload_optimizer = Offload::cpu;
  if (q.plan.stage == 3 && pick({0, 1})) q.plan.offload_parameters = Offload::cpu;
  if (pick({0, 1})) set_key(q, "gradient_dtype", "fp32", "test");
  return q;
}

}  // namespace

TEST_CASE("an exported DeepSpeed JSON reads back as the same plan, without a note", "[property]") {
  std::mt19937_64 random(3);
  for (int i = 0; i < 500; ++i) {
    const Question q = drawn(random);
    const Exported exported = export_plan(q, ExportTarget::deepspeed);
    Question back = default_question(q.job.model, q.cluster);
    back.plan.tool = "deepspeed";
    INFO(exported.text);
    const auto notes = apply_deepspeed_text(back, exported.text, "ds.json");
    for (const DeepSpeedNote& note : notes) CHECK(note.text == "");
    CHECK(back.plan.stage == q.plan.stage);
    CHECK(back.plan.micro_batch == q.plan.micro_batch);
    CHECK(back.plan.accumulate == q.plan.accumulate);
    CHECK(back.plan.offload_optimizer == q.plan.offload_optimizer);
    CHECK(back.plan.offload_parameters == q.plan.offload_parameters);
    CHECK(back.job.gradient_dtype == q.job.gradient_dtype);
    CHECK(back.reduce_dtype() == q.reduce_dtype());
    CHECK(back.plan.deepspeed.overlaps(q.plan.stage) == q.plan.deepspeed.overlaps(q.plan.stage));
    CHECK(back.plan.deepspeed.reduce_bucket_size == q.plan.deepspeed.reduce_bucket_size);
    CHECK(back.plan.deepspeed.round_robin_gradients == q.plan.deepspeed.round_robin_gradients);
    CHECK(back.plan.deepspeed.compute_grad_norm == q.plan.deepspeed.compute_grad_norm);
    if (q.plan.stage == 3) CHECK(back.plan.deepspeed.stage3_prefetch_bucket_size == q.plan.deepspeed.stage3_prefetch_bucket_size);
  }
}

TEST_CASE("what a target cannot say is warned of, and an engine it cannot run is refused", "[unit]") {
  Question ours = default_question(catalogue_model("llama-2-7b"), cluster_from_name("8xa100-80g"));
  ours.plan.keep = KeepSet::all();
  const auto warnings = export_plan(ours, ExportTarget::deepspeed).warnings;
  const auto warns_of = [&](std::string_view key) { return std::any_of(warnings.begin(), warnings.end(), [&](const ExportWarning& w) { return w.key == key; }); };
  for (const char* key : {"engine", "keep", "loss_chunk_tokens", "prefetch_units"}) CHECK(warns_of(key));
  Question fsdp = ours;
  choose_engine(fsdp, Engine::fsdp2);
  CHECK_THROWS_AS(export_plan(fsdp, ExportTarget::deepspeed), UsageError);
  CHECK_THROWS_AS(export_plan(fsdp, ExportTarget::xtuner), UsageError);
  CHECK_NOTHROW(export_plan(fsdp, ExportTarget::accelerate));
}
