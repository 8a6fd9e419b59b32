#include "worker/engine/data_reader.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"

namespace fathom::engine {

absl::StatusOr<DataReader> DataReader::Open(const v1::JobSpec& spec,
                                            const model::ModelConfig& model) {
  FATHOM_ASSIGN_OR_RETURN(data::TokenFile file, data::TokenFile::Open(spec.data().token_file()));
  const data::TokenFileInfo info = file.info();
  if (info.vocab_size > model.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        spec.data().token_file(), ": its tokens need a vocabulary of ", info.vocab_size,
        ", the model has vocab_size ", model.vocab_size,
        "; raise spec.model.vocab_size or prepare the data with a smaller vocabulary"));
  }
  DataReader reader(std::move(file));
  reader.shape_ = {spec.data().sequence_length(), model.num_nextn_predict_layers};
  reader.seed_ = spec.training().seed();
  reader.lanes_ = int64_t{spec.parallelism().expert()} * spec.parallelism().replicas();
  reader.micro_batches_ = spec.training().micro_batches();
  reader.sequences_ = spec.training().micro_batch_sequences();
  reader.training_windows_ = data::WindowCount(info.training_tokens, reader.shape_);
  reader.validation_windows_ = data::WindowCount(info.validation_tokens, reader.shape_);
  if (reader.training_windows_ == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(spec.data().token_file(), ": its ", info.training_tokens,
                     " training tokens hold no sequence of ", reader.shape_.tokens(),
                     "; use more data or a smaller spec.data.sequence_length"));
  }
  return reader;
}

absl::Status DataReader::ReadTraining(int64_t step, int64_t lane, LaneBatch* batch) const {
  batch->micro_batch_tokens = sequences_ * shape_.tokens();
  batch->tokens.resize(micro_batches_ * batch->micro_batch_tokens);
  const int64_t per_lane = micro_batches_ * sequences_;
  for (int64_t i = 0; i < per_lane; ++i) {
    const int64_t window = data::TrainingWindow(seed_, step, per_lane * lanes_, lane * per_lane + i,
                                                training_windows_);
    FATHOM_RETURN_IF_ERROR(data::FillSequence(
        file_, data::Split::kTraining, window, shape_,
        absl::MakeSpan(batch->tokens).subspan(i * shape_.tokens(), shape_.tokens())));
  }
  return absl::OkStatus();
}

absl::Status DataReader::ReadValidation(int64_t lane, int64_t micro_batches,
                                        LaneBatch* batch) const {
  batch->micro_batch_tokens = sequences_ * shape_.tokens();
  batch->tokens.resize(micro_batches * batch->micro_batch_tokens);
  const int64_t per_lane = micro_batches * sequences_;
  for (int64_t i = 0; i < per_lane; ++i) {
    FATHOM_RETURN_IF_ERROR(data::FillSequence(
        file_, data::Split::kValidation, (lane * per_lane + i) % validation_windows_, shape_,
        absl::MakeSpan(batch->tokens).subspan(i * shape_.tokens(), shape_.tokens())));
  }
  return absl::OkStatus();
}

}  // namespace fathom::engine
