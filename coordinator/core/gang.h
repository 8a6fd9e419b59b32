// The ranks of one epoch of one job, as the nodes report them: who listens, who trains, who failed,
// and how fast the steps go. Volatile; filled again from reports after a restart.
//
// A report of another epoch changes nothing here: the epoch is the fence.
#ifndef FATHOM_COORDINATOR_CORE_GANG_H_
#define FATHOM_COORDINATOR_CORE_GANG_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "proto/fathom/v1/plan.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom {

// Why an epoch can't go on.
struct GangFailure {
  std::string message;     // complete sentence for people
  bool incurable = false;  // another epoch would end the same way
  std::string cause;       // as RecoveryRecord.cause
  std::string node;        // the culprit; may be empty
};

// What ranks that dropped the epoch for want of a peer complain about.
struct Complaint {
  int32_t rank = -1;     // the first that complained
  std::string message;   // its words
  int64_t since_ms = 0;  // steady
};

// A step as it is needed to tell what an epoch's end cost.
struct StepMark {
  int64_t step = 0;
  int64_t finished_ms = 0;  // wall
  double seconds = 0;
};

class Gang {
 public:
  // `seen`: the ranks are known to have been started, so one that its node does not report is gone.
  Gang(std::shared_ptr<const v1::Plan> plan, bool seen, int64_t steady_ms);

  // What node `node` says of this epoch's ranks; reports all of them at once. True if more changed
  // than which step they are at.
  bool Report(const v1::NodeReport& report, int64_t steady_ms);
  void NodeLost(const NodeName& node, const std::string& reason);

  bool AllListen() const { return listening_ == Size(); }  // endpoints are known
  bool AllTrain() const { return training_ == Size(); }    // or have finished
  bool AllLoad() const { return loading_ == Size(); }      // connected, or further
  bool AllFinished() const { return CountOf(v1::RANK_STATE_FINISHED) == Size(); }
  bool AllParked() const { return CountOf(v1::RANK_STATE_PARKED) == Size(); }
  int CountOf(v1::RankState state) const;
  int Size() const { return static_cast<int>(ranks_.size()); }
  // Null while there is none. The first that was seen, unless a later one explains more. Ranks that
  // merely hold are no failure but a complaint; so is, besides, a failure for want of a peer.
  const GangFailure* failure() const { return failure_.message.empty() ? nullptr : &failure_; }
  bool failure_blames_peer() const { return failure_blames_peer_; }
  const Complaint* complaint() const { return complaint_.rank < 0 ? nullptr : &complaint_; }
  // Nodes that ranks holding this epoch blame, and on how many nodes those ranks are.
  std::map<std::string, std::set<std::string>> Blamed() const;
  // "rank 3 on node b is LISTENING": the one furthest from training.
  std::string Laggard() const;

  const v1::Plan& plan() const { return *plan_; }
  int64_t since_steady_ms() const { return since_steady_ms_; }
  const std::vector<v1::RankStatus>& ranks() const { return ranks_; }
  const std::map<std::string, std::vector<int32_t>>& ranks_on() const { return ranks_on_; }
  // Ranks on `node` that it should run: those of the plan, except that a later incarnation of the
  // node does not run again what an earlier one finished.
  std::vector<int32_t> WantedOn(const NodeName& node) const;
  int DoneBeforeCount() const;  // ranks left out for that reason

  int64_t best_step() const { return best_step_; }
  const StepMark& newest_step() const { return newest_step_; }  // of any rank
  // The first step of this epoch is committed.
  bool FirstStepDone() const;
  const v1::CheckpointReport& checkpoint() const { return checkpoint_; }
  const v1::StepReport& last_step() const { return ranks_[0].last_step(); }
  const v1::ValidationReport& validation() const { return ranks_[0].validation(); }
  const std::string& weights_sha256() const { return ranks_[0].weights_sha256(); }
  int64_t tokens_counted() const { return tokens_counted_; }  // by rank 0, since this gang began
  double TokensPerSecond() const;                             // 0: not known
  double SecondsPerStep() const;                              // 0: not known

 private:
  bool Update(const v1::RankStatus& status, int64_t incarnation, int64_t steady_ms);
  bool Missing(int32_t rank, int64_t incarnation);
  void SetState(int32_t rank, v1::RankState state);
  void Recount(const v1::RankStatus& rank, int by);
  void Fail(int32_t rank, const std::string& message);
  void CountStep(const v1::StepReport& step);
  bool DoneBefore(int32_t rank) const;

  std::shared_ptr<const v1::Plan> plan_;
  int64_t since_steady_ms_;
  std::map<std::string, std::vector<int32_t>> ranks_on_;  // by node
  std::vector<v1::RankStatus> ranks_;
  std::map<int, int> count_of_;  // ranks by state
  int listening_ = 0;            // ranks at least that far
  int loading_ = 0;
  int training_ = 0;
  std::vector<int64_t> incarnation_of_;    // that reported the rank last
  std::vector<int64_t> node_incarnation_;  // newest of the rank's node
  std::vector<bool> seen_;
  GangFailure failure_;
  bool failure_blames_peer_ = false;
  Complaint complaint_;
  int64_t best_step_ = 0;
  StepMark newest_step_;
  int64_t tokens_counted_ = 0;
  v1::CheckpointReport checkpoint_;
  std::deque<v1::StepReport> recent_steps_;  // of rank 0, without expert loads
};

// True for an error that a restart can't cure: its text begins with the name of a status code that
// says so, such as "INVALID_ARGUMENT: ".
bool IsIncurable(const std::string& message);

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_GANG_H_
