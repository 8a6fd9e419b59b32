// Epochs: how one fails, what comes after it, and changes at a step boundary.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr char kStateChanged[] = "JobStateChanged";
constexpr int64_t kDefaultMaxStalledRestarts = 3;

int64_t MaxStalledRestarts(const v1::JobSpec& spec) {
  return spec.restart().has_max_restarts_without_progress()
             ? spec.restart().max_restarts_without_progress()
             : kDefaultMaxStalledRestarts;
}

}  // namespace

void CoordinatorCore::FailEpoch(const DurableJob& job, const Gang& gang, const GangFailure& failure,
                                Moment now) {
  if (failure.incurable) return EndJob(job, v1::JOB_STATE_FAILED, failure.message, now);
  const int64_t best = std::max(job.best_step, gang.best_step());
  const int64_t stalled = best > job.best_step ? 1 : job.stalled_restarts + 1;
  const int64_t allowed = MaxStalledRestarts(job.job->spec());
  if (stalled > allowed || job.epoch >= limits::kMaxJobEpochs) {
    return EndJob(job, v1::JOB_STATE_FAILED,
                  absl::StrCat("gave up after ", stalled - 1,
                               " restarts without progress: ", failure.message),
                  now);
  }
  v1::JobChange change;
  change.set_state(v1::JOB_STATE_RECOVERING);
  change.set_epoch(job.epoch + 1);
  change.set_best_step(best);
  change.set_stalled_restarts(stalled);
  ChangeJob(job, kStateChanged, absl::StrCat("epoch ", job.epoch, " ended: ", failure.message),
            std::move(change), now);
}

}  // namespace fathom
