#include "worker/health/kernel_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/text.h"
#include "worker/agent/unique_fd.h"

namespace fathom::health {
namespace {

constexpr size_t kMaxMessageBytes = 256;
constexpr size_t kMaxSignals = 256;
constexpr size_t kMaxRecordBytes = 8192;    // a read of a shorter buffer fails
constexpr int64_t kMaxLogBytes = 64 << 20;  // far more than any ring buffer
constexpr size_t kMaxLineBytes = 64 << 10;  // of a file that is no log

// A line with all of these words in it, in any order.
struct Pattern {
  std::array<absl::string_view, 2> words;
  absl::string_view source;
  absl::string_view name;
};

// The first that fits counts.
constexpr Pattern kPatterns[] = {
    {{"EDAC ", " UE "}, "memory", "edac_uncorrected"},
    {{"EDAC ", " CE "}, "memory", "edac_corrected"},
    {{"Memory failure: 0x", ""}, "memory", "memory_failure"},
    {{"Uncorrected hardware memory error", ""}, "memory", "memory_failure"},
    {{"[Hardware Error]", "Machine check events logged"}, "kernel", "mce"},
    {{"[Hardware Error]", "Machine Check Exception"}, "kernel", "mce"},
    {{"[Hardware Error]", "CPU "}, "kernel", "mce"},
    {{"ut of memory: Kill", "process"}, "kernel", "oom_kill"},
    {{"INFO: task ", " blocked for more than "}, "kernel", "hung_task"},
    {{"soft lockup", "CPU#"}, "kernel", "soft_lockup"},
    {{"hard LOCKUP", "on cpu"}, "kernel", "hard_lockup"},
    {{"EXT4-fs error", ""}, "disk", "filesystem_error"},
    {{"XFS (", "orruption"}, "disk", "filesystem_error"},
    {{"BTRFS error", ""}, "disk", "filesystem_error"},
    {{"Remounting filesystem read-only", ""}, "disk", "filesystem_error"},
};

v1::HealthSignal Signal(absl::string_view source, absl::string_view subject, absl::string_view name,
                        absl::string_view message) {
  v1::HealthSignal signal;
  signal.set_source(std::string(source));
  signal.set_subject(std::string(subject));
  signal.set_name(std::string(name));
  signal.set_value(1);
  signal.set_message(CutText(message, kMaxMessageBytes));
  return signal;
}

// "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus."; older drivers leave out
// "PCI:".
std::optional<v1::HealthSignal> ClassifyXid(absl::string_view text) {
  const size_t at = text.find("NVRM: Xid (");
  if (at == absl::string_view::npos) return std::nullopt;
  absl::string_view rest = text.substr(at);
  absl::ConsumePrefix(&rest, "NVRM: Xid (");
  absl::ConsumePrefix(&rest, "PCI:");
  const size_t end = rest.find("): ");
  if (end == absl::string_view::npos || end > 32) return std::nullopt;
  const absl::string_view device = rest.substr(0, end);
  rest.remove_prefix(end + 3);
  const absl::string_view code = rest.substr(0, rest.find_first_not_of("0123456789"));
  int number;
  if (!absl::SimpleAtoi(code, &number) || number < 0 || number > 9999) return std::nullopt;
  return Signal("xid", absl::StrCat("gpu ", CutText(device, 32)), absl::StrCat("xid_", number),
                text.substr(at));
}

// "blk_update_request: I/O error, dev sda, sector 2048 op 0x0:(READ) ...". Floppy and optical
// drives fail for want of a medium.
std::optional<v1::HealthSignal> ClassifyDisk(absl::string_view text) {
  const size_t at = text.find("I/O error, dev ");
  if (at == absl::string_view::npos) return std::nullopt;
  absl::string_view device = text.substr(at);
  absl::ConsumePrefix(&device, "I/O error, dev ");
  device = device.substr(0, device.find_first_of(", "));
  if (absl::StartsWith(device, "fd") || absl::StartsWith(device, "sr")) return std::nullopt;
  return Signal("disk", CutText(device, 32), "io_error", text);
}

using Counts = std::map<std::tuple<std::string, std::string, std::string>, v1::HealthSignal>;

void Count(v1::HealthSignal signal, Counts* counts) {
  const auto key = std::tuple(signal.source(), signal.subject(), signal.name());
  if (counts->size() >= kMaxSignals && !counts->contains(key)) return;
  const double before = (*counts)[key].value();
  signal.set_value(before + 1);
  (*counts)[key] = std::move(signal);
}

// Reads on from the descriptor until nothing is there, line by line.
template <typename OnLine>
void ReadLines(int fd, OnLine on_line) {
  std::string pending;
  std::array<char, kMaxRecordBytes> buffer;
  for (int64_t total = 0; total < kMaxLogBytes;) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    // EPIPE: older records were overwritten meanwhile; the next read goes on behind them.
    if (got < 0 && (errno == EINTR || errno == EPIPE)) continue;
    if (got <= 0) break;
    total += got;
    pending.append(buffer.data(), static_cast<size_t>(got));
    size_t begin = 0;
    for (size_t end; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
      on_line(absl::string_view(pending).substr(begin, end - begin));
    }
    pending.erase(0, begin);
    if (pending.size() > kMaxLineBytes) return;
  }
}

}  // namespace

std::optional<KernelLogRecord> ParseKernelLogRecord(absl::string_view line) {
  const size_t semicolon = line.find(';');
  if (semicolon == absl::string_view::npos) return std::nullopt;
  const std::vector<absl::string_view> fields = absl::StrSplit(line.substr(0, semicolon), ',');
  KernelLogRecord record;
  int priority;
  if (fields.size() < 3 || !absl::SimpleAtoi(fields[0], &priority) ||
      !absl::SimpleAtoi(fields[1], &record.sequence) || record.sequence < 0) {
    return std::nullopt;
  }
  record.text = std::string(line.substr(semicolon + 1));
  return record;
}

std::optional<v1::HealthSignal> ClassifyKernelLine(absl::string_view text) {
  if (auto signal = ClassifyXid(text)) return signal;
  if (auto signal = ClassifyDisk(text)) return signal;
  for (const Pattern& pattern : kPatterns) {
    const bool fits = std::all_of(
        pattern.words.begin(), pattern.words.end(),
        [text](absl::string_view word) { return word.empty() || absl::StrContains(text, word); });
    if (fits) return Signal(pattern.source, "", pattern.name, text);
  }
  return std::nullopt;
}

std::vector<v1::HealthSignal> ReadKernelLog(const std::string& path, int64_t after) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!fd.ok()) {
    if (errno == ENOENT) return {};
    return {Signal("kernel", "", "log_unreadable", std::strerror(errno))};
  }
  Counts counts;
  int64_t newest = after;
  ReadLines(fd.get(), [&](absl::string_view line) {
    const std::optional<KernelLogRecord> record = ParseKernelLogRecord(line);
    if (!record || record->sequence <= after) return;
    newest = std::max(newest, record->sequence);
    if (auto signal = ClassifyKernelLine(record->text)) Count(*std::move(signal), &counts);
  });
  std::vector<v1::HealthSignal> signals;
  for (auto& [key, signal] : counts) signals.push_back(std::move(signal));
  v1::HealthSignal& sequence = signals.emplace_back();
  sequence.set_source("kernel");
  sequence.set_name("log_sequence");
  sequence.set_value(static_cast<double>(newest));
  return signals;
}

}  // namespace fathom::health
