#include "common/data/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/data/sentencepiece_process.h"

namespace fathom::data {
namespace {

constexpr int32_t kByteValues = 256;

class ByteTokenizer final : public Tokenizer {
 public:
  TokenizerKind kind() const override { return TokenizerKind::kBytes; }
  int64_t vocab_size() const override { return kByteValues + 1; }
  int32_t separator() const override { return kByteValues; }

  absl::Status Encode(absl::string_view document, std::vector<int32_t>& ids) const override {
    ids.resize(document.size());
    for (size_t i = 0; i < document.size(); ++i) ids[i] = static_cast<uint8_t>(document[i]);
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Decode(const std::vector<int32_t>& ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id < 0 || id > kByteValues) {
        return absl::InvalidArgumentError(absl::StrCat("id ", id, " is no byte"));
      }
      if (id < kByteValues) text.push_back(static_cast<char>(id));
    }
    return text;
  }
};

class SentencePieceTokenizer final : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path,
                                                         const std::string& program) {
    FATHOM_ASSIGN_OR_RETURN(auto model, SentencePieceProcess::Start(program, path));
    if (model->end_of_sentence() < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("SentencePiece model ", path,
                       " has no end-of-sentence piece to separate documents; train it with one"));
    }
    return std::make_unique<SentencePieceTokenizer>(std::move(model));
  }

  explicit SentencePieceTokenizer(std::unique_ptr<SentencePieceProcess> model)
      : model_(std::move(model)) {}

  TokenizerKind kind() const override { return TokenizerKind::kSentencePiece; }
  int64_t vocab_size() const override { return model_->vocab_size(); }
  int32_t separator() const override { return model_->end_of_sentence(); }

  absl::Status Encode(absl::string_view document, std::vector<int32_t>& ids) const override {
    return model_->Encode(document, ids);
  }

  absl::StatusOr<std::string> Decode(const std::vector<int32_t>& ids) const override {
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("id ", id, " is outside the vocabulary of ", vocab_size()));
      }
    }
    return model_->Decode(ids);
  }

 private:
  const std::unique_ptr<SentencePieceProcess> model_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const std::string& name,
                                                         const std::string& sentencepiece_program) {
  if (name == "bytes") return std::make_unique<ByteTokenizer>();
  return SentencePieceTokenizer::Load(name, sentencepiece_program);
}

}  // namespace fathom::data
