#include "common/data/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

namespace fathom::data {
namespace {

using ::testing::HasSubstr;

std::string FreshFolder() {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / info->name();
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

// Documents of ids 0 .. 9 and 3, 2, 1 to train on, and one of 7, 7 held out.
TokenFileInfo WriteSample(const std::string& path, int64_t vocab_size) {
  auto writer = TokenFileWriter::Create(path, TokenizerKind::kSentencePiece, vocab_size, 10);
  EXPECT_TRUE(writer.ok()) << writer.status();
  std::vector<int32_t> ramp(10);
  std::iota(ramp.begin(), ramp.end(), 0);
  EXPECT_TRUE(writer->AddDocument(Split::kTraining, ramp).ok());
  EXPECT_TRUE(writer->AddDocument(Split::kTraining, {3, 2, 1}).ok());
  EXPECT_TRUE(writer->AddDocument(Split::kValidation, {7, 7}).ok());
  auto info = writer->Finish(1.5, 0.25, "a sample");
  EXPECT_TRUE(info.ok()) << info.status();
  return *info;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteAll(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

void SetNumber(std::string& bytes, size_t offset, uint64_t value, size_t width) {
  std::memcpy(bytes.data() + offset, &value, width);
}

// As a liar would: the header's own hash fits what it says.
void Reseal(std::string& bytes) { SetNumber(bytes, 504, XXH3_64bits(bytes.data(), 504), 8); }

class WidthTest : public testing::TestWithParam<int64_t> {};

TEST_P(WidthTest, FileWritten_ReadsBackTheSame) {
  const std::string folder = FreshFolder();
  const std::string path = folder + "/sample.tokens";
  WriteSample(path, GetParam());
  const auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->info().bytes_per_token, BytesPerToken(GetParam()));
  EXPECT_EQ(file->info().vocab_size, GetParam());
  EXPECT_EQ(file->info().training_documents, 2);
  EXPECT_EQ(file->info().validation_documents, 1);
  EXPECT_EQ(file->info().unigram_entropy, 1.5);
  EXPECT_EQ(file->info().bigram_entropy, 0.25);
  EXPECT_EQ(file->info().source, "a sample");
  ASSERT_EQ(file->tokens(Split::kTraining), 15);
  ASSERT_EQ(file->tokens(Split::kValidation), 3);
  std::vector<int32_t> training(15);
  ASSERT_TRUE(file->CopyTokens(Split::kTraining, 0, absl::MakeSpan(training)).ok());
  EXPECT_THAT(training, testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3, 2, 1, 10));
  std::vector<int32_t> validation(2);
  ASSERT_TRUE(file->CopyTokens(Split::kValidation, 1, absl::MakeSpan(validation)).ok());
  EXPECT_THAT(validation, testing::ElementsAre(7, 10));
  EXPECT_TRUE(file->Verify().ok()) << file->Verify();
  // Nothing but the file itself is left in its folder.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, WidthTest,
                         testing::Values(11, 256, 257, 65536, 65537, kVocabularyMax));

TEST(TokenFileTest, RangePastTheEnd_IsOutOfRange) {
  const std::string path = FreshFolder() + "/sample.tokens";
  WriteSample(path, 257);
  const auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok());
  std::vector<int32_t> four(4);
  EXPECT_TRUE(absl::IsOutOfRange(file->CopyTokens(Split::kValidation, 0, absl::MakeSpan(four))));
  EXPECT_TRUE(absl::IsOutOfRange(file->CopyTokens(Split::kTraining, 12, absl::MakeSpan(four))));
  EXPECT_TRUE(absl::IsOutOfRange(file->CopyTokens(Split::kTraining, -1, absl::MakeSpan(four))));
  EXPECT_TRUE(
      absl::IsOutOfRange(file->CopyTokens(Split::kTraining, INT64_MAX, absl::MakeSpan(four))));
}

void ExpectRefused(const std::string& path, const std::string& bytes,
                   const std::string& complaint) {
  WriteAll(path, bytes);
  const auto file = TokenFile::Open(path);
  ASSERT_FALSE(file.ok()) << complaint;
  EXPECT_TRUE(absl::IsDataLoss(file.status())) << file.status();
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(complaint));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(path));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("fathomctl data prepare"));
}

TEST(TokenFileTest, FileOfTheWrongSize_IsRefusedWithItsSize) {
  const std::string path = FreshFolder() + "/sample.tokens";
  WriteSample(path, 257);
  const std::string good = ReadAll(path);
  ExpectRefused(path, "", "0 bytes, shorter than its header");
  ExpectRefused(path, good.substr(0, 300), "300 bytes, shorter than its header");
  ExpectRefused(path, good.substr(0, 512), "but 0 bytes follow it");
  ExpectRefused(path, good.substr(0, good.size() - 1), "but 35 bytes follow it");
  ExpectRefused(path, good + "ab", "but 38 bytes follow it");
}

TEST(TokenFileTest, FileOfAnotherKindOrTouchedHeader_IsRefused) {
  const std::string path = FreshFolder() + "/sample.tokens";
  WriteSample(path, 257);
  std::string bytes = ReadAll(path);
  bytes[40] ^= 1;
  ExpectRefused(path, bytes, "header's hash doesn't match");
  ExpectRefused(path, bytes.replace(0, 8, "Once upo"), "not a token file");
}

