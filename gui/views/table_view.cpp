#include "gui/views/table_view.h"

#include <QApplication>
#include <QClipboard>
#include <QHeaderView>
#include <QKeyEvent>
#include <QPixmap>
#include <algorithm>

namespace zeroplan::gui {

void TableModel::set(Table table) {
  beginResetModel();
  table_ = std::move(table);
  sort_rows();
  endResetModel();
}

int TableModel::rowCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : static_cast<int>(table_.rows.size()); }
int TableModel::columnCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : static_cast<int>(table_.headers.size()); }

QVariant TableModel::data(const QModelIndex& index, int role) const {
  if (!index.isValid()) return {};
  const Row& row = table_.rows[static_cast<std::size_t>(index.row())];
  if (static_cast<std::size_t>(index.column()) >= row.cells.size()) return {};
  const Cell& cell = row.cells[static_cast<std::size_t>(index.column())];
  switch (role) {
    case Qt::DisplayRole: return QString::fromStdString(cell.text);
    case Qt::ToolTipRole: return QString::fromStdString(row.note.empty() ? cell.text : row.note);
    case Qt::TextAlignmentRole: return static_cast<int>((cell.number ? Qt::AlignRight : Qt::AlignLeft) | Qt::AlignVCenter);
    case Qt::DecorationRole: return cell.swatch != 0 ? QVariant(QColor::fromRgb(cell.swatch)) : QVariant();
    default: return {};
  }
}

QVariant TableModel::headerData(int section, Qt::Orientation orientation, int role) const {
  if (orientation != Qt::Horizontal || section < 0 || static_cast<std::size_t>(section) >= table_.headers.size()) return {};
  if (role == Qt::DisplayRole) return QString::fromStdString(table_.headers[static_cast<std::size_t>(section)]);
  if (role == Qt::TextAlignmentRole && !table_.rows.empty() && static_cast<std::size_t>(section) < table_.rows.front().cells.size())
    return static_cast<int>((table_.rows.front().cells[static_cast<std::size_t>(section)].number ? Qt::AlignRight : Qt::AlignLeft) | Qt::AlignVCenter);
  return {};
}

void TableModel::sort(int column, Qt::SortOrder order) {
  sorted_by_ = column;
  order_ = order;
  beginResetModel();
  sort_rows();
  endResetModel();
}

void TableModel::sort_rows() {
  if (sorted_by_ < 0 || static_cast<std::size_t>(sorted_by_) >= table_.headers.size()) return;
  const auto column = static_cast<std::size_t>(sorted_by_);
  const auto less = [&](const Row& a, const Row& b) {
    const Cell &x = a.cells[column], &y = b.cells[column];
    return x.order != y.order ? x.order < y.order : x.text < y.text;
  };
  std::stable_sort(table_.rows.begin(), table_.rows.end(), [&](const Row& a, const Row& b) { return order_ == Qt::AscendingOrder ? less(a, b) : less(b, a); });
}

TableView::TableView(QWidget* parent) : QTableView(parent), model_(new TableModel(this)) {
  setModel(model_);
  setMouseTracking(true);
  setShowGrid(false);
  setAlternatingRowColors(true);
  setSelectionBehavior(SelectRows);
  setEditTriggers(NoEditTriggers);
  setWordWrap(false);
  setTabKeyNavigation(false);
  setFrameShape(QFrame::NoFrame);
  setIconSize({10, 10});
  verticalHeader()->hide();
  verticalHeader()->setDefaultSectionSize(fontMetrics().height() + 8);
  horizontalHeader()->setHighlightSections(false);
  horizontalHeader()->setStretchLastSection(true);
  connect(this, &QTableView::doubleClicked, this, [this](const QModelIndex& index) { emit chosen(tag_of(index)); });
}

void TableView::set_sortable(bool sortable) {
  setSortingEnabled(false);
  horizontalHeader()->setSectionsClickable(sortable);
  if (sortable) connect(horizontalHeader(), &QHeaderView::sectionClicked, this, [this](int column) {
    const bool again = horizontalHeader()->isSortIndicatorShown() && horizontalHeader()->sortIndicatorSection() == column;
    const Qt::SortOrder order = again && horizontalHeader()->sortIndicatorOrder() == Qt::DescendingOrder ? Qt::AscendingOrder : Qt::DescendingOrder;
    horizontalHeader()->setSortIndicatorShown(true);
    horizontalHeader()->setSortIndicator(column, order);
    model_->sort(column, order);
  });
}

void TableView::set_fitting() {
  sized_ = true;
  horizontalHeader()->setStretchLastSection(false);
  horizontalHeader()->setSectionResizeMode(QHeaderView::ResizeToContents);
  setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
}

void TableView::set(Table table) {
  model_->set(std::move(table));
  if (horizontalScrollBarPolicy() == Qt::ScrollBarAlwaysOff && model_->columnCount() > 0) horizontalHeader()->setSectionResizeMode(0, QHeaderView::Stretch);
  // Widths are the reader's own once there was something to size them by.
  if (!sized_ && model_->rowCount() > 0) {
    resizeColumnsToContents();
    for (int c = 0; c < model_->columnCount(); ++c) setColumnWidth(c, std::min(columnWidth(c) + 6, 200));
    sized_ = true;
  }
}

qint64 TableView::tag_of(const QModelIndex& index) const { return index.isValid() ? model_->table().rows[static_cast<std::size_t>(index.row())].tag : -1; }

QString TableView::note_of(const QModelIndex& index) const { return index.isValid() ? QString::fromStdString(model_->table().rows[static_cast<std::size_t>(index.row())].note) : QString(); }

void TableView::copy_selection() const {
  Table chosen_rows{model_->table().headers, {}};
  for (const QModelIndex& index : selectionModel()->selectedRows()) chosen_rows.rows.push_back(model_->table().rows[static_cast<std::size_t>(index.row())]);
  QApplication::clipboard()->setText(QString::fromStdString(csv_of(chosen_rows.rows.empty() ? model_->table() : chosen_rows)));
}

void TableView::keyPressEvent(QKeyEvent* event) {
  if (event->matches(QKeySequence::Copy)) return copy_selection();
  if (event->key() == Qt::Key_Return || event->key() == Qt::Key_Enter) {
    emit chosen(tag_of(currentIndex()));
    return;
  }
  QTableView::keyPressEvent(event);
}

void TableView::mouseMoveEvent(QMouseEvent* event) {
  const QModelIndex under = indexAt(event->pos());
  emit hovered(tag_of(under));
  emit noted(note_of(under.isValid() ? under : currentIndex()));
  QTableView::mouseMoveEvent(event);
}

void TableView::leaveEvent(QEvent* event) {
  emit hovered(-1);
  emit noted(note_of(currentIndex()));
  QTableView::leaveEvent(event);
}

void TableView::currentChanged(const QModelIndex& current, const QModelIndex& previous) {
  QTableView::currentChanged(current, previous);
  if (hasFocus()) emit hovered(tag_of(current));
  emit noted(note_of(current));
}

}  // namespace zeroplan::gui
