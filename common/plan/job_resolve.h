// From the job a user wrote to one with nothing left open: every default of job.proto filled in,
// and everything checked that can be known without a cluster.
//
// Errors are INVALID_ARGUMENT, name the field as the file does, its value and what would do:
//
//   spec.parallelism.expert: 3 does not divide the model's 8 routed experts; choose one of 1, 2, 4,
//   8
//
// Resolving a resolved job changes nothing.
#ifndef FATHOM_COMMON_PLAN_JOB_RESOLVE_H_
#define FATHOM_COMMON_PLAN_JOB_RESOLVE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::plan {

// What defaults are taken from. What is empty fills nothing in: the field stays as it is.
struct ResolveContext {
  std::string default_name;  // of the job
  std::string default_user;
  std::string working_folder;     // relative paths start here; without it they are refused
  std::string checkpoint_folder;  // checkpoints of job "x" go to <checkpoint_folder>/x
};

absl::StatusOr<v1::Job> ResolveJob(const v1::Job& job, const ResolveContext& context = {});

// A job's name: lower-case letters, digits and '-', at most 63, starting with a letter.
absl::Status CheckJobName(const std::string& name);

// Whether a spec is resolved and sound, as a plan's must be; a checkpoint folder may be missing.
absl::Status CheckResolvedSpec(const v1::JobSpec& spec);

}  // namespace fathom::plan

#endif  // FATHOM_COMMON_PLAN_JOB_RESOLVE_H_
