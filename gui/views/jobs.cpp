#include "gui/views/jobs.h"

#include <algorithm>
#include <exception>

namespace zeroplan::gui {
namespace {

constexpr int kThreads = 6;  // a cancelled job may take a while to notice: others do not wait for it

}  // namespace

Jobs::Jobs(QObject* parent) : QObject(parent) { threads_.setMaxThreadCount(kThreads); }

Jobs::~Jobs() {
  cancel_all();
  threads_.waitForDone();
}

void Jobs::start(const QString& lane, const QString& title, Work work, std::function<void(const QString&)> failed) {
  cancel(lane);
  auto job = std::make_shared<Job>();
  job->lane_ = lane;
  job->title_ = title;
  running_.push_back(job);
  threads_.start([this, job, hold = before_work, work = std::move(work), failed = std::move(failed)] {
    try {
      if (hold) hold(job->lane_);
      if (!job->is_stopped()) job->found_ = work(*job);
    } catch (const std::exception& error) {
      job->found_ = [failed, sentence = QString::fromUtf8(error.what())] {
        if (failed) failed(sentence);
      };
    }
    job->has_found_.release();
    QMetaObject::invokeMethod(this, [this, job] { end(job); }, Qt::QueuedConnection);
  });
  emit changed();
}

// Once: a job that was waited for has ended before its own message comes.
void Jobs::end(const std::shared_ptr<Job>& job) {
  if (std::erase(running_, job) == 0) return;
  if (job->found_) job->found_();
  emit changed();
}

bool Jobs::finish_within(const QString& lane, std::chrono::milliseconds longest) {
  const auto found = std::find_if(running_.begin(), running_.end(), [&](const auto& job) { return job->lane_ == lane; });
  if (found == running_.end()) return true;
  const std::shared_ptr<Job> job = *found;
  if (!job->has_found_.try_acquire_for(longest)) return false;
  end(job);
  return true;
}

void Jobs::cancel(const QString& lane) {
  for (const auto& job : running_)
    if (job->lane_ == lane) job->stop_.request_stop();
  if (std::erase_if(running_, [](const auto& job) { return job->is_stopped(); }) > 0) emit changed();
}

int Jobs::cancel_all() {
  const int count = static_cast<int>(running_.size());
  for (const auto& job : running_) job->stop_.request_stop();
  running_.clear();
  if (count > 0) emit changed();
  return count;
}

bool Jobs::is_busy(const QString& lane) const {
  return std::any_of(running_.begin(), running_.end(), [&](const auto& job) { return job->lane_ == lane; });
}

}  // namespace zeroplan::gui
