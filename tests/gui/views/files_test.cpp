// Files in the real window, on Qt's offscreen platform: each kind opened, damaged ones refused, sessions saved and opened, jobs held back while a hand goes on.
#include <QAbstractItemModelTester>
#include <QApplication>
#include <QCheckBox>
#include <QComboBox>
#include <QDragEnterEvent>
#include <QDropEvent>
#include <QHeaderView>
#include <QLabel>
#include <QLineEdit>
#include <QMimeData>
#include <QProcess>
#include <QPushButton>
#include <QSlider>
#include <QStackedWidget>
#include <QTabBar>
#include <QTemporaryDir>
#include <QTextDocumentFragment>
#include <QToolButton>
#include <QXmlStreamReader>
#include <QtTest>

#include <latch>
#include <nlohmann/json.hpp>

#include "gui/views/job_strip.h"
#include "gui/views/main_window.h"
#include "gui/views/plan_screen.h"
#include "gui/views/run_screen.h"
#include "gui/views/step_view.h"
#include "gui/views/table_view.h"
#include "gui/views/verdict_strip.h"
#include "simulator/timeline_files.h"

namespace zeroplan::gui {

const QString kSnapshots = QString(ZEROPLAN_TEST_DATA) + "/memory_snapshots/";

class FilesTest : public QObject {
  Q_OBJECT

 private:
  struct Fixture {
    PlanSession session;
    MainWindow window{session, Language::english, false};
    explicit Fixture(Engine engine = Engine::zeroplan) : session(asked_of("qwen2.5-0.5b", "8xa100-80g", engine)) {
      session.set_patience(std::chrono::minutes(1));  // the machine may be busy
      window.resize(1280, 800);
      window.show();
    }
    QString problem() { return window.findChild<QLabel*>("problem")->isVisible() ? window.findChild<QLabel*>("problem")->text() : QString(); }
    bool is_idle() { return !session.jobs().is_busy(); }
    TableView* table() { return window.compare_screen()->table(); }
    QComboBox* box(const char* name) { return window.findChild<QComboBox*>(name); }
    int screen() { return window.findChild<QStackedWidget*>()->currentIndex(); }
    void drop(const QString& file) {
      QMimeData data;
      data.setUrls({QUrl::fromLocalFile(file)});
      QDragEnterEvent enter(QPoint(50, 50), Qt::CopyAction, &data, Qt::LeftButton, Qt::NoModifier);
      QApplication::sendEvent(&window, &enter);
      QDropEvent dropped(QPointF(50, 50), Qt::CopyAction, &data, Qt::LeftButton, Qt::NoModifier);
      QApplication::sendEvent(&window, &dropped);
    }
    bool open(const QString& file) { return window.open_file(file) && QTest::qWaitFor([this] { return is_idle(); }); }
  };

  /// Holds the jobs of a lane until it goes.
  struct Hold {
    std::latch gate{1};
    std::atomic<bool> is_held{false};
    Hold(Jobs& jobs, const QString& lane) {
      jobs.before_work = [this, lane](const QString& started) {
        if (!started.startsWith(lane)) return;
        is_held = true;
        gate.wait();
      };
    }
  };

  // What a hand can still do while something is held.
  void goes_on(Fixture& f) {
    auto* slider = f.window.findChild<QSlider*>("micro_batch");
    f.window.show_screen(Screen::plan);
    slider->setFocus();
    const int before = slider->value();
    QTest::keyClick(slider, Qt::Key_Right);
    QCOMPARE(slider->value(), before + 1);
    QCOMPARE(f.session.now().asked.question.plan.micro_batch, std::int64_t{before + 2});
    QTest::keyClick(&f.window, Qt::Key_3, Qt::ControlModifier);
    QVERIFY(f.window.grab().width() > 0);
    f.window.findChild<QAction*>("undo")->trigger();
    QCOMPARE(slider->value(), before);
  }

