// CommandPalette: every action of the window by name, found by typing parts of it.
#pragma once

#include <QDialog>
#include <QList>

class QAction;
class QLineEdit;
class QListWidget;

namespace zeroplan::gui {

class CommandPalette : public QDialog {
  Q_OBJECT

 public:
  CommandPalette(const QList<QAction*>& actions, const QString& hint, QWidget* parent);

 protected:
  bool eventFilter(QObject* watched, QEvent* event) override;

 private:
  void filter(const QString& text);
  void run_current();

  QLineEdit* input_;
  QListWidget* list_;
  QList<QAction*> actions_, shown_;
};

}  // namespace zeroplan::gui
