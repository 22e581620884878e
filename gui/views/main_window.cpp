#include "gui/views/main_window.h"

#include <QApplication>
#include <QButtonGroup>
#include <QClipboard>
#include <QCloseEvent>
#include <QDragEnterEvent>
#include <QFile>
#include <QFileDialog>
#include <QFileInfo>
#include <QHBoxLayout>
#include <QLineEdit>
#include <QMenuBar>
#include <QMessageBox>
#include <QMimeData>
#include <QStackedWidget>
#include <QStatusBar>
#include <QToolButton>
#include <QVBoxLayout>
#include <functional>
#include <tuple>

#include <nlohmann/json.hpp>

#include "gui/models/svg.h"
#include "gui/views/command_palette.h"
#include "gui/views/compare_screen.h"
#include "gui/views/job_strip.h"
#include "gui/views/map_view.h"
#include "gui/views/plan_screen.h"
#include "gui/views/run_screen.h"
#include "gui/views/step_view.h"
#include "gui/views/table_view.h"
#include "gui/views/verdict_strip.h"

namespace zeroplan::gui {
namespace {

constexpr int kRailWidth = 74;
constexpr const char* kScreenNames[kScreenCount] = {"plan", "map", "compare", "run"};

// What a job makes of a file: all curves in it; none if it was stopped.
using Curves = std::vector<std::shared_ptr<const Curve>>;
Curves curves_of_file(FileKind kind, const std::string& file, Jobs::Job& job) {
  const auto on_progress = [&](const ReadProgress& progress) {
    job.report(progress.total_bytes > 0 ? static_cast<double>(progress.done_bytes) / static_cast<double>(progress.total_bytes) : 0);
    return !job.is_stopped();
  };
  Curves out;
  if (kind == FileKind::trace) {
    if (auto curve = curve_of_trace(file, on_progress)) out.push_back(std::make_shared<const Curve>(std::move(*curve)));
  } else if (auto snapshot = read_memory_snapshot(file, on_progress)) {
    for (Curve& curve : curves_of_snapshot(std::move(*snapshot), file)) out.push_back(std::make_shared<const Curve>(std::move(curve)));
  }
  return out;
}

}  // namespace

std::optional<Screen> screen_of(const QString& name) {
  for (int i = 0; i < kScreenCount; ++i)
    if (name == kScreenNames[i]) return static_cast<Screen>(i);
  return std::nullopt;
}

MainWindow::MainWindow(PlanSession& session, Language language, bool dark) : session_(session) {
  look_.language = language == Language::chinese && !can_show_chinese() ? Language::english : language;
  look_.theme = dark ? Theme::dark_theme() : Theme::light_theme();
  setWindowTitle("zeroplan");
  setAcceptDrops(true);
  resize(1280, 800);
  build();
  if (look_.language != language) say(look_("Chinese needs a CJK font: install fonts-noto-cjk or fonts-wqy-microhei"));
}

void MainWindow::build() {
  apply(look_.theme);
  const int screen = stack_ != nullptr ? stack_->currentIndex() : 0;
  menuBar()->clear();
  for (QAction* action : actions()) {
    removeAction(action);
    action->deleteLater();
  }
  auto* central = new QWidget;
  strip_ = new VerdictStrip(session_, look_);
  plan_screen_ = new PlanScreen(session_, look_);
  map_ = new MapView(look_);
  map_->set_plan(session_.shared_now());
  connect(&session_, &PlanSession::answered, map_, [this] { map_->set_plan(session_.shared_now()); });
  const CompareState compared = compare_ != nullptr ? compare_->state() : CompareState{};
  compare_ = new CompareScreen(session_, look_);
  compare_->restore(compared);
  run_screen_ = new RunScreen(session_, look_);
  stack_ = new QStackedWidget;
  for (QWidget* page : std::initializer_list<QWidget*>{plan_screen_, map_, compare_, run_screen_}) stack_->addWidget(page);

  auto* rail = new QWidget;
  rail->setFixedWidth(kRailWidth);
  auto* buttons = new QVBoxLayout(rail);
  buttons->setContentsMargins(4, 8, 4, 8);
  rail_ = new QButtonGroup(rail);
  const QString names[kScreenCount] = {look_("Plan"), look_("Map"), look_("Compare"), look_("Run")};
  for (int i = 0; i < kScreenCount; ++i) {
    auto* button = new QToolButton;
    button->setText(names[i]);
    button->setCheckable(true);
    button->setAutoRaise(true);
    button->setFixedSize(kRailWidth - 8, 40);
    button->setObjectName(QString("screen_") + kScreenNames[i]);
    rail_->addButton(button, i);
    buttons->addWidget(button);
  }
  buttons->addStretch(1);
  connect(rail_, &QButtonGroup::idClicked, this, [this](int id) { show_screen(static_cast<Screen>(id)); });

  auto* right = new QVBoxLayout;
  right->setContentsMargins(0, 0, 0, 0);
  right->setSpacing(0);
  right->addWidget(strip_);
  right->addWidget(stack_, 1);
  auto* all = new QHBoxLayout(central);
  all->setContentsMargins(0, 0, 0, 0);
  all->setSpacing(0);
  all->addWidget(rail);
  all->addLayout(right, 1);
  setCentralWidget(central);
  delete jobs_;
  session_.set_titles(look_("Computing"), look_("Seeking what makes it fit"));
  jobs_ = new JobStrip(session_.jobs(), look_);
  connect(jobs_, &JobStrip::cancelled, this, &MainWindow::cancel);
  statusBar()->addPermanentWidget(jobs_);
  build_actions();
  show_screen(static_cast<Screen>(screen));
  connect(&session_, &PlanSession::answered, strip_, [this] { setWindowTitle(QString::fromStdString(session_.now().asked.model_word + " · " + session_.now().asked.question.cluster.name) + " — zeroplan"); });
}

QAction* MainWindow::add_action(QMenu* menu, const char* id, const QString& text, const QKeySequence& keys, std::function<void()> act) {
  auto* action = new QAction(text, this);
  action->setObjectName(id);
  action->setShortcut(keys);
  connect(action, &QAction::triggered, this, std::move(act));
  menu->addAction(action);
  addAction(action);
  return action;
}

void MainWindow::build_actions() {
  QMenu* file = menuBar()->addMenu(look_("File"));
  add_action(file, "open", look_("Open…"), QKeySequence::Open, [this] {
    choose_file(look_("Open…"), {}, look_("What zeroplan reads") + " (*.json *.jsonl *.log *.pickle *.pkl);;" + look_("All files") + " (*)", false, [this](const QString& name) { open_file(name); });
  });
  add_action(file, "save", look_("Save plan…"), QKeySequence::Save, [this] { choose_file(look_("Save plan…"), "plan.json", "JSON (*.json)", true, [this](const QString& name) { save_plan(name); }); });
  add_action(file, "save_session", look_("Save session…"), QKeySequence("Ctrl+Shift+S"), [this] {
    choose_file(look_("Save session…"), "session.json", "JSON (*.json)", true, [this](const QString& name) { save_session(name); });
  });
  add_action(file, "export_picture", look_("Export picture…"), QKeySequence("Ctrl+E"), [this] {
    choose_file(look_("Export picture…"), "step.svg", "SVG (*.svg);;PNG (*.png)", true, [this](const QString& name) { export_picture(name); });
  });
  add_action(file, "export_table", look_("Export table…"), {}, [this] { choose_file(look_("Export table…"), "table.csv", "CSV (*.csv)", true, [this](const QString& name) { export_table(name); }); });
  file->addSeparator();
  add_action(file, "quit", look_("Quit"), QKeySequence::Quit, [this] { close(); });

  QMenu* edit = menuBar()->addMenu(look_("Edit"));
  QAction* undo = add_action(edit, "undo", look_("Undo"), QKeySequence::Undo, [this] { session_.undo(); });
  QAction* redo = add_action(edit, "redo", look_("Redo"), QKeySequence("Ctrl+Shift+Z"), [this] { session_.redo(); });
  const auto enable = [this, undo, redo] {
    undo->setEnabled(session_.can_undo());
    redo->setEnabled(session_.can_redo());
  };
  connect(&session_, &PlanSession::answered, undo, enable);
  enable();
  add_action(edit, "copy_command", look_("Copy command line"), QKeySequence("Ctrl+Shift+C"), [this] { QApplication::clipboard()->setText(QString::fromStdString(print_command_line(session_.now().asked))); });
  add_action(edit, "pin", look_("Pin as plan A for Compare"), QKeySequence("Ctrl+D"), [this] { compare_->pin(session_.shared_now()); });

  QMenu* view = menuBar()->addMenu(look_("View"));
  const QString names[kScreenCount] = {look_("Plan"), look_("Map"), look_("Compare"), look_("Run")};
  for (int i = 0; i < kScreenCount; ++i)
    add_action(view, kScreenNames[i], names[i], QKeySequence(QString("Ctrl+%1").arg(i + 1)), [this, i] { show_screen(static_cast<Screen>(i)); });
  view->addSeparator();
  add_action(view, "fit_step", look_("Show the whole step"), QKeySequence("Ctrl+0"), [this] { plan_screen_->step_view()->fit(), map_->fit(); });
  add_action(view, "peak", look_("Go to the peak"), QKeySequence("Ctrl+P"), [this] { plan_screen_->step_view()->go_to_peak(); });
  add_action(view, "zoom_in", look_("Zoom in"), QKeySequence::ZoomIn, [this] { plan_screen_->step_view()->zoom(1.5, 0.5); });
  add_action(view, "zoom_out", look_("Zoom out"), QKeySequence::ZoomOut, [this] { plan_screen_->step_view()->zoom(1 / 1.5, 0.5); });
  view->addSeparator();
  // What the inside is made of is replaced: after the menu has closed.
  add_action(view, "colours", look_.theme.dark ? look_("Light") : look_("Dark"), {}, [this] { QMetaObject::invokeMethod(this, [this] { set_dark(!look_.theme.dark); }, Qt::QueuedConnection); });
  add_action(view, "language", look_("中文"), {}, [this] {
    QMetaObject::invokeMethod(this, [this] { set_language(look_.language == Language::english ? Language::chinese : Language::english); }, Qt::QueuedConnection);
  });
  add_action(view, "cancel", look_("Cancel what is under way"), QKeySequence(Qt::Key_Escape), [this] { cancel(); });
  add_action(view, "palette", look_("Command palette…"), QKeySequence("Ctrl+Shift+P"), [this] { show_palette(); });
}

void MainWindow::set_language(Language language) {
  if (language == Language::chinese && !can_show_chinese()) return say(look_("Chinese needs a CJK font: install fonts-noto-cjk or fonts-wqy-microhei"));
  if (run_screen_->is_running()) return;
  look_.language = language;
  build();
}

void MainWindow::set_dark(bool dark) {
  if (run_screen_->is_running()) return;
  look_.theme = dark ? Theme::dark_theme() : Theme::light_theme();
  build();
}

void MainWindow::show_palette() {
  auto* palette = new CommandPalette(actions(), look_("type to find an action"), this);
  palette->open();
}

void MainWindow::show_screen(Screen screen) {
  stack_->setCurrentIndex(static_cast<int>(screen));
  rail_->button(static_cast<int>(screen))->setChecked(true);
  // A map needs its addresses, even in the middle of a drag.
  if (screen == Screen::map) session_.settle();
}

// Never a nested loop: the window goes on while the dialog stands.
void MainWindow::choose_file(const QString& title, const QString& name, const QString& kinds, bool saves, std::function<void(const QString&)> chosen) {
  auto* dialog = new QFileDialog(this, title, {}, kinds);
  dialog->setAttribute(Qt::WA_DeleteOnClose);
  dialog->setAcceptMode(saves ? QFileDialog::AcceptSave : QFileDialog::AcceptOpen);
  dialog->setFileMode(saves ? QFileDialog::AnyFile : QFileDialog::ExistingFile);
  if (!name.isEmpty()) dialog->selectFile(name);
  if (saves) {
    // A name without an ending gets that of the chosen kind.
    const auto end_as = [dialog](const QString& kind) { dialog->setDefaultSuffix(kind.section("*.", 1, 1).section(')', 0, 0)); };
    end_as(dialog->selectedNameFilter());
    connect(dialog, &QFileDialog::filterSelected, dialog, end_as);
  }
  connect(dialog, &QFileDialog::fileSelected, this, std::move(chosen));
  dialog->open();
}

bool MainWindow::open_file(const QString& file) {
  strip_->dismiss_problem();
  try {
    return open_known(kind_of_file(file.toStdString()), file);
  } catch (const std::runtime_error& error) {
    refuse(QString::fromUtf8(error.what()));
    return false;
  }
}

bool MainWindow::open_known(FileKind kind, const QString& file) {
  const std::string name = file.toStdString();
  const auto ask = [&](const Asked& asked) {
    if (!session_.ask(asked, session_.new_gesture())) return false;
    show_screen(Screen::plan);
    say(look_.filled("{}: opened", {name}));
    return true;
  };
  switch (kind) {
    case FileKind::plan: return ask(asked_of_plan(plan_from_json(read_json_file(name), name), name));
    case FileKind::model_config: return ask(with_model(session_.now().asked, name));
    case FileKind::deepspeed: return ask(with_deepspeed(session_.now().asked, name));
    case FileKind::session: open_session(file); return true;
    case FileKind::snapshot:
    case FileKind::trace: read_curves(kind, file, false); return true;
    case FileKind::run_log: break;
  }
  run_screen_->follow(file);
  show_screen(Screen::run);
  say(look_.filled("{}: opened", {name}));
  return true;
}

void MainWindow::read_curves(FileKind kind, const QString& file, bool quietly) {
  to_read_.push_back({kind, QFileInfo(file).absoluteFilePath(), quietly});
  if (to_read_.size() == 1) read_next();
}

void MainWindow::read_next() {
  if (to_read_.empty()) return;
  const auto next = [this] {
    to_read_.erase(to_read_.begin());
    read_next();
  };
  const auto work = [this, next, reading = to_read_.front()](Jobs::Job& job) -> Jobs::Found {
    return [this, next, reading, curves = curves_of_file(reading.kind, reading.path.toStdString(), job)] {
      if (!opened_.contains(reading.path)) opened_.push_back(reading.path);
      if (reading.quietly) {
        compare_->add_quietly(curves);
      } else {
        compare_->add(curves);
        show_screen(Screen::compare);
        say(look_.filled("{}: opened", {QFileInfo(reading.path).fileName().toStdString()}));
      }
      next();
    };
  };
  const auto failed = [this, next](const QString& sentence) {
    refuse(sentence);
    next();
  };
  session_.jobs().start("read", look_.filled("Reading {}", {QFileInfo(to_read_.front().path).fileName().toStdString()}), work, failed);
}

SessionFile MainWindow::session_file() const {
  SessionFile out;
  out.b = session_.now().asked;
  const CompareState compared = compare_->state();
  out.a_is_pinned = compared.pinned != nullptr;
  if (const auto& before = compared.pinned ? compared.pinned : session_.ghost()) out.a = before->asked;
  out.screen = kScreenNames[stack_->currentIndex()];
  std::tie(out.from_ratio, out.to_ratio) = plan_screen_->step_view()->shown_part();
  out.selected_event = static_cast<std::int64_t>(plan_screen_->step_view()->selected_event());
  for (const QString& file : opened_) out.files.push_back(file.toStdString());
  out.compare_a = compared.a.toStdString();
  out.compare_b = compared.b.toStdString();
  return out;
}

bool MainWindow::save_session(const QString& file) {
  try {
    write_file_atomically(file.toStdString(), session_text(session_file()));
    say(look_.filled("{}: the session is written", {file.toStdString()}));
    return true;
  } catch (const std::runtime_error& error) {
    refuse(QString::fromUtf8(error.what()));
    return false;
  }
}

// All of it is read and understood before anything changes. Opened files that have gone are said one by one; the rest is shown.
void MainWindow::open_session(const QString& file) {
  QFile in(file);
  if (!in.open(QIODevice::ReadOnly)) throw InputError(file.toStdString(), "", in.errorString().toStdString(), "check the path");
  const SessionFile saved = session_of_text(in.readAll().toStdString(), file.toStdString());
  const std::optional<Screen> screen = screen_of(QString::fromStdString(saved.screen));
  if (!screen) throw InputError(file.toStdString(), "/screen", "is not plan, map, compare or run", "save it again with Save session");
  session_.restore(saved.a, saved.b, [this, file, saved, screen](const std::shared_ptr<const Answered>& a) {
    StepView* step = plan_screen_->step_view();
    step->show_part(saved.from_ratio, saved.to_ratio);
    step->select_event(std::min(static_cast<std::size_t>(saved.selected_event), session_.now().picture.memory.size() - 1));
    compare_->pin(saved.a_is_pinned ? a : nullptr);
    compare_->choose(QString::fromStdString(saved.compare_a), QString::fromStdString(saved.compare_b));
    show_screen(*screen);
    say(look_.filled("{}: opened", {file.toStdString()}));
    read_session_files(saved);
  });
}

void MainWindow::read_session_files(const SessionFile& saved) {
  for (const std::string& name : saved.files) {
    try {
      const FileKind kind = kind_of_file(name);
      if (kind != FileKind::snapshot && kind != FileKind::trace) throw InputError(name, "", "is no snapshot and no trace any more", "");
      read_curves(kind, QString::fromStdString(name), true);
    } catch (const std::runtime_error& error) {
      refuse(QString::fromUtf8(error.what()));
    }
  }
}

void MainWindow::cancel() {
  strip_->dismiss_problem();
  map_->select(std::nullopt, 0);
  to_read_.clear();
  if (session_.jobs().cancel_all() > 0) say(look_("cancelled"));
}

// One sentence with file, place and remedy, which stays to be read.
void MainWindow::refuse(const QString& sentence) {
  statusBar()->clearMessage();
  strip_->say_problem(sentence);
}

void MainWindow::save_plan(const QString& file) {
  try {
    write_file_atomically(file.toStdString(), plan_to_json(session_.now().asked.question).dump(2) + "\n");
    say(look_.filled("{}: written", {file.toStdString()}));
  } catch (const std::runtime_error& error) {
    refuse(QString::fromUtf8(error.what()));
  }
}

// What the current screen shows, without what is around it.
std::string MainWindow::picture_as_svg() const {
  switch (static_cast<Screen>(stack_->currentIndex())) {
    case Screen::plan: break;
    case Screen::map: return svg_of_drawings({{map_->size(), [this](QPainter& painter) { map_->draw(painter, Medium::vectors); }}}, *map_);
    case Screen::compare: {
      CompareView* view = compare_->view();
      return svg_of_drawings({{view->size(), [view](QPainter& painter) { view->draw(painter, Medium::vectors); }}}, *view);
    }
    case Screen::run: return svg_of_drawings(run_screen_->drawings(), *run_screen_);
  }
  return svg_of(session_.now(), {1200, 560, Theme::light_theme().palette, look_.language});
}

bool MainWindow::export_picture(const QString& file) {
  try {
    if (file.endsWith(".svg")) write_file_atomically(file.toStdString(), picture_as_svg());
    else if (!file.endsWith(".png") || !stack_->currentWidget()->grab().save(file)) throw RunError(fill(gui::say("{}: pictures are written as .svg or .png, where there is room", look_.language), {file.toStdString()}));
    say(look_.filled("{}: written", {file.toStdString()}));
    return true;
  } catch (const std::runtime_error& error) {
    refuse(QString::fromUtf8(error.what()));
    return false;
  }
}

void MainWindow::export_table(const QString& file) {
  const TableView* table = stack_->currentIndex() == static_cast<int>(Screen::compare) ? compare_->table() : plan_screen_->visible_table();
  table->write_csv(look_.filled("Writing {}", {QFileInfo(file).fileName().toStdString()}), [this, file](const std::string& csv) {
    try {
      write_file_atomically(file.toStdString(), csv);
      say(look_.filled("{}: written", {file.toStdString()}));
    } catch (const std::runtime_error& error) {
      refuse(QString::fromUtf8(error.what()));
    }
  });
}

void MainWindow::dragEnterEvent(QDragEnterEvent* event) {
  if (event->mimeData()->hasUrls()) event->acceptProposedAction();
}

void MainWindow::dropEvent(QDropEvent* event) {
  for (const QUrl& url : event->mimeData()->urls())
    if (url.isLocalFile()) open_file(url.toLocalFile());
}

// Asks without blocking: the run and its picture go on while the question stands.
void MainWindow::closeEvent(QCloseEvent* event) {
  if (closing_ || !run_screen_->is_running()) return event->accept();
  event->ignore();
  auto* box = new QMessageBox(QMessageBox::Question, "zeroplan", look_("A run is still going. Stop it and close?"), QMessageBox::NoButton, this);
  box->setAttribute(Qt::WA_DeleteOnClose);
  const QPushButton* stop = box->addButton(look_("Stop and close"), QMessageBox::DestructiveRole);
  box->addButton(look_("Keep running"), QMessageBox::RejectRole);
  connect(box, &QMessageBox::buttonClicked, this, [this, stop](QAbstractButton* pressed) {
    if (static_cast<const void*>(pressed) != static_cast<const void*>(stop)) return;
    closing_ = true;
    run_screen_->stop();
    close();
  });
  box->open();
}

void MainWindow::say(const QString& sentence) { statusBar()->showMessage(sentence, 15000); }

}  // namespace zeroplan::gui