 private slots:
  void a_snapshot_opens_as_a_stack_with_the_blocks_of_an_instant() {
    Fixture f;
    const Asked before = f.session.now().asked;
    f.drop(kSnapshots + "training.pickle");
    QTRY_VERIFY(f.is_idle());
    QCOMPARE(f.screen(), static_cast<int>(Screen::compare));
    QCOMPARE(f.box("compare_b")->currentText(), QString("training.pickle · GPU 0"));
    QCOMPARE(f.box("compare_a")->currentText(), QString("—"));
    const Curve& curve = *f.window.compare_screen()->opened().front();
    QCOMPARE(f.table()->model()->rowCount(), static_cast<int>(alive_blocks(curve, curve.peak_event).size()));
    f.window.compare_screen()->view()->select(0.9);
    QVERIFY(f.table()->model()->rowCount() != static_cast<int>(alive_blocks(curve, curve.peak_event).size()));
    QTest::keyClick(f.window.compare_screen()->view(), Qt::Key_P);
    auto* filter = f.window.findChild<QLineEdit*>("compare_filter");
    filter->setText("no such frame");
    QCOMPARE(f.table()->model()->rowCount(), 0);
    filter->setText("");
    for (int click = 0; click < 2; ++click) emit f.table()->horizontalHeader()->sectionClicked(0);
    const Table rows = f.table()->table();
    QVERIFY(rows.rows.front().cells[0].order <= rows.rows.back().cells[0].order);
    QVERIFY(f.session.now().asked == before);
  }

  void a_measured_snapshot_is_laid_over_the_prediction_and_two_files_over_each_other() {
    Fixture f;
    QVERIFY(f.open(kSnapshots + "training.pickle"));
    f.window.compare_screen()->choose(kCompareNow, "training.pickle · GPU 0");
    auto* by = f.window.findChild<QTabBar*>("compare_by");
    QVERIFY(by->isVisible());
    for (int tab = 0; tab < 3; ++tab) {
      by->setCurrentIndex(tab);
      QVERIFY(f.table()->model()->rowCount() > 2);
      QCOMPARE(f.table()->model()->columnCount(), 5);
    }
    f.window.compare_screen()->choose("", "training.pickle · GPU 0");
    QVERIFY(f.open(kSnapshots + "ring.pickle"));
    QCOMPARE(f.box("compare_a")->currentText(), QString("training.pickle · GPU 0"));
    QCOMPARE(f.box("compare_b")->currentText(), QString("ring.pickle · GPU 0"));
    const QString a = f.box("compare_a")->currentText();
    f.window.compare_screen()->swap();
    QCOMPARE(f.box("compare_b")->currentText(), a);
    CompareView* view = f.window.compare_screen()->view();
    view->zoom(1e9, 0.5);
    view->grab();
    view->zoom(1e-9, 0.5);
    QCOMPARE(view->from(), 0.0);
  }

  void a_plans_own_trace_differs_from_it_in_nothing() {
    Fixture f(Engine::deepspeed);
    QTemporaryDir dir;
    const QString file = dir.filePath("step.trace");
    write_file_atomically(file.toStdString(), timeline_json_lines(*f.session.now().timeline));
    QVERIFY(f.open(file));
    f.window.compare_screen()->choose(kCompareNow, "step.trace");
    f.window.findChild<QTabBar*>("compare_by")->setCurrentIndex(2);
    QCOMPARE(f.table()->model()->rowCount(), 0);
  }

  void models_and_deepspeed_files_change_the_question() {
    Fixture f;
    QTemporaryDir dir;
    const QString settings = dir.filePath("ds.json"), model = dir.filePath("anything.txt");
    write_file_atomically(settings.toStdString(), R"({"zero_optimization": {"stage": 1}, "bf16": {"enabled": true}})");
    QVERIFY(f.open(settings));
    QCOMPARE(f.session.now().asked.question.plan.engine, Engine::deepspeed);
    QCOMPARE(f.session.now().asked.question.plan.stage, std::int64_t{1});
    write_file_atomically(model.toStdString(), R"({"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 1024, "vocab_size": 32000})");
    QVERIFY2(f.open(model), qPrintable(f.problem()));
    QCOMPARE(f.session.now().asked.question.job.model.num_layers, std::int64_t{4});
    QCOMPARE(f.session.now().asked.question.plan.stage, std::int64_t{1});
  }

