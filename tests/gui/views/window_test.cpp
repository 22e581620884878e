// Drives the real window on Qt's offscreen platform: what a hand does to a knob, the command line and the undo key, and what the window then shows.
#include <QAbstractItemModelTester>
#include <QApplication>
#include <QComboBox>
#include <QDragEnterEvent>
#include <QDropEvent>
#include <QHelpEvent>
#include <QLabel>
#include <QLineEdit>
#include <QListWidget>
#include <QMimeData>
#include <QPushButton>
#include <QSlider>
#include <QTabWidget>
#include <QTemporaryDir>
#include <QToolTip>
#include <QtTest>

#include <nlohmann/json.hpp>

#include "gui/views/command_palette.h"
#include "gui/views/main_window.h"
#include "gui/views/map_view.h"
#include "gui/views/plan_screen.h"
#include "gui/views/run_screen.h"
#include "gui/views/step_view.h"
#include "gui/views/table_view.h"
#include "gui/views/verdict_strip.h"

namespace zeroplan::gui {

const QString kOurs = "zeroplan fit internlm2-20b --on 8xa100-80g --engine zeroplan";

class WindowTest : public QObject {
  Q_OBJECT

 private:
  struct Fixture {
    PlanSession session;
    MainWindow window{session, Language::english, false};
    explicit Fixture(Engine engine = Engine::zeroplan) : session(asked_of("internlm2-20b", "8xa100-80g", engine)) {
      session.set_patience(std::chrono::minutes(1));  // the machine may be busy
      window.show();
    }
    QLineEdit* line() { return window.findChild<QLineEdit*>("command_line"); }
    QSlider* slider(const char* name) { return window.findChild<QSlider*>(name); }
    QString problem() { return window.findChild<QLabel*>("problem")->isVisible() ? window.findChild<QLabel*>("problem")->text() : QString(); }
    void type(const QString& text) {
      line()->setText(text);
      QTest::keyClick(line(), Qt::Key_Return);
    }
  };

 private slots:
  void opens_with_an_answer() {
    Fixture f;
    QCOMPARE(f.window.strip()->verdict(), QString("FITS"));
    QCOMPARE(f.line()->text(), kOurs);
  }

  void a_slider_changes_verdict_and_command_line_and_undo_returns_both() {
    Fixture f;
    f.slider("seq")->setValue(f.slider("seq")->maximum());
    QCOMPARE(f.window.strip()->verdict(), QString("DOES NOT FIT"));
    QVERIFY(f.line()->text().contains("--seq 262144"));
    f.window.findChild<QAction*>("undo")->trigger();
    QCOMPARE(f.window.strip()->verdict(), QString("FITS"));
    QCOMPARE(f.line()->text(), kOurs);
    f.window.findChild<QAction*>("redo")->trigger();
    QCOMPARE(f.window.strip()->verdict(), QString("DOES NOT FIT"));
  }

  void another_engine_changes_verdict_and_command_line_and_undo_returns_both() {
    Fixture f;
    auto* engines = f.window.findChild<QComboBox*>("engine");
    QCOMPARE(engines->currentText(), QString("zeroplan"));
    const QStringList lines{"zeroplan fit internlm2-20b --on 8xa100-80g", "zeroplan fit internlm2-20b --on 8xa100-80g --engine fsdp2", "zeroplan fit internlm2-20b --on 8xa100-80g --engine ddp"};
    const QStringList verdicts{"FITS", "FITS", "DOES NOT FIT"};
    for (int i = 0; i < 3; ++i) {
      engines->setCurrentIndex(i + 1);
      emit engines->activated(i + 1);
      QCOMPARE(f.line()->text(), lines[i]);
      QCOMPARE(f.window.strip()->verdict(), verdicts[i]);
      QVERIFY(!f.slider("prefetch_units")->isEnabled());
      QVERIFY(f.slider("prefetch_units")->toolTip().contains("zeroplan engine"));
      QVERIFY(!f.window.findChild<QPushButton*>(i == 2 ? "stage3" : "stage0")->isEnabled());
    }
    for (int i = 0; i < 3; ++i) f.window.findChild<QAction*>("undo")->trigger();
    QCOMPARE(f.line()->text(), kOurs);
    QCOMPARE(f.window.strip()->verdict(), QString("FITS"));
    QCOMPARE(engines->currentText(), QString("zeroplan"));
    QVERIFY(f.slider("prefetch_units")->isEnabled());
  }

