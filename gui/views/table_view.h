// A Table (gui/models) in a window: sorts by a click on a header, copies with Ctrl+C, says which row is under the hand. Leaves out what the rows mean.
#pragma once

#include <QAbstractTableModel>
#include <QTableView>

#include "gui/models/table.h"

namespace zeroplan::gui {

class TableModel : public QAbstractTableModel {
  Q_OBJECT

 public:
  using QAbstractTableModel::QAbstractTableModel;
  void set(Table table);
  const Table& table() const { return table_; }

  int rowCount(const QModelIndex& parent = {}) const override;
  int columnCount(const QModelIndex& parent = {}) const override;
  QVariant data(const QModelIndex& index, int role) const override;
  QVariant headerData(int section, Qt::Orientation orientation, int role) const override;
  void sort(int column, Qt::SortOrder order) override;

 private:
  void sort_rows();

  Table table_;
  int sorted_by_ = -1;
  Qt::SortOrder order_ = Qt::DescendingOrder;
};

class TableView : public QTableView {
  Q_OBJECT

 public:
  explicit TableView(QWidget* parent = nullptr);
  void set(Table table);
  const Table& table() const { return model_->table(); }
  void set_sortable(bool sortable);
  /// All columns in view: the first takes what the others leave.
  void set_fitting();
  void copy_selection() const;

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
  bool sized_ = false;
};

}  // namespace zeroplan::gui
