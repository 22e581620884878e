#include "simulator/caching_allocator.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "planner/core/error.h"

namespace zeroplan {
namespace {

constexpr std::int64_t kKiB = 1024, kMiB = 1024 * kKiB, kGiB = 1024 * kMiB;
constexpr StreamId kMain{0}, kSide{1};

BlockId take(CachingAllocator& allocator, std::int64_t bytes, StreamId stream = kMain) {
  const auto answer = allocator.allocate(Bytes{bytes}, stream);
  REQUIRE(std::holds_alternative<BlockId>(answer));
  return std::get<BlockId>(answer);
}

OutOfMemory refused(CachingAllocator& allocator, std::int64_t bytes, StreamId stream = kMain) {
  const auto answer = allocator.allocate(Bytes{bytes}, stream);
  REQUIRE(std::holds_alternative<OutOfMemory>(answer));
  return std::get<OutOfMemory>(answer);
}

std::int64_t reserved(const CachingAllocator& allocator) { return allocator.counters().reserved.current.value(); }
std::int64_t allocated(const CachingAllocator& allocator) { return allocator.counters().allocated.current.value(); }
std::int64_t active(const CachingAllocator& allocator) { return allocator.counters().active.current.value(); }
std::int64_t requested(const CachingAllocator& allocator) { return allocator.counters().requested.current.value(); }
std::int64_t address(const CachingAllocator& allocator, BlockId block) { return allocator.address(block).value(); }
std::int64_t size(const CachingAllocator& allocator, BlockId block) { return allocator.size_bytes(block).value(); }

// ---------------------------------------------------------------------------------------------------------------------------------------
// A second allocator, of another build: it keeps no free lists and merges nothing. Its state is what is occupied and what is mapped; free
// blocks are the gaps, found anew by linear scans whenever asked for; counters are sums over everything.
class Reference {
 public:
  explicit Reference(const AllocatorOptions& options) : options_(options), split_limit_(options.max_split_bytes ? options.max_split_bytes->value() : INT64_MAX) {}

  struct Occupied {
    int key = 0, stream = 0;
    std::int64_t address = 0, size = 0, requested = 0;
    bool live = true;
    std::set<int> uses;
    std::vector<std::pair<int, std::int64_t>> events;  // stream, number
  };

  std::optional<Occupied> allocate(int key, std::int64_t request, int stream) {
    std::erase_if(occupied_, [&](const Occupied& o) { return pending(o) && all_over(o) && (left(o), true); });
    const std::int64_t size = rounded(request);
    const bool small = size <= kMiB;
    std::optional<Gap> gap = best_fit(stream, small, size);
    if (!gap) {
      collect_garbage();
      gap = grow(stream, small, size);
      if (!gap && release_oversize(stream, small, size)) gap = grow(stream, small, size);
      if (!gap) {
        empty_cache();
        ++counters_.retries;
        gap = grow(stream, small, size);
      }
    }
    if (!gap) {
      ++counters_.ooms;
      return std::nullopt;
    }
    const std::int64_t rest = gap->end - gap->begin - size;
    const bool split = small || options_.expandable_segments ? rest >= 512 : size < split_limit_ && rest > kMiB;
    occupied_.push_back({key, stream, gap->begin, split ? size : size + rest, request, true, {}, {}});
    note_peaks();
    return occupied_.back();
  }

  void free(int key) {
    Occupied& o = find(key);
    o.live = false;
    for (const int stream : o.uses) o.events.emplace_back(stream, ++recorded_[stream]);
    if (!o.events.empty()) return;
    const Occupied copy = o;
    std::erase_if(occupied_, [&](const Occupied& other) { return other.key == key; });
    left(copy);
  }

  void record_stream(int key, int stream) {
    if (Occupied& o = find(key); o.stream != stream) o.uses.insert(stream);
  }

  void complete(int stream, std::int64_t count) { over_[stream] = std::max(over_[stream], count); }
  std::int64_t recorded(int stream) { return recorded_[stream]; }

  void empty_cache() {
    ++counters_.synchronizations;
    over_ = recorded_;
    std::erase_if(occupied_, [&](const Occupied& o) { return pending(o) && (left(o), true); });
    if (options_.expandable_segments) return unmap();
    std::erase_if(segments_, [&](const Segment& s) { return is_free(s); });
  }

  AllocatorCounters counters() {
    AllocatorCounters now = counters_;
    note(now);
    return now;
  }

  std::vector<SegmentView> snapshot() {
    std::vector<SegmentView> views;
    std::sort(segments_.begin(), segments_.end(), [](const Segment& a, const Segment& b) { return a.begin < b.begin; });
    for (const Segment& s : segments_) {
      for (const Gap& run : mapped_runs(s)) {
        SegmentView view{Bytes{run.begin}, Bytes{run.end - run.begin}, static_cast<StreamId>(s.stream), s.small, options_.expandable_segments, {}};
        for (const Gap& gap : gaps(s))
          if (gap.begin >= run.begin && gap.end <= run.end) view.blocks.push_back({BlockView::State::inactive, Bytes{gap.begin}, Bytes{gap.end - gap.begin}, {}});
        for (const Occupied& o : occupied_)
          if (o.address >= run.begin && o.address < run.end)
            view.blocks.push_back({o.live ? BlockView::State::active_allocated : BlockView::State::active_pending_free, Bytes{o.address}, Bytes{o.size}, Bytes{o.requested}});
        std::sort(view.blocks.begin(), view.blocks.end(), [](const BlockView& a, const BlockView& b) { return a.address < b.address; });
        views.push_back(view);
      }
    }
    return views;
  }