  void damaged_files_end_as_one_sentence_and_what_is_shown_stays() {
    Fixture f;
    QTemporaryDir dir;
    QFile whole(kSnapshots + "training.pickle");
    QVERIFY(whole.open(QIODevice::ReadOnly));
    const QByteArray bytes = whole.readAll();
    QStringList files{kSnapshots + "runs_code_protocol2.pickle", kSnapshots + "runs_code_protocol4.pickle", dir.filePath("gone.pickle"), dir.path()};
    const auto write = [&](const char* name, const QByteArray& text) {
      files << dir.filePath(name);
      write_file_atomically(files.back().toStdString(), text.toStdString());
    };
    for (const int size : {2, 100, 5000}) write(qPrintable(QString("cut%1.pickle").arg(size)), bytes.left(size));
    write("zip.pickle", "PK\x03\x04....");
    write("half.json", "{\"format\": \"zeroplan-plan\", \"ver");
    write("later.json", R"({"format": "zeroplan-session", "version": 9})");
    write("stage.json", R"({"zero_optimization": {"stage": 7}})");
    write("trace.jsonl", "{\"event\":\"birth\",\"storage\":\"x\",\"category\":\"rust\",\"bytes\":4}\n");
    const Asked before = f.session.now().asked;
    for (const QString& file : files) {
      f.window.open_file(file);
      QTRY_VERIFY(!f.problem().isEmpty());
      QVERIFY2(f.problem().contains(QFileInfo(file).fileName()), qPrintable(f.problem()));
      QVERIFY(f.session.now().asked == before);
      QVERIFY(QApplication::activeModalWidget() == nullptr);
      QCOMPARE(f.screen(), static_cast<int>(Screen::plan));
      QTest::keyClick(&f.window, Qt::Key_Escape);
      QVERIFY(f.problem().isEmpty());
    }
  }

  void a_session_brings_back_plans_screen_view_selection_and_files() {
    QTemporaryDir dir;
    const QString file = dir.filePath("session.json");
    SessionFile saved;
    {
      Fixture f;
      QVERIFY(f.session.change("stage", "1", f.session.new_gesture()));
      f.window.findChild<QAction*>("pin")->trigger();
      QVERIFY(f.session.change("micro_batch", "2", f.session.new_gesture()));
      f.window.plan_screen()->step_view()->show_part(0.25, 0.5);
      f.window.plan_screen()->step_view()->select_event(33);
      QVERIFY(f.open(kSnapshots + "training.pickle"));
      f.window.compare_screen()->choose(kCompareBefore, "training.pickle · GPU 2");
      QVERIFY(f.window.save_session(file));
      saved = session_of_text(read_json_file(file.toStdString()).dump(), "");
      QVERIFY(!QFile::exists(file + ".tmp"));
    }
    Fixture f(Engine::deepspeed);
    QVERIFY(f.open(file));
    QCOMPARE(f.screen(), static_cast<int>(Screen::compare));
    QCOMPARE(f.session.now().asked.question.plan.micro_batch, std::int64_t{2});
    QCOMPARE(f.window.plan_screen()->step_view()->selected_event(), std::size_t{33});
    const auto [from, to] = f.window.plan_screen()->step_view()->shown_part();
    QVERIFY(std::abs(from - 0.25) < 1e-6 && std::abs(to - 0.5) < 1e-6);
    QCOMPARE(f.box("compare_a")->currentText(), QString("pinned plan"));
    QCOMPARE(f.box("compare_b")->currentText(), QString("training.pickle · GPU 2"));
    const QString again = dir.filePath("again.json");
    QVERIFY(f.window.save_session(again));
    SessionFile second = session_of_text(read_json_file(again.toStdString()).dump(), "");
    QVERIFY(std::abs(second.from_ratio - saved.from_ratio) < 1e-6);
    second.from_ratio = saved.from_ratio;
    second.to_ratio = saved.to_ratio;
    QVERIFY(second == saved);
    QVERIFY(!f.window.save_session(dir.path() + "/no/such/folder.json"));
  }

  void a_session_whose_trace_has_gone_says_so_and_shows_the_rest() {
    Fixture f;
    QTemporaryDir dir;
    SessionFile session;
    session.b = with_key(f.session.now().asked, "stage", "2");
    session.files = {"/nonexistent/run.pickle"};
    session.compare_b = "run.pickle · GPU 0";
    const QString file = dir.filePath("s.json");
    write_file_atomically(file.toStdString(), session_text(session));
    QVERIFY(f.open(file));
    QVERIFY2(f.problem().contains("/nonexistent/run.pickle"), qPrintable(f.problem()));
    QCOMPARE(f.session.now().asked.question.plan.stage, std::int64_t{2});
  }

