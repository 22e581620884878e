// Knobs: the left side of the Plan screen. Each knob is one key of the question (or its model or cluster) and follows the session: what the command line or an
// undo changes moves the sliders. A drag is one gesture. What the plan's engine does not have is disabled and says why. Leaves out what a change leads to.
#pragma once

#include <QScrollArea>
#include <QTimer>
#include <functional>
#include <vector>

#include "gui/views/look.h"
#include "gui/views/plan_session.h"

class QComboBox;
class QCheckBox;
class QFormLayout;
class QLabel;
class QSlider;
class QVBoxLayout;

namespace zeroplan::gui {

class Knobs : public QScrollArea {
  Q_OBJECT

 public:
  Knobs(PlanSession& session, const Look& look, QWidget* parent = nullptr);

 private:
  /// A slider over a list of values, with its value spoken in words beside its name.
  struct SliderKnob {
    QSlider* slider = nullptr;
    QLabel* value = nullptr;
    std::vector<std::int64_t> values;
    std::function<std::int64_t(const Question&)> read;
    std::function<QString(std::int64_t)> words;
    std::function<void(std::int64_t, int gesture)> write;
  };
  void add_heading(const QString& text);
  void add_slider(const char* id, const QString& name, std::vector<std::int64_t> values, std::function<std::int64_t(const Question&)> read, std::function<QString(std::int64_t)> words,
                  std::function<void(std::int64_t, int)> write);
  void add_key_slider(const char* key, const QString& name, std::vector<std::int64_t> values, std::function<QString(std::int64_t)> words);
  QComboBox* add_choice(const char* id, const QString& name, const QStringList& choices, bool searchable, std::function<void(const QString&)> write);
  void add_engines();
  void add_stages();
  void add_overlap();
  /// Disables the widget where the question's engine has no such key.
  void only_where_known(QWidget* widget, const std::string& key);
  void move(SliderKnob& knob, int at, int gesture);
  void write_waiting();
  void follow();
  void follow(SliderKnob& knob);

  PlanSession& session_;
  const Look& look_;
  QVBoxLayout* rows_;
  std::vector<std::unique_ptr<SliderKnob>> sliders_;
  std::vector<std::function<void(const Asked&)>> followers_;
  std::function<void()> waiting_;  ///< the last move of a hand, while answers are slower than it
  QTimer rest_;
  bool following_ = false;
};

}  // namespace zeroplan::gui