 private:
  struct Gap { std::int64_t begin = 0, end = 0; };
  struct Segment {
    std::int64_t begin = 0, size = 0;
    int stream = 0;
    bool small = false;
    std::int64_t free_since = 0;
    std::vector<bool> pages;  // mapped or not; empty: all of it is
  };

  static bool pending(const Occupied& o) { return !o.live; }
  bool all_over(const Occupied& o) {
    return std::all_of(o.events.begin(), o.events.end(), [&](const auto& event) { return event.second <= over_[event.first]; });
  }
  Occupied& find(int key) { return *std::find_if(occupied_.begin(), occupied_.end(), [&](const Occupied& o) { return o.key == key; }); }
  bool belongs(const Occupied& o, const Segment& s) const { return o.address >= s.begin && o.address < s.begin + s.size; }
  bool is_free(const Segment& s) const { return std::none_of(occupied_.begin(), occupied_.end(), [&](const Occupied& o) { return belongs(o, s); }); }
  std::int64_t page(bool small) const { return small ? 2 * kMiB : options_.large_segment_bytes.value(); }

  void left(const Occupied& o) {
    for (Segment& s : segments_)
      if (belongs(o, s)) s.free_since = lookups_;
  }

  std::int64_t rounded(std::int64_t request) const {
    if (request <= 512) return 512;
    std::size_t interval = 0;
    while (interval < 15 && request >= (std::int64_t{2} << interval) * kMiB) ++interval;
    const std::int64_t divisions = options_.roundup_power2_divisions[interval];
    std::int64_t step = 512;
    if (divisions > 1 && request > 512 * divisions)
      for (step = 1; step * divisions * 2 <= request;) step *= 2;
    std::int64_t size = request / step * step;
    return size < request ? size + step : size;
  }

  std::vector<Gap> mapped_runs(const Segment& s) const {
    if (s.pages.empty()) return {{s.begin, s.begin + s.size}};
    std::vector<Gap> runs;
    for (std::size_t i = 0; i < s.pages.size(); ++i) {
      if (!s.pages[i]) continue;
      const std::int64_t at = s.begin + static_cast<std::int64_t>(i) * page(s.small);
      if (runs.empty() || runs.back().end != at) runs.push_back({at, at});
      runs.back().end = at + page(s.small);
    }
    return runs;
  }

  std::vector<Gap> gaps(const Segment& s) const {
    std::vector<Gap> found;
    for (const Gap& run : mapped_runs(s)) {
      std::int64_t at = run.begin;
      while (at < run.end) {
        std::int64_t next = run.end, resume = run.end;
        for (const Occupied& o : occupied_)
          if (o.address >= at && o.address < next) next = o.address, resume = o.address + o.size;
        if (next > at) found.push_back({at, next});
        at = resume;
      }
    }
    return found;
  }

  std::int64_t growable(const Segment& s, const Gap& gap) const {
    std::int64_t end = gap.end;
    if (s.pages.empty()) return end - gap.begin;
    while (end < s.begin + s.size && (end - s.begin) % page(s.small) == 0 && !s.pages[static_cast<std::size_t>((end - s.begin) / page(s.small))]) end += page(s.small);
    return end - gap.begin;
  }

  std::optional<Gap> best_fit(int stream, bool small, std::int64_t size) {
    if (!small) ++lookups_;
    struct Candidate { Gap gap; std::int64_t growable; };
    std::vector<Candidate> fits;
    for (const Segment& s : segments_)
      if (s.stream == stream && s.small == small)
        for (const Gap& gap : gaps(s))
          if (gap.end - gap.begin >= size) fits.push_back({gap, growable(s, gap)});
    if (fits.empty()) return std::nullopt;
    std::sort(fits.begin(), fits.end(), [](const Candidate& a, const Candidate& b) {
      return std::pair(a.gap.end - a.gap.begin, a.gap.begin) < std::pair(b.gap.end - b.gap.begin, b.gap.begin);
    });
    std::size_t chosen = 0;
    if (options_.expandable_segments)
      while (chosen + 1 < fits.size() && fits[chosen + 1].growable < fits[chosen].growable) ++chosen;
    const std::int64_t found = fits[chosen].gap.end - fits[chosen].gap.begin;
    if (size < split_limit_ && found >= split_limit_) return std::nullopt;
    if (size >= split_limit_ && found >= size + options_.max_non_split_rounding_bytes.value_or(options_.large_segment_bytes).value()) return std::nullopt;
    return fits[chosen].gap;
  }

  std::int64_t reserved() const {
    std::int64_t sum = 0;
    for (const Segment& s : segments_)
      for (const Gap& run : mapped_runs(s)) sum += run.end - run.begin;
    return sum;
  }

  std::int64_t place(std::int64_t size) const {
    const auto whole = [](std::int64_t bytes) { return (bytes + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB); };
    std::int64_t at = 2 * kMiB;
    for (bool moved = true; moved;) {
      moved = false;
      for (const Segment& s : segments_)
        if (at < s.begin + whole(s.size) && s.begin < at + whole(size)) at = s.begin + whole(s.size), moved = true;
    }
    return at;
  }

  std::optional<Gap> grow(int stream, bool small, std::int64_t size) {
    const std::int64_t wanted = small ? 2 * kMiB : size < 10 * kMiB ? options_.large_segment_bytes.value() : (size + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB);
    if (options_.limit_bytes && reserved() + wanted > options_.limit_bytes->value()) return std::nullopt;
    if (options_.expandable_segments) return expand(stream, small, size);
    if (options_.capacity_bytes && reserved() + wanted > options_.capacity_bytes->value()) return std::nullopt;
    segments_.push_back({place(wanted), wanted, stream, small, 0, {}});
    note_peaks();
    return Gap{segments_.back().begin, segments_.back().begin + wanted};
  }

