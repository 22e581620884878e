#include "gui/views/knobs.h"

#include <QButtonGroup>
#include <QCheckBox>
#include <QComboBox>
#include <QCompleter>
#include <QFormLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QPushButton>
#include <QSlider>
#include <QVBoxLayout>
#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "planner/core/format.h"
#include "profiles/catalog.h"

namespace zeroplan::gui {
namespace {

constexpr double kSlowAnswerMs = 60;  // a drag whose answers take longer is answered when the hand rests
constexpr int kRestMs = 120;

std::vector<std::int64_t> range(std::int64_t first, std::int64_t last) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(last - first + 1));
  std::iota(out.begin(), out.end(), first);
  return out;
}

// Powers of two and the steps of a quarter between them.
std::vector<std::int64_t> quarters(std::int64_t first, std::int64_t last) {
  std::vector<std::int64_t> out;
  for (std::int64_t power = first; power <= last; power *= 2)
    for (int part = 4; part < 8 && power * part / 4 <= last; ++part) out.push_back(power * part / 4);
  return out;
}

std::vector<std::int64_t> powers(std::int64_t first, std::int64_t last) {
  std::vector<std::int64_t> out;
  for (std::int64_t power = first; power <= last; power *= 2) out.push_back(power);
  return out;
}

QString plain(std::int64_t value) { return QString::number(value); }

std::int64_t integer_key(const Question& question, std::string_view key) {
  const nlohmann::json value = get_key(question, key);
  return value.is_number_integer() ? value.get<std::int64_t>() : 0;
}

std::int64_t recomputed_blocks(const Question& question) {
  const std::string text = key_text(question, "checkpoint");
  if (text == "none") return 0;
  if (text.starts_with("blocks-")) return std::strtoll(text.c_str() + 7, nullptr, 10);
  if (text.starts_with("every-")) return question.job.model.num_layers / std::max<std::int64_t>(question.plan.checkpoint_every, 1);
  return question.job.model.num_layers;
}

// Where the blocks are not simply the first so many, the policy's name.
bool counts_blocks(const Question& question) { return question.plan.checkpoint_policy == CheckpointPolicy::blocks; }

constexpr Engine kOfferedEngines[] = {Engine::zeroplan, Engine::deepspeed, Engine::fsdp2, Engine::ddp};

bool has_stage(Engine engine, int stage) {
  switch (engine) {
    case Engine::deepspeed: return stage >= 1;
    case Engine::fsdp1:
    case Engine::fsdp2: return stage >= 2;
    case Engine::ddp:
    case Engine::single: return stage == 0;
    case Engine::zeroplan:
    case Engine::other: return true;
  }
  return true;
}

// Disabled with its reason, for the eye and for a screen reader.
void allow(QWidget* widget, bool allowed, const QString& reason) {
  widget->setEnabled(allowed);
  widget->setToolTip(allowed ? QString() : reason);
  widget->setAccessibleDescription(allowed ? QString() : reason);
}

std::string checkpoint_word(std::int64_t blocks, std::int64_t layers) {
  if (blocks <= 0) return "none";
  return blocks >= layers ? "full" : fmt::format("blocks-{}", blocks);
}

// Nodes of eight, as they are sold: 12 GPUs are 12 in one machine, 16 are two machines.
std::string cluster_word(std::int64_t gpus, const std::string& device) {
  if (gpus == 1) return device;
  if (gpus <= 8 || gpus % 8 != 0) return fmt::format("{}x{}", gpus, device);
  return fmt::format("{}x8x{}", gpus / 8, device);
}

}  // namespace

