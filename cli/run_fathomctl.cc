#include "cli/run_fathomctl.h"

#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cli/checkpoint_verbs.h"
#include "cli/command_tree.h"
#include "cli/completion.h"
#include "cli/data_verbs.h"
#include "cli/exit_code.h"
#include "cli/experts_traffic_verb.h"
#include "cli/experts_verbs.h"
#include "cli/get_verbs.h"
#include "cli/job_verbs.h"
#include "cli/local_verbs.h"
#include "cli/logs_verb.h"
#include "cli/model_verb.h"
#include "cli/node_verbs.h"
#include "cli/plan_verb.h"
#include "cli/preflight_verb.h"
#include "cli/profile_machine_verb.h"
#include "cli/profile_verbs.h"
#include "cli/queue_verbs.h"
#include "cli/render.h"
#include "cli/schedule_verb.h"
#include "cli/trace_verb.h"
#include "cli/whatif_verb.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

constexpr char kVersion[] = "0.1.0";

absl::Status RunVersion(Session& session) {
  Value value = Value::Object();
  value.Set("fathomctl", kVersion).Set("coordinator_address", session.CoordinatorAddress());
  // A coordinator that isn't there is no failure of this command.
  const auto client = session.Client();
  const auto coordinator = client.ok() ? (*client)->GetCoordinator()
                                       : absl::StatusOr<v1::CoordinatorStatus>(client.status());
  value.Set("coordinator", coordinator.ok() ? TextOrNull(coordinator->version()) : Value());
  session.out() << RenderOne(kVersion, value, session.format());
  return absl::OkStatus();
}

absl::Status RunCompletion(const std::string& shell, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const std::string script, CompletionScript(DescribeCommands(), shell));
  session.out() << script;
  return absl::OkStatus();
}

absl::Status RunNodeVerb(const Options& options, Session& session) {
  if (options.command == Command::kUndrain) return RunUndrain(options.node, session);
  if (options.command == Command::kCordon) return RunCordon(options.node, session);
  if (options.command == Command::kPreflight) return RunPreflight(options.node, session);
  return RunDrain(options.node, session);
}

// What needs files alone, and no coordinator.
absl::Status RunWithFiles(const Options& options, Session& session) {
  switch (options.command) {
    case Command::kCheckpointList:
      return RunCheckpointList(options.checkpoint, session);
    case Command::kCheckpointShow:
      return RunCheckpointShow(options.checkpoint, session);
    case Command::kCheckpointVerify:
      return RunCheckpointVerify(options.checkpoint, session);
    case Command::kDataPrepare:
      return RunDataPrepare(options.data, session);
    case Command::kDataInfo:
      return RunDataInfo(options.data, session);
    case Command::kDataVerify:
      return RunDataVerify(options.data, session);
    case Command::kExpertsPlan:
      return RunExpertsPlan(options.experts, session);
    case Command::kExpertsTraffic:
      return RunExpertsTraffic(options.experts_traffic, session);
    case Command::kModel:
      return RunModel(options.model, session);
    case Command::kPlan:
      return RunPlan(options.plan, session);
    case Command::kWhatIfKill:
      return RunWhatIfKill(options.whatif, session);
    case Command::kWhatIfDrain:
      return RunWhatIfDrain(options.whatif, session);
    case Command::kWhatIfCluster:
      return RunWhatIfCluster(options.whatif, session);
    case Command::kSchedule:
      return RunSchedule(options.schedule, session);
    case Command::kProfileMachine:
      return RunProfileMachine(options.profile_machine, session);
    default:
      return absl::InternalError("no command");
  }
}

absl::Status Run(const Options& options, Session& session) {
  switch (options.command) {
    case Command::kLocalUp:
      return RunLocalUp(options.local_up, session);
    case Command::kLocalDown:
      return RunLocalDown(options.local_down, session);
    case Command::kLocalStatus:
      return RunLocalStatus(session);
    case Command::kSubmit:
      return RunSubmit(options.submit, session);
    case Command::kGetJobs:
      return RunGetJobs(options.get, session);
    case Command::kGetNodes:
      return RunGetNodes(options.get, session);
    case Command::kGetEvents:
      return RunGetEvents(options.get, session);
    case Command::kGetQueue:
      return RunGetQueue(options.get, session);
    case Command::kGetProfiles:
      return RunGetProfiles(options.get, session);
    case Command::kDescribeJob:
      return RunDescribeJob(options.describe, session);
    case Command::kDescribeNode:
      return RunDescribeNode(options.describe, session);
    case Command::kLogs:
      return RunLogs(options.logs, session);
    case Command::kTrace:
      return RunTrace(options.trace, session);
    case Command::kCancel:
      return RunCancel(options.cancel, session);
    case Command::kSuspend:
      return RunSuspend(options.queue, session);
    case Command::kResume:
      return RunResume(options.queue, session);
    case Command::kExplain:
      return RunExplain(options.queue, session);
    case Command::kDrain:
    case Command::kReplace:
    case Command::kUndrain:
    case Command::kCordon:
    case Command::kPreflight:
      return RunNodeVerb(options, session);
    case Command::kWait:
      return RunWait(options.wait, session);
    case Command::kTop:
      return RunTop(options.top, session);
    case Command::kVersion:
      return RunVersion(session);
    case Command::kCompletion:
      return RunCompletion(options.shell, session);
    case Command::kHelpExitCodes:
      session.out() << ExitCodeHelp();
      return absl::OkStatus();
    default:
      return RunWithFiles(options, session);
  }
}

// One line, whatever the message holds.
void PrintFailure(const absl::Status& status, std::ostream& err) {
  err << "fathomctl: "
      << absl::StrReplaceAll(std::string(status.message()), {{"\n", " "}, {"\r", " "}})
      << std::endl;
}

}  // namespace

int RunFathomctl(const std::vector<std::string>& arguments, const Environment& environment) {
  const auto parsed = ParseCommandLine(arguments);
  if (!parsed.ok()) {
    PrintFailure(parsed.status(), *environment.err);
    return kExitUsage;
  }
  absl::Status status;
  if (!parsed->help.empty()) {
    *environment.out << parsed->help;
  } else {
    Session session(environment, parsed->options.global);
    status = Run(parsed->options, session);
  }
  environment.out->flush();
  if (status.ok() && environment.out->fail()) {
    status = absl::UnavailableError(
        "cannot write the output; is the disk full, or the reader of a pipe gone?");
  }
  if (!status.ok()) PrintFailure(status, *environment.err);
  return ExitCodeOf(status);
}

}  // namespace fathom::cli
