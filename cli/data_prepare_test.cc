#include "cli/data_prepare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/data/tokenizer.h"

namespace fathom::cli {
namespace {

using data::Split;
using ::testing::HasSubstr;

class DataPrepareTest : public testing::Test {
 protected:
  DataPrepareTest() {
    folder_ =
        testing::TempDir() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    request_.output = folder_ + "/out.tokens";
    request_.tokenizer = "bytes";
    request_.validation_fraction = 0.1;
  }

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  static std::string LongText() {
    std::string text;
    for (int i = 0; i < 3000; ++i) text += "fathom " + std::to_string(i) + (i % 9 ? "\n" : "\n\n");
    return text;
  }

  std::string Refused() {
    const auto info = PrepareTokenFile(request_);
    EXPECT_FALSE(info.ok());
    EXPECT_FALSE(std::filesystem::exists(request_.output));
    return std::string(info.status().message());
  }

  static std::string Text(const data::TokenFile& file, Split split) {
    std::vector<int32_t> ids(static_cast<size_t>(file.tokens(split)));
    EXPECT_TRUE(file.CopyTokens(split, 0, absl::MakeSpan(ids)).ok());
    return *(*data::MakeTokenizer("bytes", ""))->Decode(ids);
  }

  std::string folder_;
  PrepareRequest request_;
};

TEST_F(DataPrepareTest, SeveralFiles_AreHeldOutEvenlyAndNothingIsLost) {
  request_.inputs = {Write("a.txt", LongText()), Write("b.txt", "The end.\n")};
  const auto info = PrepareTokenFile(request_);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->source, "a.txt, b.txt");
  const auto file = data::TokenFile::Open(request_.output);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->Verify().ok());
  const std::string training = Text(*file, Split::kTraining);
  const std::string validation = Text(*file, Split::kValidation);
  EXPECT_EQ(training.size() + validation.size(), LongText().size() + 9);
  EXPECT_GT(validation.size(), LongText().size() / 20);
  EXPECT_LT(validation.size(), LongText().size() / 5);
  EXPECT_THAT(training, testing::EndsWith("The end.\n"));
  EXPECT_GT(info->unigram_entropy, info->bigram_entropy);
  EXPECT_GT(info->bigram_entropy, 0);
}

TEST_F(DataPrepareTest, SameInputs_MakeTheSameFile) {
  request_.inputs = {Write("a.txt", LongText())};
  ASSERT_TRUE(PrepareTokenFile(request_).ok());
  const auto first = data::TokenFile::Open(request_.output)->info();
  ASSERT_TRUE(PrepareTokenFile(request_).ok());
  const auto second = data::TokenFile::Open(request_.output)->info();
  EXPECT_EQ(first.payload_hash, second.payload_hash);
  EXPECT_EQ(first.bigram_entropy, second.bigram_entropy);
}

TEST_F(DataPrepareTest, InputLargerThanOneRead_IsWhole) {
  std::string text;
  while (text.size() < 5'000'000) text += LongText();
  request_.inputs = {Write("big.txt", text)};
  const auto info = PrepareTokenFile(request_);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->training_tokens + info->validation_tokens - info->training_documents -
                info->validation_documents,
            static_cast<int64_t>(text.size()));
}

TEST_F(DataPrepareTest, MissingInput_IsNamedBeforeAnyWork) {
  request_.inputs = {Write("a.txt", LongText()), folder_ + "/b.txt"};
  EXPECT_THAT(Refused(), HasSubstr("b.txt: No such file"));
}

TEST_F(DataPrepareTest, Folder_IsRefused) {
  request_.inputs = {folder_};
  EXPECT_THAT(Refused(), HasSubstr("is a folder; name the text files in it"));
}

TEST_F(DataPrepareTest, EmptyText_IsRefused) {
  request_.inputs = {Write("a.txt", ""), Write("b.txt", "")};
  EXPECT_THAT(Refused(), HasSubstr("there is no text in"));
}

TEST_F(DataPrepareTest, BinaryInput_IsRefusedUnlessAllowed) {
  std::string bytes = LongText();
  bytes[2'000] = '\0';
  request_.inputs = {Write("a.bin", bytes)};
  EXPECT_THAT(Refused(), HasSubstr("is not text: a zero byte at offset 2000"));
  request_.allow_binary = true;
  EXPECT_TRUE(PrepareTokenFile(request_).ok());
}

TEST_F(DataPrepareTest, TooLittleToHoldOut_IsRefused) {
  request_.inputs = {Write("a.txt", "short\n")};
  EXPECT_THAT(Refused(), HasSubstr("too little text to hold 0.1 of it out"));
  request_.validation_fraction = 0;
  const auto info = PrepareTokenFile(request_);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->validation_tokens, 0);
}

TEST_F(DataPrepareTest, MissingOutputFolderOrModel_IsNamed) {
  request_.inputs = {Write("a.txt", LongText())};
  request_.output = folder_ + "/no/out.tokens";
  EXPECT_THAT(Refused(), HasSubstr("no/out.tokens"));
  request_.output = folder_ + "/out.tokens";
  request_.tokenizer = folder_ + "/x.model";
  EXPECT_THAT(Refused(), HasSubstr("x.model"));
}

// A limit on the size of files stands for a full disk: the same write fails, whoever runs the test.
TEST_F(DataPrepareTest, WriteThatFails_LeavesTheOlderFile) {
  request_.inputs = {Write("a.txt", LongText())};
  ASSERT_TRUE(PrepareTokenFile(request_).ok());
  const auto before = data::TokenFile::Open(request_.output)->info();
  request_.inputs.push_back(Write("b.txt", LongText() + LongText()));
  struct rlimit old_limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit limit = {100'000, old_limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto info = PrepareTokenFile(request_);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  ASSERT_FALSE(info.ok());
  EXPECT_THAT(std::string(info.status().message()), HasSubstr("out.tokens: File too large"));
  EXPECT_EQ(data::TokenFile::Open(request_.output)->info().payload_hash, before.payload_hash);
  // Inputs and output, and nothing half done.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 3);
}

}  // namespace
}  // namespace fathom::cli
