#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/words.h"
#include "planner/core/error.h"
#include "planner/core/format.h"
#include "simulator/oom_text.h"
#include "simulator/prediction.h"
#include "simulator/timeline.h"

namespace zeroplan::cli {
namespace {

using nlohmann::json;

/// Tensors that are one line for people: same maker, size and reason.
struct Group {
  std::string name;
  std::string_view why;
  Category category = Category::activations;
  Bytes each, total;
  std::size_t count = 0;
  std::string first_unit, last_unit;
  std::uint32_t birth = 0, death = 0;  ///< of the first
};

std::vector<Group> groups_of(const Timeline& t, const std::vector<std::size_t>& tensors) {
  std::map<std::tuple<std::string, std::string_view, std::int64_t>, Group> found;
  for (const std::size_t i : tensors) {
    const TimelineTensor& tensor = t.tensors[i];
    Group& group = found[{tensor.name, tensor.why, tensor.bytes.value()}];
    if (group.count++ == 0) group = {tensor.name, tensor.why, tensor.category, tensor.bytes, Bytes(), 1, tensor.unit, tensor.unit, tensor.birth, tensor.death};
    group.total = group.total + tensor.bytes;
    group.last_unit = tensor.unit;
  }
  std::vector<Group> out;
  for (auto& [key, group] : found) out.push_back(std::move(group));
  std::stable_sort(out.begin(), out.end(), [](const Group& a, const Group& b) { return a.total > b.total; });
  return out;
}

std::string instant_words(const Timeline& t, std::uint32_t instant) {
  const TimelineInstant& i = t.instants[instant];
  if (i.phase == "before") return "before this step";
  return i.unit.empty() ? fmt::format("{}: {}", i.phase, i.name) : fmt::format("{}: {} of {}", i.phase, i.name, i.unit);
}

std::string death_words(const Timeline& t, std::uint32_t instant) { return instant >= t.instants.size() ? "stays" : instant_words(t, instant); }

std::string units_words(const Group& g) { return g.first_unit == g.last_unit ? g.first_unit : g.first_unit + " … " + g.last_unit; }

void print_groups(const Timeline& t, const std::vector<Group>& groups, std::size_t most) {
  Bytes rest;
  std::size_t left_out = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const Group& g = groups[i];
    if (i >= most) {
      rest = rest + g.total;
      left_out += g.count;
      continue;
    }
    const std::string formula = size_formula(g.each, t.question);
    fmt::print("{:>10}  {}{}  ({}){}\n", format_gib(g.total), g.count > 1 ? fmt::format("{} × {} ", g.count, format_gib(g.each)) : "", g.name, name_of(g.category),
               formula.empty() ? "" : fmt::format("  each {} bytes", formula));
    fmt::print("{:>10}  {}; {}\n", "", g.why, units_words(g));
    fmt::print("{:>10}  born {} | dies {}\n", "", instant_words(t, g.birth), death_words(t, g.death));
  }
  if (left_out > 0) fmt::print("{:>10}  {} smaller tensors (--top {} shows more)\n", format_gib(rest), left_out, 2 * most);
}

std::size_t asked_instant(const Timeline& t, const std::string& at) {
  const bool known = at.empty() || std::any_of(t.instants.begin(), t.instants.end(), [&](const TimelineInstant& i) { return i.phase.starts_with(at); });
  if (!known) throw UsageError(fmt::format("--at {}: is no phase. Accepted: init, first, first.forward, first.backward, first.step, steady, steady.forward, steady.backward, steady.step", at));
  return t.peak(at);
}

Timeline timeline_for(const Question& question, const std::string& at) {
  return timeline_of(question, at.starts_with("first") ? Span::first : at.starts_with("init") ? Span::whole : Span::steady);
}

json group_json(const Timeline& t, const Group& g) {
  return {{"name", g.name}, {"category", name_of(g.category)}, {"count", g.count}, {"bytes_each", g.each.value()}, {"formula", size_formula(g.each, t.question)}, {"bytes", g.total.value()}, {"units", {g.first_unit, g.last_unit}},
          {"born", instant_words(t, g.birth)}, {"dies", death_words(t, g.death)}, {"why", g.why}};
}

int print_alive(const WhyOptions& options, const Question& question) {
  const Timeline t = timeline_for(question, options.at);
  const std::size_t instant = asked_instant(t, options.at);
  const std::vector<std::size_t> live = t.live_at(instant);
  const std::vector<Group> groups = groups_of(t, live);
  if (options.json) {
    json list = json::array();
    for (const Group& g : groups) list.push_back(group_json(t, g));
    fmt::print("{}\n", json{{"format", "zeroplan-why"}, {"version", 1}, {"instant", instant_words(t, static_cast<std::uint32_t>(instant))}, {"live_bytes", t.instants[instant].live.value()}, {"tensors", live.size()},
                            {"groups", list}}.dump(2));
    return 0;
  }
  fmt::print("{}\n\n{}: {} requested in {} tensors at its highest, {}\n\n", question_line(question), engine_words(question), format_gib(t.instants[instant].live), live.size(),
             instant_words(t, static_cast<std::uint32_t>(instant)));
  print_groups(t, groups, static_cast<std::size_t>(options.top));
  return 0;
}

// ---- two plans ----

struct Difference {
  std::string name;
  std::string_view why;
  std::int64_t first = 0, second = 0;
  std::int64_t delta() const { return second - first; }
};

std::vector<Difference> differences(const Timeline& a, const Timeline& b) {
  std::map<std::string, Difference> all;
  const auto add = [&](const Timeline& t, std::int64_t Difference::*side) {
    for (const std::size_t i : t.live_at(t.peak())) {
      Difference& d = all[t.tensors[i].name];
      d.name = t.tensors[i].name;
      d.why = t.tensors[i].why;
      d.*side += t.tensors[i].bytes.value();
    }
  };
  add(a, &Difference::first);
  add(b, &Difference::second);
  std::vector<Difference> out;
  for (auto& [name, d] : all)
    if (d.delta() != 0) out.push_back(std::move(d));
  std::stable_sort(out.begin(), out.end(), [](const Difference& x, const Difference& y) { return std::abs(x.delta()) > std::abs(y.delta()); });
  return out;
}

std::string signed_gib(std::int64_t bytes) { return (bytes < 0 ? "-" : "+") + format_gib(Bytes(std::abs(bytes))); }

void print_differences(const Timeline& a, const Timeline& b, std::size_t most) {
  const std::int64_t high_a = a.instants[a.peak()].live.value(), high_b = b.instants[b.peak()].live.value();
  fmt::print("{:<34} {} at {}\n", engine_words(a.question), format_gib(Bytes(high_a)), instant_words(a, static_cast<std::uint32_t>(a.peak())));
  fmt::print("{:<34} {} at {}\n", engine_words(b.question), format_gib(Bytes(high_b)), instant_words(b, static_cast<std::uint32_t>(b.peak())));
  fmt::print("{:<34} {}\n\n{:<40} {:>11} {:>11} {:>12}\n", "difference", signed_gib(high_b - high_a), "named buffers at the two peaks", "first", "second", "difference");
  const std::vector<Difference> list = differences(a, b);
  std::int64_t rest = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (i >= most) rest += list[i].delta();
    else fmt::print("{:<40} {:>11} {:>11} {:>12}  {}\n", list[i].name, format_gib(Bytes(list[i].first)), format_gib(Bytes(list[i].second)), signed_gib(list[i].delta()), list[i].why);
  }
  if (list.size() > most) fmt::print("{:<40} {:>11} {:>11} {:>12}\n", fmt::format("{} smaller ones", list.size() - most), "", "", signed_gib(rest));
}

