#include "gui/views/bench.h"

#include <QCoreApplication>
#include <QElapsedTimer>
#include <QSlider>
#include <QThread>
#include <algorithm>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "gui/models/curve_tables.h"
#include "gui/models/raster.h"
#include "gui/views/look.h"
#include "gui/views/main_window.h"
#include "gui/views/map_view.h"
#include "gui/views/plan_screen.h"
#include "gui/views/plan_session.h"
#include "gui/views/step_view.h"

namespace zeroplan::gui {
namespace {

struct Times {
  std::vector<double> ms;
  double part(double ratio) {
    std::sort(ms.begin(), ms.end());
    return ms.empty() ? 0 : ms[std::min(ms.size() - 1, static_cast<std::size_t>(ratio * static_cast<double>(ms.size())))];
  }
};

double ms_of(const QElapsedTimer& timer) { return static_cast<double>(timer.nsecsElapsed()) * 1e-6; }

void bench_slider(MainWindow& window, PlanSession& session, const char* name) {
  auto* slider = window.findChild<QSlider*>(name);
  if (slider == nullptr || !slider->isEnabled()) return;  // a knob that the plan's engine does not have
  Times whole, compile, price, layout, walk;
  const int first = slider->value();
  for (int round = 0; round < 3; ++round)
    for (int at = slider->minimum(); at <= std::min(slider->maximum(), slider->minimum() + 63); ++at) {
      if (at == slider->value()) continue;
      QElapsedTimer timer;
      timer.start();
      slider->setValue(at);
      window.repaint();
      QCoreApplication::sendPostedEvents();
      do QCoreApplication::processEvents(QEventLoop::ExcludeUserInputEvents);
      while (session.is_answering());
      whole.ms.push_back(ms_of(timer));
      const Cost& cost = session.last_cost();
      compile.ms.push_back(cost.compile_ms);
      price.ms.push_back(cost.price_ms);
      layout.ms.push_back(cost.layout_ms);
      walk.ms.push_back(cost.walk_ms);
    }
  fmt::print("slider {:<18} moves {:>3}  to end of paint: median {:5.1f} ms, p95 {:5.1f} ms   compile {:.2f}  price {:.2f}  layout {:.1f}  walk {:.2f} (medians)\n", name, whole.ms.size(), whole.part(0.5), whole.part(0.95),
             compile.part(0.5), price.part(0.5), layout.part(0.5), walk.part(0.5));
  slider->setValue(first);
}

// With the Map screen seen: how long the window's thread is busy with a move, and when the new map is painted.
void bench_map(MainWindow& window, PlanSession& session) {
  window.show_screen(Screen::map);
  auto* map = window.findChild<MapView*>("map_view");
  Times busy, painted, frame;
  for (int seq = 1024; seq <= 32768; seq += 1024) {
    QElapsedTimer timer;
    timer.start();
    if (!session.change("seq", std::to_string(seq), session.new_gesture())) continue;
    window.repaint();
    busy.ms.push_back(ms_of(timer));
    while (!map->is_current()) QCoreApplication::processEvents(QEventLoop::WaitForMoreEvents);
    window.repaint();
    painted.ms.push_back(ms_of(timer));
    QElapsedTimer again;
    again.start();
    map->fit();
    map->repaint();
    frame.ms.push_back(ms_of(again));
  }
  fmt::print("map: {} segments, {} blocks, {} gaps  window busy: median {:.1f} ms, p95 {:.1f} ms; map painted after: median {:.1f} ms, p95 {:.1f} ms; one frame: median {:.1f} ms, p95 {:.1f} ms\n", map->map()->segments.size(),
             map->map()->rectangles.size(), map->map()->gaps.size(), busy.part(0.5), busy.part(0.95), painted.part(0.5), painted.part(0.95), frame.part(0.5), frame.part(0.95));
  window.show_screen(Screen::plan);
}

// Stack, lanes and all else of the timeline, whole and zoomed.
void bench_lanes(MainWindow& window, PlanSession& session) {
  session.change("accumulate", "16", session.new_gesture());
  StepView* view = window.plan_screen()->step_view();
  std::size_t works = 0;
  for (const StreamLane& lane : session.now().picture.lanes) works += lane.work.size();
  Times whole, lanes;
  for (int f = 0; f < 120; ++f) {
    view->fit();
    if (f % 2 == 1) view->zoom(1 + f % 40, 0.5);
    QElapsedTimer timer;
    timer.start();
    view->repaint();
    whole.ms.push_back(ms_of(timer));
    QElapsedTimer columns;
    columns.start();
    std::size_t kept = 0;
    for (const StreamLane& lane : session.now().picture.lanes) kept += covered_ratios(lane.busy, SimTime(), session.now().picture.duration, 1600).size();
    if (kept > 0) lanes.ms.push_back(ms_of(columns));
  }
  fmt::print("timeline of {} memory events, {} works in lanes: a frame median {:.2f} ms, p95 {:.2f} ms; the lanes' columns (1600 wide) median {:.2f} ms, p95 {:.2f} ms\n", session.now().picture.memory.size(), works, whole.part(0.5),
             whole.part(0.95), lanes.part(0.5), lanes.part(0.95));
}

void bench_frames(std::size_t events) {
  std::mt19937_64 random(7);
  StackedSeries series;
  series.reserve(events);
  Stack now{};
  std::int64_t time = 0;
  for (std::size_t i = 0; i < events; ++i) {
    const auto category = static_cast<Category>(random() % kCategoryCount);
    std::int64_t& bytes = now[static_cast<std::size_t>(category)];
    const std::int64_t delta = bytes > (std::int64_t{1} << 32) || (bytes > 0 && random() % 2 == 0) ? -bytes / 2 : static_cast<std::int64_t>(random() % (std::uint64_t{1} << 30));
    bytes += delta;
    series.add(SimTime(time += static_cast<std::int64_t>(random() % 1000)), category, delta);
  }
  QElapsedTimer build;
  build.start();
  series.finish(SimTime(time + 1));
  const double build_ms = ms_of(build);
  constexpr int kWidth = 1600, kHeight = 600;
  std::vector<Pixel> pixels(static_cast<std::size_t>(kWidth) * kHeight);
  const RasterStyle style{Theme::light_theme().palette, 0xffffffff, std::int64_t{40} << 30, kHeight};
  Times whole, frame;
  for (int f = 0; f < 120; ++f) {
    // Every other frame shows the whole; the rest zoom in up to 1000 times and pan.
    const bool is_whole = f % 2 == 0;
    const std::int64_t span = is_whole ? time : std::max<std::int64_t>(time / (1 + f % 40 * 25), 1000), from = (time - span) * (f % 7) / 7;
    QElapsedTimer timer;
    timer.start();
    raster(series.columns(SimTime(from), SimTime(from + span), kWidth), style, pixels);
    (is_whole ? whole : frame).ms.push_back(ms_of(timer));
  }
  fmt::print("timeline {:>9} events  {}x{}  whole: median {:.2f} ms, p95 {:.2f} ms; zoomed: median {:.2f} ms, p95 {:.2f} ms   pyramid {:.1f} ms\n", events, kWidth, kHeight, whole.part(0.5), whole.part(0.95),
             frame.part(0.5), frame.part(0.95), build_ms);
}

// A million rows: the index of one order, and of one filter.
void bench_table(std::size_t rows) {
  auto curve = std::make_shared<Curve>();
  std::mt19937_64 random(11);
  std::vector<std::uint32_t> all(rows);
  for (std::uint32_t i = 0; i < rows; ++i) {
    const auto bytes = static_cast<std::int64_t>(random() % (std::uint64_t{1} << 30));
    curve->blocks.push_back({bytes, static_cast<std::int64_t>(random() % 3), i, i + static_cast<std::uint32_t>(random() % 1000), curve->strings.intern(fmt::format("function_{0} module.py:{0}", random() % 5000)), StringId{},
                             kEmptyStack, static_cast<std::uint8_t>(random() % kCategoryCount)});
    all[i] = i;
  }
  const BlocksSource source(curve, all, Palette{}, Language::english);
  const char* const columns[] = {"size", "category", "stack frame", "stream", "born", "dies"};
  for (int column = 0; column < 6; ++column) {
    QElapsedTimer timer;
    timer.start();
    const std::size_t shown = rows_in_order(source, {column, true, {}}).size();
    fmt::print("table {:>8} rows sorted by {:<12} {:5.1f} ms\n", shown, columns[column], ms_of(timer));
  }
  QElapsedTimer timer;
  timer.start();
  const std::size_t shown = rows_in_order(source, {0, true, "FUNCTION_77"}).size();
  fmt::print("table {:>8} rows filtered to {} and sorted by size {:5.1f} ms\n", rows, shown, ms_of(timer));
}

// The longest time in which the window took no event while jobs were under way, painting included.
double longest_gap_ms(PlanSession& session, const QString& lane = {}) {
  double longest = 0;
  while (lane.isEmpty() ? session.jobs().is_busy() : session.jobs().is_busy(lane)) {
    QElapsedTimer timer;
    timer.start();
    QCoreApplication::processEvents(QEventLoop::AllEvents);
    longest = std::max(longest, ms_of(timer));
    QThread::msleep(1);
  }
  return longest;
}

void bench_jobs(MainWindow& window, PlanSession& session, const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    longest_gap_ms(session);
    QElapsedTimer timer;
    timer.start();
    window.open_file(QString::fromStdString(file));
    const double gap = longest_gap_ms(session);
    window.repaint();
    fmt::print("file {}: shown after {:.0f} ms; longest gap of the event loop {:.1f} ms\n", file, ms_of(timer), gap);
  }
  longest_gap_ms(session);
  QElapsedTimer slow;
  slow.start();
  session.ask(with_key(session.now().asked, "accumulate", "64"), session.new_gesture());
  const double waited = ms_of(slow), gap = longest_gap_ms(session, "answer");
  fmt::print("answer of accumulate 64: after {:.0f} ms; longest gap of the event loop {:.1f} ms\n", ms_of(slow), std::max(waited, gap));
  auto* slider = window.findChild<QSlider*>("micro_batch");
  slider->setValue(slider->value() + 1);
  QElapsedTimer wait;
  for (wait.start(); !session.jobs().is_busy("fixes") && wait.elapsed() < 2000;) QCoreApplication::processEvents();
  fmt::print("fixes sought: longest gap of the event loop {:.1f} ms\n", longest_gap_ms(session));
}

}  // namespace

int bench(MainWindow& window, PlanSession& session, const std::vector<std::string>& files, double start_ms) {
  fmt::print("start to painted window: {:.0f} ms\n", start_ms);
  for (const char* slider : {"seq", "micro_batch", "accumulate", "gpus", "checkpoint", "prefetch_units", "loss_chunk_tokens"}) bench_slider(window, session, slider);
  bench_map(window, session);
  bench_lanes(window, session);
  for (const std::size_t events : {std::size_t{1'000'000}, std::size_t{10'000'000}}) bench_frames(events);
  bench_table(1'000'000);
  bench_jobs(window, session, files);
  return 0;
}

}  // namespace zeroplan::gui
