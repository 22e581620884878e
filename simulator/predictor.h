// Predictor: predictions remembered by their question, and made on all cores where several are wanted. Answers are those of predict().
#pragma once

#include <list>
#include <stop_token>
#include <variant>
#include <vector>

#include "simulator/prediction.h"

namespace zeroplan {

class Predictor {
 public:
  /// `in_full`: the question whose prediction has all that PredictOptions can ask for.
  explicit Predictor(std::optional<Question> in_full = std::nullopt) : in_full_(std::move(in_full)) {}

  /// Makes what is not known yet, in parallel. Questions that throw do so again when they are asked for. Once `stop` is requested no further one is begun.
  void prepare(const std::vector<Question>& questions, std::stop_token stop = {});

  /// Throws what predict() throws. The reference stays valid.
  const Prediction& operator()(const Question& question);

 private:
  struct Known {
    Question question;
    std::optional<Prediction> prediction;  ///< none: it throws
    bool is_made = false;
  };
  PredictOptions options_of(const Question& question) const { return {.host_ahead = question == in_full_}; }
  const Known* find(const Question& question) const;

  std::optional<Question> in_full_;
  std::list<Known> known_;
};

}  // namespace zeroplan
