#include "worker/engine/data_reader.h"

#include <set>
#include <vector>

#include "common/base/status_util.h"
#include "common/data/token_file.h"
#include "gtest/gtest.h"
#include "worker/engine/rank_threads.h"

namespace fathom::engine {
namespace {

v1::JobSpec SpecOfLanes(const std::string& token_file, int lanes) {
  v1::JobSpec spec = ToySpec(token_file);
  spec.mutable_parallelism()->set_replicas(lanes);
  return spec;
}

model::ModelConfig Model(const v1::JobSpec& spec) {
  return model::ResolveModel(spec.model()).value();
}

TEST(DataReader, SameStepTwice_ReadsTheSameTokens) {
  const v1::JobSpec spec = SpecOfLanes(WriteTestTokens(20000), 1);
  const DataReader reader = DataReader::Open(spec, Model(spec)).value();
  LaneBatch first, again, next;
  ASSERT_TRUE(reader.ReadTraining(3, 0, &first).ok());
  ASSERT_TRUE(reader.ReadTraining(3, 0, &again).ok());
  ASSERT_TRUE(reader.ReadTraining(4, 0, &next).ok());
  EXPECT_EQ(first.tokens, again.tokens);
  EXPECT_NE(first.tokens, next.tokens);
}

// How micro-batches are shared out to lanes must not change what a step trains on.
TEST(DataReader, TwoLanes_ShareOutWhatOneLaneOfTwiceTheMicroBatchesReads) {
  const std::string tokens = WriteTestTokens(20000);
  v1::JobSpec two = SpecOfLanes(tokens, 2);
  two.mutable_training()->set_micro_batches(4);
  v1::JobSpec one = SpecOfLanes(tokens, 1);
  one.mutable_training()->set_micro_batches(8);
  const DataReader spread = DataReader::Open(two, Model(two)).value();
  const DataReader whole = DataReader::Open(one, Model(one)).value();
  LaneBatch left, right, all;
  ASSERT_TRUE(spread.ReadTraining(5, 0, &left).ok());
  ASSERT_TRUE(spread.ReadTraining(5, 1, &right).ok());
  ASSERT_TRUE(whole.ReadTraining(5, 0, &all).ok());
  left.tokens.insert(left.tokens.end(), right.tokens.begin(), right.tokens.end());
  EXPECT_EQ(left.tokens, all.tokens);
}

TEST(DataReader, VocabularyLargerThanTheModels_IsRefusedWithBothSizes) {
  v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  spec.mutable_model()->set_vocab_size(256);
  const auto reader = DataReader::Open(spec, Model(spec));
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(reader.status().message().find("257"), absl::string_view::npos) << reader.status();
  EXPECT_NE(reader.status().message().find("256"), absl::string_view::npos) << reader.status();
}

TEST(DataReader, FewerTokensThanOneSequence_IsRefused) {
  v1::JobSpec spec = ToySpec(WriteTestTokens(100));
  spec.mutable_data()->set_sequence_length(4096);
  const auto reader = DataReader::Open(spec, Model(spec));
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kInvalidArgument) << reader.status();
}

TEST(DataReader, MissingFile_IsNotFoundByName) {
  const v1::JobSpec spec = ToySpec("/nowhere/tokens.bin");
  const auto reader = DataReader::Open(spec, Model(spec));
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(reader.status().message().find("/nowhere/tokens.bin"), absl::string_view::npos);
}

}  // namespace
}  // namespace fathom::engine
