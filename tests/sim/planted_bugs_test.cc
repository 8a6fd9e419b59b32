// Whether the simulation finds what it is there to find: bugs of the kind that this sort of program
// has, planted one at a time (common/base/planted.h), each within kSeeds seeds.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "common/base/planted.h"
#include "tests/sim/scenario.h"
#include "tests/sim/simulation.h"

namespace fathom::sim {
namespace {

constexpr uint64_t kSeeds = 2000;

// In a process of its own, as a bug may well break a CHECK.
uint64_t SeedThatFinds(planted::Bug bug) {
  int pipe_ends[2];
  if (::pipe(pipe_ends) != 0) return 0;
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    planted::active = bug;
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      // The last number written is the seed at work.
      if (::write(pipe_ends[1], &seed, sizeof(seed)) != sizeof(seed)) std::_Exit(2);
      const RunResult result = Simulation(MakeScenario(seed), false).Run();
      if (result.violation.empty()) continue;
      std::printf("  seed %llu: %.300s\n", static_cast<unsigned long long>(seed),
                  result.violation.c_str());
      std::fflush(stdout);
      std::_Exit(1);
    }
    std::_Exit(0);
  }
  ::close(pipe_ends[1]);
  uint64_t seed = 0;
  uint64_t last = 0;
  while (::read(pipe_ends[0], &seed, sizeof(seed)) == sizeof(seed)) last = seed;
  ::close(pipe_ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  const bool passed = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (WIFSIGNALED(status)) {
    std::printf("  seed %llu: a CHECK failed\n", static_cast<unsigned long long>(last));
  }
  return passed ? 0 : last;
}

class PlantedBugs : public testing::TestWithParam<planted::Bug> {};

TEST_P(PlantedBugs, InThousandsOfSeeds_IsFound) {
  std::printf("%s\n", planted::NameOf(GetParam()));
  const uint64_t seed = SeedThatFinds(GetParam());
  EXPECT_NE(seed, 0u) << planted::NameOf(GetParam()) << " was not found in " << kSeeds << " seeds";
}

INSTANTIATE_TEST_SUITE_P(Each, PlantedBugs, testing::ValuesIn(planted::kAll),
                         [](const testing::TestParamInfo<planted::Bug>& bug) {
                           return planted::NameOf(bug.param);
                         });

}  // namespace
}  // namespace fathom::sim
