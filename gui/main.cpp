// zeroplan-gui: the window. Arguments: [FILE | the words of `zeroplan fit`] [--lang en|zh] [--dark] [--screen plan|map|compare|run] [--tab N]
// [--size WxH] [--before "the words of the plan before"] [--screenshot FILE.png] [--bench]. Exit codes as of zeroplan: 2 usage, 3 file, 4 no display, 70 our own mistake.
#include <QApplication>
#include <QElapsedTimer>
#include <QTabWidget>
#include <QTimer>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "gui/views/bench.h"
#include "gui/views/main_window.h"
#include "gui/views/map_view.h"
#include "gui/views/plan_screen.h"
#include "planner/core/error.h"
#include "planner/core/exit_code.h"

namespace {

using namespace zeroplan;
using namespace zeroplan::gui;

constexpr const char* kFirstModel = "internlm2-20b";
constexpr const char* kFirstCluster = "8xa100-80g";
constexpr int kSettleMs = 400;  // until fixes are found and drawn

struct Options {
  std::string question;  ///< what is left: words of `zeroplan fit`, or one file
  std::string file;
  std::string screenshot, before;
  QSize size{1280, 800};
  Screen screen = Screen::plan;
  int tab = 0;
  Language language = Language::english;
  bool dark = false, bench = false;
};

QSize size_of_text(const std::string& text) {
  int width = 0, height = 0;
  if (std::sscanf(text.c_str(), "%dx%d", &width, &height) != 2 || width < 320 || height < 240 || width > 16384 || height > 16384)
    throw UsageError(fmt::format("--size {}: write WIDTHxHEIGHT, as 1280x800", text));
  return {width, height};
}

Options options_of(const std::vector<std::string>& words) {
  Options out;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto value = [&]() -> const std::string& {
      if (i + 1 == words.size()) throw UsageError(words[i] + " needs a value");
      return words[++i];
    };
    if (words[i] == "--screenshot") out.screenshot = value();
    else if (words[i] == "--before") out.before = value();
    else if (words[i] == "--size") out.size = size_of_text(value());
    else if (words[i] == "--tab") out.tab = std::atoi(value().c_str());
    else if (words[i] == "--dark") out.dark = true;
    else if (words[i] == "--bench") out.bench = true;
    else if (words[i] == "--lang") out.language = value() == "zh" ? Language::chinese : Language::english;
    else if (words[i] == "--screen") {
      const std::optional<Screen> screen = screen_of(QString::fromStdString(value()));
      if (!screen) throw UsageError(words[i] + ": the screens are plan, map, compare and run");
      out.screen = *screen;
    } else if (words.size() == 1 || (!words[i].starts_with("--") && (words[i].ends_with(".json") || words[i].ends_with(".jsonl")) && out.question.empty())) {
      out.file = words[i];
    } else {
      out.question += (out.question.empty() ? "" : " ") + quoted(words[i]);
    }
  }
  return out;
}

Asked first_question(const std::string& words) {
  if (words.empty()) return asked_of(kFirstModel, kFirstCluster);
  const auto parsed = parse_command_line(words);
  if (const auto* error = std::get_if<LineError>(&parsed)) throw UsageError(error->message);
  return std::get<Asked>(parsed);
}

bool has_display(const Options& options) {
  if (!options.screenshot.empty() || options.bench || std::getenv("QT_QPA_PLATFORM") != nullptr) return true;
  return std::getenv("DISPLAY") != nullptr || std::getenv("WAYLAND_DISPLAY") != nullptr;
}

int run(int argc, char** argv) {
  QElapsedTimer started;
  started.start();
  Options options = options_of({argv + 1, argv + argc});
  if (!has_display(options))
    throw EnvironmentError("there is no display here. `zeroplan timeline MODEL --on CLUSTER -o step.json` writes the picture for a browser, or open your plan.json with zeroplan-gui on your own machine");
  if (!options.screenshot.empty() && std::getenv("QT_QPA_PLATFORM") == nullptr) qputenv("QT_QPA_PLATFORM", "offscreen");
  QApplication application(argc, argv);
  QApplication::setApplicationName("zeroplan");
  // A word that is no file on disk is a model.
  const bool is_model = !options.file.empty() && !options.file.ends_with(".json") && !options.file.ends_with(".jsonl");
  if (is_model) options.question = options.file + " --on " + kFirstCluster;
  PlanSession session(first_question(options.before.empty() ? options.question : options.before));
  if (!options.before.empty()) session.ask(first_question(options.question), session.new_gesture());
  MainWindow window(session, options.language, options.dark);
  window.resize(options.size);
  if (!options.file.empty() && !is_model) window.open_file(QString::fromStdString(options.file));
  if (options.screen != Screen::plan) window.show_screen(options.screen);
  window.plan_screen()->tabs()->setCurrentIndex(options.tab);
  window.show();
  if (options.bench) {
    window.repaint();
    return bench(window, session, static_cast<double>(started.nsecsElapsed()) * 1e-6);
  }
  if (options.screenshot.empty()) return QApplication::exec();
  int code = 0;
  const auto* map = window.findChild<MapView*>("map_view");
  QTimer::singleShot(kSettleMs, &window, [&] {
    while (map->isVisible() && !map->is_current()) QApplication::processEvents(QEventLoop::WaitForMoreEvents);
    if (!window.grab().save(QString::fromStdString(options.screenshot))) code = 5;
    QApplication::quit();
  });
  QApplication::exec();
  if (code != 0) throw RunError(options.screenshot + ": could not be written");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (...) {
    const Failure failure = current_failure();
    fmt::print(stderr, "zeroplan-gui: {}\n", failure.message);
    return failure.code;
  }
}
