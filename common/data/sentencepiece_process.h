// A SentencePiece model, loaded in a fathom-sentencepiece process that lives as long as this
// object.
#ifndef FATHOM_COMMON_DATA_SENTENCEPIECE_PROCESS_H_
#define FATHOM_COMMON_DATA_SENTENCEPIECE_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/data/sentencepiece_frames.h"

namespace fathom::data {

class SentencePieceProcess {
 public:
  // `program`: the path of fathom-sentencepiece. NOT_FOUND: no such program. INVALID_ARGUMENT: the
  // file is no model.
  static absl::StatusOr<std::unique_ptr<SentencePieceProcess>> Start(const std::string& program,
                                                                     const std::string& model);

  SentencePieceProcess(const SentencePieceProcess&) = delete;
  SentencePieceProcess& operator=(const SentencePieceProcess&) = delete;
  ~SentencePieceProcess();  // ends the process

  int64_t vocab_size() const { return vocab_size_; }
  int32_t end_of_sentence() const { return end_of_sentence_; }  // -1: the model has none

  // INVALID_ARGUMENT: it can't be done. UNAVAILABLE: the process has died.
  absl::Status Encode(absl::string_view text, std::vector<int32_t>& ids) const;
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids) const;

 private:
  SentencePieceProcess() = default;
  absl::StatusOr<Frame> Ask(const Frame& request, FrameKind wanted) const;

  std::string model_;
  int socket_ = -1;
  pid_t pid_ = 0;
  int64_t vocab_size_ = 0;
  int32_t end_of_sentence_ = -1;
};

}  // namespace fathom::data

#endif  // FATHOM_COMMON_DATA_SENTENCEPIECE_PROCESS_H_
