#include "gui/views/table_view.h"

#include <QApplication>
#include <QClipboard>
#include <QHeaderView>
#include <QKeyEvent>
#include <QPixmap>
#include <algorithm>

namespace zeroplan::gui {

namespace {

constexpr std::size_t kSortInAJob = 50'000;
constexpr int kWidestColumn = 200, kRowsToSizeBy = 20;

}  // namespace

void TableModel::set(std::shared_ptr<const TableSource> source) {
  beginResetModel();
  source_ = std::move(source);
  headers_ = source_->headers();
  const bool later = jobs_ != nullptr && source_->row_count() > kSortInAJob;
  rows_ = rows_in_order(*source_, later ? RowOrder{} : order_);
  endResetModel();
  if (later && order_ != RowOrder{}) apply_order();
}

void TableModel::set_filter(const QString& part) {
  if (order_.filter == part.toStdString()) return;
  order_.filter = part.toStdString();
  apply_order();
}

void TableModel::set_jobs(Jobs* jobs, const QString& title) {
  jobs_ = jobs;
  title_ = title;
  lane_ = QString("table %1").arg(reinterpret_cast<quintptr>(this));
}

void TableModel::apply_order() {
  if (jobs_ == nullptr || source_->row_count() <= kSortInAJob) return show(rows_in_order(*source_, order_));
  jobs_->start(lane_, title_, [this, source = source_, order = order_](Jobs::Job&) -> Jobs::Found {
    return [this, source, rows = rows_in_order(*source, order)] {
      if (source == source_) show(rows);
    };
  });
}

void TableModel::show(std::vector<std::uint32_t> rows) {
  beginResetModel();
  rows_ = std::move(rows);
  endResetModel();
}

void TableModel::write_csv(const QString& title, std::function<void(const std::string& csv)> take) const {
  if (jobs_ == nullptr || rows_.size() <= kSortInAJob) return take(*csv_of_rows(*source_, rows_));
  jobs_->start("csv", title, [source = source_, rows = rows_, take = std::move(take)](Jobs::Job& job) -> Jobs::Found {
    auto csv = csv_of_rows(*source, rows, [&](double done_ratio) {
      job.report(done_ratio);
      return !job.is_stopped();
    });
    if (!csv) return {};
    return [take, csv = std::move(*csv)] { take(csv); };
  });
}

TableModel::~TableModel() {
  if (jobs_ != nullptr) jobs_->cancel(lane_);
}

Row TableModel::row(int shown) const {
  const std::uint32_t at = rows_[static_cast<std::size_t>(shown)];
  Row out{{}, source_->note(at), source_->tag(at)};
  for (std::size_t c = 0; c < headers_.size(); ++c) out.cells.push_back(source_->cell(at, c));
  return out;
}

Table TableModel::table() const {
  Table out{headers_, {}};
  for (int i = 0; i < rowCount(); ++i) out.rows.push_back(row(i));
  return out;
}

int TableModel::rowCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : static_cast<int>(rows_.size()); }
int TableModel::columnCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : static_cast<int>(headers_.size()); }

QVariant TableModel::data(const QModelIndex& index, int role) const {
  if (!index.isValid()) return {};
  const std::size_t row = rows_[static_cast<std::size_t>(index.row())], column = static_cast<std::size_t>(index.column());
  if (role != Qt::DisplayRole && role != Qt::ToolTipRole && role != Qt::TextAlignmentRole && role != Qt::DecorationRole) return {};
  const Cell cell = source_->cell(row, column);
  switch (role) {
    case Qt::DisplayRole: return QString::fromStdString(cell.text);
    case Qt::ToolTipRole: {
      const std::string note = source_->note(row);
      return QString::fromStdString(note.empty() ? cell.text : note);
    }
    case Qt::TextAlignmentRole: return static_cast<int>((cell.number ? Qt::AlignRight : Qt::AlignLeft) | Qt::AlignVCenter);
    case Qt::DecorationRole: return cell.swatch != 0 ? QVariant(QColor::fromRgb(cell.swatch)) : QVariant();
    default: return {};
  }
}

QVariant TableModel::headerData(int section, Qt::Orientation orientation, int role) const {
  if (orientation != Qt::Horizontal || section < 0 || static_cast<std::size_t>(section) >= headers_.size()) return {};
  if (role == Qt::DisplayRole) return QString::fromStdString(headers_[static_cast<std::size_t>(section)]);
  if (role == Qt::TextAlignmentRole && !rows_.empty())
    return static_cast<int>((source_->cell(rows_.front(), static_cast<std::size_t>(section)).number ? Qt::AlignRight : Qt::AlignLeft) | Qt::AlignVCenter);
  return {};
}

void TableModel::sort(int column, Qt::SortOrder order) {
  order_.column = column;
  order_.descending = order == Qt::DescendingOrder;
  apply_order();
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
  horizontalHeader()->setResizeContentsPrecision(kRowsToSizeBy);
  connect(horizontalHeader(), &QHeaderView::sectionResized, this, [this] { is_sized_by_hand_ |= horizontalHeader()->underMouse() && QApplication::mouseButtons() == Qt::LeftButton; });
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
  horizontalHeader()->setStretchLastSection(false);
  horizontalHeader()->setSectionResizeMode(QHeaderView::ResizeToContents);
  setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  // What does not fit beside the others takes more lines.
  setWordWrap(true);
  verticalHeader()->setMinimumSectionSize(verticalHeader()->defaultSectionSize());
  verticalHeader()->setSectionResizeMode(QHeaderView::ResizeToContents);
}

void TableView::set(std::shared_ptr<const TableSource> source) {
  const bool other_columns = source->headers() != model_->headers();
  model_->set(std::move(source));
  const bool fitting = horizontalScrollBarPolicy() == Qt::ScrollBarAlwaysOff;
  if (fitting && model_->columnCount() > 0) horizontalHeader()->setSectionResizeMode(0, QHeaderView::Stretch);
  // Widths only grow while the columns stay the same: a table that is looked at must not jump. They are the reader's own once a hand was on them.
  if (fitting || model_->rowCount() == 0) return;
  if (other_columns) is_sized_ = is_sized_by_hand_ = false;
  if (is_sized_by_hand_) return;
  // The last takes what is left, and no more: it is stretched anew.
  horizontalHeader()->setStretchLastSection(false);
  for (int c = 0; c < model_->columnCount(); ++c) {
    const int needed = std::min(std::max(sizeHintForColumn(c), horizontalHeader()->sectionSizeHint(c)) + 6, kWidestColumn);
    if (!is_sized_ || needed > columnWidth(c)) setColumnWidth(c, needed);
  }
  horizontalHeader()->setStretchLastSection(true);
  is_sized_ = true;
}

qint64 TableView::tag_of(const QModelIndex& index) const { return index.isValid() ? model_->row(index.row()).tag : -1; }

QString TableView::note_of(const QModelIndex& index) const { return index.isValid() ? QString::fromStdString(model_->row(index.row()).note) : QString(); }

void TableView::copy_selection() const {
  Table chosen_rows{model_->headers(), {}};
  for (const QModelIndex& index : selectionModel()->selectedRows()) chosen_rows.rows.push_back(model_->row(index.row()));
  const auto copy = [](const std::string& csv) { QApplication::clipboard()->setText(QString::fromStdString(csv)); };
  if (chosen_rows.rows.empty()) model_->write_csv(copying_, copy);
  else copy(csv_of(chosen_rows));
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