/// The flags of --versus over those of the question.
QuestionFlags versus_flags(const QuestionFlags& first, const std::string& words) {
  QuestionFlags out = first;
  std::istringstream in(words);
  std::string flag, value;
  while (in >> flag) {
    const std::size_t equals = flag.find('=');
    if (equals != std::string::npos) {
      value = flag.substr(equals + 1);
      flag.resize(equals);
    } else if (!(in >> value)) {
      throw UsageError(fmt::format("--versus \"{}\": {} needs a value, as --versus \"--stage 2\"", words, flag));
    }
    if (!flag.starts_with("--")) throw UsageError(fmt::format("--versus \"{}\": {} is not a flag. Write what is different, as --versus \"--engine fsdp2 --stage 3\"", words, flag));
    std::string key = flag.substr(2);
    std::replace(key.begin(), key.end(), '-', '_');
    if (key == "on") out.on = value;
    else out.keys[key] = value;
  }
  return out;
}

int print_versus(const WhyOptions& options, const Question& question) {
  const QuestionFlags other = versus_flags(options.question, options.versus);
  const Question second = other.names_engine() ? other.question() : other.question_on(question.plan.engine);
  const Timeline a = timeline_of(question), b = timeline_of(second);
  if (options.json) {
    json list = json::array();
    for (const Difference& d : differences(a, b)) list.push_back({{"name", d.name}, {"first_bytes", d.first}, {"second_bytes", d.second}, {"why", d.why}});
    fmt::print("{}\n", json{{"format", "zeroplan-why-versus"}, {"version", 1}, {"first_bytes", a.instants[a.peak()].live.value()}, {"second_bytes", b.instants[b.peak()].live.value()}, {"buffers", list}}.dump(2));
    return 0;
  }
  fmt::print("{}\n\n", question_line(question));
  print_differences(a, b, static_cast<std::size_t>(options.top));
  return 0;
}

