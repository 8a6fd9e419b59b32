#include "coordinator/store/sqlite_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "coordinator/store/failing_log.h"
#include "coordinator/store/memory_log.h"

namespace fathom {
namespace {

using ::testing::HasSubstr;

std::vector<v1::Record> Records(uint64_t first, uint64_t count, size_t bytes = 10) {
  std::vector<v1::Record> records;
  for (uint64_t i = 0; i < count; ++i) {
    v1::Record record;
    record.set_sequence(first + i);
    record.set_message(absl::StrCat("record ", first + i, std::string(bytes, '.')));
    records.push_back(record);
  }
  return records;
}

uint64_t CountOf(StateLog& log) {
  uint64_t count = 0;
  const absl::Status status = log.Replay([&](const v1::Record& record) {
    EXPECT_EQ(record.sequence(), ++count);
    EXPECT_THAT(record.message(), HasSubstr(absl::StrCat("record ", count, ".")));
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return count;
}

class SqliteLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = absl::StrCat(::testing::TempDir(), "/sqlite_log_XXXXXX");
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = absl::StrCat(pattern, "/state");
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::unique_ptr<SqliteLog> Open(int64_t max_pages = 0) {
    auto log = SqliteLog::Open(folder_, {max_pages});
    EXPECT_TRUE(log.ok()) << log.status();
    return log.ok() ? *std::move(log) : nullptr;
  }
  // Through another connection, as an accident would.
  void Sql(const std::string& statement) {
    sqlite3* handle = nullptr;
    ASSERT_EQ(sqlite3_open((folder_ + "/coordinator.db").c_str(), &handle), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(handle, statement.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(handle);
    sqlite3_close(handle);
  }
  std::string folder_;
  std::string root_;
};

TEST_F(SqliteLogTest, Reopened_EveryRecordIsThereInOrder) {
  auto log = Open();
  ASSERT_TRUE(log->Append(Records(1, 3)).ok());
  ASSERT_TRUE(log->Append({}).ok());
  ASSERT_TRUE(log->Append(Records(4, 100, 5000)).ok());
  EXPECT_EQ(CountOf(*log), 103u);
  log.reset();
  log = Open();
  EXPECT_EQ(CountOf(*log), 103u);
  EXPECT_TRUE(log->Append(Records(104, 1)).ok());
}

TEST_F(SqliteLogTest, SequenceGap_InvalidArgumentAndNothingWritten) {
  auto log = Open();
  EXPECT_EQ(log->Append(Records(2, 1)).code(), absl::StatusCode::kInvalidArgument);
  std::vector<v1::Record> gap = Records(1, 3);
  gap[2].set_sequence(7);
  EXPECT_EQ(log->Append(gap).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CountOf(*log), 0u);
}

TEST_F(SqliteLogTest, SecondProcess_RefusedNamingTheFirst) {
  auto log = Open();
  const auto second = SqliteLog::Open(folder_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(absl::StrCat("process ", getpid())));
  log.reset();
  EXPECT_TRUE(SqliteLog::Open(folder_).ok());
}

TEST_F(SqliteLogTest, ProcessKilledAfterAppend_NothingIsLost) {
  const pid_t child = fork();
  if (child == 0) {
    auto log = SqliteLog::Open(folder_);
    const bool good = log.ok() && (*log)->Append(Records(1, 7)).ok();
    if (!good) _exit(1);
    kill(getpid(), SIGKILL);
  }
  int how = 0;
  ASSERT_EQ(waitpid(child, &how, 0), child);
  ASSERT_TRUE(WIFSIGNALED(how));
  EXPECT_EQ(CountOf(*Open()), 7u);
}

TEST_F(SqliteLogTest, DiskFull_ResourceExhaustedAndOldRecordsStay) {
  auto log = Open(/*max_pages=*/20);
  ASSERT_TRUE(log->Append(Records(1, 2)).ok());
  const absl::Status full = log->Append(Records(3, 1000, 1000));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_EQ(CountOf(*log), 2u);
  EXPECT_TRUE(log->Append(Records(3, 1)).ok()) << "a smaller one fits still";
  EXPECT_EQ(CountOf(*log), 3u);
}

TEST_F(SqliteLogTest, RecordAltered_DataLossAndFileUntouched) {
  Open()->Append(Records(1, 5)).IgnoreError();
  Sql("UPDATE records SET record = x'00' WHERE sequence = 3");
  auto log = Open();
  int taken = 0;
  const absl::Status status = log->Replay([&](const v1::Record&) {
    ++taken;
    return absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("record 3"));
  EXPECT_EQ(taken, 2);
}

TEST_F(SqliteLogTest, RecordRemoved_DataLoss) {
  Open()->Append(Records(1, 5)).IgnoreError();
  Sql("DELETE FROM records WHERE sequence = 2");
  auto log = Open();
  EXPECT_EQ(log->Replay([](const v1::Record&) { return absl::OkStatus(); }).code(),
            absl::StatusCode::kDataLoss);
}

TEST_F(SqliteLogTest, FileOverwritten_DataLossAndLeftAsItIs) {
  Open()->Append(Records(1, 50, 3000)).IgnoreError();
  const std::string path = folder_ + "/coordinator.db";
  const auto size = std::filesystem::file_size(path);
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(4096);
    file << std::string(20'000, 'x');
  }
  const auto damaged = SqliteLog::Open(folder_);
  EXPECT_EQ(damaged.status().code(), absl::StatusCode::kDataLoss) << damaged.status();
  EXPECT_THAT(std::string(damaged.status().message()), HasSubstr("nothing in it was changed"));
  EXPECT_EQ(std::filesystem::file_size(path), size);
  std::ofstream(path, std::ios::trunc)
      << "not a database at all, but long enough to be read as one";
  EXPECT_EQ(SqliteLog::Open(folder_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(SqliteLogTest, OtherVersionOrProgram_FailedPrecondition) {
  Open().reset();
  Sql("PRAGMA user_version=99");
  EXPECT_THAT(std::string(SqliteLog::Open(folder_).status().message()), HasSubstr("version 99"));
  Sql("PRAGMA application_id=5");
  EXPECT_THAT(std::string(SqliteLog::Open(folder_).status().message()),
              HasSubstr("another program"));
}

TEST_F(SqliteLogTest, FolderCannotBeMade_SaysWhichAndWhy) {
  std::ofstream(root_ + "/file") << "in the way";
  const auto log = SqliteLog::Open(root_ + "/file/state");
  EXPECT_FALSE(log.ok());
  EXPECT_THAT(std::string(log.status().message()), HasSubstr(root_ + "/file"));
}

TEST(FailingLogTest, WhileFailing_NothingPasses) {
  MemoryLog memory;
  FailingLog log(&memory);
  log.FailWith(absl::ResourceExhaustedError("disk full"));
  EXPECT_EQ(log.Append(Records(1, 1)).code(), absl::StatusCode::kResourceExhausted);
  log.FailWith(absl::OkStatus());
  EXPECT_TRUE(log.Append(Records(1, 2)).ok());
  EXPECT_EQ(CountOf(memory), 2u);
  EXPECT_FALSE(memory.Append(Records(2, 1)).ok());
}

}  // namespace
}  // namespace fathom
