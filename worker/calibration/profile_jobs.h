// The jobs that the profile trains: small models of sizes between which other jobs lie.
#ifndef FATHOM_WORKER_CALIBRATION_PROFILE_JOBS_H_
#define FATHOM_WORKER_CALIBRATION_PROFILE_JOBS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::calibration {

struct ProfileShape {
  const char* name;
  int64_t hidden, layers, ffn, expert_ffn, heads, q_rank, kv_rank, nope, rope, v, experts, top_k;
  int64_t vocabulary, sequence_length, sequences, micro_batches;
  // In a round, and as many before that aren't measured: small models need many steps until caches
  // and clocks are as a long training leaves them.
  int64_t steps;
};
absl::Span<const ProfileShape> ProfileShapes();

// In which several ranks train them together as well: layouts that fill the cores, and that have
// two ranks for each core.
std::vector<v1::Parallelism> GroupLayouts(int cores);

// Resolved.
absl::StatusOr<v1::JobSpec> ProfileSpec(const ProfileShape& shape, const std::string& precision,
                                        const v1::Parallelism& layout,
                                        const std::string& token_file);

}  // namespace fathom::calibration

#endif  // FATHOM_WORKER_CALIBRATION_PROFILE_JOBS_H_
