// Notices that a job's steps stand still, and finds whose fault that is. Pure.
//
// A job stands still when no rank of its epoch has reported a new step for ten of its own recent
// steps, and for kHangPatienceMs at least. That is told from the job alone, not from other jobs.
// Then every rank is asked what it is at; kHangAnswerMs later the answers are judged. In a hang
// nearly all ranks wait for others; to blame is who does not wait: whose process is stopped, who
// computes or waits for a disk for long, who says nothing.
#ifndef FATHOM_COORDINATOR_CORE_HANG_DETECTOR_H_
#define FATHOM_COORDINATOR_CORE_HANG_DETECTOR_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "proto/fathom/v1/worker.pb.h"

namespace fathom {

inline constexpr int64_t kHangPatienceMs = 10'000;
inline constexpr double kHangSteps = 10;
inline constexpr int64_t kHangAnswerMs = 2'000;

// One job at one moment.
struct HangSample {
  uint64_t epoch = 0;
  int64_t step = 0;         // newest of any rank in this epoch; 0: none yet
  double step_seconds = 0;  // that it took; 0: not known
  // For what the plan doesn't tell: the first step of an epoch, and what follows the last one.
  double first_step_s = 0;
  bool last_step = false;
  double extra_steps = 0;  // that a validation after this step takes
  int64_t now_ms = 0;      // steady
};

class HangDetector {
 public:
  enum class Verdict { kMoving, kAsk, kAwaitAnswers, kConclude };
  // kConclude is said once; after that the job is watched anew.
  Verdict Watch(const HangSample& sample);
  // Nobody watched for so long: it counts for nothing.
  void Pardon(int64_t pause_ms) { progress_ms_ += pause_ms; }

  int64_t silent_ms(int64_t now_ms) const { return now_ms - progress_ms_; }
  double patience_ms() const { return patience_ms_; }

 private:
  uint64_t epoch_ = 0;
  int64_t step_ = 0;
  int64_t progress_ms_ = 0;
  int64_t asked_ms_ = -1;
  double patience_ms_ = 0;
  std::deque<double> step_seconds_;
};

struct HangBlame {
  int32_t rank = 0;
  std::string why;  // "its process is stopped by a signal"
};

// `ranks` in rank order; an answer with another token is none. Empty: all wait for each other, or
// nobody said anything, so that nothing tells them apart.
std::vector<HangBlame> BlameForHang(const std::vector<v1::RankStatus>& ranks, uint64_t token,
                                    double patience_s);

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_HANG_DETECTOR_H_
