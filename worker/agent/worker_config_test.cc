#include "worker/agent/worker_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/agent/node_probe.h"
#include "worker/agent/state_folder.h"
#include "worker/agent/worker_flags.h"

namespace fathom {
namespace {

using ::testing::HasSubstr;

const HostFacts kHost{"laptop", "/opt/fathom/bin"};

std::string TempFolder() {
  std::string path = absl::StrCat(::testing::TempDir(), "/config.XXXXXX");
  return ::mkdtemp(path.data());
}

std::string Content(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

v1::WorkerConfig Minimal() {
  v1::WorkerConfig config;
  config.set_coordinator_address("127.0.0.1:7070");
  config.set_state_directory("/var/lib/fathom");
  return config;
}

TEST(WorkerConfigTest, FieldsLeftOut_TakeTheirDefaults) {
  v1::WorkerConfig config = Minimal();
  ASSERT_TRUE(CompleteWorkerConfig(kHost, &config).ok());
  EXPECT_EQ(config.node_name(), "laptop");
  EXPECT_EQ(config.address(), "127.0.0.1");
  EXPECT_EQ(config.metrics_address(), "127.0.0.1:0");
  EXPECT_EQ(config.devices(), 1);
  EXPECT_EQ(config.health_interval_ms(), 10'000);
}

TEST(FindProgramTest, WhatIsConfigured_WinsOverWhatIsBuilt) {
  const HostFacts host{"laptop", TempFolder()};
  v1::WorkerConfig config;
  EXPECT_EQ(FindPreflightBinary(config, host), host.program_folder + "/../health/fathom-preflight");
  EXPECT_THAT(std::string(FindRankBinary(config, host).status().message()),
              HasSubstr("--rank-binary"));
  const std::string beside = host.program_folder + "/fathom-preflight";
  std::ofstream(beside) << "x";
  EXPECT_EQ(FindPreflightBinary(config, host), beside);
  config.set_preflight_binary("/opt/check");
  EXPECT_EQ(FindPreflightBinary(config, host), "/opt/check");
  config.set_rank_binary("/bin/sh");
  EXPECT_EQ(FindRankBinary(config, host).value(), "/bin/sh");
}

struct Mistake {
  const char* name;
  void (*make)(v1::WorkerConfig*);
  const char* says;
};

class WorkerConfigMistakeTest : public ::testing::TestWithParam<Mistake> {};

TEST_P(WorkerConfigMistakeTest, Mistake_IsNamed) {
  v1::WorkerConfig config = Minimal();
  GetParam().make(&config);
  const absl::Status status = CompleteWorkerConfig(kHost, &config);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
}

using Config = v1::WorkerConfig;
INSTANTIATE_TEST_SUITE_P(
    Fields, WorkerConfigMistakeTest,
    ::testing::Values(
        Mistake{"NoCoordinator", [](Config* c) { c->clear_coordinator_address(); },
                "coordinator_address is required"},
        Mistake{"NoPort", [](Config* c) { c->set_coordinator_address("somewhere"); }, "somewhere"},
        Mistake{"PortZero", [](Config* c) { c->set_coordinator_address("a:0"); }, "port 0"},
        Mistake{"Metrics", [](Config* c) { c->set_metrics_address("1:2:3"); }, "metrics_address"},
        Mistake{"AddressWithPort", [](Config* c) { c->set_address("a:1"); }, "address: 'a:1'"},
        Mistake{"NoState", [](Config* c) { c->clear_state_directory(); }, "state_directory"},
        Mistake{"HealthInterval", [](Config* c) { c->set_health_interval_ms(1); },
                "health_interval_ms"},
        Mistake{"Name", [](Config* c) { c->set_node_name("../x"); }, "node_name"},
        Mistake{"LongName", [](Config* c) { c->set_node_name(std::string(254, 'a')); }, "at most"},
        Mistake{"Devices", [](Config* c) { c->set_devices(65); }, "65"},
        Mistake{"NegativeDevices", [](Config* c) { c->set_devices(-1); }, "-1"},
        Mistake{"TlsCa", [](Config* c) { c->mutable_tls(); }, "tls.ca_file"},
        Mistake{"TlsKey",
                [](Config* c) {
                  c->mutable_tls()->set_ca_file("a");
                  c->mutable_tls()->set_key_file("k");
                },
                "go together"}),
    [](const auto& param) { return std::string(param.param.name); });

TEST(WorkerConfigTest, Ipv6Address_IsAHost) {
  v1::WorkerConfig config = Minimal();
  config.set_address("::1");
  EXPECT_TRUE(CompleteWorkerConfig(kHost, &config).ok());
}

TEST(WorkerConfigTest, AnyAddress_IsReportedAsTheNodesOwn) {
  EXPECT_EQ(ReachableAddress("0.0.0.0:9", "10.0.0.4"), "10.0.0.4:9");
  EXPECT_EQ(ReachableAddress("[::]:9", "fe80::1"), "[fe80::1]:9");
  EXPECT_EQ(ReachableAddress("127.0.0.1:9", "10.0.0.4"), "127.0.0.1:9");
}

// --- Flags ---

absl::StatusOr<std::optional<v1::WorkerConfig>> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "fathom-worker");
  return ParseWorkerFlags(static_cast<int>(arguments.size()), arguments.data());
}

TEST(WorkerFlagsTest, EveryField_HasAFlag) {
  const auto config = Parse({"--coordinator-address",
                             "c:1",
                             "--node-name=n",
                             "--address",
                             "h",
                             "--metrics-address",
                             "m:2",
                             "--state-directory",
                             "/s",
                             "--devices",
                             "3",
                             "--spare",
                             "--rank-binary",
                             "/r",
                             "--preflight-binary",
                             "/p",
                             "--health-interval-ms",
                             "500",
                             "--failure-domain",
                             "rack",
                             "--leaf",
                             "leaf-3",
                             "--tls-certificate-file",
                             "/c",
                             "--tls-key-file",
                             "/k",
                             "--tls-ca-file",
                             "/a"});
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_TRUE(config->has_value());
  std::vector<const google::protobuf::FieldDescriptor*> set;
  (*config)->GetReflection()->ListFields(**config, &set);
  EXPECT_EQ(static_cast<int>(set.size()), v1::WorkerConfig::descriptor()->field_count());
  EXPECT_EQ((*config)->devices(), 3);
  EXPECT_EQ((*config)->tls().ca_file(), "/a");
}

TEST(WorkerFlagsTest, Flags_WinOverTheFile) {
  const std::string file = TempFolder() + "/worker.yaml";
  std::ofstream(file) << "nodeName: from-file\ndevices: 4\nspare: true\nstate_directory: /s\n";
  const auto config = Parse({"--config", file.c_str(), "--node-name", "from-flag", "--no-spare"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ((*config)->node_name(), "from-flag");
  EXPECT_EQ((*config)->devices(), 4);
  EXPECT_EQ((*config)->state_directory(), "/s");
  EXPECT_FALSE((*config)->spare());
}

TEST(WorkerFlagsTest, Mistakes_AreRefused) {
  EXPECT_FALSE(Parse({"--no-such-flag"}).ok());
  EXPECT_FALSE(Parse({"--devices", "none"}).ok());
  EXPECT_FALSE(Parse({"--devices", "0"}).ok());
  EXPECT_FALSE(Parse({"--config", "/nowhere/worker.yaml"}).ok());
  const std::string file = TempFolder() + "/worker.yaml";
  std::ofstream(file) << "devises: 4\n";
  EXPECT_THAT(std::string(Parse({"--config", file.c_str()}).status().message()),
              HasSubstr("devises"));
}

TEST(WorkerFlagsTest, Help_IsNoConfiguration) {
  ::testing::internal::CaptureStdout();
  const auto config = Parse({"--help"});
  const std::string text = ::testing::internal::GetCapturedStdout();
  ASSERT_TRUE(config.ok());
  EXPECT_FALSE(config->has_value());
  EXPECT_THAT(text, HasSubstr("--state-directory"));
}

// --- The machine ---

TEST(NodeProbeTest, MemTotal_IsReadInBytes) {
  EXPECT_EQ(*ParseMemTotal("MemFree: 1 kB\nMemTotal:       24684084 kB\n"), 24684084LL * 1024);
  EXPECT_EQ(ParseMemTotal("MemTotal: much\n").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(ParseMemTotal("").ok());
}

TEST(NodeProbeTest, ThisMachine_HasANameAndMemory) {
  const absl::StatusOr<HostFacts> host = ProbeHost();
  ASSERT_TRUE(host.ok()) << host.status();
  EXPECT_FALSE(host->host_name.empty());
  EXPECT_GE(host->cores, 1);
  EXPECT_LE(host->cores, ::sysconf(_SC_NPROCESSORS_ONLN));
  EXPECT_EQ(::access(host->program_folder.c_str(), X_OK), 0);
  const absl::StatusOr<int64_t> memory = ProbeMemory();
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_GT(*memory, 64 << 20);
  EXPECT_GT(ResidentBytes(::getpid()), 1 << 20);
  EXPECT_EQ(ResidentBytes(-1), 0);
}

TEST(NodeProbeTest, Devices_ShareTheMemory) {
  v1::WorkerConfig config = Minimal();
  config.set_node_name("n0");
  config.set_devices(4);
  config.set_failure_domain("rack-1");
  config.set_leaf("leaf-3");
  const v1::Node node = DescribeNode(config, 400);
  ASSERT_EQ(node.devices_size(), 4);
  EXPECT_EQ(node.devices(3).index(), 3);
  EXPECT_EQ(node.devices(3).kind(), "cpu");
  EXPECT_EQ(node.devices(3).memory_bytes(), 100);
  EXPECT_EQ(node.name(), "n0");
  EXPECT_EQ(node.failure_domain(), "rack-1");
  EXPECT_EQ(node.leaf(), "leaf-3");
}

// --- The state folder ---

TEST(StateFolderTest, SecondDaemon_IsRefusedAndToldWhoHoldsIt) {
  const std::string path = TempFolder() + "/new/state";
  {
    const absl::StatusOr<StateFolder> first = StateFolder::Open(path, 4711);
    ASSERT_TRUE(first.ok()) << first.status();
    const absl::Status second = StateFolder::Open(path, 4712).status();
    EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(second.message()), HasSubstr("(process 4711) uses " + path));
  }
  EXPECT_TRUE(StateFolder::Open(path, 4713).ok()) << "free again";
}

TEST(StateFolderTest, Incarnation_RisesThoughTheClockGoesBack) {
  const absl::StatusOr<StateFolder> folder = StateFolder::Open(TempFolder(), 1);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(*folder->NextIncarnation(1000), 1000);
  EXPECT_EQ(*folder->NextIncarnation(900), 1001);
  EXPECT_EQ(*folder->NextIncarnation(2000), 2000);
  std::ofstream(folder->path() + "/incarnation") << "no number";
  EXPECT_EQ(folder->NextIncarnation(1).status().code(), absl::StatusCode::kDataLoss);
}

TEST(StateFolderTest, Announcement_SaysWhoAndWhere) {
  const absl::StatusOr<StateFolder> folder = StateFolder::Open(TempFolder(), 1);
  ASSERT_TRUE(folder.ok()) << folder.status();
  ASSERT_TRUE(folder->Announce("n0", 12, "127.0.0.1:99").ok());
  EXPECT_EQ(Content(folder->path() + "/worker.json"),
            "{\"node\": \"n0\", \"pid\": 12, \"metrics_address\": \"127.0.0.1:99\"}\n");
}

}  // namespace
}  // namespace fathom
