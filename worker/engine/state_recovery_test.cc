// After any death, at any operation, the job ends with the bits of the undisturbed run and redoes
// at most one step; and what memory and disk each give back.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "worker/engine/epoch_threads.h"
#include "worker/engine/rank_threads.h"

namespace fathom::engine {
namespace {

constexpr int64_t kSteps = 4;

struct Shape {
  int pipeline = 2;
  int expert = 1;
  int replicas = 1;
  int ranks_per_node = 1;
  bool shared_memory = false;

  int ranks() const { return pipeline * expert * replicas; }
};

std::string ToString(const Shape& shape) {
  return absl::StrCat("P", shape.pipeline, "E", shape.expert, "R", shape.replicas,
                      shape.shared_memory ? "Shm" : "Tcp");
}

v1::JobSpec SpecOf(const Shape& shape, int lanes_of_micro_batches = 0) {
  v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  spec.mutable_parallelism()->set_pipeline(shape.pipeline);
  spec.mutable_parallelism()->set_expert(shape.expert);
  spec.mutable_parallelism()->set_replicas(shape.replicas);
  spec.mutable_training()->set_steps(kSteps);
  const int64_t micro_batches = 2 * shape.pipeline;
  spec.mutable_training()->set_micro_batches(
      lanes_of_micro_batches == 0 ? micro_batches
                                  : micro_batches * lanes_of_micro_batches / shape.replicas);
  spec.mutable_training()->set_validation_batches(spec.training().micro_batches());
  return spec;
}

EpochSetting SettingOf(const Shape& shape, const v1::JobSpec& spec, uint64_t epoch,
                       int64_t stop_after = kSteps) {
  JobSetting job;
  job.ranks_per_node = shape.ranks_per_node;
  job.epoch = epoch;
  EpochSetting setting;
  setting.plan = PlanFor(spec, job);
  setting.stop_after = stop_after;
  setting.shared_memory = shape.shared_memory;
  return setting;
}

void ExpectAllWell(const std::vector<RankOutcome>& outcomes) {
  for (size_t rank = 0; rank < outcomes.size(); ++rank) {
    EXPECT_TRUE(outcomes[rank].status.ok()) << "rank " << rank << ": " << outcomes[rank].status;
  }
}

int64_t Committed(const std::vector<RankOutcome>& outcomes) {
  int64_t newest = 0;
  for (const RankOutcome& outcome : outcomes) newest = std::max(newest, outcome.steps_done);
  return newest;
}

// Weights, masters, moments and biases of every rank.
void ExpectSameEnd(const std::vector<RankOutcome>& got, const std::vector<RankOutcome>& want,
                   const std::string& what) {
  ExpectAllWell(got);
  ASSERT_EQ(got.size(), want.size());
  for (size_t rank = 0; rank < got.size(); ++rank) {
    EXPECT_EQ(got[rank].steps_done, want[rank].steps_done) << what << ", rank " << rank;
    EXPECT_EQ(got[rank].state_hash, want[rank].state_hash) << what << ", rank " << rank;
    if (got[rank].steps.empty()) continue;
    EXPECT_EQ(got[rank].steps.back().weights_hash(), want[rank].steps.back().weights_hash())
        << what << ", rank " << rank;
    EXPECT_NE(got[rank].steps.back().weights_hash(), 0u);
  }
}

class KilledRank : public testing::TestWithParam<Shape> {};

// Dies once or twice at seeded operations, which over many rounds lie in every part of a step and
// of the restore; what it held is lost.
TEST_P(KilledRank, AtAnyOperation_SameBitsAndAtMostOneStepRedone) {
  const Shape shape = GetParam();
  const v1::JobSpec spec = SpecOf(shape);
  const std::vector<RankOutcome> undisturbed =
      RunEpoch(SettingOf(shape, spec, 1), FreshMemories(shape.ranks()));
  ExpectAllWell(undisturbed);
  std::mt19937_64 next(2024);
  int from_memory = 0;
  constexpr int kRounds = 16;
  for (int round = 0; round < kRounds; ++round) {
    Memories memories = FreshMemories(shape.ranks());
    const std::string what = absl::StrCat(ToString(shape), ", seed 2024, round ", round);
    uint64_t epoch = 1;
    const int deaths = round % 4 == 3 ? 2 : 1;
    std::vector<RankOutcome> outcomes;
    int64_t done = 0;
    for (int death = 0; death < deaths; ++death, ++epoch) {
      EpochSetting setting = SettingOf(shape, spec, epoch);
      setting.victim = static_cast<int>(next() % static_cast<uint64_t>(shape.ranks()));
      setting.dies_at = static_cast<int64_t>(
          next() % static_cast<uint64_t>(undisturbed[setting.victim].operations));
      outcomes = RunEpoch(setting, memories);
      EXPECT_FALSE(outcomes[setting.victim].status.ok() && Committed(outcomes) < kSteps) << what;
      memories[setting.victim] = std::make_unique<StateMemory>();
      done = Committed(outcomes);
    }
    outcomes = RunEpoch(SettingOf(shape, spec, epoch), memories);
    ExpectSameEnd(outcomes, undisturbed, what);
    if (outcomes[0].restored.source() == "memory") ++from_memory;
    // A second death before the first step of an epoch is done may take both copies of a shard.
    if (deaths == 1) {
      EXPECT_LE(done - outcomes[0].restored.step(), 1) << what;
    }
    for (const RankOutcome& outcome : outcomes) {
      EXPECT_EQ(outcome.restored.step(), outcomes[0].restored.step()) << what;
    }
    if (HasFailure()) return;
  }
  EXPECT_GT(from_memory, kRounds / 2);
}

INSTANTIATE_TEST_SUITE_P(Shapes, KilledRank,
                         testing::Values(Shape{2, 1, 1, 1, false}, Shape{2, 1, 1, 1, true},
                                         Shape{4, 1, 1, 1, true}, Shape{2, 2, 1, 2, false},
                                         Shape{2, 1, 2, 1, true}, Shape{2, 2, 2, 4, true}),
                         [](const auto& shape) { return ToString(shape.param); });

// At even distances over the operations of a step, from its first to the last of the gather.
TEST(KilledRankTest, AllOverAStep_SameBits) {
  const Shape shape = {2, 1, 1, 1, true};
  v1::JobSpec spec = SpecOf(shape);
  constexpr int64_t kLast = 3;
  std::vector<int64_t> at_step;  // operations of rank 1 when step i was done
  EpochSetting counting = SettingOf(shape, spec, 1, kLast);
  const std::vector<RankOutcome> undisturbed = RunEpoch(counting, FreshMemories(2));
  const std::vector<RankOutcome> shorter =
      RunEpoch(SettingOf(shape, spec, 1, kLast - 1), FreshMemories(2));
  ExpectAllWell(undisturbed);
  ExpectAllWell(shorter);
  const int64_t begin = shorter[1].operations;
  const int64_t end = undisturbed[1].operations;
  ASSERT_LT(begin, end);
  const int64_t stride = std::max<int64_t>(1, (end - begin) / 30);
  for (int64_t at = begin; at < end; at += stride) {
    Memories memories = FreshMemories(2);
    EpochSetting setting = SettingOf(shape, spec, 1, kLast);
    setting.victim = 1;
    setting.dies_at = at;
    const int64_t done = Committed(RunEpoch(setting, memories));
    EXPECT_GE(done, kLast - 1) << at;
    memories[1] = std::make_unique<StateMemory>();
    const std::vector<RankOutcome> again = RunEpoch(SettingOf(shape, spec, 2, kLast), memories);
    ExpectSameEnd(again, undisturbed, absl::StrCat("dies at operation ", at));
    EXPECT_EQ(again[0].restored.source(), "memory") << at;
    EXPECT_LE(done - again[0].restored.step(), 1) << at;
    if (testing::Test::HasFailure()) return;
  }
}

TEST(StateRecovery, SnapshotsOfEverySecondStep_RedoAtMostTwoSteps) {
  const Shape shape = {2, 1, 1, 1, true};
  v1::JobSpec spec = SpecOf(shape);
  spec.mutable_recovery()->set_snapshot_every_steps(2);
  spec.mutable_training()->set_steps(7);
  const std::vector<RankOutcome> undisturbed =
      RunEpoch(SettingOf(shape, spec, 1, 7), FreshMemories(2));
  ExpectAllWell(undisturbed);
  for (int round = 0; round < 12; ++round) {
    Memories memories = FreshMemories(2);
    EpochSetting setting = SettingOf(shape, spec, 1, 7);
    setting.victim = round % 2;
    setting.dies_at = undisturbed[setting.victim].operations * (2 * round + 1) / 24;
    const int64_t done = Committed(RunEpoch(setting, memories));
    memories[setting.victim] = std::make_unique<StateMemory>();
    const std::vector<RankOutcome> again = RunEpoch(SettingOf(shape, spec, 2, 7), memories);
    ExpectSameEnd(again, undisturbed, absl::StrCat("round ", round));
    EXPECT_LE(done - again[0].restored.step(), 2) << round;
    if (done >= 4) {
      EXPECT_EQ(again[0].restored.source(), "memory") << round;
    }
  }
}

// What a drain does: every state at its buddy, then a rank leaves and another takes its place.
TEST(StateRecovery, SnapshotNowBeforeARankLeaves_RedoesNothing) {
  const Shape shape = {2, 2, 1, 2, false};
  const v1::JobSpec spec = SpecOf(shape);
  const std::vector<RankOutcome> undisturbed =
      RunEpoch(SettingOf(shape, spec, 1), FreshMemories(4));
  for (int leaver = 0; leaver < 4; ++leaver) {
    Memories memories = FreshMemories(4);
    EpochSetting setting = SettingOf(shape, spec, 1, 2);
    setting.between = [](RankParts&, TrainLoop& loop) {
      return loop.steps_done() == 2 ? loop.SnapshotNow() : absl::OkStatus();
    };
    ExpectAllWell(RunEpoch(setting, memories));
    memories[leaver] = std::make_unique<StateMemory>();
    const std::vector<RankOutcome> after = RunEpoch(SettingOf(shape, spec, 2), memories);
    ExpectSameEnd(after, undisturbed, absl::StrCat("rank ", leaver, " left"));
    EXPECT_EQ(after[0].restored.step(), 2);
    EXPECT_GT(after[leaver].restored.bytes_received(), 0);
    EXPECT_EQ(after[leaver].restored.pieces_from_buddies(), 1);
    EXPECT_EQ(after[(leaver + 1) % 4].restored.bytes_received(), 0);
  }
}

// Both nodes' ranks change places: what a process holds goes to the rank that needs it.
TEST(StateRecovery, ProcessesThatChangePlaces_SendEachOtherTheirShards) {
  const Shape shape = {2, 1, 1, 1, true};
  const v1::JobSpec spec = SpecOf(shape);
  const std::vector<RankOutcome> undisturbed =
      RunEpoch(SettingOf(shape, spec, 1), FreshMemories(2));
  Memories memories = FreshMemories(2);
  ExpectAllWell(RunEpoch(SettingOf(shape, spec, 1, 2), memories));
  std::swap(memories[0], memories[1]);
  const std::vector<RankOutcome> after = RunEpoch(SettingOf(shape, spec, 2), memories);
  ExpectSameEnd(after, undisturbed, "swapped");
  EXPECT_EQ(after[0].restored.step(), 2);
}

// Collects every rank's state when it has done `step` steps.
std::function<absl::Status(RankParts&, TrainLoop&)> Collect(int64_t step,
                                                            TensorCollector* collector) {
  return [step, collector](RankParts& parts, TrainLoop& loop) {
    if (loop.steps_done() == step) collector->Add(*parts.optimizer->current());
    return absl::OkStatus();
  };
}

TEST(StateRecovery, ReplicaShedAndGrownBack_CarriesEveryTensorsBits) {
  const Shape two = {2, 1, 2, 2, true};
  const Shape one = {2, 1, 1, 2, true};
  const v1::JobSpec wide = SpecOf(two);
  const v1::JobSpec narrow = SpecOf(one, 2);
  const int64_t two_steps = RunEpoch(SettingOf(two, wide, 1, 2), FreshMemories(4))[3].operations;
  Memories memories = FreshMemories(4);
  // Rank 3 dies early in the third step, when the second's snapshots aren't complete: the newest
  // that lives is the first's, or the second's.
  TensorCollector states[4];
  EpochSetting setting = SettingOf(two, wide, 1, 3);
  setting.victim = 3;
  setting.dies_at = two_steps + 20;
  setting.between = [&states](RankParts& parts, TrainLoop& loop) {
    states[loop.steps_done()].Add(*parts.optimizer->current());
    return absl::OkStatus();
  };
  EXPECT_EQ(Committed(RunEpoch(setting, memories)), 2);

  Memories left;
  left.push_back(std::move(memories[0]));
  left.push_back(std::move(memories[1]));
  TensorCollector shed;
  setting = SettingOf(one, narrow, 2, 0);
  setting.between = [&shed](RankParts& parts, TrainLoop&) {
    shed.Add(*parts.optimizer->current());
    return absl::OkStatus();
  };
  std::vector<RankOutcome> outcomes = RunEpoch(setting, left);
  ExpectAllWell(outcomes);
  ASSERT_EQ(outcomes[0].restored.source(), "memory") << outcomes[0].restored.note();
  const int64_t step = outcomes[0].restored.step();
  ASSERT_GE(step, 1);
  // The shards of the ranks that are gone, which rank 1 needs, are at their buddies.
  EXPECT_GT(outcomes[1].restored.pieces_from_buddies(), 0);
  ASSERT_GT(states[step].Tensors().size(), 50u);
  EXPECT_EQ(shed.Tensors(), states[step].Tensors());

  // It goes on narrow for a step, and grows back with two fresh processes.
  TensorCollector before;
  setting = SettingOf(one, narrow, 3, step + 1);
  setting.between = [&](RankParts& parts, TrainLoop& loop) -> absl::Status {
    if (loop.steps_done() != step + 1) return absl::OkStatus();
    before.Add(*parts.optimizer->current());
    return loop.SnapshotNow();
  };
  ExpectAllWell(RunEpoch(setting, left));
  for (int i = 0; i < 2; ++i) left.push_back(std::make_unique<StateMemory>());
  TensorCollector grown;
  setting = SettingOf(two, wide, 4, 0);
  setting.between = Collect(step + 1, &grown);
  outcomes = RunEpoch(setting, left);
  ExpectAllWell(outcomes);
  EXPECT_EQ(outcomes[3].restored.step(), step + 1);
  EXPECT_EQ(grown.Tensors(), before.Tensors());
}

// A process of the replica that was shed comes back with a state of the abandoned future: the
// narrow job went back a step before it, and its own history counts.
TEST(StateRecovery, StateOfAnAbandonedFuture_IsNotUsed) {
  const Shape shape = {2, 1, 1, 1, true};
  v1::JobSpec spec = SpecOf(shape);
  Memories memories = FreshMemories(2);
  ExpectAllWell(RunEpoch(SettingOf(shape, spec, 1, 3), memories));
  Memories away = std::move(memories);  // both hold step 3 of epoch 1
  // Epoch 2 of others begins anew with another learning rate and gets to step 1 only.
  spec.mutable_training()->set_learning_rate(spec.training().learning_rate() / 2);
  memories = FreshMemories(2);
  ExpectAllWell(RunEpoch(SettingOf(shape, spec, 2, 1), memories));
  // Rank 0 of then comes back beside rank 1 of epoch 2.
  memories[0] = std::move(away[0]);
  const std::vector<RankOutcome> outcomes = RunEpoch(SettingOf(shape, spec, 3), memories);
  const std::vector<RankOutcome> undisturbed =
      RunEpoch(SettingOf(shape, spec, 1), FreshMemories(2));
  ExpectSameEnd(outcomes, undisturbed, "abandoned");
  EXPECT_LE(outcomes[0].restored.step(), 1);
}

TEST(StateRecovery, RottenMemory_IsStruckOutForACopyOrAnOlderStep) {
  const Shape shape = {2, 1, 1, 1, true};
  const v1::JobSpec spec = SpecOf(shape);
  const std::vector<RankOutcome> undisturbed =
      RunEpoch(SettingOf(shape, spec, 1), FreshMemories(2));
  enum class What { kOwnNewest, kBothCopies, kWardOfTheDead };
  for (const What what : {What::kOwnNewest, What::kBothCopies, What::kWardOfTheDead}) {
    Memories memories = FreshMemories(2);
    EpochSetting setting = SettingOf(shape, spec, 1, 2);
    setting.between = [](RankParts&, TrainLoop& loop) {
      return loop.steps_done() == 2 ? loop.SnapshotNow() : absl::OkStatus();
    };
    ExpectAllWell(RunEpoch(setting, memories));
    int struck = 0;
    for (int rank = 0; rank < 2; ++rank) {
      for (const StateMemory::Entry& entry : memories[rank]->Whole()) {
        if (entry.state->step() != 2 || entry.state->shard() != 1) continue;
        if (what == What::kOwnNewest && !entry.own) continue;
        if (what == What::kWardOfTheDead && entry.own) continue;
        entry.state->bytes()[entry.state->bytes().size() / 3] ^= std::byte{4};
        ++struck;
      }
    }
    EXPECT_EQ(struck, what == What::kBothCopies ? 2 : 1);
    if (what == What::kWardOfTheDead) memories[1] = std::make_unique<StateMemory>();
    const std::vector<RankOutcome> outcomes = RunEpoch(SettingOf(shape, spec, 2), memories);
    ExpectSameEnd(outcomes, undisturbed, absl::StrCat("case ", static_cast<int>(what)));
    EXPECT_EQ(outcomes[0].restored.source(), "memory") << outcomes[0].restored.note();
    EXPECT_EQ(outcomes[0].restored.step(), what == What::kOwnNewest ? 2 : 1);
    const std::string notes =
        absl::StrCat(outcomes[0].restored.note(), outcomes[1].restored.note());
    EXPECT_TRUE(absl::StrContains(notes, "struck out")) << notes;
  }
}

TEST(StateRecovery, MemoryAndCheckpoint_TheNewerIsTaken) {
  const Shape shape = {2, 1, 1, 1, true};
  v1::JobSpec spec = SpecOf(shape);
  spec.mutable_checkpoint()->set_every_steps(2);
  const std::string directory = testing::TempDir() + "/newer";
  std::filesystem::remove_all(directory);
  Memories memories = FreshMemories(2);
  // Run() saves steps 2 and 4.
  EpochSetting setting = SettingOf(shape, spec, 1, 0);
  setting.checkpoint_directory = directory;
  setting.between = [](RankParts&, TrainLoop& loop) { return loop.Run().status(); };
  const std::vector<RankOutcome> undisturbed = RunEpoch(setting, memories);
  ExpectAllWell(undisturbed);
  const auto restore = [&](uint64_t epoch, const Memories& of) {
    EpochSetting only = SettingOf(shape, spec, epoch, 0);
    only.checkpoint_directory = directory;
    std::vector<RankOutcome> outcomes = RunEpoch(only, of);
    ExpectAllWell(outcomes);
    return outcomes[0].restored;
  };
  // As new as each other: memory.
  v1::RestoreReport report = restore(2, memories);
  EXPECT_EQ(report.source(), "memory");
  EXPECT_EQ(report.step(), 4);
  // Nobody has anything: disk.
  report = restore(3, FreshMemories(2));
  EXPECT_EQ(report.source(), "checkpoint");
  EXPECT_EQ(report.step(), 4);
  // Memory of an earlier step than the disk's.
  Memories older = FreshMemories(2);
  ExpectAllWell(RunEpoch(SettingOf(shape, spec, 1, 3), older));
  report = restore(4, older);
  EXPECT_EQ(report.source(), "checkpoint");
  EXPECT_EQ(report.step(), 4);
  // The disk's newest is gone: memory is newer than what is left.
  Memories newer = FreshMemories(2);
  ExpectAllWell(RunEpoch(SettingOf(shape, spec, 1, 3), newer));
  std::filesystem::remove(directory + "/step-00000004/manifest.json");
  report = restore(5, newer);
  EXPECT_EQ(report.source(), "memory");
  EXPECT_EQ(report.step(), 3);
  EXPECT_EQ(report.bytes_received(), 0);
}

TEST(StateRecovery, NothingInMemoryAndNoCheckpoint_BeginsAnew) {
  const Shape shape = {2, 1, 1, 1, true};
  const v1::JobSpec spec = SpecOf(shape);
  const std::vector<RankOutcome> outcomes =
      RunEpoch(SettingOf(shape, spec, 2, 1), FreshMemories(2));
  ExpectAllWell(outcomes);
  EXPECT_EQ(outcomes[0].restored.source(), "initial");
  EXPECT_EQ(outcomes[0].restored.step(), 0);
}

void FlipABit(RankParts& parts) {
  model::ParameterBlock& block = parts.store->blocks()[0];
  static_cast<std::byte*>(block.weights.data)[block.size() / 2] ^= std::byte{1};
}

TEST(SilentCorruption, AFlippedBitInAWeight_IsFoundBeforeTheNextCommit) {
  const Shape shape = {2, 1, 1, 1, true};
  v1::JobSpec spec = SpecOf(shape);
  const std::vector<RankOutcome> undisturbed =
      RunEpoch(SettingOf(shape, spec, 1), FreshMemories(2));
  Memories memories = FreshMemories(2);
  EpochSetting setting = SettingOf(shape, spec, 1);
  setting.between = [](RankParts& parts, TrainLoop& loop) {
    if (parts.rank == 1 && loop.steps_done() == 2) FlipABit(parts);
    return absl::OkStatus();
  };
  const std::vector<RankOutcome> outcomes = RunEpoch(setting, memories);
  EXPECT_EQ(Committed(outcomes), 2);
  EXPECT_EQ(outcomes[1].status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(outcomes[0].status.code(), absl::StatusCode::kAborted);
  for (const RankOutcome& outcome : outcomes) {
    EXPECT_TRUE(absl::StartsWith(outcome.status.message(), kCorruption)) << outcome.status;
    EXPECT_TRUE(absl::StrContains(outcome.status.message(),
                                  "the weights of rank 1 on node node1 (stages 1, 0) after step 2"))
        << outcome.status;
  }
  EXPECT_EQ(memories[0]->newest_step(), 2);
  EXPECT_EQ(memories[1]->newest_step(), 2);
  // The rank's process ends, its state lives on at its buddy.
  memories[1] = std::make_unique<StateMemory>();
  ExpectSameEnd(RunEpoch(SettingOf(shape, spec, 2), memories), undisturbed, "after a flipped bit");

  // Not looked for, not found: the weights go wrong.
  spec.mutable_recovery()->set_verify_weights(false);
  setting.plan.mutable_spec()->CopyFrom(spec);
  const std::vector<RankOutcome> unseen = RunEpoch(setting, FreshMemories(2));
  ExpectAllWell(unseen);
  EXPECT_EQ(unseen[0].steps.back().weights_hash(), 0u);
}

TEST(SilentCorruption, MirrorsThatDiffer_NameTheMinorityWhereThereIsOne) {
  for (const int replicas : {1, 2}) {
    const Shape shape = {2, 1, replicas, 2, true};
    EpochSetting setting = SettingOf(shape, SpecOf(shape), 1, 0);
    setting.between = [](RankParts& parts, TrainLoop&) -> absl::Status {
      WeightsCheck check(&parts);
      if (parts.rank == 1) FlipABit(parts);
      check.Remember(7);
      std::vector<double> sums(check.places());
      check.Fill(absl::MakeSpan(sums));
      if (absl::Status status = parts.dense->AllReduceSum(absl::MakeSpan(sums)); !status.ok()) {
        return status;
      }
      check.Examine(sums);
      EXPECT_TRUE(check.found());
      return check.Conclude();
    };
    const std::vector<RankOutcome> outcomes = RunEpoch(setting, FreshMemories(shape.ranks()));
    for (int rank = 0; rank < shape.ranks(); ++rank) {
      const absl::Status& status = outcomes[rank].status;
      EXPECT_TRUE(absl::StartsWith(status.message(), kCorruption)) << status;
      EXPECT_TRUE(absl::StrContains(status.message(), "after step 7")) << status;
      EXPECT_EQ(absl::StrContains(status.message(), "(in the minority)"), replicas == 2) << status;
      EXPECT_EQ(status.code(), replicas == 2 && rank == 1 ? absl::StatusCode::kInternal
                                                          : absl::StatusCode::kAborted);
    }
  }
}

}  // namespace
}  // namespace fathom::engine
