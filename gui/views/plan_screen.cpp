#include "gui/views/plan_screen.h"

#include <QLabel>
#include <QLineEdit>
#include <QSplitter>
#include <QTabWidget>
#include <QVBoxLayout>

#include "gui/views/knobs.h"
#include "gui/views/step_view.h"
#include "gui/views/table_view.h"
#include "planner/core/format.h"

namespace zeroplan::gui {

PlanScreen::PlanScreen(PlanSession& session, const Look& look, QWidget* parent)
    : QWidget(parent), session_(session), look_(look), step_(new StepView(look)), alive_(new TableView), fixes_(new TableView), breakdown_(new TableView), alive_head_(new QLabel), alive_note_(new QLabel),
      fixes_head_(new QLabel), filter_(new QLineEdit), tabs_(new QTabWidget) {
  tabs_->setDocumentMode(true);
  breakdown_->set_fitting();
  breakdown_->setObjectName("breakdown");
  tabs_->addTab(alive_page(), look_("Alive here"));
  tabs_->addTab(fixes_page(), look_("Make it fit"));
  tabs_->addTab(breakdown_, look_("Breakdown"));
  auto* split = new QSplitter;
  split->setChildrenCollapsible(false);
  split->addWidget(new Knobs(session, look));
  split->addWidget(step_);
  split->addWidget(tabs_);
  split->setStretchFactor(0, 0);
  split->setStretchFactor(1, 1);
  split->setStretchFactor(2, 0);
  split->setSizes({250, 600, 364});
  auto* all = new QVBoxLayout(this);
  all->setContentsMargins(0, 0, 0, 0);
  all->addWidget(split);

  connect(&session_, &PlanSession::answered, this, &PlanScreen::follow);
  connect(&session_, &PlanSession::fixes_ready, this, &PlanScreen::show_fixes);
  connect(step_, &StepView::selected, this, &PlanScreen::show_instant);
  connect(filter_, &QLineEdit::textChanged, this, &PlanScreen::show_instant);
  connect(tabs_, &QTabWidget::currentChanged, this, &PlanScreen::show_instant);
  connect(fixes_, &TableView::hovered, this, [this](qint64 tag) { session_.preview(tag < 0 ? std::nullopt : std::optional(static_cast<std::size_t>(tag))); });
  connect(&session_, &PlanSession::previewed, step_, &StepView::set_preview);
  connect(fixes_, &TableView::chosen, this, [this](qint64 tag) {
    if (tag >= 0) session_.apply_fix(static_cast<std::size_t>(tag));
  });
  follow();
  show_fixes();
}

QWidget* PlanScreen::alive_page() {
  auto* page = new QWidget;
  auto* rows = new QVBoxLayout(page);
  rows->setContentsMargins(6, 6, 6, 0);
  alive_head_->setWordWrap(true);
  filter_->setPlaceholderText(look_("filter by name"));
  filter_->setClearButtonEnabled(true);
  alive_->set_sortable(true);
  alive_->setObjectName("alive");
  rows->addWidget(alive_head_);
  rows->addWidget(filter_);
  rows->addWidget(alive_, 1);
  // A fixed height: the table must not jump when a note comes and goes.
  alive_note_->setWordWrap(true);
  alive_note_->setAlignment(Qt::AlignTop | Qt::AlignLeft);
  alive_note_->setFixedHeight(fontMetrics().lineSpacing() * 6 + 6);
  alive_note_->setTextInteractionFlags(Qt::TextSelectableByMouse);
  rows->addWidget(alive_note_);
  connect(alive_, &TableView::noted, alive_note_, &QLabel::setText);
  return page;
}

QWidget* PlanScreen::fixes_page() {
  auto* page = new QWidget;
  auto* rows = new QVBoxLayout(page);
  rows->setContentsMargins(6, 6, 6, 0);
  fixes_head_->setWordWrap(true);
  fixes_->setObjectName("fixes");
  fixes_->set_fitting();
  rows->addWidget(fixes_head_);
  rows->addWidget(fixes_, 1);
  return page;
}

TableView* PlanScreen::visible_table() const { return tabs_->currentIndex() == 0 ? alive_ : tabs_->currentIndex() == 1 ? fixes_ : breakdown_; }

void PlanScreen::follow() {
  step_->set_plan(session_.shared_now(), session_.ghost());
  show_instant();
}

// Only the page that is seen is filled: a moved slider pays for no hidden table.
void PlanScreen::show_instant() {
  const Answered& now = session_.now();
  const std::size_t event = step_->selected_event();
  if (tabs_->currentIndex() == 0) {
    Table table = alive_table(now, event, filter_->text().toStdString(), look_.theme.palette, look_.language);
    alive_head_->setText(look_.filled("at {}: {} in {} tensors", {time_words(now, now.picture.memory.time(event), look_.language), format_gib(Bytes(now.picture.memory.total_after(event))),
                                                                  std::to_string(table.rows.size())}) +
                         "\n" + QString::fromStdString(place_words(now, instruction_at(now.picture, event), look_.language)));
    alive_note_->setText(table.rows.empty() ? QString() : QString::fromStdString(table.rows.front().note));
    alive_->set(std::move(table));
  } else if (tabs_->currentIndex() == 2) {
    breakdown_->set(breakdown_table(now, event, look_.theme.palette, look_.language));
  }
}

void PlanScreen::show_fixes() {
  const bool none = session_.fixes().empty();
  const bool over = session_.now().prediction.verdict == Verdict::does_not_fit;
  fixes_head_->setText(!none ? look_("Enter or double click applies; hover previews")
                             : over ? look_("nothing tried fits: take more GPUs, a smaller batch or a smaller model") : look_("it fits, and nothing tried is faster"));
  fixes_->set(fixes_table(session_.fixes(), session_.now(), look_.language));
}

}  // namespace zeroplan::gui
