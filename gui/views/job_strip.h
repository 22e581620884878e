// JobStrip: in the status bar, what goes on beside the window: its name, how much is done, Cancel. Short jobs are not shown.
#pragma once

#include <QTimer>
#include <QWidget>

#include "gui/views/jobs.h"
#include "gui/views/look.h"

class QLabel;
class QProgressBar;

namespace zeroplan::gui {

class JobStrip : public QWidget {
  Q_OBJECT

 public:
  JobStrip(Jobs& jobs, const Look& look, QWidget* parent = nullptr);

 signals:
  void cancelled();

 private:
  void follow();
  void draw();

  Jobs& jobs_;
  QLabel* title_;
  QProgressBar* bar_;
  QTimer wait_, redraw_;
};

}  // namespace zeroplan::gui
