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

#include <nlohmann/json.hpp>

#include "gui/models/svg.h"
#include "gui/views/command_palette.h"
#include "gui/views/compare_screen.h"
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
  compare_ = new CompareScreen(session_, look_);
  if (pinned_) compare_->pin(pinned_);
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
    if (const QString name = QFileDialog::getOpenFileName(this, look_("Open…"), {}, "JSON (*.json *.jsonl);;* (*)"); !name.isEmpty()) open_file(name);
  });
  add_action(file, "save", look_("Save plan…"), QKeySequence::Save, [this] { save_plan(); });
  add_action(file, "export_picture", look_("Export picture…"), QKeySequence("Ctrl+E"), [this] {
    if (const QString name = QFileDialog::getSaveFileName(this, look_("Export picture…"), "step.svg", "SVG (*.svg);;PNG (*.png)"); !name.isEmpty()) export_picture(name);
  });
  add_action(file, "export_table", look_("Export table…"), {}, [this] {
    if (const QString name = QFileDialog::getSaveFileName(this, look_("Export table…"), "table.csv", "CSV (*.csv)"); !name.isEmpty()) export_table(name);
  });
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
  add_action(edit, "pin", look_("Pin as plan A for Compare"), QKeySequence("Ctrl+D"), [this] { compare_->pin(pinned_ = session_.shared_now()); });

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

bool MainWindow::open_file(const QString& file) {
  const std::string name = file.toStdString();
  const auto opened = [&] {
    say(look_.filled("{}: opened", {name}));
    return true;
  };
  try {
    if (file.endsWith(".jsonl") || file.endsWith(".log")) {
      run_screen_->follow(file);
      show_screen(Screen::run);
      return opened();
    }
    const nlohmann::json json = read_json_file(name);
    if (json.is_object() && json.value("format", nlohmann::json()) == "zeroplan-plan") {
      if (!session_.ask(asked_of_plan(plan_from_json(json, name), name), session_.new_gesture())) return false;
      show_screen(Screen::plan);
      return opened();
    }
    if (json.is_object() && json.contains("model_type")) {
      if (!session_.ask(with_model(session_.now().asked, name), session_.new_gesture())) return false;
      show_screen(Screen::plan);
      return opened();
    }
    say(look_.filled("{}: not a plan.json, config.json or JSON Lines log", {name}));
  } catch (const std::runtime_error& error) {
    say(QString::fromUtf8(error.what()));
  }
  return false;
}

void MainWindow::save_plan() {
  const QString file = QFileDialog::getSaveFileName(this, look_("Save plan…"), "plan.json", "JSON (*.json)");
  if (file.isEmpty()) return;
  try {
    write_file_atomically(file.toStdString(), plan_to_json(session_.now().asked.question).dump(2) + "\n");
    say(look_.filled("{}: written", {file.toStdString()}));
  } catch (const std::runtime_error& error) {
    say(QString::fromUtf8(error.what()));
  }
}

void MainWindow::export_picture(const QString& file) {
  try {
    if (file.endsWith(".svg")) write_file_atomically(file.toStdString(), svg_of(session_.now(), {1200, 560, Theme::light_theme().palette, look_.language}));
    else if (!stack_->currentWidget()->grab().save(file)) return say(file + ": PNG");
    say(look_.filled("{}: written", {file.toStdString()}));
  } catch (const std::runtime_error& error) {
    say(QString::fromUtf8(error.what()));
  }
}

void MainWindow::export_table(const QString& file) {
  const TableView* table = stack_->currentIndex() == static_cast<int>(Screen::compare) ? compare_->table() : plan_screen_->visible_table();
  try {
    write_file_atomically(file.toStdString(), csv_of(table->table()));
    say(look_.filled("{}: written", {file.toStdString()}));
  } catch (const std::runtime_error& error) {
    say(QString::fromUtf8(error.what()));
  }
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
