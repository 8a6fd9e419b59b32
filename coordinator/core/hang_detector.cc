#include "coordinator/core/hang_detector.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace fathom {
namespace {

constexpr size_t kStepsKept = 16;

double Median(std::deque<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// A thread that sleeps somewhere else than in a wait for a peer. Without names of our own functions
// a stack tells nothing.
bool SleepsElsewhere(const std::string& stack) {
  if (!absl::StrContains(stack, "fathom")) return false;
  const std::string lower = absl::AsciiStrToLower(stack);
  return !absl::StrContains(lower, "wait") && !absl::StrContains(lower, "transport");
}

// Empty: it waits for a peer, as the innocent do.
std::string WhyToBlame(const v1::RankDiagnosis& diagnosis, double patience_s) {
  const std::string& process = diagnosis.process();
  const std::string at = absl::StrFormat("in %s for %.0f s", diagnosis.instruction(),
                                         std::max(0.0, diagnosis.seconds()));
  if (absl::StartsWith(process, "stopped") || process == "traced" || process == "ended") {
    return absl::StrCat("its process is ", process);
  }
  const bool long_since = diagnosis.seconds() >= patience_s / 2;
  if (process == "in disk wait" && long_since) return absl::StrCat("it waits for a disk, ", at);
  if (process == "running" && long_since) return absl::StrCat("it computes, ", at);
  if (process == "sleeping" && long_since && SleepsElsewhere(diagnosis.stack())) {
    return absl::StrCat("it sleeps, and not in a wait for a peer, ", at);
  }
  return "";
}

}  // namespace

HangDetector::Verdict HangDetector::Watch(const HangSample& sample) {
  if (sample.epoch != epoch_ || sample.step > step_) {
    if (sample.epoch != epoch_) step_seconds_.clear();
    epoch_ = sample.epoch;
    step_ = sample.step;
    progress_ms_ = sample.now_ms;
    asked_ms_ = -1;
    if (sample.step_seconds > 0) step_seconds_.push_back(sample.step_seconds);
    if (step_seconds_.size() > kStepsKept) step_seconds_.pop_front();
  }
  const double known_ms = step_seconds_.empty() ? 0 : 1000 * Median(step_seconds_);
  patience_ms_ = std::max(static_cast<double>(kHangPatienceMs),
                          kHangSteps * known_ms * (1 + std::max(0.0, sample.extra_steps)));
  if (step_seconds_.empty() || sample.last_step) {
    patience_ms_ = std::max(patience_ms_, 1000 * sample.first_step_s);
  }
  if (asked_ms_ < 0) {
    if (static_cast<double>(silent_ms(sample.now_ms)) < patience_ms_) return Verdict::kMoving;
    asked_ms_ = sample.now_ms;
    return Verdict::kAsk;
  }
  if (sample.now_ms - asked_ms_ < kHangAnswerMs) return Verdict::kAwaitAnswers;
  asked_ms_ = -1;
  progress_ms_ = sample.now_ms;
  return Verdict::kConclude;
}

std::vector<HangBlame> BlameForHang(const std::vector<v1::RankStatus>& ranks, uint64_t token,
                                    double patience_s) {
  std::vector<HangBlame> blamed;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const v1::RankDiagnosis& diagnosis = ranks[i].diagnosis();
    const std::string why = diagnosis.token() != token
                                ? "it did not answer the question what it is at"
                                : WhyToBlame(diagnosis, patience_s);
    if (!why.empty()) blamed.push_back({static_cast<int32_t>(i), why});
  }
  if (blamed.size() == ranks.size() && ranks.size() > 1) blamed.clear();
  return blamed;
}

}  // namespace fathom
