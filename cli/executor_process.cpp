#include "cli/executor_process.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "planner/core/error.h"

namespace zeroplan::cli {
namespace {

constexpr const char* kName = "zeroplan-run";

std::vector<std::filesystem::path> places() {
  std::vector<std::filesystem::path> out;
  std::error_code ignored;
  out.push_back(std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path());
  if (const char* path = std::getenv("PATH")) {
    std::string rest(path);
    for (std::size_t at = 0; at <= rest.size();) {
      const std::size_t end = std::min(rest.find(':', at), rest.size());
      if (end > at) out.emplace_back(rest.substr(at, end - at));
      at = end + 1;
    }
  }
  return out;
}

// Splits a stream of bytes into lines.
class Lines {
 public:
  explicit Lines(const std::function<void(const std::string&)>& line) : line_(line) {}
  void add(std::string_view bytes) {
    rest_ += bytes;
    for (std::size_t end; (end = rest_.find('\n')) != std::string::npos; rest_.erase(0, end + 1)) line_(rest_.substr(0, end));
  }
  ~Lines() {
    if (!rest_.empty()) line_(rest_);
  }

 private:
  const std::function<void(const std::string&)>& line_;
  std::string rest_;
};

}  // namespace

std::optional<std::string> program_path(const std::string& name) {
  for (const auto& place : places()) {
    const std::string candidate = (place / name).string();
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return std::nullopt;
}

std::optional<std::string> executor_path() { return program_path(kName); }

int run_executor(const std::vector<std::string>& arguments, const std::function<void(const std::string&)>& line) {
  const std::optional<std::string> path = executor_path();
  if (!path)
    throw EnvironmentError("zeroplan-run is not installed: this build has no libtorch. Run executor/get_torch.sh, then cmake --preset release and build again");
  std::array<int, 2> pipe_ends{};
  if (::pipe(pipe_ends.data()) != 0) throw EnvironmentError(fmt::format("cannot make a pipe: {}", std::strerror(errno)));
  std::vector<char*> argv{const_cast<char*>(path->c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child < 0) throw EnvironmentError(fmt::format("cannot start {}: {}", *path, std::strerror(errno)));
  if (child == 0) {
    ::dup2(pipe_ends[1], STDOUT_FILENO);
    ::close(pipe_ends[0]);
    ::close(pipe_ends[1]);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(pipe_ends[1]);
  {
    Lines lines(line);
    std::array<char, 1 << 16> buffer;
    for (ssize_t n; (n = ::read(pipe_ends[0], buffer.data(), buffer.size())) != 0;) {
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) break;
      lines.add({buffer.data(), static_cast<std::size_t>(n)});
    }
  }
  ::close(pipe_ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) throw EnvironmentError(fmt::format("{} cannot be started: its libtorch may have moved; run executor/get_torch.sh and build again", *path));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 5;
}

}  // namespace zeroplan::cli
