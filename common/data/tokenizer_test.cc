// Text on its way to tokens: documents, held-out part, tokenizers, and the entropy of what comes
// out.
#include "common/data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "common/data/document_split.h"
#include "common/data/entropy.h"
#include "common/data/sentencepiece_frames.h"
#include "common/data/sentencepiece_process.h"
#include "common/data/trained_sentencepiece.h"

namespace fathom::data {
namespace {

using ::testing::HasSubstr;

constexpr char kProgram[] = "common/data/fathom-sentencepiece";

TEST(ByteTokenizerTest, EveryByte_IsItsOwnId) {
  const auto tokenizer = MakeTokenizer("bytes", "");
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ((*tokenizer)->vocab_size(), 257);
  EXPECT_EQ((*tokenizer)->separator(), 256);
  std::string text;
  for (int byte = 0; byte < 256; ++byte) text.push_back(static_cast<char>(byte));
  std::vector<int32_t> ids;
  ASSERT_TRUE((*tokenizer)->Encode(text, ids).ok());
  std::vector<int32_t> expected(256);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(ids, expected);
  ids.push_back(256);
  EXPECT_EQ(*(*tokenizer)->Decode(ids), text);
  EXPECT_TRUE(absl::IsInvalidArgument((*tokenizer)->Decode({257}).status()));
}

std::string WriteCorpus() {
  const std::string path = testing::TempDir() + "/corpus.txt";
  std::ofstream corpus(path);
  for (int i = 0; i < 50; ++i) {
    corpus << "The sea is deep and the sounding line is long, " << i << " fathoms by the mark.\n";
  }
  return path;
}

TEST(SentencePieceTokenizerTest, Text_ComesBackFromItsIds) {
  const std::string prefix = testing::TempDir() + "/small";
  ASSERT_EQ(TrainSentencePiece(WriteCorpus(), prefix, 320, true), "");
  const auto tokenizer = MakeTokenizer(prefix + ".model", kProgram);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->kind(), TokenizerKind::kSentencePiece);
  EXPECT_EQ((*tokenizer)->vocab_size(), 320);
  const std::string text = "the deep sea, \u00e9t\u00e9";
  std::vector<int32_t> ids;
  ASSERT_TRUE((*tokenizer)->Encode(text, ids).ok());
  EXPECT_LT(ids.size(), text.size());
  EXPECT_THAT(ids, testing::Each(testing::AllOf(testing::Ge(0), testing::Lt(320))));
  const auto back = (*tokenizer)->Decode(ids);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, text);
  EXPECT_TRUE(absl::IsInvalidArgument((*tokenizer)->Decode({320}).status()));
}

TEST(SentencePieceTokenizerTest, ModelWithoutSeparator_IsRefused) {
  const std::string prefix = testing::TempDir() + "/no_end";
  ASSERT_EQ(TrainSentencePiece(WriteCorpus(), prefix, 320, false), "");
  const auto tokenizer = MakeTokenizer(prefix + ".model", kProgram);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("no end-of-sentence piece"));
}

TEST(SentencePieceTokenizerTest, MissingOrForeignFile_IsNamed) {
  EXPECT_TRUE(absl::IsNotFound(MakeTokenizer("/nowhere/x.model", kProgram).status()));
  const auto no_program = MakeTokenizer(WriteCorpus(), "/nowhere/fathom-sentencepiece");
  EXPECT_TRUE(absl::IsNotFound(no_program.status())) << no_program.status();
  const auto foreign = MakeTokenizer(WriteCorpus(), kProgram);
  EXPECT_TRUE(absl::IsInvalidArgument(foreign.status())) << foreign.status();
  EXPECT_THAT(std::string(foreign.status().message()), HasSubstr("not a SentencePiece model"));
}

TEST(SentencePieceProcessTest, LongDocument_ComesBackWhole) {
  const std::string prefix = testing::TempDir() + "/long";
  ASSERT_EQ(TrainSentencePiece(WriteCorpus(), prefix, 320, true), "");
  const auto process = SentencePieceProcess::Start(kProgram, prefix + ".model");
  ASSERT_TRUE(process.ok()) << process.status();
  std::string text = "the";
  for (int i = 0; i < 200'000; ++i) text += i % 7 == 0 ? " fathoms" : " deep";
  std::vector<int32_t> ids;
  ASSERT_TRUE((*process)->Encode(text, ids).ok());
  const auto back = (*process)->Decode(ids);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(*back == text);
}

TEST(SentencePieceFramesTest, LyingLengthOrClosedSocket_EndsTheConversation) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Frame frame;
  ASSERT_TRUE(WriteFrame(ends[0], {FrameKind::kText, "deep"}));
  ASSERT_TRUE(ReadFrame(ends[1], frame));
  EXPECT_EQ(frame.kind, FrameKind::kText);
  EXPECT_EQ(frame.bytes, "deep");
  ASSERT_EQ(send(ends[0], "T\xFF\xFF\xFF\xFF", 5, 0), 5);
  EXPECT_FALSE(ReadFrame(ends[1], frame));
  close(ends[0]);
  EXPECT_FALSE(ReadFrame(ends[1], frame));
  EXPECT_FALSE(WriteFrame(ends[1], {FrameKind::kText, "deep"}));
  close(ends[1]);
}

