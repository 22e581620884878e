// Jobs: work beside the window's thread, so that a hand never waits: answering questions, reading files, searching fixes, sorting and writing large tables. A lane holds one job: a new one cancels
// the one before it. What a job found is handed over on the window's thread; of a cancelled job nothing is. Leaves out what jobs do and how they are shown.
#pragma once

#include <QObject>
#include <QString>
#include <QThreadPool>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <semaphore>
#include <stop_token>
#include <vector>

namespace zeroplan::gui {

class Jobs : public QObject {
  Q_OBJECT

 public:
  using Found = std::function<void()>;  ///< runs on the window's thread

  /// A job as its own thread sees it.
  class Job {
   public:
    bool is_stopped() const { return stop_.stop_requested(); }
    std::stop_token token() const { return stop_.get_token(); }
    void report(double done_ratio) { done_ratio_ = done_ratio; }

   private:
    friend class Jobs;
    Found found_;                      // written by its thread before has_found_
    std::binary_semaphore has_found_{0};
    QString lane_, title_;
    std::stop_source stop_;
    std::atomic<double> done_ratio_{-1};
  };
  using Work = std::function<Found(Job&)>;  ///< on the job's thread; may throw: `failed` gets the sentence

  explicit Jobs(QObject* parent = nullptr);
  ~Jobs() override;

  void start(const QString& lane, const QString& title, Work work, std::function<void(const QString&)> failed = {});
  /// Waits until the lane's job has ended, at most so long, and hands over what it found. False: it goes on.
  bool finish_within(const QString& lane, std::chrono::milliseconds longest);
  void cancel(const QString& lane);
  /// The number of jobs that were under way.
  int cancel_all();
  bool is_busy() const { return !running_.empty(); }
  bool is_busy(const QString& lane) const;
  QString title() const { return running_.empty() ? QString() : running_.back()->title_; }
  double done_ratio() const { return running_.empty() ? -1 : running_.back()->done_ratio_.load(); }  ///< −1: not known

  /// Called on a job's thread before its work. For tests that hold jobs back.
  std::function<void(const QString& lane)> before_work;

 signals:
  void changed();  ///< a job began or ended

 private:
  void end(const std::shared_ptr<Job>& job);

  std::vector<std::shared_ptr<Job>> running_;
  QThreadPool threads_;
};

}  // namespace zeroplan::gui
