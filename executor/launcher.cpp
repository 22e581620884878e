// The parent polls one pidfd and one pipe a rank. A pidfd becomes readable the moment its process ends; the pipe is drained as it fills, so that a
// rank that sends much never waits for a parent that waits for the rank.
//
// Stuck ranks. Between two looks a rank is quiet if it made no report, passed no barrier and does not wait in a collective for others; quiet time adds up,
// and is zeroed by any of these. So a rank that waits for a slow one is never blamed, while one that loops, or was stopped inside a collective
// after the others came, is. A look adds at most two periods: time in which the parent itself did not run (Ctrl-Z, then fg) is nobody's fault.
//
// After the first failure: the shared stop word turns out ranks that wait in collectives (they throw), the rest get half a second, then SIGKILL.
// A rank that ends well while another waits for it would leave that one waiting for ever: that is a failure as well.
// If the parent is killed the kernel kills the ranks (PR_SET_PDEATHSIG).
#include "executor/launcher.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <iostream>
#include <new>
#include <stdexcept>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "planner/core/error.h"

namespace zeroplan {
namespace {

constexpr std::int64_t kNsPerS = 1'000'000'000;
constexpr std::int64_t kNsPerMs = 1'000'000;
constexpr std::int64_t kGraceNs = kNsPerS / 2;
constexpr std::int64_t kLongestPeriodNs = 100 * kNsPerMs;
constexpr std::int64_t kShortestPeriodNs = 5 * kNsPerMs;
constexpr double kLongestStuckS = 1e9;  // more would leave int64 nanoseconds
constexpr int kRunFailed = 5;
constexpr int kOurMistake = 70;
constexpr std::size_t kOpWords = 4;
constexpr std::size_t kOpChars = kOpWords * sizeof(std::uint64_t);
constexpr std::size_t kErrorChars = 512;

std::int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerS + now.tv_nsec;
}

}  // namespace

// Written by one rank, read by the parent at any moment: a sequence lock, odd while the rank writes.
struct alignas(64) ProgressRecord {
  enum class State : std::uint32_t { starting, running, threw, ended };

  std::atomic<std::uint64_t> sequence{0};
  std::atomic<std::int64_t> step{0}, instruction{0}, last_update_ns{0};
  std::array<std::atomic<std::uint64_t>, kOpWords> op{};
  std::atomic<State> state{State::starting};
  char error[kErrorChars] = {};  // read after the rank has ended
};