  bool occupied_at(std::int64_t at) const {
    return std::any_of(occupied_.begin(), occupied_.end(), [&](const Occupied& o) { return at >= o.address && at < o.address + o.size; });
  }

  std::optional<Gap> expand(int stream, bool small, std::int64_t size) {
    std::sort(segments_.begin(), segments_.end(), [](const Segment& a, const Segment& b) { return a.begin < b.begin; });
    for (Segment& s : segments_) {
      if (s.stream != stream || s.small != small) continue;
      for (std::size_t i = 0; i < s.pages.size(); ++i) {
        if (s.pages[i] || (i > 0 && !s.pages[i - 1])) continue;  // i begins an unmapped run
        std::int64_t first = s.begin + static_cast<std::int64_t>(i) * page(small);
        for (const Gap& gap : gaps(s))
          if (gap.end == first) { first = gap.begin; break; }
        std::int64_t end = s.begin + s.size;
        for (const Occupied& o : occupied_)
          if (o.address >= first && o.address < end) end = o.address;
        if (end - first >= size) return map(s, first, size);
      }
    }
    const std::int64_t total = options_.device_bytes.value() / 8 * 9;
    const auto pages = static_cast<std::size_t>((total + page(small) - 1) / page(small));
    Segment range{0, static_cast<std::int64_t>(pages) * page(small), stream, small, 0, std::vector<bool>(pages, false)};
    range.begin = place(range.size);
    segments_.push_back(range);
    return map(segments_.back(), range.begin, size);
  }

  std::optional<Gap> map(Segment& s, std::int64_t first, std::int64_t size) {
    const auto begin = static_cast<std::size_t>((first - s.begin) / page(s.small)), end = static_cast<std::size_t>((first + size - s.begin - 1) / page(s.small)) + 1;
    for (std::size_t i = begin; i < end;) {
      std::size_t run = i;
      while (run < end && !s.pages[run]) ++run;
      const auto pages = static_cast<std::int64_t>(run - i);
      if (options_.capacity_bytes && pages > 0 && reserved() + pages * page(s.small) > options_.capacity_bytes->value()) return std::nullopt;
      for (std::size_t k = i; k < run; ++k) s.pages[k] = true;
      note_peaks();
      i = run + (pages == 0);
    }
    for (const Gap& gap : gaps(s))
      if (gap.begin == first) return gap;
    FAIL("the mapped gap is not there");
    return std::nullopt;
  }

  void unmap() {
    for (Segment& s : segments_) {
      bool touched = false;
      for (const Gap& gap : gaps(s)) {
        for (std::size_t i = 0; i < s.pages.size(); ++i) {
          const std::int64_t begin = s.begin + static_cast<std::int64_t>(i) * page(s.small);
          if (begin >= gap.begin && begin + page(s.small) <= gap.end) s.pages[i] = false, touched = true;
        }
      }
      if (touched && mapped_runs(s).empty()) s.size = 0;
    }
    std::erase_if(segments_, [](const Segment& s) { return s.size == 0; });
  }

  bool release_oversize(int stream, bool small, std::int64_t size) {
    if (!options_.max_split_bytes || options_.expandable_segments) return false;
    const std::int64_t wanted = std::max(size, split_limit_);
    const auto candidate = [&](const Segment& s) { return s.stream == stream && s.small == small && is_free(s) && s.size >= split_limit_; };
    const auto order = [](const Segment& a, const Segment& b) { return std::pair(a.size, a.begin) < std::pair(b.size, b.begin); };
    std::sort(segments_.begin(), segments_.end(), order);
    for (std::size_t i = 0; i < segments_.size(); ++i)
      if (candidate(segments_[i]) && segments_[i].size >= wanted) return segments_.erase(segments_.begin() + static_cast<std::ptrdiff_t>(i)), true;
    std::int64_t released = 0;
    for (std::size_t i = segments_.size(); i-- > 0 && released < wanted;)
      if (candidate(segments_[i])) released += segments_[i].size, segments_.erase(segments_.begin() + static_cast<std::ptrdiff_t>(i));
    return released >= wanted;
  }

  void collect_garbage() {
    if (!options_.limit_bytes || options_.garbage_collection_threshold == 0 || options_.expandable_segments) return;
    const auto threshold = static_cast<std::int64_t>(options_.garbage_collection_threshold * static_cast<double>(options_.limit_bytes->value()));
    const std::int64_t start = reserved();
    while (reserved() > threshold && start > threshold) {
      double sum = 0;
      int count = 0;
      for (const Segment& s : segments_)
        if (!s.small && is_free(s)) sum += static_cast<double>(lookups_ - s.free_since), ++count;
      if (count == 0) return;
      std::erase_if(segments_, [&](const Segment& s) { return !s.small && is_free(s) && static_cast<double>(lookups_ - s.free_since) >= sum / count; });
    }
  }

  void note(AllocatorCounters& to) {
    const auto set = [](ByteGauge& gauge, std::int64_t value) { gauge.current = Bytes{value}, gauge.peak = std::max(gauge.peak, gauge.current); };
    std::int64_t sum_requested = 0, sum_allocated = 0, sum_active = 0, split = 0;
    for (const Occupied& o : occupied_) sum_requested += o.requested, sum_active += o.size, sum_allocated += o.live ? o.size : 0;
    for (const Segment& s : segments_)
      if (s.pages.empty() && !is_free(s))
        for (const Gap& gap : gaps(s)) split += gap.end - gap.begin;
    set(to.requested, sum_requested), set(to.allocated, sum_allocated), set(to.active, sum_active), set(to.reserved, reserved());
    to.inactive_split = Bytes{split};
    to.segments = options_.expandable_segments ? 0 : static_cast<std::int64_t>(segments_.size());
  }
  void note_peaks() { note(counters_); }

