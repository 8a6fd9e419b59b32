#include "coordinator/core/gang.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr size_t kRecentStepsMax = 16;

bool IsAtLeastListening(const v1::RankStatus& rank) {
  return (rank.state() == v1::RANK_STATE_LISTENING || rank.state() == v1::RANK_STATE_TRAINING ||
          rank.state() == v1::RANK_STATE_FINISHED) &&
         !rank.endpoint().empty();
}

bool IsAtLeastTraining(const v1::RankStatus& rank) {
  return rank.state() == v1::RANK_STATE_TRAINING || rank.state() == v1::RANK_STATE_FINISHED;
}

// How far along the way to training; a failed or stopped rank is nowhere.
int Progress(v1::RankState state) {
  switch (state) {
    case v1::RANK_STATE_STARTING:
      return 1;
    case v1::RANK_STATE_LISTENING:
      return 2;
    case v1::RANK_STATE_TRAINING:
      return 3;
    case v1::RANK_STATE_FINISHED:
      return 4;
    default:
      return 0;
  }
}

// A rank that lost its peers is seldom the one to blame.
bool BlamesPeer(const std::string& message) {
  for (const char* code : {"UNAVAILABLE: ", "DEADLINE_EXCEEDED: ", "ABORTED: ", "CANCELLED: "}) {
    if (absl::StartsWith(message, code)) return true;
  }
  return false;
}

}  // namespace

bool IsIncurable(const std::string& message) {
  for (const char* code : {"INVALID_ARGUMENT: ", "NOT_FOUND: ", "DATA_LOSS: ", "OUT_OF_RANGE: ",
                           "PERMISSION_DENIED: ", "UNIMPLEMENTED: "}) {
    if (absl::StartsWith(message, code)) return true;
  }
  return false;
}

Gang::Gang(std::shared_ptr<const v1::Plan> plan, bool seen, int64_t steady_ms)
    : plan_(std::move(plan)), since_steady_ms_(steady_ms) {
  const size_t count = static_cast<size_t>(plan_->ranks_size());
  FATHOM_CHECK(count > 0) << plan_->job() << " has a plan without ranks";
  ranks_.resize(count);
  incarnation_of_.resize(count);
  node_incarnation_.resize(count);
  seen_.assign(count, seen);
  for (size_t i = 0; i < count; ++i) {
    ranks_[i].set_job(plan_->job());
    ranks_[i].set_epoch(plan_->epoch());
    ranks_[i].set_rank(static_cast<int32_t>(i));
  }
}

void Gang::Report(const v1::NodeReport& report) {
  std::set<int32_t> reported;
  for (const v1::RankStatus& status : report.ranks()) {
    if (status.job() != plan_->job() || status.epoch() != plan_->epoch()) continue;
    const bool ours = status.rank() >= 0 && status.rank() < plan_->ranks_size() &&
                      plan_->ranks(status.rank()).node() == report.node().name();
    if (!ours || !reported.insert(status.rank()).second) continue;
    Update(status, report.incarnation());
  }
  for (const v1::RankAssignment& assignment : plan_->ranks()) {
    if (assignment.node() != report.node().name()) continue;
    node_incarnation_[assignment.rank()] = report.incarnation();
    if (!reported.contains(assignment.rank())) Missing(assignment.rank(), report.incarnation());
  }
}

void Gang::Update(const v1::RankStatus& status, int64_t incarnation) {
  v1::RankStatus& rank = ranks_[status.rank()];
  if (rank.state() == v1::RANK_STATE_FINISHED && status.state() != v1::RANK_STATE_FINISHED) return;
  if (status.has_last_step()) {
    best_step_ = std::max(best_step_, status.last_step().step());
    const bool newer = status.last_step().step() > rank.last_step().step();
    if (status.rank() == 0 && newer) CountStep(status.last_step());
  }
  if (status.has_checkpoint() && status.checkpoint().step() > checkpoint_.step()) {
    checkpoint_ = status.checkpoint();
  }
  // A second process of the same rank and epoch would speak to peers that await the first.
  const bool replaced = IsAtLeastListening(rank) && rank.pid() != 0 && status.pid() != 0 &&
                        rank.pid() != status.pid();
  rank = status;
  rank.set_message(CutText(status.message(), limits::kMaxTextBytes));
  incarnation_of_[status.rank()] = incarnation;
  seen_[status.rank()] = true;
  if (status.state() == v1::RANK_STATE_FAILED) {
    Fail(status.rank(), rank.message().empty() ? "it gave no reason" : rank.message());
  } else if (status.state() == v1::RANK_STATE_STOPPED) {
    Fail(status.rank(), absl::StrCat("stopped though it should run: ", rank.message()));
  } else if (replaced) {
    Fail(status.rank(), "its process was replaced within an epoch");
  }
}

