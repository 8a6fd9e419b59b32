#include "cli/job_verbs.h"

#include <ostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/job_description.h"
#include "cli/job_file.h"
#include "cli/job_progress.h"
#include "cli/render.h"
#include "cli/resources.h"
#include "common/base/host_port.h"
#include "common/base/status_util.h"
#include "common/checkpoint/manifest.h"
#include "common/data/batch_sampler.h"
#include "common/data/token_file.h"
#include "common/model/model_config.h"

namespace fathom::cli {
namespace {

absl::Duration Timeout(double seconds) {
  return seconds > 0 ? absl::Seconds(seconds) : absl::InfiniteDuration();
}

// Whether the coordinator, and so at least one of its nodes, may see this machine's files.
bool IsCoordinatorHere(const Session& session) {
  const auto address = ParseHostPort(session.CoordinatorAddress());
  return address.ok() && IsLoopback(address->host);
}

absl::Status PrepareJob(const SubmitOptions& options, const Session& session, v1::Job& job) {
  FATHOM_ASSIGN_OR_RETURN(job, LoadJobFile(options.file));
  FATHOM_RETURN_IF_ERROR(ApplyOverrides(options.overrides, job));
  if (!options.name.empty()) job.mutable_metadata()->set_name(options.name);
  if (job.metadata().user().empty()) {
    job.mutable_metadata()->set_user(session.environment().user);
  }
  v1::JobSpec& spec = *job.mutable_spec();
  if (!options.resume_from.empty()) {
    spec.mutable_checkpoint()->set_resume_from(options.resume_from);
  }
  if (spec.has_data()) {
    spec.mutable_data()->set_token_file(session.AbsolutePath(spec.data().token_file()));
  }
  if (spec.has_checkpoint()) {
    v1::CheckpointPolicy& policy = *spec.mutable_checkpoint();
    policy.set_directory(session.AbsolutePath(policy.directory()));
    policy.set_resume_from(session.AbsolutePath(policy.resume_from()));
  }
  return absl::OkStatus();
}

// The files a job names, where they are here.
absl::Status CheckFiles(const v1::JobSpec& spec, bool must_be_here) {
  if (!spec.data().token_file().empty()) {
    const absl::Status status = CheckTokenFile(spec);
    if (!status.ok() && (must_be_here || !absl::IsNotFound(status))) {
      return WithContext(status, "spec.data.token_file");
    }
  }
  if (!spec.checkpoint().resume_from().empty()) {
    const absl::Status status = checkpoint::ReadManifest(spec.checkpoint().resume_from()).status();
    if (!status.ok() && (must_be_here || !absl::IsNotFound(status))) {
      return WithContext(status, "spec.checkpoint.resume_from");
    }
  }
  return absl::OkStatus();
}

void PrintDryRun(const v1::SubmitJobResponse& response, Session& session) {
  Value value = Value::Object();
  value.Set("name", response.name()).Set("note", TextOrNull(response.note()));
  value.Set("job", ValueOf(response.job()));
  value.Set("plan", response.has_plan() ? PlanDescription(response.plan()) : Value());
  value.Set("expected", ExpectationValue(response.has_expected(), response.expected(),
                                         response.expected_note()));
  session.out() << RenderOne(response.name(), value, session.format());
}

void PrintJob(const v1::JobStatus& job, Session& session) {
  if (!session.for_people()) {
    session.out() << RenderOne(job.name(), JobValue(job), session.format());
    return;
  }
  if (!job.weights_sha256().empty()) {
    session.out() << "weights " << job.weights_sha256() << "\n";
  }
  if (!job.checkpoint().manifest().empty()) {
    session.out() << "checkpoint " << job.checkpoint().manifest() << "\n";
  }
}

absl::Status FollowAndPrint(Session& session, const std::string& name, double timeout_s) {
  FATHOM_ASSIGN_OR_RETURN(const v1::JobStatus job, FollowJob(session, name, Timeout(timeout_s)));
  PrintJob(job, session);
  return JobOutcome(job);
}

}  // namespace

absl::Status CheckTokenFile(const v1::JobSpec& spec) {
  FATHOM_ASSIGN_OR_RETURN(const auto file, data::TokenFile::Open(spec.data().token_file()));
  FATHOM_ASSIGN_OR_RETURN(const model::ModelConfig config, model::ResolveModel(spec.model()));
  if (file.info().vocab_size > config.vocab_size) {
    return absl::FailedPreconditionError(
        absl::StrCat("token file ", file.path(), " has a vocabulary of ", file.info().vocab_size,
                     " ids, the model's vocab_size is ", config.vocab_size,
                     "; prepare it with another tokenizer or raise spec.model.vocab_size"));
  }
  if (spec.data().sequence_length() <= 0) return absl::OkStatus();
  const data::WindowShape shape{spec.data().sequence_length(), config.num_nextn_predict_layers};
  for (const data::Split split : {data::Split::kTraining, data::Split::kValidation}) {
    if (file.tokens(split) > 0 && data::WindowCount(file.tokens(split), shape) > 0) continue;
    if (split == data::Split::kValidation && file.tokens(split) == 0) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("token file ", file.path(), ": its ",
                     split == data::Split::kTraining ? "training" : "validation", " part of ",
                     file.tokens(split), " tokens holds no sequence of ", shape.sequence_length,
                     "; prepare more text or lower spec.data.sequence_length"));
  }
  return absl::OkStatus();
}

absl::Status RunSubmit(const SubmitOptions& options, Session& session) {
  v1::SubmitJobRequest request;
  FATHOM_RETURN_IF_ERROR(PrepareJob(options, session, *request.mutable_job()));
  FATHOM_RETURN_IF_ERROR(CheckFiles(request.job().spec(), IsCoordinatorHere(session)));
  request.set_dry_run(options.dry_run);
  request.set_request_id(session.RequestId());
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(const v1::SubmitJobResponse response, client->SubmitJob(request));
  if (options.dry_run) {
    PrintDryRun(response, session);
    return absl::OkStatus();
  }
  if (session.for_people()) {
    session.out() << "job " << response.name() << " submitted (" << response.id() << ")\n"
                  << std::flush;
  }
  if (options.wait) return FollowAndPrint(session, response.id(), options.timeout_s);
  if (!session.for_people()) {
    Value value = Value::Object();
    value.Set("name", response.name()).Set("id", response.id());
    session.out() << RenderOne(response.name(), value, session.format());
  }
  return absl::OkStatus();
}

absl::Status RunCancel(const CancelOptions& options, Session& session) {
  v1::CancelJobRequest request;
  request.set_name(options.job);
  request.set_reason(options.reason);
  request.set_actor(session.environment().user);
  request.set_request_id(session.RequestId());
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(const v1::CancelJobResponse response, client->CancelJob(request));
  if (session.for_people()) {
    session.out() << "job " << options.job << " is " << StateText(response.state()) << "\n";
  } else {
    Value value = Value::Object();
    value.Set("name", options.job).Set("state", StateText(response.state()));
    session.out() << RenderOne(options.job, value, session.format());
  }
  return absl::OkStatus();
}

absl::Status RunWait(const WaitOptions& options, Session& session) {
  return FollowAndPrint(session, options.job, options.timeout_s);
}

}  // namespace fathom::cli
