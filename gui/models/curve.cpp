#include "gui/models/curve.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "gui/models/raster.h"
#include "gui/models/row_index.h"
#include "planner/core/error.h"

namespace zeroplan::gui {
namespace {

using nlohmann::json;

constexpr std::uint32_t kNever = static_cast<std::uint32_t>(-1);
constexpr std::uint8_t kOthers = kCategoryCount - 1;  // the last band, where there are more names than bands

std::array<std::string, kCategoryCount> category_bands() {
  std::array<std::string, kCategoryCount> out;
  for (int c = 0; c < kCategoryCount; ++c) out[static_cast<std::size_t>(c)] = name_of(static_cast<Category>(c));
  return out;
}

void finish(Curve& curve, SimTime end) {
  const auto size = static_cast<std::uint32_t>(curve.memory.size());
  for (CurveBlock& block : curve.blocks) block.last_event = std::min(block.last_event, size);
  curve.duration = std::max(end, SimTime(1));
  curve.memory.finish(curve.duration);
  curve.peak_event = curve.memory.empty() ? 0 : curve.memory.highest(0, curve.memory.size());
}

// "block.qkv[3]" is qkv of block[3], "head.logits" is logits of the head.
struct NameParts {
  std::string name, unit;
};
NameParts parts_of(const std::string& storage) {
  const std::size_t bracket = storage.find('['), dot = storage.find('.');
  const std::string name = storage.substr(0, bracket);
  if (dot == std::string::npos) return {name, ""};
  return {name, bracket == std::string::npos ? name.substr(0, dot) : name.substr(0, dot) + storage.substr(bracket)};
}

// ---- a plan's step ----

void name_block(Curve& curve, CurveBlock& block, const Answered& a, const LifeSpan& life) {
  if (life.tensor) {
    const TimelineTensor& tensor = a.timeline->tensors[*life.tensor];
    block.name = curve.strings.intern(tensor.name);
    block.unit = curve.strings.intern(tensor.unit);
    block.stream = static_cast<std::int64_t>(tensor.stream);
    block.band = static_cast<std::uint8_t>(tensor.category);
  } else if (life.storage) {
    const Storage& storage = a.ours->program.storages[*life.storage];
    const NameParts parts = parts_of(storage.per_block ? fmt::format("{}[{}]", storage.name, life.instance) : std::string(storage.name));
    block.name = curve.strings.intern(parts.name);
    block.unit = curve.strings.intern(parts.unit);
    block.band = static_cast<std::uint8_t>(storage.category);
  } else {
    block.name = curve.strings.intern("scratch");
    block.band = static_cast<std::uint8_t>(Category::scratch);
  }
}

// ---- a snapshot ----

bool is_python(std::string_view file) { return file.ends_with(".py"); }
bool is_torch(std::string_view file) { return file.find("/torch/") != std::string_view::npos || file.starts_with("torch/"); }
std::string_view file_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

// PyTorch's profiler has words of its own for what we call otherwise.
std::optional<Category> category_named(std::string_view name) {
  for (int c = 0; c < kCategoryCount; ++c)
    if (name == name_of(static_cast<Category>(c))) return static_cast<Category>(c);
  const std::pair<std::string_view, Category> torchs[] = {{"parameter", Category::parameters}, {"gradient", Category::gradients}, {"optimizer_state", Category::optimizer},
                                                          {"activation", Category::activations}, {"temporary", Category::scratch}};
  for (const auto& [word, category] : torchs)
    if (name == word) return category;
  return std::nullopt;
}

class SnapshotCurve {
 public:
  SnapshotCurve(std::shared_ptr<const Recording> recording, int device) : snapshot_(recording->snapshot), live_(timeline_of(snapshot_, device)) {
    out_.recording = std::move(recording);
    out_.device = device;
    for (const SnapshotSegment& segment : snapshot_.segments)
      if (segment.device == device) segments_[segment.address] = &segment;
  }

