// Text to token ids: bytes as they are, or a SentencePiece model.
//
// With bytes, ids 0-255 are the bytes and 256 ends a document. With SentencePiece the model's
// end-of-sentence piece does; a model without one can't be used.
#ifndef FATHOM_COMMON_DATA_TOKENIZER_H_
#define FATHOM_COMMON_DATA_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/data/token_file.h"

namespace fathom::data {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual TokenizerKind kind() const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual int32_t separator() const = 0;

  // The document's ids, without its separator. INVALID_ARGUMENT: it can't be encoded.
  virtual absl::Status Encode(absl::string_view document, std::vector<int32_t>& ids) const = 0;

  // The text of ids; separators become nothing.
  virtual absl::StatusOr<std::string> Decode(const std::vector<int32_t>& ids) const = 0;
};

// "bytes", or the path of a SentencePiece model file, for which the path of fathom-sentencepiece is
// needed. NOT_FOUND, INVALID_ARGUMENT: no such model or program, or not a model.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const std::string& name,
                                                         const std::string& sentencepiece_program);

}  // namespace fathom::data

#endif  // FATHOM_COMMON_DATA_TOKENIZER_H_