// One number of the header that is not so, under a hash that fits.
struct Lie {
  size_t offset;
  size_t width;
  uint64_t value;
  const char* complaint;
};
constexpr Lie kLies[] = {
    {8, 4, 2, "version 2"},
    {12, 4, 0x04030201, "the other byte order"},
    {16, 4, 1 << 30, "a header of 1073741824 bytes"},
    {20, 4, 1, "1 bytes per token"},
    {20, 4, 0, "0 bytes per token"},
    {24, 4, 9, "tokenizer kind 9"},
    {28, 4, 257, "separator 257"},
    {32, 8, 0, "a vocabulary of 0"},
    {32, 8, ~uint64_t{0}, "a vocabulary of 18446744073709551615"},
    {40, 8, 0, "no training tokens"},
    {40, 8, 16, "tokens of 2 bytes"},
    {40, 8, (uint64_t{1} << 63) + 15, "tokens of 2 bytes"},  // times 2 wraps around to the truth
    {48, 8, ~uint64_t{0} - 14, "tokens of 2 bytes"},         // so does the sum
    {56, 8, 1000, "more documents than tokens"},
    {64, 8, 1000, "more documents than tokens"},
    {72, 8, 0x7FF8000000000000u, "not a number"},
};

TEST(TokenFileTest, LyingHeader_IsRefusedWithWhatIsWrong) {
  const std::string path = FreshFolder() + "/sample.tokens";
  WriteSample(path, 257);
  const std::string good = ReadAll(path);
  for (const Lie& lie : kLies) {
    std::string bytes = good;
    SetNumber(bytes, lie.offset, lie.value, lie.width);
    Reseal(bytes);
    ExpectRefused(path, bytes, lie.complaint);
  }
}

TEST(TokenFileTest, EveryFlippedPayloadByte_FailsVerify) {
  const std::string path = FreshFolder() + "/sample.tokens";
  WriteSample(path, 257);
  const std::string good = ReadAll(path);
  for (size_t at = 512; at < good.size(); ++at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x04);
    WriteAll(path, bytes);
    const auto file = TokenFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_TRUE(absl::IsDataLoss(file->Verify())) << at;
  }
}

TEST(TokenFileTest, IdOutsideTheVocabulary_IsNeverHandedOut) {
  const std::string path = FreshFolder() + "/sample.tokens";
  WriteSample(path, 257);
  std::string bytes = ReadAll(path);
  SetNumber(bytes, 512 + 2 * 4, 300, 2);
  SetNumber(bytes, 88, XXH3_64bits(bytes.data() + 512, bytes.size() - 512), 8);
  Reseal(bytes);
  WriteAll(path, bytes);
  const auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(std::string(file->Verify().message()), HasSubstr("id 300 at token 4"));
  std::vector<int32_t> five(5);
  EXPECT_TRUE(absl::IsDataLoss(file->CopyTokens(Split::kTraining, 0, absl::MakeSpan(five))));
}

TEST(TokenFileTest, LongRange_IsReadInPortions) {
  const std::string path = FreshFolder() + "/long.tokens";
  auto writer = TokenFileWriter::Create(path, TokenizerKind::kSentencePiece, 100'000, 0);
  ASSERT_TRUE(writer.ok()) << writer.status();
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 50'000; ++i) ids.push_back((i * 7919) % 100'000);
  ASSERT_TRUE(writer->AddDocument(Split::kTraining, ids).ok());
  ASSERT_TRUE(writer->Finish(0, 0, "").ok());
  const auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<int32_t> back(40'001);
  ASSERT_TRUE(file->CopyTokens(Split::kTraining, 7, absl::MakeSpan(back)).ok());
  EXPECT_TRUE(std::equal(back.begin(), back.end(), ids.begin() + 7));
  EXPECT_TRUE(file->Verify().ok());
}

TEST(TokenFileTest, FileCutShortWhileOpen_IsAnError) {
  const std::string path = FreshFolder() + "/sample.tokens";
  WriteSample(path, 257);
  const auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  std::filesystem::resize_file(path, 520);
  std::vector<int32_t> five(5);
  const absl::Status status = file->CopyTokens(Split::kTraining, 0, absl::MakeSpan(five));
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("cut short since it was opened"));
  EXPECT_TRUE(absl::IsDataLoss(file->Verify()));
}

TEST(TokenFileTest, MissingFileAndFolder_AreNamed) {
  const std::string folder = FreshFolder();
  const auto missing = TokenFile::Open(folder + "/nothing.tokens");
  EXPECT_TRUE(absl::IsNotFound(missing.status())) << missing.status();
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("nothing.tokens"));
  EXPECT_FALSE(TokenFile::Open(folder).ok());
}

TEST(TokenFileWriterTest, AbandonedFile_LeavesNothing) {
  const std::string folder = FreshFolder();
  {
    auto writer = TokenFileWriter::Create(folder + "/x", TokenizerKind::kBytes, 257, 256);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(writer->AddDocument(Split::kTraining, {1, 2}).ok());
    EXPECT_TRUE(absl::IsInvalidArgument(writer->AddDocument(Split::kTraining, {1, 257})));
    EXPECT_TRUE(absl::IsInvalidArgument(writer->AddDocument(Split::kTraining, {-1})));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(TokenFileWriterTest, NoTokens_IsRefusedAndLeavesNothing) {
  const std::string folder = FreshFolder();
  {
    auto writer = TokenFileWriter::Create(folder + "/x", TokenizerKind::kBytes, 257, 256);
    ASSERT_TRUE(writer.ok());
    EXPECT_TRUE(absl::IsInvalidArgument(writer->Finish(0, 0, "").status()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(TokenFileWriterTest, MissingFolder_IsNotFound) {
  const auto writer =
      TokenFileWriter::Create(FreshFolder() + "/no/x", TokenizerKind::kBytes, 257, 256);
  EXPECT_TRUE(absl::IsNotFound(writer.status())) << writer.status();
}

}  // namespace
}  // namespace fathom::data
