// The small pieces of common/base: hashes, addresses, text, files, the metric catalog, clocks.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/errno_status.h"
#include "common/base/hash.h"
#include "common/base/host_port.h"
#include "common/base/ids.h"
#include "common/base/manual_clock.h"
#include "common/base/metric_catalog.h"
#include "common/base/real_clock.h"
#include "common/base/text.h"

namespace fathom {
namespace {

class AtomicFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = absl::StrCat(::testing::TempDir(), "/atomic_file_XXXXXX");
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  int FilesInFolder() const {
    return static_cast<int>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }
  std::string folder_;
};

TEST_F(AtomicFileTest, SecondWrite_ReplacesFirstAndLeavesNothingElse) {
  const std::string path = folder_ + "/file";
  ASSERT_TRUE(WriteFileAtomically(path, "first").ok());
  ASSERT_TRUE(WriteFileAtomically(path, std::string(100'000, 'x')).ok());
  auto read = ReadFile(path, 1 << 20);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, std::string(100'000, 'x'));
  EXPECT_EQ(FilesInFolder(), 1);
}

TEST_F(AtomicFileTest, TargetIsAFolder_FailsAndLeavesNoTemporaryFile) {
  const std::string path = folder_ + "/taken";
  std::filesystem::create_directory(path);
  EXPECT_FALSE(WriteFileAtomically(path, "content").ok());
  EXPECT_EQ(FilesInFolder(), 1);
}

TEST_F(AtomicFileTest, FolderMissing_NotFoundNamesThePath) {
  absl::Status status = WriteFileAtomically(folder_ + "/missing/file", "content");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), folder_ + "/missing/file")) << status;
}

TEST_F(AtomicFileTest, DiskFull_ResourceExhaustedNamesTheRemedy) {
  absl::Status status = ErrnoStatus(ENOSPC, "write", "/data/file");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "cannot write /data/file: No space left on device; free space there, or choose another "
            "folder");
}

TEST_F(AtomicFileTest, LongerThanMaximum_ResourceExhausted) {
  const std::string path = folder_ + "/file";
  ASSERT_TRUE(WriteFileAtomically(path, "12345").ok());
  EXPECT_TRUE(ReadFile(path, 5).ok());
  EXPECT_EQ(ReadFile(path, 4).status().code(), absl::StatusCode::kResourceExhausted);
  // Its size says 0, its content doesn't.
  EXPECT_EQ(ReadFile("/proc/self/status", 10).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(AtomicFileTest, NotARegularFile_FailsWithoutWaiting) {
  const std::string pipe = folder_ + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(ReadFile(pipe, 10).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadFile(folder_, 10).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadFile(folder_ + "/missing", 10).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(AtomicFileTest, NestedFolder_CreatedOnceAndFileInTheWayRefused) {
  EXPECT_TRUE(EnsureDirectory(folder_ + "/a/b/c").ok());
  EXPECT_TRUE(EnsureDirectory(folder_ + "/a/b/c").ok());
  EXPECT_TRUE(std::filesystem::is_directory(folder_ + "/a/b/c"));
  ASSERT_TRUE(WriteFileAtomically(folder_ + "/file", "").ok());
  EXPECT_FALSE(EnsureDirectory(folder_ + "/file").ok());
  EXPECT_FALSE(EnsureDirectory(folder_ + "/file/below").ok());
}

TEST(HashTest, KnownVectors_Match) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Xxh64("", 0), 0xEF46DB3751D8E999u);
  EXPECT_NE(Xxh64("abc", 0), Xxh64("abc", 1));
}

TEST(HashTest, PiecesAndStartingOver_GiveTheSameDigest) {
  Sha256 hash;
  hash.Update("a");
  hash.Update("bc");
  EXPECT_EQ(hash.HexDigest(), Sha256Hex("abc"));
  EXPECT_EQ(hash.HexDigest(), Sha256Hex(""));
}

TEST(HostPortTest, GoodAddresses_ParseAndPrintBack) {
  for (absl::string_view text : {"127.0.0.1:7070", "localhost:0", "[::1]:65535", "node-7.rack:1"}) {
    auto parsed = ParseHostPort(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(ToString(*parsed), text);
  }
}

TEST(HostPortTest, BadAddresses_InvalidArgument) {
  for (absl::string_view text : {"", "host", ":1", "host:", "host:65536", "host:-1", "host:+1",
                                 "::1:70", "a b:1", "host:1x", "host:99999999999", "[]:1"}) {
    EXPECT_EQ(ParseHostPort(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(HostPortTest, OnlyLoopback_CountsAsLoopback) {
  for (absl::string_view host : {"localhost", "127.0.0.1", "127.9.9.9", "::1"}) {
    EXPECT_TRUE(IsLoopback(host)) << host;
  }
  for (absl::string_view host : {"0.0.0.0", "::", "10.0.0.1", "127.evil.example", "1270.0.0.1"}) {
    EXPECT_FALSE(IsLoopback(host)) << host;
  }
}

TEST(TextTest, Utf8_ValidAndInvalidToldApart) {
  EXPECT_TRUE(IsValidUtf8("plain \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"));
  for (absl::string_view bad : {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\xFF",
                                "\x80", "\xE0\x80\x80", "\xF0\x80\x80\x80"}) {
    EXPECT_FALSE(IsValidUtf8(bad)) << absl::CHexEscape(bad);
    EXPECT_TRUE(IsValidUtf8(CutText(bad, 100)));
  }
}

TEST(TextTest, Cut_StaysValidAndWithinItsBound) {
  EXPECT_EQ(CutText("short", 5), "short");
  EXPECT_EQ(CutText("longer text", 8), "longe...");
  const std::string euros = "\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC";
  for (size_t bytes = 0; bytes <= euros.size() + 1; ++bytes) {
    const std::string cut = CutText(euros, bytes);
    EXPECT_LE(cut.size(), bytes);
    EXPECT_TRUE(IsValidUtf8(cut));
  }
}

TEST(TextTest, EditDistance_CountsAndStopsAtItsLimit) {
  EXPECT_EQ(EditDistance("kitten", "sitting", 9), 3u);
  EXPECT_EQ(EditDistance("", "abc", 9), 3u);
  EXPECT_EQ(EditDistance("same", "same", 9), 0u);
  EXPECT_EQ(EditDistance("abcdef", "uvwxyz", 4), 4u);
}

TEST(MetricCatalogTest, Names_FollowPrometheusRulesAndAreUnique) {
  std::set<absl::string_view> names;
  for (const MetricSpec* metric : MetricCatalog()) {
    EXPECT_TRUE(names.insert(metric->name).second) << metric->name << " twice";
    EXPECT_TRUE(absl::StartsWith(metric->name, "fathom_")) << metric->name;
    for (char c : metric->name) {
      EXPECT_TRUE(absl::ascii_islower(c) || c == '_') << metric->name;
    }
    EXPECT_EQ(absl::EndsWith(metric->name, "_total"), metric->kind == MetricKind::kCounter)
        << metric->name;
    EXPECT_FALSE(metric->help.empty() || metric->unit.empty()) << metric->name;
    if (metric->unit == "seconds" || metric->unit == "bytes" || metric->unit == "ratio") {
      EXPECT_TRUE(absl::EndsWith(metric->name, absl::StrCat("_", metric->unit))) << metric->name;
    }
  }
  EXPECT_GT(names.size(), 30u);
}

TEST(IdsTest, EqualText_EqualIdsAndOrder) {
  EXPECT_EQ(JobId("a-1"), JobId(std::string("a-1")));
  EXPECT_LT(JobId("a-1"), JobId("a-2"));
  static_assert(!std::is_convertible_v<NodeName, JobId>);
}

TEST(ClockTest, WallJump_LeavesSteadyAlone) {
  ManualClock clock;
  const int64_t wall_ms = clock.WallMs();
  const int64_t steady_ms = clock.SteadyMs();
  clock.JumpWall(absl::Hours(-1));
  EXPECT_EQ(clock.SteadyMs(), steady_ms);
  clock.Advance(absl::Seconds(2));
  EXPECT_EQ(clock.SteadyMs(), steady_ms + 2000);
  EXPECT_EQ(clock.WallMs(), wall_ms - 3'600'000 + 2000);
  RealClock real;
  const absl::Duration first = real.Steady();
  EXPECT_LE(first, real.Steady());
}

}  // namespace
}  // namespace fathom