  Curve build(std::string label) {
    out_.label = std::move(label);
    out_.blocks.resize(live_.blocks.size());
    choose_names();
    for (std::size_t i = 0; i < live_.blocks.size(); ++i) {
      CurveBlock& block = out_.blocks[i];
      const LiveBlock& live = live_.blocks[i];
      block = {live.size_bytes.value(), live.stream, 0, kNever, name_of_stack(live.stack), {}, live.stack, 0};
      block.unit = bands_by_ == By::pool ? pool_of(live.address) : block.name;
    }
    choose_bands();
    fill_series();
    return std::move(out_);
  }

 private:
  enum class By : std::uint8_t { category, frame, pool };

  void choose_names() {
    const auto has = [&](auto&& what) { return std::any_of(live_.blocks.begin(), live_.blocks.end(), what); };
    if (has([](const LiveBlock& b) { return b.category != kUnknownCategory; })) bands_by_ = By::category;
    else bands_by_ = has([](const LiveBlock& b) { return b.stack != kEmptyStack; }) ? By::frame : By::pool;
    out_.has_categories = bands_by_ == By::category;
    stack_names_.assign(snapshot_.stacks.stack_count(), std::nullopt);
  }

  StringId name_of_stack(StackId stack) {
    std::optional<StringId>& known = stack_names_[static_cast<std::size_t>(stack)];
    if (!known) known = out_.strings.intern(telling_frame(snapshot_, stack));
    return *known;
  }

  StringId pool_of(std::int64_t address) {
    const auto after = segments_.upper_bound(address);
    if (after == segments_.begin()) return out_.strings.intern("not recorded");
    const SnapshotSegment& segment = *std::prev(after)->second;
    if (address >= segment.address + segment.total_bytes) return out_.strings.intern("not recorded");
    return out_.strings.intern(segment.pool_id != std::array<std::int64_t, 2>{} ? "private pool" : segment.is_large ? "large pool" : "small pool");
  }

  std::string band_name(std::size_t block) const {
    if (bands_by_ == By::category) return snapshot_.strings[live_.blocks[block].category];
    return out_.strings[out_.blocks[block].unit];
  }

  // Our categories keep their own bands. Other names take the free ones, those with the most bytes at the peak first; what is left over shares the last.
  void choose_bands() {
    std::vector<std::uint32_t> key_of(live_.blocks.size());
    StringTable names;
    std::vector<std::int64_t> weight;
    const std::vector<bool> at_peak = alive_at_peak();
    for (std::size_t i = 0; i < live_.blocks.size(); ++i) {
      const std::uint32_t small = bands_by_ == By::category ? static_cast<std::uint32_t>(live_.blocks[i].category) : static_cast<std::uint32_t>(out_.blocks[i].unit);
      const auto [at, is_new] = key_of_id_.try_emplace(small, 0);
      if (is_new) at->second = static_cast<std::uint32_t>(names.intern(band_name(i)));
      key_of[i] = at->second;
      weight.resize(names.size());
      if (at_peak[i]) weight[key_of[i]] += out_.blocks[i].bytes;
    }
    std::vector<std::uint32_t> order(names.size());
    for (std::uint32_t k = 0; k < order.size(); ++k) order[k] = k;
    std::stable_sort(order.begin(), order.end(), [&](std::uint32_t x, std::uint32_t y) { return weight[x] > weight[y]; });
    const std::vector<std::uint8_t> band = bands_of(order, names);
    for (std::size_t i = 0; i < out_.blocks.size(); ++i) out_.blocks[i].band = band[key_of[i]];
  }

