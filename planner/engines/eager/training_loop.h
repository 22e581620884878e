// What all emulated engines share: how the machine behaves, the loop over optimizer steps and micro batches with its phases, and what comes out of it.
// An engine is an object with forward(ids) -> loss, backward(loss) and step(), where step() is called after every micro batch, as DeepSpeed's is, and skip_micro_batches(n).
// Equal micro batches: where the recorder folds them, a micro batch that repeated the one before it event by event stands for all that follow but the last, which an engine treats
// in its own way. The engine is told how many it does not see.
// Settled steps: engines learn from their first step, and make buffers and states in it. The second is then as all later ones are, in all that it asks for (a property test compares them);
// where the recorder folds, it stands for the third, and only what an allocator makes of that is new.
// Leaves out the engines themselves.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "planner/engines/eager/eager.h"
#include "planner/engines/eager/recorder.h"

namespace zeroplan::eager {

/// Where kernels or autograd of one kind of device ask for other memory than those of another.
struct MachineBehaviour {
  bool out_of_place_accumulation = false;    ///< Context's fields of these names
  bool layer_norm_keeps_input_type = false;
  bool composite_silu_backward = false;
  bool fused_rms_norm = false;
  Place host = Place::host;

  void apply_to(Context& context) const;
};
/// A CUDA device.
inline constexpr MachineBehaviour kGpu{};
/// Fake tensors on one CPU device, whose memory counts as the device's: what the plain-PyTorch oracle runs on.
inline constexpr MachineBehaviour kFakeCpu{.out_of_place_accumulation = true, .layer_norm_keeps_input_type = true, .host = Place::device};
/// Fake tensors on a simulated accelerator without kernels of its own for some ops: what the other oracles run on.
inline constexpr MachineBehaviour kSimulatedAccelerator{.out_of_place_accumulation = true, .composite_silu_backward = true};

/// Requested bytes. Phases as Recorder::begin_phase names them: init, first.forward … steady.step (of the last step).
struct PhasePeaks {
  std::vector<PhasePeak> phases;
  std::int64_t after_init_bytes = 0;
  std::int64_t after_init_host_bytes = 0;
  std::int64_t between_steps_bytes = 0;
  std::int64_t between_steps_host_bytes = 0;

  std::int64_t peak_bytes(const std::string& phase, Place place = Place::device) const;
};

/// How much is trained in one go.
struct TrainingSize {
  std::int64_t seq_tokens = 0;
  std::int64_t micro_batch = 1;
  std::int64_t accumulate = 1;  ///< micro batches a step
  int steps = 3;                ///< at least 2; engines that learn from their first step need 3
  /// Samples are not packed: the run begins with micro batches that are shorter, spread evenly up to seq_tokens, so that an allocator meets other sizes before the longest come.
  bool lengths_vary = false;

  /// Of which the last steps - 1 have no shorter micro batches.
  int steps_in_all() const;
  /// Length of a step's micro batch, from 0 on.
  std::int64_t tokens_of(int step, std::int64_t micro_batch_number) const;
};

/// Watches the micro batches of a run for one that is as the one before it, or as one of the first step that was.
class EqualMicroBatches {
 public:
  explicit EqualMicroBatches(Recorder& recorder) : recorder_(recorder), watches_(recorder.folds_micro_batches()) {}
  void begin_step() {
    begins_.clear();
    ++step_;
  }
  void begin_micro_batch() {
    if (watches_) begins_.push_back(recorder_.mark());
  }
  /// How many of the `left` micro batches that follow the last one need not be run: all or none.
  std::int64_t skipped(std::int64_t left);

 private:
  Recorder& recorder_;
  bool watches_;
  int step_ = 0;
  std::vector<RecorderMark> begins_;      ///< of this step's micro batches
  std::optional<RecordedStretch> known_;  ///< of the first step
};

/// What was alive when the engine was made, then optimizer steps of it. The phase "init" has begun before.
template <class Engine>
PhasePeaks train(Context& context, const TrainingSize& size, Engine&& engine) {
  Recorder& recorder = context.recorder;
  PhasePeaks peaks;
  peaks.after_init_bytes = recorder.alive_bytes(Place::device);
  peaks.after_init_host_bytes = recorder.alive_bytes(Place::host);
  Tensor ids = empty(context, Shape{size.micro_batch, size.seq_tokens}, ScalarType::int64, "input ids");
  EqualMicroBatches equal(recorder);
  const int steps = size.steps_in_all();
  for (int step = 0; step < steps; ++step) {
    const std::string which = step == 0 ? "first" : "steady";
    const RecorderMark step_begin = recorder.mark();
    recorder.forget_phases("steady");
    equal.begin_step();
    for (std::int64_t micro = 0; micro < size.accumulate; ++micro) {
      equal.begin_micro_batch();
      if (const std::int64_t tokens = size.tokens_of(step, micro); tokens != ids.size(1)) ids = empty(context, Shape{size.micro_batch, tokens}, ScalarType::int64, "input ids");
      recorder.begin_phase(which + ".forward");
      Tensor loss = engine.forward(ids);
      recorder.begin_phase(which + ".backward");
      engine.backward(loss);
      loss.reset();
      recorder.begin_phase(which + ".step");
      engine.step();
      const std::int64_t skipped = equal.skipped(size.accumulate - 2 - micro);  // the last one is run
      engine.skip_micro_batches(skipped);
      micro += skipped;
    }
    if (step > 0 && step + 2 == steps && recorder.folds_steps() && recorder.settles(step_begin)) break;
  }
  recorder.end();
  peaks.phases = recorder.phases();
  peaks.between_steps_bytes = recorder.alive_bytes(Place::device);
  peaks.between_steps_host_bytes = recorder.alive_bytes(Place::host);
  return peaks;
}

/// True at every accumulate-th call.
class StepBoundary {
 public:
  explicit StepBoundary(std::int64_t accumulate) : accumulate_(accumulate) {}
  bool reached() { return ++micro_steps_ % accumulate_ == 0; }
  void skip(std::int64_t micro_batches) { micro_steps_ += micro_batches; }

 private:
  std::int64_t accumulate_, micro_steps_ = 0;
};

}  // namespace zeroplan::eager