  AllocatorOptions options_;
  std::int64_t split_limit_;
  std::vector<Segment> segments_;
  std::vector<Occupied> occupied_;
  std::map<int, std::int64_t> recorded_, over_;
  std::int64_t lookups_ = 0;
  AllocatorCounters counters_;
};

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : random_(seed) {}
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(n)); }
  bool one_in(std::int64_t n) { return below(n) == 0; }

 private:
  std::mt19937_64 random_;
};

AllocatorOptions random_options(Dice& dice) {
  AllocatorOptions options;
  options.device_bytes = Bytes{kGiB / 4};
  options.expandable_segments = dice.one_in(3);
  if (dice.one_in(2)) options.capacity_bytes = Bytes{(30 + dice.below(200)) * kMiB};
  if (dice.one_in(3)) options.limit_bytes = Bytes{(30 + dice.below(200)) * kMiB};
  if (dice.one_in(3)) options.large_segment_bytes = Bytes{options.expandable_segments ? (12 + 2 * dice.below(15)) * kMiB : (11 + dice.below(30)) * kMiB};
  if (dice.one_in(3)) options.max_split_bytes = options.large_segment_bytes + Bytes{dice.below(30) * kMiB};
  if (dice.one_in(3)) options.max_non_split_rounding_bytes = options.large_segment_bytes + Bytes{dice.below(10) * kMiB};
  if (dice.one_in(2)) options.garbage_collection_threshold = static_cast<double>(1 + dice.below(9)) / 10;
  if (dice.one_in(4))
    for (std::int64_t& divisions : options.roundup_power2_divisions) divisions = dice.one_in(2) ? 0 : std::int64_t{1} << dice.below(6);
  return options;
}

std::int64_t random_request(Dice& dice) {
  constexpr std::int64_t kEdges[] = {512, 1024, kMiB, 2 * kMiB, 3 * kMiB, 10 * kMiB, 19 * kMiB, 20 * kMiB, 22 * kMiB, 40 * kMiB};
  switch (dice.below(4)) {
    case 0: return std::max<std::int64_t>(1, kEdges[dice.below(10)] + dice.below(1026) - 513);
    case 1: return 1 + dice.below(3000);
    case 2: return 1 + dice.below(2 * kMiB);
    default: return 1 + dice.below(50 * kMiB);
  }
}

struct Tally {
  std::int64_t ooms = 0, retries = 0, pending_frees = 0;
};

// One random sequence through both; the first difference fails.
void compare_with_reference(std::uint64_t seed, Tally& tally) {
  Dice dice(seed);
  const AllocatorOptions options = random_options(dice);
  CachingAllocator ours(options);
  Reference reference(options);
  std::vector<std::pair<int, BlockId>> live;
  INFO("seed " << seed);
  for (int step = 0; step < 120; ++step) {
    INFO("step " << step);
    const std::int64_t what = dice.below(20);
    const auto any = live.empty() ? 0 : static_cast<std::size_t>(dice.below(static_cast<std::int64_t>(live.size())));
    const auto stream = static_cast<int>(dice.below(3));
    if (what < 10 || live.empty()) {
      const std::int64_t request = random_request(dice);
      const auto expected = reference.allocate(step, request, stream);
      const auto got = ours.allocate(Bytes{request}, static_cast<StreamId>(stream));
      REQUIRE(std::holds_alternative<BlockId>(got) == expected.has_value());
      if (expected) {
        REQUIRE(address(ours, std::get<BlockId>(got)) == expected->address);
        REQUIRE(size(ours, std::get<BlockId>(got)) == expected->size);
        live.emplace_back(step, std::get<BlockId>(got));
      }
    } else if (what < 15) {
      reference.free(live[any].first);
      ours.free(live[any].second);
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(any));
    } else if (what < 17) {
      reference.record_stream(live[any].first, stream);
      ours.record_stream(live[any].second, static_cast<StreamId>(stream));
    } else if (what < 19) {
      const std::int64_t count = dice.below(reference.recorded(stream) + 1);
      reference.complete(stream, count);
      ours.complete_events(static_cast<StreamId>(stream), count);
    } else if (dice.one_in(3)) {
      reference.empty_cache();
      ours.empty_cache();
    }
    REQUIRE(ours.events_recorded(static_cast<StreamId>(stream)) == reference.recorded(stream));
    REQUIRE(ours.counters() == reference.counters());
    if (step % 8 == 0) REQUIRE(ours.snapshot() == reference.snapshot());
    tally.pending_frees += ours.counters().active.current != ours.counters().allocated.current;
  }
  tally.ooms += ours.counters().ooms;
  tally.retries += ours.counters().retries;
}

}  // namespace

// --- Rounding and segments

TEST_CASE("a block is the request rounded up to 512 bytes, and at least that", "[unit]") {
  CachingAllocator allocator;
  CHECK(size(allocator, take(allocator, 1)) == 512);
  CHECK(size(allocator, take(allocator, 512)) == 512);
  CHECK(size(allocator, take(allocator, 513)) == 1024);
  CHECK(requested(allocator) == 1 + 512 + 513);
  CHECK(allocated(allocator) == 2048);
}

