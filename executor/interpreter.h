// Interprets a laid-out Program on this rank: binds every operand to its planned address once, then runs instructions in issue order (or in a random
// order that the Program's waits allow). There is no autograd and no allocator in a step: births and deaths are bookkeeping, memory is the arena.
// Leaves out processes and the arena itself (run.h, launcher.h) and what a kernel does (kernels/, dispatch.cpp).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <random>
#include <string_view>
#include <vector>

#include "executor/collectives.h"
#include "planner/core/trace.h"
#include "planner/layout/layout.h"

namespace zeroplan {

/// Where batches come from. Fills T = micro_batch·seq inputs and targets for one micro batch of one rank.
class Batches {
 public:
  virtual ~Batches() = default;
  virtual void fill(std::int64_t step, std::int64_t micro_batch, std::int64_t rank, std::int64_t sequences, std::int64_t seq, std::int32_t* tokens,
                    std::int32_t* targets) = 0;
};

/// One operand at its address.
struct Bound {
  void* data = nullptr;
  std::int64_t rows = 0, columns = 0, stride = 0;
  Dtype dtype = Dtype::fp32;
  Access access = Access::read;
  std::int64_t elems() const { return rows * columns; }
  std::int64_t bytes() const { return elems() * size_of(dtype); }
};

/// One instruction with everything it touches.
struct Prepared {
  const Fragment* fragment = nullptr;
  const Instruction* instruction = nullptr;
  std::uint16_t fragment_index = 0;
  std::int32_t block = 0;
  std::uint32_t first = 0, count = 0;  ///< operands
  void* scratch = nullptr;
};

/// Sees the memory of an instruction before and after it runs: prove's poisoning (prove.cpp).
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void before(std::size_t at) = 0;
  virtual void after(std::size_t at) = 0;
};

struct StepResult {
  double loss = 0;           ///< mean over all tokens of all ranks
  double gradient_norm = 0;  ///< before clipping
  bool finite() const;
};

class Interpreter {
 public:
  /// `arena`: layout.arena_bytes at kAddressAlignment. All references must outlive the interpreter.
  Interpreter(const Program& program, const LinearProgram& linear, const Layout& layout, void* arena, Collectives& collectives, Batches& batches, std::uint64_t seed);

  void run_init();
  /// step counts from 1.
  StepResult run_step(std::int64_t step, double learning_rate);

  // Optional: each is empty by default.
  std::function<void(std::int64_t step, std::int64_t instruction, std::string_view op)> progress;
  Observer* observer = nullptr;
  Trace* trace = nullptr;                    ///< births, deaths and scratch are appended
  char* result_memory = nullptr;             ///< where a step's loss and norm are read, if not in the arena (an observer's shadow of it)
  std::mt19937_64* random_order = nullptr;   ///< steps run in a random topological order; the same on all ranks

  const std::vector<Prepared>& prepared() const { return prepared_; }
  const Bound* operands_of(const Prepared& prepared) const { return bound_.data() + prepared.first; }
  const Program& program() const { return program_; }
  const LinearProgram& linear() const { return linear_; }
  const Layout& layout() const { return layout_; }
  /// Address of the storage born by the n-th birth (Layout::birth_offset).
  void* birth_address(std::size_t birth) const { return arena_ + layout_.birth_offset[birth]; }
  /// The rank's parameters of one unit as they lie between steps: (address, bytes).
  std::pair<const void*, std::int64_t> parameters_of(UnitKind unit, std::int64_t block) const;

 private:
  friend class Dispatch;
  void prepare();
  void run_range(std::size_t begin, std::size_t end);
  void run_in_random_order(std::size_t begin, std::size_t end);
  void run_one(std::size_t at);
  void account(std::size_t at);
  std::vector<std::vector<std::uint32_t>> dependencies() const;

  const Program& program_;
  const LinearProgram& linear_;
  const Layout& layout_;
  char* arena_;
  Collectives& collectives_;
  Batches& batches_;
  std::uint64_t seed_;
  std::array<std::vector<Parameter>, 3> parameters_;  ///< by UnitKind
  std::vector<Prepared> prepared_;
  std::vector<Bound> bound_;
  std::vector<std::vector<std::uint32_t>> dependencies_;
  // state of the run
  std::int64_t step_ = 0, micro_batch_ = 0;
  double learning_rate_ = 0;
  std::int64_t live_bytes_ = 0;
  std::uint32_t issued_ = 0;
  std::int64_t scalars_offset_ = 0;
};

/// Runs one instruction's kernel or collective. In dispatch.cpp, the only place that maps Op to kernels.
class Dispatch {
 public:
  explicit Dispatch(Interpreter& interpreter) : run_(interpreter) {}
  void operator()(const Prepared& prepared);

 private:
  template <class T, class G> void compute(const Prepared& prepared);
  void initialize(const Prepared& prepared);
  Interpreter& run_;
};

}  // namespace zeroplan