  std::vector<std::uint8_t> bands_of(const std::vector<std::uint32_t>& order, const StringTable& names) {
    std::vector<std::uint8_t> band(names.size(), kOthers);
    std::vector<std::uint32_t> foreign;
    for (const std::uint32_t key : order) {
      const std::string& name = names[StringId{key}];
      const std::optional<Category> ours = bands_by_ == By::category ? category_named(name) : std::nullopt;
      if (!ours) foreign.push_back(key);
      else out_.bands[band[key] = static_cast<std::uint8_t>(*ours)] = name_of(*ours);
    }
    std::vector<std::uint8_t> free;
    for (const Category c : kStackOrder)
      if (out_.bands[static_cast<std::size_t>(c)].empty()) free.push_back(static_cast<std::uint8_t>(c));
    for (std::size_t i = 0; i < foreign.size(); ++i) {
      const bool shares = free.empty() || (i + 1 >= free.size() && foreign.size() > free.size());
      band[foreign[i]] = free.empty() ? kOthers : shares ? free.back() : free[i];
      std::string& title = out_.bands[band[foreign[i]]];
      const std::string& name = names[StringId{foreign[i]}];
      title = shares ? "others" : name.empty() ? "not recorded" : name;
    }
    return band;
  }

  std::vector<bool> alive_at_peak() const {
    std::vector<bool> alive(live_.blocks.size());
    for (std::size_t i = 0; i < live_.blocks.size(); ++i) alive[i] = !live_.blocks[i].birth_entry;
    for (std::uint32_t s = 0; live_.peak_step && s <= *live_.peak_step; ++s) alive[live_.steps[s].block] = live_.steps[s].is_birth;
    return alive;
  }

  void add(std::uint32_t block, bool is_birth, std::int64_t entry_us) {
    CurveBlock& b = out_.blocks[block];
    (is_birth ? b.first_event : b.last_event) = static_cast<std::uint32_t>(out_.memory.size());
    out_.memory.add(SimTime(kInstant.value() * tick_), static_cast<Category>(b.band), is_birth ? b.bytes : -b.bytes);
    out_.event_us.push_back(entry_us);
  }

  void fill_series() {
    const auto trace = snapshot_.trace_of(out_.device);
    const std::int64_t start_us = trace.empty() ? 0 : trace.front().time_us;
    out_.memory.reserve(live_.blocks.size() + live_.steps.size());
    for (std::uint32_t i = 0; i < live_.blocks.size(); ++i) {
      if (live_.blocks[i].birth_entry) continue;
      tick_ = 0;
      add(i, true, 0);
    }
    for (const LiveStep& step : live_.steps) {
      ++tick_;
      add(step.block, step.is_birth, step.entry < trace.size() ? trace[step.entry].time_us - start_us : 0);
    }
    finish(out_, SimTime(kInstant.value() * (tick_ + 1)));
  }

  const MemorySnapshot& snapshot_;
  const LiveTimeline live_;
  Curve out_;
  By bands_by_ = By::category;
  std::map<std::int64_t, const SnapshotSegment*> segments_;  // by address
  std::vector<std::optional<StringId>> stack_names_;
  std::unordered_map<std::uint32_t, std::uint32_t> key_of_id_;
  std::int64_t tick_ = -1;
};

// ---- a trace in JSON Lines ----

class TraceReader {
 public:
  explicit TraceReader(const std::string& file) : file_(file) { out_.bands = category_bands(); }

  void line(const std::string& text) {
    ++number_;
    if (text.empty()) return;
    const json event = json::parse(text, nullptr, false);
    if (!event.is_object()) refuse("is no JSON object");
    try {
      if (event.contains("event")) program_event(event);
      else tensor(event);
    } catch (const json::exception&) {
      refuse("lacks a key, or a value is of another type");
    }
  }

  Curve done() {
    if (!tensors_.empty()) place_tensors();
    if (out_.memory.empty()) throw InputError(file_, "", "no births and deaths in it", "write one with zeroplan timeline … -o trace.jsonl");
    if (!out_.phases.empty()) out_.phases.back().time.end = end_;
    finish(out_, end_);
    return std::move(out_);
  }

 private:
  struct Tensor {
    std::uint32_t birth = 0, death = 0, block = 0;
    std::string born;
  };

