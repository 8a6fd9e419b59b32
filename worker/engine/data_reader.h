// The samples of a step for one lane, read from a token file: a function of (seed, step), so that a
// step redone reads the same tokens.
#ifndef FATHOM_WORKER_ENGINE_DATA_READER_H_
#define FATHOM_WORKER_ENGINE_DATA_READER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/data/batch_sampler.h"
#include "common/data/token_file.h"
#include "common/model/model_config.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::engine {

// Micro-batches of one lane in one step (or one validation), in lane order.
struct LaneBatch {
  std::vector<int32_t> tokens;     // [micro_batches, sequences, sample_length]
  int64_t micro_batch_tokens = 0;  // sequences * sample_length

  const int32_t* micro_batch(int64_t index) const {
    return tokens.data() + index * micro_batch_tokens;
  }
};

class DataReader {
 public:
  // Opens the job's token file and checks it against the model. `spec` is resolved.
  // INVALID_ARGUMENT: the file's vocabulary is larger than the model's, or a part holds not one
  // window; else as TokenFile::Open.
  static absl::StatusOr<DataReader> Open(const v1::JobSpec& spec, const model::ModelConfig& model);

  // Training samples of `lane` in step `step` (from 0).
  absl::Status ReadTraining(int64_t step, int64_t lane, LaneBatch* batch) const;

  // Whether there is a held-out part to validate on.
  bool has_validation() const { return validation_windows_ > 0; }
  // The first validation windows, in order over lanes and micro-batches, beginning again from the
  // first when there are too few.
  absl::Status ReadValidation(int64_t lane, int64_t micro_batches, LaneBatch* batch) const;

 private:
  explicit DataReader(data::TokenFile file) : file_(std::move(file)) {}

  data::TokenFile file_;
  data::WindowShape shape_;
  uint64_t seed_ = 0;
  int64_t lanes_ = 0;
  int64_t micro_batches_ = 0;
  int64_t sequences_ = 0;
  int64_t training_windows_ = 0;
  int64_t validation_windows_ = 0;
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_DATA_READER_H_