Knobs::Knobs(PlanSession& session, const Look& look, QWidget* parent) : QScrollArea(parent), session_(session), look_(look) {
  setObjectName("knobs");
  setWidgetResizable(true);
  setFrameShape(QFrame::NoFrame);
  setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  auto* inside = new QWidget;
  rows_ = new QVBoxLayout(inside);
  rows_->setContentsMargins(12, 8, 12, 8);
  rows_->setSpacing(3);
  setWidget(inside);

  const auto ask = [this](auto&& make) {
    try {
      session_.ask(make(session_.wanted()), session_.new_gesture());
    } catch (const std::runtime_error& error) {
      emit session_.refused(QString::fromUtf8(error.what()));
      follow();
    }
  };

  add_engines();
  QStringList models, devices;
  for (const std::string_view name : model_names()) models << Look::view(name);
  for (const std::string_view name : device_names()) devices << Look::view(name);
  QComboBox* model = add_choice("model", look_("Model"), models, true, [=](const QString& name) { ask([&](const Asked& asked) { return with_model(asked, name.toStdString()); }); });
  followers_.push_back([=](const Asked& asked) { model->setCurrentText(QString::fromStdString(asked.model_word)); });
  QComboBox* device = add_choice("device", look_("GPU"), devices, true, [=](const QString& name) {
    ask([&](const Asked& asked) { return with_cluster(asked, cluster_word(asked.question.cluster.world_size(), name.toStdString())); });
  });
  followers_.push_back([=](const Asked& asked) { device->setCurrentText(QString::fromStdString(asked.question.cluster.device.name)); });
  std::vector<std::int64_t> gpus = range(1, 8);
  for (std::int64_t n = 16; n <= 1024; n += n < 64 ? 8 : n < 256 ? 32 : 128) gpus.push_back(n);
  add_slider("gpus", look_("GPUs"), gpus, [](const Question& q) { return q.cluster.world_size(); }, plain, [this](std::int64_t n, int gesture) {
    try {
      session_.ask(with_cluster(session_.wanted(), cluster_word(n, session_.wanted().question.cluster.device.name)), gesture);
    } catch (const std::runtime_error& error) {
      emit session_.refused(QString::fromUtf8(error.what()));
    }
  });
  add_stages();

  add_heading(look_("Batch"));
  add_key_slider("seq", look_("Sequence"), quarters(256, 262144), plain);
  add_key_slider("micro_batch", look_("Micro batch"), range(1, 32), plain);
  add_key_slider("accumulate", look_("Accumulate"), range(1, 64), plain);

  add_heading(look_("Memory savers"));
  add_slider("checkpoint", look_("Recomputed blocks"), range(0, session_.wanted().question.job.model.num_layers), recomputed_blocks,
             [this](std::int64_t blocks) {
               if (const Question& question = session_.wanted().question; !counts_blocks(question)) return QString::fromStdString(key_text(question, "checkpoint"));
               return look_.filled("{} of {}", {std::to_string(blocks), std::to_string(session_.wanted().question.job.model.num_layers)});
             },
             [this](std::int64_t blocks, int gesture) { session_.change("checkpoint", checkpoint_word(blocks, session_.wanted().question.job.model.num_layers), gesture); });
  SliderKnob* checkpoint = sliders_.back().get();
  followers_.push_back([=](const Asked& asked) {
    const std::int64_t layers = asked.question.job.model.num_layers;
    if (checkpoint->values.back() == layers) return;
    checkpoint->values = range(0, layers);
    checkpoint->slider->setMaximum(static_cast<int>(layers));
  });
  add_key_slider("prefetch_units", look_("Prefetch"), range(0, 8), plain);
  add_key_slider("loss_chunk_tokens", look_("Loss chunk"), powers(128, 131072), plain);
  add_overlap();

  add_heading(look_("Precision"));
  for (const auto& [key, name] : {std::pair<const char*, QString>{"compute_dtype", look_("Compute")}, {"gradient_dtype", look_("Gradients")}}) {
    const std::string key_name = key;
    QComboBox* box = add_choice(key, name, {"bf16", "fp32"}, false, [this, key_name](const QString& value) {
      if (!session_.change(key_name, value.toStdString(), session_.new_gesture())) follow();
    });
    followers_.push_back([box, key_name](const Asked& asked) {
      const QString value = QString::fromStdString(key_text(asked.question, key_name));
      if (box->findText(value) < 0) box->addItem(value);  // other engines know more
      box->setCurrentText(value);
    });
  }
  auto* tokens = new QLabel;
  tokens->setWordWrap(true);
  tokens->setForegroundRole(QPalette::PlaceholderText);
  rows_->addWidget(tokens);
  followers_.push_back([this, tokens](const Asked& asked) {
    tokens->setText(look_.filled("tokens a GPU and step: {}", {std::to_string(asked.question.tokens_per_micro_batch() * asked.question.plan.accumulate)}));
  });
  rows_->addStretch(1);
  rest_.setSingleShot(true);
  connect(&rest_, &QTimer::timeout, this, &Knobs::write_waiting);
  connect(&session_, &PlanSession::answered, this, qOverload<>(&Knobs::follow));
  connect(&session_, &PlanSession::kept, this, qOverload<>(&Knobs::follow));
  follow();
}