void Progress::at(std::int64_t step, std::int64_t instruction, std::string_view op) {
  std::array<std::uint64_t, kOpWords> words{};
  std::memcpy(words.data(), op.data(), std::min(op.size(), kOpChars - 1));
  const std::uint64_t sequence = record_.sequence.load(std::memory_order_relaxed);
  record_.sequence.store(sequence + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  record_.step.store(step, std::memory_order_relaxed);
  record_.instruction.store(instruction, std::memory_order_relaxed);
  record_.last_update_ns.store(now_ns(), std::memory_order_relaxed);
  for (std::size_t i = 0; i < kOpWords; ++i) record_.op[i].store(words[i], std::memory_order_relaxed);
  record_.state.store(ProgressRecord::State::running, std::memory_order_relaxed);
  record_.sequence.store(sequence + 2, std::memory_order_release);
}

void RankContext::send(std::string_view bytes) const {
  while (!bytes.empty()) {
    const ssize_t written = write(to_parent, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      throw RunError(fmt::format("rank {} cannot send to its parent: {}", rank, std::strerror(errno)));
    }
  }
}

namespace {

struct Seen {
  bool any = false;
  std::int64_t step = 0, instruction = 0, last_update_ns = 0;
  std::string op;
};

Seen copy_of(const ProgressRecord& record) {
  std::array<std::uint64_t, kOpWords> words{};
  Seen seen;
  seen.step = record.step.load(std::memory_order_relaxed);
  seen.instruction = record.instruction.load(std::memory_order_relaxed);
  seen.last_update_ns = record.last_update_ns.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < kOpWords; ++i) words[i] = record.op[i].load(std::memory_order_relaxed);
  std::array<char, kOpChars + 1> text{};
  std::memcpy(text.data(), words.data(), kOpChars);
  seen.op = text.data();
  return seen;
}

// A rank that was stopped in the middle of a report never finishes it: after a few tries a mixed report is better than none.
Seen read_progress(const ProgressRecord& record) {
  constexpr int kTries = 100;
  for (int attempt = 1;; ++attempt) {
    const std::uint64_t before = record.sequence.load(std::memory_order_acquire);
    Seen seen = copy_of(record);
    std::atomic_thread_fence(std::memory_order_acquire);
    const std::uint64_t after = record.sequence.load(std::memory_order_relaxed);
    seen.any = after != 0;
    if ((before == after && before % 2 == 0) || attempt == kTries) return seen;
  }
}

// Closes on every way out. -1 is the kernel's own word for no descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { reset(); }
  int get() const { return fd_; }
  void reset() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

[[noreturn]] void throw_errno(const char* what) { throw EnvironmentError(fmt::format("cannot start the ranks: {} failed: {}", what, std::strerror(errno))); }

// ---- in the rank ----

int note_error(ProgressRecord& record, int exit_code, const char* text) {
  std::strncpy(record.error, text, kErrorChars - 1);
  record.state.store(ProgressRecord::State::threw, std::memory_order_release);
  return exit_code;
}

int run_body(RankContext& context, ProgressRecord& record, const std::function<int(RankContext&)>& body) {
  try {
    const int exit_code = body(context);
    record.state.store(ProgressRecord::State::ended, std::memory_order_release);
    return exit_code;
  } catch (const UsageError& error) {
    return note_error(record, 2, error.what());
  } catch (const InputError& error) {
    return note_error(record, 3, error.what());
  } catch (const OverflowError& error) {
    return note_error(record, 3, error.what());
  } catch (const EnvironmentError& error) {
    return note_error(record, 4, error.what());
  } catch (const std::bad_alloc&) {
    return note_error(record, 4, "out of memory");
  } catch (const RunError& error) {
    return note_error(record, kRunFailed, error.what());
  } catch (const std::exception& error) {
    return note_error(record, kOurMistake, error.what());
  } catch (...) {
    return note_error(record, kOurMistake, "an exception that is not a std::exception");
  }
}

struct RankStart {
  std::int64_t rank;
  ShmWorld& shared;
  ProgressRecord& record;
  int to_parent;
  pid_t parent;
};

// _exit: destructors of globals belong to the parent.
[[noreturn]] void run_rank(const RankStart& start, const std::function<int(RankContext&)>& body) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != start.parent) _exit(kRunFailed);  // it died before the line above
  ShmCollectives collectives(start.shared, start.rank);
  Progress progress(start.record);
  RankContext context{start.rank, start.shared.world(), collectives, progress, start.to_parent};
  const int exit_code = run_body(context, start.record, body);
  std::cout.flush();
  std::fflush(nullptr);
  _exit(exit_code);
}

// ---- in the parent ----

struct Child {
  pid_t pid = 0;
  Fd pidfd, from_rank;
  bool ended = false;
  int status = 0;  // of waitpid, once ended
  std::uint64_t reports = 0, passes = 0;  // at the last look
  std::int64_t quiet_ns = 0;
};

