// Where a step's time goes on this rank: seconds by part, from a clock that is passed in; and what
// the rank is at, passed on to whoever keeps that.
#ifndef FATHOM_WORKER_ENGINE_STEP_METER_H_
#define FATHOM_WORKER_ENGINE_STEP_METER_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "worker/engine/rank_progress.h"
#include "worker/engine/step_timeline.h"

namespace fathom::engine {

enum class Part : uint8_t {
  kForward,
  kBackward,
  kWeight,
  kOverlapped,
  kWait,  // for peers, wherever it happens; not counted in the part it happens in
  kReduce,
  kOptimizer,
};
inline constexpr int kParts = 7;

class StepMeter {
 public:
  explicit StepMeter(const Clock* clock) : clock_(clock), timeline_(clock) {}

  // `progress` outlives the meter; null: nobody keeps it.
  void TellProgress(RankProgress* progress) { progress_ = progress; }
  // A literal, or an instruction of the schedule.
  template <typename What>
  void At(const What& what) {
    if (progress_ != nullptr) progress_->At(what);
    if (timeline_.recording()) timeline_.Enter(what);
  }
  void SetStepsDone(int64_t steps) {
    if (progress_ != nullptr) progress_->SetStepsDone(steps);
  }

  // Of what the rank is at from here to EndTimeline.
  void BeginTimeline() { timeline_.Begin(); }
  bool recording() const { return timeline_.recording(); }
  v1::RankTimes EndTimeline(absl::Time now) { return timeline_.End(now); }

  void Reset() { seconds_.fill(0); }
  double seconds(Part part) const { return seconds_[static_cast<size_t>(part)]; }

  // Times its own life; what nests inside is subtracted from the outer part.
  class Scope {
   public:
    Scope(StepMeter* meter, Part part)
        : meter_(meter),
          part_(part),
          outer_nested_(meter->nested_),
          start_(meter->clock_->Steady()) {
      meter_->nested_ = 0;
    }
    ~Scope() {
      const double elapsed = absl::ToDoubleSeconds(meter_->clock_->Steady() - start_);
      meter_->seconds_[static_cast<size_t>(part_)] += elapsed - meter_->nested_;
      if (part_ == Part::kWait) meter_->timeline_.AddWait(elapsed - meter_->nested_);
      meter_->nested_ = outer_nested_ + elapsed;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    StepMeter* meter_;
    Part part_;
    double outer_nested_;
    absl::Duration start_;
  };

 private:
  const Clock* clock_;
  RankProgress* progress_ = nullptr;
  StepTimeline timeline_;
  std::array<double, kParts> seconds_{};
  double nested_ = 0;  // seconds of finished scopes directly inside the current one
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_STEP_METER_H_