TEST_CASE("a segment is 2 MiB up to 1 MiB, 20 MiB below 10 MiB, else the request rounded up to 2 MiB", "[unit]") {
  struct Case { std::int64_t request, segment; };
  for (const auto& [request, segment] : {Case{1, 2 * kMiB}, {kMiB, 2 * kMiB}, {kMiB + 1, 20 * kMiB}, {10 * kMiB - 512, 20 * kMiB},
                                         {10 * kMiB - 511, 10 * kMiB}, {10 * kMiB, 10 * kMiB}, {10 * kMiB + 1, 12 * kMiB}, {5 * kGiB + 1, 5 * kGiB + 2 * kMiB}}) {
    CachingAllocator allocator;
    take(allocator, request);
    CHECK(reserved(allocator) == segment);
    CHECK(allocator.counters().segments == 1);
  }
}

TEST_CASE("large_segment_bytes is the segment of requests below 10 MiB, and of no others", "[unit]") {
  CachingAllocator allocator({.large_segment_bytes = Bytes{64 * kMiB}});
  take(allocator, 3 * kMiB);
  CHECK(reserved(allocator) == 64 * kMiB);
  CachingAllocator other({.large_segment_bytes = Bytes{64 * kMiB}});
  take(other, 12 * kMiB);
  CHECK(reserved(other) == 12 * kMiB);
}

TEST_CASE("roundup divisions cut each power of two into equal steps", "[unit]") {
  AllocatorOptions options;
  options.roundup_power2_divisions.fill(4);
  CachingAllocator allocator(options);
  CHECK(size(allocator, take(allocator, 2048)) == 2048);        // not above 512 × 4: as ever
  CHECK(size(allocator, take(allocator, 5000)) == 5 * 1024);    // steps of 4096 / 4
  CHECK(size(allocator, take(allocator, 8192)) == 8192);
  CHECK(size(allocator, take(allocator, 1200 * kMiB)) == 1280 * kMiB);  // steps of 1 GiB / 4
}

TEST_CASE("roundup divisions apply to their own interval of sizes", "[unit]") {
  AllocatorOptions options;
  options.roundup_power2_divisions[5] = 2;  // 32 to 64 MiB
  CachingAllocator allocator(options);
  CHECK(size(allocator, take(allocator, 33 * kMiB)) == 48 * kMiB);
  CHECK(size(allocator, take(allocator, 66 * kMiB)) == 66 * kMiB);
}

// --- Pools, best fit and splitting

TEST_CASE("small and large requests live in different segments", "[unit]") {
  CachingAllocator allocator;
  allocator.free(take(allocator, 3 * kMiB));
  take(allocator, kMiB);  // 20 MiB are free, but of the large pool
  CHECK(reserved(allocator) == 22 * kMiB);
}

TEST_CASE("a stream never gets another stream's free block", "[unit]") {
  CachingAllocator allocator;
  allocator.free(take(allocator, 12 * kMiB, kMain));
  take(allocator, 12 * kMiB, kSide);
  CHECK(reserved(allocator) == 24 * kMiB);
  take(allocator, 12 * kMiB, kMain);
  CHECK(reserved(allocator) == 24 * kMiB);
}

TEST_CASE("the smallest free block that suffices is taken, and of equals the one at the lowest address", "[unit]") {
  CachingAllocator allocator;
  const BlockId a = take(allocator, 30 * kMiB), b = take(allocator, 14 * kMiB), c = take(allocator, 12 * kMiB), d = take(allocator, 12 * kMiB);
  const std::int64_t c_at = address(allocator, c), d_at = address(allocator, d);
  CHECK(c_at < d_at);
  for (const BlockId block : {a, b, d, c}) allocator.free(block);
  CHECK(address(allocator, take(allocator, 11 * kMiB + 1)) == c_at);
  CHECK(address(allocator, take(allocator, 11 * kMiB + 1)) == d_at);
}

TEST_CASE("a large block keeps a remainder of up to 1 MiB and gives back a greater one", "[unit]") {
  CachingAllocator keeps;
  CHECK(size(keeps, take(keeps, 19 * kMiB)) == 20 * kMiB);
  CHECK(allocated(keeps) == 20 * kMiB);  // memory_allocated depends on it, the requests do not
  CHECK(requested(keeps) == 19 * kMiB);
  CHECK(keeps.counters().inactive_split == Bytes{0});
  CachingAllocator splits;
  splits.free(take(splits, 20 * kMiB));
  CHECK(size(splits, take(splits, 19 * kMiB - 512)) == 19 * kMiB - 512);
  CHECK(splits.counters().inactive_split == Bytes{kMiB + 512});
}

TEST_CASE("a small block is split down to 512 bytes, the low part is handed out", "[unit]") {
  CachingAllocator allocator;
  const BlockId first = take(allocator, 512), second = take(allocator, kMiB), third = take(allocator, kMiB - 1024);
  CHECK(address(allocator, second) == address(allocator, first) + 512);
  CHECK(address(allocator, third) == address(allocator, second) + kMiB);
  CHECK(allocator.counters().inactive_split == Bytes{512});
  CHECK(reserved(allocator) == 2 * kMiB);
}

TEST_CASE("requests below max_split_bytes leave bigger blocks alone, and those are never cut", "[unit]") {
  CachingAllocator allocator({.max_split_bytes = Bytes{40 * kMiB}});
  allocator.free(take(allocator, 60 * kMiB));
  take(allocator, 30 * kMiB);
  CHECK(reserved(allocator) == 90 * kMiB);
  CHECK(size(allocator, take(allocator, 45 * kMiB)) == 60 * kMiB);
}

TEST_CASE("a request of max_split_bytes and more takes a block only within the rounding limit", "[unit]") {
  CachingAllocator allocator({.max_split_bytes = Bytes{30 * kMiB}});
  allocator.free(take(allocator, 60 * kMiB));
  CHECK(size(allocator, take(allocator, 40 * kMiB)) == 40 * kMiB);  // 60 ≥ 40 + 20
  CHECK(size(allocator, take(allocator, 40 * kMiB + 512)) == 60 * kMiB);
}

