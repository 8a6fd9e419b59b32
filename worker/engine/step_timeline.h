// When each instruction of one step ran on this rank, for `fathomctl trace`.
//
// Recorded only in steps for which the ranks agreed on it (train_loop); entering something then
// costs a reading of the clock and a word in a list. Entries last until the next one.
#ifndef FATHOM_WORKER_ENGINE_STEP_TIMELINE_H_
#define FATHOM_WORKER_ENGINE_STEP_TIMELINE_H_

#include <cstdint>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/schedule/instruction.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::engine {

class StepTimeline {
 public:
  explicit StepTimeline(const Clock* clock) : clock_(clock) {}

  // From here on entries are recorded; those of an earlier step are forgotten.
  void Begin();
  bool recording() const { return recording_; }

  // `what` lives as long as the process: a literal.
  void Enter(const char* what) { Add(what); }
  void Enter(const schedule::Instruction& instruction) { Add(instruction); }
  // Waiting for peers, inside the newest entry.
  void AddWait(double seconds);

  // Ends the recording; `now` is the wall clock's time. Instructions and beginning as in RankTimes;
  // rank, pipeline rank and node are the caller's.
  v1::RankTimes End(absl::Time now);

 private:
  struct Entry {
    std::variant<const char*, schedule::Instruction> what;
    absl::Duration start;
    double wait_s = 0;
  };
  void Add(std::variant<const char*, schedule::Instruction> what);

  const Clock* const clock_;
  bool recording_ = false;
  absl::Duration begin_;
  std::vector<Entry> entries_;
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_STEP_TIMELINE_H_
