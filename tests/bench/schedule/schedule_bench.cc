// What it costs to make, check and time the pipeline schedules of a large job: P = 16, M = 128, and
// the step of 2,048 GPUs (P = 16, M = 120; its 128 lanes move in step, so one of them is the step).
// Run with `bazel run //tests/bench/schedule:schedule_bench`.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "common/schedule/compiled_schedule.h"
#include "common/schedule/named_schedules.h"
#include "common/schedule/schedule_check.h"
#include "common/schedule/searched_schedule.h"
#include "common/schedule/step_costs.h"

namespace fathom::schedule {
namespace {

constexpr int kRanks = 16;

StepCosts LastStageHeavier(int stages) {
  StepCosts costs;
  costs.stages.assign(stages, StageCosts{});
  costs.stages.back() = {1.25, 2.5, 1.25, 1.25, 3.75};
  costs.message_time = 0.02;
  return costs;
}

void MakeAndCheck(benchmark::State& state, const std::string& kind) {
  for (auto _ : state) {
    const Schedule schedule = MakeSchedule(kind, kRanks, 128).value();
    benchmark::DoNotOptimize(CheckSchedule(schedule).ok());
  }
}

void SimulateStep(benchmark::State& state, const std::string& kind) {
  for (auto _ : state) {
    const Schedule schedule = MakeSchedule(kind, kRanks, 120).value_or(Schedule());
    const auto compiled = CompiledSchedule::Make(schedule);
    if (!compiled.ok()) return state.SkipWithError(compiled.status().ToString().c_str());
    benchmark::DoNotOptimize(compiled->Simulate(LastStageHeavier(schedule.stages))->makespan);
  }
}

void SimulateAgain(benchmark::State& state, const std::string& kind) {
  const Schedule schedule = MakeSchedule(kind, kRanks, 128).value();
  const CompiledSchedule compiled = CompiledSchedule::Make(schedule).value();
  const StepCosts costs = LastStageHeavier(schedule.stages);
  for (auto _ : state) benchmark::DoNotOptimize(compiled.Makespan(costs).value());
}

void Searched(benchmark::State& state, PlacementFamily family, int64_t effort) {
  SearchRequest request;
  request.ranks = kRanks;
  request.micro_batches = 128;
  request.family = family;
  request.costs = LastStageHeavier(StagesOf(family, kRanks, 1));
  request.max_activations = family == PlacementFamily::kV ? 2 * kRanks + 1 : kRanks + 1;
  request.effort = effort;
  double gain = 0;
  for (auto _ : state) {
    const SearchedSchedule found = SearchSchedule(request).value();
    gain = 1 - found.simulation.makespan / found.named_makespan;
  }
  state.counters["quicker_percent"] = 100 * gain;
}

void RegisterAll() {
  for (const std::string& kind : ScheduleKinds()) {
    const auto add = [&](const char* what, auto* run) {
      benchmark::RegisterBenchmark((what + ("/" + kind)).c_str(), run, kind)
          ->Unit(benchmark::kMillisecond);
    };
    add("make_and_check", MakeAndCheck);
    // Interleaving takes micro-batches in groups of as many as there are ranks.
    if (kind != "interleaved-1f1b") add("simulate_step", SimulateStep);
    add("simulate_again", SimulateAgain);
  }
  const struct {
    const char* name;
    PlacementFamily family;
  } families[] = {{"loop", PlacementFamily::kLoop},
                  {"v", PlacementFamily::kV},
                  {"bidirectional", PlacementFamily::kBidirectional}};
  for (const auto& [name, family] : families) {
    for (const int64_t effort : {kQuickEffort, kDefaultEffort}) {
      const std::string title =
          std::string(effort == kQuickEffort ? "searched_quick/" : "searched/") + name;
      benchmark::RegisterBenchmark(title.c_str(), Searched, family, effort)
          ->Unit(benchmark::kMillisecond);
    }
  }
}

}  // namespace
}  // namespace fathom::schedule

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  fathom::schedule::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
