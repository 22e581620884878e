#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "planner/core/token_file.h"

namespace zeroplan::cli {

int prepare(const PrepareOptions& options) {
  const ByteTokenStats s = write_byte_tokens(options.text, options.out);
  if (options.json)
    fmt::print("{}\n", nlohmann::json{{"format", "zeroplan-prepare"}, {"version", 1}, {"tokens", s.bytes}, {"vocab_size", 256}, {"byte_entropy_nats", s.byte_entropy_nats}, {"bigram_entropy_nats", s.bigram_entropy_nats}}.dump(2));
  else
    fmt::print("{}: {} byte tokens (vocabulary 256)\n  entropy of a byte {:.3f} nats, given the byte before it {:.3f} nats: a model that learns more than byte pairs gets below that\nnext: zeroplan run PLAN --data {}\n",
               options.out, s.bytes, s.byte_entropy_nats, s.bigram_entropy_nats, options.out);
  return 0;
}

}  // namespace zeroplan::cli
