// Builds one Fragment: emit instructions, say which storages are born or die here, and finish() finds where. A storage is born at the first
// instruction that touches it and dies after the last one, so lifetimes follow from the data flow and cannot be forgotten.
// Leaves out which instructions a plan needs: that is the engine's business (zeroplan.cpp).
#pragma once

#include <initializer_list>
#include <memory>
#include <vector>

#include "planner/core/program.h"
#include "planner/ops/op_table.h"

namespace zeroplan {

/// What a fragment does to a storage's life. outlives: alive before and after.
enum class Lifetime : std::uint8_t { outlives, local, born_here, dies_here };

struct EmitOptions {
  Stream stream = Stream::compute;
  bool accumulate = false;
  std::uint8_t record = kNoEvent;  ///< event register set when the instruction completes
};

class FragmentBuilder {
 public:
  FragmentBuilder(std::string_view name, Phase phase, UnitKind unit, SharedList<Storage> storages, const OpContext& context);

  /// How a storage lives in this fragment, said before the instructions that touch it; storages not mentioned outlive it.
  void lives(InstanceRef instance, Lifetime lifetime);

  /// Appends an instruction; its scratch comes from the op table.
  void emit(Op op, std::initializer_list<Operand> operands, EmitOptions options = {});

  /// The next instruction on `stream` waits so.
  void wait(Stream stream, Wait wait);

  /// Deaths of instances that no instruction here touches (a buffer whose collective has been waited for), at the next instruction.
  void die_at_next(InstanceRef instance);

  /// Birth of an instance that the next instruction need not touch (a buffer that a later fragment fills).
  void born_at_next(InstanceRef instance);

  bool empty() const { return fragment_->instructions.empty(); }
  std::shared_ptr<const Fragment> finish(bool rotates_events);

 private:
  struct Life {
    InstanceRef instance;
    Lifetime lifetime;
    int first = -1, last = -1;
  };
  void touch(InstanceRef instance, int at);
  void sum_up();

  std::shared_ptr<Fragment> fragment_;
  SharedList<Storage> storages_;
  const OpContext& context_;
  std::vector<Life> lives_;
  std::vector<std::pair<int, InstanceRef>> extra_births_, extra_deaths_;
  std::vector<std::pair<Stream, Wait>> pending_waits_;
};

}  // namespace zeroplan
