#include "worker/health/sysfs_counters.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "worker/agent/unique_fd.h"

namespace fathom::health {
namespace {

constexpr size_t kMaxEntries = 4096;    // of a folder
constexpr size_t kMaxFileBytes = 4096;  // sysfs files are a page at most

std::vector<std::string> List(const std::string& folder) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(folder.c_str()), ::closedir);
  while (dir != nullptr && names.size() < kMaxEntries) {
    const dirent* entry = ::readdir(dir.get());
    if (entry == nullptr) break;
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> Read(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) return std::nullopt;
  std::string text(kMaxFileBytes, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  text.resize(size);
  return text;
}

std::optional<double> ReadNumber(const std::string& path) {
  const std::optional<std::string> text = Read(path);
  uint64_t number;
  if (!text || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &number)) return std::nullopt;
  return static_cast<double>(number);
}

// The last line's number: "TOTAL_ERR_COR 2".
std::optional<double> ReadTotal(const std::string& path) {
  const std::optional<std::string> text = Read(path);
  if (!text) return std::nullopt;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    const size_t space = line.rfind(' ');
    uint64_t number;
    if (absl::StartsWith(line, "TOTAL_ERR_") && space != absl::string_view::npos &&
        absl::SimpleAtoi(line.substr(space + 1), &number)) {
      return static_cast<double>(number);
    }
  }
  return std::nullopt;
}

void Add(const char* source, const std::string& subject, const char* name,
         std::optional<double> value, std::vector<v1::HealthSignal>* signals) {
  if (!value) return;
  v1::HealthSignal& signal = signals->emplace_back();
  signal.set_source(source);
  signal.set_subject(subject);
  signal.set_name(name);
  signal.set_value(*value);
}

}  // namespace

std::vector<v1::HealthSignal> ReadInfinibandPorts(const std::string& root) {
  std::vector<v1::HealthSignal> signals;
  const std::string devices = absl::StrCat(root, "sys/class/infiniband/");
  for (const std::string& device : List(devices)) {
    const std::string ports = absl::StrCat(devices, device, "/ports/");
    for (const std::string& port : List(ports)) {
      const std::string subject = absl::StrCat(device, "/", port);
      const std::optional<std::string> state = Read(absl::StrCat(ports, port, "/state"));
      if (state) {
        Add("infiniband", subject, "state", absl::StrContains(*state, "ACTIVE") ? 1 : 0, &signals);
        signals.back().set_message(std::string(absl::StripAsciiWhitespace(*state)));
      }
      for (const char* name :
           {"symbol_error", "link_error_recovery", "link_downed", "port_rcv_errors",
            "port_xmit_discards", "local_link_integrity_errors"}) {
        Add("infiniband", subject, name, ReadNumber(absl::StrCat(ports, port, "/counters/", name)),
            &signals);
      }
    }
  }
  return signals;
}

std::vector<v1::HealthSignal> ReadMemoryControllers(const std::string& root) {
  std::vector<v1::HealthSignal> signals;
  const std::string controllers = absl::StrCat(root, "sys/devices/system/edac/mc/");
  for (const std::string& controller : List(controllers)) {
    if (!absl::StartsWith(controller, "mc")) continue;
    for (const char* name : {"ce_count", "ue_count"}) {
      Add("memory", controller, name, ReadNumber(absl::StrCat(controllers, controller, "/", name)),
          &signals);
    }
  }
  return signals;
}

std::vector<v1::HealthSignal> ReadPcieErrors(const std::string& root) {
  std::vector<v1::HealthSignal> signals;
  const std::string devices = absl::StrCat(root, "sys/bus/pci/devices/");
  for (const std::string& device : List(devices)) {
    for (const char* name : {"aer_correctable", "aer_nonfatal", "aer_fatal"}) {
      const std::string file = absl::StrCat("aer_dev_", absl::string_view(name).substr(4));
      Add("pcie", device, name, ReadTotal(absl::StrCat(devices, device, "/", file)), &signals);
    }
  }
  return signals;
}

}  // namespace fathom::health
