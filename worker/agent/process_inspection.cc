#include "worker/agent/process_inspection.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "worker/agent/unique_fd.h"

namespace fathom {
namespace {

// The beginning of a file of /proc; empty when there is none.
std::string ReadSome(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) return "";
  std::array<char, 4096> buffer;
  const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
  return got <= 0 ? "" : std::string(buffer.data(), static_cast<size_t>(got));
}

std::string Words(char state) {
  switch (state) {
    case 'R':
      return "running";
    case 'S':
      return "sleeping";
    case 'D':
      return "in disk wait";
    case 'T':
      return "stopped by a signal";
    case 't':
      return "stopped by a debugger";
    case 'Z':
    case 'X':
      return "ended";
    default:
      return absl::StrCat("in state ", std::string(1, state));
  }
}

}  // namespace

std::string DescribeProcess(absl::string_view status, absl::string_view wchan) {
  for (absl::string_view line : absl::StrSplit(status, '\n')) {
    if (!absl::ConsumePrefix(&line, "State:")) continue;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) break;
    const absl::string_view where = absl::StripAsciiWhitespace(wchan);
    // Where a stopped process waits is where it is stopped.
    const bool waits = line[0] == 'S' || line[0] == 'D';
    if (!waits || where.empty() || where == "0") return Words(line[0]);
    return absl::StrCat(Words(line[0]), " in ", where);
  }
  return "gone";
}

std::string DescribeProcess(pid_t pid) {
  return DescribeProcess(ReadSome(absl::StrCat("/proc/", pid, "/status")),
                         ReadSome(absl::StrCat("/proc/", pid, "/wchan")));
}

}  // namespace fathom
