#include "common/data/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
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
  EXPECT_EQ(file->token(Split::kValidation, 0), 7);
  EXPECT_EQ(file->token(Split::kValidation, 2), 10);
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

struct Lie {
  std::string name;
  std::function<void(std::string&)> tell;
  std::string complaint;
};

TEST(TokenFileTest, LyingFile_IsRefusedWithWhatIsWrong) {
  const std::string path = FreshFolder() + "/sample.tokens";
  WriteSample(path, 257);
  const std::string good = ReadAll(path);
  const std::vector<Lie> lies = {
      {"empty", [](std::string& b) { b.clear(); }, "0 bytes, shorter than its header"},
      {"half a header", [](std::string& b) { b.resize(300); },
       "300 bytes, shorter than its header"},
      {"no payload", [](std::string& b) { b.resize(512); }, "but 0 bytes follow it"},
      {"one byte short", [](std::string& b) { b.pop_back(); }, "but 35 bytes follow it"},
      {"one token more", [](std::string& b) { b += "ab"; }, "but 38 bytes follow it"},
      {"text", [](std::string& b) { b.replace(0, 8, "Once upo"); }, "not a token file"},
      {"flipped header bit", [](std::string& b) { b[40] ^= 1; }, "header's hash doesn't match"},
      {"version",
       [](std::string& b) {
         SetNumber(b, 8, 2, 4);
         Reseal(b);
       },
       "version 2"},
      {"byte order",
       [](std::string& b) {
         SetNumber(b, 12, 0x04030201, 4);
         Reseal(b);
       },
       "the other byte order"},
      {"header size",
       [](std::string& b) {
         SetNumber(b, 16, 1 << 30, 4);
         Reseal(b);
       },
       "a header of 1073741824 bytes"},
      {"width",
       [](std::string& b) {
         SetNumber(b, 20, 1, 4);
         Reseal(b);
       },
       "1 bytes per token"},
      {"width 0",
       [](std::string& b) {
         SetNumber(b, 20, 0, 4);
         Reseal(b);
       },
       "0 bytes per token"},
      {"tokenizer",
       [](std::string& b) {
         SetNumber(b, 24, 9, 4);
         Reseal(b);
       },
       "tokenizer kind 9"},
      {"separator",
       [](std::string& b) {
         SetNumber(b, 28, 257, 4);
         Reseal(b);
       },
       "separator 257"},
      {"vocabulary 0",
       [](std::string& b) {
         SetNumber(b, 32, 0, 8);
         Reseal(b);
       },
       "a vocabulary of 0"},
      {"vocabulary",
       [](std::string& b) {
         SetNumber(b, 32, ~0ull, 8);
         Reseal(b);
       },
       "a vocabulary of 18446744073709551615"},
      {"no tokens",
       [](std::string& b) {
         SetNumber(b, 40, 0, 8);
         Reseal(b);
       },
       "no training tokens"},
      {"counts that wrap",
       [](std::string& b) {
         SetNumber(b, 40, ~0ull - 2, 8);
         SetNumber(b, 48, 21, 8);
         Reseal(b);
       },
       "tokens of 2 bytes"},
      {"a product that wraps",
       [](std::string& b) {
         SetNumber(b, 40, (1ull << 63) + 15, 8);
         Reseal(b);
       },
       "tokens of 2 bytes"},
      {"documents",
       [](std::string& b) {
         SetNumber(b, 56, 1000, 8);
         Reseal(b);
       },
       "more documents than tokens"},
      {"entropy",
       [](std::string& b) {
         SetNumber(b, 72, 0x7FF8000000000000u, 8);
         Reseal(b);
       },
       "not a number"},
  };
  for (const Lie& lie : lies) {
    std::string bytes = good;
    lie.tell(bytes);
    WriteAll(path, bytes);
    const auto file = TokenFile::Open(path);
    ASSERT_FALSE(file.ok()) << lie.name;
    EXPECT_TRUE(absl::IsDataLoss(file.status())) << lie.name << ": " << file.status();
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(lie.complaint)) << lie.name;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(path)) << lie.name;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("fathomctl data prepare"));
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