std::string process_state(pid_t pid) {
  std::array<char, 512> text{};
  const Fd file(open(fmt::format("/proc/{}/stat", pid).c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0 || read(file.get(), text.data(), text.size() - 1) <= 0) return "";
  const char* after_name = std::strrchr(text.data(), ')');
  if (after_name == nullptr || after_name[1] != ' ') return "";
  switch (after_name[2]) {
    case 'R': return ", its process is running";
    case 'S': return ", its process sleeps";
    case 'D': return ", its process waits for a device";
    case 'T': return ", its process was stopped by a signal";
    default: return "";
  }
}

std::string name_of_signal(int signal) {
  const char* name = sigabbrev_np(signal);
  return name == nullptr ? fmt::format("signal {}", signal) : fmt::format("signal {} (SIG{})", signal, name);
}

class Job {
 public:
  Job(const LaunchOptions& options, const std::function<int(RankContext&)>& body);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  LaunchResult watch();

 private:
  void start(std::int64_t rank, const std::function<int(RankContext&)>& body);
  bool all_ended() const;
  void wait_for_news();
  void drain(std::int64_t rank);
  void reap(std::int64_t rank);
  void judge_end(std::int64_t rank);
  void look_for_stuck(std::int64_t elapsed_ns);
  void look_for_deserter();
  void fail(std::int64_t rank, int exit_code, const std::string& what);
  void kill_all();
  ProgressRecord& record(std::int64_t rank) const { return reinterpret_cast<ProgressRecord*>(records_.data())[rank]; }
  Child& child(std::int64_t rank) { return children_[static_cast<std::size_t>(rank)]; }
  std::int64_t started() const { return static_cast<std::int64_t>(children_.size()); }
  std::int64_t period_ns() const;

  std::optional<std::int64_t> stuck_after_ns_;
  ShmWorld shared_;
  SharedArea records_;
  std::vector<Child> children_;
  LaunchResult result_;
  bool failed_ = false;
  std::optional<std::int64_t> kill_at_ns_;
};

Job::Job(const LaunchOptions& options, const std::function<int(RankContext&)>& body)
    : shared_(options.world), records_(Bytes(static_cast<std::int64_t>(sizeof(ProgressRecord))) * options.world) {
  if (options.stuck_after_s) stuck_after_ns_ = static_cast<std::int64_t>(std::min(*options.stuck_after_s, kLongestStuckS) * static_cast<double>(kNsPerS));
  for (std::int64_t rank = 0; rank < options.world; ++rank) new (&record(rank)) ProgressRecord;
  result_.messages.resize(static_cast<std::size_t>(options.world));
  children_.reserve(static_cast<std::size_t>(options.world));
  std::cout.flush();  // or every rank would print what is still buffered
  std::fflush(nullptr);
  try {
    for (std::int64_t rank = 0; rank < options.world; ++rank) start(rank, body);
  } catch (...) {
    kill_all();
    throw;
  }
}

Job::~Job() { kill_all(); }

void Job::start(std::int64_t rank, const std::function<int(RankContext&)>& body) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("pipe2");
  Child started_child;
  started_child.from_rank = Fd(ends[0]);
  const Fd to_parent(ends[1]);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) throw_errno("fork");
  if (pid == 0) {
    started_child.from_rank.reset();
    for (Child& earlier : children_) {
      earlier.from_rank.reset();
      earlier.pidfd.reset();
    }
    run_rank({rank, shared_, record(rank), to_parent.get(), parent}, body);
  }
  started_child.pid = pid;
  children_.push_back(std::move(started_child));
  Child& kept = children_.back();
  kept.pidfd = Fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (kept.pidfd.get() < 0) throw_errno("pidfd_open");
  if (fcntl(kept.from_rank.get(), F_SETFL, O_NONBLOCK) != 0) throw_errno("fcntl");
}

bool Job::all_ended() const {
  return std::all_of(children_.begin(), children_.end(), [](const Child& each) { return each.ended; });
}

std::int64_t Job::period_ns() const {
  if (!stuck_after_ns_) return kLongestPeriodNs;
  return std::clamp(*stuck_after_ns_ / 8, kShortestPeriodNs, kLongestPeriodNs);
}

LaunchResult Job::watch() {
  std::int64_t last_ns = now_ns();
  while (!all_ended()) {
    wait_for_news();
    const std::int64_t elapsed_ns = std::min(now_ns() - last_ns, 2 * period_ns());
    last_ns = now_ns();
    if (!failed_) look_for_stuck(elapsed_ns);
    if (!failed_) look_for_deserter();
    if (kill_at_ns_ && last_ns >= *kill_at_ns_) kill_all();
  }
  return std::move(result_);
}

void Job::wait_for_news() {
  std::vector<pollfd> polled;
  std::vector<std::int64_t> ranks;
  for (std::int64_t rank = 0; rank < started(); ++rank) {
    if (child(rank).ended) continue;
    ranks.push_back(rank);
    polled.push_back({child(rank).pidfd.get(), POLLIN, 0});
    polled.push_back({child(rank).from_rank.get(), POLLIN, 0});  // -1 once closed: poll skips it
  }
  if (poll(polled.data(), polled.size(), static_cast<int>(period_ns() / kNsPerMs)) <= 0) return;  // time is up, or a signal: look again
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (polled[2 * i + 1].revents != 0) drain(ranks[i]);
    if (polled[2 * i].revents != 0) reap(ranks[i]);
  }
}

