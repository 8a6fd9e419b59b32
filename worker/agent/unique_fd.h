// A file descriptor that is closed when its owner goes.
#ifndef FATHOM_WORKER_AGENT_UNIQUE_FD_H_
#define FATHOM_WORKER_AGENT_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace fathom {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    const int old = std::exchange(fd_, fd);
    if (old >= 0) ::close(old);
  }

 private:
  int fd_ = -1;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_UNIQUE_FD_H_
