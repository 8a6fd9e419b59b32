#include "worker/health/signal_rules.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "worker/health/xid_table.h"

namespace fathom::health {
namespace {

struct Row {
  absl::string_view source;
  absl::string_view name;
  SignalRule rule;
};

constexpr v1::Severity kOk = v1::SEVERITY_OK;
constexpr v1::Severity kWarning = v1::SEVERITY_WARNING;
constexpr v1::Severity kFatal = v1::SEVERITY_FATAL;

// Counters of InfiniBand: InfiniBand Architecture Specification, volume 1, PortCounters.
constexpr Row kRows[] = {
    {"ecc", "corrected", {SignalKind::kCounter, kWarning, 10, "corrected GPU memory errors"}},
    {"ecc", "uncorrected", {SignalKind::kCounter, kFatal, 1, "uncorrected GPU memory errors"}},
    {"ecc", "rows_remapped", {SignalKind::kCounter, kWarning, 1, "GPU memory rows replaced"}},
    {"ecc", "remap_pending", {SignalKind::kLevel, kWarning, 0, "reset the GPU to remap its rows"}},
    {"ecc", "remap_failed", {SignalKind::kLevel, kFatal, 0, "no spare rows left: replace the GPU"}},
    {"nvlink", "replay", {SignalKind::kCounter, kWarning, 10, "NVLink packets sent again"}},
    {"nvlink", "recovery", {SignalKind::kCounter, kWarning, 1, "NVLink trained again"}},
    {"nvlink", "crc_flit", {SignalKind::kCounter, kWarning, 100, "NVLink checksum errors"}},
    {"nvlink", "crc_data", {SignalKind::kCounter, kWarning, 100, "NVLink checksum errors"}},
    {"nvlink", "active", {SignalKind::kPort, kFatal, 0, "the NVLink went down"}},
    {"pcie", "reachable", {SignalKind::kPort, kFatal, 0, "the device does not answer any more"}},
    {"pcie", "replay", {SignalKind::kCounter, kWarning, 10, "PCIe packets sent again"}},
    {"pcie", "aer_correctable", {SignalKind::kCounter, kWarning, 100, "corrected PCIe errors"}},
    {"pcie", "aer_nonfatal", {SignalKind::kCounter, kWarning, 1, "uncorrected PCIe errors"}},
    {"pcie", "aer_fatal", {SignalKind::kCounter, kFatal, 1, "fatal PCIe errors"}},
    {"infiniband", "state", {SignalKind::kPort, kFatal, 0, "the port is not ACTIVE any more"}},
    {"infiniband", "symbol_error", {SignalKind::kCounter, kWarning, 10, "check the cable"}},
    {"infiniband", "port_rcv_errors", {SignalKind::kCounter, kWarning, 10, "check the cable"}},
    {"infiniband", "link_error_recovery", {SignalKind::kCounter, kWarning, 1, "check the cable"}},
    {"infiniband", "link_downed", {SignalKind::kCounter, kWarning, 1, "the link flaps"}},
    {"memory", "ce_count", {SignalKind::kCounter, kWarning, 1, "corrected memory errors"}},
    {"memory", "ue_count", {SignalKind::kCounter, kFatal, 1, "uncorrected memory errors"}},
    {"memory", "edac_corrected", {SignalKind::kEvents, kWarning, 0, "corrected memory errors"}},
    {"memory", "edac_uncorrected", {SignalKind::kEvents, kFatal, 0, "uncorrected memory errors"}},
    {"memory", "memory_failure", {SignalKind::kEvents, kFatal, 0, "a page of memory was lost"}},
    {"kernel", "mce", {SignalKind::kEvents, kWarning, 0, "machine check: see rasdaemon"}},
    {"kernel", "oom_kill", {SignalKind::kEvents, kWarning, 0, "a process was ended for memory"}},
    {"kernel", "hung_task", {SignalKind::kEvents, kWarning, 0, "a process hangs in the kernel"}},
    {"kernel", "soft_lockup", {SignalKind::kEvents, kWarning, 0, "a CPU did not schedule"}},
    {"kernel", "hard_lockup", {SignalKind::kEvents, kFatal, 0, "a CPU hung: reboot the node"}},
    {"kernel", "log_unreadable", {SignalKind::kLevel, kOk, 0, "the kernel log can't be read"}},
    {"disk", "io_error", {SignalKind::kEvents, kWarning, 0, "a disk failed to read or write"}},
    {"disk", "filesystem_error", {SignalKind::kEvents, kWarning, 0, "check the file system"}},
    {"disk", "nearly_full", {SignalKind::kLevel, kWarning, 0, "free space on it"}},
};

}  // namespace

SignalRule RuleOf(absl::string_view source, absl::string_view name) {
  int xid;
  if (source == "xid" && absl::ConsumePrefix(&name, "xid_") && absl::SimpleAtoi(name, &xid)) {
    const XidMeaning meaning = MeaningOfXid(xid);
    return {SignalKind::kEvents, meaning.severity, 0, meaning.text};
  }
  for (const Row& row : kRows) {
    if (row.source == source && row.name == name) return row.rule;
  }
  return {};
}

}  // namespace fathom::health