  [[noreturn]] void refuse(const std::string& problem) const {
    throw InputError(file_, fmt::format("line {}", number_), problem, "open a trace as zeroplan timeline -o trace.jsonl writes it");
  }

  std::uint32_t change(Category category, std::int64_t bytes) {
    out_.memory.add(clock_, category, bytes);
    return static_cast<std::uint32_t>(out_.memory.size() - 1);
  }

  Category category(const json& event) const {
    const std::optional<Category> known = category_named(event.at("category").get<std::string>());
    if (!known) refuse("category " + event.at("category").get<std::string>() + " is not known");
    return *known;
  }

  // Births and deaths lie where compute has come to, as in a plan's own picture.
  void program_event(const json& event) {
    const std::string kind = event.at("event");
    out_.has_clock = true;
    const std::string phase = event.value("phase", "");
    if (phase != "init" && event.value("stream", "") == "compute") clock_ = std::max(clock_, SimTime(event.value("start_ns", std::int64_t{0})));
    if (kind == "birth") {
      const std::string storage = event.at("storage");
      const Category c = category(event);
      const std::int64_t bytes = event.at("bytes");
      const NameParts parts = parts_of(storage);
      open_[storage] = static_cast<std::uint32_t>(out_.blocks.size());
      out_.blocks.push_back({bytes, 0, change(c, bytes), kNever, out_.strings.intern(parts.name), out_.strings.intern(parts.unit), kEmptyStack, static_cast<std::uint8_t>(c)});
    } else if (kind == "death") {
      const auto at = open_.find(event.at("storage").get<std::string>());
      if (at == open_.end()) refuse("a death without a birth");
      CurveBlock& block = out_.blocks[at->second];
      block.last_event = change(static_cast<Category>(block.band), -block.bytes);
      open_.erase(at);
    } else if (kind == "scratch") {
      const std::int64_t bytes = event.at("bytes");
      const std::uint32_t at = change(Category::scratch, bytes);
      out_.blocks.push_back({bytes, 0, at, at + 1, out_.strings.intern("scratch"), StringId{}, kEmptyStack, static_cast<std::uint8_t>(Category::scratch)});
      change(Category::scratch, -bytes);
    } else if (kind == "run" && phase != "init" && event.value("stream", "") == "compute") {
      begin_phase(phase);
      end_ = std::max(end_, SimTime(event.at("end_ns").get<std::int64_t>()));
      clock_ = std::max(clock_, end_);
    }
  }

  void begin_phase(std::string_view name) {
    const std::optional<Phase> phase = phase_of(name);
    if (!phase || (!out_.phases.empty() && out_.phases.back().phase == *phase)) return;
    const SimTime begin = out_.phases.empty() ? SimTime() : clock_;
    if (!out_.phases.empty()) out_.phases.back().time.end = begin;
    out_.phases.push_back({*phase, {begin, begin}});
  }

  void tensor(const json& event) {
    const auto c = static_cast<std::uint8_t>(category(event));
    const auto stream = stream_number(event.value("stream", ""));
    tensors_.push_back({event.at("birth"), event.at("death"), static_cast<std::uint32_t>(out_.blocks.size()), event.value("born", "")});
    out_.blocks.push_back({event.at("bytes"), stream, 0, kNever, out_.strings.intern(event.at("name").get<std::string>()), out_.strings.intern(event.value("unit", "")), kEmptyStack, c});
  }

  static std::int64_t stream_number(std::string_view name) {
    for (int s = 0; s < kStreamCount; ++s)
      if (name == name_of(static_cast<Stream>(s))) return s;
    return 0;
  }

