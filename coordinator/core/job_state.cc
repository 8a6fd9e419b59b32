#include "coordinator/core/job_state.h"

#include "absl/strings/strip.h"

namespace fathom {

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_COMPLETED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

bool IsActive(v1::JobState state) {
  return state == v1::JOB_STATE_STARTING || state == v1::JOB_STATE_RUNNING ||
         state == v1::JOB_STATE_RECOVERING;
}

bool MayChange(v1::JobState from, v1::JobState to) {
  if (IsFinal(from)) return false;
  switch (to) {
    case v1::JOB_STATE_PENDING:
      return from == v1::JOB_STATE_UNSPECIFIED || from == v1::JOB_STATE_SUSPENDED || IsActive(from);
    case v1::JOB_STATE_SUSPENDED:
      return from == v1::JOB_STATE_PENDING || IsActive(from);
    case v1::JOB_STATE_STARTING:
      return from == v1::JOB_STATE_PENDING;
    case v1::JOB_STATE_RUNNING:
      return from == v1::JOB_STATE_STARTING || from == v1::JOB_STATE_RECOVERING;
    case v1::JOB_STATE_RECOVERING:
    case v1::JOB_STATE_COMPLETED:
      return IsActive(from);
    case v1::JOB_STATE_FAILED:
    case v1::JOB_STATE_CANCELLED:
      return from != v1::JOB_STATE_UNSPECIFIED;
    default:
      return false;
  }
}

std::string NameOfState(v1::JobState state) {
  return std::string(absl::StripPrefix(v1::JobState_Name(state), "JOB_STATE_"));
}

std::string NameOfState(v1::NodeState state) {
  return std::string(absl::StripPrefix(v1::NodeState_Name(state), "NODE_STATE_"));
}

std::string NameOfState(v1::RankState state) {
  return std::string(absl::StripPrefix(v1::RankState_Name(state), "RANK_STATE_"));
}

}  // namespace fathom
