// Curve: one history of memory as the Compare screen draws and tabulates it, wherever it is from: a plan's step, one device of a PyTorch memory snapshot, or a
// trace in JSON Lines. A series with up to eight named bands, and the lives of its blocks. Two curves are laid over each other phase by phase where both have
// phases, else by their share of the span. Leaves out widgets, and how files are recognised (opened_file.h).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gui/models/workbench.h"
#include "simulator/memory_snapshot.h"

namespace zeroplan::gui {

struct CurveBlock {
  std::int64_t bytes = 0;
  std::int64_t stream = 0;
  std::uint32_t first_event = 0, last_event = 0;  ///< alive after events [first_event, last_event); memory.size(): alive at the end
  StringId name{}, unit{};                        ///< in Curve::strings
  StackId stack = kEmptyStack;                    ///< of a snapshot
  std::uint8_t band = 0;
};

/// What a snapshot's curve was made of: stacks and times of its blocks.
struct Recording {
  MemorySnapshot snapshot;
};

struct Curve {
  Curve() { strings.intern(""); }  // StringId{}: no name
  std::string label;                              ///< "ring.pickle · GPU 0"; of plans set by the screen
  StackedSeries memory;                           ///< slots of Category are bands
  std::array<std::string, kCategoryCount> bands;  ///< names; ours are names of categories, empty: not used
  std::vector<CurveBlock> blocks;                 ///< in order of birth
  StringTable strings;
  std::vector<PhaseSpan> phases;  ///< none: measured without them
  SimTime duration;
  std::size_t peak_event = 0;
  bool has_clock = false;         ///< false: one tick an event
  bool has_categories = true;     ///< false: bands are stack frames or pools
  std::shared_ptr<const Recording> recording;
  int device = 0;
  std::vector<std::int64_t> event_us;  ///< of a snapshot: since its first entry
  std::optional<Bytes> usable, must_fit;
  std::optional<double> step_s;

  std::int64_t peak_bytes() const { return memory.empty() ? 0 : memory.total_after(peak_event); }
};

/// Work of a job: told how much is done, and asked whether to go on.
using OnProgress = OnReadProgress;

Curve curve_of(const Answered& answered);
Curve curve_of(std::shared_ptr<const Recording> recording, int device, std::string label);
/// A curve a device that the snapshot knows memory of. Throws InputError if there is none.
std::vector<Curve> curves_of_snapshot(MemorySnapshot snapshot, const std::string& file);
/// A trace of our Program or the tensors of a Timeline, both as `zeroplan timeline -o FILE.jsonl` writes them. nullopt: stopped. Throws InputError with the line.
std::optional<Curve> curve_of_trace(const std::string& file, const OnProgress& on_progress = {});

/// The frame of a stack that says most to its reader: the innermost outside PyTorch's own files; "" where nothing was recorded.
std::string telling_frame(const MemorySnapshot& snapshot, StackId stack);
/// All of it, innermost first, one frame a line.
std::string stack_words(const MemorySnapshot& snapshot, StackId stack);

/// Blocks alive after an event, largest first.
std::vector<std::uint32_t> alive_blocks(const Curve& curve, std::size_t event);

/// A stretch of one curve beside a stretch of another, and its share [from, to) of the common axis.
struct Stretch {
  TimeSpan a, b;
  double from = 0, to = 1;
  std::optional<Phase> phase = {};  ///< none: what is between, or the whole of curves without phases
};

/// Phases by their order; where the two have different numbers of micro batches, the first and the last ones meet and what is between is one stretch.
std::vector<Stretch> aligned(const Curve& a, const Curve& b);

/// Both totals in `width` columns of the shares [from, to) of the common axis: each the highest of its stretch.
struct AlignedColumn {
  std::size_t a_event = 0, b_event = 0;
  std::int64_t a_bytes = 0, b_bytes = 0;
};
/// The instant of each curve at a share of the common axis.
AlignedColumn aligned_at(const Curve& a, const Curve& b, double share);
/// The share of the common axis where an event of A, or of B, lies.
enum class Side : unsigned char { a, b };
double share_of(const Curve& a, const Curve& b, Side side, std::size_t event);
std::vector<AlignedColumn> aligned_columns(const Curve& a, const Curve& b, double from, double to, int width);

}  // namespace zeroplan::gui
