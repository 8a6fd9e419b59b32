#include "worker/agent/node_probe.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"
#include "worker/agent/unique_fd.h"

namespace fathom {
namespace {

// A file of the kernel's, whose size stat does not know; empty when there is none.
std::string ReadKernelFile(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  std::array<char, 4096> buffer;
  for (ssize_t got; fd.ok() && (got = ::read(fd.get(), buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  return text;
}

std::string FindProgram(const std::string& given, const HostFacts& host,
                        absl::string_view package_and_name) {
  if (!given.empty()) return given;
  const std::string beside = ProgramBeside(host.program_folder, package_and_name);
  if (::access(beside.c_str(), F_OK) == 0) return beside;
  return ProgramOfBuild(host.program_folder, package_and_name);
}

}  // namespace

absl::StatusOr<HostFacts> ProbeHost() {
  HostFacts host;
  std::array<char, HOST_NAME_MAX + 1> name = {};
  if (::gethostname(name.data(), name.size() - 1) != 0) {
    return ErrnoStatus(errno, "ask for", "the host's name");
  }
  host.host_name = name.data();
  // What it may run on, which is less than the machine has where it is bound to some.
  cpu_set_t cores;
  if (::sched_getaffinity(0, sizeof(cores), &cores) != 0) {
    return ErrnoStatus(errno, "ask for", "the cores of this process");
  }
  host.cores = CPU_COUNT(&cores);
  std::array<char, PATH_MAX> program = {};
  const ssize_t length = ::readlink("/proc/self/exe", program.data(), program.size());
  if (length <= 0) return ErrnoStatus(errno, "read", "/proc/self/exe");
  const absl::string_view path(program.data(), static_cast<size_t>(length));
  host.program_folder = std::string(path.substr(0, path.rfind('/')));
  return host;
}

absl::StatusOr<std::string> FindRankBinary(const v1::WorkerConfig& config, const HostFacts& host) {
  const std::string path = FindProgram(config.rank_binary(), host, "engine/fathom-rank");
  if (::access(path.c_str(), X_OK) == 0) return path;
  return ErrnoStatus(errno, "run the program of a rank (--rank-binary)", path);
}

std::string FindPreflightBinary(const v1::WorkerConfig& config, const HostFacts& host) {
  return FindProgram(config.preflight_binary(), host, "health/fathom-preflight");
}

absl::StatusOr<int64_t> ParseMemTotal(absl::string_view meminfo) {
  for (const absl::string_view line : absl::StrSplit(meminfo, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t kibibytes;
    if (words.size() == 3 && words[0] == "MemTotal:" && words[2] == "kB" &&
        absl::SimpleAtoi(words[1], &kibibytes) && kibibytes > 0) {
      return kibibytes * 1024;
    }
  }
  return absl::DataLossError("/proc/meminfo has no line 'MemTotal: <n> kB'");
}

absl::StatusOr<int64_t> ProbeMemory() {
  FATHOM_ASSIGN_OR_RETURN(int64_t bytes, ParseMemTotal(ReadKernelFile("/proc/meminfo")));
  // As a container sees its own limit, in the second and the first version of control groups. "max"
  // is no number, and no limit.
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    int64_t limit;
    if (absl::SimpleAtoi(ReadKernelFile(path), &limit) && limit > 0) {
      bytes = std::min(bytes, limit);
    }
  }
  return bytes;
}

v1::Node DescribeNode(const v1::WorkerConfig& config, int64_t memory_bytes) {
  v1::Node node;
  node.set_name(config.node_name());
  node.set_address(config.address());
  node.set_failure_domain(config.failure_domain());
  node.set_leaf(config.leaf());
  for (int i = 0; i < config.devices(); ++i) {
    v1::Device* device = node.add_devices();
    device->set_index(i);
    device->set_kind("cpu");
    device->set_memory_bytes(memory_bytes / config.devices());
  }
  return node;
}

int64_t ResidentBytes(int64_t pid) {
  const std::string text = ReadKernelFile(absl::StrCat("/proc/", pid, "/statm"));
  const std::vector<absl::string_view> words = absl::StrSplit(text, ' ');
  int64_t pages;
  if (words.size() < 2 || !absl::SimpleAtoi(words[1], &pages)) return 0;
  return pages * ::sysconf(_SC_PAGESIZE);
}

}  // namespace fathom