void Gang::Missing(int32_t rank, int64_t incarnation) {
  if (!seen_[rank] || ranks_[rank].state() == v1::RANK_STATE_FINISHED) return;
  const bool restarted = incarnation_of_[rank] != 0 && incarnation_of_[rank] != incarnation;
  Fail(rank, restarted ? "its node's daemon restarted without it" : "its node no longer has it");
}

void Gang::Fail(int32_t rank, const std::string& message) {
  const bool blames_peer = BlamesPeer(message);
  if (!failure_.message.empty() && !(failure_blames_peer_ && !blames_peer)) return;
  failure_.message =
      absl::StrCat("rank ", rank, " on node ", plan_->ranks(rank).node(), " failed: ", message);
  failure_.incurable = IsIncurable(message);
  failure_blames_peer_ = blames_peer;
}

void Gang::NodeLost(const NodeName& node, const std::string& reason) {
  for (const v1::RankAssignment& assignment : plan_->ranks()) {
    if (assignment.node() != node.value()) continue;
    if (ranks_[assignment.rank()].state() == v1::RANK_STATE_FINISHED) continue;
    if (failure_.message.empty() || failure_blames_peer_) {
      failure_ = {absl::StrCat("node ", node.value(), " was lost: ", reason), false};
      failure_blames_peer_ = false;
    }
    return;
  }
}

bool Gang::AllListen() const {
  return std::all_of(ranks_.begin(), ranks_.end(), IsAtLeastListening);
}

bool Gang::AllTrain() const { return std::all_of(ranks_.begin(), ranks_.end(), IsAtLeastTraining); }

bool Gang::AllFinished() const {
  return std::all_of(ranks_.begin(), ranks_.end(), [](const v1::RankStatus& rank) {
    return rank.state() == v1::RANK_STATE_FINISHED;
  });
}

std::string Gang::Laggard() const {
  const auto last = std::min_element(ranks_.begin(), ranks_.end(),
                                     [](const v1::RankStatus& a, const v1::RankStatus& b) {
                                       return Progress(a.state()) < Progress(b.state());
                                     });
  const std::string where =
      absl::StrCat("rank ", last->rank(), " on node ", plan_->ranks(last->rank()).node());
  if (last->state() == v1::RANK_STATE_UNSPECIFIED) return absl::StrCat(where, " has not started");
  return absl::StrCat(where, " is ", NameOfState(last->state()),
                      last->message().empty() ? "" : ": ", last->message());
}

std::vector<int32_t> Gang::WantedOn(const NodeName& node) const {
  std::vector<int32_t> wanted;
  for (const v1::RankAssignment& assignment : plan_->ranks()) {
    if (assignment.node() != node.value()) continue;
    if (!DoneBefore(assignment.rank())) wanted.push_back(assignment.rank());
  }
  return wanted;
}

bool Gang::DoneBefore(int32_t rank) const {
  return ranks_[rank].state() == v1::RANK_STATE_FINISHED &&
         node_incarnation_[rank] != incarnation_of_[rank];
}

int Gang::DoneBeforeCount() const {
  int count = 0;
  for (size_t i = 0; i < ranks_.size(); ++i) count += DoneBefore(static_cast<int32_t>(i));
  return count;
}

void Gang::CountStep(const v1::StepReport& step) {
  tokens_counted_ +=
      step.tokens() * (recent_steps_.empty() ? 1 : step.step() - recent_steps_.back().step());
  recent_steps_.push_back(step);
  recent_steps_.back().clear_expert_loads();
  if (recent_steps_.size() > kRecentStepsMax) recent_steps_.pop_front();
}

double Gang::SecondsPerStep() const {
  if (recent_steps_.empty()) return 0;
  const v1::StepReport& first = recent_steps_.front();
  const v1::StepReport& last = recent_steps_.back();
  const double elapsed_s = static_cast<double>(last.finished_ms() - first.finished_ms()) / 1000;
  // Stamps are whole milliseconds of a wall clock; over little time the steps' own durations tell
  // more.
  if (last.step() > first.step() && elapsed_s >= 0.1) {
    return elapsed_s / static_cast<double>(last.step() - first.step());
  }
  double seconds = 0;
  for (const v1::StepReport& step : recent_steps_) seconds += step.seconds();
  return std::max(0.0, seconds / static_cast<double>(recent_steps_.size()));
}

double Gang::TokensPerSecond() const {
  const double seconds = SecondsPerStep();
  return seconds > 0 ? static_cast<double>(recent_steps_.back().tokens()) / seconds : 0;
}

}  // namespace fathom
