// MainWindow: rail, verdict strip and screens around one session; menus, command palette, files. Every action is a QAction with a stable name: menus, palette,
// keys and tests share it. A change of language or colours builds the inside anew on the same session.
#pragma once

#include <QMainWindow>

#include "gui/views/look.h"
#include "gui/views/plan_session.h"

class QButtonGroup;
class QStackedWidget;

namespace zeroplan::gui {

class CompareScreen;
class MapView;
class PlanScreen;
class RunScreen;
class VerdictStrip;

enum class Screen : unsigned char { plan, map, compare, run };
inline constexpr int kScreenCount = 4;
std::optional<Screen> screen_of(const QString& name);

class MainWindow : public QMainWindow {
  Q_OBJECT

 public:
  MainWindow(PlanSession& session, Language language, bool dark);

  void show_screen(Screen screen);
  /// plan.json, config.json or a JSON Lines log. False with a sentence in the status bar if it is none of them.
  bool open_file(const QString& file);
  void export_picture(const QString& file);
  void export_table(const QString& file);
  PlanScreen* plan_screen() const { return plan_screen_; }
  VerdictStrip* strip() const { return strip_; }
  RunScreen* run_screen() const { return run_screen_; }
  const Look& look() const { return look_; }

 protected:
  void dragEnterEvent(QDragEnterEvent* event) override;
  void dropEvent(QDropEvent* event) override;
  void closeEvent(QCloseEvent* event) override;

 private:
  void build();
  void build_actions();
  QAction* add_action(QMenu* menu, const char* id, const QString& text, const QKeySequence& keys, std::function<void()> act);
  void set_language(Language language);
  void set_dark(bool dark);
  void show_palette();
  void save_plan();
  void say(const QString& sentence);

  PlanSession& session_;
  Look look_;
  VerdictStrip* strip_ = nullptr;
  QStackedWidget* stack_ = nullptr;
  QButtonGroup* rail_ = nullptr;
  PlanScreen* plan_screen_ = nullptr;
  MapView* map_ = nullptr;
  CompareScreen* compare_ = nullptr;
  RunScreen* run_screen_ = nullptr;
  std::shared_ptr<const Answered> pinned_;
  bool closing_ = false;
};

}  // namespace zeroplan::gui