  void the_command_line_means_what_it_means_to_the_program() {
    Fixture f;
    f.type("internlm2-20b --on 8xa100-80g");
    QCOMPARE(f.session.now().asked.question.plan.preset, std::string("xtuner-zero3"));
    QCOMPARE(f.window.findChild<QComboBox*>("engine")->currentText(), QString("DeepSpeed (XTuner)"));
    f.type("internlm2-20b --on 8xa100-80g --preset hf-auto-zero3");
    QCOMPARE(f.window.findChild<QComboBox*>("engine")->currentText(), QString("DeepSpeed (hf-trainer)"));
    QCOMPARE(f.line()->text(), QString("zeroplan fit internlm2-20b --on 8xa100-80g --preset hf-auto-zero3"));
    f.type("internlm2-20b --on 8xa100-80g --preset hf-auto-zero4");
    QVERIFY(f.problem().contains("hf-auto-zero3"));
  }

  void a_fix_of_deepspeed_is_applied_with_enter() {
    Fixture f(Engine::deepspeed);
    f.type("internlm2-20b --on 8xa100-80g --stage 1");
    QCOMPARE(f.window.strip()->verdict(), QString("DOES NOT FIT"));
    QTRY_VERIFY(!f.session.fixes().empty());
    f.window.plan_screen()->tabs()->setCurrentIndex(1);
    auto* fixes = f.window.findChild<TableView*>("fixes");
    fixes->setCurrentIndex(fixes->model()->index(0, 0));
    QTest::keyClick(fixes, Qt::Key_Return);
    QVERIFY(f.window.strip()->verdict() != "DOES NOT FIT");
    QCOMPARE(f.session.now().asked.question.plan.engine, Engine::deepspeed);
  }

  void a_drag_is_one_undo_step_and_its_ghost_is_the_plan_before_it() {
    Fixture f;
    QSlider* slider = f.slider("micro_batch");
    slider->setSliderDown(true);
    for (int at = 1; at < 8; ++at) slider->setSliderPosition(at), slider->setValue(at);
    slider->setSliderDown(false);
    QCOMPARE(f.session.now().asked.question.plan.micro_batch, std::int64_t{8});
    QCOMPARE(f.session.ghost()->asked.question.plan.micro_batch, std::int64_t{1});
    f.session.undo();
    QCOMPARE(f.session.now().asked.question.plan.micro_batch, std::int64_t{1});
    QVERIFY(!f.session.can_undo());
  }

  void editing_the_command_line_moves_the_sliders() {
    Fixture f;
    f.type("zeroplan fit internlm2-20b --on 8xa100-80g --engine zeroplan --stage 1 --accumulate 16 --checkpoint blocks-20");
    QCOMPARE(f.slider("accumulate")->value(), 15);
    QCOMPARE(f.slider("checkpoint")->value(), 20);
    QVERIFY(f.window.findChild<QPushButton*>("stage1")->isChecked());
  }

  void wrong_text_keeps_the_plan_and_marks_the_place() {
    Fixture f;
    const Asked before = f.session.now().asked;
    f.type("zeroplan fit internlm2-20b --on 8xa100-80g --engine zeroplan --stage 9");
    QVERIFY(!f.problem().isEmpty());
    QCOMPARE(f.line()->selectedText(), QString("9"));
    QVERIFY(f.session.now().asked == before);
  }

  void a_fix_is_applied_with_enter() {
    Fixture f;
    f.type("zeroplan fit internlm2-20b --on 8xa100-80g --engine zeroplan --stage 0");
    QCOMPARE(f.window.strip()->verdict(), QString("DOES NOT FIT"));
    QTRY_VERIFY(!f.session.fixes().empty());
    f.window.plan_screen()->tabs()->setCurrentIndex(1);
    auto* fixes = f.window.findChild<TableView*>("fixes");
    fixes->setCurrentIndex(fixes->model()->index(0, 0));
    QTest::keyClick(fixes, Qt::Key_Return);
    QVERIFY(f.window.strip()->verdict() != "DOES NOT FIT");
  }

  void every_screen_paints_in_both_languages_and_colours() {
    for (const Language language : {Language::english, Language::chinese})
      for (const bool dark : {false, true}) {
        PlanSession session(dark ? asked_of("qwen2.5-0.5b", "2xcpu") : asked_of("qwen2.5-0.5b", "8xa100-80g"));
        MainWindow window(session, language, dark);
        window.resize(1280, 800);
        window.show();
        for (int screen = 0; screen < kScreenCount; ++screen) {
          window.show_screen(static_cast<Screen>(screen));
          const QImage picture = window.grab().toImage();
          QCOMPARE(picture.width(), static_cast<int>(1280 * picture.devicePixelRatio()));
          QCOMPARE(picture.pixelColor(4, picture.height() - 4).lightness() < 128, dark);
        }
      }
  }