  // Tensors come in the order of birth, one tick an instant; at an instant births come first.
  void place_tensors() {
    std::uint32_t last = 0;
    std::multimap<std::uint32_t, std::uint32_t> deaths;
    const auto bury_before = [&](std::uint32_t instant) {
      while (!deaths.empty() && deaths.begin()->first < instant) {
        CurveBlock& block = out_.blocks[deaths.begin()->second];
        clock_ = SimTime(kInstant.value() * (deaths.begin()->first + std::int64_t{1}));
        block.last_event = change(static_cast<Category>(block.band), -block.bytes);
        deaths.erase(deaths.begin());
      }
    };
    std::stable_sort(tensors_.begin(), tensors_.end(), [](const Tensor& x, const Tensor& y) { return x.birth < y.birth; });
    for (const Tensor& t : tensors_) last = std::max(last, t.birth);
    for (const Tensor& t : tensors_) {
      bury_before(t.birth);
      clock_ = SimTime(kInstant.value() * t.birth);
      begin_phase(std::string_view(t.born).substr(0, t.born.find(':')));
      CurveBlock& block = out_.blocks[t.block];
      block.first_event = change(static_cast<Category>(block.band), block.bytes);
      deaths.emplace(t.death, t.block);
    }
    // What outlives the span dies after its last birth and has no death before.
    std::erase_if(deaths, [&](const auto& death) { return death.first > last; });
    bury_before(last + 1);
    end_ = SimTime(kInstant.value() * (last + std::int64_t{1}));
  }

  const std::string& file_;
  std::size_t number_ = 0;
  Curve out_;
  std::unordered_map<std::string, std::uint32_t> open_;
  std::vector<Tensor> tensors_;
  SimTime clock_, end_;
};

// ---- two beside each other ----

std::size_t equal_front(const std::vector<PhaseSpan>& a, const std::vector<PhaseSpan>& b) {
  std::size_t n = 0;
  while (n < std::min(a.size(), b.size()) && a[n].phase == b[n].phase) ++n;
  return n;
}

std::size_t equal_back(const std::vector<PhaseSpan>& a, const std::vector<PhaseSpan>& b, std::size_t most) {
  std::size_t n = 0;
  while (n < most && a[a.size() - 1 - n].phase == b[b.size() - 1 - n].phase) ++n;
  return n;
}

double share(TimeSpan span, SimTime whole) { return static_cast<double>((span.end - span.begin).value()) / static_cast<double>(std::max<std::int64_t>(whole.value(), 1)); }

SimTime part(TimeSpan span, double ratio) { return span.begin + SimTime(static_cast<std::int64_t>(ratio * static_cast<double>((span.end - span.begin).value()))); }

}  // namespace

Curve curve_of(const Answered& answered) {
  const StepPicture& picture = answered.picture;
  Curve out;
  out.memory = picture.memory;
  out.bands = category_bands();
  out.phases = picture.phases;
  out.duration = std::max(picture.duration, SimTime(1));
  out.peak_event = picture.peak_event;
  out.has_clock = picture.has_clock;
  out.usable = answered.prediction.usable;
  out.must_fit = answered.prediction.must_fit;
  out.step_s = answered.step_s();
  out.blocks.reserve(picture.lives.size());
  for (const LifeSpan& life : picture.lives) {
    CurveBlock& block = out.blocks.emplace_back();
    block.bytes = life.bytes;
    block.first_event = static_cast<std::uint32_t>(life.first_event);
    block.last_event = static_cast<std::uint32_t>(life.last_event);
    name_block(out, block, answered, life);
  }
  return out;
}

Curve curve_of(std::shared_ptr<const Recording> recording, int device, std::string label) { return SnapshotCurve(std::move(recording), device).build(std::move(label)); }

std::vector<Curve> curves_of_snapshot(MemorySnapshot snapshot, const std::string& file) {
  const auto recording = std::make_shared<const Recording>(Recording{std::move(snapshot)});
  std::vector<Curve> out;
  for (int device = 0; device < recording->snapshot.device_count(); ++device) {
    Curve curve = curve_of(recording, device, fmt::format("{} · GPU {}", file_name(file), device));
    if (!curve.memory.empty()) out.push_back(std::move(curve));
  }
  if (out.empty()) throw InputError(file, "", "the snapshot has no block and no history", "record one: torch.cuda.memory._record_memory_history() before the run, torch.cuda.memory._dump_snapshot(FILE) after it");
  return out;
}

std::optional<Curve> curve_of_trace(const std::string& file, const OnProgress& on_progress) {
  constexpr std::int64_t kSay = std::int64_t{1} << 20;
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) throw InputError(file, "", "cannot be read", "check the path");
  const auto total = static_cast<std::int64_t>(in.tellg());
  in.seekg(0);
  TraceReader reader(file);
  std::int64_t done = 0, said = 0;
  for (std::string text; std::getline(in, text);) {
    reader.line(text);
    done += static_cast<std::int64_t>(text.size()) + 1;
    if (done - said < kSay) continue;
    said = done;
    if (on_progress && !on_progress({std::min(done, total), total})) return std::nullopt;
  }
  Curve out = reader.done();
  out.label = file_name(file);
  return out;
}