  void a_held_file_stops_nothing_and_cancel_ends_it() {
    for (const bool by_key : {false, true}) {
      Fixture f;
      QTRY_VERIFY(f.is_idle());
      Hold hold(f.session.jobs(), "read");
      QVERIFY(f.window.open_file(kSnapshots + "training.pickle"));
      QTRY_VERIFY(hold.is_held);
      auto* strip = f.window.findChild<JobStrip*>("job_strip");
      QTRY_VERIFY(strip->isVisible());
      goes_on(f);
      QVERIFY(f.session.jobs().is_busy("read"));
      if (by_key) QTest::keyClick(&f.window, Qt::Key_Escape);
      else QTest::mouseClick(f.window.findChild<QPushButton*>("job_cancel"), Qt::LeftButton);
      QVERIFY(f.is_idle());
      QVERIFY(!strip->isVisible());
      hold.gate.count_down();
      QTest::qWait(50);
      QVERIFY(f.window.compare_screen()->opened().empty());
    }
  }

  void a_held_search_for_fixes_stops_nothing_and_a_stale_one_is_dropped() {
    for (const Engine engine : {Engine::zeroplan, Engine::deepspeed}) {
      Fixture f(engine);
      Hold hold(f.session.jobs(), "fixes");
      QTRY_VERIFY(hold.is_held);
      QTRY_VERIFY(f.window.findChild<JobStrip*>("job_strip")->isVisible());
      goes_on(f);
      QTRY_VERIFY(f.session.jobs().is_busy("fixes"));
      QTest::keyClick(&f.window, Qt::Key_Escape);
      QVERIFY(f.is_idle());
      hold.gate.count_down();
      QTest::qWait(50);
      QVERIFY(f.session.fixes().empty());
      QVERIFY(f.session.change("micro_batch", "2", f.session.new_gesture()));
      QSignalSpy ready(&f.session, &PlanSession::fixes_ready);
      QTRY_COMPARE(ready.count(), 1);
    }
  }

  void a_held_answer_stops_nothing_and_cancel_or_undo_takes_its_question_back() {
    for (const int way : {0, 1, 2, 3}) {
      Fixture f;
      QVERIFY(f.session.change("seq", "2048", f.session.new_gesture()));
      QTRY_VERIFY(f.is_idle());
      const Asked before = f.session.now().asked;
      f.session.set_patience(std::chrono::milliseconds(20));
      Hold hold(f.session.jobs(), "answer");
      auto* slider = f.window.findChild<QSlider*>("micro_batch");
      const int at = slider->value();
      QTest::keyClick(slider, Qt::Key_Right);
      QVERIFY(f.session.is_answering());
      QVERIFY(f.session.now().asked == before);
      QCOMPARE(slider->value(), at + 1);  // the knob stays where the hand put it
      auto* strip = f.window.findChild<JobStrip*>("job_strip");
      QTRY_VERIFY(strip->isVisible());
      for (const Qt::Key key : {Qt::Key_2, Qt::Key_3, Qt::Key_4, Qt::Key_1}) {
        QTest::keyClick(&f.window, key, Qt::ControlModifier);
        QCOMPARE(f.screen(), key - Qt::Key_1);
        QVERIFY(f.window.grab().width() > 0);
      }
      if (way == 0) {
        QTest::keyClick(slider, Qt::Key_Right);  // a change of what is wanted, not of what is shown
        QCOMPARE(f.session.wanted().question.plan.micro_batch, std::int64_t{3});
        f.session.jobs().before_work = {};
        hold.gate.count_down();
        QTRY_VERIFY(!f.session.is_answering());
        QCOMPARE(f.session.now().asked.question.plan.micro_batch, std::int64_t{3});
        QCOMPARE(slider->value(), at + 2);
        f.window.findChild<QAction*>("undo")->trigger();
        QVERIFY(f.session.now().asked == before);
        continue;
      }
      if (way == 1) QTest::keyClick(&f.window, Qt::Key_Escape);
      if (way == 2) QTest::mouseClick(f.window.findChild<QPushButton*>("job_cancel"), Qt::LeftButton);
      if (way == 3) f.window.findChild<QAction*>("undo")->trigger();
      QVERIFY(!f.session.is_answering());
      QCOMPARE(slider->value(), at);
      hold.gate.count_down();
      QTest::qWait(50);
      QVERIFY(f.session.now().asked == before);
      QVERIFY(f.session.change("micro_batch", "4", f.session.new_gesture()));
      QTRY_COMPARE(f.session.now().asked.question.plan.micro_batch, std::int64_t{4});
    }
  }