  void another_engine_on_the_map_shows_the_segments_of_its_allocator() {
    Fixture f;
    auto* map = f.window.findChild<MapView*>("map_view");
    QVERIFY(map->map() == nullptr);  // a hidden map is not made
    f.window.show_screen(Screen::map);
    QVERIFY(map->is_current());
    QVERIFY(map->map()->segments.empty());
    QCOMPARE(map->map()->height_bytes, f.session.now().prediction.must_fit.value());
    const QImage ours = map->grab().toImage();
    for (const Engine engine : {Engine::deepspeed, Engine::fsdp2}) {
      f.session.choose_engine(engine, f.session.new_gesture());
      QVERIFY(!map->is_current());
      map->grab();  // of the plan before, while the other's is made
      QTRY_VERIFY(map->is_current());
      QVERIFY(map->map()->segments.size() > 10);
      QVERIFY(map->map()->gaps.size() > 10);
      QCOMPARE(map->map()->height_bytes, f.session.now().prediction.must_fit.value());
      QVERIFY(map->grab().toImage() != ours);
    }
    f.session.choose_engine(Engine::zeroplan, f.session.new_gesture());
    QVERIFY(map->is_current());
    QVERIFY(map->map()->segments.empty());
  }

  void moves_on_the_map_end_at_the_last_one() {
    Fixture f(Engine::deepspeed);
    f.window.show_screen(Screen::map);
    auto* map = f.window.findChild<MapView*>("map_view");
    const int gesture = f.session.new_gesture();
    for (int seq = 1024; seq <= 8192; seq += 1024) {
      f.session.change("seq", std::to_string(seq), gesture);
      QCoreApplication::processEvents();
    }
    QTRY_VERIFY(map->is_current());
    QCOMPARE(map->map()->height_bytes, f.session.now().prediction.must_fit.value());
    f.window.show_screen(Screen::plan);
    f.session.change("seq", "2048", f.session.new_gesture());
    QCoreApplication::processEvents();
    QVERIFY(!map->is_current());
    f.window.show_screen(Screen::map);
    QTRY_VERIFY(map->is_current());
  }

  void a_click_on_the_map_says_what_lies_beside_a_block_and_keys_go_there() {
    for (const Engine engine : {Engine::zeroplan, Engine::deepspeed}) {
      Fixture f(engine);
      f.window.show_screen(Screen::map);
      auto* map = f.window.findChild<MapView*>("map_view");
      QTRY_VERIFY(map->is_current());
      for (int y = map->height() / 2; y < map->height() && map->note().isEmpty(); y += 7) QTest::mouseClick(map, Qt::LeftButton, Qt::NoModifier, QPoint(map->width() / 3, y));
      QVERIFY2(map->note().contains("above: "), qPrintable(map->note()));
      QVERIFY(map->note().contains("below: "));
      QVERIFY(map->note().contains(engine == Engine::zeroplan ? "read" : "segment of"));
      QCOMPARE(map->accessibleDescription(), map->note());
      map->grab();
      QSet<QString> named;
      for (int y = 0; y < map->height(); y += 3) {
        const QPoint at(map->width() / 2, y);
        QHelpEvent help(QEvent::ToolTip, at, map->mapToGlobal(at));
        QApplication::sendEvent(map, &help);
        named.insert(QToolTip::text());
      }
      QVERIFY(named.size() > 5);
      QTest::keyClick(map, Qt::Key_Down);
      QTest::keyClick(map, Qt::Key_Up);
      QTest::keyClick(map, Qt::Key_Up);
      QTest::keyClick(map, Qt::Key_Down);
      QVERIFY(!map->note().isEmpty());
      QTest::keyClick(map, Qt::Key_Escape);
      QVERIFY(map->note().isEmpty());
    }
  }

  void emulated_engines_have_lanes_and_mark_equal_micro_batches() {
    Fixture f(Engine::deepspeed);
    StepView* view = f.window.plan_screen()->step_view();
    QVERIFY(f.session.now().picture.lanes.size() >= 4);
    QVERIFY(!view->spoken().contains("×"));
    f.session.change("accumulate", "32", f.session.new_gesture());
    QVERIFY2(view->spoken().contains("×30 micro batches"), qPrintable(view->spoken()));
    QVERIFY(view->accessibleName().contains("×30"));
    for (int y = view->height() / 2; y < view->height(); y += 4) {  // over plot, phases, lanes and axis
      QTest::mouseMove(view, QPoint(view->width() / 2, y));
      view->grab();
    }
    view->zoom(1e6, 0.5);
    view->grab();
    f.session.change("offload_optimizer", "cpu", f.session.new_gesture());
    view->grab();
  }