void Knobs::add_heading(const QString& text) {
  auto* label = new QLabel(text.toUpper());
  QFont font = label->font();
  font.setPointSizeF(font.pointSizeF() * 0.85);
  font.setBold(true);
  label->setFont(font);
  label->setForegroundRole(QPalette::PlaceholderText);
  label->setContentsMargins(0, 8, 0, 0);
  rows_->addWidget(label);
}

void Knobs::add_slider(const char* id, const QString& name, std::vector<std::int64_t> values, std::function<std::int64_t(const Question&)> read, std::function<QString(std::int64_t)> words,
                       std::function<void(std::int64_t, int)> write) {
  auto knob = std::make_unique<SliderKnob>();
  knob->slider = new QSlider(Qt::Horizontal);
  knob->slider->setObjectName(id);
  knob->slider->setRange(0, static_cast<int>(values.size()) - 1);
  knob->slider->setPageStep(1);
  knob->value = new QLabel;
  knob->values = std::move(values);
  knob->read = std::move(read);
  knob->words = std::move(words);
  knob->write = std::move(write);
  auto* head = new QHBoxLayout;
  auto* label = new QLabel(name);
  label->setBuddy(knob->slider);
  head->addWidget(label);
  head->addStretch(1);
  head->addWidget(knob->value);
  rows_->addLayout(head);
  rows_->addWidget(knob->slider);

  SliderKnob* raw = knob.get();
  auto gesture = std::make_shared<int>(0);
  connect(raw->slider, &QSlider::sliderPressed, this, [this, gesture] { *gesture = session_.new_gesture(); });
  connect(raw->slider, &QSlider::sliderReleased, this, [this] {
    write_waiting();
    session_.settle();
  });
  connect(raw->slider, &QSlider::valueChanged, this, [this, raw, gesture](int at) {
    if (following_) return;
    if (!raw->slider->isSliderDown()) *gesture = session_.new_gesture();
    move(*raw, at, *gesture);
  });
  sliders_.push_back(std::move(knob));
}

void Knobs::move(SliderKnob& knob, int at, int gesture) {
  const std::int64_t value = knob.values[static_cast<std::size_t>(at)];
  waiting_ = [this, &knob, value, gesture] {
    knob.write(value, gesture);
    follow();
  };
  if (!knob.slider->isSliderDown() || session_.last_cost().total_ms() < kSlowAnswerMs) return write_waiting();
  knob.value->setText(knob.words(value));
  rest_.start(kRestMs);
}

void Knobs::write_waiting() {
  rest_.stop();
  if (const std::function<void()> write = std::exchange(waiting_, nullptr)) write();
}

void Knobs::add_key_slider(const char* key, const QString& name, std::vector<std::int64_t> values, std::function<QString(std::int64_t)> words) {
  const std::string key_name = key;
  add_slider(key, name, std::move(values), [key_name](const Question& q) { return integer_key(q, key_name); }, std::move(words),
             [this, key_name](std::int64_t value, int gesture) { session_.change(key_name, std::to_string(value), gesture); });
  only_where_known(sliders_.back()->slider, key_name);
}

void Knobs::only_where_known(QWidget* widget, const std::string& key) {
  followers_.push_back([this, widget, key](const Asked& asked) {
    const Plan& plan = asked.question.plan;
    allow(widget, !get_key(asked.question, key).is_null(), look_.filled("a choice of the zeroplan engine; {} has none", {engine_words(plan.engine, plan.tool)}));
  });
}

void Knobs::add_overlap() {
  auto* overlap = new QCheckBox(look_("Overlap reductions with backward"));
  overlap->setObjectName("overlap_comm");
  rows_->addWidget(overlap);
  connect(overlap, &QCheckBox::toggled, this, [this](bool on) {
    if (!following_) session_.change("overlap_comm", on ? "true" : "false", session_.new_gesture());
  });
  followers_.push_back([=](const Asked& asked) { overlap->setChecked(key_text(asked.question, "overlap_comm") == "true"); });
  only_where_known(overlap, "overlap_comm");
}

