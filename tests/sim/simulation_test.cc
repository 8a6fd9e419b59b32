// The cores under simulated faults: a bounded number of seeds. Many more: tests/sim/run.sh.
#include "tests/sim/simulation.h"

#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "tests/sim/scenario.h"

namespace fathom::sim {
namespace {

constexpr uint64_t kSeeds = 1500;

TEST(Simulation, SameSeed_GivesTheSameRun) {
  std::set<uint64_t> traces;
  for (uint64_t seed = 1; seed <= 25; ++seed) {
    const RunResult first = Simulation(MakeScenario(seed), false).Run();
    const RunResult second = Simulation(MakeScenario(seed), false).Run();
    EXPECT_EQ(first.trace_hash, second.trace_hash) << "seed " << seed;
    EXPECT_EQ(first.events, second.events) << "seed " << seed;
    traces.insert(first.trace_hash);
  }
  EXPECT_EQ(traces.size(), 25u);
}

TEST(Simulation, EverySeed_HoldsAllInvariants) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const RunResult result = Simulation(MakeScenario(seed), false).Run();
    ASSERT_EQ(result.violation, "")
        << "seed " << seed << "; watch it with fathom-sim --verbose " << seed;
  }
}

}  // namespace
}  // namespace fathom::sim
