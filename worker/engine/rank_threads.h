// A whole job inside a test: every rank is a thread with real windows between them, and what the
// ranks hold afterwards is brought together by tensor name.
#ifndef FATHOM_WORKER_ENGINE_RANK_THREADS_H_
#define FATHOM_WORKER_ENGINE_RANK_THREADS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/plan.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom::engine {

struct JobResult {
  // One per step; that of rank 0.
  std::vector<v1::StepReport> steps;
  std::vector<v1::ValidationReport> validations;
  std::vector<v1::CheckpointReport> checkpoints;
  // Sum of the cross-entropy of every micro-batch of the last step, by global index.
  std::vector<double> micro_batch_losses;
  std::vector<double> micro_batch_mtp_losses;
  // Of the last step, summed over ranks, by tensor.
  std::map<std::string, std::vector<float>> gradients;
  std::string weights_sha256;
};

struct JobSetting {
  // Ranks per node, nodes numbered in rank order; ranks of different nodes meet over TCP.
  int ranks_per_node = 1 << 20;
  int64_t stop_after = 0;            // steps to run; 0: the whole job with Run()
  std::string checkpoint_directory;  // empty: none are saved
  std::string resume_manifest;
  int64_t resume_step = 0;  // what the plan says of that manifest
  uint64_t epoch = 1;
};

// A token file of text with some order in it, under the test's temporary folder.
std::string WriteTestTokens(int64_t tokens);

// The toy model with everything resolved: data at `token_file`.
v1::JobSpec ToySpec(const std::string& token_file);

// As plan::EvenPlan, with the setting's epoch and manifest.
v1::Plan PlanFor(const v1::JobSpec& spec, const JobSetting& setting);

// Errors: the first rank's that failed.
absl::StatusOr<JobResult> RunJob(const v1::JobSpec& spec, const JobSetting& setting);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_RANK_THREADS_H_
