#include "simulator/trace_files.h"

#include <fmt/format.h>

#include <array>

#include "planner/core/trace.h"
#include "planner/ops/op_table.h"

namespace zeroplan {
namespace {

constexpr std::array<std::string_view, 4> kKinds = {"birth", "death", "scratch", "run"};

std::string_view op_name(const Program& program, const TraceEvent& event) {
  return name_of(program.fragments[event.fragment]->instructions[event.instruction].op);
}

}  // namespace

std::string chrome_trace(const Program& program, const Trace& trace) {
  std::string out = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  for (int s = 0; s < kStreamCount; ++s)
    out += fmt::format("{{\"ph\":\"M\",\"pid\":0,\"tid\":{},\"name\":\"thread_name\",\"args\":{{\"name\":\"{} stream\"}}}},\n", s, name_of(static_cast<Stream>(s)));
  std::array<std::int64_t, kCategoryCount> live{};
  for (const TraceEvent& event : trace.events) {
    const double at_us = static_cast<double>(event.start.value()) * 1e-3;
    switch (event.kind) {
      case TraceEvent::Kind::run: {
        const Fragment& fragment = *program.fragments[event.fragment];
        out += fmt::format("{{\"ph\":\"X\",\"pid\":0,\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f},\"name\":\"{}\",\"args\":{{\"fragment\":\"{}\",\"block\":{}}}}},\n",
                           static_cast<int>(event.stream), at_us, static_cast<double>((event.end - event.start).value()) * 1e-3, op_name(program, event), fragment.name, event.block);
        break;
      }
      case TraceEvent::Kind::scratch: break;
      case TraceEvent::Kind::birth:
      case TraceEvent::Kind::death: {
        const auto category = static_cast<std::size_t>(program.storages[event.storage].category);
        live[category] += (event.kind == TraceEvent::Kind::birth ? 1 : -1) * event.bytes;
        out += fmt::format("{{\"ph\":\"C\",\"pid\":0,\"ts\":{:.3f},\"name\":\"live bytes\",\"args\":{{\"{}\":{}}}}},\n", at_us,
                           name_of(static_cast<Category>(category)), live[category]);
        break;
      }
    }
  }
  out += "{\"ph\":\"M\",\"pid\":0,\"name\":\"process_name\",\"args\":{\"name\":\"one training step, rank 0\"}}\n]}\n";
  return out;
}

std::string json_lines(const Program& program, const Trace& trace) {
  std::string out;
  for (const TraceEvent& e : trace.events) {
    const Fragment& fragment = *program.fragments[e.fragment];
    out += fmt::format("{{\"event\":\"{}\",\"index\":{},\"phase\":\"{}\",\"fragment\":\"{}\",\"block\":{},\"stream\":\"{}\",", kKinds[static_cast<std::size_t>(e.kind)], e.index,
                       name_of(fragment.phase), fragment.name, e.block, name_of(e.stream));
    if (e.kind == TraceEvent::Kind::run || e.kind == TraceEvent::Kind::scratch) out += fmt::format("\"op\":\"{}\",", op_name(program, e));
    if (e.kind == TraceEvent::Kind::birth || e.kind == TraceEvent::Kind::death)
      out += fmt::format("\"storage\":\"{}\",\"category\":\"{}\",", instance_name(program, e), name_of(program.storages[e.storage].category));
    out += fmt::format("\"bytes\":{},\"live_bytes\":{},\"start_ns\":{},\"end_ns\":{}}}\n", e.bytes, e.live_bytes, e.start.value(), e.end.value());
  }
  return out;
}

}  // namespace zeroplan