// ---- an out-of-memory message ----

std::string size_words(const std::optional<PrintedSize>& size) { return size ? format_gib(Bytes(static_cast<std::int64_t>(size->bytes))) : "not said"; }

void print_suspects(const Timeline& t, const OomMessage& message, std::size_t most) {
  const std::vector<Group> suspects = groups_of(t, tried_tensors(t, *message.tried));
  if (suspects.empty()) {
    fmt::print("no tensor of this job makes the allocator ask for {}: the run was not this question. Differs first where sizes follow from it: model, seq, micro_batch, ranks, stage, "
               "reduce_bucket_size, dtypes\n", size_words(message.tried));
    return;
  }
  fmt::print("requests of this job that make the allocator ask for {}\n", size_words(message.tried));
  print_groups(t, suspects, most);
}

/// What the message's other figures say about the question.
void print_contradictions(const Prediction& p, const OomMessage& message) {
  if (message.capacity && std::abs(message.capacity->bytes / static_cast<double>(p.capacity.value()) - 1) > 0.03)
    fmt::print("the GPU of the message has {}, the question's {}: is --on right?\n", size_words(message.capacity), format_gib(p.capacity));
  if (!message.allocated) return;
  if (p.failure) {
    const double ratio = message.allocated->bytes / static_cast<double>(p.failure->error.allocated_bytes.value());
    fmt::print("predicted to fail in {} at {}, asking for {} with {} allocated; the message has {} allocated ({:+.1f} %)\n", p.failure->phase, p.failure->op, format_gib(p.failure->error.segment_bytes),
               format_gib(p.failure->error.allocated_bytes), size_words(message.allocated), 100 * (ratio - 1));
  } else {
    fmt::print("predicted to fit ({} at the peak): {} allocated at the failure. {}\n", format_gib(p.whole.allocated), size_words(message.allocated),
               message.allocated->bytes > static_cast<double>(p.whole.allocated.value()) ? "The run held more than this question asks for: a longer sequence, a larger batch, another process or a leak"
                                                                                       : "Something outside took the rest: another process on the GPU, or fragmentation (try PYTORCH_ALLOC_CONF=expandable_segments:True)");
  }
}

int print_oom(const WhyOptions& options, const Question& question) {
  std::ifstream in(options.oom, std::ios::binary);
  if (!in) throw InputError(options.oom, "", "cannot be read", "Give a file that holds the message, its traceback or the whole log");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const std::optional<OomMessage> message = read_oom(text);
  if (!message) throw InputError(options.oom, "", "holds no out-of-memory message of PyTorch", "It must contain the words \"Tried to allocate\"");
  const Prediction p = predict(question);
  fmt::print("{}\n\nthe message: tried {}, GPU {}, free {}, allocated {}, reserved {}\n", question_line(question), size_words(message->tried), size_words(message->capacity), size_words(message->free),
             size_words(message->allocated), size_words(message->reserved));
  if (!message->frames.empty()) fmt::print("raised in {}\n", message->frames.back());
  print_contradictions(p, *message);
  fmt::print("\n");
  print_suspects(timeline_of(question, Span::whole), *message, static_cast<std::size_t>(options.top));
  return 0;
}

}  // namespace

int why(const WhyOptions& options) {
  const Question question = asked_or_usual(options.question);
  if (!options.oom.empty()) return print_oom(options, question);
  return options.versus.empty() ? print_alive(options, question) : print_versus(options, question);
}

}  // namespace zeroplan::cli
