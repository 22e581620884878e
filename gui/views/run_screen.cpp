#include "gui/views/run_screen.h"

#include <QCheckBox>
#include <QCoreApplication>
#include <QDir>
#include <QFileDialog>
#include <QFileInfo>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QPainter>
#include <QPainterPath>
#include <QPushButton>
#include <QStandardPaths>
#include <QVBoxLayout>
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "gui/models/raster.h"
#include "planner/core/format.h"

namespace zeroplan::gui {
namespace {

constexpr int kPollMs = 200, kKillAfterMs = 3000;
constexpr int kLeft = 92, kRight = 14, kTop = 26, kBottom = 24;

QString executor_path() {
  const QString name = "zeroplan-run", beside = QDir(QCoreApplication::applicationDirPath()).filePath(name);
  return QFileInfo(beside).isExecutable() ? beside : QStandardPaths::findExecutable(name);
}

}  // namespace

RunPlot::RunPlot(What what, const RunLog& log, const Look& look, QWidget* parent) : QWidget(parent), what_(what), log_(log), look_(look) { setMinimumHeight(140); }

void RunPlot::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  draw(painter);
}

void RunPlot::draw(QPainter& painter) const {
  painter.fillRect(rect(), look_.theme.base);
  const QRect plot = rect().adjusted(kLeft, kTop, -kRight, -kBottom);
  painter.setPen(look_.theme.text);
  painter.drawText(QRect(kLeft, 4, plot.width(), 18), Qt::AlignLeft | Qt::AlignVCenter, what_ == What::loss ? look_("Loss") : look_("Memory"));
  painter.setPen(look_.theme.grid);
  painter.drawRect(plot);
  const std::vector<RunStep>& steps = log_.steps();
  if (steps.empty()) return;
  const auto value = [&](const RunStep& s) { return what_ == What::loss ? s.loss : static_cast<double>(s.measured_peak_bytes); };
  double low = value(steps.front()), high = low;
  std::int64_t last = std::max<std::int64_t>(log_.planned_steps(), 1);
  for (const RunStep& s : steps) {
    low = std::min(low, value(s));
    high = std::max(high, value(s));
    if (what_ == What::memory) high = std::max(high, static_cast<double>(s.predicted_peak_bytes));
    last = std::max(last, s.step);
  }
  if (what_ == What::memory) low = 0;
  const double span = std::max(high - low, 1e-9) * 1.08;
  const auto x_of = [&](std::int64_t step) { return plot.left() + plot.width() * static_cast<double>(step) / static_cast<double>(std::max<std::int64_t>(last, 1)); };
  const auto y_of = [&](double v) { return plot.bottom() - plot.height() * (v - low) / span; };
  const auto words = [&](double v) { return what_ == What::loss ? QString::fromStdString(fmt::format("{:.3f}", v)) : QString::fromStdString(format_gib(Bytes(static_cast<std::int64_t>(v)))); };
  painter.setPen(look_.theme.faint);
  for (const double v : {low, (low + high) / 2, high}) painter.drawText(QRectF(0, y_of(v) - 9, kLeft - 6, 18), Qt::AlignRight | Qt::AlignVCenter, words(v));
  painter.drawText(QRect(plot.left(), plot.bottom() + 3, plot.width(), 18), Qt::AlignRight | Qt::AlignVCenter, QString::number(last));
  painter.setRenderHint(QPainter::Antialiasing);
  std::map<std::int64_t, QPainterPath> measured;
  QPainterPath predicted;
  for (const RunStep& s : steps) {
    QPainterPath& path = measured[s.rank];
    const QPointF point(x_of(s.step), y_of(value(s)));
    if (path.elementCount() == 0) path.moveTo(point);
    else path.lineTo(point);
    const QPointF planned(x_of(s.step), y_of(static_cast<double>(s.predicted_peak_bytes)));
    if (s.rank != steps.front().rank) continue;
    if (predicted.elementCount() == 0) predicted.moveTo(planned);
    else predicted.lineTo(planned);
  }
  if (what_ == What::memory) {
    painter.setPen(QPen(look_.theme.faint, 5));
    painter.drawPath(predicted);
    painter.drawText(QRectF(plot.left(), 4, plot.width(), 18), Qt::AlignRight | Qt::AlignVCenter, look_("predicted") + " ━   " + look_("measured") + " ─");
  }
  for (const auto& [rank, path] : measured) {
    painter.setPen(QPen(QColor::fromRgb(look_.theme.palette[static_cast<std::size_t>(rank) % look_.theme.palette.size()]), 1.6));
    painter.drawPath(path);
    if (path.elementCount() == 1) painter.drawEllipse(QPointF(path.elementAt(0)), 2, 2);
  }
}

