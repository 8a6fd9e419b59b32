// An AgentCore with an executor that does what it says, and words for what it said and hears.
#ifndef FATHOM_WORKER_AGENT_AGENT_CORE_FIXTURE_H_
#define FATHOM_WORKER_AGENT_AGENT_CORE_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/agent/agent_core.h"

namespace fathom::agent_testing {

inline constexpr int kDevices = 2;

inline AgentOptions Options() {
  AgentOptions options;
  options.node.set_name("n0");
  options.node.set_address("127.0.0.1");
  for (int i = 0; i < kDevices; ++i) options.node.add_devices()->set_index(i);
  options.incarnation = 77;
  options.pid = 4;
  options.check_plan = [](const v1::Plan& plan) {
    return plan.spec().precision() == "none" ? absl::InvalidArgumentError("no such precision")
                                             : absl::OkStatus();
  };
  return options;
}

inline RankId Id(const std::string& job, uint64_t epoch, int rank) {
  return {JobId(job), epoch, rank};
}

// A job of `ranks` ranks on this node, rank i on device i.
inline v1::DesiredJob Job(const std::string& name, uint64_t epoch, int ranks = 1) {
  v1::DesiredJob job;
  job.mutable_plan()->set_job(name);
  job.mutable_plan()->set_epoch(epoch);
  for (int i = 0; i < ranks; ++i) {
    v1::RankAssignment* assignment = job.mutable_plan()->add_ranks();
    assignment->set_rank(i);
    assignment->set_node("n0");
    assignment->set_device(i);
    job.add_ranks(i);
  }
  return job;
}

inline v1::DesiredState Desire(std::vector<v1::DesiredJob> jobs, uint64_t version = 1) {
  v1::DesiredState desired;
  desired.set_version(version);
  for (v1::DesiredJob& job : jobs) *desired.add_jobs() = std::move(job);
  return desired;
}

inline v1::RankEvent Listening(const std::string& endpoint) {
  v1::RankEvent event;
  event.set_listening(endpoint);
  return event;
}
inline v1::RankEvent Training() {
  v1::RankEvent event;
  event.mutable_training();
  return event;
}
inline v1::RankEvent Loading() {
  v1::RankEvent event;
  event.mutable_loading();
  return event;
}
inline v1::RankEvent Step(int64_t step) {
  v1::RankEvent event;
  event.mutable_step()->set_step(step);
  return event;
}
inline v1::RankEvent Held(int64_t step, const std::string& why, const std::string& blamed) {
  v1::RankEvent event;
  event.mutable_held()->set_step(step);
  event.mutable_held()->set_message(why);
  event.mutable_held()->set_blamed_node(blamed);
  return event;
}
inline v1::RankEvent Finished(const std::string& hash) {
  v1::RankEvent event;
  event.mutable_finished()->set_weights_sha256(hash);
  return event;
}
inline v1::RankEvent Failed(const std::string& why) {
  v1::RankEvent event;
  event.set_failed(why);
  return event;
}

// What an action is about: "start tiny-1 epoch 1 rank 0" and such.
inline std::string Words(const AgentAction& action, const std::string& whose) {
  const v1::RankCommand& command = action.command;
  const std::string rank = action.rank ? ToString(*action.rank) : whose;
  switch (action.kind) {
    case AgentAction::Kind::kSpawn:
      if (!action.rank) return absl::StrCat("idle ", action.device);
      return absl::StrCat(command.start().at_boundary() ? "prepare " : "start ", rank);
    case AgentAction::Kind::kKill:
      return absl::StrCat("kill ", rank);
    case AgentAction::Kind::kInspect:
      return absl::StrCat("inspect ", rank);
    case AgentAction::Kind::kSend:
      break;
  }
  switch (command.command_case()) {
    case v1::RankCommand::kStart:
      if (command.start().rank() < 0) {
        return absl::StrCat("leave for ", command.start().plan().epoch(), ": ", whose);
      }
      return absl::StrCat(command.start().at_boundary() ? "at boundary " : "at once ", rank);
    case v1::RankCommand::kPeers:
      return absl::StrCat("peers of ", command.peers().epoch(), " to ", rank);
    case v1::RankCommand::kStop:
      return absl::StrCat("stop ", rank);
    case v1::RankCommand::kHold:
      return absl::StrCat("hold ", rank);
    case v1::RankCommand::kPark:
      return absl::StrCat("park ", rank);
    case v1::RankCommand::kDiagnose:
      return absl::StrCat("ask ", rank);
    default:
      return "what?";
  }
}

inline AgentMoment At(absl::Duration steady) {
  return {steady, 1'000'000 + absl::ToInt64Milliseconds(steady)};
}

class AgentCoreTest : public ::testing::Test {
 protected:
  explicit AgentCoreTest(AgentOptions options = Options()) : core_(std::move(options)) {}

  // Reconciles; every start that comes out succeeds.
  std::vector<std::string> Act(absl::Duration now = absl::ZeroDuration()) {
    std::vector<std::string> done;
    for (const AgentAction& action : core_.Reconcile(At(now))) {
      done.push_back(Words(action, whose_[action.process]));
      if (action.rank) {
        process_of_[*action.rank] = action.process;
        whose_[action.process] = ToString(*action.rank);
      }
      if (action.kind == AgentAction::Kind::kSpawn) core_.OnSpawned(action.process, ++last_pid_);
    }
    EXPECT_THAT(core_.Reconcile(At(now)), ::testing::IsEmpty()) << "not idempotent";
    return done;
  }

  // The rank's process says something of the rank's epoch.
  void Say(const RankId& id, v1::RankEvent event, absl::Duration now = absl::ZeroDuration()) {
    event.set_epoch(id.epoch);
    core_.OnEvent(process_of_.at(id), event, At(now));
  }
  v1::RankState Exit(const RankId& id, bool zero, const std::string& how = "did exit") {
    return core_.OnExited(process_of_.at(id), zero, how);
  }

  // A job of `ranks` ranks in epoch 1, all of them in training.
  void Train(int ranks = 1) {
    core_.OnDesired(Desire({Job("tiny-1", 1, ranks)}));
    Act();
    for (int rank = 0; rank < ranks; ++rank) {
      Say(Id("tiny-1", 1, rank), Listening("h:1"));
      Say(Id("tiny-1", 1, rank), Training());
    }
  }

  v1::RankStatus Status(const RankId& id) {
    const v1::NodeReport report = core_.Report();
    for (const v1::RankStatus& status : report.ranks()) {
      if (status.job() == id.job.value() && status.epoch() == id.epoch &&
          status.rank() == id.rank) {
        return status;
      }
    }
    ADD_FAILURE() << ToString(id) << " is not reported";
    return {};
  }

  AgentCore core_;
  std::map<RankId, ProcessId> process_of_;
  std::map<ProcessId, std::string> whose_;
  int64_t last_pid_ = 100;
};

}  // namespace fathom::agent_testing

#endif  // FATHOM_WORKER_AGENT_AGENT_CORE_FIXTURE_H_
