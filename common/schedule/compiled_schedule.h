// A schedule that was found sound, with what each instruction waits for resolved once, so that it
// can be timed with any costs in one pass: microseconds for the pipeline of a large job. A lane
// stands for all lanes that move in step with it.
#ifndef FATHOM_COMMON_SCHEDULE_COMPILED_SCHEDULE_H_
#define FATHOM_COMMON_SCHEDULE_COMPILED_SCHEDULE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/schedule/instruction.h"
#include "common/schedule/step_costs.h"

namespace fathom::schedule {

struct SimulatedRank {
  double finish = 0;
  double busy = 0;
  double idle = 0;    // makespan - busy
  int peak_live = 0;  // micro-batches with activations held, one for each chunk: from the forward's
                      // start until the backward's end, or the end of W when that is deferred
  std::vector<double> starts;  // of each instruction
  std::vector<double> ends;
};

struct Simulation {
  double makespan = 0;
  std::vector<SimulatedRank> ranks;
};

class CompiledSchedule {
 public:
  // INVALID_ARGUMENT or FAILED_PRECONDITION as CheckSchedule says.
  static absl::StatusOr<CompiledSchedule> Make(const Schedule& schedule);

  // Both: INVALID_ARGUMENT as CheckStepCosts says.
  absl::StatusOr<Simulation> Simulate(const StepCosts& costs) const;
  absl::StatusOr<double> Makespan(const StepCosts& costs) const;  // without the rest: quicker

  int ranks() const { return static_cast<int>(begins_.size()) - 1; }
  int stages() const { return stages_; }
  int PeakLive(int rank) const { return peaks_[rank]; }
  // The most that a rank holds at once, when a micro-batch on stage s takes `of_stage[s]`.
  double PeakHeld(int rank, const std::vector<double>& of_stage) const;

 private:
  // Instructions that cost the same whatever the costs are.
  struct Class {
    OpKind kind = OpKind::kForward;
    bool overlapped = false;
    int stage = 0;
    int backward_stage = 0;  // of a pair
  };
  struct Node {
    int rank = 0;
    int id = 0;               // place among all instructions, rank after rank
    int cost_class = 0;       // index into classes_
    int waits[2] = {-1, -1};  // ids of the instructions that send to it
    bool remote[2] = {false, false};
  };
  struct Hold {
    int stage = 0;
    int change = 0;  // +1: a micro-batch's activations come, -1: they go
  };
  class Builder;
  struct Timing;

  CompiledSchedule() = default;
  absl::Status Run(const StepCosts& costs, Timing& timing) const;

  int stages_ = 0;
  std::vector<int> begins_;  // first id of each rank, then the number of all
  std::vector<Node> nodes_;  // each after those it waits for
  std::vector<Class> classes_;
  std::vector<std::vector<Hold>> holds_;  // of each rank, in the order of its list
  std::vector<int> peaks_;
};

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_COMPILED_SCHEDULE_H_