RunScreen::RunScreen(PlanSession& session, const Look& look, QWidget* parent)
    : QWidget(parent), session_(session), look_(look), command_(new QLineEdit), twin_(new QCheckBox(look("run the twin on CPU"))), start_(new QPushButton(look("Start"))), stop_(new QPushButton(look("Stop"))),
      state_(new QLabel), note_(new QLabel), loss_(new RunPlot(RunPlot::What::loss, log_, look)), memory_(new RunPlot(RunPlot::What::memory, log_, look)) {
  auto* follow_button = new QPushButton(look_("Follow a log…"));
  auto* top = new QHBoxLayout;
  top->addWidget(new QLabel(look_("Command")));
  top->addWidget(command_, 1);
  top->addWidget(twin_);
  top->addWidget(start_);
  top->addWidget(stop_);
  top->addWidget(follow_button);
  note_->setWordWrap(true);
  note_->setForegroundRole(QPalette::PlaceholderText);
  state_->setWordWrap(true);
  state_->setObjectName("run_state");
  stop_->setObjectName("run_stop");
  command_->setObjectName("run_command");
  auto* all = new QVBoxLayout(this);
  all->addLayout(top);
  all->addWidget(note_);
  all->addWidget(state_);
  all->addWidget(loss_, 1);
  all->addWidget(memory_, 1);

  connect(start_, &QPushButton::clicked, this, &RunScreen::start);
  connect(stop_, &QPushButton::clicked, this, &RunScreen::stop);
  connect(follow_button, &QPushButton::clicked, this, [this] {
    auto* dialog = new QFileDialog(this, look_("Follow a log…"));
    dialog->setAttribute(Qt::WA_DeleteOnClose);
    dialog->setFileMode(QFileDialog::ExistingFile);
    connect(dialog, &QFileDialog::fileSelected, this, &RunScreen::follow);
    dialog->open();
  });
  connect(twin_, &QCheckBox::toggled, this, &RunScreen::set_command);
  connect(&session_, &PlanSession::answered, this, &RunScreen::follow_plan);
  connect(&process_, &QProcess::readyReadStandardOutput, this, [this] { take(process_.readAllStandardOutput()); });
  connect(&process_, &QProcess::readyReadStandardError, this, [this] { errors_ = process_.readAllStandardError(); });
  connect(&process_, &QProcess::finished, this, [this](int code, QProcess::ExitStatus status) { ended(status == QProcess::CrashExit && !stopping_ ? 5 : code); });
  connect(&process_, &QProcess::errorOccurred, this, [this](QProcess::ProcessError error) {
    if (error == QProcess::FailedToStart) state_->setText(look_.filled("failed: {}", {process_.errorString().toStdString()}));
    show_state();
  });
  connect(&poll_, &QTimer::timeout, this, &RunScreen::read_file);
  follow_plan();
  set_command();
  show_state();
}

void RunScreen::follow_plan() {
  const Question& question = session_.now().asked.question;
  twin_->setChecked(question.cluster.device.kind == DeviceKind::cuda);
  if (!session_.now().ours) note_->setText(look_.filled("only the zeroplan engine runs here; {} is predicted", {engine_words(question.plan.engine, question.plan.tool)}));
  else note_->setText(twin_->isChecked() ? look_("this plan is for GPUs; its twin (same plan, small dimensions) runs on this machine's CPU") : QString());
  start_->setEnabled(!is_running() && session_.now().ours);
}

RunScreen::~RunScreen() {
  process_.disconnect(this);
  if (!is_running()) return;
  process_.terminate();
  if (!process_.waitForFinished(kKillAfterMs)) process_.kill();
  process_.waitForFinished(kKillAfterMs);
}