// Until the pipe is empty for now. At its end (the rank closed it) poll would report it for ever, so it is closed here too.
void Job::drain(std::int64_t rank) {
  std::array<char, 1 << 16> buffer;
  Fd& pipe = child(rank).from_rank;
  while (pipe.get() >= 0) {
    const ssize_t got = read(pipe.get(), buffer.data(), buffer.size());
    if (got > 0) {
      result_.messages[static_cast<std::size_t>(rank)].append(buffer.data(), static_cast<std::size_t>(got));
    } else if (got == 0) {
      pipe.reset();
    } else if (errno != EINTR) {
      return;
    }
  }
}

void Job::reap(std::int64_t rank) {
  Child& dead = child(rank);
  while (waitpid(dead.pid, &dead.status, 0) < 0)
    if (errno != EINTR) throw_errno("waitpid");  // SIGCHLD is ignored, or somebody else waited
  dead.ended = true;
  drain(rank);
  dead.from_rank.reset();
  dead.pidfd.reset();
  if (!failed_) judge_end(rank);
}

void Job::judge_end(std::int64_t rank) {
  const int status = child(rank).status;
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    const char* hint = signal == SIGKILL ? ", as the kernel does when memory runs out" : "";
    return fail(rank, kRunFailed, fmt::format("rank {} was killed by {}{}", rank, name_of_signal(signal), hint));
  }
  const int exit_code = WEXITSTATUS(status);
  if (exit_code == 0) return;
  const ProgressRecord& last = record(rank);
  if (last.state.load(std::memory_order_acquire) == ProgressRecord::State::threw) return fail(rank, exit_code, fmt::format("rank {}: {}", rank, last.error));
  fail(rank, exit_code, fmt::format("rank {} ended with exit code {}", rank, exit_code));
}

void Job::look_for_stuck(std::int64_t elapsed_ns) {
  std::optional<std::int64_t> worst;
  for (std::int64_t rank = 0; rank < started(); ++rank) {
    Child& each = child(rank);
    const std::uint64_t reports = record(rank).sequence.load(std::memory_order_relaxed);
    const std::uint64_t passes = shared_.passes(rank);
    const bool moves = reports != each.reports || passes != each.passes || shared_.is_waiting(rank) || each.ended;
    each.quiet_ns = moves ? 0 : each.quiet_ns + elapsed_ns;
    each.reports = reports;
    each.passes = passes;
    if (stuck_after_ns_ && each.quiet_ns >= *stuck_after_ns_ && (!worst || each.quiet_ns > child(*worst).quiet_ns)) worst = rank;
  }
  if (!worst) return;
  const double quiet_s = static_cast<double>(child(*worst).quiet_ns) / static_cast<double>(kNsPerS);
  fail(*worst, kRunFailed, fmt::format("rank {} is stuck: no progress for {:.1f} s{}", *worst, quiet_s, process_state(child(*worst).pid)));
}

void Job::look_for_deserter() {
  const auto ended = std::find_if(children_.begin(), children_.end(), [](const Child& each) { return each.ended; });
  if (ended == children_.end()) return;
  const std::int64_t gone = ended - children_.begin();
  for (std::int64_t rank = 0; rank < started(); ++rank) {
    if (child(rank).ended || !shared_.is_waiting(rank)) continue;
    return fail(gone, kRunFailed, fmt::format("rank {} ended while rank {} waits for it in a collective", gone, rank));
  }
}

void Job::fail(std::int64_t rank, int exit_code, const std::string& what) {
  failed_ = true;
  shared_.stop();
  kill_at_ns_ = now_ns() + kGraceNs;
  const Seen seen = read_progress(record(rank));
  result_.exit_code = exit_code;
  result_.rank = rank;
  result_.message = what;
  if (!seen.any) {
    result_.message += " (before its first instruction)";
    return;
  }
  result_.step = seen.step;
  result_.instruction = seen.instruction;
  result_.op = seen.op;
  result_.message += fmt::format(" (step {}, instruction {}, {})", seen.step, seen.instruction, seen.op);
}

// SIGKILL also ends a process that is stopped.
void Job::kill_all() {
  for (Child& each : children_)
    if (!each.ended) kill(each.pid, SIGKILL);
  for (std::int64_t rank = 0; rank < started(); ++rank) {
    Child& each = child(rank);
    if (each.ended) continue;
    while (waitpid(each.pid, &each.status, 0) < 0 && errno == EINTR) {
    }
    each.ended = true;
    drain(rank);
  }
}

}  // namespace

LaunchResult launch(const LaunchOptions& options, const std::function<int(RankContext&)>& body) {
  Job job(options, body);
  return job.watch();
}

}  // namespace zeroplan
