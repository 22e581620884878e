#include "gui/views/verdict_strip.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QVBoxLayout>

namespace zeroplan::gui {

VerdictStrip::VerdictStrip(PlanSession& session, const Look& look, QWidget* parent)
    : QWidget(parent), session_(session), look_(look), badge_(new QLabel), need_(new QLabel), when_(new QLabel), speed_(new QLabel), problem_(new QLabel), line_(new QLineEdit) {
  badge_->setObjectName("verdict");
  badge_->setAlignment(Qt::AlignCenter);
  QFont large = badge_->font();
  large.setPointSizeF(large.pointSizeF() * 1.5);
  large.setBold(true);
  badge_->setFont(large);
  badge_->setMinimumWidth(170);
  QFont bold = need_->font();
  bold.setPointSizeF(bold.pointSizeF() * 1.1);
  bold.setBold(true);
  need_->setFont(bold);
  when_->setForegroundRole(QPalette::PlaceholderText);
  speed_->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
  line_->setObjectName("command_line");
  line_->setAccessibleName(look_("Command"));
  QFont mono("monospace");
  mono.setStyleHint(QFont::Monospace);
  mono.setPointSizeF(font().pointSizeF());
  line_->setFont(mono);
  problem_->setWordWrap(true);
  problem_->setObjectName("problem");
  problem_->hide();

  auto* texts = new QVBoxLayout;
  texts->setSpacing(1);
  auto* first = new QHBoxLayout;
  first->addWidget(need_);
  first->addStretch(1);
  first->addWidget(speed_);
  texts->addLayout(first);
  texts->addWidget(when_);
  auto* top = new QHBoxLayout;
  top->setSpacing(14);
  top->addWidget(badge_);
  top->addLayout(texts, 1);
  auto* all = new QVBoxLayout(this);
  all->setContentsMargins(10, 8, 10, 6);
  all->setSpacing(6);
  all->addLayout(top);
  all->addWidget(line_);
  all->addWidget(problem_);

  connect(line_, &QLineEdit::returnPressed, this, &VerdictStrip::take_line);
  connect(&session_, &PlanSession::answered, this, &VerdictStrip::follow);
  connect(&session_, &PlanSession::refused, this, &VerdictStrip::say_problem);
  connect(&session_, &PlanSession::kept, this, [this] {
    if (problem_->isHidden()) follow();
  });
  follow();
}

QString VerdictStrip::verdict() const { return badge_->text(); }

void VerdictStrip::follow() {
  const Answered& now = session_.now();
  const VerdictLines lines = verdict_lines(now, look_.language);
  const QColor colour = look_.theme.of(now.prediction.verdict);
  badge_->setText(QString::fromStdString(verdict_words(now.prediction.verdict, look_.language)));
  badge_->setStyleSheet(QString("QLabel { background: %1; color: %2; border-radius: 6px; padding: 6px 12px; }").arg(colour.name(), look_.theme.dark ? "#10131a" : "#ffffff"));
  need_->setText(QString::fromStdString(lines.need));
  when_->setText(QString::fromStdString(lines.when));
  speed_->setText(QString::fromStdString(lines.speed));
  line_->setText(QString::fromStdString(print_command_line(now.asked)));
  line_->setCursorPosition(0);
  problem_->hide();
  setAccessibleName(badge_->text() + ": " + need_->text());
}

void VerdictStrip::take_line() {
  const std::string text = line_->text().toStdString();
  const auto parsed = parse_command_line(text);
  if (const auto* error = std::get_if<LineError>(&parsed)) {
    say_problem(QString::fromStdString(error->message));
    const auto characters = [&](std::size_t bytes) { return static_cast<int>(QString::fromUtf8(text.data(), static_cast<qsizetype>(bytes)).size()); };
    line_->setSelection(characters(error->begin), std::max(1, characters(error->end) - characters(error->begin)));
    return;
  }
  session_.ask(std::get<Asked>(parsed), session_.new_gesture());
  if (problem_->isHidden() && !session_.is_answering()) follow();
}

void VerdictStrip::dismiss_problem() { problem_->hide(); }

void VerdictStrip::say_problem(const QString& sentence) {
  problem_->setText(look_.filled("the plan is kept: {}", {sentence.toStdString()}));
  problem_->setStyleSheet(QString("color: %1").arg(look_.theme.bad.name()));
  problem_->show();
}

}  // namespace zeroplan::gui