// --- Freeing and merging

TEST_CASE("a freed block merges with both neighbours", "[unit]") {
  CachingAllocator allocator;
  const BlockId a = take(allocator, 4 * kMiB), b = take(allocator, 6 * kMiB), c = take(allocator, 5 * kMiB);
  allocator.free(a);
  allocator.free(c);
  CHECK(allocator.counters().inactive_split == Bytes{14 * kMiB});
  CHECK(allocator.snapshot()[0].blocks.size() == 3);
  allocator.free(b);
  CHECK(allocator.snapshot()[0].blocks.size() == 1);
  CHECK(allocator.counters().inactive_split == Bytes{0});  // whole again
}

TEST_CASE("a block that another stream uses stays active until that stream's event is over", "[unit]") {
  CachingAllocator allocator;
  const BlockId block = take(allocator, 12 * kMiB);
  allocator.record_stream(block, kSide);
  allocator.free(block);
  CHECK(allocated(allocator) == 0);
  CHECK(active(allocator) == 12 * kMiB);
  CHECK(requested(allocator) == 12 * kMiB);
  CHECK(allocator.snapshot()[0].blocks[0].state == BlockView::State::active_pending_free);
  CHECK(allocator.events_recorded(kSide) == 1);
  take(allocator, 12 * kMiB);
  CHECK(reserved(allocator) == 24 * kMiB);

  allocator.complete_events(kSide, 1);
  CHECK(active(allocator) == 24 * kMiB);  // nobody has looked yet
  take(allocator, 12 * kMiB);
  CHECK(reserved(allocator) == 24 * kMiB);
  CHECK(active(allocator) == 24 * kMiB);
}

TEST_CASE("a block used on two other streams waits for both", "[unit]") {
  CachingAllocator allocator;
  const BlockId block = take(allocator, 12 * kMiB);
  for (const StreamId stream : {kSide, StreamId{2}}) allocator.record_stream(block, stream);
  allocator.free(block);
  allocator.complete_events(StreamId{2}, 1);
  take(allocator, 512);
  CHECK(active(allocator) == 12 * kMiB + 512);
  allocator.complete_events(kSide, 1);
  take(allocator, 512);
  CHECK(active(allocator) == 1024);
}

TEST_CASE("record_stream on the block's own stream does nothing, and twice is once", "[unit]") {
  CachingAllocator allocator;
  const BlockId own = take(allocator, 512), twice = take(allocator, 512);
  allocator.record_stream(own, kMain);
  allocator.free(own);
  CHECK(active(allocator) == 512);
  allocator.record_stream(twice, kSide);
  allocator.record_stream(twice, kSide);
  allocator.free(twice);
  CHECK(allocator.events_recorded(kSide) == 1);
  CHECK(allocator.events_recorded(kMain) == 0);
}

TEST_CASE("a waiting block is not merged into, and merges when its event is over", "[unit]") {
  CachingAllocator allocator;
  const BlockId a = take(allocator, 4 * kMiB), b = take(allocator, 6 * kMiB);
  allocator.record_stream(a, kSide);
  allocator.free(a);
  allocator.free(b);
  CHECK(allocator.snapshot()[0].blocks.size() == 2);
  allocator.complete_events(kSide, 1);
  take(allocator, 512);
  CHECK(allocator.snapshot()[0].blocks.size() == 1);
}

// --- When memory ends

TEST_CASE("an unsuccessful cudaMalloc empties the cache of every stream and pool and tries once more", "[unit]") {
  CachingAllocator allocator({.capacity_bytes = Bytes{50 * kMiB}});
  allocator.free(take(allocator, 30 * kMiB, kSide));
  allocator.free(take(allocator, 512, kSide));
  take(allocator, 40 * kMiB);
  CHECK(allocator.counters().retries == 1);
  CHECK(allocator.counters().synchronizations == 1);
  CHECK(allocator.counters().segments == 1);
  CHECK(reserved(allocator) == 40 * kMiB);
  CHECK(allocator.counters().reserved.peak == Bytes{40 * kMiB});
}

TEST_CASE("emptying the cache waits for events and leaves segments that are partly in use", "[unit]") {
  CachingAllocator allocator;
  const BlockId waiting = take(allocator, 12 * kMiB), small = take(allocator, 512);
  take(allocator, 512);
  allocator.record_stream(waiting, kSide);
  allocator.free(waiting);
  allocator.free(small);
  allocator.empty_cache();
  CHECK(active(allocator) == 512);
  CHECK(reserved(allocator) == 2 * kMiB);
}

TEST_CASE("free memory in pieces does not help: out of memory with half of it unallocated", "[unit]") {
  CachingAllocator allocator({.capacity_bytes = Bytes{40 * kMiB}});
  std::vector<BlockId> blocks;
  for (int i = 0; i < 8; ++i) blocks.push_back(take(allocator, 5 * kMiB));
  for (std::size_t i = 0; i < 8; i += 2) allocator.free(blocks[i]);
  const OutOfMemory failure = refused(allocator, 6 * kMiB);
  CHECK(failure.unallocated_bytes == Bytes{20 * kMiB});
  CHECK(failure.free_bytes == Bytes{0});
  CHECK(allocator.counters().ooms == 1);
  CHECK(allocator.counters().inactive_split == Bytes{20 * kMiB});
  take(allocator, 5 * kMiB);  // still usable
}