// DeepSpeed's entry names the tool that set the plan's; chosen anew it is XTuner.
void Knobs::add_engines() {
  const auto name = [](Engine engine) { return QString::fromStdString(engine_words(engine, engine == Engine::deepspeed ? "xtuner" : "")); };
  QStringList names;
  for (const Engine engine : kOfferedEngines) names << name(engine);
  QComboBox* box = add_choice("engine", look_("Engine"), names, false, {});
  connect(box, &QComboBox::activated, this, [this](int at) {
    if (following_ || at < 0 || at >= static_cast<int>(std::size(kOfferedEngines))) return;
    if (!session_.choose_engine(kOfferedEngines[at], session_.new_gesture())) follow();
  });
  followers_.push_back([=](const Asked& asked) {
    const Plan& plan = asked.question.plan;
    const auto offered = std::find(std::begin(kOfferedEngines), std::end(kOfferedEngines), plan.engine);
    const auto count = static_cast<int>(std::size(kOfferedEngines));
    for (int i = 0; i < count; ++i) box->setItemText(i, name(kOfferedEngines[i]));
    while (box->count() > count) box->removeItem(count);
    if (offered == std::end(kOfferedEngines)) box->addItem(QString::fromStdString(engine_words(plan.engine, plan.tool)));
    const int at = static_cast<int>(offered - std::begin(kOfferedEngines));
    if (plan.engine == Engine::deepspeed) box->setItemText(at, QString::fromStdString(engine_words(plan.engine, plan.tool)));
    box->setCurrentIndex(at);
  });
}

QComboBox* Knobs::add_choice(const char* id, const QString& name, const QStringList& choices, bool searchable, std::function<void(const QString&)> write) {
  auto* box = new QComboBox;
  box->setObjectName(id);
  box->addItems(choices);
  box->setSizeAdjustPolicy(QComboBox::AdjustToMinimumContentsLengthWithIcon);
  box->setMinimumContentsLength(10);
  box->setMaxVisibleItems(20);
  if (searchable) {
    box->setEditable(true);
    box->setInsertPolicy(QComboBox::NoInsert);
    box->completer()->setFilterMode(Qt::MatchContains);
    box->completer()->setCompletionMode(QCompleter::PopupCompletion);
  }
  auto* row = new QHBoxLayout;
  auto* label = new QLabel(name);
  label->setBuddy(box);
  label->setMinimumWidth(64);
  row->addWidget(label);
  row->addWidget(box, 1);
  rows_->addLayout(row);
  connect(box, &QComboBox::textActivated, this, [this, write](const QString& text) {
    if (!following_ && write) write(text);
  });
  return box;
}

void Knobs::add_stages() {
  auto* row = new QHBoxLayout;
  row->setSpacing(0);
  auto* label = new QLabel(look_("ZeRO stage"));
  row->addWidget(label);
  row->addStretch(1);
  auto* group = new QButtonGroup(this);
  for (int stage = 0; stage <= 3; ++stage) {
    auto* button = new QPushButton(QString::number(stage));
    button->setObjectName(QString("stage%1").arg(stage));
    button->setCheckable(true);
    button->setFixedWidth(34);
    button->setAccessibleName(look_("ZeRO stage") + " " + QString::number(stage));
    group->addButton(button, stage);
    row->addWidget(button);
  }
  rows_->addLayout(row);
  connect(group, &QButtonGroup::idClicked, this, [this](int stage) {
    if (!session_.change("stage", std::to_string(stage), session_.new_gesture())) follow();
  });
  followers_.push_back([this, group](const Asked& asked) {
    const Plan& plan = asked.question.plan;
    for (int stage = 0; stage <= 3; ++stage)
      allow(group->button(stage), has_stage(plan.engine, stage), look_.filled("{} has no stage {}", {engine_words(plan.engine, plan.tool), std::to_string(stage)}));
    if (QAbstractButton* button = group->button(static_cast<int>(asked.question.plan.stage))) button->setChecked(true);
  });
}

void Knobs::follow() {
  following_ = true;
  for (const auto& follower : followers_) follower(session_.wanted());
  for (const auto& knob : sliders_) follow(*knob);
  following_ = false;
}

void Knobs::follow(SliderKnob& knob) {
  const std::int64_t value = knob.read(session_.wanted().question);
  // The nearest mark at or below; the words say the true value.
  const auto after = std::upper_bound(knob.values.begin(), knob.values.end(), value);
  const int at = after == knob.values.begin() ? 0 : static_cast<int>(after - knob.values.begin()) - 1;
  if (knob.slider->value() != at && !(knob.slider->isSliderDown())) knob.slider->setValue(at);
  const QString words = knob.slider->isEnabled() ? knob.words(value) : QString("–");
  knob.value->setText(words);
  knob.slider->setAccessibleName(words);
}

}  // namespace zeroplan::gui