std::string telling_frame(const MemorySnapshot& snapshot, StackId stack) {
  const auto frames = snapshot.stacks.frames_of(stack);
  if (frames.empty()) return "";
  const auto find = [&](auto&& good) { return std::find_if(frames.begin(), frames.end(), [&](FrameId id) { return good(snapshot.strings[snapshot.stacks[id].file]); }); };
  auto at = find([](std::string_view file) { return is_python(file) && !is_torch(file); });
  if (at == frames.end()) at = find(is_python);
  if (at == frames.end()) at = frames.begin();
  const Frame& frame = snapshot.stacks[*at];
  const std::string_view file = file_name(snapshot.strings[frame.file]);
  return frame.line > 0 ? fmt::format("{} {}:{}", snapshot.strings[frame.function], file, frame.line) : fmt::format("{} {}", snapshot.strings[frame.function], file);
}

std::string stack_words(const MemorySnapshot& snapshot, StackId stack) {
  std::string out;
  for (const FrameId id : snapshot.stacks.frames_of(stack)) {
    const Frame& frame = snapshot.stacks[id];
    out += fmt::format("{}{}  {}:{}", out.empty() ? "" : "\n", snapshot.strings[frame.function], snapshot.strings[frame.file], frame.line);
  }
  return out;
}

std::vector<std::uint32_t> alive_blocks(const Curve& curve, std::size_t event) {
  std::vector<std::uint32_t> out;
  for (std::uint32_t i = 0; i < curve.blocks.size(); ++i)
    if (curve.blocks[i].first_event <= event && event < curve.blocks[i].last_event) out.push_back(i);
  std::vector<double> bytes(curve.blocks.size());
  for (const std::uint32_t i : out) bytes[i] = static_cast<double>(curve.blocks[i].bytes);
  sort_rows(out, bytes, true);
  return out;
}

std::vector<Stretch> aligned(const Curve& a, const Curve& b) {
  const TimeSpan whole_a{SimTime(), a.duration}, whole_b{SimTime(), b.duration};
  if (a.phases.empty() || b.phases.empty()) return {{whole_a, whole_b, 0, 1, {}}};
  std::size_t front = equal_front(a.phases, b.phases);
  std::size_t back = equal_back(a.phases, b.phases, std::min(a.phases.size(), b.phases.size()) - front);
  // Micro batches that only one of them has join the phase before, or where there is none the one after: no stretch is empty on one side.
  const bool rest_a = front + back < a.phases.size(), rest_b = front + back < b.phases.size();
  if (rest_a != rest_b) --(front > 0 ? front : back);
  if (front + back == 0) return {{whole_a, whole_b, 0, 1, {}}};
  std::vector<Stretch> out;
  const auto add = [&](TimeSpan x, TimeSpan y, std::optional<Phase> phase) { out.push_back({x, y, 0, 0, phase}); };
  for (std::size_t i = 0; i < front; ++i) add(a.phases[i].time, b.phases[i].time, a.phases[i].phase);
  if (front + back < std::max(a.phases.size(), b.phases.size()))
    add({a.phases[front].time.begin, a.phases[a.phases.size() - back - 1].time.end}, {b.phases[front].time.begin, b.phases[b.phases.size() - back - 1].time.end}, std::nullopt);
  for (std::size_t i = back; i > 0; --i) add(a.phases[a.phases.size() - i].time, b.phases[b.phases.size() - i].time, a.phases[a.phases.size() - i].phase);
  // What lies before the first and between two phases belongs to the later one; the last lasts to the end.
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i].a.begin = i == 0 ? SimTime() : out[i - 1].a.end;
    out[i].b.begin = i == 0 ? SimTime() : out[i - 1].b.end;
  }
  out.back().a.end = a.duration;
  out.back().b.end = b.duration;
  double at = 0;
  for (Stretch& s : out) {
    s.from = at;
    at += (share(s.a, a.duration) + share(s.b, b.duration)) / 2;
    s.to = at;
  }
  for (Stretch& s : out) s.from /= at, s.to /= at;
  return out;
}

