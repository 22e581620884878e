// PlanScreen: knobs, the step's timeline, and what explains it: alive here, make it fit, breakdown.
#pragma once

#include <QWidget>

#include "gui/views/look.h"
#include "gui/views/plan_session.h"

class QLabel;
class QLineEdit;
class QTabWidget;

namespace zeroplan::gui {

class StepView;
class TableView;

class PlanScreen : public QWidget {
  Q_OBJECT

 public:
  PlanScreen(PlanSession& session, const Look& look, QWidget* parent = nullptr);
  StepView* step_view() const { return step_; }
  TableView* visible_table() const;
  QTabWidget* tabs() const { return tabs_; }

 private:
  void follow();
  void show_instant();
  void show_fixes();
  QWidget* alive_page();
  QWidget* fixes_page();

  PlanSession& session_;
  const Look& look_;
  StepView* step_;
  TableView *alive_, *fixes_, *breakdown_;
  QLabel *alive_head_, *alive_note_, *fixes_head_;
  QLineEdit* filter_;
  QTabWidget* tabs_;
};

}  // namespace zeroplan::gui