std::vector<Drawing> RunScreen::drawings() const {
  std::vector<Drawing> out;
  for (const RunPlot* plot : {loss_, memory_}) out.push_back({plot->size(), [plot](QPainter& painter) { plot->draw(painter); }});
  return out;
}

void RunScreen::set_command() {
  const QString path = executor_path();
  const QString plan = QDir(plan_dir_.path()).filePath("plan.json");
  command_->setText(QString::fromStdString(quoted(path.isEmpty() ? "zeroplan-run" : path.toStdString()) + " " + quoted(plan.toStdString())) + (twin_->isChecked() ? " --twin" : "") + " --steps 50");
  if (path.isEmpty()) note_->setText(look_("zeroplan-run was not found: run executor/get_torch.sh and build, or set the command (ssh host zeroplan-run …)"));
}

void RunScreen::start() {
  if (is_running() || !session_.now().ours) return;
  poll_.stop();
  log_ = RunLog();
  errors_.clear();
  exit_code_.reset();
  stopping_ = false;
  state_->clear();
  try {
    write_file_atomically(QDir(plan_dir_.path()).filePath("plan.json").toStdString(), plan_to_json(session_.now().asked.question).dump(2) + "\n");
  } catch (const std::runtime_error& error) {
    state_->setText(QString::fromUtf8(error.what()));
    return;
  }
  QStringList words;
  for (const Word& word : split_words(command_->text().toStdString())) words << QString::fromStdString(word.text);
  if (words.isEmpty()) return;
  const QString program = words.takeFirst();
  process_.start(program, words);
  show_state();
}

// Asks politely (the launcher ends its ranks), then insists. Never waits: the window stays alive.
void RunScreen::stop() {
  poll_.stop();
  if (!is_running()) return show_state();
  stopping_ = true;
  process_.terminate();
  QTimer::singleShot(kKillAfterMs, this, [this] {
    if (stopping_ && is_running()) process_.kill();
  });
}

void RunScreen::follow(const QString& file) {
  file_.close();
  file_.setFileName(file);
  log_ = RunLog();
  exit_code_.reset();
  if (!file_.open(QIODevice::ReadOnly)) {
    state_->setText(file + ": " + file_.errorString());
    return;
  }
  read_file();
  poll_.start(kPollMs);
}

void RunScreen::read_file() {
  const QByteArray bytes = file_.readAll();
  if (!bytes.isEmpty()) take(bytes);
}

void RunScreen::take(const QByteArray& bytes) {
  log_.add({bytes.constData(), static_cast<std::size_t>(bytes.size())});
  show_state();
}

void RunScreen::ended(int code) {
  take(process_.readAllStandardOutput());
  exit_code_ = code;
  show_state();
}

void RunScreen::show_state() {
  start_->setEnabled(!is_running() && session_.now().ours);
  stop_->setEnabled(is_running() || poll_.isActive());
  const std::size_t steps = log_.steps().size();
  const auto number = [](std::size_t n) { return std::to_string(n); };
  QString text;
  if (log_.failure()) text = look_.filled("failed: {}", {*log_.failure()});
  else if (exit_code_ && stopping_) text = look_("stopped");
  else if (exit_code_ && *exit_code_ != 0) text = look_.filled("failed: {}", {fill(say("it ended with code {}; the log's last line: {}", look_.language), {std::to_string(*exit_code_), errors_.isEmpty() ? log_.last_line() : errors_.trimmed().toStdString()})});
  else if (log_.ended() && steps > 0) text = look_.filled("finished: {} steps, loss {}", {number(steps), fmt::format("{:.4f}", log_.steps().back().loss)});
  else if (is_running() || steps > 0) text = look_.filled("running: step {}", {number(steps)});
  else if (state_->text().isEmpty()) text = look_("idle");
  else text = state_->text();
  if (steps > 0) text += " · " + look_.filled("predicted = measured on {} of {} steps", {number(log_.equal_steps()), number(steps)});
  state_->setText(text);
  loss_->update();
  memory_->update();
}

}  // namespace zeroplan::gui