  void a_held_child_stops_nothing_and_stop_ends_it() {
    Fixture f;
    QTemporaryDir dir;
    const QString gate = dir.filePath("gate");
    QCOMPARE(QProcess::execute("mkfifo", {gate}), 0);
    RunScreen* run = f.window.run_screen();
    f.window.findChild<QLineEdit*>("run_command")->setText(QString("sh -c 'echo \"{\\\"event\\\":\\\"start\\\",\\\"steps\\\":3,\\\"world\\\":1}\"; read line < %1'").arg(gate));
    run->start();
    QTRY_COMPARE(run->log().planned_steps(), std::int64_t{3});
    goes_on(f);
    QTest::keyClick(&f.window, Qt::Key_Escape);
    QVERIFY(run->is_running());  // Esc ends what the window computes, not a training run
    QTest::keyClick(&f.window, Qt::Key_4, Qt::ControlModifier);
    QTest::mouseClick(f.window.findChild<QPushButton*>("run_stop"), Qt::LeftButton);
    QTRY_VERIFY(!run->is_running());
    QCOMPARE(f.window.findChild<QLabel*>("run_state")->text(), QString("stopped"));
  }

  void every_picture_leaves_as_svg_and_png_and_every_table_as_csv() {
    Fixture f;
    QTemporaryDir dir;
    QFile log(dir.filePath("run.jsonl"));
    QVERIFY(log.open(QIODevice::WriteOnly));
    log.write("{\"event\":\"start\",\"steps\":2,\"world\":1}\n");
    for (const char* step : {"1", "2"}) log.write(QByteArray("{\"event\":\"step\",\"step\":") + step + ",\"loss\":3.0,\"predicted_peak_bytes\":9,\"measured_peak_bytes\":9}\n");
    log.close();
    QVERIFY(f.open(log.fileName()));
    QVERIFY(f.open(kSnapshots + "training.pickle"));
    const auto read = [&](const QString& file) {
      QFile in(file);
      return in.open(QIODevice::ReadOnly) ? in.readAll() : QByteArray();
    };
    const auto leaves = [&](Screen screen) {
      f.window.show_screen(screen);
      const QString picture = dir.filePath("picture.svg"), pixels = dir.filePath("picture.png"), table = dir.filePath("table.csv");
      f.window.export_picture(picture);
      const QByteArray svg = read(picture);
      QXmlStreamReader xml(svg);
      int shapes = 0, texts = 0;
      while (!xml.atEnd()) {
        if (!xml.readNext() || !xml.isStartElement()) continue;
        shapes += static_cast<int>(xml.name() == u"path" || xml.name() == u"polygon");
        texts += static_cast<int>(xml.name() == u"text");
        QVERIFY(xml.name() != u"image");
      }
      QVERIFY2(!xml.hasError(), qPrintable(xml.errorString()));
      QVERIFY2(shapes > 4 && texts > 4, qPrintable(QString("screen %1: %2 shapes, %3 texts").arg(static_cast<int>(screen)).arg(shapes).arg(texts)));
      f.window.export_picture(pixels);
      QVERIFY(!QImage(pixels).isNull());
      f.window.export_table(table);
      QVERIFY(read(table).count("\r\n") > 2);
      for (const QString& file : {picture, pixels, table}) QVERIFY(QFile::remove(file));
    };
    for (const Screen screen : {Screen::plan, Screen::map, Screen::compare, Screen::run}) leaves(screen);
    f.window.compare_screen()->choose(kCompareNow, "training.pickle · GPU 0");
    leaves(Screen::compare);
    for (const char* where : {"/no/such/folder/picture.svg", "/no/such/folder/picture.png", "picture.pdf"}) {
      f.window.export_picture(where);
      QVERIFY2(f.problem().contains(where), where);
      QTest::keyClick(&f.window, Qt::Key_Escape);
    }
  }

