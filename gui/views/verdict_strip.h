// VerdictStrip: what never leaves the window: the verdict in one word, what it rests on, and the command line that asks the same question.
#pragma once

#include <QWidget>

#include "gui/views/look.h"
#include "gui/views/plan_session.h"

class QLabel;
class QLineEdit;

namespace zeroplan::gui {

class VerdictStrip : public QWidget {
  Q_OBJECT

 public:
  VerdictStrip(PlanSession& session, const Look& look, QWidget* parent = nullptr);
  QString verdict() const;
  QLineEdit* command_line() const { return line_; }
  /// A sentence that stays until the next answer, or until it is dismissed.
  void say_problem(const QString& sentence);
  void dismiss_problem();

 private:
  void follow();
  void take_line();

  PlanSession& session_;
  const Look& look_;
  QLabel *badge_, *need_, *when_, *speed_, *problem_;
  QLineEdit* line_;
};

}  // namespace zeroplan::gui
