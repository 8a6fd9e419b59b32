#include "common/base/output_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

namespace fathom {
namespace {

std::string FreshFolder() {
  const std::string folder =
      testing::TempDir() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name();
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(OutputFileTest, PiecesOfAllSizes_AppearTogetherAtCommit) {
  const std::string folder = FreshFolder();
  auto file = OutputFile::Create(folder + "/out");
  ASSERT_TRUE(file.ok()) << file.status();
  std::string expected;
  for (size_t size = 1; size < 3'000'000; size = size * 5 + 3) {
    const std::string piece(size, static_cast<char>('a' + size % 26));
    ASSERT_TRUE(file->Append(piece.data(), piece.size()).ok());
    expected += piece;
  }
  ASSERT_TRUE(file->WriteAt(2, "HEAD", 4).ok());
  expected.replace(2, 4, "HEAD");
  EXPECT_EQ(file->size(), static_cast<int64_t>(expected.size()));
  EXPECT_FALSE(std::filesystem::exists(folder + "/out"));
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_TRUE(ReadAll(folder + "/out") == expected);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

TEST(OutputFileTest, FileGivenUp_LeavesTheOlderOneAndNothingElse) {
  const std::string folder = FreshFolder();
  std::ofstream(folder + "/out") << "older";
  {
    auto file = OutputFile::Create(folder + "/out");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append("newer", 5).ok());
    // Moved, it is still given up once.
    OutputFile moved = *std::move(file);
    EXPECT_EQ(moved.size(), 5);
  }
  EXPECT_EQ(ReadAll(folder + "/out"), "older");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

TEST(OutputFileTest, FailedWrite_IsSaidByNameAndLeavesNothing) {
  const std::string folder = FreshFolder();
  struct rlimit old_limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  {
    auto file = OutputFile::Create(folder + "/out");
    ASSERT_TRUE(file.ok());
    const struct rlimit limit = {10'000, old_limit.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    const std::string piece(20'000, 'x');
    absl::Status status = file->Append(piece.data(), piece.size());
    if (status.ok()) status = file->Commit();
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
    EXPECT_FALSE(status.ok());
    EXPECT_NE(std::string(status.message()).find(folder + "/out"), std::string::npos) << status;
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(OutputFileTest, MissingFolder_IsNotFound) {
  const auto file = OutputFile::Create(FreshFolder() + "/no/out");
  EXPECT_TRUE(absl::IsNotFound(file.status())) << file.status();
}

}  // namespace
}  // namespace fathom
