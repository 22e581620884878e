// What a file is, told by its content: a plan, a model's config.json, a DeepSpeed JSON, a saved session, a PyTorch memory snapshot, a trace, a run's log.
// Its ending decides only for what has nothing in it yet: a log that is about to grow. Leaves out what is done with each.
#pragma once

#include <string>

namespace zeroplan::gui {

enum class FileKind : unsigned char { plan, model_config, deepspeed, session, snapshot, trace, run_log };

/// Reads its first bytes, and all of a JSON object. Throws InputError with file, place and remedy for what is none of them, or damaged.
FileKind kind_of_file(const std::string& file);

}  // namespace zeroplan::gui
