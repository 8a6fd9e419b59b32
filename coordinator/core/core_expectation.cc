// What the planner expects of running jobs, beside what they measure.
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

// Of a step, measured against expected: nearer than that is as expected.
constexpr double kAsExpected = 0.15;

std::string InSeconds(double seconds) {
  return seconds < 1 ? absl::StrFormat("%.1f ms", 1e3 * seconds)
                     : absl::StrFormat("%.2f s", seconds);
}

}  // namespace

Expectation CoordinatorCore::Expect(const std::shared_ptr<const v1::Plan>& plan) const {
  Expectation expectation;
  expectation.plan = plan;
  if (!options_.planning.predict) {
    expectation.note = "nothing predicts steps here";
    return expectation;
  }
  std::vector<v1::Node> nodes;
  for (const auto& [name, entry] : nodes_.nodes()) nodes.push_back(entry.report.node());
  absl::StatusOr<v1::Prediction> prediction = options_.planning.predict(*plan, nodes);
  if (prediction.ok()) {
    expectation.prediction = std::make_shared<const v1::Prediction>(*std::move(prediction));
  } else {
    expectation.note = std::string(prediction.status().message());
  }
  return expectation;
}

void CoordinatorCore::ExpectOfRunning() {
  std::erase_if(expectations_,
                [this](const auto& entry) { return state_.Find(entry.first) == nullptr; });
  for (const auto& [id, gang] : gangs_) {
    const auto job = state_.Find(id);
    if (job == nullptr || job->state != v1::JOB_STATE_RUNNING || !job->HasCurrentPlan()) continue;
    Expectation& known = expectations_[id];
    if (known.plan != job->plan) known = Expect(job->plan);
  }
}

const Expectation* CoordinatorCore::FindExpectation(const JobId& id) const {
  const auto found = expectations_.find(id);
  const auto job = state_.Find(id);
  if (found == expectations_.end() || job == nullptr) return nullptr;
  return found->second.plan == job->plan ? &found->second : nullptr;
}

void CoordinatorCore::ExplainExpectation(const DurableJob& job,
                                         v1::ExplainJobResponse* response) const {
  const Expectation* expectation = FindExpectation(job.id);
  if (job.state != v1::JOB_STATE_RUNNING || expectation == nullptr) return;
  if (expectation->prediction == nullptr) {
    response->add_lines(
        absl::StrCat("how long a step should take isn't known: ", expectation->note));
    return;
  }
  const double expected = expectation->prediction->step().seconds();
  std::string line = absl::StrCat("a step is expected to take ", InSeconds(expected));
  const Gang* gang = FindGang(job.id);
  const double measured = gang == nullptr ? 0 : gang->SecondsPerStep();
  if (measured > 0 && expected > 0) {
    const double ratio = measured / expected;
    absl::StrAppend(&line, " and takes ", InSeconds(measured));
    if (ratio > 1 + kAsExpected) {
      absl::StrAppendFormat(&line, ", %.0f%% longer: `fathomctl trace` shows where",
                            100 * (ratio - 1));
    } else if (ratio < 1 - kAsExpected) {
      absl::StrAppendFormat(&line, ", %.0f%% less", 100 * (1 - ratio));
    } else {
      line += ", as it should";
    }
  }
  response->add_lines(line);
}

}  // namespace fathom
