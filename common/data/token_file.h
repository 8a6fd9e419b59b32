// A token file: text as numbers, ready to train on, with a header that says what is in it.
//
// One header of 512 bytes, then the training tokens, then the held-out (validation) tokens, each a
// little-endian unsigned number of 1, 2 or 4 bytes. Documents are packed end to end, with the
// tokenizer's separator after each. A reader trusts nothing: the header is checked against the
// file's true size before anything is mapped, and every token it hands out against the vocabulary.
#ifndef FATHOM_COMMON_DATA_TOKEN_FILE_H_
#define FATHOM_COMMON_DATA_TOKEN_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/output_file.h"

namespace fathom::data {

enum class Split : uint8_t { kTraining, kValidation };

enum class TokenizerKind : uint32_t { kBytes = 1, kSentencePiece = 2 };

// "bytes" or "sentencepiece".
const char* TokenizerKindName(TokenizerKind kind);

struct TokenFileInfo {
  TokenizerKind tokenizer = TokenizerKind::kBytes;
  int64_t vocab_size = 0;  // ids are 0 .. vocab_size - 1
  int32_t separator = 0;   // id that ends a document
  int32_t bytes_per_token = 0;
  int64_t training_tokens = 0;
  int64_t validation_tokens = 0;
  int64_t training_documents = 0;
  int64_t validation_documents = 0;
  double unigram_entropy = 0;  // of the training part, nats per token
  double bigram_entropy = 0;   // of a training token given the one before it, nats per token
  uint64_t payload_hash = 0;   // XXH3, 64 bits, of all bytes after the header
  std::string source;          // what the text was; cut to 255 bytes

  int64_t tokens(Split split) const {
    return split == Split::kTraining ? training_tokens : validation_tokens;
  }
};

inline constexpr int64_t kTokenFileHeaderBytes = 512;
inline constexpr int64_t kVocabularyMax = int64_t{1} << 31;

// Fewest bytes that hold every id of a vocabulary: 1, 2 or 4.
int32_t BytesPerToken(int64_t vocab_size);

// A token file open for reading. Const methods may be called from many threads.
class TokenFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED; DATA_LOSS: not a token file, of another version, cut short, or
  // with a header that contradicts itself or the file's size. The message names the path and the
  // remedy.
  static absl::StatusOr<TokenFile> Open(const std::string& path);

  TokenFile(TokenFile&& other) noexcept;
  TokenFile& operator=(TokenFile&& other) noexcept;
  ~TokenFile();

  const TokenFileInfo& info() const { return info_; }
  const std::string& path() const { return path_; }
  int64_t tokens(Split split) const { return info_.tokens(split); }

  // Copies out.size() ids from `begin` on. OUT_OF_RANGE: past the part's end. DATA_LOSS: an id that
  // the header's vocabulary doesn't have.
  absl::Status CopyTokens(Split split, int64_t begin, absl::Span<int32_t> out) const;

  // Reads everything: the payload's hash and every id. DATA_LOSS names what is wrong.
  absl::Status Verify() const;

 private:
  TokenFile() = default;

  // Bytes from `offset` of the payload on.
  absl::Status ReadPayload(int64_t offset, absl::Span<uint8_t> out) const;

  std::string path_;
  TokenFileInfo info_;
  int descriptor_ = -1;
};

// Streams a token file to disk; it appears under its name only when Finish succeeds.
class TokenFileWriter {
 public:
  // As OutputFile::Create.
  static absl::StatusOr<TokenFileWriter> Create(const std::string& path, TokenizerKind tokenizer,
                                                int64_t vocab_size, int32_t separator);

  TokenFileWriter(TokenFileWriter&& other) noexcept;
  TokenFileWriter& operator=(TokenFileWriter&& other) noexcept;
  ~TokenFileWriter();

  // One document, its separator with it. All training documents come before the validation ones.
  // INVALID_ARGUMENT: an id outside the vocabulary. RESOURCE_EXHAUSTED: the disk is full.
  absl::Status AddDocument(Split split, absl::Span<const int32_t> tokens);

  // Writes the header and puts the file in its place. INVALID_ARGUMENT: no training tokens.
  absl::StatusOr<TokenFileInfo> Finish(double unigram_entropy, double bigram_entropy,
                                       const std::string& source);

 private:
  TokenFileWriter() = default;

  OutputFile file_;
  TokenFileInfo info_;
  std::string scratch_;         // one document encoded
  void* hash_state_ = nullptr;  // XXH3_state_t, owned
};

}  // namespace fathom::data

#endif  // FATHOM_COMMON_DATA_TOKEN_FILE_H_
