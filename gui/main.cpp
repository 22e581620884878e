// zeroplan-gui: the window. Arguments: [FILES] [the words of `zeroplan fit`] [--lang en|zh] [--dark] [--screen plan|map|compare|run] [--tab N]
// [--size WxH] [--before "the words of the plan before"] [--screenshot FILE.png|FILE.svg] [--bench]. Exit codes as of zeroplan: 2 usage, 3 file, 4 no display, 70 our own mistake.
#include <QApplication>
#include <QElapsedTimer>
#include <QTabWidget>
#include <QTimer>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
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
#include "planner/core/heap.h"

namespace {

using namespace zeroplan;
using namespace zeroplan::gui;

constexpr const char* kFirstModel = "internlm2-20b";
constexpr const char* kFirstCluster = "8xa100-80g";
constexpr int kSettleMs = 400;  // until fixes are found and drawn

struct Options {
  std::string question;            ///< what is left: words of `zeroplan fit`
  std::vector<std::string> files;  ///< to open
  std::string screenshot, before;
  QSize size{1280, 800};
  std::optional<Screen> screen;
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

bool ends_with_any(const std::string& word, std::initializer_list<const char*> endings) {
  return std::any_of(endings.begin(), endings.end(), [&](const char* ending) { return word.ends_with(ending); });
}

// What to open, and the question beside it: files alone are opened; beside a question only what can be no word of it. One word that is neither is a model.
void take_files(Options& out, const std::vector<std::string>& words) {
  const auto is_file = [](const std::string& word) {
    std::error_code error;
    return std::filesystem::is_regular_file(word, error) || ends_with_any(word, {".json", ".jsonl", ".log", ".pickle", ".pkl"});
  };
  const bool only_files = std::all_of(words.begin(), words.end(), is_file);
  for (const std::string& word : words) {
    if (only_files || (!word.starts_with("--") && ends_with_any(word, {".jsonl", ".log", ".pickle", ".pkl"}))) out.files.push_back(word);
    else out.question += (out.question.empty() ? "" : " ") + quoted(word);
  }
  if (words.size() == 1 && !only_files && !words[0].starts_with("--")) out.question += std::string(" --on ") + kFirstCluster;
}

Options options_of(const std::vector<std::string>& words) {
  Options out;
  std::vector<std::string> left;
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
      out.screen = screen;
    } else {
      left.push_back(words[i]);
    }
  }
  take_files(out, left);
  return out;
}

Asked first_question(const std::string& words) {
  if (words.empty()) return asked_of(kFirstModel, kFirstCluster);
  const auto parsed = parse_command_line(words);
  if (const auto* error = std::get_if<LineError>(&parsed)) throw UsageError(error->message);
  return std::get<Asked>(parsed);
}

// Of the exception that is being handled: its sentence, and the exit code.
int print_failure() {
  const Failure failure = current_failure();
  fmt::print(stderr, "zeroplan-gui: {}\n", failure.message);
  return failure.code;
}

constexpr const char* kNoDisplay =
    "no display can be used here{}. `zeroplan timeline MODEL --on CLUSTER -o step.html` writes the picture as a page for a browser, or open your plan.json with zeroplan-gui on your own machine";

// Qt ends the program where the display does not answer, is not allowed or has no plugin; it says why just before.
void end_without_display(QtMsgType kind, const QMessageLogContext&, const QString& text) {
  static std::string reason;
  if (kind != QtFatalMsg) {
    if (reason.empty() && kind != QtDebugMsg && kind != QtInfoMsg) reason = " (" + text.toStdString() + ")";
    return;
  }
  try {
    throw EnvironmentError(fmt::format(fmt::runtime(kNoDisplay), reason));
  } catch (...) {
    std::_Exit(print_failure());
  }
}

bool has_display(const Options& options) {
  if (!options.screenshot.empty() || options.bench || std::getenv("QT_QPA_PLATFORM") != nullptr) return true;
  return std::getenv("DISPLAY") != nullptr || std::getenv("WAYLAND_DISPLAY") != nullptr;
}

int run(int argc, char** argv) {
  QElapsedTimer started;
  started.start();
  const Options options = options_of({argv + 1, argv + argc});
  if (!has_display(options))
    throw EnvironmentError(fmt::format(fmt::runtime(kNoDisplay), ""));
  if (!options.screenshot.empty() && std::getenv("QT_QPA_PLATFORM") == nullptr) qputenv("QT_QPA_PLATFORM", "offscreen");
  const QtMessageHandler usual = qInstallMessageHandler(end_without_display);
  QApplication application(argc, argv);
  qInstallMessageHandler(usual);
  QApplication::setApplicationName("zeroplan");
  PlanSession session(first_question(options.before.empty() ? options.question : options.before));
  if (!options.before.empty()) session.ask(first_question(options.question), session.new_gesture());
  MainWindow window(session, options.language, options.dark);
  window.resize(options.size);
  if (!options.bench)
    for (const std::string& file : options.files) window.open_file(QString::fromStdString(file));
  if (options.screen) window.show_screen(*options.screen);
  window.plan_screen()->tabs()->setCurrentIndex(options.tab);
  window.show();
  if (options.bench) {
    window.repaint();
    return bench(window, session, options.files, static_cast<double>(started.nsecsElapsed()) * 1e-6);
  }
  if (options.screenshot.empty()) return QApplication::exec();
  int code = 0;
  const auto* map = window.findChild<MapView*>("map_view");
  QTimer settle;
  QObject::connect(&settle, &QTimer::timeout, &window, [&] {
    if (session.jobs().is_busy() || (map->isVisible() && !map->is_current())) return;
    settle.stop();
    const QString file = QString::fromStdString(options.screenshot);
    if (!(file.endsWith(".svg") ? window.export_picture(file) : window.grab().save(file))) code = 5;
    QApplication::quit();
  });
  settle.start(kSettleMs);
  QApplication::exec();
  if (code != 0) throw RunError(options.screenshot + ": could not be written");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  zeroplan::keep_freed_memory(true);
  try {
    return run(argc, argv);
  } catch (...) {
    return print_failure();
  }
}