TEST_CASE("the out-of-memory text names the segment, not the request: 3 MiB prints 20.00 MiB", "[unit]") {
  CachingAllocator allocator({.capacity_bytes = Bytes{19 * kMiB}, .device_bytes = Bytes{80 * kGiB}});
  take(allocator, 512);
  const OutOfMemory failure = refused(allocator, 3 * kMiB);
  CHECK(failure.requested_bytes == Bytes{3 * kMiB});
  CHECK(failure.segment_bytes == Bytes{20 * kMiB});
  CHECK(text(failure) ==
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 80.00 GiB of which 17.00 MiB is free. Of the allocated memory "
        "512 bytes is allocated by PyTorch, and 2.00 MiB is reserved by PyTorch but unallocated.");
}

TEST_CASE("a memory fraction is compared with the segment's size, even with expandable segments", "[unit]") {
  for (const bool expandable : {false, true}) {
    CachingAllocator allocator({.expandable_segments = expandable, .limit_bytes = Bytes{40 * kMiB}, .large_segment_bytes = Bytes{12 * kMiB}});
    take(allocator, 36 * kMiB);  // three pages
    CHECK(refused(allocator, 2 * kMiB).segment_bytes == Bytes{12 * kMiB});
    take(allocator, 512);
    CHECK(text(refused(allocator, 3 * kMiB)).find("40.00 MiB allowed; ") != std::string::npos);
  }
}

TEST_CASE("with max_split_bytes, releasing one big enough block comes before emptying everything", "[unit]") {
  CachingAllocator allocator({.capacity_bytes = Bytes{100 * kMiB}, .max_split_bytes = Bytes{30 * kMiB}});
  const BlockId a = take(allocator, 36 * kMiB), b = take(allocator, 60 * kMiB);
  allocator.free(a);
  allocator.free(b);
  take(allocator, 38 * kMiB);  // 60 is too far above 38 to be taken, but is released
  CHECK(allocator.counters().retries == 0);
  CHECK(reserved(allocator) == 74 * kMiB);
}

TEST_CASE("with max_split_bytes, several big blocks are released from the largest down", "[unit]") {
  CachingAllocator allocator({.capacity_bytes = Bytes{110 * kMiB}, .max_split_bytes = Bytes{30 * kMiB}});
  const BlockId a = take(allocator, 32 * kMiB), b = take(allocator, 36 * kMiB), c = take(allocator, 40 * kMiB);
  for (const BlockId block : {a, b, c}) allocator.free(block);
  take(allocator, 70 * kMiB);
  CHECK(allocator.counters().retries == 0);
  CHECK(reserved(allocator) == 102 * kMiB);
}

TEST_CASE("garbage is collected only above the threshold and only where there is a limit", "[unit]") {
  for (const auto& limit : {std::optional<Bytes>{Bytes{400 * kMiB}}, std::optional<Bytes>{}}) {
    CachingAllocator allocator({.limit_bytes = limit, .garbage_collection_threshold = 0.25});
    allocator.free(take(allocator, 100 * kMiB));  // just the threshold
    take(allocator, 150 * kMiB);
    CHECK(reserved(allocator) == 250 * kMiB);
    take(allocator, 110 * kMiB);  // above it now
    CHECK(reserved(allocator) == (limit ? 260 : 360) * kMiB);
  }
}

TEST_CASE("garbage collection keeps the young segment when releasing the old one is enough", "[unit]") {
  CachingAllocator allocator({.limit_bytes = Bytes{200 * kMiB}, .garbage_collection_threshold = 0.3});
  const BlockId old = take(allocator, 40 * kMiB), young = take(allocator, 20 * kMiB);
  allocator.free(old);
  for (int i = 0; i < 5; ++i) allocator.free(take(allocator, 3 * kMiB, kSide));  // lookups: time passes
  allocator.free(young);
  CHECK(reserved(allocator) == 80 * kMiB);
  take(allocator, 60 * kMiB);  // 80 above 60: the 40 goes, the others are younger than the mean
  CHECK(reserved(allocator) == 100 * kMiB);
  CHECK(allocator.counters().retries == 0);
}

// --- Expandable segments

TEST_CASE("an expandable range maps pages as they are needed and merges them", "[unit]") {
  CachingAllocator allocator({.expandable_segments = true});
  const BlockId a = take(allocator, 3 * kMiB);
  CHECK(reserved(allocator) == 20 * kMiB);  // one page
  const BlockId b = take(allocator, 30 * kMiB);
  CHECK(address(allocator, b) == address(allocator, a) + 3 * kMiB);
  CHECK(reserved(allocator) == 40 * kMiB);
  CHECK(allocator.counters().segments == 0);
  CHECK(allocator.counters().inactive_split == Bytes{0});
  allocator.free(a);
  allocator.free(b);
  take(allocator, 40 * kMiB);  // no fragmentation: cudaMalloc would have needed a third segment
  CHECK(reserved(allocator) == 40 * kMiB);
}

TEST_CASE("expandable pages are 2 MiB for small blocks and large_segment_bytes for large ones", "[unit]") {
  CachingAllocator allocator({.expandable_segments = true, .large_segment_bytes = Bytes{32 * kMiB}});
  take(allocator, 512);
  CHECK(reserved(allocator) == 2 * kMiB);
  take(allocator, 2 * kMiB);
  CHECK(reserved(allocator) == 34 * kMiB);
}

TEST_CASE("a block of an expandable range is split down to 512 bytes", "[unit]") {
  CachingAllocator allocator({.expandable_segments = true});
  CHECK(size(allocator, take(allocator, 20 * kMiB - 512)) == 20 * kMiB - 512);
}

