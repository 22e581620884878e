#include "gui/views/command_palette.h"

#include <QAction>
#include <QKeyEvent>
#include <QLineEdit>
#include <QListWidget>
#include <QVBoxLayout>

namespace zeroplan::gui {

CommandPalette::CommandPalette(const QList<QAction*>& actions, const QString& hint, QWidget* parent)
    : QDialog(parent, Qt::Popup), input_(new QLineEdit), list_(new QListWidget), actions_(actions) {
  setAttribute(Qt::WA_DeleteOnClose);
  setObjectName("command_palette");
  resize(440, 320);
  input_->setPlaceholderText(hint);
  input_->installEventFilter(this);
  auto* rows = new QVBoxLayout(this);
  rows->setContentsMargins(1, 1, 1, 1);
  rows->setSpacing(0);
  rows->addWidget(input_);
  rows->addWidget(list_);
  connect(input_, &QLineEdit::textChanged, this, &CommandPalette::filter);
  connect(list_, &QListWidget::itemClicked, this, &CommandPalette::run_current);
  filter({});
  if (parent != nullptr) move(parent->mapToGlobal(QPoint((parent->width() - width()) / 2, 90)));
  input_->setFocus();
}

void CommandPalette::filter(const QString& text) {
  shown_.clear();
  list_->clear();
  const QStringList parts = text.split(' ', Qt::SkipEmptyParts);
  for (QAction* action : actions_) {
    if (!action->isEnabled() || action->objectName() == "palette") continue;
    const QString name = action->text() + " " + action->objectName();
    bool all = true;
    for (const QString& part : parts) all = all && name.contains(part, Qt::CaseInsensitive);
    if (!all) continue;
    shown_ << action;
    const QString keys = action->shortcut().toString(QKeySequence::NativeText);
    list_->addItem(keys.isEmpty() ? action->text() : action->text() + "    " + keys);
  }
  list_->setCurrentRow(0);
}

void CommandPalette::run_current() {
  const int row = list_->currentRow();
  QAction* action = row >= 0 && row < shown_.size() ? shown_[row] : nullptr;
  close();
  if (action != nullptr) action->trigger();
}

bool CommandPalette::eventFilter(QObject* watched, QEvent* event) {
  if (event->type() == QEvent::KeyPress) {
    const auto* key = static_cast<QKeyEvent*>(event);
    if (key->key() == Qt::Key_Down || key->key() == Qt::Key_Up) {
      const int next = list_->currentRow() + (key->key() == Qt::Key_Down ? 1 : -1);
      if (next >= 0 && next < list_->count()) list_->setCurrentRow(next);
      return true;
    }
    if (key->key() == Qt::Key_Return || key->key() == Qt::Key_Enter) {
      run_current();
      return true;
    }
  }
  return QDialog::eventFilter(watched, event);
}

}  // namespace zeroplan::gui