  void a_large_table_is_sorted_in_a_job_and_its_model_keeps_its_promises() {
    auto curve = std::make_shared<Curve>();
    std::vector<std::uint32_t> all;
    for (std::uint32_t i = 0; i < 200'000; ++i) {
      curve->memory.add(SimTime(i), Category::activations, 1 + i * 7919LL % 100'003);
      curve->blocks.push_back({1 + i * 7919LL % 100'003, 0, i, 200'000, curve->strings.intern("frame " + std::to_string(i % 1000)), StringId{}, kEmptyStack, 3});
      all.push_back(i);
    }
    curve->memory.finish(SimTime(200'000));
    Jobs jobs;
    TableModel model;
    QAbstractItemModelTester tester(&model, QAbstractItemModelTester::FailureReportingMode::QtTest);
    model.set_jobs(&jobs, "Sorting");
    Hold hold(jobs, "table");
    model.set(std::make_shared<BlocksSource>(curve, all, Palette{}, Language::english));
    QCOMPARE(model.rowCount(), 200'000);
    model.sort(0, Qt::AscendingOrder);
    QVERIFY(jobs.is_busy());
    QCOMPARE(model.row(5).tag, std::int64_t{5});  // as it was, while the job is held
    hold.gate.count_down();
    QTRY_VERIFY(!jobs.is_busy());
    for (int i = 1; i < 200'000; i += 1009) QVERIFY(model.row(i - 1).cells[0].order <= model.row(i).cells[0].order);
    model.set_filter("FRAME 77");
    QTRY_VERIFY(!jobs.is_busy());
    QCOMPARE(model.rowCount(), 200 * 11);
    model.set_filter("");
    QTRY_VERIFY(!jobs.is_busy());
    std::string csv;
    model.write_csv("Writing", [&](const std::string& text) { csv = text; });
    QVERIFY(csv.empty());
    jobs.cancel_all();
    model.write_csv("Writing", [&](const std::string& text) { csv = text; });
    QTRY_VERIFY(!csv.empty());
    QCOMPARE(std::count(csv.begin(), csv.end(), '\n'), std::ptrdiff_t{200'001});
    model.set(Table{});
    QCOMPARE(model.rowCount(), 0);
  }

  void no_words_are_cut_on_any_screen_in_either_language() {
    for (const Language language : {Language::english, Language::chinese}) {
      PlanSession session(with_key(asked_of("internlm2-20b", "8xa100-80g"), "stage", "1"));
      MainWindow window(session, language, false);
      window.resize(1280, 800);
      window.show();
      window.open_file(kSnapshots + "training.pickle");
      QTRY_VERIFY(!window.compare_screen()->opened().empty());
      for (int screen = 0; screen < kScreenCount; ++screen) {
        window.show_screen(static_cast<Screen>(screen));
        QTest::qWait(10);
        const auto whole = [&](const QWidget* w, const QString& text, bool wraps) {
          const int wide = wraps ? 0 : w->fontMetrics().horizontalAdvance(QTextDocumentFragment::fromHtml(text).toPlainText());
          const int high = wraps ? w->heightForWidth(w->width()) : w->fontMetrics().height();
          QVERIFY2(w->width() >= wide && w->height() >= high, qPrintable(QString("screen %1: %2 (%3x%4)").arg(screen).arg(text).arg(w->width()).arg(w->height())));
        };
        for (const QLabel* label : window.findChildren<QLabel*>())
          if (label->isVisible() && !label->text().isEmpty()) whole(label, label->text(), label->wordWrap());
        for (const QAbstractButton* button : window.findChildren<QAbstractButton*>())
          if (button->isVisible() && !button->text().isEmpty()) whole(button, button->text(), false);
        QCOMPARE(window.size(), QSize(1280, 800));
      }
      window.show_screen(Screen::plan);
      QTRY_VERIFY(!session.jobs().is_busy());
      for (const auto& [tab, name] : {std::pair{1, "fixes"}, std::pair{2, "breakdown"}}) {
        window.plan_screen()->tabs()->setCurrentIndex(tab);
        QTest::qWait(10);
        const auto* table = window.findChild<QTableView*>(name);
        QVERIFY(table->model()->rowCount() > 2);
        for (int row = 0; row < table->model()->rowCount(); ++row) {
          const auto wide = [&](const QString& text) { return table->fontMetrics().horizontalAdvance(text); };
          const QRect words = table->fontMetrics().boundingRect(QRect(0, 0, table->columnWidth(0) - 8, 1000), Qt::TextWordWrap, table->model()->index(row, 0).data().toString());
          QVERIFY(table->rowHeight(row) >= words.height());
          for (int column = 1; column < table->model()->columnCount(); ++column)
            QVERIFY2(table->columnWidth(column) >= wide(table->model()->index(row, column).data().toString()), name);
        }
        const QHeaderView* header = table->horizontalHeader();
        QVERIFY(header->length() <= table->viewport()->width());
      }
    }
  }
};

}  // namespace zeroplan::gui

QTEST_MAIN(zeroplan::gui::FilesTest)
#include "files_test.moc"