TEST_CASE("only pages that lie wholly in free blocks are unmapped, and the hole is mapped again first", "[unit]") {
  CachingAllocator allocator({.expandable_segments = true});
  const BlockId a = take(allocator, 10 * kMiB), b = take(allocator, 60 * kMiB);
  take(allocator, 10 * kMiB);
  const std::int64_t hole = address(allocator, a) + 10 * kMiB;
  allocator.free(b);
  allocator.empty_cache();  // free: 10 to 70 of four pages; whole: 20 to 60
  CHECK(reserved(allocator) == 40 * kMiB);
  CHECK(allocator.snapshot().size() == 2);
  CHECK(address(allocator, take(allocator, 25 * kMiB)) == hole);
  CHECK(reserved(allocator) == 60 * kMiB);
}

TEST_CASE("a range without a mapped page is given back", "[unit]") {
  CachingAllocator allocator({.expandable_segments = true});
  const BlockId block = take(allocator, 30 * kMiB);
  const std::int64_t begin = address(allocator, block);
  allocator.free(block);
  allocator.empty_cache();
  CHECK(reserved(allocator) == 0);
  CHECK(allocator.snapshot().empty());
  CHECK(address(allocator, take(allocator, 512, kSide)) == begin);
}

TEST_CASE("best fit in an expandable range prefers a block that cannot grow", "[unit]") {
  CachingAllocator allocator({.expandable_segments = true});
  const BlockId hole = take(allocator, 15 * kMiB);
  take(allocator, 11 * kMiB);  // behind it 14 MiB of the second page, which can grow
  const std::int64_t hole_at = address(allocator, hole);
  allocator.free(hole);
  CHECK(address(allocator, take(allocator, 12 * kMiB)) == hole_at);
}

// --- The rest

TEST_CASE("peaks keep the most there was until they are reset", "[unit]") {
  CachingAllocator allocator;
  const BlockId block = take(allocator, 12 * kMiB);
  allocator.free(block);
  CHECK(allocator.counters().allocated == ByteGauge{Bytes{0}, Bytes{12 * kMiB}});
  allocator.reset_peaks();
  CHECK(allocator.counters().allocated == ByteGauge{Bytes{0}, Bytes{0}});
  CHECK(allocator.counters().reserved == ByteGauge{Bytes{12 * kMiB}, Bytes{12 * kMiB}});
}

TEST_CASE("a pinned buffer takes the next power of two", "[unit]") {
  CHECK(pinned_bytes(Bytes{1}) == Bytes{1});
  CHECK(pinned_bytes(Bytes{4096}) == Bytes{4096});
  CHECK(pinned_bytes(Bytes{4097}) == Bytes{8192});
  CHECK(pinned_bytes(Bytes{5 * kGiB}) == Bytes{8 * kGiB});
  CHECK_THROWS_AS(pinned_bytes(Bytes{INT64_MAX}), OverflowError);
}

TEST_CASE("a request of 1 EB is refused before anything is looked at", "[unit]") {
  CachingAllocator allocator;
  CHECK_THROWS_AS(allocator.allocate(Bytes{std::int64_t{1} << 60}, kMain), OverflowError);
  CHECK(allocator.counters() == AllocatorCounters{});
}

TEST_CASE("options that PyTorch refuses are refused", "[unit]") {
  CHECK_THROWS_AS(CachingAllocator({.large_segment_bytes = Bytes{10 * kMiB}}), UsageError);
  CHECK_NOTHROW(CachingAllocator({.large_segment_bytes = Bytes{11 * kMiB}}));
  CHECK_THROWS_AS(CachingAllocator({.expandable_segments = true, .large_segment_bytes = Bytes{11 * kMiB}}), UsageError);
  CHECK_THROWS_AS(CachingAllocator({.max_split_bytes = Bytes{19 * kMiB}}), UsageError);
  CHECK_THROWS_AS(CachingAllocator({.max_non_split_rounding_bytes = Bytes{19 * kMiB}}), UsageError);
  CHECK_THROWS_AS(CachingAllocator({.garbage_collection_threshold = 1.0}), UsageError);
  AllocatorOptions options;
  options.roundup_power2_divisions[3] = 6;
  CHECK_THROWS_AS(CachingAllocator(options), UsageError);
}

TEST_CASE("addresses, blocks and counters are those of an allocator that keeps no lists", "[property]") {
  Tally tally;
  for (std::uint64_t seed = 1; seed <= 5000; ++seed) compare_with_reference(seed, tally);
  CHECK(tally.ooms > 1000);  // else the sequences miss what matters
  CHECK(tally.retries > 1000);
  CHECK(tally.pending_frees > 1000);
}

TEST_CASE("when everything is freed nothing is allocated, every segment is one block, and emptying the cache gives all back", "[property]") {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Dice dice(seed);
    AllocatorOptions options = random_options(dice);
    options.capacity_bytes = options.limit_bytes = std::nullopt;
    CachingAllocator allocator(options);
    std::vector<BlockId> live;
    for (int i = 0; i < 100; ++i) live.push_back(take(allocator, 1 + dice.below(3 * kMiB), static_cast<StreamId>(dice.below(3))));
    for (std::size_t i = live.size(); i > 1; --i) std::swap(live[i - 1], live[static_cast<std::size_t>(dice.below(static_cast<std::int64_t>(i)))]);
    for (const BlockId block : live) allocator.free(block);
    CHECK(allocated(allocator) == 0);
    CHECK(active(allocator) == 0);
    CHECK(requested(allocator) == 0);
    CHECK(allocator.counters().inactive_split == Bytes{0});
    for (const SegmentView& segment : allocator.snapshot()) CHECK(segment.blocks.size() == 1);
    allocator.empty_cache();
    CHECK(reserved(allocator) == 0);
    CHECK(allocator.counters().segments == 0);
    CHECK(allocator.snapshot().empty());
  }
}

}  // namespace zeroplan
