// Steps of CPU ranks: op times, ranks that share cores, and whole steps against what must hold.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/calibration/op_time_names.h"
#include "common/calibration/step_work.h"
#include "common/model/layer_ops.h"
#include "common/plan/job_resolve.h"
#include "common/schedule/dualpipe.h"
#include "common/schedule/event_simulator.h"
#include "common/schedule/named_schedules.h"
#include "common/schedule/pipeline_messages.h"
#include "coordinator/planner/calibration/calibrated_time.h"
#include "coordinator/planner/calibration/cpu_step.h"
#include "coordinator/planner/calibration/machine_step.h"
#include "coordinator/planner/calibration/rank_programs.h"
#include "coordinator/planner/calibration/shared_cores.h"
#include "coordinator/planner/calibration/sharing_fit.h"
#include "coordinator/planner/calibration/stage_passes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::planner {
namespace {

using Kind = SharedAction::Kind;
using ::testing::DoubleNear;
using ::testing::HasSubstr;

constexpr double kExact = 1e-12;

v1::OpTime Entry(const std::string& op, const std::string& format, double fixed, double per_flop,
                 double per_byte) {
  v1::OpTime entry;
  entry.set_op(op);
  entry.set_format(format);
  entry.set_fixed_seconds(fixed);
  entry.set_seconds_per_flop(per_flop);
  entry.set_seconds_per_byte(per_byte);
  return entry;
}

// Every op at round figures, in any format.
v1::OpTimes RoundTimes() {
  v1::OpTimes times;
  for (const char* op : {"Fill",
                         "Copy",
                         "Add",
                         "Scale",
                         "ScatterAddRows",
                         "Gemm",
                         "GemmFp8",
                         "Quantize",
                         "QuantizeTransposed",
                         "Dequantize",
                         "TransposeBlocks",
                         "RoundToE5M6",
                         "RmsNormForward",
                         "RmsNormBackward",
                         "Rope",
                         "AttentionForward",
                         "AttentionBackward",
                         "SwiGluForward",
                         "SwiGluBackward",
                         "WeightedSwiGluForward",
                         "WeightedSwiGluBackward",
                         "EmbeddingForward",
                         "EmbeddingBackward",
                         "CrossEntropy",
                         "RouterForward",
                         "RouterBackward",
                         "AdamW",
                         "SumOfSquares"}) {
    *times.add_ops() = Entry(op, "", 1e-6, 1e-11, 1e-10);
  }
  *times.add_ops() = Entry(calibration::kOverhead, "", 1e-7, 0, 0);
  *times.add_ops() = Entry(calibration::kInstruction, "", 1e-6, 0, 0);
  *times.add_ops() = Entry(calibration::kExchange, "", 0, 0, 1e-10);
  *times.add_ops() = Entry(calibration::kMessageShm, "", 4e-6, 0, 1e-10);
  *times.add_ops() = Entry(calibration::kMessageTcp, "", 3e-5, 0, 1e-9);
  *times.add_ops() = Entry(calibration::kLatencyShm, "", 1e-6, 0, 0);
  *times.add_ops() = Entry(calibration::kLatencyTcp, "", 2e-5, 0, 0);
  *times.add_ops() = Entry(calibration::kTurn, "", 2e-6, 0, 0);
  *times.add_ops() = Entry(calibration::kReduce, "", 0, 0, 1e-10);
  *times.add_ops() = Entry(calibration::kHash, "", 0, 0, 1e-10);
  *times.add_ops() = Entry(calibration::kStep, "", 1e-4, 0, 0);
  times.set_machine("a test's machine");
  return times;
}

// --- Op times ---

TEST(CalibratedTimeTest, CallsOfOneShape_TakeFixedFlopsBytesRowsAndOperands) {
  v1::OpTimes times;
  v1::OpTime gemm = Entry("Gemm", "fp32", 2e-6, 1e-11, 1e-10);
  gemm.set_seconds_per_operand_element(1e-9);
  *times.add_ops() = gemm;
  v1::OpTime copy = Entry("Copy", "", 0, 0, 0);
  copy.set_seconds_per_row(1e-9);
  *times.add_ops() = copy;
  const CalibratedTime time(times);
  model::OpCall call;
  call.op = "Gemm";
  call.format = model::Format::kFp32;
  call.m = 10;
  call.n = 20;
  call.k = 30;
  call.count = 2;
  call.flops = 2 * 2 * 10 * 20 * 30;
  call.bytes = 1000;
  EXPECT_THAT(time.Seconds(call).value(),
              DoubleNear(2 * 2e-6 + 24000e-11 + 1000e-10 + 2 * 600e-9, kExact));
  call.op = "Copy";
  EXPECT_THAT(time.Seconds(call).value(), DoubleNear(2 * 10e-9, kExact));
}

TEST(CalibratedTimeTest, CacheCurve_IsInterpolatedOverTheLogarithmAndEndsAtItsEnds) {
  v1::OpTimes times;
  v1::OpTime add = Entry("Add", "", 1, 0, 0);
  for (const auto& [bytes, factor] : {std::pair(100.0, 1.0), std::pair(10000.0, 3.0)}) {
    add.add_cache()->set_bytes(bytes);
    add.mutable_cache()->rbegin()->set_factor(factor);
  }
  *times.add_ops() = add;
  const CalibratedTime time(times);
  const auto at = [&](double bytes) {
    return time.Seconds({"Add", "", {.count = 1, .bytes = bytes}}).value();
  };
  EXPECT_THAT(at(10), DoubleNear(1, kExact));
  EXPECT_THAT(at(1000), DoubleNear(2, kExact));
  EXPECT_THAT(at(1e6), DoubleNear(3, kExact));
}

TEST(CalibratedTimeTest, OpWithoutEntry_IsAnErrorThatNamesIt) {
  const CalibratedTime time(v1::OpTimes{});
  model::OpCall call;
  call.op = "Rope";
  call.format = model::Format::kBf16;
  const absl::Status status = time.Seconds(model::OpCalls{call}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("Rope in bf16"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("fathomctl profile"));
}

// --- Shared cores ---

SharedAction Work(double seconds) { return {.kind = Kind::kWork, .seconds = seconds}; }
SharedAction Post(int channel, double after = 0) {
  return {.kind = Kind::kPost, .index = channel, .seconds = after};
}
SharedAction Take(int channel) { return {.kind = Kind::kTake, .index = channel}; }

TEST(SharedCoresTest, ThreeRanksOnTwoCores_ShareThemEqually) {
  const std::vector<SharedRank> ranks = {{0, {Work(2)}}, {0, {Work(2)}}, {0, {Work(4)}}};
  const SharedTimes times = SimulateShared({{.cores = 2}}, ranks, 0, {}).value();
  // 2/3 of a core each until the short ones are done at 3; then the long one has one alone.
  EXPECT_THAT(times.ranks[0].finish, DoubleNear(3, kExact));
  EXPECT_THAT(times.ranks[2].finish, DoubleNear(5, kExact));
  EXPECT_THAT(times.ranks[0].waiting, DoubleNear(2, kExact));
}

TEST(SharedCoresTest, WaitingRank_LeavesItsCoreToOthers) {
  const std::vector<SharedRank> ranks = {{0, {Work(1), Post(0, 0.5)}}, {0, {Take(0), Work(1)}}};
  const SharedTimes times = SimulateShared({{.cores = 1}}, ranks, 1, {}).value();
  EXPECT_THAT(times.ranks[0].finish, DoubleNear(1, kExact));
  EXPECT_THAT(times.makespan, DoubleNear(2.5, kExact));
  EXPECT_THAT(times.ranks[1].waiting, DoubleNear(1.5, kExact));
}

TEST(SharedCoresTest, Slowdowns_HoldWhileCoresAreBusyAndWhileRanksTakeTurns) {
  const SharedMachine machine = {.cores = 2, .slowdown = 1.5, .turns_slowdown = 2};
  const auto makespan = [&](int count) {
    const std::vector<SharedRank> ranks(count, SharedRank{0, {Work(1)}});
    return SimulateShared({machine}, ranks, 0, {}).value().makespan;
  };
  EXPECT_THAT(makespan(1), DoubleNear(1, kExact));
  EXPECT_THAT(makespan(2), DoubleNear(1.5, kExact));
  EXPECT_THAT(makespan(4), DoubleNear(2 * 1.5 * 2, kExact));
}

TEST(SharedCoresTest, GroupThatMeets_WaitsForItsSlowestMember) {
  const std::vector<SharedGroup> groups = {{{0, 1, 2}}};
  std::vector<SharedRank> ranks;
  for (const double seconds : {1.0, 3.0, 2.0}) {
    ranks.push_back({static_cast<int>(ranks.size()),
                     {Work(seconds),
                      {.kind = Kind::kJoin, .seconds = 0.25},
                      {.kind = Kind::kMeet},
                      {.kind = Kind::kMark},
                      Work(1)}});
  }
  const SharedTimes times = SimulateShared(std::vector<SharedMachine>(3), ranks, 0, groups).value();
  for (const SharedTimes::Rank& rank : times.ranks) {
    EXPECT_THAT(rank.marks[0].at, DoubleNear(3.25, kExact));
  }
  EXPECT_THAT(times.makespan, DoubleNear(4.25, kExact));
}

TEST(SharedCoresTest, RanksThatWaitForEachOther_AreADeadlockByName) {
  const std::vector<SharedRank> ranks = {{0, {Take(0), Post(1)}}, {0, {Take(1), Post(0)}}};
  const absl::Status status = SimulateShared({{.cores = 2}}, ranks, 2, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 0 waits for ever"));
}

TEST(SharedCoresTest, BadInput_IsRefused) {
  const auto code = [](const std::vector<SharedRank>& ranks) {
    return SimulateShared({{.cores = 1}}, ranks, 1, {{{0}}}).status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({{1, {}}}), invalid);
  EXPECT_EQ(code({{0, {Work(-1)}}}), invalid);
  EXPECT_EQ(code({{0, {Work(std::nan(""))}}}), invalid);
  EXPECT_EQ(code({{0, {Take(1)}}}), invalid);
  EXPECT_EQ(code({{0, {}}, {0, {{.kind = Kind::kJoin}}}}), invalid);
  EXPECT_EQ(SimulateShared({{.cores = 0}}, {}, 0, {}).status().code(), invalid);
}

// A schedule's lists as programs, with messages that take `message_time`.
std::vector<SharedRank> ProgramsOf(const schedule::Schedule& schedule,
                                   const schedule::StageCosts& costs, double message_time,
                                   int* channels) {
  std::map<schedule::Channel, int> index;
  std::vector<SharedRank> ranks(schedule.ranks);
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    for (const schedule::Instruction& instruction : schedule.lists[rank]) {
      const schedule::Messages messages = MessagesOf(schedule, rank, instruction);
      const auto channel_of = [&](const schedule::Channel& channel) {
        return index.try_emplace(channel, static_cast<int>(index.size())).first->second;
      };
      std::vector<SharedAction>& program = ranks[rank].program;
      for (const auto& message : messages.receives) {
        program.push_back(Take(channel_of(message.channel)));
      }
      double seconds = costs.overlapped;
      if (!instruction.overlapped) {
        switch (instruction.first.kind) {
          case schedule::OpKind::kForward:
            seconds = costs.forward;
            break;
          case schedule::OpKind::kBackward:
            seconds = costs.backward;
            break;
          case schedule::OpKind::kBackwardInput:
            seconds = costs.backward_input;
            break;
          case schedule::OpKind::kWeight:
            seconds = costs.weight;
            break;
        }
      }
      program.push_back(Work(seconds));
      for (const auto& message : messages.sends) {
        const bool local = message.channel.from == message.channel.to;
        program.push_back(Post(channel_of(message.channel), local ? 0 : message_time));
      }
    }
  }
  *channels = static_cast<int>(index.size());
  return ranks;
}

TEST(SharedCoresTest, AsManyCoresAsRanks_IsTheScheduleSimulator) {
  const schedule::StageCosts costs = {1, 2.5, 1.25, 1.25, 3.1};
  for (const char* kind : {"1f1b", "zb1p", "dualpipe", "interleaved-1f1b", "zb-v", "dualpipe-v"}) {
    for (const double message_time : {0.0, 0.3}) {
      const schedule::Schedule schedule = schedule::MakeSchedule(kind, 4, 8).value();
      int channels = 0;
      const std::vector<SharedRank> ranks = ProgramsOf(schedule, costs, message_time, &channels);
      const SharedTimes shared = SimulateShared({{.cores = 4}}, ranks, channels, {}).value();
      const schedule::Simulation alone =
          schedule::Simulate(schedule, {costs}, message_time).value();
      EXPECT_THAT(shared.makespan, DoubleNear(alone.makespan, 1e-9)) << kind;
      for (int rank = 0; rank < schedule.ranks; ++rank) {
        EXPECT_THAT(shared.ranks[rank].finish, DoubleNear(alone.ranks[rank].finish, 1e-9)) << kind;
      }
    }
  }
}

TEST(SharedCoresTest, OneCore_TakesTheSumOfAllWork) {
  const schedule::StageCosts costs = {1, 2.5, 1.25, 1.25, 3.1};
  for (int ranks : {2, 4, 8}) {
    for (int micro_batches : {16, 32}) {
      const schedule::Schedule schedule = schedule::DualPipe(ranks, micro_batches).value();
      int channels = 0;
      const std::vector<SharedRank> programs = ProgramsOf(schedule, costs, 0, &channels);
      const SharedTimes times = SimulateShared({{.cores = 1}}, programs, channels, {}).value();
      double work = 0;
      for (const SharedTimes::Rank& rank : times.ranks) work += rank.work;
      // Somebody can always run, so the core is never idle.
      EXPECT_THAT(times.makespan, DoubleNear(work, 1e-9 * work));
    }
  }
}

// --- Whole steps ---

model::ModelConfig Tiny() {
  v1::ModelSpec spec;
  spec.set_preset("tiny");
  return model::ResolveModel(spec).value();
}

// `tiny` in one layout.
struct TinyJob {
  TinyJob(int pipeline, int expert, int replicas, const char* precision, int micro_batch_count)
      : config(Tiny()), recipe(model::FindRecipe(precision).value()) {
    job.config = &config;
    job.recipe = &recipe;
    job.parallelism.set_pipeline(pipeline);
    job.parallelism.set_expert(expert);
    job.parallelism.set_replicas(replicas);
    for (int stage = 0; stage < pipeline; ++stage) {
      job.stage_layers.push_back(config.num_hidden_layers * (stage + 1) / pipeline -
                                 config.num_hidden_layers * stage / pipeline);
    }
    job.micro_batch = {.sequences = 1, .sequence_length = 128, .expert_ranks = expert};
    schedule = pipeline == 1 ? schedule::Sequential(micro_batch_count).value()
                             : schedule::DualPipe(pipeline, micro_batch_count).value();
  }
  CpuStep StepOn(double cores, int nodes = 1, const v1::OpTimes& times = RoundTimes()) const {
    CpuPlaces places;
    const int ranks = static_cast<int>(schedule.lists.size()) * job.parallelism.expert() *
                      job.parallelism.replicas();
    for (int rank = 0; rank < ranks; ++rank) places.node_of_rank.push_back(rank * nodes / ranks);
    places.machine_of_node.assign(nodes, 0);
    places.machines.push_back({.cores = cores});
    const auto step = PredictCpuStep(job, schedule, places, times);
    EXPECT_TRUE(step.ok()) << step.status();
    return step.value();
  }

  model::ModelConfig config;
  model::PrecisionRecipe recipe;
  CpuJob job;
  schedule::Schedule schedule;
};

double SumOf(const v1::StepBreakdown& b) {
  return b.forward_s() + b.backward_s() + b.weight_s() + b.overlapped_s() + b.bubble_s() +
         b.reduce_s() + b.optimizer_s() + b.other_s();
}

TEST(CpuStepTest, Breakdown_AddsUpToTheStep) {
  for (const auto& [pipeline, expert] : {std::pair(1, 1), {2, 1}, {1, 2}, {2, 2}, {4, 2}}) {
    const CpuStep step = TinyJob(pipeline, expert, 1, "fp32", 8).StepOn(2);
    EXPECT_GT(step.seconds, 0);
    EXPECT_THAT(SumOf(step.breakdown), DoubleNear(step.seconds, 1e-9)) << pipeline << expert;
    EXPECT_GE(step.breakdown.bubble_s(), 0);
    EXPECT_GE(step.breakdown.other_s(), -1e-12);
  }
}

TEST(CpuStepTest, OneRank_TakesItsWork) {
  const TinyJob tiny(1, 1, 1, "bf16", 4);
  const CpuStep step = tiny.StepOn(1);
  EXPECT_THAT(step.core_seconds, DoubleNear(step.seconds, 1e-12));
  EXPECT_EQ(step.breakdown.bubble_s(), 0);
  const double passes = 4 * (step.stages[0].costs.forward + step.stages[0].costs.backward);
  EXPECT_GT(step.seconds, passes);
  EXPECT_LT(step.seconds, 1.2 * passes);
}

TEST(CpuStepTest, OneStageAlone_IsTheOpsOfItsLayers) {
  const TinyJob tiny(1, 1, 1, "fp32", 2);
  const CalibratedTime time(RoundTimes());
  double ops = 0;
  double calls = 0;
  for (int64_t layer = -1; layer <= tiny.config.num_hidden_layers + 1; ++layer) {
    const model::LayerOps all =
        model::OpsOfLayer(tiny.config, layer, tiny.job.micro_batch, tiny.recipe);
    for (const model::PassOps* part : {&all.attention, &all.mlp, &all.head}) {
      for (const model::OpCalls* pass :
           {&part->forward, &part->backward_input, &part->backward_weight}) {
        ops += time.Seconds(*pass).value();
        for (const model::OpCall& call : *pass) calls += static_cast<double>(call.count);
      }
    }
  }
  const calibration::LayerExchange x =
      calibration::ExchangeOf(tiny.config, tiny.job.micro_batch, tiny.recipe);
  double copied = 0;
  for (const auto* way :
       {&x.dispatch_forward, &x.combine_forward, &x.combine_backward, &x.dispatch_backward}) {
    copied += way->post_bytes + way->receive_bytes;
  }
  const double moe_layers = 5 + 1;  // of six layers all but the first, and the MTP module
  const auto stages = CpuTimesOfStages(tiny.job, RoundTimes());
  ASSERT_TRUE(stages.ok()) << stages.status();
  EXPECT_THAT((*stages)[0].costs.forward + (*stages)[0].costs.backward,
              DoubleNear(ops + calls * 1e-7 + moe_layers * copied * 1e-10, 1e-9));
  EXPECT_THAT((*stages)[0].costs.backward,
              DoubleNear((*stages)[0].costs.backward_input + (*stages)[0].costs.weight, 1e-9));
}

TEST(CpuStepTest, EveryPartOfAMoeLayer_HasWorkBetweenItsMessages) {
  for (const char* precision : {"fp32", "bf16", "fp8"}) {
    const TinyJob tiny(1, 2, 1, precision, 2);
    StageSetting setting;
    setting.job = {&tiny.config, &tiny.recipe, tiny.job.parallelism, tiny.job.stage_layers};
    setting.micro_batch = tiny.job.micro_batch;
    for (const auto recomputation : {model::Recomputation::kNone, model::Recomputation::kSelective,
                                     model::Recomputation::kFull}) {
      setting.recomputation = recomputation;
      const auto passes = PassesOfStage(setting, 0, CalibratedTime(RoundTimes()));
      ASSERT_TRUE(passes.ok()) << passes.status();
      for (const Turns* turns : {&passes->forward, &passes->backward, &passes->backward_input}) {
        // One turn for each wait and one before; each waits first and works then.
        EXPECT_EQ(turns->size(), 1u + 2 * 6);
        for (size_t i = 0; i < turns->size(); ++i) {
          double work = 0;
          int posts = 0;
          for (const PassAction& action : (*turns)[i]) {
            work += action.seconds;
            posts += action.kind == PassAction::Kind::kPost ? 1 : 0;
          }
          EXPECT_GT(work, 0) << precision << " turn " << i;
          EXPECT_EQ(posts, i + 1 < turns->size() ? 1 : 0) << precision << " turn " << i;
        }
      }
    }
  }
}

TEST(CpuStepTest, RanksThatShareCores_TakeLongerAndSaySo) {
  const TinyJob tiny(2, 2, 2, "fp32", 8);
  const CpuStep roomy = tiny.StepOn(8);
  const CpuStep shared = tiny.StepOn(2);
  EXPECT_GT(shared.seconds, 2 * roomy.seconds);
  // All eight together can't be faster than their work on two cores.
  EXPECT_GE(shared.seconds, shared.core_seconds / 2);
  EXPECT_LT(shared.seconds, 1.2 * shared.core_seconds / 2);
  bool said = false;
  for (const v1::Assumption& assumption : shared.assumptions) {
    if (assumption.name() != "shared cores") continue;
    said = true;
    EXPECT_EQ(assumption.value(), "8 ranks on 2 cores");
    EXPECT_THAT(assumption.adds_s(), DoubleNear(shared.seconds - roomy.seconds, 1e-9));
  }
  EXPECT_TRUE(said);
  for (const v1::Assumption& assumption : roomy.assumptions) {
    EXPECT_NE(assumption.name(), "shared cores");
  }
}

TEST(CpuStepTest, RanksOnOtherNodes_PayForTcp) {
  const TinyJob tiny(1, 2, 1, "fp32", 4);
  EXPECT_GT(tiny.StepOn(2, 2).seconds, tiny.StepOn(2, 1).seconds);
}

TEST(CpuStepTest, SnapshotsAndVerification_CostWhatTheyMove) {
  TinyJob tiny(1, 2, 1, "fp32", 4);
  const double with_all = tiny.StepOn(2).seconds;
  tiny.job.snapshots = false;
  const double without_snapshots = tiny.StepOn(2).seconds;
  tiny.job.verify_weights = false;
  const double without_both = tiny.StepOn(2).seconds;
  EXPECT_LT(without_snapshots, with_all);
  EXPECT_LT(without_both, without_snapshots);
}

TEST(CpuStepTest, LaneSimulation_CoversEveryInstruction) {
  const TinyJob tiny(4, 1, 1, "fp32", 8);
  const CpuStep step = tiny.StepOn(2);
  ASSERT_EQ(step.simulation.ranks.size(), 4u);
  for (int p = 0; p < 4; ++p) {
    const schedule::SimulatedRank& rank = step.simulation.ranks[p];
    ASSERT_EQ(rank.starts.size(), tiny.schedule.lists[p].size());
    for (size_t i = 0; i < rank.starts.size(); ++i) {
      EXPECT_LT(rank.starts[i], rank.ends[i]);
      if (i > 0) {
        EXPECT_GE(rank.starts[i], rank.ends[i - 1]);
      }
    }
    EXPECT_EQ(rank.peak_live, schedule::Simulate(tiny.schedule, {{}}).value().ranks[p].peak_live);
  }
  EXPECT_LT(step.simulation.makespan, step.seconds);
}

// --- Uneven experts ---

TEST(ExcessLoadsTest, TwoRanks_HaveTheMeanDeviationOfTheirExpertsTogether) {
  // Four of eight experts: a standard deviation of 0.6 * sqrt(2 / 8) for the four, of which a half
  // is common to both halves. The mean of |x| is sqrt(2 / pi) of a normal x.
  const std::vector<double> excess = ExcessLoads(8, 2, 0.6);
  ASSERT_EQ(excess.size(), 2u);
  EXPECT_THAT(excess[0] + excess[1], DoubleNear(0, 1e-12));
  const double deviation = 0.6 * std::sqrt(2.0 / 8) * std::sqrt(0.5) * std::sqrt(2 / M_PI);
  EXPECT_NEAR(excess[1] / deviation, 1, 0.05);  // Blom's approximation
}

TEST(ExcessLoadsTest, ExpectedMaximaOfNormals_AreTheTables) {
  // Expected largest of n standard normals (Harter 1961).
  for (const auto& [n, largest] : {std::pair(4, 1.02938), {8, 1.42360}, {16, 1.76599}}) {
    const std::vector<double> excess = ExcessLoads(n, n, 0.1);  // one expert for each rank
    EXPECT_NEAR(excess.back() / 0.1 / largest, 1, 0.02) << n;   // Blom's approximation
    EXPECT_TRUE(std::is_sorted(excess.begin(), excess.end()));
  }
}

TEST(ExcessLoadsTest, NoRank_GetsLessThanNothing) {
  const std::vector<double> excess = ExcessLoads(4, 4, 3);
  EXPECT_EQ(excess.front(), -1);
  EXPECT_EQ(ExcessLoads(4, 1, 3), std::vector<double>{0});
  EXPECT_EQ(ExcessLoads(4, 4, 0), std::vector<double>(4, 0));
}

TEST(CpuStepTest, SpreadOfExperts_MakesRanksWaitButGivesNoMoreWork) {
  const TinyJob tiny(1, 2, 1, "fp32", 4);
  const CpuStep even = tiny.StepOn(2);
  v1::OpTimes times = RoundTimes();
  times.set_expert_load_spread(0.5);
  const CpuStep spread = tiny.StepOn(2, 1, times);
  EXPECT_THAT(spread.core_seconds, DoubleNear(even.core_seconds, 1e-9));
  EXPECT_GT(spread.seconds, 1.01 * even.seconds);
  bool said = false;
  for (const v1::Assumption& assumption : spread.assumptions) {
    if (assumption.name() != "spread of experts' loads") continue;
    said = true;
    EXPECT_THAT(assumption.adds_s(), DoubleNear(spread.seconds - even.seconds, 1e-9));
  }
  EXPECT_TRUE(said);
  // A rank alone has all experts.
  const TinyJob alone(1, 1, 1, "fp32", 4);
  EXPECT_EQ(alone.StepOn(2, 1, times).seconds, alone.StepOn(2).seconds);
}

// --- What ranks do to each other ---

v1::GroupRun RunOf(int pipeline, int expert, int replicas) {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_metadata()->set_name("group");
  job.mutable_spec()->mutable_model()->set_preset("tiny");
  job.mutable_spec()->mutable_data()->set_token_file("/any.tokens");
  job.mutable_spec()->mutable_parallelism()->set_pipeline(pipeline);
  job.mutable_spec()->mutable_parallelism()->set_expert(expert);
  job.mutable_spec()->mutable_parallelism()->set_replicas(replicas);
  job.mutable_spec()->mutable_training()->set_micro_batches(4);
  job.mutable_spec()->mutable_training()->set_steps(1);
  v1::GroupRun run;
  *run.mutable_spec() = plan::ResolveJob(job).value().spec();
  return run;
}

// As a machine of these op times would measure it.
v1::GroupRun Measured(v1::GroupRun run, const v1::OpTimes& machine) {
  const CpuStep group = PredictOnOneMachine(run.spec(), 8, machine).value();
  run.set_step_seconds(group.seconds);
  run.set_core_seconds(group.core_seconds);
  v1::JobSpec one = run.spec();
  one.mutable_parallelism()->set_pipeline(1);
  one.mutable_parallelism()->set_expert(1);
  one.mutable_parallelism()->set_replicas(1);
  run.set_alone_core_seconds(PredictOnOneMachine(one, 8, machine).value().core_seconds);
  return run;
}

void SetTurn(double seconds, v1::OpTimes* times) {
  for (v1::OpTime& entry : *times->mutable_ops()) {
    if (entry.op() == calibration::kTurn) entry.set_fixed_seconds(seconds);
  }
}

TEST(SharingFitTest, MachineThatSlowsSharersDown_IsFoundAgain) {
  v1::OpTimes machine = RoundTimes();
  machine.set_cores(2);
  machine.set_busy_slowdown(1.15);
  machine.set_turns_slowdown(1.1);
  machine.set_group_slowdown(1.07);
  SetTurn(20e-6, &machine);
  v1::OpTimes times = RoundTimes();
  times.set_cores(2);
  SetTurn(0, &times);
  for (const auto& [p, e, r] : {std::tuple(1, 2, 1), {2, 1, 1}, {1, 1, 2}, {2, 2, 1}}) {
    *times.add_group_runs() = Measured(RunOf(p, e, r), machine);
  }
  const auto groups = FitSharing(&times);
  ASSERT_TRUE(groups.ok()) << groups.status();
  ASSERT_EQ(groups->size(), 4u);
  EXPECT_TRUE(times.group_runs().empty());
  // While a rank waits for others nobody slows it down, so the fit is a little less.
  EXPECT_NEAR(times.busy_slowdown(), 1.15, 0.02);
  EXPECT_NEAR(times.turns_slowdown(), 1.1, 0.03);
  EXPECT_NEAR(times.group_slowdown(), 1.07, 0.02);
  for (const FittedGroup& group : *groups) {
    EXPECT_NEAR(group.fitted_s / group.measured_s, 1, 0.02) << group.name;
    EXPECT_NEAR(group.fitted_core_s / group.measured_core_s, 1, 0.02) << group.name;
  }
  EXPECT_EQ((*groups)[3].name, "hidden 192 bf16 2x2x1");
}

TEST(SharingFitTest, OpTimesThatAreTooLong_DontPassForSharing) {
  v1::OpTimes machine = RoundTimes();
  machine.set_cores(2);
  SetTurn(0, &machine);
  v1::OpTimes times = machine;
  for (v1::OpTime& entry : *times.mutable_ops()) {
    entry.set_fixed_seconds(1.5 * entry.fixed_seconds());
    entry.set_seconds_per_flop(1.5 * entry.seconds_per_flop());
    entry.set_seconds_per_byte(1.5 * entry.seconds_per_byte());
  }
  *times.add_group_runs() = Measured(RunOf(1, 2, 1), machine);
  ASSERT_TRUE(FitSharing(&times).ok());
  EXPECT_NEAR(times.busy_slowdown(), 1, 1e-6);
  EXPECT_EQ(times.turns_slowdown(), 0) << "nothing was measured of it";
  EXPECT_NEAR(times.group_slowdown(), 1, 1e-3);
}

TEST(SharingFitTest, NoRunsOrBrokenOnes_ChangeNothing) {
  v1::OpTimes times = RoundTimes();
  EXPECT_TRUE(FitSharing(&times).value().empty());
  EXPECT_EQ(times.SerializeAsString(), RoundTimes().SerializeAsString());
  const v1::GroupRun good = Measured(RunOf(2, 1, 1), RoundTimes());
  const auto refuses = [&](const std::function<void(v1::GroupRun&)>& change) {
    times.clear_group_runs();
    *times.add_group_runs() = good;
    change(*times.add_group_runs() = good);
    const v1::OpTimes before = times;
    EXPECT_EQ(FitSharing(&times).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(times.SerializeAsString(), before.SerializeAsString());
  };
  refuses([](v1::GroupRun& run) { run.mutable_spec()->set_precision("fp3"); });
  refuses([](v1::GroupRun& run) { run.clear_spec(); });
  refuses([](v1::GroupRun& run) { run.mutable_spec()->mutable_parallelism()->set_expert(0); });
  refuses([](v1::GroupRun& run) { run.clear_alone_core_seconds(); });
  refuses([](v1::GroupRun& run) { run.set_step_seconds(std::nan("")); });
}

TEST(CpuStepTest, ContradictionsAndMissingEntries_AreNamed) {
  const TinyJob tiny(2, 1, 1, "fp32", 8);
  CpuPlaces places = {{0}, {0}, {{.cores = 2}}};
  const auto few = PredictCpuStep(tiny.job, tiny.schedule, places, RoundTimes());
  EXPECT_THAT(std::string(few.status().message()), HasSubstr("1 places for 2 ranks"));
  places.node_of_rank = {0, 0};
  const auto other =
      PredictCpuStep(tiny.job, schedule::Sequential(4).value(), places, RoundTimes());
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("a schedule of 1 stages"));
  const auto unknown = PredictCpuStep(tiny.job, tiny.schedule, places, v1::OpTimes());
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace fathom::planner
