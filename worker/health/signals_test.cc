#include "worker/health/signals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"
#include "worker/health/kernel_log.h"
#include "worker/health/signal_history.h"
#include "worker/health/signal_rules.h"
#include "worker/health/sysfs_counters.h"
#include "worker/health/xid_table.h"

namespace fathom::health {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr char kNoNvml[] = "/nowhere/libnvidia-ml.so.1";

// "source subject name" -> value
std::map<std::string, double> Values(const std::vector<v1::HealthSignal>& signals) {
  std::map<std::string, double> values;
  for (const v1::HealthSignal& s : signals) {
    values[absl::StrCat(s.source(), " ", s.subject(), " ", s.name())] = s.value();
  }
  return values;
}

std::vector<v1::HealthSignal> ListOf(const v1::NodeHealth& health) {
  return {health.signals().begin(), health.signals().end()};
}

// A folder with files as the kernel writes them.
class FixtureTest : public ::testing::Test {
 protected:
  FixtureTest() {
    std::string path = absl::StrCat(::testing::TempDir(), "/signals.XXXXXX");
    root_ = absl::StrCat(::mkdtemp(path.data()), "/");
  }

  void Write(const std::string& path, const std::string& content) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << content;
  }

  void WritePort(const std::string& device, const std::string& state, int symbol_errors) {
    const std::string port = absl::StrCat("sys/class/infiniband/", device, "/ports/1/");
    Write(port + "state", state);
    Write(port + "counters/symbol_error", absl::StrCat(symbol_errors, "\n"));
    Write(port + "counters/link_downed", "2\n");
  }

  std::string root_;
};

TEST_F(FixtureTest, InfinibandPorts_GiveStateAndCounters) {
  WritePort("mlx5_0", "4: ACTIVE\n", 17);
  WritePort("mlx5_1", "1: DOWN\n", 0);
  const auto values = Values(ReadInfinibandPorts(root_));
  EXPECT_EQ(values.at("infiniband mlx5_0/1 state"), 1);
  EXPECT_EQ(values.at("infiniband mlx5_0/1 symbol_error"), 17);
  EXPECT_EQ(values.at("infiniband mlx5_0/1 link_downed"), 2);
  EXPECT_EQ(values.at("infiniband mlx5_1/1 state"), 0);
  EXPECT_EQ(values.count("infiniband mlx5_0/1 port_rcv_errors"), 0u);  // not offered
}

TEST_F(FixtureTest, MemoryControllers_GiveBothCounts) {
  Write("sys/devices/system/edac/mc/mc0/ce_count", "3\n");
  Write("sys/devices/system/edac/mc/mc0/ue_count", "1\n");
  Write("sys/devices/system/edac/mc/power/control", "auto\n");
  const auto values = Values(ReadMemoryControllers(root_));
  EXPECT_EQ(values.size(), 2u);
  EXPECT_EQ(values.at("memory mc0 ce_count"), 3);
  EXPECT_EQ(values.at("memory mc0 ue_count"), 1);
}

TEST_F(FixtureTest, PcieErrors_AreTheTotals) {
  const std::string device = "sys/bus/pci/devices/0000:3b:00.0/";
  Write(device + "aer_dev_correctable",
        "Receiver Error 2\nBad TLP 0\nBad DLLP 1\nRELAY_NUM Rollover 0\nReplay Timer Timeout 0\n"
        "Advisory Non-Fatal 0\nCorrected Internal Error 0\nHeader Log Overflow 0\n"
        "TOTAL_ERR_COR 3\n");
  Write(device + "aer_dev_fatal",
        "Undefined 0\nData Link Protocol 0\nSurprise Down Error 1\nTOTAL_ERR_FATAL 1\n");
  const auto values = Values(ReadPcieErrors(root_));
  EXPECT_EQ(values.at("pcie 0000:3b:00.0 aer_correctable"), 3);
  EXPECT_EQ(values.at("pcie 0000:3b:00.0 aer_fatal"), 1);
  EXPECT_EQ(values.count("pcie 0000:3b:00.0 aer_nonfatal"), 0u);
}