AlignedColumn aligned_at(const Curve& a, const Curve& b, double share) {
  for (const Stretch& s : aligned(a, b)) {
    if (share > s.to && s.to < 1) continue;
    const double in = s.to > s.from ? std::clamp((share - s.from) / (s.to - s.from), 0.0, 1.0) : 0;
    const std::size_t in_a = a.memory.last_at(part(s.a, in)), in_b = b.memory.last_at(part(s.b, in));
    return {in_a, in_b, a.memory.total_after(in_a), b.memory.total_after(in_b)};
  }
  return {a.memory.size() - 1, b.memory.size() - 1, 0, 0};
}

double share_of(const Curve& a, const Curve& b, Side side, std::size_t event) {
  const SimTime time = side == Side::a ? a.memory.time(event) : b.memory.time(event);
  for (const Stretch& s : aligned(a, b)) {
    const TimeSpan& span = side == Side::a ? s.a : s.b;
    if (time > span.end && s.to < 1) continue;
    const double whole = static_cast<double>((span.end - span.begin).value());
    return s.from + (s.to - s.from) * (whole > 0 ? std::clamp(static_cast<double>((time - span.begin).value()) / whole, 0.0, 1.0) : 0);
  }
  return 1;
}

std::vector<AlignedColumn> aligned_columns(const Curve& a, const Curve& b, double from, double to, int width) {
  assert(!a.memory.empty() && !b.memory.empty() && from < to && width > 0);
  const std::vector<Stretch> stretches = aligned(a, b);
  std::vector<AlignedColumn> out(static_cast<std::size_t>(width));
  const auto take = [](const StackedSeries& series, SimTime begin, SimTime end, std::size_t& event, std::int64_t& bytes) {
    const auto highest = series.columns(begin, std::max(end, begin + SimTime(1)), 1).front();
    if (highest.total_bytes <= bytes && event != 0) return;
    event = highest.event;
    bytes = highest.total_bytes;
  };
  std::size_t first = 0;
  for (int c = 0; c < width; ++c) {
    const double left = from + (to - from) * c / width, right = from + (to - from) * (c + 1) / width;
    AlignedColumn& column = out[static_cast<std::size_t>(c)];
    while (first + 1 < stretches.size() && stretches[first].to <= left) ++first;
    // A column may reach over several stretches.
    for (std::size_t i = first; i < stretches.size() && (i == first || stretches[i].from < right); ++i) {
      const Stretch& s = stretches[i];
      const auto in = [&](double share) { return s.to > s.from ? std::clamp((share - s.from) / (s.to - s.from), 0.0, 1.0) : 1; };
      take(a.memory, part(s.a, in(left)), part(s.a, in(right)), column.a_event, column.a_bytes);
      take(b.memory, part(s.b, in(left)), part(s.b, in(right)), column.b_event, column.b_bytes);
    }
  }
  return out;
}

}  // namespace zeroplan::gui
