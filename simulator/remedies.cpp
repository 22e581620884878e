#include "simulator/remedies.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "planner/core/error.h"
#include "planner/search/answer.h"

namespace zeroplan {
namespace {

class Tries {
 public:
  explicit Tries(const Prediction& from) : from_(from) {}

  /// Nothing where the change is none or no question of this engine.
  void attempt(const KeyChange& change, bool changes_numerics = false) {
    Question question = from_.question;
    try {
      for (const auto& [key, value] : change) set_key(question, key, value, "remedy");
      check_question(question);
    } catch (const InputError&) {
      return;
    } catch (const UsageError&) {
      return;
    }
    if (question == from_.question) return;
    tries_.push_back({change, question, changes_numerics});
  }

  std::vector<Remedy> predicted(Predictor& predictor, const std::stop_token& stop) const {
    std::vector<Question> questions;
    for (const Try& t : tries_) questions.push_back(t.question);
    predictor.prepare(questions, stop);
    std::vector<Remedy> out;
    if (stop.stop_requested()) return out;
    for (const Try& t : tries_) out.push_back({t.change, predictor(t.question), t.changes_numerics});
    return out;
  }

 private:
  struct Try {
    KeyChange change;
    Question question;
    bool changes_numerics;
  };
  const Prediction& from_;
  std::vector<Try> tries_;
};

KeyChange joined(KeyChange a, const KeyChange& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

void try_deepspeed(const Prediction& from, Tries& tries) {
  const KeyChange stage2{{"stage", "2"}}, stage3{{"stage", "3"}, {"zero_init", "true"}}, offload{{"offload_optimizer", "cpu"}, {"optimizer_kernel", "cpu"}}, offload_both{{"offload_parameters", "cpu"}};
  const std::int64_t stage = from.question.plan.stage;
  if (stage < 2) tries.attempt(stage2);
  if (stage < 3) tries.attempt(stage3);
  tries.attempt(stage < 3 ? joined(stage3, offload) : offload);
  if (stage == 2) tries.attempt(offload);
  tries.attempt(joined(joined(stage3, offload), offload_both));
  const std::int64_t bucket = from.question.job.model.hidden_size * from.question.job.model.hidden_size;
  if (from.question.plan.deepspeed.reduce_bucket_size > 2 * bucket) tries.attempt({{"deepspeed", nlohmann::json{{"reduce_bucket_size", bucket}}.dump()}});
  if (from.question.plan.deepspeed.overlaps(stage) && stage < 3) tries.attempt({{"deepspeed", nlohmann::json{{"overlap_comm", false}}.dump()}});
}

/// What can only be faster: what already fits needs no more than that.
void try_faster(const Prediction& from, Tries& tries) {
  const Plan& plan = from.question.plan;
  if (plan.checkpoint_policy != CheckpointPolicy::blocks || plan.recomputed_blocks > 0) tries.attempt({{"checkpoint", "none"}});
  if (plan.optimizer_kernel == OptimizerKernel::foreach || plan.optimizer_kernel == OptimizerKernel::for_loop) tries.attempt({{"optimizer_kernel", "fused"}});
  if (plan.offload_parameters != Offload::none) tries.attempt({{"offload_parameters", "none"}});
  if (plan.offload_optimizer != Offload::none) tries.attempt({{"offload_optimizer", "none"}, {"offload_parameters", "none"}, {"optimizer_kernel", "fused"}});
  if (plan.engine == Engine::deepspeed && plan.stage == 3) tries.attempt({{"stage", "2"}});
}

void try_smaller(const Prediction& from, Tries& tries) {
  const Plan& plan = from.question.plan;
  const bool full = plan.checkpoint_policy == CheckpointPolicy::blocks && plan.recomputed_blocks == from.question.job.model.num_layers;
  if (!full) tries.attempt({{"checkpoint", "full"}});
  if (plan.engine == Engine::deepspeed) try_deepspeed(from, tries);
  if (plan.engine == Engine::fsdp2 && plan.stage == 2) tries.attempt({{"stage", "3"}, {"reshard", "default"}});
  if (plan.optimizer_kernel != OptimizerKernel::fused && plan.optimizer_kernel != OptimizerKernel::cpu) tries.attempt({{"optimizer_kernel", "fused"}});
  if (plan.loss == Loss::plain) tries.attempt({{"loss", "fused"}}, true);
  if (plan.micro_batch % 2 == 0) tries.attempt({{"micro_batch", std::to_string(plan.micro_batch / 2)}, {"accumulate", std::to_string(plan.accumulate * 2)}}, true);
}

bool fits(const Remedy& remedy) { return remedy.prediction.verdict != Verdict::does_not_fit; }
double step_s(const Prediction& p) { return p.cost ? p.cost->step_s : 0; }

}  // namespace

std::vector<Remedy> ranked_remedies(const Prediction& from, Predictor& predictor, std::size_t most, std::stop_token stop) {
  Tries tries(from);
  if (from.verdict == Verdict::does_not_fit) try_smaller(from, tries);
  else try_faster(from, tries);
  std::vector<Remedy> found = tries.predicted(predictor, stop);
  std::erase_if(found, [&](const Remedy& r) {
    if (from.verdict == Verdict::does_not_fit) return r.prediction.must_fit >= from.must_fit && !fits(r);
    return !fits(r) || !r.prediction.cost || step_s(r.prediction) >= 0.99 * step_s(from);
  });
  std::stable_sort(found.begin(), found.end(), [](const Remedy& a, const Remedy& b) {
    if (fits(a) != fits(b)) return fits(a);
    if (fits(a) && step_s(a.prediction) != step_s(b.prediction)) return step_s(a.prediction) < step_s(b.prediction);
    return a.prediction.must_fit < b.prediction.must_fit;
  });
  if (found.size() > most) found.resize(most);
  return found;
}

}  // namespace zeroplan