TEST_F(FixtureTest, FilesThatSaySomethingElse_AreNoSignals) {
  WritePort("mlx5_0", "", 0);
  Write("sys/class/infiniband/mlx5_0/ports/1/counters/symbol_error", "-1\n");
  Write("sys/class/infiniband/mlx5_0/ports/1/counters/link_downed", "N/A (no PMA)\n");
  Write("sys/devices/system/edac/mc/mc0/ce_count", "");
  Write("sys/bus/pci/devices/x/aer_dev_fatal", "TOTAL_ERR_FATAL\nTOTAL_ERR_FATAL x\n");
  EXPECT_EQ(ReadInfinibandPorts(root_).size(), 1u);  // the state
  EXPECT_THAT(ReadMemoryControllers(root_), IsEmpty());
  EXPECT_THAT(ReadPcieErrors(root_), IsEmpty());
}

TEST_F(FixtureTest, MachineWithNothing_GivesNoSignals) {
  const v1::NodeHealth health = ProbeSignals({.root = root_, .nvml_library = kNoNvml});
  EXPECT_EQ(health.signals_size(), 0);
}

TEST_F(FixtureTest, KernelLog_IsCountedBySignal) {
  Write("dev/kmsg",
        "6,100,5000,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module\n"
        "4,101,9000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.\n"
        " SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n"
        "4,102,9001,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', again\n"
        "3,103,9100,-;blk_update_request: I/O error, dev sda, sector 2048 op 0x0:(READ)\n"
        "3,104,9200,-;Out of memory: Killed process 77 (fathom-rank) total-vm:1kB\n"
        "0,105,9300,-;mce: [Hardware Error]: Machine check events logged\n"
        "3,106,9400,c;EDAC MC0: 1 UE memory read error on CPU_SrcID#0_MC#0_Chan#0\n");
  const auto signals = ReadKernelLog(root_ + "dev/kmsg", -1);
  const auto values = Values(signals);
  EXPECT_EQ(values.at("xid gpu 0000:3b:00 xid_79"), 2);
  EXPECT_EQ(values.at("disk sda io_error"), 1);
  EXPECT_EQ(values.at("kernel  oom_kill"), 1);
  EXPECT_EQ(values.at("kernel  mce"), 1);
  EXPECT_EQ(values.at("memory  edac_uncorrected"), 1);
  EXPECT_EQ(values.at("kernel  log_sequence"), 106);
  EXPECT_EQ(values.size(), 6u);
  for (const v1::HealthSignal& signal : signals) {
    if (signal.source() == "xid") {
      EXPECT_THAT(signal.message(), StartsWith("NVRM: Xid (PCI:"));
    }
  }
  const auto later = Values(ReadKernelLog(root_ + "dev/kmsg", 104));
  EXPECT_EQ(later.size(), 3u);
  EXPECT_EQ(later.count("xid gpu 0000:3b:00 xid_79"), 0u);
}

TEST_F(FixtureTest, KernelLogWithoutNews_KeepsItsPlace) {
  Write("dev/kmsg", "6,7,1,-;boot\n");
  EXPECT_EQ(Values(ReadKernelLog(root_ + "dev/kmsg", 7)).at("kernel  log_sequence"), 7);
}