std::vector<std::string> Split(const std::string& text, size_t target) {
  std::vector<std::string> documents;
  for (size_t at = 0; at < text.size();) {
    const size_t end = DocumentEnd(absl::string_view(text).substr(at), target);
    documents.push_back(text.substr(at, end));
    at += end;
  }
  return documents;
}

TEST(DocumentEndTest, LongText_IsCutAtBlankLinesThenLinesThenCharacters) {
  EXPECT_EQ(Split("", 8), std::vector<std::string>());
  EXPECT_THAT(Split("short", 8), testing::ElementsAre("short"));
  EXPECT_THAT(Split("12345678\n\nabc", 8), testing::ElementsAre("12345678\n\n", "abc"));
  EXPECT_THAT(Split("123\n\n678\n0\n\nabc", 8), testing::ElementsAre("123\n\n678\n0\n\n", "abc"));
  EXPECT_THAT(Split("12345678901\nabcdefgh", 8), testing::ElementsAre("12345678901\n", "abcdefgh"));
  EXPECT_THAT(Split(std::string(40, 'x'), 8),
              testing::ElementsAre(std::string(16, 'x'), std::string(16, 'x'), "xxxxxxxx"));
  EXPECT_THAT(Split("123456789012345\u00e9 and on", 8),
              testing::ElementsAre("123456789012345", "\u00e9 and on"));
}

TEST(DocumentEndTest, LookaheadAlone_DecidesTheSameAsAllOfTheText) {
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    text += std::string(static_cast<size_t>(i * 7 % 23), 'a') + (i % 5 == 0 ? "\n\n" : "\n");
  }
  for (const size_t target : {1u, 16u, 40u, 1000u}) {
    for (size_t at = 0; at < text.size();) {
      const absl::string_view rest = absl::string_view(text).substr(at);
      const size_t end = DocumentEnd(rest, target);
      ASSERT_GT(end, 0u);
      EXPECT_EQ(DocumentEnd(rest.substr(0, DocumentLookahead(target)), target), end);
      at += end;
    }
  }
}

TEST(IsHeldOutTest, Share_IsTheFraction) {
  for (const double fraction : {0.0, 0.01, 0.1, 0.3, 0.5}) {
    int64_t held_out = 0;
    for (int64_t i = 0; i < 1000; ++i) held_out += IsHeldOut(i, fraction) ? 1 : 0;
    EXPECT_NEAR(static_cast<double>(held_out), 1000 * fraction, 1.0) << fraction;
    EXPECT_FALSE(IsHeldOut(0, fraction));
  }
}

TEST(DocumentTargetTest, SmallAndLargeTexts_StayWithinBounds) {
  EXPECT_EQ(DocumentTarget(0, 0.01), 1024u);
  EXPECT_EQ(DocumentTarget(40'000'000, 0.01), 50'000u);
  EXPECT_EQ(DocumentTarget(INT64_MAX, 0.5), 65536u);
}

TEST(EntropyTest, UniformText_HasTheLogarithmOfItsAlphabet) {
  EntropyCounter counter(300);
  std::vector<int32_t> text;
  for (int i = 0; i < 4096; ++i) text.push_back(i % 16);
  counter.Add(text);
  EXPECT_NEAR(counter.Unigram(), std::log(16.0), 1e-12);
  // Each id tells the next one.
  EXPECT_NEAR(counter.Bigram(), 0.0, 1e-12);
}

TEST(EntropyTest, SmallText_HasTheEntropyCountedByHand) {
  EntropyCounter counter(4);
  // Pairs 01 10 01 12: after 0 always 1; after 1 a 0 or a 2.
  counter.Add({0, 1});
  counter.Add({0, 1, 2});
  EXPECT_NEAR(counter.Bigram(), 0.5 * std::log(2.0), 1e-12);
  const double unigram = -(0.8 * std::log(0.4) + 0.2 * std::log(0.2));
  EXPECT_NEAR(counter.Unigram(), unigram, 1e-12);
}

TEST(EntropyTest, LargeVocabulary_CountsTheSame) {
  EntropyCounter dense(2048);
  EntropyCounter sparse(2049);
  std::vector<int32_t> text;
  for (int64_t i = 0; i < 20000; ++i) text.push_back(static_cast<int32_t>(i * i * 7919 % 2039));
  dense.Add(text);
  sparse.Add(text);
  EXPECT_EQ(dense.Unigram(), sparse.Unigram());
  EXPECT_EQ(dense.Bigram(), sparse.Bigram());
  EXPECT_GT(dense.Unigram(), dense.Bigram());
}

TEST(EntropyTest, LittleText_HasNone) {
  EntropyCounter counter(4);
  EXPECT_EQ(counter.Unigram(), 0);
  EXPECT_EQ(counter.Bigram(), 0);
  counter.Add({1});
  EXPECT_EQ(counter.Unigram(), 0);
  EXPECT_EQ(counter.Bigram(), 0);
}

}  // namespace
}  // namespace fathom::data
