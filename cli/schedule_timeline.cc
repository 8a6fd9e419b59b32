#include "cli/schedule_timeline.h"

#include "common/base/check.h"

namespace fathom::cli {

v1::Timeline TimelineOf(const schedule::Schedule& schedule,
                        const schedule::Simulation& simulation) {
  FATHOM_CHECK(schedule.lists.size() == simulation.ranks.size()) << schedule.kind;
  v1::Timeline timeline;
  timeline.set_predicted(true);
  for (size_t rank = 0; rank < schedule.lists.size(); ++rank) {
    v1::RankTimes& times = *timeline.add_ranks();
    times.set_rank(static_cast<int>(rank));
    times.set_pipeline_rank(static_cast<int>(rank));
    for (size_t i = 0; i < schedule.lists[rank].size(); ++i) {
      v1::TimedInstruction& instruction = *times.add_instructions();
      instruction.set_what(schedule::ToString(schedule.lists[rank][i]));
      instruction.set_start_s(simulation.ranks[rank].starts[i]);
      instruction.set_end_s(simulation.ranks[rank].ends[i]);
    }
  }
  return timeline;
}

}  // namespace fathom::cli