TEST_F(FixtureTest, KernelLogOfGarbage_GivesNothing) {
  Write("dev/kmsg", std::string(100'000, 'x') + "\n;;;\n,,,;\n-1,-5,0;NVRM: Xid (a): 79\n");
  const auto values = Values(ReadKernelLog(root_ + "dev/kmsg", -1));
  EXPECT_EQ(values.size(), 1u);
  EXPECT_EQ(values.at("kernel  log_sequence"), -1);
}

TEST_F(FixtureTest, FullDisk_IsTold) {
  const auto values = Values(
      ListOf(ProbeSignals({.root = root_, .nvml_library = kNoNvml, .state_directory = "/"})));
  EXPECT_EQ(values.count("disk / nearly_full"), 1u);
}

TEST(KernelLineTest, KnownLines_AreClassified) {
  const std::pair<const char*, const char*> lines[] = {
      {"NVRM: Xid (0000:01:00): 31, Ch 0000000b, engmask 00000120, intr 10000000", "xid_31"},
      {"NVRM: Xid (PCI:0000:10:1c): 63, pid=1896, Row Remapper: New row marked", "xid_63"},
      {"I/O error, dev nvme0n1, sector 52 op 0x1:(WRITE) flags 0x800", "io_error"},
      {"Memory cgroup out of memory: Killed process 9 (x)", "oom_kill"},
      {"EDAC MC1: 4 CE memory scrubbing error on CPU_SrcID#1", "edac_corrected"},
      {"Memory failure: 0x1840200: recovery action for dirty LRU page: Recovered",
       "memory_failure"},
      {"mce: Uncorrected hardware memory error in user-access at 1850602400", "memory_failure"},
      {"INFO: task jbd2/sda1-8:312 blocked for more than 120 seconds.", "hung_task"},
      {"watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [x:1]", "soft_lockup"},
      {"NMI watchdog: Watchdog detected hard LOCKUP on cpu 4", "hard_lockup"},
      {"EXT4-fs error (device sda1): ext4_lookup:1594: inode #2", "filesystem_error"},
      {"XFS (sda1): Corruption detected. Unmount and run xfs_repair", "filesystem_error"},
  };
  for (const auto& [line, name] : lines) {
    const auto signal = ClassifyKernelLine(line);
    ASSERT_TRUE(signal.has_value()) << line;
    EXPECT_EQ(signal->name(), name) << line;
  }
}

TEST(KernelLineTest, HarmlessLines_AreNot) {
  for (const char* line :
       {"NVRM: GPU at PCI:0000:3b:00: GPU-1234", "NVRM: Xid (PCI:0000:3b:00: 79", "NVRM: Xid (): x",
        "NVRM: Xid (PCI:0000:3b:00): , nothing", "I/O error, dev sr0, sector 0",
        "EDAC MC: Ver: 3.0.0", "oom_reaper: reaped process 77 (x)", ""}) {
    EXPECT_FALSE(ClassifyKernelLine(line).has_value()) << line;
  }
}

TEST(XidTableTest, CodesThatNeedAReset_AreFatal) {
  for (const int code : {48, 62, 63, 64, 74, 79, 94, 95, 119}) {
    EXPECT_EQ(MeaningOfXid(code).severity, v1::SEVERITY_FATAL) << code;
    EXPECT_FALSE(MeaningOfXid(code).text.empty()) << code;
  }
  for (const int code : {13, 31, 43, 45, 0, 9999}) {
    EXPECT_EQ(MeaningOfXid(code).severity, v1::SEVERITY_WARNING) << code;
  }
  EXPECT_EQ(RuleOf("xid", "xid_79").severity, v1::SEVERITY_FATAL);
  EXPECT_EQ(RuleOf("xid", "xid_79").kind, SignalKind::kEvents);
  EXPECT_EQ(RuleOf("xid", "xid_zz").kind, SignalKind::kCounter);
}

class NvmlProbeTest : public ::testing::Test {
 protected:
  ~NvmlProbeTest() override { ::unsetenv("FAKE_NVML"); }

  static std::map<std::string, double> Probe(const char* mode) {
    ::setenv("FAKE_NVML", mode, 1);
    return Values(ProbeNvml(
        absl::StrCat(std::getenv("TEST_SRCDIR"), "/fathom/worker/health/libfake_nvml.so")));
  }
};

TEST_F(NvmlProbeTest, TwoGpus_GiveTheirCounters) {
  const auto values = Probe("good");
  for (const char* gpu : {"gpu0", "gpu1"}) {
    EXPECT_EQ(values.at(absl::StrCat("ecc ", gpu, " corrected")), 5);
    EXPECT_EQ(values.at(absl::StrCat("ecc ", gpu, " uncorrected")), 2);
    EXPECT_EQ(values.at(absl::StrCat("ecc ", gpu, " rows_remapped")), 3);
    EXPECT_EQ(values.at(absl::StrCat("ecc ", gpu, " remap_pending")), 1);
    EXPECT_EQ(values.at(absl::StrCat("nvlink ", gpu, "/link0 active")), 1);
    EXPECT_EQ(values.at(absl::StrCat("nvlink ", gpu, "/link0 recovery")), 101);
    EXPECT_EQ(values.at(absl::StrCat("nvlink ", gpu, "/link1 active")), 0);
    EXPECT_EQ(values.at(absl::StrCat("pcie ", gpu, " reachable")), 1);
  }
  EXPECT_EQ(values.count("nvlink gpu0/link1 replay"), 0u);
  EXPECT_EQ(values.count("pcie gpu0 replay"), 0u);  // a function the library lacks
}

TEST_F(NvmlProbeTest, GpuOffTheBus_IsNotReachable) {
  const auto values = Probe("lost");
  EXPECT_EQ(values.at("pcie gpu0 reachable"), 1);
  EXPECT_EQ(values.at("pcie gpu1 reachable"), 0);
  EXPECT_EQ(values.count("ecc gpu1 corrected"), 0u);
}

TEST_F(NvmlProbeTest, LibraryThatFailsOrIsNotThere_GivesNothing) {
  EXPECT_THAT(Probe("broken"), IsEmpty());
  EXPECT_THAT(ProbeNvml(kNoNvml), IsEmpty());
}

class SignalHistoryTest : public ::testing::Test {
 protected:
  struct Seen {
    const char* source;
    const char* subject;
    const char* name;
    double value;
  };

  const v1::NodeHealth& Update(const std::vector<Seen>& seen) {
    v1::NodeHealth probe;
    for (const Seen& s : seen) {
      v1::HealthSignal* signal = probe.add_signals();
      signal->set_source(s.source);
      signal->set_subject(s.subject);
      signal->set_name(s.name);
      signal->set_value(s.value);
    }
    now_ms_ += 10'000;
    health_ = history_.Update(probe, now_ms_);
    return health_;
  }

  // Of the newest report; null: it is not in it.
  const v1::HealthSignal* Find(const std::string& name) const {
    for (const v1::HealthSignal& signal : health_.signals()) {
      if (signal.name() == name) return &signal;
    }
    return nullptr;
  }

  v1::Severity SeverityOf(const std::string& name) const {
    const v1::HealthSignal* signal = Find(name);
    return signal == nullptr ? v1::SEVERITY_OK : signal->severity();
  }

  SignalHistory history_{absl::Seconds(60)};
  int64_t now_ms_ = 1'000'000;
  v1::NodeHealth health_;
};

TEST_F(SignalHistoryTest, CounterThatAlwaysStoodHigh_IsNoFault) {
  for (int i = 0; i < 3; ++i) Update({{"memory", "mc0", "ue_count", 40'000}});
  EXPECT_EQ(SeverityOf("ue_count"), v1::SEVERITY_OK);
  EXPECT_EQ(Find("ue_count")->value(), 40'000);
}

TEST_F(SignalHistoryTest, CounterThatRises_IsAFaultOfItsRule) {
  Update({{"memory", "mc0", "ue_count", 4}, {"memory", "mc0", "ce_count", 4}});
  Update({{"memory", "mc0", "ue_count", 5}, {"memory", "mc0", "ce_count", 9}});
  EXPECT_EQ(SeverityOf("ue_count"), v1::SEVERITY_FATAL);
  EXPECT_EQ(Find("ue_count")->message(), "rose by 1 to 5: uncorrected memory errors");
  EXPECT_EQ(Find("ue_count")->time_ms(), now_ms_);
  EXPECT_EQ(SeverityOf("ce_count"), v1::SEVERITY_WARNING);
  EXPECT_EQ(health_.signals(0).name(), "ue_count");  // the worst first
}

TEST_F(SignalHistoryTest, RiseBelowItsLeast_IsNoFault) {
  Update({{"infiniband", "mlx5_0/1", "symbol_error", 0}});
  Update({{"infiniband", "mlx5_0/1", "symbol_error", 9}});
  EXPECT_EQ(SeverityOf("symbol_error"), v1::SEVERITY_OK);
  Update({{"infiniband", "mlx5_0/1", "symbol_error", 19}});
  EXPECT_EQ(SeverityOf("symbol_error"), v1::SEVERITY_WARNING);
}

TEST_F(SignalHistoryTest, CounterThatWasReset_SetsANewMark) {
  Update({{"memory", "mc0", "ue_count", 100}});
  Update({{"memory", "mc0", "ue_count", 0}});
  EXPECT_EQ(SeverityOf("ue_count"), v1::SEVERITY_OK);
  Update({{"memory", "mc0", "ue_count", 1}});
  EXPECT_EQ(SeverityOf("ue_count"), v1::SEVERITY_FATAL);
}

TEST_F(SignalHistoryTest, Warning_PassesWhenNothingFollows) {
  Update({{"memory", "mc0", "ce_count", 0}});
  Update({{"memory", "mc0", "ce_count", 1}});
  for (int i = 0; i < 6; ++i) Update({{"memory", "mc0", "ce_count", 1}});
  EXPECT_EQ(SeverityOf("ce_count"), v1::SEVERITY_WARNING);
  Update({{"memory", "mc0", "ce_count", 1}});
  EXPECT_EQ(SeverityOf("ce_count"), v1::SEVERITY_OK);
}

TEST_F(SignalHistoryTest, FatalFault_StaysUntilForgiven) {
  Update({});
  Update({{"xid", "gpu 0000:3b:00", "xid_79", 1}});
  for (int i = 0; i < 100; ++i) Update({});
  EXPECT_EQ(SeverityOf("xid_79"), v1::SEVERITY_FATAL);
  history_.Forgive();
  Update({});
  EXPECT_EQ(SeverityOf("xid_79"), v1::SEVERITY_OK);
  EXPECT_EQ(Find("xid_79")->value(), 1);
}

TEST_F(SignalHistoryTest, EventsBeforeTheStart_AreAWarningAtMost) {
  Update({{"xid", "gpu 0000:3b:00", "xid_79", 3}});
  EXPECT_EQ(SeverityOf("xid_79"), v1::SEVERITY_WARNING);
  EXPECT_THAT(Find("xid_79")->message(), HasSubstr("3 before the daemon's start"));
  Update({{"xid", "gpu 0000:3b:00", "xid_79", 1}});
  EXPECT_EQ(SeverityOf("xid_79"), v1::SEVERITY_FATAL);
  EXPECT_EQ(Find("xid_79")->value(), 4);
  EXPECT_THAT(Find("xid_79")->message(), HasSubstr("fallen off the bus"));
}

TEST_F(SignalHistoryTest, PortThatWasNeverUp_IsNoFault) {
  Update({{"infiniband", "mlx5_1/1", "state", 0}});
  Update({{"infiniband", "mlx5_1/1", "state", 0}});
  EXPECT_EQ(Find("state"), nullptr);
}

TEST_F(SignalHistoryTest, PortThatGoesDown_IsFatalUntilItIsUpAgain) {
  Update({{"infiniband", "mlx5_0/1", "state", 1}});
  EXPECT_EQ(Find("state"), nullptr);
  Update({{"infiniband", "mlx5_0/1", "state", 0}});
  EXPECT_EQ(SeverityOf("state"), v1::SEVERITY_FATAL);
  const int64_t down_ms = now_ms_;
  Update({{"infiniband", "mlx5_0/1", "state", 0}});
  EXPECT_EQ(Find("state")->time_ms(), down_ms);
  Update({{"infiniband", "mlx5_0/1", "state", 1}});
  EXPECT_EQ(SeverityOf("state"), v1::SEVERITY_WARNING);
  EXPECT_THAT(Find("state")->message(), HasSubstr("up again"));
  for (int i = 0; i < 7; ++i) Update({{"infiniband", "mlx5_0/1", "state", 1}});
  EXPECT_EQ(Find("state"), nullptr);
}

TEST_F(SignalHistoryTest, DeviceThatVanishes_IsFatal) {
  Update({{"pcie", "gpu0", "reachable", 1}});
  Update({});
  EXPECT_EQ(SeverityOf("reachable"), v1::SEVERITY_FATAL);
  EXPECT_THAT(Find("reachable")->message(), HasSubstr("not there any more"));
}

TEST_F(SignalHistoryTest, Level_IsAFaultWhileItLasts) {
  Update({{"disk", "/s", "nearly_full", 0}});
  EXPECT_EQ(Find("nearly_full"), nullptr);
  for (int i = 0; i < 10; ++i) Update({{"disk", "/s", "nearly_full", 1}});
  EXPECT_EQ(SeverityOf("nearly_full"), v1::SEVERITY_WARNING);
  Update({{"disk", "/s", "nearly_full", 0}});
  EXPECT_EQ(Find("nearly_full"), nullptr);
}

TEST_F(SignalHistoryTest, FatalLevelForgiven_ComesBackWhileItLasts) {
  Update({{"ecc", "gpu0", "remap_failed", 1}});
  EXPECT_EQ(SeverityOf("remap_failed"), v1::SEVERITY_FATAL);
  history_.Forgive();
  Update({{"ecc", "gpu0", "remap_failed", 1}});
  EXPECT_EQ(SeverityOf("remap_failed"), v1::SEVERITY_FATAL);
}

TEST_F(SignalHistoryTest, FailedProbe_KeepsWhatWasKnown) {
  Update({{"memory", "mc0", "ue_count", 0}});
  Update({{"memory", "mc0", "ue_count", 1}});
  const v1::NodeHealth failed = history_.Failed("it hung", now_ms_ + 5);
  EXPECT_EQ(failed.probe_error(), "it hung");
  ASSERT_EQ(failed.signals_size(), 1);
  EXPECT_EQ(failed.signals(0).severity(), v1::SEVERITY_FATAL);
}

TEST_F(SignalHistoryTest, LogSequence_IsRememberedAndNotReported) {
  EXPECT_EQ(history_.log_sequence(), -1);
  Update({{"kernel", "", "log_sequence", 372}});
  EXPECT_EQ(history_.log_sequence(), 372);
  EXPECT_EQ(health_.signals_size(), 0);
}

TEST_F(SignalHistoryTest, MoreSignalsThanMayBeReported_KeepsTheWorst) {
  std::vector<std::string> names;
  for (int i = 0; i < 2 * SignalHistory::kMaxReported; ++i) names.push_back(absl::StrCat("c", i));
  std::vector<Seen> seen;
  for (const std::string& name : names) seen.push_back({"pcie", "x", name.c_str(), 5});
  seen.push_back({"pcie", "z", "aer_fatal", 5});
  Update(seen);
  seen.back().value = 6;
  Update(seen);
  EXPECT_EQ(health_.signals_size(), SignalHistory::kMaxReported);
  EXPECT_EQ(health_.signals(0).name(), "aer_fatal");
}

}  // namespace
}  // namespace fathom::health
