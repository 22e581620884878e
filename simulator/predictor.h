// Predictor: predictions remembered by their question, and made on all cores where several are wanted. Answers are those of predict().
#pragma once

#include <list>
#include <variant>
#include <vector>

#include "simulator/prediction.h"

namespace zeroplan {

class Predictor {
 public:
  /// Makes what is not known yet, in parallel. Questions that throw do so again when they are asked for.
  void prepare(const std::vector<Question>& questions);

  /// Throws what predict() throws. The reference stays valid.
  const Prediction& operator()(const Question& question);

 private:
  struct Known {
    Question question;
    std::optional<Prediction> prediction;  ///< none: it throws
  };
  const Known* find(const Question& question) const;

  std::list<Known> known_;
};

}  // namespace zeroplan
