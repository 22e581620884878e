#include "gui/views/job_strip.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QProgressBar>
#include <QPushButton>

namespace zeroplan::gui {
namespace {

constexpr int kShowAfterMs = 200, kRedrawMs = 60, kParts = 1000;

}  // namespace

JobStrip::JobStrip(Jobs& jobs, const Look& look, QWidget* parent) : QWidget(parent), jobs_(jobs), title_(new QLabel), bar_(new QProgressBar) {
  setObjectName("job_strip");
  auto* cancel = new QPushButton(look("Cancel"));
  cancel->setObjectName("job_cancel");
  cancel->setToolTip("Esc");
  cancel->setFocusPolicy(Qt::NoFocus);
  bar_->setFixedWidth(140);
  bar_->setTextVisible(false);
  auto* all = new QHBoxLayout(this);
  all->setContentsMargins(0, 0, 4, 0);
  all->addWidget(title_);
  all->addWidget(bar_);
  all->addWidget(cancel);
  wait_.setSingleShot(true);
  connect(&wait_, &QTimer::timeout, this, [this] {
    draw();
    setVisible(jobs_.is_busy());
    if (jobs_.is_busy()) redraw_.start(kRedrawMs);
  });
  connect(&redraw_, &QTimer::timeout, this, &JobStrip::draw);
  connect(cancel, &QPushButton::clicked, this, &JobStrip::cancelled);
  connect(&jobs_, &Jobs::changed, this, &JobStrip::follow);
  hide();
  follow();
}

void JobStrip::follow() {
  if (jobs_.is_busy()) {
    if (!wait_.isActive() && isHidden()) wait_.start(kShowAfterMs);
    return;
  }
  wait_.stop();
  redraw_.stop();
  hide();
}

void JobStrip::draw() {
  title_->setText(jobs_.title());
  const double done = jobs_.done_ratio();
  bar_->setRange(0, done < 0 ? 0 : kParts);
  if (done >= 0) bar_->setValue(static_cast<int>(done * kParts));
}

}  // namespace zeroplan::gui
