// A file descriptor that closes itself.
#pragma once

#include <unistd.h>

#include <utility>

namespace zeroplan {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (is_open()) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  bool close() { return ::close(std::exchange(fd_, -1)) == 0; }  ///< false: a late write error, errno says which

 private:
  int fd_;
};

}  // namespace zeroplan
