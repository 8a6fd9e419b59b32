// FATHOM_CHECK: a broken invariant ends the process with its place and its values, in production
// too. Failures of the environment are absl::Status instead.
#ifndef FATHOM_COMMON_BASE_CHECK_H_
#define FATHOM_COMMON_BASE_CHECK_H_

#include <sstream>
#include <string>

namespace fathom {

// Prints "file:line: check failed: message" to standard error and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const std::string& message);

// Collects what a failing check says with operator<<, and aborts when it goes out of scope.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition) : file_(file), line_(line) {
    message_ << condition << " ";
  }
  [[noreturn]] ~CheckFailure() { CheckFailed(file_, line_, message_.str()); }
  std::ostream& stream() { return message_; }

 private:
  const char* file_;
  int line_;
  std::ostringstream message_;
};

}  // namespace fathom

#define FATHOM_CHECK(condition) \
  if (condition) [[likely]] {   \
  } else                        \
    ::fathom::CheckFailure(__FILE__, __LINE__, #condition).stream()

#endif  // FATHOM_COMMON_BASE_CHECK_H_
