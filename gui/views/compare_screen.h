// CompareScreen: two curves over each other, their difference below and tables of what differs; or one alone as a stack with the blocks that are alive at an instant.
// A curve is a plan's step (the current one, the one before it or a pinned one), or an opened snapshot or trace. Leaves out how files are read.
#pragma once

#include <QWidget>
#include <memory>

#include "gui/views/compare_view.h"
#include "gui/views/plan_session.h"

class QComboBox;
class QLabel;
class QLineEdit;
class QTabBar;

namespace zeroplan::gui {

class TableView;

/// What a curve's box is set to: none, a plan, or an opened curve's label.
inline constexpr const char *kCompareNone = "", *kCompareBefore = "before", *kCompareNow = "now";

/// What outlives a change of language, and what a session keeps.
struct CompareState {
  std::vector<std::shared_ptr<const Curve>> opened;
  std::shared_ptr<const Answered> pinned;
  QString a = kCompareBefore, b = kCompareNow;
  double from = 0, to = 1;
};

class CompareScreen : public QWidget {
  Q_OBJECT

 public:
  CompareScreen(PlanSession& session, const Look& look, QWidget* parent = nullptr);
  void pin(std::shared_ptr<const Answered> plan);
  void swap();
  /// Opened curves, of which the one with the most memory is shown: alone, or beside the file that was shown before. One of the same label is replaced.
  void add(const std::vector<std::shared_ptr<const Curve>>& curves);
  /// The same without choosing what is shown.
  void add_quietly(const std::vector<std::shared_ptr<const Curve>>& curves);
  /// Labels that are not opened yet wait for their file.
  void choose(QString a, QString b);
  CompareState state() const;
  void restore(const CompareState& state);
  TableView* table() const { return table_; }
  CompareView* view() const { return view_; }
  const std::vector<std::shared_ptr<const Curve>>& opened() const { return opened_; }

 protected:
  void showEvent(QShowEvent* event) override;

 private:
  void follow();
  void fill_boxes();
  void fill_table();
  void fill_heads(const std::shared_ptr<const Curve>& a, const std::shared_ptr<const Curve>& b);
  std::shared_ptr<const Curve> curve_of_key(const QString& key);
  std::shared_ptr<const Curve> curve_of_plan(const std::shared_ptr<const Answered>& plan);
  QString words_of_key(const QString& key, const Curve& curve) const;

  PlanSession& session_;
  const Look& look_;
  std::shared_ptr<const Answered> pinned_;
  std::vector<std::shared_ptr<const Curve>> opened_;
  std::vector<std::pair<std::shared_ptr<const Answered>, std::shared_ptr<const Curve>>> plans_;  ///< curves of plans on the screen
  QString a_key_ = kCompareBefore, b_key_ = kCompareNow;
  std::shared_ptr<const Curve> a_, b_;
  QComboBox *a_box_, *b_box_;
  QLabel *head_, *a_line_, *b_line_, *table_head_;
  QTabBar* by_;
  QLineEdit* filter_;
  CompareView* view_;
  TableView* table_;
};

}  // namespace zeroplan::gui
