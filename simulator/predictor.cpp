#include "simulator/predictor.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "planner/core/error.h"

namespace zeroplan {
namespace {

std::optional<Prediction> predict_if_possible(const Question& question, const PredictOptions& options) {
  try {
    return predict(question, options);
  } catch (const UsageError&) {
    return std::nullopt;
  }
}

}  // namespace

const Predictor::Known* Predictor::find(const Question& question) const {
  const auto at = std::find_if(known_.begin(), known_.end(), [&](const Known& k) { return k.question == question; });
  return at == known_.end() ? nullptr : &*at;
}

void Predictor::prepare(const std::vector<Question>& questions, std::stop_token stop) {
  std::vector<Known*> wanted;
  for (const Question& question : questions)
    if (find(question) == nullptr) wanted.push_back(&known_.emplace_back(Known{question, std::nullopt, false}));
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < wanted.size() && !stop.stop_requested(); i = next++) {
      wanted[i]->prediction = predict_if_possible(wanted[i]->question, options_of(wanted[i]->question));
      wanted[i]->is_made = true;
    }
  };
  const std::size_t threads = std::min<std::size_t>(wanted.size(), std::max(1U, std::thread::hardware_concurrency()));
  std::vector<std::jthread> others;
  for (std::size_t i = 1; i < threads; ++i) others.emplace_back(work);
  work();
}

const Prediction& Predictor::operator()(const Question& question) {
  const Known* known = find(question);
  if (known == nullptr) known = &known_.emplace_back(Known{question, predict(question, options_of(question)), true});
  if (!known->prediction) (void)predict(question);  // throws what it threw
  return *known->prediction;
}

}  // namespace zeroplan
