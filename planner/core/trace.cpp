#include "planner/core/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace zeroplan {
namespace {

constexpr std::array<std::string_view, 4> kKinds = {"birth", "death", "scratch", "run"};

}  // namespace

std::string instance_name(const Program& program, const TraceEvent& event) {
  const Storage& storage = program.storages[event.storage];
  return storage.per_block ? fmt::format("{}[{}]", storage.name, event.instance) : std::string(storage.name);
}

std::string first_memory_difference(const Program& program, const Trace& expected, const Trace& seen) {
  const auto memory_events = [](const Trace& trace) {
    std::vector<const TraceEvent*> out;
    for (const TraceEvent& event : trace.events)
      if (event.kind != TraceEvent::Kind::run) out.push_back(&event);
    return out;
  };
  const auto a = memory_events(expected), b = memory_events(seen);
  const auto describe = [&](const TraceEvent& e) {
    const std::string what = e.kind == TraceEvent::Kind::scratch ? std::string("scratch") : instance_name(program, e);
    return fmt::format("instruction {}: {} of {} ({} B, live {} B)", e.index, kKinds[static_cast<std::size_t>(e.kind)], what, e.bytes, e.live_bytes);
  };
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const TraceEvent &x = *a[i], &y = *b[i];
    if (x.kind != y.kind || x.index != y.index || x.storage != y.storage || x.instance != y.instance || x.bytes != y.bytes || x.live_bytes != y.live_bytes)
      return fmt::format("planned {}; seen {}", describe(x), describe(y));
  }
  if (a.size() != b.size()) return fmt::format("planned {} births, deaths and scratches, seen {}", a.size(), b.size());
  return {};
}

}  // namespace zeroplan
