#include "coordinator/core/gang.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/planted.h"
#include "common/base/text.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr size_t kRecentStepsMax = 16;

// How far along the way to its end; a failed, stopped or holding rank is nowhere.
int Progress(v1::RankState state) {
  switch (state) {
    case v1::RANK_STATE_STARTING:
      return 1;
    case v1::RANK_STATE_LISTENING:
      return 2;
    case v1::RANK_STATE_LOADING:
      return 3;
    case v1::RANK_STATE_TRAINING:
      return 4;
    case v1::RANK_STATE_FINISHED:
      return 5;
    default:
      return 0;
  }
}

bool IsAtLeastListening(const v1::RankStatus& rank) {
  return Progress(rank.state()) >= 2 && !rank.endpoint().empty();
}

// It ended this epoch as it should; its process may be gone, or be of a later epoch.
bool HasLeftWell(v1::RankState state) {
  return state == v1::RANK_STATE_FINISHED || state == v1::RANK_STATE_PARKED ||
         state == v1::RANK_STATE_MOVED;
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
    ranks_on_[plan_->ranks(static_cast<int>(i)).node()].push_back(static_cast<int32_t>(i));
  }
  count_of_[v1::RANK_STATE_UNSPECIFIED] = Size();
}

bool Gang::Report(const v1::NodeReport& report, int64_t steady_ms) {
  const auto here = ranks_on_.find(report.node().name());
  if (here == ranks_on_.end()) return false;
  bool changed = false;
  bool went_on = false;  // with a later epoch
  std::set<int32_t> reported;
  for (const v1::RankStatus& status : report.ranks()) {
    if (status.job() != plan_->job()) continue;
    if (status.epoch() > plan_->epoch() &&
        (Progress(status.state()) >= 3 || status.state() == v1::RANK_STATE_HELD)) {
      went_on = true;
    }
    if (status.epoch() != plan_->epoch() && !FATHOM_PLANT(kOldEpochsReportCounts)) continue;
    const bool ours = status.rank() >= 0 && status.rank() < plan_->ranks_size() &&
                      plan_->ranks(status.rank()).node() == report.node().name();
    if (!ours || !reported.insert(status.rank()).second) continue;
    changed = Update(status, report.incarnation(), steady_ms) || changed;
  }
  for (const int32_t rank : here->second) {
    changed = changed || node_incarnation_[rank] != report.incarnation();
    node_incarnation_[rank] = report.incarnation();
    if (reported.contains(rank) || !seen_[rank] || HasLeftWell(ranks_[rank].state())) continue;
    if (went_on) {
      SetState(rank, v1::RANK_STATE_MOVED);
      changed = true;
    } else {
      changed = Missing(rank, report.incarnation()) || changed;
    }
  }
  return changed;
}

void Gang::Recount(const v1::RankStatus& rank, int by) {
  count_of_[rank.state()] += by;
  if (IsAtLeastListening(rank)) listening_ += by;
  if (Progress(rank.state()) >= 3) loading_ += by;
  if (Progress(rank.state()) >= 4) training_ += by;
}

void Gang::SetState(int32_t rank, v1::RankState state) {
  Recount(ranks_[rank], -1);
  ranks_[rank].set_state(state);
  Recount(ranks_[rank], 1);
}

int Gang::CountOf(v1::RankState state) const {
  const auto found = count_of_.find(state);
  return found == count_of_.end() ? 0 : found->second;
}

