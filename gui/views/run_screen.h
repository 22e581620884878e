// RunScreen: starts zeroplan-run as a child on the current plan, or any command that speaks its JSON Lines, or follows a growing log. Live loss, and measured
// memory over the predicted one. The child never takes the window down; Stop ends it. Leaves out what a run does.
#pragma once

#include <QFile>
#include <QProcess>
#include <QTemporaryDir>
#include <QTimer>
#include <QWidget>
#include <memory>

#include "gui/models/run_log.h"
#include "gui/views/look.h"
#include "gui/views/plan_session.h"
#include "gui/views/svg_device.h"

class QCheckBox;
class QLabel;
class QLineEdit;
class QPushButton;

namespace zeroplan::gui {

/// One series a rank over steps, with an optional second (predicted) line.
class RunPlot : public QWidget {
  Q_OBJECT

 public:
  enum class What : unsigned char { loss, memory };
  RunPlot(What what, const RunLog& log, const Look& look, QWidget* parent = nullptr);
  void draw(QPainter& painter) const;

 protected:
  void paintEvent(QPaintEvent* event) override;

 private:
  const What what_;
  const RunLog& log_;
  const Look& look_;
};

class RunScreen : public QWidget {
  Q_OBJECT

 public:
  RunScreen(PlanSession& session, const Look& look, QWidget* parent = nullptr);
  ~RunScreen() override;
  bool is_running() const { return process_.state() != QProcess::NotRunning; }
  void start();
  void stop();
  void follow(const QString& file);
  const RunLog& log() const { return log_; }
  /// Both plots, one below the other.
  std::vector<Drawing> drawings() const;

 private:
  void set_command();
  void follow_plan();
  void read_file();
  void take(const QByteArray& bytes);
  void ended(int code);
  void show_state();

  PlanSession& session_;
  const Look& look_;
  RunLog log_;
  QProcess process_;
  QTemporaryDir plan_dir_;
  QFile file_;
  QTimer poll_;
  bool stopping_ = false;
  std::optional<int> exit_code_;
  QByteArray errors_;
  QLineEdit* command_;
  QCheckBox* twin_;
  QPushButton *start_, *stop_;
  QLabel *state_, *note_;
  RunPlot *loss_, *memory_;
};

}  // namespace zeroplan::gui
