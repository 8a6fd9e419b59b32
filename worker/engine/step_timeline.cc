#include "worker/engine/step_timeline.h"

#include <string>
#include <utility>

namespace fathom::engine {

void StepTimeline::Begin() {
  recording_ = true;
  entries_.clear();
  begin_ = clock_->Steady();
}

void StepTimeline::Add(std::variant<const char*, schedule::Instruction> what) {
  if (recording_) entries_.push_back({std::move(what), clock_->Steady()});
}

void StepTimeline::AddWait(double seconds) {
  if (recording_ && !entries_.empty()) entries_.back().wait_s += seconds;
}

v1::RankTimes StepTimeline::End(absl::Time now) {
  const absl::Duration end = clock_->Steady();
  recording_ = false;
  v1::RankTimes times;
  times.set_begin_us(absl::ToUnixMicros(now - (end - begin_)));
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    v1::TimedInstruction& timed = *times.add_instructions();
    const auto* literal = std::get_if<const char*>(&entry.what);
    timed.set_what(literal != nullptr
                       ? std::string(*literal)
                       : schedule::ToString(std::get<schedule::Instruction>(entry.what)));
    timed.set_start_s(absl::ToDoubleSeconds(entry.start - begin_));
    const absl::Duration until = i + 1 < entries_.size() ? entries_[i + 1].start : end;
    timed.set_end_s(absl::ToDoubleSeconds(until - begin_));
    timed.set_wait_s(entry.wait_s);
  }
  return times;
}

}  // namespace fathom::engine
