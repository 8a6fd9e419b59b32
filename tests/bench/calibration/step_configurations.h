// The jobs whose predicted steps are held against measured ones. None of their models or layouts is
// among those that the profile is made from.
#ifndef FATHOM_TESTS_BENCH_CALIBRATION_STEP_CONFIGURATIONS_H_
#define FATHOM_TESTS_BENCH_CALIBRATION_STEP_CONFIGURATIONS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::bench {

struct StepConfiguration {
  const char* name;
  const char* model;  // a preset, "mid" or "wide"
  const char* precision;
  int pipeline;
  int expert;
  int replicas;
  int micro_batches;
  int sequences;        // of a micro-batch
  int sequence_length;  // 0: the preset's
  int ranks_per_node;   // ranks of different nodes meet over TCP
};

const std::vector<StepConfiguration>& StepConfigurations();

// Resolved, with data at `token_file`.
absl::StatusOr<v1::JobSpec> SpecOf(const StepConfiguration& configuration,
                                   const std::string& token_file);

}  // namespace fathom::bench

#endif  // FATHOM_TESTS_BENCH_CALIBRATION_STEP_CONFIGURATIONS_H_