bool Gang::Update(const v1::RankStatus& status, int64_t incarnation, int64_t steady_ms) {
  v1::RankStatus& rank = ranks_[status.rank()];
  if (rank.state() == v1::RANK_STATE_FINISHED && status.state() != v1::RANK_STATE_FINISHED) {
    return false;
  }
  bool changed = rank.state() != status.state() ||
                 rank.timeline().first_step_ms() != status.timeline().first_step_ms() ||
                 rank.diagnosis().token() != status.diagnosis().token() ||
                 rank.last_step().step() == 0;
  if (status.has_last_step()) {
    best_step_ = std::max(best_step_, status.last_step().step());
    if (status.last_step().step() > newest_step_.step) {
      newest_step_ = {status.last_step().step(), status.last_step().finished_ms(),
                      status.last_step().seconds()};
    }
    const bool newer = status.last_step().step() > rank.last_step().step();
    if (status.rank() == 0 && newer) CountStep(status.last_step());
  }
  if (status.has_checkpoint() && status.checkpoint().step() > checkpoint_.step()) {
    checkpoint_ = status.checkpoint();
    changed = true;
  }
  // A second process of the same rank and epoch would speak to peers that await the first.
  const bool replaced = IsAtLeastListening(rank) && rank.pid() != 0 && status.pid() != 0 &&
                        rank.pid() != status.pid();
  Recount(rank, -1);
  rank = status;
  Recount(rank, 1);
  if (status.message().size() > limits::kMaxTextBytes) {
    rank.set_message(CutText(status.message(), limits::kMaxTextBytes));
  }
  incarnation_of_[status.rank()] = incarnation;
  seen_[status.rank()] = true;
  if (status.state() == v1::RANK_STATE_FAILED) {
    Fail(status.rank(), rank.message().empty() ? "it gave no reason" : rank.message());
  } else if (status.state() == v1::RANK_STATE_STOPPED) {
    Fail(status.rank(), absl::StrCat("stopped though it should run: ", rank.message()));
  } else if (replaced) {
    Fail(status.rank(), "its process was replaced within an epoch");
    changed = true;
  }
  const bool complains = status.state() == v1::RANK_STATE_HELD || failure_blames_peer_;
  if (complains && complaint_.rank < 0) complaint_ = {status.rank(), rank.message(), steady_ms};
  return changed;
}

bool Gang::Missing(int32_t rank, int64_t incarnation) {
  const bool restarted = incarnation_of_[rank] != 0 && incarnation_of_[rank] != incarnation;
  const bool had_failed = failure() != nullptr;
  Fail(rank, restarted ? "its node's daemon restarted without it" : "its node no longer has it");
  return !had_failed;
}

void Gang::Fail(int32_t rank, const std::string& message) {
  const bool blames_peer = BlamesPeer(message);
  if (!failure_.message.empty() && !(failure_blames_peer_ && !blames_peer)) return;
  failure_.message =
      absl::StrCat("rank ", rank, " on node ", plan_->ranks(rank).node(), " failed: ", message);
  failure_.incurable = IsIncurable(message);
  failure_.cause = "rank_failed";
  failure_.node = plan_->ranks(rank).node();
  failure_blames_peer_ = blames_peer;
}

void Gang::NodeLost(const NodeName& node, const std::string& reason) {
  const auto here = ranks_on_.find(node.value());
  if (here == ranks_on_.end()) return;
  const bool all_done = std::all_of(here->second.begin(), here->second.end(), [&](int32_t rank) {
    return ranks_[rank].state() == v1::RANK_STATE_FINISHED ||
           ranks_[rank].state() == v1::RANK_STATE_PARKED;
  });
  if (all_done || (failure() != nullptr && !failure_blames_peer_)) return;
  failure_ = {absl::StrCat("node ", node.value(), " was lost: ", reason), false, "node_lost",
              node.value()};
  failure_blames_peer_ = false;
}

std::map<std::string, std::set<std::string>> Gang::Blamed() const {
  std::map<std::string, std::set<std::string>> blamed;
  for (const v1::RankStatus& rank : ranks_) {
    if (rank.state() != v1::RANK_STATE_HELD || rank.blamed_node().empty()) continue;
    if (!ranks_on_.contains(rank.blamed_node())) continue;
    blamed[rank.blamed_node()].insert(plan_->ranks(rank.rank()).node());
  }
  return blamed;
}

bool Gang::FirstStepDone() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const v1::RankStatus& rank) {
    return rank.timeline().first_step_ms() > 0 ||
           (Progress(rank.state()) >= 4 && rank.has_last_step() &&
            rank.last_step().step() > rank.restored().step());
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
  const auto here = ranks_on_.find(node.value());
  if (here == ranks_on_.end()) return wanted;
  for (const int32_t rank : here->second) {
    if (!DoneBefore(rank)) wanted.push_back(rank);
  }
  return wanted;
}

bool Gang::DoneBefore(int32_t rank) const {
  const v1::RankState state = ranks_[rank].state();
  const bool done = state == v1::RANK_STATE_FINISHED || state == v1::RANK_STATE_PARKED;
  return done && node_incarnation_[rank] != incarnation_of_[rank];
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