  void table_models_keep_their_promises() {
    TableModel model;
    QAbstractItemModelTester tester(&model, QAbstractItemModelTester::FailureReportingMode::QtTest);
    Fixture f;
    model.set(alive_table(f.session.now(), f.session.now().picture.peak_event, "", {}, Language::english));
    QVERIFY(model.rowCount() > 100);
    model.sort(1, Qt::AscendingOrder);
    QVERIFY(model.table().rows.front().cells[1].order <= model.table().rows.back().cells[1].order);
    model.set(Table{});
    QCOMPARE(model.rowCount(), 0);
  }

  void shift_arrows_walk_through_the_step() {
    Fixture f;
    StepView* view = f.window.plan_screen()->step_view();
    const std::size_t peak = view->selected_event();
    QTest::keyClick(view, Qt::Key_Left, Qt::ShiftModifier);
    QVERIFY(view->selected_event() < peak);
    QTest::keyClick(view, Qt::Key_P);
    QCOMPARE(view->selected_event(), peak);
    view->zoom(1e9, 0.5);
    view->zoom(1e-9, 0.5);
    view->grab();
  }

  void the_palette_finds_an_action_by_parts_of_its_name() {
    Fixture f;
    CommandPalette palette(f.window.actions(), "", nullptr);
    palette.findChild<QLineEdit*>()->setText("go pe");
    QCOMPARE(palette.findChild<QListWidget*>()->count(), 1);
  }

  void dropped_files_are_opened_and_foreign_ones_end_as_a_sentence() {
    Fixture f;
    QTemporaryDir dir;
    const std::string plan = dir.filePath("plan.json").toStdString(), foreign = dir.filePath("foreign.json").toStdString();
    write_file_atomically(plan, plan_to_json(with_key(asked_of("qwen3-8b", "4xh100-80g", Engine::zeroplan), "stage", "2").question).dump());
    write_file_atomically(foreign, "{\"a\": [1, 2");
    QMimeData data;
    data.setUrls({QUrl::fromLocalFile(QString::fromStdString(plan))});
    QDragEnterEvent enter(QPoint(50, 50), Qt::CopyAction, &data, Qt::LeftButton, Qt::NoModifier);
    QApplication::sendEvent(&f.window, &enter);
    QVERIFY(enter.isAccepted());
    QDropEvent drop(QPointF(50, 50), Qt::CopyAction, &data, Qt::LeftButton, Qt::NoModifier);
    QApplication::sendEvent(&f.window, &drop);
    QVERIFY(f.line()->text().startsWith("zeroplan fit qwen3-8b --on 4xh100-80g --engine zeroplan --stage 2"));
    const Asked before = f.session.now().asked;
    QVERIFY(!f.window.open_file(QString::fromStdString(foreign)));
    QVERIFY(f.problem().contains("foreign.json"));
    QVERIFY(f.session.now().asked == before);
    const QString picture = dir.filePath("step.svg"), table = dir.filePath("table.csv");
    f.window.export_picture(picture);
    f.window.export_table(table);
    QVERIFY(QFile(picture).size() > 10000);
    QVERIFY(QFile(table).size() > 1000);
  }

  void a_run_that_fails_and_a_run_that_is_stopped_end_as_sentences() {
    Fixture f;
    RunScreen* run = f.window.run_screen();
    auto* command = f.window.findChild<QLineEdit*>("run_command");
    auto* state = f.window.findChild<QLabel*>("run_state");
    command->setText("sh -c 'echo \"{\\\"event\\\":\\\"error\\\",\\\"message\\\":\\\"no memory\\\",\\\"rank\\\":1}\"; exit 5'");
    run->start();
    QTRY_VERIFY(!run->is_running());
    QVERIFY2(state->text().contains("no memory, rank 1"), qPrintable(state->text()));
    command->setText("/nonexistent/zeroplan-run plan.json");
    run->start();
    QTRY_VERIFY(state->text().contains("failed"));
    command->setText("sleep 100");
    run->start();
    QTRY_VERIFY(run->is_running());
    run->stop();
    QTRY_VERIFY(!run->is_running());
    QCOMPARE(state->text(), QString("stopped"));
  }

  void a_growing_log_is_followed() {
    Fixture f;
    QTemporaryDir dir;
    QFile log(dir.filePath("run.jsonl"));
    QVERIFY(log.open(QIODevice::WriteOnly));
    log.write("{\"event\":\"start\",\"steps\":3,\"world\":1}\n");
    log.flush();
    QVERIFY(f.window.open_file(log.fileName()));
    log.write("{\"event\":\"step\",\"step\":1,\"loss\":3.0,\"predicted_peak_bytes\":9,\"measured_peak_bytes\":9}\n");
    log.flush();
    QTRY_COMPARE(f.window.run_screen()->log().steps().size(), std::size_t{1});
  }
};

}  // namespace zeroplan::gui

QTEST_MAIN(zeroplan::gui::WindowTest)
#include "window_test.moc"
