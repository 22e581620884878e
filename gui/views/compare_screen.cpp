#include "gui/views/compare_screen.h"

#include <QComboBox>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QPushButton>
#include <QSignalBlocker>
#include <QTabBar>
#include <QVBoxLayout>
#include <algorithm>

#include "gui/views/table_view.h"
#include "planner/core/format.h"

namespace zeroplan::gui {

CompareScreen::CompareScreen(PlanSession& session, const Look& look, QWidget* parent)
    : QWidget(parent), session_(session), look_(look), a_box_(new QComboBox), b_box_(new QComboBox), head_(new QLabel), a_line_(new QLabel), b_line_(new QLabel), table_head_(new QLabel), by_(new QTabBar),
      filter_(new QLineEdit), view_(new CompareView(look)), table_(new TableView) {
  auto* swap_button = new QPushButton(look_("Swap"));
  auto* top = new QHBoxLayout;
  const auto add_box = [&](const char* name, QComboBox* box, const QColor& colour) {
    auto* label = new QLabel(QString("<b style='color:%1'>%2</b>").arg(colour.name(), QString(name).right(1).toUpper()));
    box->setObjectName(name);
    box->setSizeAdjustPolicy(QComboBox::AdjustToMinimumContentsLengthWithIcon);
    box->setMinimumContentsLength(12);
    top->addWidget(label);
    top->addWidget(box, 1);
  };
  add_box("compare_a", a_box_, look_.theme.text);
  top->addWidget(swap_button);
  add_box("compare_b", b_box_, look_.theme.accent);
  for (QLabel* label : {a_line_, b_line_, head_, table_head_}) label->setWordWrap(true);
  for (QLabel* label : {a_line_, b_line_}) label->setTextInteractionFlags(Qt::TextSelectableByMouse);
  head_->setForegroundRole(QPalette::PlaceholderText);
  auto* left = new QVBoxLayout;
  left->addLayout(top);
  for (QLabel* label : {a_line_, b_line_, head_}) left->addWidget(label);
  left->addWidget(view_, 1);
  auto* right = new QVBoxLayout;
  by_->setObjectName("compare_by");
  by_->setDocumentMode(true);
  for (const Text by : {Text("By category"), Text("By unit"), Text("By tensor")}) by_->addTab(look_(by));
  filter_->setPlaceholderText(look_("filter by name"));
  filter_->setClearButtonEnabled(true);
  filter_->setObjectName("compare_filter");
  table_->setObjectName("compare");
  table_->set_sortable(true);
  table_->set_jobs(&session_.jobs(), look_("Sorting"), look_("Copying"));
  right->addWidget(by_);
  right->addWidget(table_head_);
  right->addWidget(filter_);
  right->addWidget(table_, 1);
  auto* all = new QHBoxLayout(this);
  all->addLayout(left, 4);
  all->addLayout(right, 3);

  connect(swap_button, &QPushButton::clicked, this, &CompareScreen::swap);
  connect(a_box_, &QComboBox::activated, this, [this](int i) { choose(a_box_->itemData(i).toString(), b_key_); });
  connect(b_box_, &QComboBox::activated, this, [this](int i) { choose(a_key_, b_box_->itemData(i).toString()); });
  connect(by_, &QTabBar::currentChanged, this, &CompareScreen::fill_table);
  connect(filter_, &QLineEdit::textChanged, table_, [this](const QString& part) { table_->set_filter(part); });
  connect(view_, &CompareView::selected, this, &CompareScreen::fill_table);
  connect(&session_, &PlanSession::answered, this, &CompareScreen::follow);
  follow();
}

void CompareScreen::pin(std::shared_ptr<const Answered> plan) {
  pinned_ = std::move(plan);
  follow();
}

void CompareScreen::swap() { choose(b_key_, a_key_); }

void CompareScreen::choose(QString a, QString b) {
  a_key_ = std::move(a);
  b_key_ = std::move(b);
  view_->select(std::nullopt);
  follow();
}

void CompareScreen::add_quietly(const std::vector<std::shared_ptr<const Curve>>& curves) {
  for (const auto& curve : curves) {
    const auto same = std::find_if(opened_.begin(), opened_.end(), [&](const auto& other) { return other->label == curve->label; });
    if (same != opened_.end()) *same = curve;
    else opened_.push_back(curve);
  }
  follow();
}

void CompareScreen::add(const std::vector<std::shared_ptr<const Curve>>& curves) {
  if (curves.empty()) return;
  const auto is_file = [](const QString& key) { return key != kCompareNone && key != kCompareBefore && key != kCompareNow; };
  const auto most = *std::max_element(curves.begin(), curves.end(), [](const auto& x, const auto& y) { return x->peak_bytes() < y->peak_bytes(); });
  add_quietly(curves);
  const QString label = QString::fromStdString(most->label);
  view_->fit();
  choose(is_file(b_key_) && b_key_ != label ? b_key_ : QString(kCompareNone), label);
}

CompareState CompareScreen::state() const { return {opened_, pinned_, a_key_, b_key_, view_->from(), view_->to()}; }

void CompareScreen::restore(const CompareState& state) {
  opened_ = state.opened;
  pinned_ = state.pinned;
  view_->set_part(state.from, state.to);
  choose(state.a, state.b);
}

void CompareScreen::showEvent(QShowEvent*) { follow(); }

std::shared_ptr<const Curve> CompareScreen::curve_of_plan(const std::shared_ptr<const Answered>& plan) {
  if (!plan) return nullptr;
  for (const auto& [of, curve] : plans_)
    if (of == plan) return curve;
  if (plans_.size() > 3) plans_.erase(plans_.begin());
  return plans_.emplace_back(plan, std::make_shared<const Curve>(curve_of(*plan))).second;
}

std::shared_ptr<const Curve> CompareScreen::curve_of_key(const QString& key) {
  if (key == kCompareNow) return curve_of_plan(session_.shared_now());
  if (key == kCompareBefore) return curve_of_plan(pinned_ ? pinned_ : session_.ghost() ? session_.ghost() : session_.shared_now());
  for (const auto& curve : opened_)
    if (QString::fromStdString(curve->label) == key) return curve;
  return nullptr;
}

QString CompareScreen::words_of_key(const QString& key, const Curve& curve) const {
  if (key == kCompareNow) return QString::fromStdString(print_command_line(session_.now().asked));
  if (key == kCompareBefore) return QString::fromStdString(print_command_line((pinned_ ? *pinned_ : session_.ghost() ? *session_.ghost() : session_.now()).asked));
  return look_.filled("{}: {} blocks, peak {}", {curve.label, std::to_string(curve.blocks.size()), format_gib(Bytes(curve.peak_bytes()))});
}

void CompareScreen::fill_boxes() {
  const auto fill_box = [&](QComboBox* box, const QString& key) {
    const QSignalBlocker quiet(box);
    box->clear();
    box->addItem("—", kCompareNone);
    box->addItem(pinned_ ? look_("pinned plan") : look_("plan before"), kCompareBefore);
    box->addItem(look_("current plan"), kCompareNow);
    for (const auto& curve : opened_) box->addItem(QString::fromStdString(curve->label), QString::fromStdString(curve->label));
    box->setCurrentIndex(std::max(0, box->findData(key)));
  };
  fill_box(a_box_, a_key_);
  fill_box(b_box_, b_key_);
}

void CompareScreen::follow() {
  if (!isVisible()) return;
  fill_boxes();
  a_ = curve_of_key(a_key_);
  b_ = curve_of_key(b_key_);
  if (!b_) std::swap(a_, b_);
  if (!b_) b_ = curve_of_key(kCompareNow);
  view_->set_curves(a_, b_);
  fill_heads(a_, b_);
  fill_table();
}

void CompareScreen::fill_heads(const std::shared_ptr<const Curve>& a, const std::shared_ptr<const Curve>& b) {
  const auto line = [&](const char* name, const QString& key, const std::shared_ptr<const Curve>& curve, const QColor& colour) {
    return curve ? QString("<b><span style='color:%1'>%2</span></b> &nbsp;%3").arg(colour.name(), name, words_of_key(key, *curve).toHtmlEscaped()) : QString();
  };
  const std::shared_ptr<const Curve> in_a = curve_of_key(a_key_), in_b = curve_of_key(b_key_);
  a_line_->setText(line("A", a_key_, in_a, look_.theme.text));
  b_line_->setText(line("B", b_key_, in_b, look_.theme.accent));
  a_line_->setVisible(in_a != nullptr);
  b_line_->setVisible(in_b != nullptr);
  const bool nothing_before = a_key_ == kCompareBefore && !pinned_ && !session_.ghost();
  QString words;
  if (nothing_before && a) words = look_("move a knob first: Compare shows the plan before and the plan now");
  else if (!a && !b->has_categories) words = look_("the file names no categories: bands are stack frames, or pools where it has no stacks");
  head_->setText(words);
  head_->setVisible(!words.isEmpty());
}

void CompareScreen::fill_table() {
  if (!b_ || !isVisible()) return;
  by_->setVisible(a_ != nullptr);
  const Instants at = view_->instants();
  const auto words = [&](const Curve& curve, std::size_t event) { return when_words(curve, event, look_.language); };
  if (a_) {
    const bool at_peaks = at.a == a_->peak_event && at.b == b_->peak_event;
    table_head_->setText(at_peaks ? look_("each at its own peak; a click in the picture looks at another instant") : look_.filled("A at {}, B at {}", {words(*a_, at.a), words(*b_, at.b)}));
    return table_->set(delta_table(*a_, *b_, at, static_cast<DeltaBy>(by_->currentIndex()), look_.theme.palette, look_.language));
  }
  auto blocks = std::make_shared<BlocksSource>(b_, alive_blocks(*b_, at.b), look_.theme.palette, look_.language);
  table_head_->setText(look_.filled("at {}: {} in {} blocks", {words(*b_, at.b), format_gib(Bytes(b_->memory.total_after(at.b))), std::to_string(blocks->row_count())}));
  table_->set(std::move(blocks));
}

}  // namespace zeroplan::gui
