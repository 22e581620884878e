// A table (gui/models) in a window: sorts by a click on a header, filters, copies with Ctrl+C, says which row is under the hand. Order and filter are an index beside
// the rows; of large tables it is made in a job. Leaves out what the rows mean.
#pragma once

#include <QAbstractTableModel>
#include <QTableView>

#include "gui/models/row_index.h"
#include "gui/views/jobs.h"

namespace zeroplan::gui {

class TableModel : public QAbstractTableModel {
  Q_OBJECT

 public:
  using QAbstractTableModel::QAbstractTableModel;
  ~TableModel() override;
  void set(Table table) { set(std::make_shared<RowsSource>(std::move(table))); }
  void set(std::shared_ptr<const TableSource> source);
  void set_filter(const QString& part);
  const std::vector<std::string>& headers() const { return headers_; }
  /// What is shown, in its order.
  Table table() const;
  Row row(int shown) const;
  /// Where large tables are sorted; without, at once. The title is what the job is called.
  void set_jobs(Jobs* jobs, const QString& title);
  /// What is shown as CSV: at once, or from a job where it is large; `take` runs on the window's thread.
  void write_csv(const QString& title, std::function<void(const std::string& csv)> take) const;

  int rowCount(const QModelIndex& parent = {}) const override;
  int columnCount(const QModelIndex& parent = {}) const override;
  QVariant data(const QModelIndex& index, int role) const override;
  QVariant headerData(int section, Qt::Orientation orientation, int role) const override;
  void sort(int column, Qt::SortOrder order) override;

 private:
  void apply_order();
  void show(std::vector<std::uint32_t> rows);

  std::shared_ptr<const TableSource> source_ = std::make_shared<RowsSource>(Table{});
  std::vector<std::string> headers_;
  std::vector<std::uint32_t> rows_;  // shown ones, as numbers of the source
  RowOrder order_;
  Jobs* jobs_ = nullptr;
  QString title_, lane_;
};

class TableView : public QTableView {
  Q_OBJECT

 public:
  explicit TableView(QWidget* parent = nullptr);
  void set(Table table) { set(std::make_shared<RowsSource>(std::move(table))); }
  void set(std::shared_ptr<const TableSource> source);
  Table table() const { return model_->table(); }
  void set_filter(const QString& part) { model_->set_filter(part); }
  void set_jobs(Jobs* jobs, const QString& sorting, const QString& copying) {
    model_->set_jobs(jobs, sorting);
    copying_ = copying;
  }
  void set_sortable(bool sortable);
  /// All columns in view: the first takes what the others leave.
  void set_fitting();
  /// The selected rows, or all that is shown.
  void copy_selection() const;
  void write_csv(const QString& title, std::function<void(const std::string& csv)> take) const { model_->write_csv(title, std::move(take)); }

 signals:
  void hovered(qint64 tag);   ///< −1: nothing
  void chosen(qint64 tag);    ///< Enter or double click
  void noted(const QString& note);  ///< the story of the row under the hand, or of the current one

 protected:
  void keyPressEvent(QKeyEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void leaveEvent(QEvent* event) override;
  void currentChanged(const QModelIndex& current, const QModelIndex& previous) override;

 private:
  qint64 tag_of(const QModelIndex& index) const;
  QString note_of(const QModelIndex& index) const;

  TableModel* model_;
  QString copying_;
  bool is_sized_ = false, is_sized_by_hand_ = false;
};

}  // namespace zeroplan::gui
