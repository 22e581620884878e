// MainWindow: rail, verdict strip and screens around one session; menus, command palette, files. Every action is a QAction with a stable name: menus, palette,
// keys and tests share it. A change of language or colours builds the inside anew on the same session.
#pragma once

#include <QMainWindow>
#include <QStringList>
#include <functional>

#include "gui/models/opened_file.h"
#include "gui/models/session_file.h"
#include "gui/views/compare_screen.h"
#include "gui/views/look.h"
#include "gui/views/plan_session.h"

class QButtonGroup;
class QStackedWidget;

namespace zeroplan::gui {

class JobStrip;
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
  /// Any file of kind_of_file; large ones are read in a job. False with a sentence in the window if it is none of them: what is shown stays.
  bool open_file(const QString& file);
  bool save_session(const QString& file);
  /// Stops what goes on beside the window and takes away its sentence: Esc.
  void cancel();
  /// FILE.svg: the screen's picture as vectors; FILE.png: the screen. False with a sentence in the window where it cannot be written.
  bool export_picture(const QString& file);
  void export_table(const QString& file);
  PlanScreen* plan_screen() const { return plan_screen_; }
  VerdictStrip* strip() const { return strip_; }
  CompareScreen* compare_screen() const { return compare_; }
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
  void save_plan(const QString& file);
  std::string picture_as_svg() const;
  void choose_file(const QString& title, const QString& name, const QString& kinds, bool saves, std::function<void(const QString&)> chosen);
  bool open_known(FileKind kind, const QString& file);
  void read_curves(FileKind kind, const QString& file, bool quietly);
  void read_next();
  void open_session(const QString& file);
  void read_session_files(const SessionFile& saved);
  SessionFile session_file() const;
  void refuse(const QString& sentence);
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
  struct Reading {
    FileKind kind;
    QString path;
    bool quietly;  ///< opened with a session, which says what is shown
  };
  std::vector<Reading> to_read_;  ///< one after the other, in the order they were named; the first is being read
  JobStrip* jobs_ = nullptr;
  QStringList opened_;  ///< snapshots and traces, as a session names them
  bool closing_ = false;
};

}  // namespace zeroplan::gui
