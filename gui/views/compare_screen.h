// CompareScreen: two plans over each other, their difference below, and the deltas as a table. A is the pinned plan, or the one before the last change.
#pragma once

#include <QWidget>
#include <memory>

#include "gui/views/look.h"
#include "gui/views/plan_session.h"

class QLabel;

namespace zeroplan::gui {

class TableView;

/// Both totals over the step's own progress (each step from 0 to its end), and B − A.
class OverlayView : public QWidget {
  Q_OBJECT

 public:
  explicit OverlayView(const Look& look, QWidget* parent = nullptr);
  void set_plans(std::shared_ptr<const Answered> a, std::shared_ptr<const Answered> b);

 protected:
  void paintEvent(QPaintEvent* event) override;

 private:
  const Look& look_;
  std::shared_ptr<const Answered> a_, b_;
};

class CompareScreen : public QWidget {
  Q_OBJECT

 public:
  CompareScreen(PlanSession& session, const Look& look, QWidget* parent = nullptr);
  void pin(std::shared_ptr<const Answered> plan);
  void swap();
  TableView* table() const { return table_; }

 protected:
  void showEvent(QShowEvent* event) override;

 private:
  void follow();

  PlanSession& session_;
  const Look& look_;
  std::shared_ptr<const Answered> pinned_;
  bool swapped_ = false;
  QLabel *head_, *a_line_, *b_line_;
  OverlayView* overlay_;
  TableView* table_;
};

}  // namespace zeroplan::gui
